//! Requests as real clients send them.
//!
//! Query strings and forms are written as Go's `url.Values` encodes what these files put into them:
//! `distribution/distribution:internal/client/auth/session.go` (docker), `containerd/containerd:core/remotes/docker/auth/fetch.go`
//! (containerd, BuildKit), `google/go-containerregistry:pkg/v1/remote/transport/bearer.go`, `oras-project/oras-go:registry/remote/auth/client.go`.

use axum::http::{Method, StatusCode};

use super::support::*;
use crate::serve::auth::Need;

const FORM: &str = "application/x-www-form-urlencoded";

#[tokio::test]
async fn docker_logs_in_and_then_pushes_with_its_identity_token() {
    let d = daemon().await;
    let ping = parts(
        "/v2/",
        &[
            ("host", HOST),
            (
                "user-agent",
                "docker/27.5.1 go/go1.22.11 os/linux arch/amd64",
            ),
        ],
    );
    let refusal = d
        .authority
        .authorize(&ping, &remote(), &[])
        .await
        .unwrap_err();
    let want = format!("Bearer realm=\"http://{HOST}/token\",service=\"cachectld\"");
    assert_eq!(challenges(&refusal), [want]);

    let login = "account=ci&client_id=docker&offline_token=true&service=cachectld";
    let wrong = d.get(login, Some(&basic("ci", "wrong"))).await;
    assert_eq!(wrong.status, StatusCode::UNAUTHORIZED);
    let answer = d.get(login, Some(&basic("ci", CI_PASSWORD))).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert!(
        d.may(&format!("Bearer {}", answer.text("token")), &[])
            .await
            .is_ok()
    );
    let identity = answer.text("refresh_token");

    let push = format!(
        "client_id=docker&grant_type=refresh_token&refresh_token={identity}\
         &scope=repository%3Ateam%2Fapp%3Apull%2Cpush&service=cachectld"
    );
    for _ in 0..2 {
        let answer = d.post(&push).await;
        assert_eq!(answer.status, StatusCode::OK);
        assert_eq!(answer.text("scope"), "repository:team/app:pull,push");
        assert_eq!(
            answer.text("refresh_token"),
            identity,
            "it can be used again"
        );
        let token = format!("Bearer {}", answer.text("access_token"));
        let needs = [Need::push("team/app"), Need::pull("team/app")];
        assert_eq!(d.may(&token, &needs).await.unwrap().name(), "ci");
    }
}

#[tokio::test]
async fn docker_pulls_without_a_login() {
    let d = daemon().await;
    let answer = d
        .get(
            "scope=repository%3Apublic%2Fa%3Apull&service=cachectld",
            None,
        )
        .await;
    assert_eq!(answer.status, StatusCode::OK);
    assert!(answer.body.get("refresh_token").is_none());
    let token = format!("Bearer {}", answer.text("token"));
    assert!(
        d.may(&token, &[Need::pull("public/a")])
            .await
            .unwrap()
            .is_anonymous()
    );
    let refusal = d.may(&token, &[Need::push("public/a")]).await.unwrap_err();
    assert_eq!(refusal.status, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn docker_mounts_with_a_second_scope() {
    let d = daemon().await;
    let query = "scope=repository%3Ateam%2Fapp%3Apull%2Cpush&scope=repository%3Ateam%2Fbase%3Apull&service=cachectld";
    let token = d
        .get(query, Some(&basic("ci", CI_PASSWORD)))
        .await
        .text("token");
    let needs = [Need::push("team/app"), Need::pull("team/base").optional()];
    let ci = d.may(&format!("Bearer {token}"), &needs).await.unwrap();
    assert!(needs.iter().all(|n| ci.may(n)));
}

#[tokio::test]
async fn buildkit_mounts_from_what_it_may_not_read_and_pushes_all_the_same() {
    let d = daemon().await;
    let query = "scope=repository%3Asecret%2Fbase%3Apull&scope=repository%3Ateam%2Fapp%3Apull%2Cpush&service=cachectld";
    let answer = d.get(query, Some(&basic("ci", CI_PASSWORD))).await;
    assert_eq!(answer.status, StatusCode::OK, "a smaller grant is no error");
    let token = format!("Bearer {}", answer.text("token"));
    let needs = [Need::push("team/app"), Need::pull("secret/base").optional()];
    let ci = d.may(&token, &needs).await.unwrap();
    assert!(!ci.may(&needs[1]));
}

#[tokio::test]
async fn buildkit_asks_by_get_and_then_by_post() {
    let d = daemon().await;
    let scope = "scope=repository%3Ateam%2Fapp%3Apull%2Cpush&service=cachectld";
    // With an identity token there is no name, and the client does not use GET.
    let identity = d
        .get("offline_token=true", Some(&basic("ci", CI_PASSWORD)))
        .await
        .text("refresh_token");
    let first = d.get(scope, Some(&basic("", &identity))).await;
    assert_eq!(first.status, StatusCode::UNAUTHORIZED);
    let form = format!(
        "client_id=buildkit-client&grant_type=refresh_token&refresh_token={identity}&{scope}"
    );
    let headers = [
        (
            "content-type",
            "application/x-www-form-urlencoded; charset=utf-8",
        ),
        ("user-agent", "buildkit/v0.29"),
    ];
    let second = d.ask(Method::POST, "/token", &headers, &form).await;
    assert_eq!(second.status, StatusCode::OK);
    // With name and password both methods work, and wrong ones work in neither.
    let form = |password: &str| {
        format!(
            "client_id=buildkit-client&grant_type=password&password={password}&{scope}&username=ci"
        )
    };
    assert_eq!(d.post(&form("correct+horse")).await.status, StatusCode::OK);
    assert_eq!(
        d.post(&form("wrong")).await.status,
        StatusCode::UNAUTHORIZED
    );
}

#[tokio::test]
async fn containerd_reads_what_the_answer_says_of_time() {
    let d = daemon().await;
    let form = "client_id=containerd-client&grant_type=password&password=correct+horse\
                &scope=repository%3Ateam%2Fapp%3Apull&service=cachectld&username=ci";
    let answer = d.post(form).await;
    assert_eq!(answer.body["expires_in"], 300);
    let issued = answer.text("issued_at");
    assert!(humantime::parse_rfc3339(&issued).is_ok(), "{issued}");
    assert_eq!(answer.text("token"), answer.text("access_token"));
    assert!(answer.body.get("refresh_token").is_none(), "not asked for");
    assert_eq!(answer.headers["cache-control"], "no-store");
    assert_eq!(answer.headers["content-type"], "application/json");
}

#[tokio::test]
async fn skopeo_and_oras_ask_by_get() {
    let d = daemon().await;
    for (query, header) in [
        (
            "account=ci&scope=repository%3Ateam%2Fapp%3Apull%2Cpush&service=cachectld",
            ("docker-distribution-api-version", "registry/2.0"),
        ),
        (
            "scope=repository%3Ateam%2Fapp%3Apull%2Cpush&service=cachectld",
            ("user-agent", "oras-go"),
        ),
    ] {
        let headers = [header, ("authorization", &*basic("ci", CI_PASSWORD))];
        let answer = d
            .ask(Method::GET, &format!("/token?{query}"), &headers, "")
            .await;
        let token = format!("Bearer {}", answer.text("token"));
        assert!(d.may(&token, &[Need::push("team/app")]).await.is_ok());
    }
}

#[tokio::test]
async fn oras_gets_a_refresh_token_only_if_it_asks() {
    let d = daemon().await;
    let form = "access_type=offline&client_id=oras-go&grant_type=password&password=s%3Awith%3Acolons&service=cachectld&username=dev";
    let refresh = d.post(form).await.text("refresh_token");
    let form = format!(
        "client_id=oras-go&grant_type=refresh_token&refresh_token={refresh}&scope=repository%3Ax%3Apull&service=cachectld"
    );
    assert_eq!(d.post(&form).await.text("scope"), "repository:x:pull");
}

#[tokio::test]
async fn crane_widens_its_token_to_delete() {
    let d = daemon().await;
    // It requests push although it is about to delete, and puts several scopes into one parameter.
    let dev = basic("dev", DEV_PASSWORD);
    let token = d
        .bearer("repository%3Adev%2Fa%3Apush%2Cpull", Some(&dev))
        .await;
    let refusal = d.may(&token, &[Need::delete("dev/a")]).await.unwrap_err();
    let challenge = &challenges(&refusal)[0];
    assert!(
        challenge.contains("error=\"insufficient_scope\""),
        "{challenge}"
    );
    assert!(
        challenge.contains("scope=\"repository:dev/a:delete\""),
        "{challenge}"
    );
    let wider = d
        .bearer(
            "repository%3Adev%2Fa%3Adelete+repository%3Adev%2Fa%3Apush%2Cpull",
            Some(&dev),
        )
        .await;
    assert!(d.may(&wider, &[Need::delete("dev/a")]).await.is_ok());
}

#[tokio::test]
async fn static_token_serves_as_bearer_as_password_and_for_tokens() {
    let d = daemon().await;
    let need = [Need::push("team/a")];
    assert_eq!(
        d.may(&format!("Bearer {BOT_TOKEN}"), &need)
            .await
            .unwrap()
            .name(),
        "bot"
    );
    assert_eq!(
        d.may(&basic("bot", BOT_TOKEN), &need).await.unwrap().name(),
        "bot"
    );
    for shown in [basic("bot", BOT_TOKEN), format!("Bearer {BOT_TOKEN}")] {
        let token = d.bearer("repository%3Ateam%2Fa%3Apush", Some(&shown)).await;
        assert_eq!(d.may(&token, &need).await.unwrap().name(), "bot");
    }
}

#[tokio::test]
async fn forms_that_make_no_sense_are_bad_requests() {
    let d = daemon().await;
    for form in [
        "",
        "grant_type=authorization_code",
        "grant_type=hunter2",
        &format!("x={}", "y".repeat(70_000)),
    ] {
        let answer = d.post(form).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST);
        assert!(!answer.body.to_string().contains("hunter2"));
    }
    let json = d
        .ask(
            Method::POST,
            "/token",
            &[("content-type", "application/json")],
            "{}",
        )
        .await;
    assert_eq!(json.status, StatusCode::BAD_REQUEST);
    let put = d
        .ask(Method::PUT, "/token", &[("content-type", FORM)], "")
        .await;
    assert_eq!(put.status, StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn token_endpoint_is_not_there_where_tokens_are_not_offered() {
    let d = daemon_with(|c| c.offer = vec![crate::serve::auth::Scheme::Basic]).await;
    assert_eq!(d.get("scope=x", None).await.status, StatusCode::NOT_FOUND);
    assert!(!d.dir.path().join("state").exists());
}
