//! Tokens that are not what they seem.

use axum::{
    body::Body,
    http::{Request, StatusCode},
};
use jsonwebtoken::get_current_timestamp as now;
use serde_json::{Value, json};

use super::support::*;
use crate::serve::auth::{Action, Need};

/// A daemon whose signing key is known here.
const KEY: &str = "0123456789abcdef0123456789abcdef";

async fn keyed() -> Daemon {
    let keys = tempfile::tempdir().unwrap();
    let path = keys.path().join("key");
    std::fs::write(&path, format!("{KEY}\n")).unwrap();
    daemon_with(|c| c.signing_key = Some(path)).await
}

fn hs256() -> Value {
    json!({"alg": "HS256", "typ": "JWT"})
}

/// Valid claims, for `dev` who may read everything.
fn good() -> Value {
    json!({
        "iss": "cachectld", "aud": "cachectld", "sub": "dev", "jti": "x",
        "iat": now(), "nbf": now(), "exp": now() + 300,
        "access": [{"type": "repository", "name": "a", "actions": ["pull", "push"]}],
    })
}

fn with(field: &str, value: Value) -> Value {
    let mut claims = good();
    claims[field] = value;
    claims
}

fn without(field: &str) -> Value {
    let mut claims = good();
    claims.as_object_mut().unwrap().remove(field);
    claims
}

async fn assert_invalid(d: &Daemon, token: &str, why: &str) {
    // Refused even if no credentials are needed.
    for need in [Need::pull("a"), Need::pull("public/a")] {
        let refusal = d
            .may(&format!("Bearer {token}"), &[need])
            .await
            .unwrap_err();
        assert_eq!(refusal.status, StatusCode::UNAUTHORIZED, "{why}");
        let challenge = &challenges(&refusal)[0];
        assert!(
            challenge.contains("error=\"invalid_token\""),
            "{why}: {challenge}"
        );
    }
}

#[tokio::test]
async fn token_of_ours_opens_what_it_says_as_far_as_its_name_may() {
    let d = keyed().await;
    let token = format!("Bearer {}", forge(&hs256(), &good(), KEY));
    assert!(d.may(&token, &[Need::pull("a")]).await.is_ok());
    // Allowed by the token but not by the grants; by the grants but not by the token.
    let refusal = d.may(&token, &[Need::push("a")]).await.unwrap_err();
    assert_eq!(refusal.status, StatusCode::FORBIDDEN);
    let refusal = d.may(&token, &[Need::pull("b")]).await.unwrap_err();
    assert!(challenges(&refusal)[0].ends_with("error=\"insufficient_scope\""));
    let ours = claims(
        &d.bearer("repository%3Aa%3Apull", Some(&basic("dev", DEV_PASSWORD)))
            .await,
    );
    for (field, value) in good().as_object().unwrap() {
        assert_eq!(value.is_string(), ours[field].is_string(), "{field}");
    }
}

#[tokio::test]
async fn claims_that_are_not_ours_are_refused() {
    let d = keyed().await;
    for (why, claims) in [
        ("expired", with("exp", json!(now() - 60))),
        ("not yet", with("nbf", json!(now() + 60))),
        ("another issuer", with("iss", json!("somebody"))),
        ("another service", with("aud", json!("elsewhere"))),
        (
            "a refresh token's audience",
            with("aud", json!("cachectld#refresh")),
        ),
        ("no expiry", without("exp")),
        ("no issuer", without("iss")),
        ("no audience", without("aud")),
        ("no name", without("sub")),
        ("no start", without("nbf")),
        ("no access", without("access")),
        ("a stamp of no secret", with("secret", json!("0123"))),
        ("a name that is none", with("sub", json!(7))),
    ] {
        assert_invalid(&d, &forge(&hs256(), &claims, KEY), why).await;
    }
}

#[tokio::test]
async fn clocks_may_be_a_little_apart() {
    let d = keyed().await;
    let mut claims = with("nbf", json!(now() + 5));
    claims["exp"] = json!(now() - 5);
    let token = format!("Bearer {}", forge(&hs256(), &claims, KEY));
    assert!(d.may(&token, &[Need::pull("a")]).await.is_ok());
}

#[tokio::test]
async fn signatures_that_are_not_ours_are_refused() {
    let d = keyed().await;
    let token = forge(&hs256(), &good(), KEY);
    let (head, signature) = token.rsplit_once('.').unwrap();
    let other = forge(&hs256(), &with("sub", json!("ci")), KEY);
    let claims_of_other = other.split('.').nth(1).unwrap();
    let header_of_ours = token.split('.').next().unwrap();
    let mut cut = signature.to_owned();
    cut.pop();
    for (why, token) in [
        (
            "another key",
            forge(&hs256(), &good(), "another key another key another "),
        ),
        ("an empty key", forge(&hs256(), &good(), "")),
        ("no signature", format!("{head}.")),
        ("two parts", head.to_owned()),
        ("a cut signature", format!("{head}.{cut}")),
        (
            "other claims",
            format!("{header_of_ours}.{claims_of_other}.{signature}"),
        ),
        ("nothing", "..".to_owned()),
        ("words", "hello".to_owned()),
    ] {
        assert_invalid(&d, &token, why).await;
    }
}

#[tokio::test]
async fn header_is_not_believed() {
    let d = keyed().await;
    for algorithm in ["none", "None", "HS384", "HS512", "RS256", "ES256", ""] {
        let header = json!({"alg": algorithm, "typ": "JWT"});
        assert_invalid(&d, &forge(&header, &good(), KEY), algorithm).await;
        let unsigned = forge(&header, &good(), KEY);
        let (head, _) = unsigned.rsplit_once('.').unwrap();
        assert_invalid(&d, &format!("{head}."), algorithm).await;
    }
    // Keys that the token contains or refers to.
    let mine = "my own key my own key my own key";
    let header = json!({
        "alg": "HS256", "kid": "../../dev/null", "jku": "https://evil.example/jwks",
        "jwk": {"kty": "oct", "k": "bXkgb3duIGtleSBteSBvd24ga2V5IG15IG93biBrZXk"},
    });
    assert_invalid(&d, &forge(&header, &good(), mine), "its own key").await;
    assert_invalid(
        &d,
        &forge(&json!({"typ": "JWT"}), &good(), KEY),
        "no algorithm",
    )
    .await;
}

#[tokio::test]
async fn refresh_token_opens_nothing_and_a_token_refreshes_nothing() {
    let d = daemon().await;
    let answer = d
        .get(
            "offline_token=true&scope=repository%3Ateam%2Fa%3Apull",
            Some(&basic("ci", CI_PASSWORD)),
        )
        .await;
    assert_invalid(&d, &answer.text("refresh_token"), "refresh").await;
    let form = format!(
        "grant_type=refresh_token&refresh_token={}",
        answer.text("token")
    );
    assert_eq!(d.post(&form).await.status, StatusCode::UNAUTHORIZED);
    // Nor can it obtain another one, or access would never expire.
    let again = d
        .get(
            "scope=repository%3Ateam%2Fa%3Apull",
            Some(&format!("Bearer {}", answer.text("token"))),
        )
        .await;
    assert_eq!(again.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn replicas_with_one_key_take_each_others_tokens() {
    let (a, b, c) = (keyed().await, keyed().await, daemon().await);
    let token = a
        .bearer(
            "repository%3Ateam%2Fa%3Apush",
            Some(&basic("ci", CI_PASSWORD)),
        )
        .await;
    assert!(b.may(&token, &[Need::push("team/a")]).await.is_ok());
    assert!(c.may(&token, &[Need::push("team/a")]).await.is_err());
}

#[tokio::test]
async fn own_key_outlives_a_restart_and_is_nobody_elses() {
    use std::os::unix::fs::PermissionsExt as _;
    let d = daemon().await;
    let token = d
        .bearer(
            "repository%3Ateam%2Fa%3Apull",
            Some(&basic("ci", CI_PASSWORD)),
        )
        .await;
    let key = d.dir.path().join("state/token.key");
    let mode = std::fs::metadata(&key).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    d.reload().await.unwrap();
    assert!(d.may(&token, &[Need::pull("team/a")]).await.is_ok());
}

#[tokio::test]
async fn previous_key_is_good_until_it_is_gone() {
    let d = daemon().await;
    let state = d.dir.path().join("state");
    let (key, previous) = (state.join("token.key"), state.join("token.key.previous"));
    let need = [Need::pull("team/a")];
    let old = d
        .bearer(
            "repository%3Ateam%2Fa%3Apull",
            Some(&basic("ci", CI_PASSWORD)),
        )
        .await;
    std::fs::rename(&key, &previous).unwrap();
    d.reload().await.unwrap();
    let new = d
        .bearer(
            "repository%3Ateam%2Fa%3Apull",
            Some(&basic("ci", CI_PASSWORD)),
        )
        .await;
    assert!(d.may(&old, &need).await.is_ok() && d.may(&new, &need).await.is_ok());
    std::fs::remove_file(&previous).unwrap();
    d.reload().await.unwrap();
    assert!(d.may(&old, &need).await.is_err() && d.may(&new, &need).await.is_ok());
}

#[tokio::test]
async fn short_key_is_refused() {
    let keys = tempfile::tempdir().unwrap();
    let path = keys.path().join("key");
    std::fs::write(&path, "hunter2\n").unwrap();
    let mut d = daemon().await;
    d.config.signing_key = Some(path);
    let error = d.reload().await.unwrap_err();
    assert!(error.message.contains("shorter than 32 bytes"), "{error}");
    assert!(!format!("{error:?}").contains("hunter2"));
}

#[tokio::test]
async fn rights_that_are_taken_away_are_gone_from_tokens_too() {
    let mut d = daemon().await;
    let token = d
        .bearer(
            "repository%3Ateam%2Fa%3Apush",
            Some(&basic("ci", CI_PASSWORD)),
        )
        .await;
    assert!(d.may(&token, &[Need::push("team/a")]).await.is_ok());
    d.config.grants = vec![rule(&["ci"], &["**"], &[Action::Pull])];
    d.reload().await.unwrap();
    let refusal = d.may(&token, &[Need::push("team/a")]).await.unwrap_err();
    assert_eq!(refusal.status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn lives_are_those_of_the_settings() {
    let d = daemon_with(|c| {
        c.token_life = minutes(1);
        c.refresh_life = minutes(0);
    })
    .await;
    let answer = d
        .get("offline_token=true", Some(&basic("ci", CI_PASSWORD)))
        .await;
    assert_eq!(answer.body["expires_in"], 60);
    assert!(answer.body.get("refresh_token").is_none());
    let claims = claims(&answer.text("token"));
    assert_eq!(
        claims["exp"].as_u64().unwrap() - claims["iat"].as_u64().unwrap(),
        60
    );
}

#[tokio::test]
async fn token_of_a_certificate_is_good_only_together_with_it() {
    let d = daemon().await;
    let with_certificate = |name: &str| remote().over_tls(Some(name.into()));
    let request = Request::get("/token?scope=repository:team/a:pull,push").body(Body::empty());
    let answer = d.ask_from(with_certificate("ci"), request.unwrap()).await;
    let token = format!("Bearer {}", answer.text("token"));
    let needs = [Need::push("team/a")];
    let shown = parts("/v2/", &[("authorization", &token)]);
    let ci = d
        .authority
        .authorize(&shown, &with_certificate("ci"), &needs)
        .await;
    assert_eq!(ci.unwrap().name(), "ci");
    for peer in [remote(), remote().over_tls(None), with_certificate("dev")] {
        let found = d.authority.authorize(&shown, &peer, &needs).await;
        assert_eq!(
            found.unwrap_err().status,
            StatusCode::UNAUTHORIZED,
            "{peer:?}"
        );
    }
    // A token obtained with a password needs no certificate, even if it was obtained over a connection with one.
    let request = Request::get("/token?scope=repository:team/a:pull,push")
        .header("authorization", basic("ci", CI_PASSWORD))
        .body(Body::empty());
    let answer = d.ask_from(with_certificate("ci"), request.unwrap()).await;
    let token = format!("Bearer {}", answer.text("token"));
    assert!(d.may(&token, &needs).await.is_ok());
}

#[tokio::test]
async fn names_that_are_no_repositorys_are_not_signed() {
    let d = daemon().await;
    for name in ["own/*", "team/../secret/app", "team/x%00", "**", "Team/x"] {
        let query = format!("scope=repository:{name}:pull,push");
        let answer = d.get(&query, Some(&basic("ci", CI_PASSWORD))).await;
        let access = claims(&answer.text("token"))["access"].clone();
        assert_eq!(access, json!([]), "{name}");
    }
}

#[tokio::test]
async fn token_to_list_shows_what_its_name_may_read_and_any_other_token_lists_nothing() {
    let d = keyed().await;
    let catalog = [Need::catalog()];
    let refusal = d.may_unasked(&catalog).await.unwrap_err();
    let challenge = &challenges(&refusal)[0];
    assert!(
        challenge.contains("scope=\"registry:catalog:*\""),
        "{challenge}"
    );
    let token = async |scope: &str| {
        let scope = format!("scope={scope}");
        let answer = d.get(&scope, Some(&basic("ci", CI_PASSWORD))).await;
        format!("Bearer {}", answer.text("token"))
    };
    let lists = token("registry%3Acatalog%3A*").await;
    let who = d.may(&lists, &catalog).await.unwrap();
    assert!(who.may_list("team/a") && who.may_list("public/a") && !who.may_list("dev/a"));
    // It grants no reading.
    assert!(!who.may(&Need::pull("team/a")));
    let reads = token("repository%3Ateam%2Fa%3Apull").await;
    let refusal = d.may(&reads, &catalog).await.unwrap_err();
    let challenge = &challenges(&refusal)[0];
    assert!(
        challenge.contains("insufficient_scope") && challenge.contains("registry:catalog:*"),
        "{challenge}"
    );
    assert!(!d.may(&reads, &[]).await.unwrap().may_list("team/a"));
}
