//! What the guest and the host do.

use std::fmt;
use std::str::FromStr;

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

/// One operation. Blocks are named by their position among those in use.
///
/// A new kind of request (a discard, a barrier write) gets a variant here, a range and a way to be submitted in
/// `run.rs`, and a rule in `oracle.rs`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Write a whole block.
    Whole(usize),
    /// Write three sectors inside a block.
    Partial(usize),
    /// Write the last three sectors of a block and the first three of the next.
    Spanning(usize),
    /// Flush.
    Flush,
    /// The time for a commit that nobody asked for.
    IdleCommit,
    /// Close, and open again.
    Reopen,
    /// The power fails and comes back; the image is opened again.
    PowerLoss(Kept),
}

impl Op {
    /// What is written, if it is a write.
    pub(crate) fn written(self, geometry: &Geometry) -> Option<DiskRange> {
        match self {
            Self::Whole(block) => Some(geometry.range(block, 0, 8)),
            Self::Partial(block) => Some(geometry.range(block, 2, 3)),
            Self::Spanning(block) => Some(geometry.range(block, 5, 6)),
            Self::Flush | Self::IdleCommit | Self::Reopen | Self::PowerLoss(_) => None,
        }
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Whole(block) => write!(f, "whole{block}"),
            Self::Partial(block) => write!(f, "part{block}"),
            Self::Spanning(block) => write!(f, "span{block}"),
            Self::Flush => f.write_str("flush"),
            Self::IdleCommit => f.write_str("idle"),
            Self::Reopen => f.write_str("reopen"),
            Self::PowerLoss(Kept::Nothing) => f.write_str("loss"),
            Self::PowerLoss(Kept::Everything) => f.write_str("loss-all-kept"),
        }
    }
}

impl FromStr for Op {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let block = |prefix: &str| match text.strip_prefix(prefix) {
            Some("0") => Some(0),
            Some("1") => Some(1),
            Some("2") => Some(2),
            _ => None,
        };
        let write = block("whole")
            .map(Self::Whole)
            .or_else(|| block("part").map(Self::Partial))
            .or_else(|| block("span").filter(|b| *b == 0).map(Self::Spanning));
        match text {
            "flush" => Ok(Self::Flush),
            "idle" => Ok(Self::IdleCommit),
            "reopen" => Ok(Self::Reopen),
            "loss" => Ok(Self::PowerLoss(Kept::Nothing)),
            "loss-all-kept" => Ok(Self::PowerLoss(Kept::Everything)),
            _ => write.ok_or_else(|| format!("{text} is not an operation")),
        }
    }
}
