//! Creating an image.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use dscow::bitmap::Bitmap;
use dscow::header::{Header, Slot, State};
use dscow::layout::{Headroom, Layout};
use dscow::parent::Parent;
use dscow::units::BlockSize;
use uuid::Uuid;

use super::error::ImageError;
use super::parent::identify_parent;
use crate::file::{Caching, NewFile};

/// What an image's base is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ParentFormat {
    /// A dscow image if it has a dscow header, raw otherwise.
    #[default]
    Detect,
    /// Raw, whatever it begins with.
    Raw,
    /// A dscow image.
    Dscow,
}

/// What a new image is to be like.
#[derive(Clone, Debug, Default)]
pub struct CreateOptions {
    /// What it is an overlay of.
    pub base: Option<PathBuf>,
    /// What the base is.
    pub base_format: ParentFormat,
    /// Size of the virtual disk in bytes; the base's if not given.
    pub size: Option<u64>,
    /// Size of a block.
    pub block_size: BlockSize,
}

/// Creates an image in a new file at `path`. The file is there completely or not at all, also after a crash
/// of the host.
///
/// # Errors
/// Names the file, this one or the base, and why. Nothing is left behind then. Whatever is at `path`
/// already is never touched.
pub fn create(path: &Path, options: &CreateOptions) -> Result<Header, ImageError> {
    let parent = options
        .base
        .as_deref()
        .map(|base| identify_parent(base, options.base_format))
        .transpose()?;
    let size = options
        .size
        .or(parent.as_ref().map(Parent::size))
        .ok_or_else(|| ImageError::NoSize(path.to_owned()))?;
    let layout =
        Layout::for_new(size, options.block_size, Headroom::Generous).map_err(|cause| {
            ImageError::Layout {
                path: path.to_owned(),
                cause,
            }
        })?;
    let header = Header {
        sequence: 1,
        compatible_features: 0,
        uuid: Uuid::new_v4(),
        layout,
        generation: 0,
        created: SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs()),
        state: State::Clean {
            bitmap_crc: Bitmap::empty(&layout).crc(),
        },
        parent,
    };
    write_new(path, &header)?;
    Ok(header)
}

fn write_new(path: &Path, header: &Header) -> Result<(), ImageError> {
    let new = NewFile::create(path, Caching::Buffered)?;
    new.file()
        .set_len(header.layout.file_len())
        .map_err(ImageError::io(path, "set its length"))?;
    new.file()
        .write_all_at(&header.encode()[..], Slot::A.offset().0)
        .map_err(ImageError::io(path, "write its header"))?;
    new.publish()?;
    Ok(())
}
