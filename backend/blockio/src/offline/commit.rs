//! Merging an overlay into its parent.

use std::path::Path;
use std::sync::Arc;

use dscow::parents::LayerIndex;
use dscow::units::{DiskRange, SECTOR_SIZE};

use super::Progress;
use super::compare::Pair;
use super::pipeline::{Put, Route};
use super::session::{Member, Session};
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
    let size = overlay.size();
    check_room(&target, size)?;
    merge.begin()?;
    let mut session = Session::new()?;
    let from = session.join(overlay)?;
    let (to, target_file) = join_target(&mut session, target, size)?;
    progress.begin("write to the base", size);
    let shown_end = merge.parent_limit().unwrap_or(size);
    let mut written_bytes = 0;
    for (start, end, unheld) in [
        (0, shown_end, Choice::Skip),
        // What the parent has there, the overlay hides.
        (shown_end, size, Choice::Zeros),
    ] {
        let sweep = Sweep {
            route: Route {
                from,
                beside: None,
                to: Some(to),
            },
            range: DiskRange::new(start, end - start),
            unit: SECTOR_SIZE,
            choose: &|_, pair| choose(pair, unheld),
            look: &mut |seen| vec![Put::Data(seen.range)],
            part_done: &mut || Ok(()),
        };
        written_bytes += sweep.run(&mut session, progress)?.written_bytes;
    }
    session.close(to)?;
    // Not only the data: the time of modification, by which a raw file is known from here on, must survive a crash too.
    target_file
        .sync_all()
        .map_err(ImageError::io(target_file.path(), "sync it"))?;
    merge.finish()?;
    Ok(Committed { written_bytes })
}

/// What becomes of a range in the parent; `unheld` if the overlay does not hold it.
fn choose(pair: &Pair, unheld: Choice) -> Choice {
    if pair.first.depth() != Some(LayerIndex::TOP.0) {
        unheld
    } else if pair.first.zero {
        Choice::Zeros
    } else {
        Choice::Read
    }
}

/// A device cannot be made larger, and an image only within what its bitmap reserves.
fn check_room(target: &Target, size: u64) -> Result<(), ImageError> {
    let (file, found, can_grow) = match target {
        Target::Raw(file, found) => (&**file, *found, file.kind() == FileKind::Regular),
        Target::Image(image) => {
            let layout = &image.header().layout;
            let can_grow = layout.grown(size).is_ok();
            if can_grow && layout.virtual_size() < size {
                image.check_growable()?;
            }
            (image.file(), layout.virtual_size(), can_grow)
        }
    };
    if found >= size || can_grow {
        return Ok(());
    }
    Err(ImageError::TooSmall {
        path: file.path().to_owned(),
        found,
        needed: size,
    })
}

/// Takes the parent in, and makes it at least `size` bytes long. What is new reads as zeros, as it did for the overlay when
/// it was past the end.
fn join_target(
    session: &mut Session,
    target: Target,
    size: u64,
) -> Result<(Member, Arc<BlockFile>), ImageError> {
    match target {
        Target::Raw(file, found) => {
            if found < size {
                file.set_len(size)
                    .map_err(ImageError::io(file.path(), "make it longer"))?;
            }
            let volume = Volume::of_raw(Arc::clone(&file), found.max(size));
            Ok((session.join(volume)?, file))
        }
        Target::Image(image) => {
            let volume = Volume::of_image(*image);
            let (file, found) = (Arc::clone(&volume.files[0]), volume.size());
            let member = session.join(volume)?;
            if found < size {
                session.grow(member, size)?;
            }
            Ok((member, file))
        }
    }
}
