//! Creating an image.

use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use dscow::bitmap::Bitmap;
use dscow::header::{Header, State};
use dscow::layout::{Headroom, Layout};
use dscow::parent::Parent;
use dscow::units::BlockSize;
use uuid::Uuid;

use super::device;
use super::error::ImageError;
use super::header_file::write_new_pair;
use super::parent::identify_parent;
use crate::file::{BlockFile, Caching, NewFile};

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
    /// How much the disk may grow later; if not given, generous in a file and not at all on a device.
    pub headroom: Option<Headroom>,
    /// Create it on a device also if that holds something, which is lost then. Files are never replaced.
    pub force: bool,
}

/// Creates an image: in a new file at `path`, or on the block device that is there. The image is there completely or
/// not at all, also after a crash of the host.
///
/// # Errors
/// Names the file, this one or the base, and why. No file is left behind then. A file that is at `path` already is
/// never touched, and neither is a device that is in use, too small, or not empty (without
/// [`force`](CreateOptions::force)).
pub fn create(path: &Path, options: &CreateOptions) -> Result<Header, ImageError> {
    // Whatever else is there is refused by the creation of the file.
    let on_device = std::fs::metadata(path).is_ok_and(|found| found.file_type().is_block_device());
    let parent = options
        .base
        .as_deref()
        .map(|base| identify_parent(base, options.base_format))
        .transpose()?;
    let size = options
        .size
        .or(parent.as_ref().map(Parent::size))
        .ok_or_else(|| ImageError::NoSize(path.to_owned()))?;
    let headroom = options.headroom.unwrap_or(if on_device {
        Headroom::Exact
    } else {
        Headroom::Generous
    });
    let layout = Layout::for_new(size, options.block_size, headroom).map_err(|cause| {
        let path = path.to_owned();
        ImageError::Layout { path, cause }
    })?;
    let header = new_header(layout, parent);
    if on_device {
        device::write_new(path, &header, headroom, options.force)
    } else {
        write_new(path, &header)
    }
}

/// A header that was not written yet.
fn new_header(layout: Layout, parent: Option<Parent>) -> Header {
    Header {
        sequence: 0,
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
        commit_under_way: false,
        parent_limit: None,
    }
}

fn write_new(path: &Path, header: &Header) -> Result<Header, ImageError> {
    let new = NewFile::create(path, Caching::Buffered)?;
    set_len(new.file(), header.layout.file_len())?;
    let header = write_new_pair(new.file(), header)?;
    new.publish()?;
    Ok(header)
}

/// Makes a file as long as an image needs it.
pub(super) fn set_len(file: &BlockFile, len: u64) -> Result<(), ImageError> {
    file.set_len(len).map_err(|cause| {
        let path = file.path();
        if cause.kind() == io::ErrorKind::FileTooLarge {
            let path = path.to_owned();
            return ImageError::FileTooLong { path, len };
        }
        ImageError::io(path, "set its length")(cause)
    })
}
