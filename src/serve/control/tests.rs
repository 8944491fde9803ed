//! The door as a client sees it: generated stubs on one side, the handler on the other, no socket between.

use std::{
    pin::Pin,
    sync::atomic::{AtomicBool, Ordering},
    task::{Context, Poll},
};

use async_trait::async_trait;
use tokio_stream::StreamExt as _;
use tonic::{Code, codegen::Service, metadata::MetadataValue};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

use super::*;
use crate::{
    artifact::{Manifest, Tag},
    metrics::Metrics,
    proto::v1::{self, control_client::ControlClient},
    serve::{
        auth::{self, ANONYMOUS, Action, Authority, Exposure, Peer, Rule},
        gateway::Gateway,
        observe::Observer,
    },
    store::{
        Expect, Meet, StoreUrl,
        testing::Memory,
        tiered::{BacklogStatus, Reachable},
    },
};

/// Passes the requests of a stub to a door.
#[derive(Clone)]
struct Direct(Arc<Gateway>, Peer);

type Reply = std::result::Result<Response<Body>, std::convert::Infallible>;

impl Service<Request<tonic::body::Body>> for Direct {
    type Response = Response<Body>;
    type Error = std::convert::Infallible;
    type Future = Pin<Box<dyn Future<Output = Reply> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        let Self(gateway, peer) = self.clone();
        let mut request = request.map(Body::new);
        request.extensions_mut().insert(peer);
        Box::pin(async move { Ok(gateway.handle(request).await) })
    }
}

impl Direct {
    /// For a local client that may do everything.
    async fn local(control: impl Into<Arc<Control>>) -> Self {
        let config = auth::Config::default();
        let metrics = Metrics::new();
        let gateway = gateway(control, config, Exposure::LocalOnly, &metrics).await;
        Self(Arc::new(gateway), Peer::unix())
    }

    /// For remote clients that may do `actions` in `repositories`.
    async fn stranger(control: Control, repositories: &str, actions: &[Action]) -> Self {
        let config = auth::Config {
            grants: vec![Rule {
                principals: vec![ANONYMOUS.to_owned()],
                repositories: vec![repositories.to_owned()],
                actions: actions.to_vec(),
            }],
            insecure_no_auth: true,
            ..auth::Config::default()
        };
        let metrics = Metrics::new();
        let gateway = gateway(control, config, Exposure::Network, &metrics).await;
        Self(Arc::new(gateway), Peer::tcp([192, 0, 2, 1].into()))
    }
}

async fn gateway(
    control: impl Into<Arc<Control>>,
    config: auth::Config,
    exposure: Exposure,
    metrics: &Metrics,
) -> Gateway {
    let state = tempfile::tempdir().unwrap();
    let authority = Authority::open(config, state.path(), exposure).await;
    let observer = Observer::new(metrics.http.clone());
    Gateway::new(Arc::new(authority.unwrap()), Arc::default(), observer).door(control.into())
}

/// A daemon's store in memory, and its door.
struct World {
    memory: Arc<Memory>,
    temp: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        Self {
            memory: Arc::new(Memory::new()),
            temp: tempfile::tempdir().unwrap(),
        }
    }

    async fn tag(&self, tag: &str) {
        let tag: Tag = tag.parse().unwrap();
        let manifest = Manifest::sniff(format!("{{\"schemaVersion\":2,\"id\":\"{tag}\"}}"));
        let store = self.store();
        let published = store.publish(&manifest, Some(&tag), &Expect::Anything);
        published.await.unwrap();
    }

    fn store(&self) -> Store {
        let url = StoreUrl::Disk("/daemons/own".into());
        Store::of(&self.memory, url, Meet::CompareAndSwap)
    }

    async fn door(&self, backlog: Option<Arc<dyn Backlog>>, allow_path: bool) -> Control {
        let settings = Settings {
            allow_path,
            options: Options::default(),
            temp_dir: self.temp.path().join("tmp"),
            threads: 2,
            concurrency: 4,
        };
        Control::new(self.store(), backlog, settings).await.unwrap()
    }

    async fn client(&self) -> ControlClient<Direct> {
        ControlClient::new(Direct::local(self.door(None, false).await).await)
    }
}

async fn all<M>(
    stream: Result<tonic::Response<tonic::Streaming<M>>, Status>,
) -> Result<Vec<M>, Status> {
    stream?.into_inner().collect().await
}

fn listed(messages: &[v1::ListResponse]) -> Vec<&str> {
    let rows = messages.iter().flat_map(|m| match &m.event {
        Some(v1::list_response::Event::Report(report)) => report.rows.as_slice(),
        _ => &[],
    });
    rows.map(|r| r.tag.as_str()).collect()
}

#[tokio::test]
async fn a_long_list_comes_whole() {
    let world = World::new();
    let mut want: Vec<String> = (0..1100).map(|i| format!("t{i:04}")).collect();
    for tag in &want {
        world.tag(tag).await;
    }
    want.sort();
    let mut client = world.client().await;
    let messages = all(client.list(v1::ListRequest::default()).await)
        .await
        .unwrap();
    assert_eq!(listed(&messages), want);
    assert!(
        messages.len() >= 3,
        "it was cut into {} messages",
        messages.len()
    );
}

#[tokio::test]
async fn few_manifests_are_in_memory_for_all_calls_together() {
    use futures_util::FutureExt as _;

    let world = World::new();
    world.tag("a").await;
    let door = Arc::new(world.door(None, false).await);
    let memory = door.shared.memory.clone();
    let mut turns = Vec::new();
    while let Some(turn) = memory.turn().now_or_never() {
        turns.push(turn);
    }
    assert_eq!(turns.len(), 8);
    let mut client = ControlClient::new(Direct::local(door).await);
    let list = async { all(client.list(v1::ListRequest::default()).await).await };
    let mut list = Box::pin(list);
    for _ in 0..1000 {
        assert!(list.as_mut().now_or_never().is_none());
        tokio::task::yield_now().await;
    }
    turns.pop();
    assert_eq!(listed(&list.await.unwrap()), ["a"]);
}

#[tokio::test]
async fn delete_removes_and_a_digest_is_an_invalid_argument() {
    let world = World::new();
    world.tag("gone").await;
    world.tag("stays").await;
    let mut client = world.client().await;
    let delete = |name: &str| v1::DeleteRequest {
        name: name.into(),
        dry_run: false,
        ..v1::DeleteRequest::default()
    };
    let messages = all(client.delete(delete("gone")).await).await.unwrap();
    let Some(v1::delete_response::Event::Report(report)) = &messages[0].event else {
        panic!("{messages:?}");
    };
    assert_eq!(report.tags, ["gone"]);
    let left = all(client.list(v1::ListRequest::default()).await)
        .await
        .unwrap();
    assert_eq!(listed(&left), ["stays"]);
    let digest = format!("sha256:{}", "0".repeat(64));
    let refused = all(client.delete(delete(&digest)).await).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn another_version_is_refused_by_its_number_and_none_is_served() {
    let world = World::new();
    let mut client = world.client().await;
    let with = |version: &'static str| {
        let mut request = tonic::Request::new(v1::StatusRequest {});
        let value = MetadataValue::from_static(version);
        request.metadata_mut().insert(proto::PROTOCOL_KEY, value);
        request
    };
    let refused = client.status(with("2")).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("version 2"), "{refused}");
    assert_eq!(refused.metadata().get(proto::PROTOCOL_KEY).unwrap(), "1");
    for request in [with("1"), tonic::Request::new(v1::StatusRequest {})] {
        let answer = client.status(request).await.unwrap();
        assert_eq!(answer.metadata().get(proto::PROTOCOL_KEY).unwrap(), "1");
        assert_eq!(answer.into_inner().protocol, 1);
    }
}

#[tokio::test]
async fn status_says_what_and_where_the_daemon_is() {
    let world = World::new();
    let door = world.door(None, true).await;
    door.announce(vec!["http://127.0.0.1:5000".into()]);
    let mut client = ControlClient::new(Direct::local(door).await);
    let status = client
        .status(v1::StatusRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(status.version, env!("CARGO_PKG_VERSION"));
    assert_eq!(status.store, "disk:/daemons/own");
    assert_eq!(status.listeners, ["http://127.0.0.1:5000"]);
    assert!(status.allows_paths && status.queue.is_none());
}

#[tokio::test]
async fn prune_with_too_little_grace_is_refused() {
    let world = World::new();
    let mut client = world.client().await;
    let prune = |grace| v1::PruneRequest {
        grace_seconds: grace,
        ..v1::PruneRequest::default()
    };
    for grace in [0, 3599] {
        let refused = all(client.prune(prune(Some(grace))).await)
            .await
            .unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().contains("at least 1h"), "{refused}");
    }
    for grace in [None, Some(3600)] {
        all(client.prune(prune(grace)).await).await.unwrap();
    }
}

#[tokio::test]
async fn copy_opens_paths_only_where_they_are_allowed() {
    let world = World::new();
    world.tag("image").await;
    let to = format!("disk:{}", world.temp.path().join("copy").display());
    let request = v1::CopyRequest {
        from: String::new(),
        to: to.clone(),
        ..v1::CopyRequest::default()
    };
    let mut client = world.client().await;
    let socket = v1::CopyRequest {
        from: "cachectld:/run/other.sock".into(),
        ..v1::CopyRequest::default()
    };
    for request in [request.clone(), socket] {
        let refused = client.copy(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::PermissionDenied);
        assert!(refused.message().contains("--allow-path"), "{refused}");
    }
    assert!(!world.temp.path().join("copy").exists());
    let mut client = ControlClient::new(Direct::local(world.door(None, true).await).await);
    let messages = all(client.copy(request).await).await.unwrap();
    let report = messages.into_iter().find_map(|m| match m.event {
        Some(v1::copy_response::Event::Report(report)) => Some(report),
        _ => None,
    });
    assert_eq!(report.unwrap().tags, ["image"]);
    let same = client.copy(v1::CopyRequest::default()).await.unwrap_err();
    assert_eq!(same.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn who_may_not_is_told_so_with_the_id_of_the_request() {
    let world = World::new();
    world.tag("stays").await;
    let door = world.door(None, false).await;
    let reader = Direct::stranger(door, "**", &[Action::Pull]).await;
    let mut client = ControlClient::new(reader);
    let mut request = tonic::Request::new(v1::DeleteRequest {
        name: "stays".into(),
        dry_run: false,
        ..v1::DeleteRequest::default()
    });
    let id = MetadataValue::from_static("from-a-test");
    request.metadata_mut().insert(proto::REQUEST_ID_KEY, id);
    let refused = client.delete(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert_eq!(
        refused.metadata().get(proto::REQUEST_ID_KEY).unwrap(),
        "from-a-test"
    );
    let left = all(client.list(v1::ListRequest::default()).await)
        .await
        .unwrap();
    assert_eq!(listed(&left), ["stays"]);
}

/// A queue that is empty once it is flushed; or that never is.
struct Slow {
    never: bool,
    sent: AtomicBool,
    given_up: Arc<AtomicBool>,
}

/// Records that it was dropped.
struct Dropped(Arc<AtomicBool>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[async_trait]
impl Backlog for Slow {
    fn status(&self) -> BacklogStatus {
        BacklogStatus {
            updates: u64::from(!self.sent.load(Ordering::SeqCst)),
            ..BacklogStatus::of_nothing()
        }
    }

    fn remote(&self) -> Reachable {
        self.status().remote
    }

    async fn turned(&self, _: bool) {}

    async fn flush(&self, _: tokio::time::Instant) -> BacklogStatus {
        let _dropped = Dropped(self.given_up.clone());
        if self.never {
            std::future::pending::<()>().await;
        }
        tokio::time::sleep(std::time::Duration::from_secs(3)).await;
        self.sent.store(true, Ordering::SeqCst);
        self.status()
    }
}

async fn queued(never: bool) -> (ControlClient<Direct>, Arc<AtomicBool>) {
    let given_up = Arc::new(AtomicBool::new(false));
    let queue = Slow {
        never,
        sent: AtomicBool::new(false),
        given_up: given_up.clone(),
    };
    let door = World::new().door(Some(Arc::new(queue)), false).await;
    (ControlClient::new(Direct::local(door).await), given_up)
}

fn tags(message: &v1::FlushResponse) -> u64 {
    message.queue.as_ref().unwrap().tags
}

#[tokio::test(start_paused = true)]
async fn a_flush_that_is_waited_for_tells_what_is_left_until_nothing_is() {
    let (mut client, _) = queued(false).await;
    let messages = all(client.flush(v1::FlushRequest { wait: true }).await)
        .await
        .unwrap();
    let left: Vec<u64> = messages.iter().map(tags).collect();
    assert!(
        left.len() >= 3 && left.is_sorted_by_key(|n| std::cmp::Reverse(*n)),
        "{left:?}"
    );
    assert_eq!(left.last(), Some(&0));
}

#[tokio::test(start_paused = true)]
async fn a_flush_that_is_not_waited_for_goes_on_by_itself() {
    let (mut client, _) = queued(false).await;
    let messages = all(client.flush(v1::FlushRequest { wait: false }).await)
        .await
        .unwrap();
    assert_eq!(messages.iter().map(tags).collect::<Vec<_>>(), [1]);
    tokio::time::sleep(std::time::Duration::from_secs(4)).await;
    let status = client
        .status(v1::StatusRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(status.queue.unwrap().tags, 0);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_goes_away_ends_its_call() {
    let (mut client, given_up) = queued(true).await;
    let mut stream = client
        .flush(v1::FlushRequest { wait: true })
        .await
        .unwrap()
        .into_inner();
    assert_eq!(tags(&stream.next().await.unwrap().unwrap()), 1);
    assert!(!given_up.load(Ordering::SeqCst));
    drop(stream);
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    assert!(given_up.load(Ordering::SeqCst));
}

#[tokio::test]
async fn a_daemon_without_a_queue_has_nothing_to_flush() {
    let mut client = World::new().client().await;
    let messages = all(client.flush(v1::FlushRequest { wait: true }).await)
        .await
        .unwrap();
    assert_eq!(messages, [v1::FlushResponse { queue: None }]);
}

#[tokio::test]
async fn health_and_reflection_answer_also_to_strangers() {
    let control = Arc::new(World::new().door(None, false).await);
    let dir = tempfile::tempdir().unwrap();
    let tokens = dir.path().join("tokens");
    std::fs::write(&tokens, format!("somebody {}\n", "0".repeat(32))).unwrap();
    let config = auth::Config {
        tokens: Some(tokens),
        ..auth::Config::default()
    };
    let metrics = Metrics::new();
    let gateway = gateway(control.clone(), config, Exposure::Network, &metrics).await;
    let door = Direct(Arc::new(gateway), Peer::tcp([192, 0, 2, 1].into()));
    let refused = ControlClient::new(door.clone())
        .status(v1::StatusRequest {})
        .await;
    assert_eq!(refused.unwrap_err().code(), Code::Unauthenticated);
    let check = HealthCheckRequest {
        service: "cachectl.v1.Control".into(),
    };
    let health = HealthClient::new(door.clone()).check(check.clone()).await;
    assert_eq!(health.unwrap().into_inner().status, 1);
    let list = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let asked = tokio_stream::once(list);
    let answers = ServerReflectionClient::new(door.clone())
        .server_reflection_info(asked)
        .await;
    let answer = answers.unwrap().into_inner().next().await.unwrap().unwrap();
    let Some(MessageResponse::ListServicesResponse(services)) = answer.message_response else {
        panic!("{answer:?}");
    };
    assert!(
        services
            .service
            .iter()
            .any(|s| s.name == "cachectl.v1.Control")
    );
    control.drain().await;
    let health = HealthClient::new(door).check(check).await;
    assert_eq!(health.unwrap().into_inner().status, 2);
}

/// The outcome of a call with this body, according to the metrics.
async fn outcome(door: &Arc<Control>, path: &str, body: &'static [u8]) -> String {
    let metrics = Metrics::new();
    let config = auth::Config::default();
    let gateway = gateway(door.clone(), config, Exposure::LocalOnly, &metrics).await;
    let request = Request::post(path).header("content-type", "application/grpc");
    let request = request.extension(Peer::unix()).body(Body::from(body));
    let response = gateway.handle(request.unwrap()).await;
    axum::body::to_bytes(response.into_body(), 1 << 20)
        .await
        .unwrap_or_default();
    let text = metrics.encode();
    let mut lines = text.lines();
    let line = lines.find(|l| l.starts_with("cachectld_requests_total{"));
    let (_, outcome) = line.unwrap().split_once("outcome=\"").unwrap();
    outcome.split('"').next().unwrap().to_owned()
}

#[tokio::test]
async fn call_that_cannot_be_decoded_is_its_callers_fault() {
    let door = Arc::new(World::new().door(None, false).await);
    for path in [
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/Watch",
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        "/cachectl.v1.Control/List",
    ] {
        let bodies: [&[u8]; 5] = [
            b"\0\0\0\0\x01\xff",
            b"\x01\0\0\0\x01\xff",
            b"\x07\0\0\0\x01\xff",
            b"\0\0\0\0\x03\x0a\x01\xff",
            b"\0\0\0",
        ];
        for body in bodies {
            let ended = outcome(&door, path, body).await;
            assert!(
                ended != "error" && ended != "broken",
                "{path} {body:?}: {ended}"
            );
        }
    }
    for path in ["/grpc.health.v1.Health/Check", "/cachectl.v1.Control/List"] {
        assert_eq!(outcome(&door, path, b"").await, "refused", "{path}");
        assert_eq!(outcome(&door, path, b"\0\0\0\0\0").await, "ok", "{path}");
    }
    // An error of the method itself remains one.
    let copy = "/cachectl.v1.Control/Verify";
    assert_eq!(outcome(&door, copy, b"\0\0\0\0\0").await, "ok");
}

/// A door to a disk with an image in each of two teams' repositories, for a caller that may pull and delete in `a/**`.
async fn teams(dir: &tempfile::TempDir) -> ControlClient<Direct> {
    ControlClient::new(tenant(team_door(dir).await).await)
}

async fn tenant(door: Control) -> Direct {
    Direct::stranger(door, "a/**", &[Action::Pull, Action::Delete]).await
}

async fn team_door(dir: &tempfile::TempDir) -> Control {
    let url: StoreUrl = format!("disk:{}", dir.path().join("store").display())
        .parse()
        .unwrap();
    let store = crate::store::open::open(&url, &Options::default()).await;
    let store = store.unwrap();
    for name in ["a/x", "b/y"] {
        let repository = store.repository(&name.parse().unwrap()).unwrap();
        let manifest = Manifest::sniff(format!("{{\"schemaVersion\":2,\"id\":\"{name}\"}}"));
        let tags: [Tag; 1] = ["t".parse().unwrap()];
        repository.put_manifest(&manifest, &tags).await.unwrap();
    }
    let settings = Settings {
        allow_path: false,
        options: Options::default(),
        temp_dir: dir.path().join("tmp"),
        threads: 2,
        concurrency: 4,
    };
    Control::new(store, None, settings).await.unwrap()
}

#[tokio::test]
async fn a_tenant_does_not_learn_where_the_store_is() {
    let dir = tempfile::tempdir().unwrap();
    let door = team_door(&dir).await;
    door.announce(vec!["unix:/run/secret.sock".into()]);
    let mut client = ControlClient::new(tenant(door).await);
    let status = client.status(v1::StatusRequest {}).await.unwrap();
    let status = status.into_inner();
    assert_eq!(status.version, env!("CARGO_PKG_VERSION"));
    assert_eq!((&*status.store, status.listeners.len()), ("", 0));
}

#[tokio::test]
async fn a_tenant_sees_and_removes_what_its_grants_say_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let mut client = teams(&dir).await;
    let list = all(client.list(v1::ListRequest::default()).await);
    assert_eq!(listed(&list.await.unwrap()), ["a/x:t"]);
    for name in ["b/y:t", "b/y"] {
        let request = v1::ListRequest {
            name: Some(name.into()),
            repositories: vec!["**".into()],
        };
        let list = all(client.list(request).await).await.unwrap();
        assert_eq!(listed(&list), [""; 0]);
    }
    let odd = v1::ListRequest {
        repositories: vec!["{".into()],
        ..v1::ListRequest::default()
    };
    let refused = client.list(odd).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);

    let used = all(client.disk_usage(v1::DiskUsageRequest::default()).await);
    let used = used.await.unwrap().into_iter().find_map(|m| match m.event {
        Some(v1::disk_usage_response::Event::Report(report)) => Some(report),
        _ => None,
    });
    let used = used.unwrap();
    assert!(used.rows.len() == 1 && used.store.is_none(), "{used:?}");

    let delete = v1::DeleteRequest {
        name: "b/y:t".into(),
        dry_run: false,
        ..v1::DeleteRequest::default()
    };
    let removed = all(client.delete(delete).await).await.unwrap();
    let Some(v1::delete_response::Event::Report(report)) = &removed[0].event else {
        panic!("{removed:?}");
    };
    assert_eq!(report.tags, [""; 0]);

    let prune = v1::PruneRequest {
        keep: Some(0),
        ..v1::PruneRequest::default()
    };
    let pruned = all(client.prune(prune).await).await.unwrap();
    let pruned = pruned.into_iter().find_map(|m| match m.event {
        Some(v1::prune_response::Event::Report(report)) => Some(report),
        _ => None,
    });
    let pruned = pruned.unwrap();
    assert_eq!(pruned.tags, ["a/x:t"]);
    assert!(
        pruned.not_swept.is_some() && !pruned.sweep_failed,
        "{pruned:?}"
    );
    assert!(dir.path().join("store/r/b%2Fy/tags/t").exists());

    let copy = v1::CopyRequest {
        to: "s3://bucket".into(),
        ..v1::CopyRequest::default()
    };
    let refused = client.copy(copy).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
}
