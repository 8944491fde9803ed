//! Credentials and tokens with a registry that requires them.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use super::{
    fake::{Act, Call, Fake, Reply, reply, with},
    *,
};
use crate::{
    digest::Digest,
    store::{ErrorKind, Expect, TagStore as _},
};

/// A token endpoint on a separate host that numbers its tokens: `t1`, `t2` …
async fn tokens(rule: impl Fn(&Call) -> Option<Reply> + Send + Sync + 'static) -> Fake {
    let count = AtomicU64::new(0);
    Fake::start(move |call| {
        Some(Act::Reply(rule(call).unwrap_or_else(|| {
            let n = count.fetch_add(1, Ordering::SeqCst) + 1;
            with(200, &[], format!(r#"{{"token":"t{n}","expires_in":300}}"#))
        })))
    })
    .await
}

fn challenge(realm: &str, rest: &str) -> Reply {
    let value = format!(r#"Bearer realm="{realm}/token",service="svc"{rest}"#);
    with(
        401,
        &[
            ("www-authenticate", "Basic realm=\"other\""),
            ("www-authenticate", &value),
        ],
        "",
    )
}

/// A registry that requires a token with at least the number in `valid`.
async fn wants_token(
    realm: &str,
    valid: Arc<AtomicU64>,
    script: impl Fn(&Call) -> Option<Act> + Send + Sync + 'static,
) -> Fake {
    let realm = realm.to_owned();
    Fake::start(move |call| {
        // The script first: it may invalidate the token in the middle.
        let act = script(call);
        let number = call
            .header("authorization")
            .strip_prefix("Bearer t")
            .and_then(|n| n.parse::<u64>().ok());
        if number.is_none_or(|n| n < valid.load(Ordering::SeqCst)) {
            let action = if call.method == "GET" || call.method == "HEAD" {
                "pull"
            } else {
                "pull,push"
            };
            return Some(Act::Reply(challenge(
                &realm,
                &format!(",scope=\"repository:team/app:{action}\""),
            )));
        }
        act
    })
    .await
}

fn any() -> Arc<AtomicU64> {
    Arc::new(AtomicU64::new(1))
}

#[tokio::test]
async fn token_is_got_with_our_password_for_what_is_needed() {
    let auth = tokens(|_| None).await;
    let fake = wants_token(&auth.url(""), any(), |_| None).await;
    let store = open_with(&fake, as_user("p")).await;
    put(&store, &some_bytes(2 << 20)).await.unwrap();
    put(&store, &some_bytes(3 << 20)).await.unwrap();
    let calls = auth.log();
    // One to read, unless the other one came first, and one to write.
    let mut scopes: Vec<String> = calls.iter().flat_map(|c| c.query("scope")).collect();
    scopes.sort_unstable();
    assert_eq!(scopes.pop().unwrap(), "repository:team/app:pull,push");
    assert!(matches!(&scopes[..], [] | [_]), "{scopes:?}");
    assert!(scopes.iter().all(|s| s == "repository:team/app:pull"));
    assert_eq!(calls[0].query("service"), ["svc"]);
    // user:p
    assert!(
        calls
            .iter()
            .all(|c| c.header("authorization") == "Basic dXNlcjpw" && c.path == "/token")
    );
    assert!(
        fake.log()
            .iter()
            .all(|c| !c.header("authorization").starts_with("Basic"))
    );
}

#[tokio::test]
async fn token_that_ends_in_mid_transfer_is_renewed_and_the_piece_sent_again() {
    let auth = tokens(|_| None).await;
    let valid = any();
    let spoil = valid.clone();
    let fake = wants_token(&auth.url(""), valid, move |call| {
        let first_put = call.name() == "PUT uploads" && call.nth == 0;
        let second_patch = call.name() == "PATCH uploads" && call.nth == 1;
        if first_put {
            return Some(Act::Reply(reply(413)));
        }
        if second_patch {
            // Every token issued so far has expired.
            spoil.fetch_max(3, Ordering::SeqCst);
        }
        None
    })
    .await;
    let store = open_with(&fake, as_user("p")).await;
    let bytes = some_bytes(9 << 20);
    put(&store, &bytes).await.unwrap();
    assert_eq!(
        fake.model().blobs.get(&Digest::sha256_of(&bytes)),
        Some(&bytes)
    );
    let ranges: Vec<String> = fake
        .log()
        .iter()
        .filter(|c| c.method == "PATCH")
        .map(|c| c.header("content-range").to_owned())
        .collect();
    assert_eq!(
        ranges,
        [
            "0-4194303",
            "4194304-8388607",
            "4194304-8388607",
            "8388608-9437183"
        ]
    );
    assert_eq!(auth.log().len(), 3);
}

#[tokio::test]
async fn many_requests_at_once_share_one_token() {
    let auth = tokens(|_| None).await;
    let fake = wants_token(&auth.url(""), any(), |_| None).await;
    let store = open_with(&fake, as_user("p")).await;
    let bytes = some_bytes(10);
    fake.has(&bytes);
    let digest = desc(&bytes).digest;
    for found in futures_util::future::join_all((0..16).map(|_| store.stat(&digest))).await {
        assert_eq!(found.unwrap(), Some(10));
    }
    assert_eq!(auth.log().len(), 1);
}

#[tokio::test]
async fn token_is_renewed_before_its_end() {
    let auth = tokens(|_| None).await;
    let fake = wants_token(&auth.url(""), any(), |_| None).await;
    let store = open_with(&fake, as_user("p")).await;
    let digest = Digest::sha256_of(b"x");
    for (seconds, tokens) in [(0, 1), (260, 1), (20, 2)] {
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(seconds)).await;
        tokio::time::resume();
        store.stat(&digest).await.unwrap();
        assert_eq!(auth.log().len(), tokens, "after {seconds} s more");
    }
    assert_eq!(
        fake.log()
            .iter()
            .filter(|c| c.header("authorization").is_empty())
            .count(),
        1
    );
}

#[tokio::test]
async fn endpoint_that_wants_a_post_gets_one() {
    let auth = tokens(|call| (call.method == "GET").then(|| reply(405))).await;
    let fake = wants_token(&auth.url(""), any(), |_| None).await;
    open_with(&fake, as_user("p&="))
        .await
        .stat(&Digest::sha256_of(b"x"))
        .await
        .unwrap();
    let form = String::from_utf8(auth.log()[1].body.to_vec()).unwrap();
    for part in [
        "grant_type=password",
        "username=user",
        "password=p%26%3D",
        "service=svc",
        "scope=repository%3Ateam%2Fapp%3Apull",
    ] {
        assert!(form.contains(part), "{form}");
    }
}

#[tokio::test]
async fn identity_token_is_changed_for_a_token() {
    let auth = tokens(|_| None).await;
    let fake = wants_token(&auth.url(""), any(), |_| None).await;
    let config = Config {
        username: Some("<token>".to_owned()),
        ..as_user("idt")
    };
    open_with(&fake, config)
        .await
        .stat(&Digest::sha256_of(b"x"))
        .await
        .unwrap();
    let call = &auth.log()[0];
    assert_eq!(call.method, "POST");
    let form = String::from_utf8(call.body.to_vec()).unwrap();
    assert!(
        form.contains("grant_type=refresh_token") && form.contains("refresh_token=idt"),
        "{form}"
    );
}

#[tokio::test]
async fn refresh_token_is_used_and_the_password_when_it_is_refused() {
    let auth = tokens(|call| match (call.method.as_str(), call.nth) {
        ("GET", 0) => Some(with(
            200,
            &[],
            r#"{"access_token":"t1","refresh_token":"r1"}"#,
        )),
        ("POST", 0) => Some(with(200, &[], r#"{"access_token":"t2"}"#)),
        ("POST", _) => Some(reply(401)),
        _ => Some(with(200, &[], r#"{"token":"t3"}"#)),
    })
    .await;
    let valid = any();
    let fake = wants_token(&auth.url(""), valid.clone(), |_| None).await;
    let store = open_with(&fake, as_user("p")).await;
    for n in 1..=3 {
        valid.store(n, Ordering::SeqCst);
        store.stat(&Digest::sha256_of(b"x")).await.unwrap();
    }
    let methods: Vec<String> = auth.log().iter().map(|c| c.method.to_string()).collect();
    assert_eq!(methods, ["GET", "POST", "POST", "GET"]);
}

#[tokio::test]
async fn refused_credentials_do_not_stop_reading_what_is_public() {
    // At the token endpoint.
    let auth = tokens(|call| {
        (!call.header("authorization").is_empty() || call.method == "POST").then(|| reply(401))
    })
    .await;
    let fake = wants_token(&auth.url(""), any(), |_| None).await;
    let bytes = some_bytes(10);
    fake.has(&bytes);
    let store = open_with(&fake, as_user("expired")).await;
    assert_eq!(get(&store, &bytes, 0..10).await.unwrap(), bytes);
    let asked = auth.log().len();
    assert_eq!(get(&store, &bytes, 0..10).await.unwrap(), bytes);
    assert_eq!(auth.log().len(), asked, "what works is remembered");
    let e = put(&store, &some_bytes(11)).await.unwrap_err();
    assert_eq!(e.kind, ErrorKind::Unauthenticated, "{e}");
    // At the registry.
    let fake = Fake::start(|call| match call.header("authorization") {
        "" => None,
        _ => Some(Act::Reply(reply(403))),
    })
    .await;
    let e = put(&open_with(&fake, as_user("p")).await, &some_bytes(11)).await;
    assert_eq!(e.unwrap(), Put::Stored, "nobody asked for credentials");
}

#[tokio::test]
async fn nobody_is_refused_with_a_hint_and_without_a_loop() {
    let fake = Fake::start(|_| {
        Some(Act::Reply(with(
            401,
            &[("www-authenticate", "Basic realm=x")],
            "",
        )))
    })
    .await;
    let e = open(&fake)
        .await
        .stat(&Digest::sha256_of(b"x"))
        .await
        .unwrap_err();
    assert_eq!(e.kind, ErrorKind::Unauthenticated, "{e}");
    assert!(e.message.contains("docker login"), "{e}");
    assert_eq!(fake.log().len(), 1);
    // A wrong password: once without, once with it, once anonymously.
    let fake = Fake::start(|_| {
        Some(Act::Reply(with(
            401,
            &[("www-authenticate", "Basic realm=x")],
            "",
        )))
    })
    .await;
    let e = open_with(&fake, as_user("wrong"))
        .await
        .stat(&Digest::sha256_of(b"x"))
        .await
        .unwrap_err();
    assert_eq!(e.kind, ErrorKind::Unauthenticated, "{e}");
    assert_eq!(fake.log().len(), 3);
    // Tokens that are never valid.
    let auth = tokens(|_| None).await;
    let fake = wants_token(&auth.url(""), Arc::new(AtomicU64::new(u64::MAX)), |_| None).await;
    let e = put(&open_with(&fake, as_user("p")).await, &some_bytes(10))
        .await
        .unwrap_err();
    assert_eq!(e.kind, ErrorKind::Unauthenticated, "{e}");
    assert!(fake.log().len() < 10 && auth.log().len() < 5);
}

#[tokio::test]
async fn mount_asks_for_both_scopes_and_its_refusal_does_not_stop_the_upload() {
    let auth = tokens(|call| (call.query("scope").len() > 1).then(|| reply(403))).await;
    let fake = wants_token(&auth.url(""), any(), |_| None).await;
    let config = Config {
        mount_from: vec!["team/other".to_owned()],
        ..as_user("p")
    };
    assert_eq!(
        put(&open_with(&fake, config).await, &some_bytes(1 << 20))
            .await
            .unwrap(),
        Put::Stored
    );
    let scopes: Vec<Vec<String>> = auth.log().iter().map(|c| c.query("scope")).collect();
    assert!(
        scopes.contains(&vec![
            "repository:team/app:pull,push".to_owned(),
            "repository:team/other:pull".to_owned()
        ]),
        "{scopes:?}"
    );
}

#[tokio::test]
async fn registry_that_wants_more_gets_more() {
    let auth = tokens(|_| None).await;
    let realm = auth.url("");
    let fake = Fake::start(move |call| match call.header("authorization") {
        "" => Some(Act::Reply(challenge(&realm, ""))),
        "Bearer t1" => {
            let more =
                r#",error="insufficient_scope",scope="repository:team/app:pull,push,special""#;
            let mut r = challenge(&realm, more);
            *r.status_mut() = axum::http::StatusCode::FORBIDDEN;
            Some(Act::Reply(r))
        }
        _ => None,
    })
    .await;
    let store = open_with(&fake, as_user("p")).await;
    let m = crate::artifact::Manifest::new("application/vnd.oci.image.index.v1+json", "{}");
    store.publish(&m, None, &Expect::Anything).await.unwrap();
    assert_eq!(
        auth.log()[1].query("scope"),
        ["repository:team/app:pull,push,special"]
    );
}

#[tokio::test]
async fn trouble_at_the_token_endpoint_is_told_by_its_kind() {
    for (answer, want) in [
        ((503, "", ""), ErrorKind::Unavailable),
        ((429, "", ""), ErrorKind::Throttled),
        ((200, "text/html", "<html>"), ErrorKind::Unavailable),
        ((200, "", "{}"), ErrorKind::Unavailable),
        ((200, "", r#"{"token":"a\nb"}"#), ErrorKind::Corrupt),
        ((401, "", ""), ErrorKind::Unauthenticated),
    ] {
        let auth =
            tokens(move |_| Some(with(answer.0, &[("content-type", answer.1)], answer.2))).await;
        let fake = wants_token(&auth.url(""), any(), |_| None).await;
        let e = open(&fake)
            .await
            .stat(&Digest::sha256_of(b"x"))
            .await
            .unwrap_err();
        assert_eq!(e.kind, want, "{e}");
        assert!(e.message.contains("token endpoint"), "{e}");
    }
    let large = tokens(|_| {
        Some(with(
            200,
            &[],
            format!(r#"{{"token":"{}"}}"#, "x".repeat(70_000)),
        ))
    })
    .await;
    let fake = wants_token(&large.url(""), any(), |_| None).await;
    assert_eq!(
        open(&fake)
            .await
            .stat(&Digest::sha256_of(b"x"))
            .await
            .unwrap_err()
            .kind,
        ErrorKind::Corrupt
    );
}

#[tokio::test]
async fn no_message_shows_a_secret() {
    let fake = Fake::start(|call| match call.header("authorization") {
        "" => Some(Act::Reply(with(
            401,
            &[("www-authenticate", "Basic realm=x")],
            "",
        ))),
        _ => Some(Act::Reply(with(
            307,
            &[("location", "http://127.0.0.1:9/x?X-Amz-Signature=s1gn3d")],
            "",
        ))),
    })
    .await;
    let store = open_with(&fake, as_user("hunter2")).await;
    let e = store.stat(&Digest::sha256_of(b"x")).await.unwrap_err();
    let all = format!("{e} {e:?} {store:?}");
    assert!(
        !all.contains("hunter2") && !all.contains("s1gn3d") && !all.contains("aHVudGVyMg"),
        "{all}"
    );
}

#[tokio::test]
async fn a_refusal_says_which_credentials_were_sent_or_why_there_are_none() {
    let refusing = |status: u16, challenge: &'static [(&'static str, &'static str)]| {
        Fake::start(move |_| Some(Act::Reply(with(status, challenge, ""))))
    };
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let from = |files: Vec<std::path::PathBuf>| {
        let mut config = Config::default();
        config.credentials.files = files;
        config.credentials.helpers = Some(dir.path().to_owned());
        config
    };
    let basic: &[_] = &[("www-authenticate", "Basic realm=x")];
    let asks = refusing(401, basic).await;
    let told = async |fake: &Fake, config: Config| {
        let e = put(&open_with(fake, config).await, &some_bytes(10)).await;
        e.unwrap_err().message
    };
    let helper = file("helper.json", r#"{"credsStore":"nope"}"#);
    let broken = file("broken.json", "{");
    let other = file(
        "other.json",
        r#"{"auths":{"other.example":{"auth":"dTpw"}}}"#,
    );
    let ours = format!(r#"{{"auths":{{"{}":{{"auth":"dTpw\n"}}}}}}"#, asks.addr);
    let ours = file("ours.json", &ours);
    let missing = dir.path().join("missing.json");
    for (config, wants) in [
        (
            as_user("wrong"),
            &["user `user` from the settings", "check the password"][..],
        ),
        (
            from(vec![helper]),
            &[
                "helper.json",
                "cannot run credential helper `docker-credential-nope`",
                "docker login",
            ],
        ),
        (
            from(vec![broken.clone()]),
            &["broken.json` is not a docker configuration"],
        ),
        (
            from(vec![other]),
            &[
                "no credentials were sent: none for `127.0.0.1:",
                "other.json",
            ],
        ),
        (from(vec![missing]), &["missing.json` does not exist"]),
        (
            from(vec![broken, ours]),
            &["user `u` from `", "ours.json", "broken.json` is not"],
        ),
    ] {
        let message = told(&asks, config).await;
        for want in wants {
            assert!(message.contains(want), "{want}: {message}");
        }
        assert!(!message.contains("wrong"), "{message}");
    }
    let denies = refusing(403, &[]).await;
    let message = told(&denies, as_user("p")).await;
    assert!(
        message.contains("no credentials were sent: the answer did not ask for any"),
        "{message}"
    );
    // At the token endpoint.
    let endpoint = tokens(|_| Some(reply(401))).await;
    let fake = wants_token(&endpoint.url(""), any(), |_| None).await;
    let message = told(&fake, as_user("p")).await;
    assert!(
        message.starts_with("token endpoint") && message.contains("user `user` from"),
        "{message}"
    );
}

#[tokio::test]
async fn whether_blobs_may_be_pushed_is_asked_by_beginning_an_upload() {
    use crate::store::PushCheck as _;
    for (status, kind) in [
        (403, Some(ErrorKind::Denied)),
        (401, Some(ErrorKind::Unauthenticated)),
        (500, None),
        (404, None),
    ] {
        let fake = Fake::start(move |_| Some(Act::Reply(reply(status)))).await;
        let end = open(&fake).await.check_push().await;
        assert_eq!(end.err().map(|e| e.kind), kind, "{status}");
        assert_eq!(fake.log().len(), 1, "{status}");
    }
    let fake = Fake::plain().await;
    open(&fake).await.check_push().await.unwrap();
    let log = fake.log();
    assert_eq!((log[0].method.as_str(), log[0].sort()), ("POST", "uploads"));
}
