//! The store's clock, taken from the `Date` of every answer.

use std::sync::{Arc, Mutex, PoisonError};

use aws_sdk_s3::config::{
    ConfigBag, Intercept, RuntimeComponents,
    interceptors::BeforeDeserializationInterceptorContextRef,
};
use aws_sdk_s3::error::BoxError;
use tokio::time::{Duration, Instant};

use super::error::http_date;
use crate::entry::Time;

/// How long an answer's `Date` is good: longer, and a node that slept meanwhile would not know.
const GOOD_FOR: Duration = Duration::from_mins(1);

/// Remembers when the store last told the time; cheap to clone, all clones share one memory.
#[derive(Debug, Clone, Default)]
pub(super) struct Clock(Arc<Mutex<Option<(Time, Instant)>>>);

impl Clock {
    /// The store's time now, if an answer told it lately.
    pub(super) fn now(&self) -> Option<Time> {
        let (told, at) = (*self.0.lock().unwrap_or_else(PoisonError::into_inner))?;
        let since = at.elapsed();
        if since > GOOD_FOR {
            return None;
        }
        Time::from_nanos(told.as_nanos() + since.as_nanos() as i128)
    }

    /// Whether any answer told it yet.
    pub(super) fn heard(&self) -> bool {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .is_some()
    }

    fn told(&self, time: Time) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((time, Instant::now()));
    }
}

impl Intercept for Clock {
    fn name(&self) -> &'static str {
        "cachectl::store::s3::Clock"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let headers = context.response().headers();
        // An answer out of a cache tells the time of long ago (RFC 9111, 5.1).
        if headers.get("age").is_none()
            && let Some(date) = headers.get("date").and_then(http_date)
        {
            self.told(date.into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn time_goes_on_after_it_was_told_and_is_forgotten_later() {
        let clock = Clock::default();
        assert_eq!(clock.now(), None);
        clock.told(Time {
            secs: 100,
            nanos: 0,
        });
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(
            clock.now(),
            Some(Time {
                secs: 105,
                nanos: 0
            })
        );
        tokio::time::advance(GOOD_FOR).await;
        assert_eq!(clock.now(), None);
    }
}
