//! Time in a server's answers: dates, its clock, how long to wait.

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::time::{Duration, Instant};

use crate::entry::Time;

/// Maximum wait that we accept from a server.
const MAX_RETRY_AFTER: Duration = Duration::from_hours(1);

/// How long an answer's `Date` is used: with a longer time, a node that was suspended meanwhile would not notice.
const GOOD_FOR: Duration = Duration::from_mins(1);

/// Parses a date in HTTP headers (RFC 9110, 5.6.7).
pub(super) fn date(text: &str) -> Option<Time> {
    httpdate::parse_http_date(text).ok().map(Time::from)
}

/// Parses `Retry-After` (RFC 9110, 10.2.3): seconds, or a date by the server's own clock, which is in `sent_at`, its `Date`; at
/// most an hour.
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

/// A server's clock, from the `Date` of its answers; cheap to clone, clones share their state.
#[derive(Debug, Clone, Default)]
pub(super) struct ServerClock(Arc<Mutex<Option<(Time, Instant)>>>);

impl ServerClock {
    /// The server's current time, if a recent answer contained it.
    pub(super) fn now(&self) -> Option<Time> {
        let (told, at) = (*self.0.lock())?;
        let since = at.elapsed();
        if since > GOOD_FOR {
            return None;
        }
        Time::from_nanos(told.as_nanos() + since.as_nanos() as i128)
    }

    /// Whether any answer has contained it yet.
    pub(super) fn heard(&self) -> bool {
        self.0.lock().is_some()
    }

    /// Takes the time from an answer with these headers. An answer from a cache, which has an `Age`, contains an old time (RFC
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
        // Without a `Date`, this node's clock is used.
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
