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
    Error::unavailable("get", "connection refused").unheard()
}

async fn fail(health: &Health) {
    let failed = health.ask("get", async { Err::<(), _>(unreachable()) });
    failed.await.unwrap_err();
}

/// A remote that answers every record in one way.
struct Answers(fn() -> Result<Option<bytes::Bytes>>);

#[async_trait::async_trait]
impl Records for Answers {
    async fn read_record(&self, _: &str, _: u64) -> Result<Option<bytes::Bytes>> {
        (self.0)()
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

#[tokio::test(start_paused = true)]
async fn a_refusal_of_one_request_is_an_answer_and_one_of_the_probe_is_an_outage() {
    for kind in [
        ErrorKind::Denied,
        ErrorKind::Unauthenticated,
        ErrorKind::NoSuchStore,
    ] {
        let refused = || async move { Err::<(), _>(Error::new(kind, "get", "no")) };
        let health = Health::new("s3:x".to_owned());
        let e = tokio::select! {
            asked = health.ask("get", refused()) => asked.unwrap_err(),
            () = health.probe(Arc::new(Empty)) => unreachable!(),
        };
        assert!(e.kind == kind && health.is_up(), "{e}");
    }
    let denied = || Err(Error::denied("read record", "answered 403"));
    let health = Health::new("s3:x".to_owned());
    let asked = async { Err::<(), _>(Error::denied("get", "no")) };
    let e = tokio::select! {
        asked = health.ask("get", asked) => asked.unwrap_err(),
        () = health.probe(Arc::new(Answers(denied))) => unreachable!(),
    };
    // So that names come from the front, and what is written waits.
    assert!(e.is_temporary(), "{e}");
    let now = health.now();
    assert_eq!((now.up, now.kind), (false, Some(ErrorKind::Denied)));
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_finds_what_nobody_wrote_was_not_answered_by_the_store() {
    let page = || Ok(Some(bytes::Bytes::from_static(b"{}")));
    let damaged = || Err(Error::corrupt("read record", "no record"));
    for answer in [page as fn() -> _, damaged as fn() -> _] {
        let health = Health::new("s3:x".to_owned());
        tokio::select! {
            () = health.down() => {}
            () = health.probe(Arc::new(Answers(answer))) => unreachable!(),
        }
        assert!(!health.is_up());
    }
}

#[tokio::test]
async fn an_unreachable_remote_is_known_as_such() {
    let health = Health::new("s3:x".to_owned());
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
    let broken = || Error::unavailable("publish", "answered 500");
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

/// A remote that takes its time, and then refuses.
struct Late(ErrorKind);

#[async_trait::async_trait]
impl Records for Late {
    async fn read_record(&self, _: &str, _: u64) -> Result<Option<bytes::Bytes>> {
        tokio::time::sleep(Duration::from_secs(1)).await;
        Err(Error::new(self.0, "read record", "a page"))
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

#[tokio::test(start_paused = true)]
async fn only_a_probe_without_an_answer_is_excused_by_what_others_were_answered() {
    for (kind, is_up) in [
        (ErrorKind::Timeout, true),
        (ErrorKind::Unavailable, false),
        (ErrorKind::Denied, false),
    ] {
        let health = Health::new("s3:x".to_owned());
        let others = async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            health.ask("get", async { Ok(()) }).await.unwrap();
            tokio::time::sleep(Duration::from_secs(1)).await;
        };
        tokio::select! {
            () = others => {}
            () = health.probe(Arc::new(Late(kind))) => unreachable!(),
        }
        assert_eq!(health.is_up(), is_up, "{kind:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_sent_before_the_first_probe_was_answered() {
    let health = Health::new(String::new());
    health.ask("get", async { Ok(()) }).await.unwrap();
    let sends = timeout(Duration::from_hours(1), health.up());
    sends.await.unwrap_err();
    let begun = Instant::now();
    tokio::select! {
        () = health.up() => {}
        () = health.probe(Arc::new(Empty)) => unreachable!(),
    }
    assert_eq!(begun.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn bytes_that_make_no_sense_are_damage_only_where_a_probe_is_answered() {
    let page = || Err(Error::unavailable("read record", "a page"));
    let none = || Ok(None);
    for (answer, is_up) in [(none as fn() -> _, true), (page as fn() -> _, false)] {
        let health = Health::new("s3:x".to_owned());
        let damaged = async { Err::<(), _>(Error::corrupt("get", "no record")) };
        let e = tokio::select! {
            asked = health.ask("get", damaged) => asked.unwrap_err(),
            () = health.probe(Arc::new(Answers(answer))) => unreachable!(),
        };
        assert_eq!(
            (e.kind == ErrorKind::Corrupt, health.is_up()),
            (is_up, is_up),
            "{e}"
        );
        assert_eq!(e.is_temporary(), !is_up, "{e}");
    }
}
