//! Log lines that callers cause by refused, interrupted or failed requests: a limited number per caller, then only the count of
//! omitted lines.
//!
//! A refused request costs its sender a hundred bytes per line and needs no credentials: without a limit the log would fill the
//! disk.

use std::{collections::HashMap, sync::LazyLock, time::Duration};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::Key;

/// Lines of one caller within [`WINDOW`].
const EACH: u64 = 200;
/// Additional lines of one caller for requests that failed through our fault.
const FAILURES: u64 = 1000;
const WINDOW: Duration = Duration::from_secs(10);
/// Callers that are counted separately; all others share the limit of one.
const CALLERS: usize = 256;

static LINES: LazyLock<Lines> = LazyLock::new(Lines::default);

/// Returns true if a line caused by `caller` may be written; otherwise counts it. [`sum_up`] reports the count.
pub fn may_write(caller: &Key) -> bool {
    LINES.may_write(caller, Sort::Refused)
}

/// The same for a request that failed through our fault.
pub fn may_write_failure(caller: &Key) -> bool {
    LINES.may_write(caller, Sort::Failed)
}

/// Logs how many lines were left out in the last 10 s, once that time is over.
pub fn sum_up() {
    for (caller, lines) in LINES.over() {
        tell(&caller, lines);
    }
}

fn tell(caller: &Key, lines: u64) {
    tracing::warn!(%caller, lines, "Log lines of refused, broken-off or failed requests left out");
}

struct Lines(Mutex<State>);

struct State {
    since: Instant,
    callers: HashMap<Key, Count>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sort {
    Refused,
    Failed,
}

/// Lines of one caller.
#[derive(Debug, Clone, Copy, Default)]
struct Count {
    refused: u64,
    failed: u64,
}

impl Count {
    fn left_out(self) -> u64 {
        self.refused.saturating_sub(EACH) + self.failed.saturating_sub(FAILURES)
    }
}

impl Default for Lines {
    fn default() -> Self {
        Self(Mutex::new(State {
            since: Instant::now(),
            callers: HashMap::new(),
        }))
    }
}

impl Lines {
    fn may_write(&self, caller: &Key, sort: Sort) -> bool {
        let mut state = self.0.lock();
        let is_known = state.callers.contains_key(caller);
        let key = if is_known || state.callers.len() < CALLERS {
            caller.clone()
        } else {
            Key::Unknown
        };
        let count = state.callers.entry(key).or_default();
        let (lines, most) = match sort {
            Sort::Refused => (&mut count.refused, EACH),
            Sort::Failed => (&mut count.failed, FAILURES),
        };
        *lines += 1;
        *lines <= most
    }

    /// Callers with omitted lines, and how many, if the period is over; then a new period begins.
    fn over(&self) -> Vec<(Key, u64)> {
        let mut state = self.0.lock();
        if state.since.elapsed() < WINDOW {
            return Vec::new();
        }
        state.since = Instant::now();
        let callers = std::mem::take(&mut state.callers);
        drop(state);
        let left_out = callers
            .into_iter()
            .map(|(key, count)| (key, count.left_out()));
        left_out.filter(|(_, lines)| *lines > 0).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn caller_has_some_lines_and_what_is_left_out_is_summed_up() {
        let lines = Lines::default();
        let key = |n: usize| Key::Principal(n.to_string().into());
        let written = |n: usize| {
            let may = |_: &i32| lines.may_write(&key(n), Sort::Refused);
            (0..250).filter(may).count()
        };
        assert_eq!(written(0), 200);
        assert!(
            lines.may_write(&key(1), Sort::Refused),
            "another one has its own"
        );
        let failed = (0..1007).filter(|_| lines.may_write(&key(0), Sort::Failed));
        assert_eq!(failed.count(), 1000, "failures have more");
        assert_eq!(lines.over(), []);
        tokio::time::advance(WINDOW).await;
        assert_eq!(lines.over(), [(key(0), 57)]);
        assert_eq!(written(0), 200, "a new time has begun");
    }

    #[tokio::test(start_paused = true)]
    async fn callers_beyond_a_number_share_what_one_may_have() {
        let lines = Lines::default();
        let callers = (0..CALLERS + 500).map(|n| Key::Principal(n.to_string().into()));
        let written = callers
            .filter(|key| lines.may_write(key, Sort::Refused))
            .count();
        assert_eq!(written, CALLERS + 200);
    }
}
