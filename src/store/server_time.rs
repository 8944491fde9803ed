//! What a server's answers say of time: dates, its clock, how long to wait.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::time::{Duration, Instant};

use crate::entry::Time;

/// Longest wait that we believe a server asks for.
const MAX_RETRY_AFTER: Duration = Duration::from_hours(1);

/// How long an answer's `Date` is good: longer, and a node that slept meanwhile would not know.
const GOOD_FOR: Duration = Duration::from_mins(1);

/// Reads a date as HTTP headers have it (RFC 9110, 5.6.7).
pub(super) fn date(text: &str) -> Option<Time> {
    httpdate::parse_http_date(text).ok().map(Time::from)
}

/// Reads `Retry-After` (RFC 9110, 10.2.3): seconds, or a date by the server's own clock, which is in `sent_at`, its `Date`; an hour
/// at most.
pub(super) fn retry_after(value: &str, sent_at: Option<&str>) -> Option<Duration> {
    let value = value.trim();
    let wait = if let Ok(seconds) = value.parse::<u64>() {
        Duration::from_secs(seconds)
    } else {
        let until = date(value)?;
        let now = sent_at.and_then(date).unwrap_or_else(Time::now);
        Duration::from_secs(u64::try_from(until.secs - now.secs).unwrap_or(0))
    };
    Some(wait.min(MAX_RETRY_AFTER))
}

/// A server's clock, by the `Date` of its answers; cheap to clone, all clones share one memory.
#[derive(Debug, Clone, Default)]
pub(super) struct ServerClock(Arc<Mutex<Option<(Time, Instant)>>>);

impl ServerClock {
    /// The server's time now, if an answer told it lately.
    pub(super) fn now(&self) -> Option<Time> {
        let (told, at) = (*self.0.lock())?;
        let since = at.elapsed();
        if since > GOOD_FOR {
            return None;
        }
        Time::from_nanos(told.as_nanos() + since.as_nanos() as i128)
    }

    /// Whether any answer told it yet.
    pub(super) fn heard(&self) -> bool {
        self.0.lock().is_some()
    }

    /// Takes the time from an answer with these headers. One out of a cache, which has an `Age`, tells the time of long ago (RFC
    /// 9111, 5.1).
    pub(super) fn listen(&self, sent_at: Option<&str>, age: Option<&str>) {
        if let Some(time) = sent_at.filter(|_| age.is_none()).and_then(date) {
            *self.0.lock() = Some((time, Instant::now()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

    #[test]
    fn retry_after_takes_seconds_and_dates_and_is_bounded() {
        let wait = |value: &str| retry_after(value, Some(NOW)).map(|d| d.as_secs());
        assert_eq!(wait("7"), Some(7));
        assert_eq!(wait("Sun, 06 Nov 1994 08:50:00 GMT"), Some(23));
        assert_eq!(wait("Sun, 06 Nov 1994 08:00:00 GMT"), Some(0));
        assert_eq!(wait("99999999999"), Some(3600));
        assert_eq!(wait("soon"), None);
        assert_eq!(wait("-1"), None);
        // Without a `Date` this node's clock has to do.
        assert_eq!(retry_after(NOW, None), Some(Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn time_goes_on_after_it_was_told_and_is_forgotten_later() {
        let clock = ServerClock::default();
        clock.listen(Some("yesterday"), None);
        clock.listen(Some(NOW), Some("60"));
        assert!(!clock.heard() && clock.now().is_none());
        clock.listen(Some(NOW), None);
        tokio::time::advance(Duration::from_secs(5)).await;
        // `date -u -d '…' +%s`
        assert_eq!(clock.now().map(|t| t.secs), Some(784_111_777 + 5));
        tokio::time::advance(GOOD_FOR).await;
        assert!(clock.heard() && clock.now().is_none());
    }
}
