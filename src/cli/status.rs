//! `cachectl status`: shows the state of a daemon.

use std::{fmt::Write as _, time::Duration};

use serde_json::{Value, json};

use super::{
    error::Result,
    output::{self, bytes, count, printable},
    session::Session,
    upkeep,
};
use crate::proto::v1;

pub(crate) async fn run(session: &Session) -> Result<u8> {
    let budget = session.budget(None);
    let daemon = upkeep::daemon(session, "status").await?;
    let status = session.within(budget, daemon.status()).await?;
    session.reporter.clear();
    if session.json {
        // It answered.
        let object = session.object("status", true);
        object.with(json(&status)).print()?;
    } else {
        output::data(&text(&status))?;
    }
    Ok(0)
}

fn json(s: &v1::StatusResponse) -> Value {
    json!({
        "version": s.version,
        "protocol": s.protocol,
        "behind": s.store,
        "uptime_ms": s.uptime_seconds.saturating_mul(1000),
        "listeners": s.listeners,
        "allows_paths": s.allows_paths,
        "queue": s.queue.as_ref().map(queue),
    })
}

/// The queue for `--json`.
pub(crate) fn queue(q: &v1::Queue) -> Value {
    json!({
        "tags": q.tags,
        "blobs": q.blobs,
        "bytes": q.bytes,
        "oldest_ms": q.oldest_seconds.map(|s| s.saturating_mul(1000)),
        "trouble": q.trouble,
    })
}

fn text(s: &v1::StatusResponse) -> String {
    let mut text = String::new();
    let mut line = |what: &str, value: &str| {
        // A daemon reveals its store's location only to callers with all rights.
        if value.is_empty() {
            return;
        }
        let _ = writeln!(text, "{what:<10} {}", printable(value));
    };
    line("cachectld", &s.version);
    line("store", &s.store);
    let up = humantime::format_duration(Duration::from_secs(s.uptime_seconds));
    line("up", &up.to_string());
    for listener in &s.listeners {
        line("listens", listener);
    }
    if s.allows_paths {
        line("paths", "requests may name folders on its machine");
    }
    match &s.queue {
        None => line("queue", "none (write-through)"),
        Some(queue) => line("queue", &waiting(queue)),
    }
    text
}

/// `nothing waits`, or the size of the backlog.
pub(crate) fn waiting(q: &v1::Queue) -> String {
    let mut text = if q.tags == 0 && q.blobs == 0 {
        "nothing queued".to_owned()
    } else {
        format!(
            "{} and {} ({}) queued",
            count(q.tags, "tag", "tags"),
            count(q.blobs, "blob", "blobs"),
            bytes(q.bytes)
        )
    };
    if let Some(age) = q.oldest_seconds {
        let age = humantime::format_duration(Duration::from_secs(age));
        let _ = write!(text, ", the oldest for {age}");
    }
    if let Some(trouble) = &q.trouble {
        let _ = write!(text, "; {}", printable(trouble));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queue_is_told_in_words() {
        assert_eq!(waiting(&v1::Queue::default()), "nothing queued");
        let queue = v1::Queue {
            tags: 1,
            blobs: 2,
            bytes: 3000,
            oldest_seconds: Some(61),
            trouble: Some("no\nroute".into()),
        };
        assert_eq!(
            waiting(&queue),
            "1 tag and 2 blobs (3.0 kB) queued, the oldest for 1m 1s; no\u{fffd}route"
        );
    }
}
