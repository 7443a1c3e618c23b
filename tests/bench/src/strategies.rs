//! What the ways of taking storage for first writes gain, and what they waste.

use std::path::Path;

use blockio::image::{CreateOptions, create, inspect};
use blockio::space::SpaceStrategy;

use crate::contender::{Surroundings, drive};
use crate::error::Result;
use crate::pattern::{Direction, Order, Pattern};
use crate::report::{Figure, Row, Unit};
use crate::scale::Scale;
use crate::site::SiteKind;
use crate::tool;

/// Where first writes fall.
struct Spread {
    name: &'static str,
    /// Bytes of the disk that they are spread over.
    span: u64,
}

/// What one strategy did in one round.
struct Sample {
    requests_per_second: f64,
    /// Bytes that the image's file takes while it is open, and after.
    taken: [f64; 2],
}

/// Whether these rows are wanted.
pub fn is_called(only: Option<&str>) -> bool {
    only.is_none_or(|only| "space-speed space-taken".contains(only))
}

/// Measures first writes by all strategies that there are at this place, against that which takes block by block.
///
/// # Errors
/// If a measurement fails.
pub fn measure(
    scale: &Scale,
    rounds: usize,
    only: Option<&str>,
    around: &Surroundings<'_>,
) -> Result<Vec<Row>> {
    let site = around.site.kind();
    if site == SiteKind::Device || !is_called(only) {
        return Ok(Vec::new());
    }
    let written = scale.first_writes * 4096;
    let spreads = [
        Spread {
            name: "4 KiB first writes scattered over a disk",
            span: scale.sparse_disk,
        },
        Spread {
            name: "4 KiB first writes to half of the blocks of a region",
            span: 2 * written,
        },
    ];
    let mut rows = Vec::new();
    for spread in &spreads {
        let samples = sample(spread, scale, rounds, around)?;
        let figure = |samples: &[Sample], name: String, of: fn(&Sample) -> f64| {
            Figure::new(name, samples.iter().map(of).collect())
        };
        let sparse = figure(&samples[0].1, "sparse".to_owned(), |sample| {
            sample.requests_per_second
        });
        for (strategy, samples) in &samples {
            let speed = figure(samples, strategy.to_string(), |sample| {
                sample.requests_per_second
            });
            let speed = Row::of("space-speed", spread.name, Unit::RequestsPerSecond, speed);
            rows.push(speed.against(sparse.clone()).at(site.name()));
            for (which, when) in ["while it is open", "when it is closed"].iter().enumerate() {
                let figure = samples.iter().map(|sample| sample.taken[which]).collect();
                let taken = Figure::new(strategy.to_string(), figure);
                let work = format!("storage for {}, {when}", spread.name);
                let peer = Figure::new("written", vec![written as f64; rounds]);
                let row = Row::of("space-taken", work, Unit::Bytes, taken);
                rows.push(row.against(peer).at(site.name()));
            }
        }
    }
    tool::show("");
    Ok(rows)
}

fn strategies(site: SiteKind) -> impl Iterator<Item = SpaceStrategy> {
    let named = SpaceStrategy::NAMED.iter().map(|(strategy, _)| *strategy);
    named.filter(move |strategy| match strategy {
        SpaceStrategy::Auto => false,
        SpaceStrategy::ExtentHint => site == SiteKind::Xfs,
        SpaceStrategy::Sparse | SpaceStrategy::Fill | SpaceStrategy::Strides => true,
    })
}

fn sample(
    spread: &Spread,
    scale: &Scale,
    rounds: usize,
    around: &Surroundings<'_>,
) -> Result<Vec<(SpaceStrategy, Vec<Sample>)>> {
    let mut samples: Vec<_> = strategies(around.site.kind())
        .map(|strategy| (strategy, Vec::new()))
        .collect();
    let pattern = Pattern {
        direction: Direction::Write,
        order: Order::Random { seed: 1 },
        request_len: 4096,
        count: scale.first_writes,
        span: spread.span,
        flush_every: 32,
    };
    for round in 0..rounds {
        for turn in 0..samples.len() {
            let count = samples.len();
            let (strategy, samples) = &mut samples[(round + turn) % count];
            tool::show(&format!(
                "{}, {strategy}: round {} of {rounds}",
                spread.name,
                round + 1
            ));
            samples.push(once(*strategy, &pattern, scale.sparse_disk, around)?);
        }
    }
    Ok(samples)
}

fn once(
    strategy: SpaceStrategy,
    pattern: &Pattern,
    disk: u64,
    around: &Surroundings<'_>,
) -> Result<Sample> {
    let image = around.site.path("strategy.cow");
    let options = CreateOptions {
        base: around.base.map(Path::to_owned),
        size: Some(disk),
        space: strategy,
        ..CreateOptions::default()
    };
    create(&image, &options)?;
    around.site.settle()?;
    let measured = drive(&image, pattern, 32, strategy, &around.site.stat())?;
    let taken = inspect(&image)?.storage_bytes;
    around.site.remove(&image)?;
    Ok(Sample {
        requests_per_second: measured.requests_per_second(),
        taken: [measured.storage as f64, taken as f64],
    })
}
