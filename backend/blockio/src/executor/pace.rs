//! How fast operations are completed, to know how long it is worth to wait for several of them.

use std::time::{Duration, Instant};

/// The least and the most that waiting for several completions may delay the first. Storage that is so slow that the
/// most is too little is not held up by sleeping once more.
const BOUND_MIN: Duration = Duration::from_micros(20);
const BOUND_MAX: Duration = Duration::from_micros(400);

/// How much of what was known stays when completions arrive: all but one part in so many.
const MEMORY: u32 = 8;

/// The time between completions while operations are in flight, as it has been of late.
#[derive(Debug, Default)]
pub(super) struct Pace {
    /// When the last completions arrived, or the first operation was begun after there had been none in flight.
    since: Option<Instant>,
    between: Duration,
}

impl Pace {
    /// Operations are in flight at `now`.
    pub(super) fn busy(&mut self, now: Instant) {
        self.since.get_or_insert(now);
    }

    /// `count` operations have completed by `now`, and `left` remain in flight.
    pub(super) fn completed(&mut self, now: Instant, count: usize, left: usize) {
        let Some(count) = u32::try_from(count).ok().filter(|&count| count > 0) else {
            return;
        };
        if let Some(since) = self.since {
            let seen = now.saturating_duration_since(since) / count;
            self.between = (self.between * (MEMORY - 1) + seen) / MEMORY;
        }
        self.since = (left > 0).then_some(now);
    }

    /// What happens until operations are [`busy`](Self::busy) again is not seen.
    pub(super) fn pause(&mut self) {
        self.since = None;
    }

    /// How long to wait for `count` completions before one is enough: half as long as so many take at this pace.
    pub(super) fn bound(&self, count: usize) -> Duration {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        (self.between.saturating_mul(count) / 2).clamp(BOUND_MIN, BOUND_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pace that has seen `rounds` times `count` completions, `apart` from each other.
    fn steady(rounds: u32, count: usize, apart: Duration) -> Pace {
        let mut now = Instant::now();
        let mut pace = Pace::default();
        pace.busy(now);
        for _ in 0..rounds {
            now += apart;
            pace.completed(now, count, 1);
        }
        pace
    }

    #[test]
    fn waits_half_as_long_as_so_many_completions_take() {
        let pace = steady(100, 4, Duration::from_micros(80));
        let bound = pace.bound(10);
        assert!(bound > Duration::from_micros(95) && bound <= Duration::from_micros(100));
    }

    #[test]
    fn is_bounded_whatever_the_storage() {
        assert_eq!(Pace::default().bound(8), BOUND_MIN);
        assert_eq!(
            steady(100, 1, Duration::from_secs(1)).bound(1000),
            BOUND_MAX
        );
        assert_eq!(steady(100, 1, Duration::from_nanos(1)).bound(2), BOUND_MIN);
    }

    #[test]
    fn time_that_was_not_seen_does_not_count() {
        let mut now = Instant::now();
        let mut pace = Pace::default();
        for _ in 0..100 {
            pace.busy(now);
            now += Duration::from_micros(50);
            pace.completed(now, 1, 10);
            pace.pause();
            now += Duration::from_secs(1);
        }
        assert!(pace.bound(1) <= Duration::from_micros(50));
    }

    #[test]
    fn time_without_operations_does_not_count() {
        let mut now = Instant::now();
        let mut pace = Pace::default();
        for _ in 0..100 {
            pace.busy(now);
            now += Duration::from_micros(50);
            pace.completed(now, 1, 0);
            now += Duration::from_secs(1);
        }
        assert!(pace.bound(1) <= Duration::from_micros(50));
    }
}
