//! How long requests take, from the ring to the answer, as counts in buckets.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// How many buckets have a bound; one more has all that took longer.
const BOUNDED: usize = 20;

/// The bound of the first bucket. Each next one's is twice as much; the last one's is more than eight seconds.
const FIRST_BOUND: Duration = Duration::from_micros(16);

/// How long requests of one kind took.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Latency {
    /// Of all of them together, in microseconds.
    sum_micros: u64,
    /// How many took at most 16 microseconds, how many more than that and at most 32, and so on, each bound twice the one
    /// before. The last number is of those that took longer than all bounds.
    buckets: [u64; BOUNDED + 1],
}

/// How long requests of each kind took.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Latencies {
    /// Of reads.
    pub read: Latency,
    /// Of writes.
    pub write: Latency,
    /// Of flushes, barriers too.
    pub flush: Latency,
    /// Of discards.
    pub discard: Latency,
}

impl Latency {
    /// A request took so long.
    #[inline]
    pub fn add(&mut self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.sum_micros = self.sum_micros.saturating_add(micros);
        self.buckets[bucket(took)] += 1;
    }

    /// Of all requests together.
    pub fn sum(&self) -> Duration {
        Duration::from_micros(self.sum_micros)
    }

    /// How many requests there were.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// How long they took on average; `None` if there were none.
    pub fn mean(&self) -> Option<Duration> {
        let micros = self.sum_micros.checked_div(self.count())?;
        Some(Duration::from_micros(micros))
    }

    /// The bound of the bucket below which so many of a thousand lie; `None` if there were none, or if it has no bound.
    pub fn quantile(&self, of_thousand: u64) -> Option<Duration> {
        let wanted = (self.count() * of_thousand).div_ceil(1000).max(1);
        let mut so_far = 0;
        let mut buckets = self.buckets();
        let (bound, _) = buckets.find(|(_, count)| {
            so_far += count;
            so_far >= wanted
        })?;
        bound
    }

    /// Those that are in this one and were not in an earlier one.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        let less = |index: usize| self.buckets[index].saturating_sub(earlier.buckets[index]);
        Self {
            sum_micros: self.sum_micros.saturating_sub(earlier.sum_micros),
            buckets: std::array::from_fn(less),
        }
    }

    /// The bounds of the buckets with how many requests are in each; `None` is without bound.
    pub fn buckets(&self) -> impl Iterator<Item = (Option<Duration>, u64)> {
        let bounds = (0..BOUNDED).map(|index| Some(bound(index)));
        bounds.chain([None]).zip(self.buckets)
    }
}

/// How long the requests in a bucket took at most.
fn bound(bucket: usize) -> Duration {
    FIRST_BOUND * (1 << bucket)
}

/// Where a request is counted that took so long.
#[inline]
fn bucket(took: Duration) -> usize {
    (0..BOUNDED)
        .find(|&index| took <= bound(index))
        .unwrap_or(BOUNDED)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn micros(count: u64) -> Duration {
        Duration::from_micros(count)
    }

    /// As many requests as each pair says, which took so many microseconds each.
    fn latency(requests: &[(u64, u64)]) -> Latency {
        let mut latency = Latency::default();
        for (count, took) in requests {
            (0..*count).for_each(|_| latency.add(micros(*took)));
        }
        latency
    }

    #[test]
    fn a_request_is_in_the_first_bucket_that_holds_it() {
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
        let latency = latency(&[(1, 10), (1, 20), (1, 30), (1, 9_000_000)]);
        let told: Vec<_> = latency.buckets().filter(|(_, count)| *count > 0).collect();
        let bound = |count| Some(micros(count));
        assert_eq!(told, [(bound(16), 1), (bound(32), 2), (None, 1)]);
        assert_eq!(latency.sum(), micros(9_000_060));
        assert_eq!(latency.buckets().count(), 21);
    }

    #[test]
    fn quantiles_are_the_bounds_of_buckets() {
        let some = latency(&[(50, 10), (49, 20), (1, 100)]);
        assert_eq!(some.count(), 100);
        assert_eq!(some.mean(), Some(micros(15)));
        assert_eq!(some.quantile(500), Some(micros(16)));
        assert_eq!(some.quantile(990), Some(micros(32)));
        assert_eq!(some.quantile(999), Some(micros(128)));
        assert_eq!(latency(&[(1, 1), (1, 10_000_000)]).quantile(999), None);
        assert_eq!(Latency::default().quantile(500), None);
        assert_eq!(Latency::default().mean(), None);
    }

    #[test]
    fn what_was_there_before_can_be_taken_off() {
        let earlier = latency(&[(1, 10), (2, 20)]);
        let later = latency(&[(1, 10), (5, 20), (1, 50)]);
        let between = later.since(&earlier);
        assert_eq!((between.count(), between.sum()), (4, micros(110)));
        // The image was closed and opened again: the counts began anew.
        assert_eq!(earlier.since(&later).count(), 0);
    }
}
