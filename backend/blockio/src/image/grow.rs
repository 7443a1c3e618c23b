//! What must be true before the disk of an image grows, whether it is in use or not.

use std::path::Path;

use dscow::header::Header;
use dscow::layout::{Layout, LayoutError};

use super::check::check_growable;
use super::create::{check_sectors, set_len};
use super::error::ImageError;
use crate::file::{BlockFile, FileKind};

/// Sees that the disk of an image that is open for writing can be made `size` bytes large, and makes the room in its file
/// that this takes. The image is not changed, and may be in use: all that is left to do is to let its engine grow.
///
/// `has_last_block` says whether the block that the disk ends in is allocated. Reads what is reserved of the bitmap, which on
/// a device may take a while.
///
/// # Errors
/// Names the file and the cause: the size is smaller than before, not one that an image can have, or more than the bitmap,
/// the device or the file system has room for; or a larger disk would show what it must not.
pub fn prepare_growth(
    file: &BlockFile,
    header: &Header,
    has_last_block: bool,
    size: u64,
) -> Result<(), ImageError> {
    let grown = grown_layout(file.path(), &header.layout, size)?;
    check_sectors(file.path(), header, size)?;
    check_growable(file, &header.layout, has_last_block)?;
    make_room(file, &grown)
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
