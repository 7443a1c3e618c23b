//! Requests from ring to ring: the whole daemon with one worker, driven by a guest on the simulated host.
//!
//! The guest has one page of ring, as Linux's blkfront by default, and keeps its 32 places full. Time is that of the
//! guest's first request to its last answer. CPU time is that of the daemon's worker, with all system calls that it makes,
//! those of the simulated event channels among them; the guest's own is not in it.

use std::path::Path;
use std::time::Duration;

use blockio::image::{CreateOptions, create};

use crate::error::{BenchError, Result};
use crate::fio;
use crate::pattern::{Direction, Order, Pattern, Step};
use crate::report::{Figure, Row, Target, Unit};
use crate::rig::{Guest, Rig, Storage, worker_cpu};
use crate::scale::Scale;
use crate::site::Scratch;
use crate::tool;

/// Requests at a time: what a ring of one page holds.
const DEPTH: usize = 32;

/// Bytes of the disk that is never stored anywhere; enough for all requests.
const NULL_DISK: u64 = 8 << 30;

/// What one measurement found.
struct Sample {
    requests_per_second: f64,
    cpu_ns: f64,
}

/// Measures over storage that does nothing, and over a file in the page cache beside fio on a raw file there.
///
/// # Errors
/// If a measurement fails.
pub fn measure(
    scale: &Scale,
    rounds: usize,
    only: Option<&str>,
    scratch: &Scratch,
) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let is_wanted = |id: &str| only.is_none_or(|only| id.contains(only));
    for direction in [Direction::Read, Direction::Write] {
        let (name, verb) = match direction {
            Direction::Read => ("read", "reads"),
            Direction::Write => ("write", "writes"),
        };
        let id = format!("ring-{name}");
        if is_wanted(&id) {
            tool::show(&id);
            let samples = over_nothing(direction, scale.ring_requests, rounds, scratch)?;
            let work = format!("4 KiB random {verb}, storage that does nothing");
            rows.extend(null_rows(&id, &work, &samples));
        }
        let id = format!("ring-cached-{name}");
        if is_wanted(&id) {
            tool::show(&id);
            let (ours, theirs) = over_page_cache(direction, scale.disk / 4, rounds, scratch)?;
            let work = format!("4 KiB random {verb}, a file in the page cache");
            rows.extend(cached_rows(&id, &work, &ours, theirs));
        }
    }
    tool::show("");
    Ok(rows)
}

fn null_rows(id: &str, work: &str, samples: &[Sample]) -> [Row; 2] {
    let (rate, cpu) = figures(samples);
    [
        Row::of(id, work, Unit::RequestsPerSecond, rate).wanting(Target::FigureAtLeast(500_000.0)),
        Row::of(id, work, Unit::CpuNanosecondsPerRequest, cpu)
            .wanting(Target::FigureAtMost(2_000.0)),
    ]
}

fn cached_rows(id: &str, work: &str, ours: &[Sample], theirs: Vec<f64>) -> [Row; 2] {
    let (rate, cpu) = figures(ours);
    [
        Row::of(id, work, Unit::RequestsPerSecond, rate)
            .against(Figure::new("fio on a raw file", theirs)),
        Row::of(id, work, Unit::CpuNanosecondsPerRequest, cpu),
    ]
}

fn figures(samples: &[Sample]) -> (Figure, Figure) {
    let of =
        |value: fn(&Sample) -> f64| Figure::new("one worker", samples.iter().map(value).collect());
    (
        of(|sample| sample.requests_per_second),
        of(|sample| sample.cpu_ns),
    )
}

fn over_nothing(
    direction: Direction,
    requests: u64,
    rounds: usize,
    scratch: &Scratch,
) -> Result<Vec<Sample>> {
    let mut driven = Driven::over_nothing(direction, requests, scratch)?;
    (0..rounds).map(|_| driven.sample()).collect()
}

/// Gives ours, and fio's requests in a second, of each round.
fn over_page_cache(
    direction: Direction,
    span: u64,
    rounds: usize,
    scratch: &Scratch,
) -> Result<(Vec<Sample>, Vec<f64>)> {
    let mut driven = Driven::over_page_cache(direction, span, scratch)?;
    let raw = scratch.path("ring.raw");
    fill(&raw, span)?;
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        ours.push(driven.sample()?);
        let log = scratch.path("ring.iolog");
        let measured = fio::run(fio::Target::Cached(&raw), &driven.steps, DEPTH, &log)?;
        theirs.push(measured.requests_per_second());
    }
    Ok((ours, theirs))
}

/// A daemon and a guest that makes a list of requests, as often as it is told to.
pub(crate) struct Driven {
    guest: Guest,
    rig: Rig,
    steps: Vec<Step>,
}

impl Driven {
    /// Over storage that does nothing.
    ///
    /// # Errors
    /// If the daemon does not serve.
    pub(crate) fn over_nothing(
        direction: Direction,
        requests: u64,
        scratch: &Scratch,
    ) -> Result<Self> {
        Self::start(Storage::Null, direction, requests, NULL_DISK, scratch)
    }

    /// Over a file of `span` bytes in the page cache.
    ///
    /// # Errors
    /// If the daemon does not serve.
    pub(crate) fn over_page_cache(
        direction: Direction,
        span: u64,
        scratch: &Scratch,
    ) -> Result<Self> {
        Self::start(Storage::Files, direction, span / 4096, span, scratch)
    }

    fn start(
        storage: Storage,
        direction: Direction,
        requests: u64,
        size: u64,
        scratch: &Scratch,
    ) -> Result<Self> {
        let image = scratch.path("ring.cow");
        make_image(&image, size)?;
        let rig = Rig::start(storage, scratch.folder())?;
        let mut guest = rig.attach(&rig.domain(1)?, &image, 0)?;
        // All blocks that are used are allocated: reads go to storage, and writes need no commit.
        guest.run(&steps(Direction::Write, requests, size), DEPTH)?;
        let steps = steps(direction, requests, size);
        Ok(Self { guest, rig, steps })
    }

    /// The daemon's process.
    pub(crate) fn pid(&self) -> i32 {
        self.rig.pid()
    }

    /// How many requests [`Self::run`] makes.
    pub(crate) fn requests(&self) -> usize {
        self.steps.len()
    }

    /// Makes all requests; gives how long that took.
    ///
    /// # Errors
    /// If one fails.
    pub(crate) fn run(&mut self) -> Result<Duration> {
        self.guest.run(&self.steps, DEPTH)
    }

    fn sample(&mut self) -> Result<Sample> {
        let before = worker_cpu(self.pid())?;
        let elapsed = self.run()?;
        let cpu = worker_cpu(self.pid())?.saturating_sub(before);
        let count = self.steps.len() as f64;
        Ok(Sample {
            requests_per_second: count / elapsed.as_secs_f64(),
            cpu_ns: cpu.as_nanos() as f64 / count,
        })
    }
}

fn steps(direction: Direction, count: u64, span: u64) -> Vec<Step> {
    let pattern = Pattern {
        direction,
        order: Order::Random { seed: 1 },
        request_len: 4096,
        count,
        span,
        flush_every: 0,
    };
    pattern.steps()
}

fn make_image(path: &Path, size: u64) -> Result<()> {
    if path.exists() {
        std::fs::remove_file(path).map_err(BenchError::io(format!("remove {}", path.display())))?;
    }
    let options = CreateOptions {
        size: Some(size),
        ..CreateOptions::default()
    };
    create(path, &options)?;
    Ok(())
}

/// A raw file that is full of data.
fn fill(path: &Path, len: u64) -> Result<()> {
    let piece = vec![0xa5; 1 << 20];
    let write = || {
        use std::io::Write;
        let mut file = std::fs::File::create(path)?;
        (0..len / (1 << 20)).try_for_each(|_| file.write_all(&piece))
    };
    write().map_err(BenchError::io(format!("write {}", path.display())))
}
