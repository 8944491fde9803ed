//! Panics, which are bugs in cachectl or a library: reported like an error, and in an import or export like any other cache problem.

use std::{
    any::Any,
    panic::{self, AssertUnwindSafe},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use futures_util::FutureExt as _;
use parking_lot::Mutex;

use super::{
    args,
    error::{CommandError, Kind, MAY_BE_PARTLY, Result},
    output,
    part::Verb,
    session::Session,
    summary::Summary,
};
use crate::progress::Phase;

/// Whether a caller will report the panic itself.
static HELD_BACK: AtomicBool = AtomicBool::new(false);
/// The first unreported panic; later ones follow from it.
static FIRST: Mutex<Option<CommandError>> = Mutex::new(None);

/// Makes panics of this process print as errors.
pub(super) fn install() {
    panic::set_hook(Box::new(|info| {
        let place = info
            .location()
            .map_or_else(String::new, |l| format!(" at {}:{}", l.file(), l.line()));
        let what = info.payload_as_str().unwrap_or("panic");
        let error = bug(&format!("{what}{place}"));
        if HELD_BACK.load(Ordering::SeqCst) {
            let mut first = FIRST.lock();
            first.get_or_insert(error);
        } else {
            // Not `eprintln!`, which would panic again if standard error is closed.
            output::note(&error.render());
        }
    }));
}

fn bug(what: &str) -> CommandError {
    CommandError::new(Kind::Bug, what).hint(format!(
        "please report it with this line, the version (cachectl {}) and the command that was run",
        env!("CARGO_PKG_VERSION")
    ))
}

/// The summary of an export or import; for one that panicked, a summary without results that says why.
///
/// # Errors
/// Those of `work`.
pub(super) async fn caught(
    session: &Session,
    verb: Verb,
    source: args::Source,
    work: impl Future<Output = Result<Summary>>,
) -> Result<Summary> {
    let mut error = match held_back(work).await {
        Ok(end) => return end,
        Err(error) => error,
    };
    if verb == Verb::Import && session.reporter.last_phase() == Some(Phase::Place) {
        error.message.push_str(MAY_BE_PARTLY);
        error.partly = true;
    }
    let mut summary = Summary {
        verb,
        store: session.store_shown_if_set(),
        parts: Vec::new(),
        troubles: Vec::new(),
        elapsed: Duration::ZERO,
    };
    summary.trouble_before(error, source)?;
    summary.elapsed = session.began.elapsed();
    Ok(summary)
}

/// Runs `work` without printing its panics; returns `Err` if a panic ended the work.
async fn held_back<T>(work: impl Future<Output = T>) -> Result<T> {
    HELD_BACK.store(true, Ordering::SeqCst);
    let end = AssertUnwindSafe(work).catch_unwind().await;
    HELD_BACK.store(false, Ordering::SeqCst);
    let first = FIRST.lock().take();
    match (end, first) {
        (Err(payload), first) => Err(first.unwrap_or_else(|| bug(said(&*payload)))),
        (Ok(end), first) => {
            // The work finished despite the panic.
            if let Some(error) = first {
                output::note(&error.render());
            }
            Ok(end)
        }
    }
}

fn said(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| payload.downcast_ref::<&str>().copied())
        .unwrap_or("panic")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_of_the_work_is_an_error_of_it() {
        let error = held_back(async { panic!("no {}", "header") })
            .await
            .map(|(): ()| ())
            .unwrap_err();
        assert_eq!((error.kind, error.kind.code()), (Kind::Bug, 70));
        let line = error.line();
        assert!(
            line.starts_with("this is a bug in cachectl: no header"),
            "{line}"
        );
        assert_eq!(held_back(async { 7 }).await.unwrap(), 7);
    }
}
