//! The cost of the engine itself: no I/O, so what is left is computing.

use std::path::{Path, PathBuf};
use std::process::Command;

use blockio::image::{CreateOptions, create};

use crate::direct::Measured;
use crate::error::{BenchError, Result};
use crate::pattern::{Direction, Order, Pattern};
use crate::report::{Figure, Row, Target, Unit};
use crate::scale::Scale;
use crate::site::Scratch;
use crate::tool::{self, Side};

/// Bytes of the disk that is never stored anywhere; enough for all requests.
const DISK: u64 = 8 << 30;

/// What is asked of the engine.
struct Work {
    id: &'static str,
    work: &'static str,
    direction: Direction,
    flush_every: u64,
    /// Whether all blocks are there before.
    allocated: bool,
}

const WORKS: [Work; 3] = [
    Work {
        id: "engine-read",
        work: "4 KiB random reads of allocated blocks",
        direction: Direction::Read,
        flush_every: 0,
        allocated: true,
    },
    Work {
        id: "engine-write",
        work: "4 KiB random writes to allocated blocks",
        direction: Direction::Write,
        flush_every: 0,
        allocated: true,
    },
    Work {
        id: "engine-first-write",
        work: "4 KiB random first writes, a flush after each 32",
        direction: Direction::Write,
        flush_every: 32,
        allocated: false,
    },
];

/// Measures the engine and the disk around it over an executor that does nothing: CPU time, and instructions.
///
/// # Errors
/// If a measurement fails.
pub fn measure(
    scale: &Scale,
    rounds: usize,
    only: Option<&str>,
    scratch: &Scratch,
) -> Result<Vec<Row>> {
    let image = scratch.path("engine.cow");
    let options = CreateOptions {
        size: Some(DISK),
        ..CreateOptions::default()
    };
    create(&image, &options)?;
    let mut rows = Vec::new();
    for work in WORKS
        .iter()
        .filter(|work| only.is_none_or(|only| work.id.contains(only)))
    {
        tool::show(work.id);
        let mut samples = Vec::new();
        for _ in 0..rounds {
            samples.push(cpu_time(&image, work, scale.engine_requests)?);
        }
        let figure = Figure::new("ours", samples);
        let row = Row::of(work.id, work.work, Unit::CpuNanosecondsPerRequest, figure);
        rows.push(row.wanting(Target::FigureAtMost(1000.0)));
        let instructions = Figure::new("ours", vec![instructions(&image, work, scratch)?]);
        rows.push(Row::of(
            work.id,
            work.work,
            Unit::InstructionsPerRequest,
            instructions,
        ));
    }
    tool::show("");
    Ok(rows)
}

/// Options of `bench engine` for some requests, made `repeat` times.
fn arguments(image: &Path, work: &Work, count: u64, repeat: u64) -> Result<(PathBuf, Vec<String>)> {
    let program = std::env::current_exe().map_err(BenchError::io("find this program"))?;
    let pattern = Pattern {
        direction: work.direction,
        order: Order::Random { seed: 1 },
        request_len: 4096,
        count,
        span: DISK,
        flush_every: work.flush_every,
    };
    let mut arguments = vec!["engine".to_owned(), image.display().to_string()];
    arguments.extend(pattern.arguments());
    arguments.push(format!("--repeat={repeat}"));
    if work.allocated {
        arguments.push("--allocate".to_owned());
    }
    arguments.push("--json".to_owned());
    Ok((program, arguments))
}

fn cpu_time(image: &Path, work: &Work, count: u64) -> Result<f64> {
    let (program, arguments) = arguments(image, work, count, 1)?;
    let mut command = Side::Client.command(&program.to_string_lossy());
    let output = tool::run(command.args(arguments))?;
    let measured: Measured = serde_json::from_str(&output).map_err(|cause| BenchError::Output {
        command: tool::line(&command),
        problem: cause.to_string(),
    })?;
    Ok(measured.cpu_ns_per_request())
}

/// Instructions for each request, by callgrind: those of a run that makes the requests twice less those of a run that
/// makes them once. First writes cannot be made twice: with those it is twice as many requests less as many.
fn instructions(image: &Path, work: &Work, scratch: &Scratch) -> Result<f64> {
    const COUNT: u64 = 20_000;
    let (more, less) = if work.allocated {
        ((COUNT, 2), (COUNT, 1))
    } else {
        ((2 * COUNT, 1), (COUNT, 1))
    };
    let count = |(count, repeat)| -> Result<u64> {
        let (program, arguments) = arguments(image, work, count, repeat)?;
        let mut command = Command::new("valgrind");
        let out = scratch.path("callgrind.out");
        command
            .arg("--tool=callgrind")
            .arg(format!("--callgrind-out-file={}", out.display()));
        let log = scratch.path("callgrind.log");
        command
            .arg(format!("--log-file={}", log.display()))
            .arg(program)
            .args(arguments);
        tool::run(&mut command)?;
        let text = std::fs::read_to_string(&log)
            .map_err(BenchError::io(format!("read {}", log.display())))?;
        collected(&text).ok_or_else(|| BenchError::Output {
            command: tool::line(&command),
            problem: "no count of instructions".to_owned(),
        })
    };
    let (more, less) = (count(more)?, count(less)?);
    Ok(more.saturating_sub(less) as f64 / COUNT as f64)
}

/// The count of instructions in callgrind's log.
fn collected(log: &str) -> Option<u64> {
    log.lines().find_map(|line| {
        let (_, count) = line.split_once("Collected :")?;
        count.trim().parse().ok()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_is_found_in_the_log() {
        let log = "==12== Callgrind, a call-graph generating cache profiler\n==12== \n==12== Events    : Ir\n\
                   ==12== Collected : 36178411\n==12== \n==12== I   refs:      36,178,411\n";
        assert_eq!(collected(log), Some(36_178_411));
        assert_eq!(collected("==12== Callgrind\n"), None);
    }
}
