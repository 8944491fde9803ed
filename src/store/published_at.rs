//! Publication times: the basis of "newest" and of the age of names.
//!
//! The writer records the store's clock in what it publishes, so the time is copied along. Since it could record any time, the
//! time at which the store wrote the tag is an upper bound; if the store does not keep one, its current clock is.

use crate::{digest::Digest, entry::Time};

/// The publication time: the earlier of the time recorded by the writer and the time when the store wrote it (`modified`; if
/// the store does not keep one, its clock `now`). `None` if neither is known.
///
/// A `modified` in whole seconds stands for its whole second: stores with a resolution of seconds must not reverse the order of
/// two publications within one second.
pub fn published_at(recorded: Option<Time>, modified: Option<Time>, now: Time) -> Option<Time> {
    match (recorded, modified) {
        (Some(recorded), Some(modified)) => Some(recorded.min(end_of_tick(modified))),
        (Some(recorded), None) => Some(recorded.min(now)),
        (None, modified) => modified,
    }
}

fn end_of_tick(modified: Time) -> Time {
    let nanos = if modified.nanos == 0 {
        999_999_999
    } else {
        modified.nanos
    };
    Time { nanos, ..modified }
}

/// The order of publications, used everywhere: the later time is newer; for equal times the larger digest. Unknown times are
/// older than all known ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PublishedAt {
    /// By [`published_at`].
    pub time: Option<Time>,
    /// Of the manifest that was published.
    pub digest: Digest,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: i64, nanos: u32) -> Time {
        Time { secs, nanos }
    }

    #[test]
    fn recorded_time_is_bounded_by_the_store() {
        let (now, future) = (at(1000, 5), at(9000, 0));
        for (recorded, modified, want) in [
            (Some(at(10, 7)), Some(at(20, 1)), Some(at(10, 7))),
            (Some(future), Some(at(20, 1)), Some(at(20, 1))),
            (Some(future), None, Some(now)),
            (Some(at(10, 7)), None, Some(at(10, 7))),
            (None, Some(at(20, 0)), Some(at(20, 0))),
            (None, None, None),
        ] {
            assert_eq!(published_at(recorded, modified, now), want);
        }
    }

    #[test]
    fn a_store_that_counts_seconds_keeps_the_order_within_one() {
        let second = Some(at(20, 0));
        let now = at(30, 0);
        let earlier = published_at(Some(at(20, 100)), second, now);
        let later = published_at(Some(at(20, 200)), second, now);
        assert!(earlier < later);
        assert_eq!(
            published_at(Some(at(21, 0)), second, now),
            Some(at(20, 999_999_999))
        );
    }

    #[test]
    fn of_one_time_the_larger_digest_is_newer_and_an_unknown_time_is_oldest() {
        let of = |time, text: &[u8]| PublishedAt {
            time,
            digest: Digest::sha256_of(text),
        };
        let (a, b) = (of(Some(at(5, 0)), b"a"), of(Some(at(5, 0)), b"b"));
        assert_eq!(a < b, a.digest < b.digest);
        assert!(of(None, b"a") < a && of(None, b"b") < a);
    }
}
