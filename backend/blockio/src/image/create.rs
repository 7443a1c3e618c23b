//! Creating an image.

use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use dscow::bitmap::Bitmap;
use dscow::header::{COMPATIBLE_LARGE_SECTORS, COMPATIBLE_REPORT_NO_SPACE, Header, State};
use dscow::layout::{Headroom, Layout};
use dscow::parent::Parent;
use dscow::units::BlockSize;
use uuid::Uuid;

use super::device;
use super::error::ImageError;
use super::header_file::write_new_pair;
use super::open::{Image, ImageAccess};
use super::parent::identify_parent;
use crate::file::{BlockFile, Caching, NewFile};
use crate::lock;
use crate::space::{STRIDE, SpaceStrategy};

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
    /// Whether writes fail when the host has run out of space; if not, the guest waits until there is some.
    pub report_no_space: bool,
    /// Whether guests are told that the disk has logical sectors of 4096 bytes, and not of 512. Its size must be a multiple
    /// of them.
    pub large_sectors: bool,
    /// How storage is taken in a file. Only [`SpaceStrategy::ExtentHint`] makes a difference to a new file; it fails
    /// where the file system has no such hint.
    pub space: SpaceStrategy,
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
    match Plan::new(path, options)? {
        Plan {
            header,
            device: Some(headroom),
        } => device::write_new(path, &header, headroom, options.force),
        Plan { header, .. } => {
            let (new, header) = begin_file(path, &header, Caching::Buffered, options.space)?;
            new.publish()?;
            Ok(header)
        }
    }
}

/// Creates an image as [`create`] does, and opens it for writing before anybody can find it: in a file, that is, which has
/// its name only when it is published. On a device it can be found from the start.
pub(crate) fn create_to_fill(
    path: &Path,
    options: &CreateOptions,
) -> Result<(Image, Option<NewFile>), ImageError> {
    let Plan { header, device } = Plan::new(path, options)?;
    if let Some(headroom) = device {
        device::write_new(path, &header, headroom, options.force)?;
        return Ok((Image::open(path, ImageAccess::Writable)?, None));
    }
    let (new, header) = begin_file(path, &header, Caching::DIRECT, options.space)?;
    lock::lock_exclusive(new.file())?;
    let image = Image::of_new(Arc::clone(new.file()), header)?;
    Ok((image, Some(new)))
}

/// What is to be created.
struct Plan {
    header: Header,
    /// On a device, how much room its bitmap is to have.
    device: Option<Headroom>,
}

impl Plan {
    fn new(path: &Path, options: &CreateOptions) -> Result<Self, ImageError> {
        // Whatever else is there is refused by the creation of the file.
        let on_device =
            std::fs::metadata(path).is_ok_and(|found| found.file_type().is_block_device());
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
        let header = new_header(layout, parent, compatible_features(options));
        check_sectors(path, &header, size)?;
        Ok(Self {
            header,
            device: on_device.then_some(headroom),
        })
    }
}

fn compatible_features(options: &CreateOptions) -> u64 {
    let feature = |wanted: bool, bit: u64| if wanted { bit } else { 0 };
    feature(options.report_no_space, COMPATIBLE_REPORT_NO_SPACE)
        | feature(options.large_sectors, COMPATIBLE_LARGE_SECTORS)
}

/// A disk that is to have `size` bytes must end with a sector, as guests see it.
pub(crate) fn check_sectors(path: &Path, header: &Header, size: u64) -> Result<(), ImageError> {
    let sector_size = header.sector_size();
    if size.is_multiple_of(u64::from(sector_size)) {
        return Ok(());
    }
    Err(ImageError::RaggedSectors {
        path: path.to_owned(),
        size,
        sector_size,
    })
}

/// A header that was not written yet.
fn new_header(layout: Layout, parent: Option<Parent>, compatible_features: u64) -> Header {
    Header {
        sequence: 0,
        compatible_features,
        uuid: Uuid::new_v4(),
        layout,
        generation: 0,
        created: SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs()),
        state: State::Clean {
            bitmap_crc: Bitmap::crc_of_empty(&layout),
        },
        parent,
        commit_under_way: false,
        parent_limit: None,
    }
}

/// An image in a file that has no name yet, and its header.
fn begin_file(
    path: &Path,
    header: &Header,
    caching: Caching,
    space: SpaceStrategy,
) -> Result<(NewFile, Header), ImageError> {
    let new = NewFile::create(path, caching)?;
    if space == SpaceStrategy::ExtentHint {
        let hint = new.file().set_extent_size(STRIDE);
        hint.map_err(ImageError::io(path, "give it an extent-size hint"))?;
    }
    set_len(new.file(), header.layout.file_len())?;
    let header = write_new_pair(new.file(), header)?;
    Ok((new, header))
}

/// Makes a file as long as an image needs it.
pub(crate) fn set_len(file: &BlockFile, len: u64) -> Result<(), ImageError> {
    file.set_len(len).map_err(|cause| {
        let path = file.path();
        if cause.kind() == io::ErrorKind::FileTooLarge {
            let path = path.to_owned();
            return ImageError::FileTooLong { path, len };
        }
        ImageError::io(path, "set its length")(cause)
    })
}
