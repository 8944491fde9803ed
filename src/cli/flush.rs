//! `cachectl flush`: makes a daemon upload its backlog.

use std::{cell::RefCell, time::Duration};

use serde_json::json;

use super::{
    args,
    error::{CommandError, Result},
    session::Session,
    status::{self, waiting},
    upkeep,
};
use crate::proto::v1;

pub(crate) async fn run(session: &Session, args: &args::Flush) -> Result<u8> {
    let budget = session.budget(None);
    let daemon = upkeep::daemon(session, "flush").await?;
    let last = RefCell::new(None);
    let shown = |queue: &v1::Queue| {
        let is_left = queue.tags > 0 || queue.blobs > 0;
        if args.wait && is_left {
            let why = queue.trouble.as_deref().unwrap_or_default();
            session.reporter.note(&waiting(queue), why);
        }
        last.replace(Some(queue.clone()));
    };
    let flush = daemon.flush(args.wait, shown);
    let queue = match budget.zip(session.left_of(budget)) {
        None => flush.await?,
        Some((budget, left)) => match tokio::time::timeout(left, flush).await {
            Ok(flushed) => flushed?,
            Err(_) => return Err(not_flushed(last.take().as_ref(), budget)),
        },
    };
    session.reporter.clear();
    if session.json {
        let sent = queue.as_ref().is_none_or(|q| q.tags == 0 && q.blobs == 0);
        let left = queue.as_ref().map(status::queue);
        let object = session.object("flush", sent);
        object
            .with(json!({"waited": args.wait, "queue": left}))
            .print()?;
    } else {
        let text = match &queue {
            None => "nothing to flush: this daemon has no upload queue (write-through)".to_owned(),
            Some(queue) => waiting(queue),
        };
        session.say(&format!("{text}\n"))?;
    }
    Ok(0)
}

/// The budget ran out first.
fn not_flushed(last: Option<&v1::Queue>, budget: Duration) -> CommandError {
    let budget = humantime::format_duration(budget);
    let left = last.map_or_else(|| "the daemon did not answer".to_owned(), waiting);
    let error = CommandError::failed(format!(
        "the queue was not uploaded within {budget} (--budget): {left}"
    ));
    match last {
        None => error.hint("check whether the daemon runs: `cachectl status`"),
        Some(_) => error.hint(
            "the queue is safe on the daemon's disk, and is uploaded once the remote store accepts it",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_said_with_the_reason_and_not_how_to_carry_less() {
        let queue = v1::Queue {
            tags: 1,
            blobs: 2,
            bytes: 3000,
            oldest_seconds: Some(61),
            trouble: Some("the remote store is unreachable: connection refused".into()),
        };
        let text = not_flushed(Some(&queue), Duration::from_secs(5)).render();
        assert!(
            text.contains("within 5s (--budget): 1 tag and 2 blobs"),
            "{text}"
        );
        assert!(text.contains("connection refused"), "{text}");
        assert!(!text.contains("--max-size"), "{text}");
    }
}
