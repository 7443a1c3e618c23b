//! Making the disk of an image larger while nobody has it open.

#[cfg(test)]
mod tests;

use std::path::Path;

use super::session::Session;
use super::volume::Volume;
use crate::image::{Image, ImageAccess, ImageError, prepare_growth};

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
    let before = image.header().layout.virtual_size();
    let resized = Resized {
        before,
        after: size,
    };
    if size == before {
        // Perhaps it has that size only in the host's cache, from a process that was killed.
        image.make_header_durable()?;
        return Ok(resized);
    }
    prepare_growth(image.file(), image.header(), image.has_last_block(), size)?;
    let mut session = Session::new()?;
    let disk = session.join(Volume::of_image(image))?;
    session.grow(disk, size)?;
    session.close(disk)?;
    Ok(resized)
}
