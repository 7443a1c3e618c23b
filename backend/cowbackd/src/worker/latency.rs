//! How long requests take, from the ring to the answer.

use std::time::{Duration, Instant};

use serde::Serialize;
use utoipa::ToSchema;

/// How many buckets have a bound; one more has all that took longer.
const BOUNDED: usize = 20;

/// The bound of the first bucket. Each next one's is twice as much; the last one's is more than eight seconds.
const FIRST_BOUND: Duration = Duration::from_micros(16);

/// How long requests of one kind took.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct Latency {
    /// Of all of them together, in microseconds.
    sum_micros: u64,
    /// How many took at most 16 microseconds, how many more than that and at most 32, and so on, each bound twice the one
    /// before. The last number is of those that took longer than all bounds.
    buckets: [u64; BOUNDED + 1],
}

impl Latency {
    /// A request took so long.
    pub(super) fn add(&mut self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.sum_micros = self.sum_micros.saturating_add(micros);
        self.buckets[bucket(took)] += 1;
    }

    /// Of all requests together.
    pub(crate) fn sum(&self) -> Duration {
        Duration::from_micros(self.sum_micros)
    }

    /// The bounds of the buckets with how many requests are in each; `None` is without bound.
    pub(crate) fn buckets(&self) -> impl Iterator<Item = (Option<Duration>, u64)> {
        let bounds = (0..BOUNDED).map(|index| Some(FIRST_BOUND * (1 << index)));
        bounds.chain([None]).zip(self.buckets)
    }
}

/// Where a request is counted that took so long.
fn bucket(took: Duration) -> usize {
    (0..BOUNDED)
        .find(|&index| took <= FIRST_BOUND * (1 << index))
        .unwrap_or(BOUNDED)
}

/// How long requests of each kind took.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct Latencies {
    pub(crate) read: Latency,
    pub(crate) write: Latency,
    /// Barriers too.
    pub(crate) flush: Latency,
    pub(crate) discard: Latency,
}

/// The time, asked for once in a round of the worker's loop at most, since that can cost a call to the kernel in a dom0.
#[derive(Debug, Default)]
pub(super) struct RoundClock(Option<Instant>);

impl RoundClock {
    /// A moment in this round.
    pub(super) fn now(&mut self) -> Instant {
        *self.0.get_or_insert_with(Instant::now)
    }

    /// A round has ended.
    pub(super) fn next_round(&mut self) {
        self.0 = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_in_the_first_bucket_that_holds_it() {
        let micros = Duration::from_micros;
        for (took, expected) in [
            (Duration::ZERO, 0),
            (micros(16), 0),
            (micros(16) + Duration::from_nanos(1), 1),
            (micros(32), 1),
            (micros(33), 2),
            (micros(16 << 19), 19),
            (micros((16 << 19) + 1), 20),
            (Duration::MAX, 20),
        ] {
            assert_eq!(bucket(took), expected, "{took:?}");
        }
    }

    #[test]
    fn what_is_counted_is_told_with_its_bounds() {
        let mut latency = Latency::default();
        for micros in [10, 20, 30, 9_000_000] {
            latency.add(Duration::from_micros(micros));
        }
        let told: Vec<_> = latency.buckets().filter(|(_, count)| *count > 0).collect();
        let bound = |micros| Some(Duration::from_micros(micros));
        assert_eq!(told, [(bound(16), 1), (bound(32), 2), (None, 1)]);
        assert_eq!(latency.sum(), Duration::from_micros(9_000_060));
        assert_eq!(latency.buckets().count(), 21);
    }

    #[test]
    fn a_round_has_one_time() {
        let mut clock = RoundClock::default();
        let first = clock.now();
        std::thread::sleep(Duration::from_millis(1));
        assert_eq!(clock.now(), first);
        clock.next_round();
        assert!(clock.now() > first);
    }
}
