//! Files that change under a running daemon.

use axum::http::StatusCode;

use super::support::*;
use crate::serve::auth::Need;

const NEED: [Need<'static>; 1] = [Need {
    repository: std::borrow::Cow::Borrowed("team/a"),
    action: crate::serve::auth::Action::Push,
    catalog: false,
    optional: false,
    somewhere: false,
}];

fn write(d: &Daemon, file: &str, text: &str) {
    std::fs::write(d.dir.path().join(file), text).unwrap();
}

/// `ci` with the password "another", by `htpasswd -nbB -C 4`.
const OTHER: &str = "ci:$2y$04$CGnNwj0xJ3UJkXCvBJg9IeWf8nqweuTOTtm3bDOjAH2knnwHkMv7u";

#[tokio::test]
async fn reload_takes_users_and_their_tokens_away() {
    let d = daemon().await;
    let login = "offline_token=true&scope=repository%3Ateam%2Fa%3Apush";
    let answer = d.get(login, Some(&basic("ci", CI_PASSWORD))).await;
    let token = format!("Bearer {}", answer.text("token"));
    let refresh = format!(
        "grant_type=refresh_token&refresh_token={}",
        answer.text("refresh_token")
    );
    assert!(d.may(&token, &NEED).await.is_ok());
    for file in ["# nobody\n", OTHER] {
        write(&d, "htpasswd", file);
        assert!(
            d.may(&basic("ci", CI_PASSWORD), &NEED).await.is_ok(),
            "not before"
        );
        d.reload().await.unwrap();
        // Remembered as right before the reload.
        let refusal = d.may(&basic("ci", CI_PASSWORD), &NEED).await.unwrap_err();
        assert_eq!(refusal.status, StatusCode::UNAUTHORIZED);
        assert!(d.may(&token, &NEED).await.is_err());
        assert_eq!(d.post(&refresh).await.status, StatusCode::UNAUTHORIZED);
        write(&d, "htpasswd", HTPASSWD);
        d.reload().await.unwrap();
        assert!(d.may(&token, &NEED).await.is_ok(), "the same hash again");
    }
}

#[tokio::test]
async fn reload_takes_static_tokens_away() {
    let d = daemon().await;
    let token = d
        .bearer(
            "repository%3Ateam%2Fa%3Apush",
            Some(&basic("bot", BOT_TOKEN)),
        )
        .await;
    write(&d, "tokens", "bot another-0123456789abcdef\n");
    d.reload().await.unwrap();
    for gone in [
        token,
        basic("bot", BOT_TOKEN),
        format!("Bearer {BOT_TOKEN}"),
    ] {
        assert!(d.may(&gone, &NEED).await.is_err());
    }
    assert!(
        d.may("Bearer another-0123456789abcdef", &NEED)
            .await
            .is_ok()
    );
}

#[tokio::test]
async fn failed_reload_changes_nothing() {
    let d = daemon().await;
    let cases = [
        ("htpasswd", "new:$apr1$x$y\n", HTPASSWD.to_owned()),
        ("tokens", "bot short\n", format!("bot {BOT_TOKEN}\n")),
    ];
    for (file, bad, good) in cases {
        write(&d, file, bad);
        let error = d.reload().await.unwrap_err();
        assert!(error.message.contains("line 1"), "{error}");
        assert!(d.may(&basic("ci", CI_PASSWORD), &NEED).await.is_ok());
        assert!(d.may(&format!("Bearer {BOT_TOKEN}"), &NEED).await.is_ok());
        write(&d, file, &good);
    }
    std::fs::remove_file(d.dir.path().join("htpasswd")).unwrap();
    let error = d.reload().await.unwrap_err();
    assert!(error.message.contains("htpasswd"), "{error}");
    assert!(d.may(&basic("ci", CI_PASSWORD), &NEED).await.is_ok());
}

#[tokio::test]
async fn many_at_once_are_all_answered() {
    let d = daemon().await;
    let right = basic("ci", CI_PASSWORD);
    let wrong = basic("ci", "wrong");
    let all = (0..40).map(|i| {
        let shown = if i % 10 == 0 { &wrong } else { &right };
        let d = &d;
        async move { d.may(shown, &NEED).await.is_ok() == (i % 10 != 0) }
    });
    assert!(
        futures_util::future::join_all(all)
            .await
            .into_iter()
            .all(|ok| ok)
    );
}
