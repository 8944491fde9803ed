//! Contents of a `401`, and who receives it.

use axum::http::{Method, StatusCode};

use super::support::*;
use crate::serve::auth::{Action, Authority, Config, Exposure, Need, Peer, Scheme, TrustLocal};

fn bearer(rest: &str) -> String {
    format!("Bearer realm=\"http://{HOST}/token\",service=\"cachectld\"{rest}")
}

#[tokio::test]
async fn challenge_names_the_scope_that_is_needed() {
    let d = daemon().await;
    for (needs, scope) in [
        (vec![Need::pull("team/a")], "repository:team/a:pull"),
        (vec![Need::push("team/a")], "repository:team/a:pull,push"),
        (vec![Need::delete("team/a")], "repository:team/a:delete"),
        (
            vec![Need::push("team/a"), Need::pull("other/b").optional()],
            "repository:team/a:pull,push repository:other/b:pull",
        ),
        (
            vec![Need::push("team/a"), Need::pull("team/a").optional()],
            "repository:team/a:pull,push",
        ),
    ] {
        let refusal = d.may_unasked(&needs).await.unwrap_err();
        assert_eq!(refusal.status, StatusCode::UNAUTHORIZED);
        assert_eq!(refusal.code(), "UNAUTHORIZED");
        assert_eq!(
            challenges(&refusal),
            [bearer(&format!(",scope=\"{scope}\""))]
        );
    }
    let first = d.may_unasked(&[]).await.unwrap_err();
    assert_eq!(challenges(&first), [bearer("")]);
}

#[tokio::test]
async fn one_header_is_sent_for_each_scheme_that_is_offered() {
    for (offer, want) in [
        (vec![Scheme::Bearer, Scheme::Basic], vec!["Bearer", "Basic"]),
        (vec![Scheme::Basic, Scheme::Bearer], vec!["Basic", "Bearer"]),
        (vec![Scheme::Basic], vec!["Basic"]),
    ] {
        let d = daemon_with(|c| c.offer = offer).await;
        let refusal = d.may_unasked(&[Need::push("team/a")]).await.unwrap_err();
        let schemes: Vec<_> = challenges(&refusal)
            .iter()
            .map(|c| c.split(' ').next().unwrap().to_owned())
            .collect();
        assert_eq!(schemes, want);
    }
}

#[tokio::test]
async fn realm_is_where_the_client_sees_us() {
    async fn realm(d: &Daemon, uri: &str, headers: &[(&str, &str)], peer: &Peer) -> Option<String> {
        let found = d.authority.authorize(&parts(uri, headers), peer, &[]).await;
        let all = challenges(&found.unwrap_err());
        let bearer = all.first()?.strip_prefix("Bearer realm=\"")?.to_owned();
        Some(bearer.split('"').next().unwrap().to_owned())
    }
    let plain = remote();
    let tls = remote().over_tls(None);
    let d = daemon().await;
    let host = [("host", "cache.example")];
    let forwarded = [("host", "cache.example"), ("x-forwarded-proto", "https")];
    for (uri, headers, peer, want) in [
        (
            "/v2/",
            &host[..],
            &plain,
            Some("http://cache.example/token"),
        ),
        ("/v2/", &host[..], &tls, Some("https://cache.example/token")),
        (
            "https://h2.example:8443/v2/",
            &[][..],
            &tls,
            Some("https://h2.example:8443/token"),
        ),
        (
            "/v2/",
            &[("host", "[::1]:5000")],
            &plain,
            Some("http://[::1]:5000/token"),
        ),
        (
            "/v2/",
            &forwarded[..],
            &plain,
            Some("http://cache.example/token"),
        ),
        ("/v2/", &[][..], &plain, None),
        ("/v2/", &[("host", "a\",x=\"b")], &plain, None),
        ("/v2/", &[("host", "user@cache.example")], &plain, None),
    ] {
        assert_eq!(
            realm(&d, uri, headers, peer).await.as_deref(),
            want,
            "{headers:?}"
        );
    }
    let behind = daemon_with(|c| c.trust_forwarded = true).await;
    for (header, value) in [
        ("x-forwarded-proto", "https"),
        ("x-forwarded-proto", "https, http"),
        ("forwarded", "for=192.0.2.1;proto=https"),
    ] {
        let headers = [("host", "cache.example"), (header, value)];
        let found = realm(&behind, "/v2/", &headers, &plain).await;
        assert_eq!(
            found.as_deref(),
            Some("https://cache.example/token"),
            "{value}"
        );
    }
    let named = daemon_with(|c| c.external_url = Some("https://c.example/base/".to_owned())).await;
    let found = realm(&named, "/v2/", &forwarded, &plain).await;
    assert_eq!(found.as_deref(), Some("https://c.example/base/token"));
}

#[tokio::test]
async fn external_url_that_is_none_is_refused() {
    for bad in [
        "cache.example",
        "ftp://x",
        "https://",
        "https://a/?q=1",
        "https://u:hunter2@x",
        "https://a\"b",
    ] {
        let config = Config {
            external_url: Some(bad.to_owned()),
            ..Config::default()
        };
        let dir = tempfile::tempdir().unwrap();
        let error = Authority::open(config, dir.path(), Exposure::LocalOnly)
            .await
            .unwrap_err();
        assert!(error.message.contains("external_url"), "{error}");
        assert!(!error.message.contains("hunter2"), "{error}");
    }
}

#[tokio::test]
async fn name_that_could_break_out_of_the_header_is_left_out() {
    let d = daemon().await;
    let needs = [Need::pull("a\",error=\"x"), Need::pull("team/a")];
    let refusal = d.may_unasked(&needs).await.unwrap_err();
    assert_eq!(
        challenges(&refusal),
        [bearer(",scope=\"repository:team/a:pull\"")]
    );
}

#[tokio::test]
async fn first_question_is_refused_to_who_should_log_in() {
    let d = daemon().await;
    assert!(
        d.may_unasked(&[]).await.is_err(),
        "though some may be pulled"
    );
    assert!(d.may(&basic("ci", CI_PASSWORD), &[]).await.is_ok());
    assert!(d.may(&format!("Bearer {BOT_TOKEN}"), &[]).await.is_ok());
    let anonymous = d.bearer("repository:public/a:pull", None).await;
    assert!(d.may(&anonymous, &[]).await.is_ok());
}

#[tokio::test]
async fn wrong_password_is_refused_even_where_nobody_needs_one() {
    let d = daemon().await;
    assert!(d.may_unasked(&[Need::pull("public/a")]).await.is_ok());
    for wrong in [
        basic("ci", "wrong"),
        basic("nobody", CI_PASSWORD),
        basic("bot", "wrong"),
        basic("ci", BOT_TOKEN),
        "Digest x".to_owned(),
        "Basic !!!".to_owned(),
    ] {
        for needs in [&[][..], &[Need::pull("public/a")]] {
            let refusal = d.may(&wrong, needs).await.unwrap_err();
            assert_eq!(refusal.status, StatusCode::UNAUTHORIZED, "{wrong}");
            assert!(!challenges(&refusal)[0].contains("error="), "{wrong}");
        }
    }
}

#[tokio::test]
async fn known_name_without_the_right_is_denied() {
    let d = daemon().await;
    for (authorization, need) in [
        (basic("ci", CI_PASSWORD), Need::push("other/a")),
        (basic("ci", CI_PASSWORD), Need::delete("team/a")),
        (basic("dev", DEV_PASSWORD), Need::push("dev/a")),
        (format!("Bearer {BOT_TOKEN}"), Need::delete("team/a")),
    ] {
        let refusal = d.may(&authorization, &[need]).await.unwrap_err();
        assert_eq!(
            (refusal.status, refusal.code()),
            (StatusCode::FORBIDDEN, "DENIED")
        );
        assert!(refusal.headers.is_empty());
    }
    let refusal = d
        .may(&basic("ci", CI_PASSWORD), &[Need::push("other/a")])
        .await;
    assert_eq!(
        refusal.unwrap_err().message,
        "`ci` may not push to `other/a`"
    );
}

#[tokio::test]
async fn right_that_is_optional_refuses_nobody() {
    let d = daemon().await;
    let needs = [Need::push("team/a"), Need::pull("secret/b").optional()];
    let ci = d.may(&basic("ci", CI_PASSWORD), &needs).await.unwrap();
    assert!(!ci.may(&Need::pull("secret/b")));
}

#[tokio::test]
async fn certificate_is_a_name_and_what_it_lacks_can_be_shown() {
    let d = daemon().await;
    let request = parts("/v2/", &[("host", HOST)]);
    let ci = remote().over_tls(Some("ci".into()));
    let allowed = d
        .authority
        .authorize(&request, &ci, &[Need::push("team/a")])
        .await;
    assert_eq!(allowed.unwrap().name(), "ci");
    assert!(d.authority.authorize(&request, &ci, &[]).await.is_ok());
    // It may be sent together with another name.
    let lacking = d
        .authority
        .authorize(&request, &ci, &[Need::pull("x")])
        .await;
    assert_eq!(lacking.unwrap_err().status, StatusCode::UNAUTHORIZED);
    let dev = parts("/v2/", &[("authorization", &basic("dev", DEV_PASSWORD))]);
    let dev = d.authority.authorize(&dev, &ci, &[Need::pull("x")]).await;
    assert_eq!(dev.unwrap().name(), "dev");
}

#[tokio::test]
async fn certificate_alone_is_denied_where_nothing_else_can_be_shown() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config::default();
    let exposure = Exposure::NetworkWithClientCertificates;
    let authority = Authority::open(config, dir.path(), exposure).await.unwrap();
    let request = parts("/v2/", &[("host", HOST)]);
    let node = remote().over_tls(Some("node".into()));
    assert!(
        authority
            .authorize(&request, &node, &[Need::push("a")])
            .await
            .is_ok()
    );
    let refusal = authority
        .authorize(&request, &node, &[Need::delete("a")])
        .await;
    assert_eq!(refusal.unwrap_err().status, StatusCode::FORBIDDEN);
    let refusal = authority
        .authorize(&request, &remote(), &[Need::pull("a")])
        .await;
    assert_eq!(refusal.unwrap_err().status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn local_daemon_without_settings_asks_nobody_and_keeps_no_key() {
    let dir = tempfile::tempdir().unwrap();
    let state = dir.path().join("state");
    let authority = Authority::open(Config::default(), &state, Exposure::LocalOnly)
        .await
        .unwrap();
    let needs = [Need::push("a"), Need::delete("b")];
    // Credentials for another registry at this address are ignored.
    let request = parts("/v2/", &[("host", HOST), ("authorization", "Basic eDp5")]);
    for peer in [Peer::unix(), Peer::tcp("127.0.0.1".parse().unwrap())] {
        assert!(authority.authorize(&request, &peer, &needs).await.is_ok());
        assert!(authority.authorize(&request, &peer, &[]).await.is_ok());
    }
    assert!(!state.exists());
    // A request forwarded by a proxy is not local.
    let forwarded = parts("/v2/", &[("host", HOST), ("x-forwarded-for", "192.0.2.9")]);
    let refusal = authority.authorize(&forwarded, &Peer::unix(), &needs).await;
    assert_eq!(refusal.unwrap_err().status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn unix_socket_is_trusted_beside_users_until_it_is_not() {
    let d = daemon().await;
    let request = parts("/v2/", &[]);
    let all = [Need::delete("a")];
    let loopback = Peer::tcp("::1".parse().unwrap());
    assert!(
        d.authority
            .authorize(&request, &Peer::unix(), &all)
            .await
            .is_ok()
    );
    assert!(
        d.authority
            .authorize(&request, &loopback, &all)
            .await
            .is_err()
    );
    let d = daemon_with(|c| c.trust_local = Some(TrustLocal::Nobody)).await;
    assert!(
        d.authority
            .authorize(&request, &Peer::unix(), &all)
            .await
            .is_err()
    );
}

#[tokio::test]
async fn refusals_say_what_is_missing() {
    let d = daemon().await;
    // A token of an anonymous caller, as clients without a login get one.
    let nobody = d.bearer("repository%3Ateam%2Fa%3Apull", None).await;
    let refusal = d.may(&nobody, &[Need::pull("team/a")]).await.unwrap_err();
    assert_eq!(refusal.message, "authentication required");
    let login = basic("ci", CI_PASSWORD);
    let other = d.bearer("repository%3Ateam%2Fb%3Apull", Some(&login)).await;
    let refusal = d.may(&other, &[Need::push("team/a")]).await.unwrap_err();
    assert_eq!(
        refusal.message,
        "the token does not allow to push to `team/a`"
    );
    // A push reads first, so this is the message that its user sees.
    let pushes = daemon_with(|c| c.grants.push(rule(&["ci"], &["out/**"], &[Action::Push]))).await;
    let refusal = pushes
        .may(&login, &[Need::pull("out/a")])
        .await
        .unwrap_err();
    assert_eq!(
        refusal.message,
        "`ci` may not pull from `out/a`, only push to it; clients need both `pull` and `push` to push"
    );
    let refusal = pushes.may(&login, &[Need::pull("else")]).await.unwrap_err();
    assert_eq!(refusal.message, "`ci` may not pull from `else`");
}

#[tokio::test]
async fn token_endpoint_says_that_the_grant_type_is_missing() {
    let d = daemon().await;
    for (headers, body) in [
        (&[][..], ""),
        (
            &[("content-type", "application/x-www-form-urlencoded")],
            "service=x",
        ),
    ] {
        let answer = d.ask(Method::POST, "/token", headers, body).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST);
        let said = answer.body.to_string();
        assert!(said.contains("`grant_type` is missing"), "{said}");
    }
}
