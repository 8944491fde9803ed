//! No secret appears in logs, debug output or answers (faults.md T45).

use std::{
    io::{self, Write},
    sync::Arc,
};

use axum::http::Method;
use parking_lot::Mutex;
use tracing_subscriber::{fmt::MakeWriter, util::SubscriberInitExt as _};

use super::support::*;
use crate::serve::auth::Need;

#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

#[tokio::test]
async fn canaries_are_nowhere_to_be_seen() {
    let log = Log::default();
    let writer = log.clone();
    let guard = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(writer)
        .finish()
        .set_default();
    let mut seen = Vec::new();
    let d = daemon().await;
    let wrong = "canary-wrong-password";
    let headers = [
        basic("ci", CI_PASSWORD),
        basic("ci", wrong),
        basic(wrong, "x"),
        format!("Bearer {BOT_TOKEN}"),
        format!("Bearer {wrong}"),
        format!("Basic {wrong}"),
        d.bearer(
            "repository%3Ateam%2Fa%3Apull",
            Some(&basic("ci", CI_PASSWORD)),
        )
        .await,
    ];
    for shown in &headers {
        for need in [
            Need::push("team/a"),
            Need::delete("team/a"),
            Need::pull("x"),
        ] {
            let answer = d.may(shown, &[need]).await;
            seen.push(format!("{answer:?}"));
            if let Err(refusal) = answer {
                seen.push(format!("{} {:?}", refusal.message, refusal.headers));
            }
        }
    }
    for form in [
        format!("grant_type=password&username=ci&password={wrong}"),
        format!("grant_type=refresh_token&refresh_token={wrong}"),
        format!("grant_type={wrong}"),
        wrong.to_owned(),
    ] {
        seen.push(d.post(&form).await.body.to_string());
        let odd = [("content-type", "text/plain")];
        let answer = d.ask(Method::POST, "/token", &odd, &form).await;
        seen.push(answer.body.to_string());
    }
    seen.push(format!("{:?} {:?}", d.authority, d.config));
    drop(guard);
    let key = std::fs::read_to_string(d.dir.path().join("state/token.key")).unwrap();
    seen.push(String::from_utf8(log.0.lock().clone()).unwrap());
    let seen = seen.concat();
    assert!(
        seen.contains("Wrong user name or password"),
        "the log was heard"
    );
    let jwt = headers[6].strip_prefix("Bearer ").unwrap();
    let encoded = headers[0].strip_prefix("Basic ").unwrap();
    for secret in [
        CI_PASSWORD,
        BOT_TOKEN,
        wrong,
        key.trim(),
        jwt,
        encoded,
        "$2y$",
    ] {
        assert!(!seen.contains(secret), "`{secret}` was seen");
    }
}
