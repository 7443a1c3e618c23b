//! The requests of one measurement, in their order.
//!
//! Every peer gets the same list, so that what is compared is how it is served and not what was asked.

use std::fmt;
use std::str::FromStr;

use dscow::units::DiskRange;

/// One request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Read this range.
    Read(DiskRange),
    /// Write this range.
    Write(DiskRange),
    /// Make what was answered durable.
    Flush,
}

/// Reading or writing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// Reading.
    Read,
    /// Writing.
    Write,
}

/// Where the requests go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// All over the disk, no place twice.
    Random {
        /// Which of the orders.
        seed: u64,
    },
    /// From the start of the disk, one after the other.
    Sequential,
}

/// What a list of requests is made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pattern {
    /// Reading or writing.
    pub direction: Direction,
    /// Where the requests go.
    pub order: Order,
    /// Bytes of each request.
    pub request_len: u64,
    /// How many requests, flushes not counted.
    pub count: u64,
    /// Bytes of the disk, from its start, that the requests are spread over.
    pub span: u64,
    /// A flush after each so many requests; 0 for none.
    pub flush_every: u64,
}

impl Pattern {
    /// The requests in their order.
    ///
    /// # Panics
    /// If the span holds fewer than `count` places.
    pub fn steps(&self) -> Vec<Step> {
        let places = self.span / self.request_len;
        assert!(
            self.count <= places,
            "{} requests do not fit into {places} places",
            self.count
        );
        let mut steps = Vec::new();
        for (done, place) in (1..).zip(self.places(places)) {
            let range = DiskRange::new(place * self.request_len, self.request_len);
            steps.push(match self.direction {
                Direction::Read => Step::Read(range),
                Direction::Write => Step::Write(range),
            });
            if self.flush_every > 0 && done % self.flush_every == 0 {
                steps.push(Step::Flush);
            }
        }
        steps
    }

    /// The same as options of `bench direct`.
    pub fn arguments(&self) -> Vec<String> {
        let Self {
            request_len,
            count,
            span,
            flush_every,
            ..
        } = self;
        let random = matches!(self.order, Order::Random { .. });
        let mut arguments = vec![
            format!(
                "--rw={}",
                Work {
                    direction: self.direction,
                    random
                }
            ),
            format!("--bs={request_len}"),
            format!("--number-ios={count}"),
            format!("--size={span}"),
            format!("--fsync={flush_every}"),
        ];
        if let Order::Random { seed } = self.order {
            arguments.push(format!("--randseed={seed}"));
        }
        arguments
    }

    fn places(&self, places: u64) -> Vec<u64> {
        match self.order {
            Order::Sequential => (0..self.count).collect(),
            Order::Random { seed } => sample(places, self.count, seed),
        }
    }
}

/// `count` different numbers below `places`, in an order that depends on `seed` alone.
fn sample(places: u64, count: u64, seed: u64) -> Vec<u64> {
    let mut random = SplitMix(seed);
    let mut numbers: Vec<u64> = (0..places).collect();
    // The first steps of a Fisher-Yates shuffle.
    for (index, left) in (0..)
        .zip((1..=places).rev())
        .take_while(|&(index, _)| (index as u64) < count)
    {
        let other = usize::try_from(random.below(left)).expect("it is below a length");
        numbers.swap(index, index + other);
    }
    numbers.truncate(usize::try_from(count).expect("it is at most a length"));
    numbers
}

/// The generator SplitMix64: small, and good enough to spread requests.
pub struct SplitMix(
    /// The state; any number will do as a seed.
    pub u64,
);

impl SplitMix {
    /// The next number.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit`, which is not 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        u64::try_from((u128::from(self.next_u64()) * u128::from(limit)) >> 64)
            .expect("it is below a u64")
    }
}

/// What a job does, as fio calls it: `randread`, `randwrite`, `read`, `write`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Work {
    /// Reading or writing.
    pub direction: Direction,
    /// Whether all over the disk.
    pub random: bool,
}

impl FromStr for Work {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (random, rest) = text
            .strip_prefix("rand")
            .map_or((false, text), |rest| (true, rest));
        let direction = match rest {
            "read" => Direction::Read,
            "write" => Direction::Write,
            _ => return Err("must be read, write, randread or randwrite".to_owned()),
        };
        Ok(Self { direction, random })
    }
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.random { "rand" } else { "" })?;
        f.write_str(match self.direction {
            Direction::Read => "read",
            Direction::Write => "write",
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const RANDOM: Pattern = Pattern {
        direction: Direction::Write,
        order: Order::Random { seed: 7 },
        request_len: 4096,
        count: 1000,
        span: 1000 * 4096,
        flush_every: 0,
    };

    #[test]
    fn random_requests_go_to_every_place_once() {
        let starts: Vec<u64> = starts(&RANDOM);
        let all: BTreeSet<u64> = (0..1000).map(|place| place * 4096).collect();
        assert_eq!(starts.iter().copied().collect::<BTreeSet<u64>>(), all);
        assert_ne!(starts, all.into_iter().collect::<Vec<_>>());
    }

    #[test]
    fn the_order_depends_on_the_seed_alone() {
        let other = Pattern {
            order: Order::Random { seed: 8 },
            ..RANDOM
        };
        assert_eq!(RANDOM.steps(), RANDOM.steps());
        assert_ne!(RANDOM.steps(), other.steps());
    }

    #[test]
    fn a_flush_comes_after_each_so_many_requests() {
        let pattern = Pattern {
            order: Order::Sequential,
            request_len: 512,
            count: 5,
            flush_every: 2,
            ..RANDOM
        };
        let write = |place: u64| Step::Write(DiskRange::new(place * 512, 512));
        let expected = [
            write(0),
            write(1),
            Step::Flush,
            write(2),
            write(3),
            Step::Flush,
            write(4),
        ];
        assert_eq!(pattern.steps(), expected);
    }

    #[test]
    #[should_panic(expected = "1001 requests do not fit into 1000 places")]
    fn more_requests_than_places_are_refused() {
        Pattern {
            count: 1001,
            ..RANDOM
        }
        .steps();
    }

    #[test]
    fn the_generator_is_the_published_one() {
        let mut random = SplitMix(1_234_567);
        assert_eq!(random.next_u64(), 6_457_827_717_110_365_317);
        assert_eq!(random.next_u64(), 3_203_168_211_198_807_973);
    }

    #[test]
    fn work_has_the_names_of_fio() {
        let write = Work {
            direction: Direction::Write,
            random: true,
        };
        assert_eq!("randwrite".parse(), Ok(write));
        assert_eq!(write.to_string(), "randwrite");
        assert!("randtrim".parse::<Work>().is_err());
    }

    fn starts(pattern: &Pattern) -> Vec<u64> {
        pattern
            .steps()
            .into_iter()
            .map(|step| match step {
                Step::Write(range) => range.start.0,
                other => panic!("{other:?}"),
            })
            .collect()
    }
}
