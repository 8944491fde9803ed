//! Pauses between attempts.

use std::time::Duration;

/// The length of a pause: each is twice as long as the one before, up to a limit. Half of every pause is random, so that
/// clients that failed together do not retry together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
}

impl Backoff {
    /// Pauses of at most `first`, then twice that and so on, never more than `longest`.
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest }
    }

    /// The pause after a failed attempt, with `failures_before` earlier failures.
    pub fn pause(&self, failures_before: u32) -> Duration {
        let grown = self
            .first
            .saturating_mul(2_u32.saturating_pow(failures_before));
        grown.min(self.longest).mul_f64(0.5 + 0.5 * fastrand::f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_half_of_each_is_chance() {
        let (first, longest) = (Duration::from_millis(100), Duration::from_secs(1));
        let backoff = Backoff::new(first, longest);
        for (failures, most) in [(0, 100), (1, 200), (3, 800), (4, 1000), (u32::MAX, 1000)] {
            let most = Duration::from_millis(most);
            let pauses: Vec<_> = (0..100).map(|_| backoff.pause(failures)).collect();
            assert!(
                pauses.iter().all(|p| (most / 2..=most).contains(p)),
                "{failures}: {pauses:?}"
            );
            assert!(pauses.iter().any(|p| *p != pauses[0]), "{failures}");
        }
    }
}
