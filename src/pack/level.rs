//! The zstd level of each frame: a fixed one, or one that follows the link over which packs are sent.
//!
//! While packs wait to be sent, there is time to compress the next one better. The best level is chosen at which the pack
//! that is being written would be finished before the link has sent what waits; until both speeds are known, and whenever
//! less waits, it is the usual one. So the link never waits for a level.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use super::ZSTD_LEVEL;

/// The levels to choose from, with the bytes that a thread needs for tables at each, for frames of 2 MiB. Of a Go build cache
/// they store 3, 7 and 8 % less than the first, in 2, 3 and 4 times the time; level 12 takes 8 times as long for 1 % more.
const LEVELS: [(i32, u64); 4] = [
    (ZSTD_LEVEL, 1 << 20),
    (5, 3 << 20),
    (7, 6 << 20),
    (9, 12 << 20),
];
/// Most bytes of such tables, of all threads together.
const TABLE_BYTES: u64 = 64 << 20;
/// A pack is usually finished before it has this many bytes.
const PACK_BYTES: u64 = 64 << 20;
/// Speeds change, and threads also read and hash: a pack must be finished in this fraction of the time that there is.
const MARGIN: f64 = 0.5;
/// The link's speed is known after this time; what happened more than twice the second one ago counts little.
const MEASURED: Duration = Duration::from_secs(1);
const FORGOTTEN: Duration = Duration::from_secs(4);
/// How much a frame changes the average of a level's speed.
const WEIGHT: f64 = 0.2;

/// Chooses a level for each frame.
#[derive(Debug, Clone)]
pub enum Level {
    /// Always this one, so that the same content gives the same packs.
    Fixed(i32),
    /// As high as the link permits.
    Auto(Arc<Auto>),
}

impl Default for Level {
    fn default() -> Self {
        Self::Fixed(ZSTD_LEVEL)
    }
}

impl Level {
    /// The level of the next frame.
    pub(super) fn next(&self) -> i32 {
        match self {
            Self::Fixed(level) => *level,
            Self::Auto(auto) => auto.next(),
        }
    }

    /// Notes that a thread compressed a frame to `bytes` in `took`.
    pub(super) fn squeezed(&self, level: i32, bytes: usize, took: Duration) {
        if let Self::Auto(auto) = self {
            auto.squeezed(level, bytes, took);
        }
    }
}

/// What is known about the link and the threads.
#[derive(Debug)]
pub struct Auto {
    threads: f64,
    /// The levels for which memory suffices.
    levels: &'static [(i32, u64)],
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Bytes of finished packs that are not sent yet.
    waiting: u64,
    /// Bytes of the pack that is being written.
    written: u64,
    /// `None` while nothing waits.
    link: Option<Link>,
    /// Compressed bytes per second of a thread at each level; 0: unknown.
    speeds: [f64; LEVELS.len()],
    /// Index of the level in use.
    now: usize,
}

/// What the link took since it has been busy without a pause.
#[derive(Debug)]
struct Link {
    since: Instant,
    bytes: u64,
    /// Bytes per second; `None`: not known yet.
    rate: Option<f64>,
}

impl Link {
    fn new(since: Instant) -> Self {
        Self {
            since,
            bytes: 0,
            rate: None,
        }
    }

    fn after(self, bytes: u64, now: Instant) -> Self {
        let (mut since, mut bytes) = (self.since, self.bytes + bytes);
        let took = now.saturating_duration_since(since);
        let rate = (took >= MEASURED).then(|| bytes as f64 / took.as_secs_f64());
        if took >= FORGOTTEN {
            since += took / 2;
            bytes /= 2;
        }
        Self { since, bytes, rate }
    }
}

impl Auto {
    /// For a run with this many threads.
    pub fn new(threads: usize) -> Arc<Self> {
        let threads = threads.max(1);
        let fits = |(_, bytes): &&(i32, u64)| bytes * threads as u64 <= TABLE_BYTES;
        let count = LEVELS.iter().take_while(fits).count().max(1);
        Arc::new(Self {
            threads: threads as f64,
            levels: &LEVELS[..count],
            state: Mutex::default(),
        })
    }

    /// Notes that a pack of `bytes` is finished, and waits to be sent.
    pub fn finished(&self, bytes: u64) {
        let mut state = self.state.lock();
        state.waiting += bytes;
        state.written = 0;
    }

    /// Notes that the link took `bytes` of finished packs.
    pub fn sent(&self, bytes: u64, now: Instant) {
        let mut state = self.state.lock();
        state.waiting = state.waiting.saturating_sub(bytes);
        state.link = match state.waiting {
            // Pauses say nothing about the link, and neither does a burst that fits into buffers.
            0 => None,
            _ => Some(
                state
                    .link
                    .take()
                    .map_or(Link::new(now), |link| link.after(bytes, now)),
            ),
        };
    }

    /// Bytes of finished packs that wait to be sent.
    pub fn waiting(&self) -> u64 {
        self.state.lock().waiting
    }

    fn next(&self) -> i32 {
        let mut state = self.state.lock();
        // One step up at a time: the speed of a level that was never used is not known.
        let above = (state.now + 1).min(self.levels.len() - 1);
        let fast_enough = |level: &usize| state.is_fast_enough(*level, self.threads);
        state.now = (1..=above).rev().find(fast_enough).unwrap_or(0);
        self.levels[state.now].0
    }

    fn squeezed(&self, level: i32, bytes: usize, took: Duration) {
        let Some(index) = self.levels.iter().position(|(l, _)| *l == level) else {
            return;
        };
        let mut state = self.state.lock();
        state.written += bytes as u64;
        let speed = bytes as f64 / took.as_secs_f64().max(1e-6);
        let known = &mut state.speeds[index];
        *known = if *known == 0.0 {
            speed
        } else {
            *known + WEIGHT * (speed - *known)
        };
    }
}

impl State {
    /// Whether the current pack would be finished at a level before the link has sent what waits.
    fn is_fast_enough(&self, level: usize, threads: f64) -> bool {
        let known = (0..=level).rev().find(|l| self.speeds[*l] > 0.0);
        let link = self.link.as_ref().and_then(|link| link.rate);
        let (Some(known), Some(link)) = (known, link) else {
            return false;
        };
        // Each level takes at most about twice the time of the one before.
        let speed = self.speeds[known] / f64::powi(2.0, (level - known) as i32) * threads;
        let left = PACK_BYTES.saturating_sub(self.written) as f64;
        left / speed <= self.waiting as f64 / link * MARGIN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1_000_000;

    /// A thread compresses to 30 MB/s at the lowest level, and to half of it at each one above.
    fn squeeze(level: &Level, frames: usize) -> Vec<i32> {
        let squeeze = |_| {
            let next = level.next();
            let index = LEVELS.iter().position(|(l, _)| *l == next).unwrap();
            let took = Duration::from_secs_f64(0.5 / 30.0 * f64::powi(2.0, index as i32));
            level.squeezed(next, 500_000, took);
            next
        };
        (0..frames).map(squeeze).collect()
    }

    /// The link takes `bytes` in two seconds.
    fn send(auto: &Auto, bytes: u64) {
        let now = Instant::now();
        auto.sent(1, now);
        auto.sent(bytes - 1, now + Duration::from_secs(2));
    }

    #[test]
    fn level_is_the_usual_one_until_the_link_is_known_to_be_slower() {
        let auto = Auto::new(2);
        let level = Level::Auto(auto.clone());
        assert!(squeeze(&level, 40).iter().all(|l| *l == 3));
        auto.finished(20 * MB);
        assert!(squeeze(&level, 10).iter().all(|l| *l == 3));
        auto.sent(MB, Instant::now());
        assert!(squeeze(&level, 10).iter().all(|l| *l == 3));
        auto.finished(500 * MB);
        send(&auto, 250 * MB);
        assert!(squeeze(&level, 10).iter().all(|l| *l == 3));
    }

    #[test]
    fn level_rises_step_by_step_on_a_slow_link_and_falls_when_little_waits() {
        let auto = Auto::new(2);
        let level = Level::Auto(auto.clone());
        squeeze(&level, 40);
        auto.finished(20 * MB);
        send(&auto, 2 * MB);
        let levels = squeeze(&level, 6);
        assert_eq!(levels[..3], [5, 7, 9], "{levels:?}");
        auto.finished(60 * MB);
        auto.finished(60 * MB);
        assert_eq!(squeeze(&level, 4).last(), Some(&9));
        send(&auto, 137 * MB);
        assert_eq!(squeeze(&level, 1), [3]);
    }

    #[test]
    fn a_link_that_takes_packs_at_once_is_never_called_slow() {
        let auto = Auto::new(2);
        let level = Level::Auto(auto.clone());
        let mut now = Instant::now();
        for _ in 0..10 {
            squeeze(&level, 40);
            auto.finished(20 * MB);
            for _ in 0..4 {
                now += Duration::from_millis(50);
                auto.sent(5 * MB, now);
                assert_eq!(squeeze(&level, 1), [3]);
            }
            now += Duration::from_secs(3);
        }
    }

    #[test]
    fn many_threads_have_no_memory_for_high_levels() {
        for (threads, most) in [(1, 9), (4, 9), (8, 7), (16, 5), (100, 3)] {
            let auto = Auto::new(threads);
            let level = Level::Auto(auto.clone());
            squeeze(&level, 4);
            auto.finished(1000 * MB);
            send(&auto, MB);
            assert_eq!(squeeze(&level, 8).last(), Some(&most), "{threads}");
        }
    }

    #[test]
    fn a_fixed_level_stays() {
        let level = Level::Fixed(7);
        level.squeezed(7, 1, Duration::from_secs(100));
        assert_eq!(level.next(), 7);
        assert_eq!(Level::default().next(), ZSTD_LEVEL);
    }
}
