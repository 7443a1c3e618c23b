//! Merging an overlay into its parent.

use std::path::Path;
use std::sync::Arc;

use dscow::parents::LayerIndex;
use dscow::units::SECTOR_SIZE;

use super::Progress;
use super::compare::Pair;
use super::pipeline::{Put, Route};
use super::session::Session;
use super::sweep::{Choice, Sweep};
use super::volume::Volume;
use crate::file::{BlockFile, FileKind};
use crate::image::{ImageError, Merge, Target};

/// What a commit did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Committed {
    /// Bytes written to the parent.
    pub written_bytes: u64,
}

/// Writes all that the overlay at `path` holds to its parent, and empties the overlay. Both show then what the overlay
/// showed. The overlay shows it at every moment in between; the parent shows a mixture until the end, and whatever else
/// stands on it is unusable.
///
/// After an interruption the same call goes on.
///
/// # Errors
/// Names the file and the cause.
pub fn commit(path: &Path, progress: &mut dyn Progress) -> Result<Committed, ImageError> {
    let (mut merge, image, target) = Merge::open(path)?;
    let overlay = Volume::of_image(image);
    let (size, target) = (overlay.size(), target_volume(target));
    check_room(&target, size)?;
    merge.begin()?;
    let target = grow(target, size)?;
    let target_file = Arc::clone(&target.files[0]);
    let mut session = Session::new()?;
    let from = session.join(overlay)?;
    let to = session.join(target)?;
    progress.begin("write to the base", size);
    let sweep = Sweep {
        route: Route {
            from,
            beside: None,
            to: Some(to),
        },
        size,
        unit: SECTOR_SIZE,
        choose: &|_, pair| choose(pair),
        look: &mut |seen| vec![Put::Data(seen.range)],
        part_done: &mut || Ok(()),
    };
    let swept = sweep.run(&mut session, progress)?;
    session.close(to)?;
    // Not only the data: the time of modification, by which a raw file is known from here on, must survive a crash too.
    target_file
        .sync_all()
        .map_err(ImageError::io(target_file.path(), "sync it"))?;
    merge.finish()?;
    Ok(Committed {
        written_bytes: swept.written_bytes,
    })
}

fn choose(pair: &Pair) -> Choice {
    if pair.first.depth() != Some(LayerIndex::TOP.0) {
        Choice::Skip
    } else if pair.first.zero {
        Choice::Zeros
    } else {
        Choice::Read
    }
}

fn target_volume(target: Target) -> Volume {
    match target {
        Target::Raw(file, size) => Volume::of_raw(file, size),
        Target::Image(image) => Volume::of_image(*image),
    }
}

/// Only a raw file can be made larger on the way.
fn check_room(target: &Volume, size: u64) -> Result<(), ImageError> {
    let can_grow = !target.is_image() && target.files[0].kind() == FileKind::Regular;
    if target.size() >= size || can_grow {
        return Ok(());
    }
    Err(ImageError::TooSmall {
        path: target.files[0].path().to_owned(),
        found: target.size(),
        needed: size,
    })
}

/// Makes a raw file at least `size` bytes long. What is new reads as zeros, as it did for the overlay when it was past the
/// end.
fn grow(target: Volume, size: u64) -> Result<Volume, ImageError> {
    if target.size() >= size {
        return Ok(target);
    }
    let file: &Arc<BlockFile> = &target.files[0];
    file.set_len(size)
        .map_err(ImageError::io(file.path(), "make it longer"))?;
    Ok(Volume::of_raw(Arc::clone(file), size))
}
