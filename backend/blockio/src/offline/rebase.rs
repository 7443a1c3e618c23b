//! Giving an overlay another parent, or none, without changing what it shows.
//!
//! What the overlay does not hold itself, and what differs between the old chain and the new, is first copied into the
//! overlay. That changes nothing of what it shows, so it may stop at any point. Then one write of the header puts the
//! new parent in the place of the old.

use std::path::Path;
use std::sync::Arc;

use dscow::parents::LayerIndex;
use dscow::units::DiskRange;

use super::Progress;
use super::compare::same;
use super::granules::{differing, sort};
use super::pipeline::Route;
use super::session::Session;
use super::sweep::{Choice, Sweep};
use super::volume::Volume;
use crate::file::{Access, BlockFile, Caching};
use crate::image::{Image, ImageAccess, ImageError, ParentFormat, identify_parent, replace_parent};

/// What a rebase did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rebased {
    /// Bytes that had to be compared.
    pub compared_bytes: u64,
    /// Bytes copied into the overlay.
    pub copied_bytes: u64,
}

/// Makes `base` the parent of the image at `path`, or leaves it without one, and keeps what it shows.
///
/// # Errors
/// Names the file and the cause. The image then has its old parent still, and shows what it did.
pub fn rebase(
    path: &Path,
    base: Option<(&Path, ParentFormat)>,
    progress: &mut dyn Progress,
) -> Result<Rebased, ImageError> {
    let new = base
        .map(|(base, format)| open_base(path, base, format))
        .transpose()?;
    let parent = base
        .map(|(base, format)| identify_parent(base, format))
        .transpose()?;
    let image = Image::open(path, ImageAccess::Writable)?;
    if image.header().commit_under_way {
        // The old parent is neither what it was nor what it is to be; nobody would finish it.
        return Err(ImageError::CommitUnderWay(path.to_owned()));
    }
    let unit = image.header().layout.block_size().bytes();
    let limit = image.header().parent_limit.unwrap_or(u64::MAX);
    let volume = Volume::of_image(image);
    // Keeps the image locked until its parent is replaced.
    let file = Arc::clone(&volume.files[0]);
    let mut session = Session::new()?;
    let overlay = session.join(volume)?;
    // As much as the overlay lets its parent show, which stays as it is.
    let beside = new
        .map(|volume| session.join(volume.limited_to(limit)))
        .transpose()?;
    let size = session.size(overlay);
    progress.begin("compare and copy", size);
    let sweep = Sweep {
        route: Route {
            from: overlay,
            beside,
            to: Some(overlay),
        },
        range: DiskRange::new(0, size),
        // A block is held as a whole or not at all, so what is widened reaches into nothing that the overlay holds.
        unit,
        choose: &|session, pair| {
            let held = pair.first.depth() == Some(LayerIndex::TOP.0);
            if held || same(session, (overlay, beside), pair) {
                Choice::Skip
            } else {
                Choice::Read
            }
        },
        look: &mut |seen| sort(&seen, unit, differing),
        part_done: &mut || Ok(()),
    };
    let swept = sweep
        .run(&mut session, progress)
        .inspect_err(|_| session.close_after_failure(overlay))?;
    session.close(overlay)?;
    replace_parent(&file, parent)?;
    Ok(Rebased {
        compared_bytes: swept.read_bytes,
        copied_bytes: swept.written_bytes,
    })
}

/// Opens the new base, which must not stand on the overlay itself.
fn open_base(path: &Path, base: &Path, format: ParentFormat) -> Result<Volume, ImageError> {
    let identity = BlockFile::open(path, Access::ReadOnly, Caching::Buffered)?.identity();
    let volume = Volume::open(base, format)?;
    if volume.contains(identity) {
        return Err(ImageError::Cycle(path.to_owned()));
    }
    Ok(volume)
}
