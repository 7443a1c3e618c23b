//! The images below an overlay: opened, locked against writers, and compared with what was recorded.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dscow::header::Header;
use dscow::parent::Parent;

use super::CHAIN_DEPTH_MAX;
use super::error::{ImageError, ParentChange};
use super::open::{ImageAccess, Layer, Overlay, size_of_file};
use super::parent::{fingerprint, modified};
use crate::file::{Access, BlockFile, Caching, FileIdentity};
use crate::lock;

/// Opens the parents of `top`, nearest first.
pub(super) fn open_parents(top: &Overlay) -> Result<Vec<Layer>, ImageError> {
    open_parents_of(&top.file, &top.header)
}

/// Opens the parents of the image in `file`, nearest first.
pub(super) fn open_parents_of(file: &BlockFile, header: &Header) -> Result<Vec<Layer>, ImageError> {
    let mut layers = Vec::new();
    let mut seen = HashSet::from([file.identity()]);
    let mut child = file.path().to_owned();
    let mut recorded_by = Recorded::of(header);
    while let Some(recorded) = recorded_by {
        if layers.len() + 1 == CHAIN_DEPTH_MAX {
            return Err(ImageError::TooDeep(recorded.parent.path().to_owned()));
        }
        let path = resolve(&child, recorded.parent.path());
        // Before it is opened: who is in the chain already, and locked, would be found to be in use.
        let is_known = FileIdentity::at(&path).is_some_and(|identity| !seen.insert(identity));
        if is_known {
            return Err(ImageError::Cycle(path));
        }
        let layer = open_parent(&child, &path, &recorded)?;
        let next = match &layer {
            Layer::Raw { .. } => None,
            Layer::Dscow { header, .. } => Recorded::of(header),
        };
        layers.push(layer);
        child = path;
        recorded_by = next;
    }
    Ok(layers)
}

/// What an overlay says of its parent.
pub(super) struct Recorded {
    pub(super) parent: Parent,
    /// What the overlay holds is being written to the parent. That changes nothing of what the overlay shows, since it
    /// shows its own blocks there; but it changes all by which the parent is known, except what cannot be forged by
    /// a write: its UUID.
    pub(super) commit_under_way: bool,
}

impl Recorded {
    pub(super) fn of(header: &Header) -> Option<Self> {
        let parent = header.parent.clone()?;
        Some(Self {
            parent,
            commit_under_way: header.commit_under_way,
        })
    }
}

/// A parent's path as recorded is relative to the folder of the image that records it.
pub(super) fn resolve(child: &Path, parent: &Path) -> PathBuf {
    child
        .parent()
        .map_or_else(|| parent.to_owned(), |folder| folder.join(parent))
}

fn open_parent(child: &Path, path: &Path, recorded: &Recorded) -> Result<Layer, ImageError> {
    let within = |cause: ImageError| ImageError::Parent {
        path: child.to_owned(),
        cause: Box::new(cause),
    };
    let changed = |change: ParentChange| ImageError::ParentChanged {
        path: child.to_owned(),
        parent: path.to_owned(),
        change,
    };
    match recorded.parent {
        Parent::Raw { .. } => {
            let (layer, change) = open_raw(path, recorded).map_err(within)?;
            change.map_or(Ok(layer), |change| Err(changed(change)))
        }
        Parent::Dscow { .. } => {
            let overlay = Overlay::open(path, ImageAccess::ReadOnly);
            let overlay = overlay.map_err(|error| match error {
                ImageError::NotAnImage(_) => changed(ParentChange::Format {
                    found: "raw",
                    recorded: "dscow",
                }),
                other => within(other),
            })?;
            compare_dscow(recorded, &overlay.header).map_err(changed)?;
            Ok(Layer::Dscow {
                file: overlay.file,
                header: Box::new(overlay.header),
                bitmap: overlay.bitmap,
            })
        }
    }
}

/// Opens a raw base, and tells in what it differs from what was recorded.
fn open_raw(path: &Path, recorded: &Recorded) -> Result<(Layer, Option<ParentChange>), ImageError> {
    let file = BlockFile::open(path, Access::ReadOnly, Caching::Buffered)?;
    lock::patiently(lock::PATIENCE, &file, lock::lock_raw_base)?;
    let size = size_of_file(&file)?;
    let change = compare_raw(&file, size, recorded)?;
    let file = Arc::new(file);
    Ok((Layer::Raw { file, size }, change))
}

/// In what a raw parent differs from what was recorded of it.
pub(super) fn compare_raw(
    file: &BlockFile,
    found_size: u64,
    recorded: &Recorded,
) -> Result<Option<ParentChange>, ImageError> {
    let Parent::Raw {
        size,
        fingerprint: recorded_fingerprint,
        modified: recorded_modified,
        ..
    } = &recorded.parent
    else {
        return Ok(None);
    };
    if recorded.commit_under_way && found_size >= *size {
        return Ok(None);
    }
    if found_size != *size {
        return Ok(Some(ParentChange::Size {
            found: found_size,
            recorded: *size,
        }));
    }
    if fingerprint(file, found_size)? != *recorded_fingerprint {
        return Ok(Some(ParentChange::Fingerprint));
    }
    let found = modified(file)?;
    match (found, *recorded_modified) {
        (Some(found), Some(recorded)) if found != recorded => Ok(Some(ParentChange::Modified {
            found: super::parent::describe_time(found),
            recorded: super::parent::describe_time(recorded),
        })),
        _ => Ok(None),
    }
}

/// Compares a dscow parent with what was recorded of it.
pub(super) fn compare_dscow(recorded: &Recorded, found: &Header) -> Result<(), ParentChange> {
    let Parent::Dscow {
        size,
        uuid,
        generation,
        ..
    } = &recorded.parent
    else {
        return Ok(());
    };
    if found.uuid != *uuid {
        return Err(ParentChange::Uuid {
            found: found.uuid,
            recorded: *uuid,
        });
    }
    let grown = found.layout.virtual_size() >= *size && found.generation >= *generation;
    if recorded.commit_under_way && grown {
        return Ok(());
    }
    if found.generation != *generation {
        return Err(ParentChange::Generation {
            found: found.generation,
            recorded: *generation,
        });
    }
    if found.layout.virtual_size() != *size {
        return Err(ParentChange::Size {
            found: found.layout.virtual_size(),
            recorded: *size,
        });
    }
    Ok(())
}
