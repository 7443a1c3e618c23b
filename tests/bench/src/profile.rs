//! Where the worker's time goes: `perf` samples the daemon's worker while a guest keeps its ring full, and the functions that
//! it was found in are put together by what they belong to.

mod groups;
mod perf;

use std::time::Instant;

use crate::error::{BenchError, Result};
use crate::pattern::Direction;
use crate::render::numbers::figure;
use crate::report::{Figure, Row, Unit};
use crate::rig::{worker_cpu, worker_thread};
use crate::rings::Driven;
use crate::scale::Scale;
use crate::site::Scratch;
use crate::tool;
use groups::{Share, shares};
use perf::{Recording, Samples};

/// What is done while the worker is watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// Reads over storage that does nothing.
    Read,
    /// Writes to blocks that are allocated, over storage that does nothing.
    Write,
    /// Reads of a file in the page cache.
    CachedRead,
}

/// How the work went while the worker was watched. If something else had the processors, the shares are those of a ring that
/// was often empty.
struct Pace {
    requests_per_second: f64,
    busy_percent: f64,
}

impl Profile {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Read, Self::Write, Self::CachedRead];

    /// What its rows are called.
    pub fn id(self) -> &'static str {
        match self {
            Self::Read => "ring-profile-read",
            Self::Write => "ring-profile-write",
            Self::CachedRead => "ring-profile-cached-read",
        }
    }

    fn work(self) -> &'static str {
        match self {
            Self::Read => "reads, no storage",
            Self::Write => "writes, no storage",
            Self::CachedRead => "reads, page cache",
        }
    }

    fn start(self, scale: &Scale, scratch: &Scratch) -> Result<Driven> {
        match self {
            Self::Read => Driven::over_nothing(Direction::Read, scale.ring_requests, scratch),
            Self::Write => Driven::over_nothing(Direction::Write, scale.ring_requests, scratch),
            Self::CachedRead => Driven::over_page_cache(Direction::Read, scale.disk / 4, scratch),
        }
    }

    /// Watches the worker once; gives the share of each group, largest first, and the share of what has a name.
    ///
    /// # Errors
    /// If the daemon does not serve, or `perf` is missing or may not watch it.
    pub fn measure(self, scale: &Scale, scratch: &Scratch) -> Result<Vec<Row>> {
        tool::show(self.id());
        let mut driven = self.start(scale, scratch)?;
        let worker = worker_thread(driven.pid())?;
        let data = scratch.path("perf.data");
        let mut recording = Recording::start(worker, &data)?;
        let (begun, cpu) = (Instant::now(), worker_cpu(driven.pid())?);
        let mut requests = 0;
        while recording.is_going_on()? {
            driven.run()?;
            requests += driven.requests();
        }
        let elapsed = begun.elapsed().as_secs_f64();
        let cpu = worker_cpu(driven.pid())?.saturating_sub(cpu);
        let pace = Pace {
            requests_per_second: requests as f64 / elapsed,
            busy_percent: 100.0 * cpu.as_secs_f64() / elapsed,
        };
        recording.finish()?;
        let samples = Samples::read(&data)?;
        tool::show("");
        if samples.count() == 0 {
            let problem = format!("perf has seen nothing of thread {worker}, which was busy");
            return Err(BenchError::NoProfile(problem));
        }
        Ok(self.rows(&samples, &pace))
    }

    fn rows(self, samples: &Samples, pace: &Pace) -> Vec<Row> {
        let row = |what: &str, percent| {
            let work = format!("{}: {what}", self.work());
            let share = Figure::new("one worker", vec![percent]);
            Row::of(self.id(), work, Unit::Percent, share)
        };
        let group = |share: Share| {
            row(share.group, share.percent).at(format!("mostly `{}`", share.largest))
        };
        let mut rows: Vec<Row> = shares(samples).into_iter().map(group).collect();
        let note = format!(
            "{} samples by perf's {}, all of which are in the rows above, while requests were served at {} and the worker had a \
             processor for {:.0} % of the time",
            samples.count(),
            samples.event,
            figure(Unit::RequestsPerSecond, pace.requests_per_second),
            pace.busy_percent,
        );
        rows.push(row("samples in functions with a name", samples.named_percent()).noting(note));
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rows_are_the_groups_from_the_largest_on_and_what_has_a_name() {
        let samples = perf::parse(perf::SAMPLE).unwrap();
        let pace = Pace {
            requests_per_second: 1_234_567.0,
            busy_percent: 93.4,
        };
        let rows = Profile::Read.rows(&samples, &pace);
        let shown: Vec<_> = rows
            .iter()
            .map(|row| (row.work.as_str(), row.ours.median, row.site.as_deref()))
            .collect();
        assert_eq!(
            shown,
            [
                (
                    "reads, no storage: taking requests and checking them",
                    40.0,
                    Some("mostly `vbd::take::serve`")
                ),
                (
                    "reads, no storage: the kernel",
                    30.0,
                    Some("mostly `finish_task_switch.isra.0`")
                ),
                (
                    "reads, no storage: copying and allocation (libc)",
                    20.0,
                    Some("mostly `__memmove_avx512_unaligned_erms`")
                ),
                (
                    "reads, no storage: everything else",
                    10.0,
                    Some("mostly `0x00000000000a1b2c`")
                ),
                (
                    "reads, no storage: samples in functions with a name",
                    90.0,
                    None
                ),
            ]
        );
        assert_eq!(
            rows.last().unwrap().note.as_deref(),
            Some(
                "20 samples by perf's cpu-clock:pppH, all of which are in the rows above, while requests were served at 1,234,567/s \
                 and the worker had a processor for 93 % of the time"
            )
        );
    }
}
