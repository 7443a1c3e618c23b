//! What the guest and the host do.

use std::fmt;
use std::str::FromStr;

use dscow::engine::Request;
use dscow::units::DiskRange;

use crate::geometry::Geometry;

/// What a power failure in the middle of a workload keeps of the writes that were not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// None of them.
    Nothing,
    /// All of them, those that were not completed too.
    Everything,
}

/// A part of a block, or of a block and the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// The block.
    Whole,
    /// Three sectors inside it.
    Part,
    /// Its last three sectors.
    Tail,
    /// Its second half.
    Half,
    /// Its last three sectors and the first three of the next.
    Span,
    /// Its last three sectors and all of the next.
    Ragged,
}

/// One operation. Blocks are named by their position among those in use.
///
/// A new kind of request gets a variant here, in [`Op::change`] what it does to the disk, and in `run.rs` the way to
/// submit it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Write.
    Write(Shape, usize),
    /// Write the last three sectors of a block, and all of the next, of which the host has found that it is zeros.
    Holes(usize),
    /// Write zeros.
    Zero(Shape, usize),
    /// Discard.
    Discard(Shape, usize),
    /// A barrier write.
    Barrier(Shape, usize),
    /// A barrier without anything to write.
    EmptyBarrier,
    /// Flush.
    Flush,
    /// The time for a commit that nobody asked for.
    IdleCommit,
    /// Make the disk larger.
    Grow,
    /// Give up what waits for space.
    GiveUp,
    /// Close, and open again.
    Reopen,
    /// The process is killed; the image is opened again on the same host.
    Kill,
    /// The power fails and comes back; the image is opened again.
    PowerLoss(Kept),
}

/// What an operation does to the disk.
pub(crate) struct Change {
    /// What the engine is asked for.
    pub(crate) request: Request,
    /// What the host has found to be zeros.
    pub(crate) detected: Vec<DiskRange>,
    /// What becomes the request's data.
    pub(crate) data: Option<DiskRange>,
    /// What becomes zeros.
    pub(crate) zeros: Option<DiskRange>,
}

impl Op {
    /// What it does to a disk of `size` bytes; nothing if it is not a change, or of blocks that are not there.
    pub(crate) fn change(self, geometry: &Geometry, size: u64) -> Option<Change> {
        let range_of = |shape: Shape, block| {
            let sectors = shape.sectors(geometry.block_sectors());
            geometry.range(block, sectors, size)
        };
        Some(match self {
            Self::Write(shape, block) => Change::data(range_of(shape, block)?, Request::Write),
            Self::Barrier(shape, block) => Change::data(range_of(shape, block)?, Request::Barrier),
            Self::Holes(block) => {
                let zeros = range_of(Shape::Whole, block + 1)?;
                let range = range_of(Shape::Ragged, block)?;
                let data = DiskRange::new(range.start.0, zeros.start.0 - range.start.0);
                Change {
                    detected: vec![zeros],
                    data: Some(data),
                    zeros: Some(zeros),
                    ..Change::data(range, Request::Write)
                }
            }
            Self::Zero(shape, block) => {
                let range = range_of(shape, block)?;
                Change::zeros(Some(range), Request::WriteZeroes(range))
            }
            Self::Discard(shape, block) => {
                let range = range_of(shape, block)?;
                let whole = whole_blocks(range, geometry.block_bytes(), size);
                Change::zeros(whole, Request::Discard(range))
            }
            Self::EmptyBarrier => Change::zeros(None, Request::Barrier(DiskRange::new(0, 0))),
            _ => return None,
        })
    }

    pub(crate) fn is_barrier(self) -> bool {
        matches!(self, Self::Barrier(..) | Self::EmptyBarrier)
    }
}

impl Change {
    fn data(range: DiskRange, request: impl Fn(DiskRange) -> Request) -> Self {
        Self {
            request: request(range),
            detected: Vec::new(),
            data: Some(range),
            zeros: None,
        }
    }

    fn zeros(zeros: Option<DiskRange>, request: Request) -> Self {
        Self {
            request,
            detected: Vec::new(),
            data: None,
            zeros,
        }
    }
}

/// The blocks that a range covers whole; the last one may end with the disk.
fn whole_blocks(range: DiskRange, block: u64, size: u64) -> Option<DiskRange> {
    let start = range.start.0.next_multiple_of(block);
    let end = range.end();
    let end = if end == size { end } else { end - end % block };
    (start < end).then(|| DiskRange::new(start, end - start))
}

impl Shape {
    const ALL: [Self; 6] = [
        Self::Whole,
        Self::Part,
        Self::Tail,
        Self::Half,
        Self::Span,
        Self::Ragged,
    ];

    /// The first sector and the one after the last, of blocks of so many.
    fn sectors(self, block: usize) -> (usize, usize) {
        match self {
            Self::Whole => (0, block),
            Self::Part => (2, 5),
            Self::Tail => (block - 3, block),
            Self::Half => (block / 2, block),
            Self::Span => (block - 3, block + 3),
            Self::Ragged => (block - 3, 2 * block),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Whole => "whole",
            Self::Part => "part",
            Self::Tail => "tail",
            Self::Half => "half",
            Self::Span => "span",
            Self::Ragged => "ragged",
        }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Write(shape, block) => write!(f, "{}{block}", shape.name()),
            Self::Holes(block) => write!(f, "holes{block}"),
            Self::Zero(shape, block) => write!(f, "zero-{}{block}", shape.name()),
            Self::Discard(shape, block) => write!(f, "discard-{}{block}", shape.name()),
            Self::Barrier(shape, block) => write!(f, "barrier-{}{block}", shape.name()),
            Self::EmptyBarrier => f.write_str("barrier"),
            Self::Flush => f.write_str("flush"),
            Self::IdleCommit => f.write_str("idle"),
            Self::Grow => f.write_str("grow"),
            Self::GiveUp => f.write_str("give-up"),
            Self::Reopen => f.write_str("reopen"),
            Self::Kill => f.write_str("kill"),
            Self::PowerLoss(Kept::Nothing) => f.write_str("loss"),
            Self::PowerLoss(Kept::Everything) => f.write_str("loss-all-kept"),
        }
    }
}

impl FromStr for Op {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let op = match text {
            "barrier" => Self::EmptyBarrier,
            "flush" => Self::Flush,
            "idle" => Self::IdleCommit,
            "grow" => Self::Grow,
            "give-up" => Self::GiveUp,
            "reopen" => Self::Reopen,
            "kill" => Self::Kill,
            "loss" => Self::PowerLoss(Kept::Nothing),
            "loss-all-kept" => Self::PowerLoss(Kept::Everything),
            _ => return change_from(text).ok_or_else(|| format!("{text} is not an operation")),
        };
        Ok(op)
    }
}

fn change_from(text: &str) -> Option<Op> {
    if let Some(block) = text.strip_prefix("holes") {
        return Some(Op::Holes(block.parse().ok()?));
    }
    let (kind, rest): (fn(Shape, usize) -> Op, &str) = match text.split_once('-') {
        None => (Op::Write, text),
        Some(("zero", rest)) => (Op::Zero, rest),
        Some(("discard", rest)) => (Op::Discard, rest),
        Some(("barrier", rest)) => (Op::Barrier, rest),
        Some(_) => return None,
    };
    Shape::ALL.into_iter().find_map(|shape| {
        let block = rest.strip_prefix(shape.name())?;
        Some(kind(shape, block.parse().ok()?))
    })
}
