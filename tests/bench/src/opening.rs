//! How long it takes to open a large image, and how much memory.

use std::fs::{self, File};
use std::path::Path;
use std::time::Instant;

use blockio::buffer::Buffer;
use blockio::executor::open_executor;
use blockio::image::{CreateOptions, ImageAccess, create, inspect};
use dscow::engine::Request;
use dscow::units::DiskRange;
use serde::{Deserialize, Serialize};

use crate::contender::Surroundings;
use crate::direct::Session;
use crate::error::{BenchError, Result};
use crate::pattern::{Order, Pattern, Step};
use crate::report::{Figure, Row, Target, Unit};
use crate::scale::Scale;
use crate::tool::{self, Side};

/// What opening took.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opened {
    /// Wall time in nanoseconds.
    pub elapsed_ns: u64,
    /// How many bytes the process grew by.
    pub memory: u64,
}

/// Opens an image for writing, as a server does, and measures that.
///
/// # Errors
/// If it cannot be opened.
pub fn open(image: &Path) -> Result<Opened> {
    let executor = open_executor().map_err(BenchError::io("start an executor"))?;
    let before = resident()?;
    let started = Instant::now();
    let session = Session::open(image, ImageAccess::Writable, executor)?;
    let elapsed = started.elapsed();
    let after = resident()?;
    session.close()?;
    Ok(Opened {
        elapsed_ns: u64::try_from(elapsed.as_nanos()).expect("nobody waits for centuries"),
        memory: after.saturating_sub(before),
    })
}

/// What is in the image that is opened.
struct Content {
    name: &'static str,
    /// Bytes that are allocated in one piece; 0 if nothing is.
    piece: u64,
}

const CONTENTS: [Content; 3] = [
    Content {
        name: "nothing",
        piece: 0,
    },
    Content {
        name: "10 GiB in pieces of 64 MiB",
        piece: 64 << 20,
    },
    Content {
        name: "10 GiB in pieces of 1 MiB",
        piece: 1 << 20,
    },
];

/// Measures the opening of an image of 1 TiB, with different contents.
///
/// # Errors
/// If a measurement fails.
pub fn measure(
    scale: &Scale,
    rounds: usize,
    only: Option<&str>,
    around: &Surroundings<'_>,
) -> Result<Vec<Row>> {
    if only.is_some_and(|only| !"open-time open-memory".contains(only)) {
        return Ok(Vec::new());
    }
    let image = around.site.path("large.cow");
    let base = around.site.path("large.raw");
    File::create_new(&base)
        .and_then(|file| file.set_len(scale.opened_disk))
        .map_err(BenchError::io("make a large base"))?;
    let mut rows = Vec::new();
    for content in &CONTENTS {
        tool::show(&format!(
            "opening an image of 1 TiB that holds {}",
            content.name
        ));
        let pages = make(&image, &base, content, scale)?;
        let mut opened = Vec::new();
        for _ in 0..rounds {
            opened.push(open_elsewhere(&image)?);
        }
        around.site.remove(&image)?;
        let site = around.site.kind().name();
        let times = opened
            .iter()
            .map(|opened| opened.elapsed_ns as f64)
            .collect();
        let work = format!("opening 1 TiB that holds {}", content.name);
        let row = Row::of(
            "open-time",
            work,
            Unit::Nanoseconds,
            Figure::new("ours", times),
        );
        rows.push(row.wanting(Target::FigureAtMost(20e6)).at(site));
        let memory = opened.iter().map(|opened| opened.memory as f64).collect();
        let work = format!("memory for 1 TiB that holds {}", content.name);
        let row = Row::of(
            "open-memory",
            work,
            Unit::Bytes,
            Figure::new("ours", memory),
        )
        .at(site);
        let floor = vec![(pages * 4096) as f64; rounds];
        rows.push(if pages == 0 {
            row
        } else {
            row.against(Figure::new("bitmap pages with bits set", floor))
        });
    }
    around.site.remove(&base)?;
    tool::show("");
    Ok(rows)
}

/// Makes the image. Gives how many pages of its bitmap have bits set, of 4 KiB, which is 128 MiB of the disk each.
///
/// Blocks are allocated by discarding what the base has there, so they take no room: all that there is to open is in the
/// bitmap.
fn make(image: &Path, base: &Path, content: &Content, scale: &Scale) -> Result<u64> {
    let options = CreateOptions {
        base: Some(base.to_owned()),
        ..CreateOptions::default()
    };
    create(image, &options)?;
    if content.piece == 0 {
        return Ok(0);
    }
    let executor = open_executor().map_err(BenchError::io("start an executor"))?;
    let mut session = Session::open(image, ImageAccess::Writable, executor)?;
    let mut pages = std::collections::BTreeSet::new();
    for range in pieces(content.piece, scale) {
        session.request(Request::Discard(range), Buffer::empty())?;
        pages.extend([range.start.0 >> 27, (range.end() - 1) >> 27]);
    }
    session.close()?;
    let allocated = inspect(image)?.allocated_blocks * 4096;
    if allocated != scale.opened_allocated {
        return Err(BenchError::Io {
            what: format!("fill {}", image.display()),
            cause: std::io::Error::other(format!("{allocated} bytes are allocated")),
        });
    }
    Ok(pages.len() as u64)
}

fn pieces(piece: u64, scale: &Scale) -> impl Iterator<Item = DiskRange> {
    let pattern = Pattern {
        direction: crate::pattern::Direction::Write,
        order: Order::Random { seed: 1 },
        request_len: piece,
        count: scale.opened_allocated / piece,
        span: scale.opened_disk,
        flush_every: 0,
    };
    pattern.steps().into_iter().filter_map(|step| match step {
        Step::Read(range) | Step::Write(range) => Some(range),
        Step::Flush => None,
    })
}

/// Opens it in a process of its own, so that none profits from the memory of the one before.
fn open_elsewhere(image: &Path) -> Result<Opened> {
    let program = std::env::current_exe().map_err(BenchError::io("find this program"))?;
    let mut command = Side::Client.command(&program.to_string_lossy());
    let output = tool::run(command.arg("open").arg(image))?;
    serde_json::from_str(&output).map_err(|cause| BenchError::Output {
        command: tool::line(&command),
        problem: cause.to_string(),
    })
}

/// Bytes of memory that this process has.
fn resident() -> Result<u64> {
    let path = "/proc/self/statm";
    let text = fs::read_to_string(path).map_err(BenchError::io(format!("read {path}")))?;
    resident_pages(&text)
        .map(|pages| pages * rustix::param::page_size() as u64)
        .ok_or_else(|| BenchError::Output {
            command: path.to_owned(),
            problem: format!("{text:?}"),
        })
}

/// The second field of a process's `statm` (proc_pid_statm(5)).
fn resident_pages(statm: &str) -> Option<u64> {
    statm.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resident_memory_is_the_second_field() {
        assert_eq!(resident_pages("2137 312 287 55 0 172 0\n"), Some(312));
        assert_eq!(resident_pages("2137"), None);
    }

    #[test]
    fn pieces_are_as_much_as_is_wanted_and_do_not_overlap() {
        let mut starts: Vec<u64> = pieces(64 << 20, &Scale::FULL)
            .map(|range| range.start.0)
            .collect();
        assert_eq!(starts.len(), 160);
        starts.sort_unstable();
        assert!(
            starts
                .windows(2)
                .all(|pair| pair[0] + (64 << 20) <= pair[1])
        );
    }
}
