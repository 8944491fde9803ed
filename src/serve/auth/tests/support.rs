//! A daemon's authority over files in a folder, and requests as clients send them.

use std::{path::PathBuf, sync::Arc, time::Duration};

use axum::{
    body::Body,
    http::{HeaderMap, Method, Request, StatusCode, request::Parts},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use http_body_util::BodyExt as _;
use serde_json::Value;
use tempfile::TempDir;

use crate::{
    metrics::http::Http,
    serve::{
        auth::{Action, Authority, Config, Exposure, Need, Peer, Principal, Rule},
        gateway::Gateway,
        observe::Observer,
        refusal::Refusal,
        tokens::Tokens,
    },
};

/// As Apache's `htpasswd -nbB` wrote them, at the lowest cost.
pub(super) const HTPASSWD: &str = "\
    ci:$2y$04$4dj4VlGXORDY/QCRh7J02Ot5T4Fwpe6/jNTuauFTJr7gCBlvtjRK.\n\
    dev:$2y$05$eS3upJo5wQkXHgkPYP7j6.mTMUsGyCfLEmvNm3qzjYmQ0Vx2YiXMa\n";
pub(super) const CI_PASSWORD: &str = "correct horse";
pub(super) const DEV_PASSWORD: &str = "s:with:colons";
/// The static token of `bot`.
pub(super) const BOT_TOKEN: &str = "bot-0123456789abcdef0123456789abcdef";
/// The host name that clients use for the daemon.
pub(super) const HOST: &str = "cache.example:5000";

/// An authority and its files: `ci` and `bot` may pull and push below `team/`, `dev` may pull everywhere and delete below
/// `dev/`, everybody may pull below `public/`.
pub(super) struct Daemon {
    pub(super) dir: TempDir,
    pub(super) authority: Arc<Authority>,
    pub(super) config: Config,
}

pub(super) fn rule(principals: &[&str], repositories: &[&str], actions: &[Action]) -> Rule {
    let own = |all: &[&str]| all.iter().map(|s| (*s).to_owned()).collect();
    Rule {
        principals: own(principals),
        repositories: own(repositories),
        actions: actions.to_vec(),
    }
}

pub(super) async fn daemon() -> Daemon {
    daemon_with(|_| {}).await
}

pub(super) async fn daemon_with(change: impl FnOnce(&mut Config)) -> Daemon {
    let dir = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| -> PathBuf {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let mut config = Config {
        htpasswd: Some(write("htpasswd", HTPASSWD)),
        tokens: Some(write("tokens", &format!("bot {BOT_TOKEN}\n"))),
        grants: vec![
            rule(&["ci", "bot"], &["team/**"], &[Action::Pull, Action::Push]),
            rule(&["dev"], &["**"], &[Action::Pull]),
            rule(&["dev"], &["dev/**"], &[Action::Delete]),
            rule(&["anonymous"], &["public/**"], &[Action::Pull]),
        ],
        ..Config::default()
    };
    change(&mut config);
    let state = dir.path().join("state");
    let authority = Authority::open(config.clone(), &state, Exposure::Network)
        .await
        .unwrap();
    Daemon {
        authority: Arc::new(authority),
        dir,
        config,
    }
}

/// What `/token` answered.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Value,
}

impl Answer {
    pub(super) fn text(&self, field: &str) -> String {
        let found = self.body[field].as_str();
        found.unwrap_or_else(|| panic!("no `{field}`")).to_owned()
    }
}

impl Daemon {
    pub(super) async fn reload(&self) -> Result<(), crate::serve::auth::Error> {
        self.authority.reload(self.config.clone()).await
    }

    /// Returns the principal of a remote client with this `Authorization`, or its refusal.
    pub(super) async fn may(
        &self,
        authorization: &str,
        needs: &[Need<'_>],
    ) -> Result<Principal, Refusal> {
        let parts = parts("/v2/", &[("host", HOST), ("authorization", authorization)]);
        self.authority.authorize(&parts, &remote(), needs).await
    }

    /// The same for a remote client without credentials.
    pub(super) async fn may_unasked(&self, needs: &[Need<'_>]) -> Result<Principal, Refusal> {
        let parts = parts("/v2/", &[("host", HOST)]);
        self.authority.authorize(&parts, &remote(), needs).await
    }

    /// Asks the token endpoint as a remote client.
    pub(super) async fn ask(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::from(body.to_owned())).unwrap();
        self.ask_from(remote(), request).await
    }

    /// The same from another kind of peer.
    pub(super) async fn ask_from(&self, peer: Peer, mut request: Request<Body>) -> Answer {
        request.extensions_mut().insert(peer);
        let observer = Observer::new(Http::default());
        let gateway = Gateway::new(self.authority.clone(), Arc::default(), observer);
        let door = gateway.door(Arc::new(Tokens::new(self.authority.clone())));
        let answer = door.handle(request).await;
        let (status, headers) = (answer.status(), answer.headers().clone());
        let bytes = answer.into_body().collect().await.unwrap().to_bytes();
        let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        Answer {
            status,
            headers,
            body,
        }
    }

    pub(super) async fn get(&self, query: &str, authorization: Option<&str>) -> Answer {
        let headers: Vec<_> = authorization
            .map(|a| ("authorization", a))
            .into_iter()
            .collect();
        self.ask(Method::GET, &format!("/token?{query}"), &headers, "")
            .await
    }

    pub(super) async fn post(&self, form: &str) -> Answer {
        let headers = [("content-type", "application/x-www-form-urlencoded")];
        self.ask(Method::POST, "/token", &headers, form).await
    }

    /// A token of the flow, as an `Authorization` value.
    pub(super) async fn bearer(&self, scope: &str, authorization: Option<&str>) -> String {
        let answer = self.get(&format!("scope={scope}"), authorization).await;
        assert_eq!(answer.status, StatusCode::OK);
        format!("Bearer {}", answer.text("token"))
    }
}

pub(super) fn remote() -> Peer {
    Peer::tcp("192.0.2.1".parse().unwrap())
}

pub(super) fn basic(name: &str, password: &str) -> String {
    format!(
        "Basic {}",
        BASE64_STANDARD.encode(format!("{name}:{password}"))
    )
}

pub(super) fn parts(uri: &str, headers: &[(&str, &str)]) -> Parts {
    let mut request = Request::builder().uri(uri);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

/// The challenges of a refusal, as they are sent.
pub(super) fn challenges(refusal: &Refusal) -> Vec<String> {
    let all = refusal.headers.iter();
    let all = all.filter(|(name, _)| name == "www-authenticate");
    all.map(|(_, v)| v.to_str().unwrap().to_owned()).collect()
}

/// Signs any claims under any header, as anybody with `key` could.
pub(super) fn forge(header: &Value, claims: &Value, key: &str) -> String {
    use base64::prelude::BASE64_URL_SAFE_NO_PAD as B64;
    use hmac::{Hmac, KeyInit as _, Mac as _};
    let signed = format!(
        "{}.{}",
        B64.encode(header.to_string()),
        B64.encode(claims.to_string())
    );
    let mac = Hmac::<sha2::Sha256>::new_from_slice(key.as_bytes()).unwrap();
    let signature = mac.chain_update(&signed).finalize().into_bytes();
    format!("{signed}.{}", B64.encode(signature))
}

/// The claims of a token, unchecked.
pub(super) fn claims(token: &str) -> Value {
    use base64::prelude::BASE64_URL_SAFE_NO_PAD as B64;
    let part = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&B64.decode(part).unwrap()).unwrap()
}

pub(super) fn minutes(n: u64) -> Duration {
    Duration::from_mins(n)
}
