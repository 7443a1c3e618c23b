//! Checking an image: every rule of the format that can be checked without knowing what was written.

use std::ops::ControlFlow;
use std::path::Path;

use dscow::header::State;
use thiserror::Error;

use super::error::ImageError;
use super::open::{Image, ImageAccess};

/// Something that is wrong with an image.
#[derive(Debug, Error)]
pub enum Problem {
    /// It, or one of its parents, does not open.
    #[error(transparent)]
    Unusable(ImageError),
    /// A byte in the bitmap's headroom is not zero: growing the image would show blocks never written.
    #[error("the bitmap's headroom has a bit set at byte {offset} of the file")]
    Headroom {
        /// Where in the file.
        offset: u64,
    },
}

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
}

/// Checks the image at `path` and that its parents are what they were.
///
/// # Errors
/// Only what keeps the check from being made: the file cannot be opened, read or locked. What is wrong
/// with the image itself is in the report.
pub fn check(path: &Path) -> Result<CheckReport, ImageError> {
    let image = match Image::open(path, ImageAccess::ReadOnly) {
        Ok(image) => image,
        Err(error) if is_finding(&error) => return Ok(CheckReport::unusable(error)),
        Err(error) => return Err(error),
    };
    let mut problems = Vec::new();
    if let Some(offset) = first_headroom_bit(&image)? {
        problems.push(Problem::Headroom { offset });
    }
    Ok(CheckReport {
        problems,
        closed_cleanly: matches!(image.header().state, State::Clean { .. }),
        allocated_blocks: image.bitmap().count_set(),
        block_count: image.bitmap().block_count(),
    })
}

impl CheckReport {
    fn unusable(error: ImageError) -> Self {
        Self {
            problems: vec![Problem::Unusable(error)],
            closed_cleanly: false,
            allocated_blocks: 0,
            block_count: 0,
        }
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

/// The first byte that is not zero after the used bitmap and within its reserved length.
fn first_headroom_bit(image: &Image) -> Result<Option<u64>, ImageError> {
    let (file, layout) = (image.file(), &image.header().layout);
    let start = layout.bitmap_offset().0 + layout.bitmap_used_len();
    let end = layout.bitmap_offset().0 + layout.bitmap_reserved_len();
    let mut found = None;
    file.visit_data(start..end, |at, page| {
        found = page
            .iter()
            .position(|byte| *byte != 0)
            .map(|i| at + i as u64);
        if found.is_some() {
            ControlFlow::Break(())
        } else {
            ControlFlow::Continue(())
        }
    })
    .map_err(ImageError::io(file.path(), "read its bitmap"))?;
    Ok(found)
}
