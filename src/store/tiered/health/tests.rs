use super::*;
use crate::store::records::Listed;

/// A remote that answers, and has nothing.
struct Empty;

#[async_trait::async_trait]
impl Records for Empty {
    async fn read_record(&self, _: &str, _: u64) -> Result<Option<bytes::Bytes>> {
        Ok(None)
    }

    async fn write_record(&self, _: &str, _: bytes::Bytes) -> Result<()> {
        Ok(())
    }

    async fn remove_record(&self, _: &str) -> Result<()> {
        Ok(())
    }

    async fn list_records(&self, _: &str) -> Result<Vec<Listed>> {
        Ok(Vec::new())
    }

    async fn repositories(&self) -> Result<Vec<Repo>> {
        Ok(Vec::new())
    }
}

fn unreachable() -> Error {
    Error::new(ErrorKind::Unavailable, "get", "connection refused").unheard()
}

async fn fail(health: &Health) {
    let failed = health.ask("get", async { Err::<(), _>(unreachable()) });
    failed.await.unwrap_err();
}

#[tokio::test]
async fn an_unreachable_remote_is_known_as_such_and_a_refusal_is_an_answer() {
    let health = Health::new("s3:x".to_owned());
    let denied = async { Err::<(), _>(Error::new(ErrorKind::Denied, "get", "no")) };
    health.ask("get", denied).await.unwrap_err();
    assert!(health.is_up());
    fail(&health).await;
    let now = health.now();
    assert!(
        !now.up && now.outages == 1 && now.why == "connection refused",
        "{now:?}"
    );
}

#[tokio::test]
async fn nothing_is_asked_while_it_is_unreachable() {
    let health = Health::new("s3:x".to_owned());
    fail(&health).await;
    let asked: Result<()> = health.ask("get", async { panic!("it was asked") }).await;
    let e = asked.unwrap_err();
    assert_eq!((e.kind, e.store.as_str()), (ErrorKind::Unavailable, "s3:x"));
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_is_answered_brings_it_back() {
    let health = Health::new(String::new());
    fail(&health).await;
    let probe = health.probe(Arc::new(Empty));
    tokio::select! {
        () = health.up() => {}
        () = probe => {}
    }
    assert!(health.is_up());
}

#[tokio::test(start_paused = true)]
async fn one_request_that_fails_is_no_outage_where_a_probe_is_answered() {
    let health = Health::new(String::new());
    let broken = || Error::new(ErrorKind::Unavailable, "publish", "answered 500");
    let asked = health.ask("publish", async { Err::<(), _>(broken()) });
    let e = tokio::select! {
        asked = asked => asked.unwrap_err(),
        () = health.probe(Arc::new(Empty)) => unreachable!(),
    };
    assert!(e.alone && !e.is_temporary() && health.is_up(), "{e}");
}

#[tokio::test]
async fn an_answer_from_before_the_last_outage_says_nothing_of_now() {
    let health = Health::new(String::new());
    let (send, receive) = tokio::sync::oneshot::channel::<()>();
    let old = health.send("get", async {
        receive.await.unwrap();
        Err::<(), _>(unreachable())
    });
    let rest = async {
        fail(&health).await;
        health.answered();
        send.send(()).unwrap();
    };
    let (old, ()) = tokio::join!(old, rest);
    old.unwrap_err();
    assert!(health.is_up());
}
