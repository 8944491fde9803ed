//! What the gateway does for any door, tested with a small one.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use axum::{
    body::{Body, to_bytes},
    http::{Method, Request, StatusCode},
};
use futures_util::FutureExt as _;

use super::*;
use crate::{
    metrics::Metrics,
    serve::{
        admission::{Admission, Key},
        auth::{ANONYMOUS, Action, Authority, Config, Exposure, Rule},
        gateway::Gateway,
        observe::Observer,
    },
    store::keys::Repo,
};

/// Greets repositories.
struct Hello {
    hold: Hold,
    /// How many more times the store is unreachable.
    away: AtomicU32,
}

impl Door for Hello {
    type Asked = Repo;

    fn name(&self) -> &'static str {
        "hello"
    }

    fn route(&self, head: &Parts) -> Option<Route<Repo>> {
        let name = head.uri.path().strip_prefix("/hello/")?;
        let asked = name.parse::<Repo>();
        let asked = asked.map_err(|e| Refusal::new(StatusCode::BAD_REQUEST, e.to_string()));
        Some(Route {
            access: Access::Needs(vec![Need::pull(name.to_owned())]),
            hold: self.hold,
            ..Route::new("/hello/{repo}", asked)
        })
    }

    async fn answer(&self, repo: &Repo, _: &Call, _: Body) -> Answer {
        let away = self.away.load(Ordering::Relaxed);
        if away > 0 {
            self.away.store(away - 1, Ordering::Relaxed);
            let why = "the store is unreachable";
            return Err(Refusal::new(StatusCode::SERVICE_UNAVAILABLE, why));
        }
        Ok(Response::new(Body::from(format!("hello {repo}"))))
    }

    fn refuse(&self, refusal: &Refusal) -> Response<Body> {
        let mut response = Response::new(Body::from(format!("sorry: {}", refusal.message)));
        *response.status_mut() = refusal.status;
        response
    }

    fn sign(&self, headers: &mut HeaderMap) {
        headers.insert("x-hello", "1".parse().unwrap());
    }
}

struct World {
    gateway: Gateway,
    admission: Arc<Admission>,
    metrics: Metrics,
}

/// A door that anonymous callers may use below `a/`.
async fn world(hold: Hold, away: u32) -> World {
    let config = Config {
        grants: vec![Rule {
            principals: vec![ANONYMOUS.to_owned()],
            repositories: vec!["a/**".to_owned()],
            actions: vec![Action::Pull],
        }],
        insecure_no_auth: true,
        ..Config::default()
    };
    let state = tempfile::tempdir().unwrap();
    let authority = Authority::open(config, state.path(), Exposure::Network).await;
    let (metrics, admission) = (Metrics::new(), Arc::<Admission>::default());
    let away = AtomicU32::new(away);
    let observer = Observer::new(metrics.http.clone());
    let gateway = Gateway::new(Arc::new(authority.unwrap()), admission.clone(), observer)
        .door(Arc::new(Hello { hold, away }));
    World {
        gateway,
        admission,
        metrics,
    }
}

impl World {
    /// The status, and the text of the body.
    async fn ask(&self, method: Method, path: &str) -> (u16, String) {
        let request = Request::builder().method(method).uri(path);
        let response = self.gateway.handle(request.body(Body::empty()).unwrap());
        let response = response.await;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let is_signed = headers.contains_key("x-hello") && headers.contains_key(X_REQUEST_ID);
        assert_eq!(is_signed, path.starts_with("/hello/"));
        let body = to_bytes(response.into_body(), 1 << 20).await.unwrap();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    async fn get(&self, path: &str) -> (u16, String) {
        self.ask(Method::GET, path).await
    }
}

#[tokio::test]
async fn a_request_is_answered_and_counted_under_its_label() {
    let world = world(Hold::Never, 0).await;
    let said = world.get("/hello/a/b").await;
    assert_eq!(said, (200, "hello a/b".to_owned()));
    let said = world.ask(Method::HEAD, "/hello/a/b").await;
    assert_eq!(said, (200, String::new()));
    let text = world.metrics.encode();
    let label = r#"door="hello",route="/hello/{repo}",method="GET",code="200""#;
    assert!(text.contains(label) && !text.contains("a/b"), "{text}");
    assert_eq!(world.get("/elsewhere").await.0, 404);
}

#[tokio::test]
async fn a_refusal_is_in_the_doors_own_words_whoever_refuses() {
    let world = world(Hold::Never, 0).await;
    for (path, status, said) in [
        ("/hello/A", 400, "sorry: `A` is not a repository's name"),
        ("/hello/b", 403, "sorry: `anonymous` may not pull from `b`"),
    ] {
        let found = world.get(path).await;
        assert_eq!(found.0, status, "{path}");
        assert!(found.1.starts_with(said), "{found:?}");
    }
}

#[tokio::test]
async fn nothing_that_callers_share_is_held_before_it_is_known_who_asks() {
    let world = world(Hold::Never, 0).await;
    let requests = &world.admission.requests;
    let keys = (0..).map(|n| Key::Principal(format!("other {n}").into()));
    let taken: Vec<_> = keys.map_while(|key| requests.enter_now(key)).collect();
    assert_eq!(world.get("/hello/b").await.0, 403);
    let mut waits = Box::pin(world.get("/hello/a/b"));
    assert!((&mut waits).now_or_never().is_none());
    assert_eq!(requests.waiting(), 1);
    drop(taken);
    assert_eq!(waits.await.0, 200);
    assert_eq!(requests.taken(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_request_waits_for_an_unreachable_store_as_its_route_says() {
    let content = Hold::UntilBack(Digest::sha256_of(b"content"));
    assert_eq!(world(content, 5).await.get("/hello/a/b").await.0, 200);
    let world = world(Hold::Never, 5).await;
    let said = world.get("/hello/a/b").await;
    assert_eq!(said, (503, "sorry: the store is unreachable".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_for_a_store_any_more_once_the_daemon_ends() {
    let content = Hold::UntilBack(Digest::sha256_of(b"content"));
    let world = world(content, u32::MAX).await;
    world.gateway.drain();
    assert_eq!(world.get("/hello/a/b").await.0, 503);
}
