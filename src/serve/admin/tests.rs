use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use axum::{
    body::{Body, to_bytes},
    http::{Method, Request, Response, StatusCode},
};

use super::{Admin, Health, Phase, Stores, watch};
use crate::{
    artifact::Descriptor,
    metrics::Metrics,
    serve::{
        auth::{ANONYMOUS, Action, Authority, Config, Exposure, Rule},
        gateway::Gateway,
        observe::Observer,
        pushes_blocked::PushesBlocked,
    },
    store::{
        self, BlobStore as _, Body as Bytes, ErrorKind,
        testing::{Faults, Faulty, Memory},
        wrap::{
            Guard, Guarded,
            counters::{Counters, Tier},
        },
    },
};

struct Shown {
    admin: Admin,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
}

fn door() -> Shown {
    door_that(false)
}

fn door_that(is_alone: bool) -> Shown {
    let metrics = Arc::new(Metrics::new());
    let health = Health::new(metrics.phase.clone());
    Shown {
        admin: Admin::new(health.clone(), metrics.clone(), Vec::new(), is_alone),
        health,
        metrics,
    }
}

impl Shown {
    async fn get(&self, path: &str) -> (StatusCode, String) {
        let response = self.admin.show(&Method::GET, path).unwrap();
        let status = response.status();
        let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    async fn status(&self, path: &str) -> u16 {
        self.get(path).await.0.as_u16()
    }
}

#[tokio::test]
async fn probes_follow_the_daemons_life() {
    let door = door();
    let probes = async || {
        let mut seen = Vec::new();
        for path in ["/livez", "/startupz", "/readyz"] {
            seen.push(door.status(path).await);
        }
        seen
    };
    assert_eq!(probes().await, [200, 503, 503]);
    door.health.set(Phase::Ready);
    assert_eq!(probes().await, [200, 200, 200]);
    door.health.set(Phase::Draining);
    assert_eq!(probes().await, [200, 200, 503]);
    assert_eq!(door.get("/readyz").await.1, "draining\n");
    assert_eq!(door.metrics.phase.ready.get(), 0);
    assert_eq!(door.metrics.phase.draining.get(), 1);
}

#[tokio::test]
async fn a_store_that_is_away_is_said_but_requests_are_still_taken() {
    let door = door();
    let (_near, far) = (door.health.store("local"), door.health.store("remote"));
    door.health.set(Phase::Ready);
    assert_eq!(door.get("/readyz").await.1, "ok\n");
    far.away(ErrorKind::Unavailable, "connection refused");
    let (status, said) = door.get("/readyz").await;
    assert_eq!(status, StatusCode::OK);
    assert!(said.starts_with("degraded"), "{said}");
    assert!(
        said.ends_with("\nthe remote store is not ready\n"),
        "{said}"
    );
    assert_eq!(door.metrics.phase.degraded.get(), 1);
    assert!(door.get("/").await.1.contains("cannot be reached"));
    far.reachable();
    assert_eq!(door.get("/readyz").await.1, "ok\n");
    assert_eq!(door.metrics.phase.degraded.get(), 0);
}

#[tokio::test]
async fn refused_pushes_are_said_until_one_is_taken() {
    let door = door();
    door.health.set(Phase::Ready);
    for (why, words) in [
        (
            PushesBlocked::QueueFull,
            "the local queue for the remote store is full",
        ),
        (PushesBlocked::Disk, "the disk is not writable"),
        (PushesBlocked::NoRoom, "the store is full"),
    ] {
        door.health.pushed(Some(why));
        let (status, said) = door.get("/readyz").await;
        assert_eq!(status, StatusCode::OK);
        assert!(said.contains("\npushes are refused: "), "{said}");
        assert!(said.contains(words), "{said}");
    }
    assert!(
        door.get("/metrics")
            .await
            .1
            .contains("cachectld_degraded 1")
    );
    door.health.pushed(None);
    assert_eq!(door.get("/readyz").await.1, "ok\n");
    assert!(
        door.get("/metrics")
            .await
            .1
            .contains("cachectld_degraded 0")
    );
}

#[tokio::test]
async fn what_was_set_aside_is_said_and_is_no_outage() {
    let door = door();
    door.health.set(Phase::Ready);
    let count = Arc::new(AtomicU64::new(0));
    let counted = count.clone();
    door.health.show_set_aside(move || counted.load(Relaxed));
    assert_eq!(door.get("/readyz").await.1, "ok\n");
    count.store(8, Relaxed);
    let (status, said) = door.get("/readyz").await;
    assert_eq!(status, StatusCode::OK);
    assert!(said.starts_with("ok\n8 acknowledged entries"), "{said}");
    let numbers = door.get("/metrics").await.1;
    assert!(numbers.contains("cachectld_degraded 0"));
}

#[tokio::test]
async fn the_page_shows_the_bytes_of_a_folder_in_front_only_where_there_is_one() {
    let door = door();
    let page = async || door.get("/").await.1;
    assert!(!page().await.contains("local cache directory"));
    door.metrics.disk.used.set(300_000);
    assert!(page().await.contains("local cache directory<td>300000"));
}

#[tokio::test(start_paused = true)]
async fn stores_are_asked_in_the_background() {
    let door = door();
    let health = door.health.store("remote");
    door.health.set(Phase::Ready);
    let faults = Faults {
        error: 1.0,
        ..Faults::NONE
    };
    let store = Arc::new(Faulty::new(Arc::new(Memory::new()), faults, 1));
    let pause = std::time::Duration::from_secs(5);
    let asking = crate::task::spawn("health", watch(store, None, health, pause));
    tokio::time::sleep(pause / 2).await;
    assert!(door.get("/readyz").await.1.starts_with("degraded"));
    drop(asking);
}

#[tokio::test]
async fn a_folder_that_cannot_be_written_to_is_said_though_the_store_answers() {
    let door = door();
    let health = door.health.store("local");
    door.health.set(Phase::Ready);
    let file = tempfile::NamedTempFile::new().unwrap();
    let pause = std::time::Duration::from_hours(1);
    for (folder, want) in [
        (std::env::temp_dir(), "ok\n"),
        (file.path().join("store"), "degraded"),
    ] {
        let store = Arc::new(Memory::new());
        let asking = watch(store, Some(folder), health.clone(), pause);
        let _asking = crate::task::spawn("health", asking);
        let said = async || door.get("/readyz").await.1;
        while !said().await.starts_with(want) {
            tokio::task::yield_now().await;
        }
    }
}

#[test]
fn what_fails_of_the_disk_is_told_from_what_a_store_answers() {
    use std::io::ErrorKind as Io;
    let file = |kind: Io| {
        let e = crate::fs::Error::new("write", "x", std::io::Error::from(kind));
        store::Error::io("put", e)
    };
    for (error, want) in [
        (file(Io::ReadOnlyFilesystem), Some(PushesBlocked::Disk)),
        (file(Io::PermissionDenied), Some(PushesBlocked::Disk)),
        (file(Io::Other), Some(PushesBlocked::Disk)),
        (file(Io::StorageFull), Some(PushesBlocked::NoRoom)),
        (store::Error::full("put", ""), Some(PushesBlocked::NoRoom)),
        (
            store::Error::full(store::queue::QUEUE_FULL, ""),
            Some(PushesBlocked::QueueFull),
        ),
        (store::Error::full(store::queue::OVER_SHARE, ""), None),
        (store::Error::denied("put", ""), None),
        (store::Error::unavailable("put", ""), None),
    ] {
        assert_eq!(PushesBlocked::by(&error), want, "{error}");
    }
}

#[tokio::test]
async fn what_stores_count_is_shown_by_tier() {
    let door = door();
    let far = Arc::new(Counters::of(Tier::Remote));
    let near = Arc::new(Counters::of(Tier::Local));
    door.metrics
        .add(Box::new(Stores::new(vec![far, near.clone()])));
    let guard = Guard {
        counters: near,
        ..Guard::default()
    };
    let store = Guarded::new(Arc::new(Memory::new()), guard);
    let bytes = bytes::Bytes::from_static(b"bytes");
    let desc = Descriptor::of("x/y", &bytes);
    let body = Bytes::Bytes(bytes);
    assert_eq!(store.put(&desc, &body).await.unwrap(), store::Put::Stored);
    assert_eq!(store.put(&desc, &body).await.unwrap(), store::Put::Existed);
    store.put(&desc, &Bytes::Bytes("other".into())).await.ok();
    let text = door.get("/metrics").await.1;
    for line in [
        r#"cachectld_store_operations_total{tier="local",operation="put",outcome="ok"} 2"#,
        r#"cachectld_store_operations_total{tier="remote",operation="put",outcome="ok"} 0"#,
        r#"cachectld_store_puts_total{tier="local",result="existed"} 1"#,
        r#"cachectld_store_existed_bytes_total{tier="local"} 5"#,
        r#"cachectld_store_bytes_total{tier="local",direction="written"} 5"#,
    ] {
        assert!(text.contains(line), "no {line} in\n{text}");
    }
    let types = "# TYPE cachectld_store_puts_total counter";
    assert_eq!(text.matches(types).count(), 1);
}

#[tokio::test]
async fn the_page_has_no_script_and_shows_no_raw_text() {
    let door = door();
    door.health.store("<script>");
    let (status, page) = door.get("/").await;
    assert_eq!(status, StatusCode::OK);
    assert!(page.contains("&lt;script&gt;") && !page.contains("<script"));
}

#[tokio::test]
async fn gauges_that_nobody_counts_are_brought_up_to_date_at_each_look() {
    let mut door = door();
    let refresh = |metrics: &Metrics| {
        metrics.uploads.open.inc();
    };
    door.admin.refresh.push(Box::new(refresh));
    for seen in ["cachectld_uploads_open 1", "cachectld_uploads_open 2"] {
        assert!(door.get("/metrics").await.1.contains(seen));
    }
}

/// The answer to an anonymous caller, on a network without authenticated callers.
async fn asked(door: Admin, method: Method, path: &str) -> Response<Body> {
    let grant = Rule {
        principals: vec![ANONYMOUS.to_owned()],
        repositories: vec!["a/**".to_owned()],
        actions: vec![Action::Pull],
    };
    let config = Config {
        grants: vec![grant],
        insecure_no_auth: true,
        ..Config::default()
    };
    let state = tempfile::tempdir().unwrap();
    let authority = Authority::open(config, state.path(), Exposure::Network).await;
    let observer = Observer::new(Metrics::new().http);
    let gateway =
        Gateway::new(Arc::new(authority.unwrap()), Arc::default(), observer).door(Arc::new(door));
    let request = Request::builder().method(method).uri(path);
    gateway.handle(request.body(Body::empty()).unwrap()).await
}

#[tokio::test]
async fn only_reading_is_possible() {
    for (method, path, want) in [
        (Method::POST, "/readyz", 405),
        (Method::DELETE, "/metrics", 405),
        (Method::HEAD, "/metrics", 200),
        (Method::GET, "/v2/", 404),
    ] {
        let response = asked(door_that(true).admin, method, path).await;
        assert_eq!(response.status().as_u16(), want);
    }
}

#[tokio::test]
async fn beside_other_doors_numbers_are_for_whoever_reads_everything_and_probes_for_everybody() {
    for (path, want) in [
        ("/livez", 200),
        ("/metrics", 403),
        ("/", 403),
        // A path of another door.
        ("/metrics/x", 404),
    ] {
        let response = asked(door_that(false).admin, Method::GET, path).await;
        assert_eq!(response.status().as_u16(), want, "{path}");
    }
}
