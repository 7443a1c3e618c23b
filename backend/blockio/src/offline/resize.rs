//! Making the disk of an image larger while nobody has it open.

#[cfg(test)]
mod tests;

use std::path::Path;

use dscow::layout::{Layout, LayoutError};

use super::session::Session;
use super::volume::Volume;
use crate::file::{BlockFile, FileKind};
use crate::image::{Image, ImageAccess, ImageError, check_sectors, set_len};

/// What a change of size did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resized {
    /// Size of the disk before, in bytes.
    pub before: u64,
    /// Size of the disk now, in bytes.
    pub after: u64,
}

/// Makes the disk of the image at `path` `size` bytes large. What is new reads as zeros, also where a base is larger.
/// It can be interrupted anywhere: the disk is as large as before, or larger already, and the same call goes on.
///
/// # Errors
/// Names the file and the cause: the size is smaller than before, not one that an image can have, or more than the bitmap,
/// the device or the file system has room for. Nothing has changed then.
pub fn resize(path: &Path, size: u64) -> Result<Resized, ImageError> {
    let image = Image::open(path, ImageAccess::Writable)?;
    let layout = image.header().layout;
    let before = layout.virtual_size();
    let resized = Resized {
        before,
        after: size,
    };
    if size == before {
        // Perhaps it has that size only in the host's cache, from a process that was killed.
        image.make_header_durable()?;
        return Ok(resized);
    }
    check_sectors(path, image.header(), size)?;
    let grown = grown_layout(path, &layout, size)?;
    image.check_growable()?;
    make_room(image.file(), &grown)?;
    let mut session = Session::new()?;
    let disk = session.join(Volume::of_image(image))?;
    session.grow(disk, size)?;
    session.close(disk)?;
    Ok(resized)
}

fn grown_layout(path: &Path, layout: &Layout, size: u64) -> Result<Layout, ImageError> {
    let path = path.to_owned();
    let before = layout.virtual_size();
    if size < before {
        return Err(ImageError::Shrink { path, size, before });
    }
    layout.grown(size).map_err(|cause| match cause {
        LayoutError::BitmapTooSmall { .. } => ImageError::NoHeadroom {
            path,
            size,
            largest: layout.largest_disk_of_bitmap(),
        },
        cause => ImageError::ImpossibleSize { path, cause },
    })
}

/// Makes the file long enough, or sees that the device is. A file that is longer than its header asks for is valid.
fn make_room(file: &BlockFile, grown: &Layout) -> Result<(), ImageError> {
    let found = file
        .size()
        .map_err(ImageError::io(file.path(), "find out its size"))?;
    if grown.file_len() <= found {
        return Ok(());
    }
    if file.kind() == FileKind::Regular {
        return set_len(file, grown.file_len());
    }
    let room = found.saturating_sub(grown.data_offset().0);
    let whole_blocks = room - room % grown.block_size().bytes();
    Err(ImageError::DeviceTooSmall {
        path: file.path().to_owned(),
        needed: grown.file_len(),
        metadata: grown.data_offset().0,
        found,
        largest: Some(whole_blocks.min(grown.largest_disk_of_bitmap())).filter(|size| *size > 0),
    })
}
