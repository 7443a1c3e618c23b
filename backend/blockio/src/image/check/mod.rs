//! Checking an image: every rule of the format that can be checked without knowing what was written; and repairing
//! what can be repaired without guessing.

mod examine;
mod problem;
mod repair;
#[cfg(test)]
mod tests;

use std::path::Path;

use dscow::header::State;
use dscow::layout::Layout;

use super::chain;
use super::error::ImageError;
use super::open::{ImageAccess, open_locked};
use crate::file::{BlockFile, Caching};
use examine::{Examination, examine};

pub use problem::{LostBlocks, Problem};
pub use repair::{Repair, RepairReport, repair};

/// What a check found.
#[derive(Debug)]
pub struct CheckReport {
    /// What is wrong; empty if nothing is.
    pub problems: Vec<Problem>,
    /// The image was closed cleanly, so that its bitmap could be compared with its checksum.
    pub closed_cleanly: bool,
    /// How many blocks are allocated.
    pub allocated_blocks: u64,
    /// How many blocks there are.
    pub block_count: u64,
    /// Bytes of the file's storage in blocks that are not allocated: left by writes that a crash cut off. Nothing is
    /// wrong with them, but they take space.
    pub leftover_bytes: u64,
}

/// Checks the image at `path` and that its parents are what they were. Changes nothing.
///
/// # Errors
/// Only what keeps the check from being made: the file cannot be opened, read or locked. What is wrong
/// with the image itself is in the report.
pub fn check(path: &Path) -> Result<CheckReport, ImageError> {
    let file = open_locked(path, ImageAccess::ReadOnly, Caching::Buffered)?;
    match examine(&file) {
        Ok(examination) => report(&examination),
        Err(error) => CheckReport::unusable(error),
    }
}

/// What is wrong with an image and with its parents.
fn report(found: &Examination<'_>) -> Result<CheckReport, ImageError> {
    let mut problems = found.problems();
    let (file, header) = (found.file, &found.header);
    if let Err(error) = chain::open_parents_of(file, header) {
        if !is_finding(&error) {
            return Err(error);
        }
        problems.push(Problem::Unusable(error));
    }
    Ok(CheckReport {
        problems,
        closed_cleanly: matches!(header.state, State::Clean { .. }),
        allocated_blocks: found.bitmap.count_set(),
        block_count: found.bitmap.block_count(),
        leftover_bytes: found
            .leftovers
            .iter()
            .map(|range| range.end - range.start)
            .sum(),
    })
}

impl CheckReport {
    /// The report of an image that could not be looked at, if that says something about the image.
    fn unusable(error: ImageError) -> Result<Self, ImageError> {
        if !is_finding(&error) {
            return Err(error);
        }
        Ok(Self {
            problems: vec![Problem::Unusable(error)],
            closed_cleanly: false,
            allocated_blocks: 0,
            block_count: 0,
            leftover_bytes: 0,
        })
    }
}

/// Looks whether a larger disk would show what it must not: bits set where its blocks will be, or bytes past its end in a
/// last block that is allocated.
pub(super) fn check_growable(
    file: &BlockFile,
    layout: &Layout,
    has_last_block: bool,
) -> Result<(), ImageError> {
    match examine::shown_by_growing(file, layout, has_last_block)? {
        None => Ok(()),
        Some(problem) => Err(ImageError::NotGrowable {
            path: file.path().to_owned(),
            problem: Box::new(problem),
        }),
    }
}

/// Whether an error is a statement about the image rather than about this attempt.
fn is_finding(error: &ImageError) -> bool {
    match error {
        ImageError::NotAnImage(_)
        | ImageError::CorruptHeader { .. }
        | ImageError::UnusableHeader { .. }
        | ImageError::Truncated { .. }
        | ImageError::BitmapChecksum { .. }
        | ImageError::BitmapPastEnd { .. }
        | ImageError::ParentChanged { .. }
        | ImageError::Cycle(_)
        | ImageError::TooDeep(_) => true,
        ImageError::Parent { cause, .. } => match &**cause {
            ImageError::Open(_) => true,
            other => is_finding(other),
        },
        _ => false,
    }
}
