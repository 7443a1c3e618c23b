//! What a read costs through a chain of images, compared with one overlay on a base.

use std::path::{Path, PathBuf};

use blockio::executor::open_executor;
use blockio::image::{CreateOptions, ImageAccess, create};
use dscow::units::DiskRange;

use crate::contender::{Contender, State, Surroundings};
use crate::direct::{Measured, Session};
use crate::error::{BenchError, Result};
use crate::pattern::{Direction, Order, Pattern, SplitMix, Step};
use crate::report::{Figure, Row, Target, Unit};
use crate::scale::Scale;
use crate::tool::{self, Side};

/// Images below the top one.
const DEPTH: u64 = 32;

/// What one write of a guest's file is, in a layer: layers are fragmented, but not in single blocks.
const PIECE: u64 = 64 << 10;

/// Measures reads at depth 32 and at depth 1: CPU time over an executor that does nothing, and wall time to the end.
///
/// Every image holds the same share of the disk, in pieces at random, and the base all of it. So a read ends in any of
/// the layers, and in both chains the same share of them ends in the top image, which alone is read past the page cache.
///
/// # Errors
/// If a measurement fails.
pub fn measure(
    scale: &Scale,
    rounds: usize,
    only: Option<&str>,
    around: &Surroundings<'_>,
) -> Result<Vec<Row>> {
    let is_called = |id: &str| only.is_none_or(|only| id.contains(only));
    let kinds = [
        (
            "chain-read-cpu",
            "4 KiB random reads, no I/O",
            Unit::CpuNanosecondsPerRequest,
            scale.engine_requests,
        ),
        (
            "chain-read",
            "4 KiB random reads, depth 32, through the executor",
            Unit::NanosecondsPerRequest,
            scale.direct_requests,
        ),
    ];
    if !kinds.iter().any(|(id, ..)| is_called(id)) {
        return Ok(Vec::new());
    }
    let chains = Chains::make(scale.disk, around)?;
    let mut rows = Vec::new();
    for (id, work, unit, requests) in kinds.into_iter().filter(|(id, ..)| is_called(id)) {
        let [mut deep, mut shallow] = [Vec::new(), Vec::new()];
        // The first round brings the parents into the page cache, and is not counted.
        for round in 0..=rounds {
            tool::show(&format!("{id}: round {round} of {rounds}"));
            let first = read(&chains.deep, unit, scale.disk, requests)?;
            let second = read(&chains.shallow, unit, scale.disk, requests)?;
            if round > 0 {
                deep.push(first);
                shallow.push(second);
            }
        }
        let site = around.site.kind().name();
        let row = Row::of(id, work, unit, Figure::new("32 images below", deep));
        let row = row.against(Figure::new("1 image below", shallow)).at(site);
        rows.push(row.wanting(Target::RatioAtMost(1.1)));
    }
    tool::show("");
    chains.remove(around)?;
    Ok(rows)
}

struct Chains {
    all: Vec<PathBuf>,
    deep: PathBuf,
    shallow: PathBuf,
}

impl Chains {
    fn make(disk: u64, around: &Surroundings<'_>) -> Result<Self> {
        let base = Contender::Raw.make_image(State::Allocated, disk, around)?;
        let mut all = vec![base.clone()];
        let mut below = base.clone();
        for number in 1..=DEPTH {
            tool::show(&format!("making image {number} of a chain of {DEPTH}"));
            let image = around.site.path(&format!("layer-{number}.cow"));
            make_overlay(&image, &below, number, disk)?;
            all.push(image.clone());
            below = image;
        }
        let shallow = around.site.path("shallow.cow");
        // The same pieces as the deep chain's top image has.
        make_overlay(&shallow, &base, DEPTH, disk)?;
        all.push(shallow.clone());
        Ok(Self {
            all,
            deep: below,
            shallow,
        })
    }

    fn remove(self, around: &Surroundings<'_>) -> Result<()> {
        self.all
            .iter()
            .try_for_each(|image| around.site.remove(image))
    }
}

/// Makes an overlay that holds one piece of `DEPTH + 1` of the disk.
fn make_overlay(image: &Path, base: &Path, seed: u64, disk: u64) -> Result<()> {
    let options = CreateOptions {
        base: Some(base.to_owned()),
        ..CreateOptions::default()
    };
    create(image, &options)?;
    let executor = open_executor().map_err(BenchError::io("start an executor"))?;
    let mut session = Session::open(image, ImageAccess::Writable, executor)?;
    let mut random = SplitMix(seed);
    let pieces = disk / PIECE;
    let writes = (0..pieces / (DEPTH + 1))
        .map(|_| Step::Write(DiskRange::new(random.below(pieces) * PIECE, PIECE)));
    let steps: Vec<Step> = writes.chain([Step::Flush]).collect();
    session.run(&steps, 8, None)?;
    session.close()?;
    Ok(())
}

fn read(image: &Path, unit: Unit, disk: u64, requests: u64) -> Result<f64> {
    let program = std::env::current_exe().map_err(BenchError::io("find this program"))?;
    let pattern = Pattern {
        direction: Direction::Read,
        order: Order::Random { seed: 1 },
        request_len: 4096,
        count: requests.min(disk / 4096),
        span: disk,
        flush_every: 0,
    };
    let through = if unit == Unit::CpuNanosecondsPerRequest {
        "engine"
    } else {
        "direct"
    };
    let mut command = Side::Client.command(&program.to_string_lossy());
    command
        .arg(through)
        .arg(image)
        .args(pattern.arguments())
        .arg("--json");
    let output = tool::run(&mut command)?;
    let measured: Measured = serde_json::from_str(&output).map_err(|cause| BenchError::Output {
        command: tool::line(&command),
        problem: cause.to_string(),
    })?;
    Ok(match unit {
        Unit::CpuNanosecondsPerRequest => measured.cpu_ns_per_request(),
        _ => 1e9 / measured.requests_per_second(),
    })
}
