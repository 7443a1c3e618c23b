//! Why an image cannot be used. Each message is one sentence that names the file and the cause.

use std::io;
use std::path::{Path, PathBuf};

use dscow::bitmap::NoMemory;
use dscow::header::NoHeader;
use dscow::layout::LayoutError;
use thiserror::Error;

use crate::executor::IoError;
use crate::file::{CreateError, OpenError};
use crate::lock::LockError;

/// Why an image cannot be used.
#[derive(Debug, Error)]
pub enum ImageError {
    /// The file cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The file cannot be created.
    #[error(transparent)]
    Create(#[from] CreateError),
    /// Somebody else has it open in a way that excludes this one.
    #[error(transparent)]
    Locked(#[from] LockError),
    /// It has no dscow signature.
    #[error("{}: is not a dscow image", .0.display())]
    NotAnImage(PathBuf),
    /// It has a signature, but no valid header.
    #[error("{}: has a corrupt header ({cause})", path.display())]
    CorruptHeader {
        /// The image.
        path: PathBuf,
        /// What is wrong with each slot.
        cause: NoHeader,
    },
    /// It has a header that is as it was written, and cannot be used.
    #[error("{}: has a header that cannot be used ({cause})", path.display())]
    UnusableHeader {
        /// The image.
        path: PathBuf,
        /// What is wrong with it.
        cause: NoHeader,
    },
    /// It can be read, but not be opened for writing or repaired: each of these counts in the header.
    #[error(
        "{}: cannot be written: a counter in its header stands at {counter}, and none goes beyond {}; \
         copy its disk into a new image with: cowback convert",
        path.display(), dscow::header::COUNTER_MAX
    )]
    CounterExhausted {
        /// The image.
        path: PathBuf,
        /// Where the counter stands.
        counter: u64,
    },
    /// It is shorter than its header says.
    #[error("{}: is truncated: {len} bytes long, but its header asks for {needed}", path.display())]
    Truncated {
        /// The image.
        path: PathBuf,
        /// Its length in bytes.
        len: u64,
        /// The least length in bytes.
        needed: u64,
    },
    /// The host has no memory for its bitmap.
    #[error("{}: cannot be used, since {cause}", path.display())]
    NoMemory {
        /// The image.
        path: PathBuf,
        /// How much it would take.
        cause: NoMemory,
    },
    /// A device has no room for the image that is to be on it.
    #[error(
        "{}: is too small: the image would take {needed} bytes ({metadata} of them in front of its data), \
         but the device has {found}; {}",
        path.display(), advice(*largest)
    )]
    DeviceTooSmall {
        /// The device.
        path: PathBuf,
        /// What the image takes, in bytes.
        needed: u64,
        /// How much of that is metadata.
        metadata: u64,
        /// What the device has.
        found: u64,
        /// The largest disk that an image on it can have, if any.
        largest: Option<u64>,
    },
    /// A device holds something already.
    #[error("{}: holds {content} already; to give that up, create the image with --force", path.display())]
    NotEmpty {
        /// The device.
        path: PathBuf,
        /// What it holds, as far as can be said.
        content: DeviceContent,
    },
    /// The file system has a limit on the length of a file.
    #[error(
        "{}: its file would have to be {len} bytes long, which is more than its file system allows; \
         use another file system (XFS), a block device, or a smaller disk",
        path.display()
    )]
    FileTooLong {
        /// The image.
        path: PathBuf,
        /// The length in bytes.
        len: u64,
    },
    /// The bitmap is not what was written when the image was closed.
    #[error("{}: has a corrupt bitmap: its checksum is {found:#010x}, expected {expected:#010x}", path.display())]
    BitmapChecksum {
        /// The image.
        path: PathBuf,
        /// What the bitmap sums up to.
        found: u32,
        /// What the header says.
        expected: u32,
    },
    /// The bitmap has a bit for a block that does not exist.
    #[error("{}: has a corrupt bitmap: it marks block {block}, but the image has {block_count} blocks", path.display())]
    BitmapPastEnd {
        /// The image.
        path: PathBuf,
        /// The block marked.
        block: u64,
        /// How many there are.
        block_count: u64,
    },
    /// A parent cannot be used.
    #[error("{}: cannot open its base: {cause}", path.display())]
    Parent {
        /// The overlay.
        path: PathBuf,
        /// What is wrong with the parent.
        #[source]
        cause: Box<ImageError>,
    },
    /// A parent is not what it was when the overlay was made.
    #[error(
        "{}: its base {} has changed since: {change}; if you know that its content is the same, \
         record it anew with: cowback rebase --unsafe {} --base {}",
        path.display(), parent.display(), path.display(), parent.display()
    )]
    ParentChanged {
        /// The overlay.
        path: PathBuf,
        /// The parent.
        parent: PathBuf,
        /// What is different.
        change: ParentChange,
    },
    /// There is nothing to commit into.
    #[error("{}: has no base", .0.display())]
    NoParent(PathBuf),
    /// A write to the base would change what another image shows.
    #[error(
        "{}: is the base of {} too, which a commit would make unusable; rebase that one first, or remove it",
        path.display(), other.display()
    )]
    OtherOverlay {
        /// The base.
        path: PathBuf,
        /// The other image that stands on it.
        other: PathBuf,
    },
    /// A commit into the base was begun and not finished.
    #[error("{}: a commit into its base is under way; finish it first with: cowback commit --sole-overlay {}", .0.display(), .0.display())]
    CommitUnderWay(PathBuf),
    /// A disk has to fit where there is too little room.
    #[error("{}: holds {found} bytes, but {needed} are needed", path.display())]
    TooSmall {
        /// The file or device.
        path: PathBuf,
        /// Its size in bytes.
        found: u64,
        /// What is needed, in bytes.
        needed: u64,
    },
    /// The chain comes back to an image that it already holds.
    #[error("{}: is its own base", .0.display())]
    Cycle(PathBuf),
    /// The chain is too deep.
    #[error("{}: lies below {} other images, which is the most that is supported", .0.display(), super::CHAIN_DEPTH_MAX)]
    TooDeep(PathBuf),
    /// The size asked for is not possible.
    #[error("{}: cannot be created: {cause}", path.display())]
    Layout {
        /// The image.
        path: PathBuf,
        /// What is wrong.
        cause: LayoutError,
    },
    /// The size asked for is not possible.
    #[error("{}: cannot be resized: {cause}", path.display())]
    ImpossibleSize {
        /// The image.
        path: PathBuf,
        /// What is wrong.
        cause: LayoutError,
    },
    /// A disk is to be made smaller.
    #[error(
        "{}: cannot be made smaller, from {before} to {size} bytes: what its guest put at the end would be lost; \
         shrink the guest's file system and partitions, create a smaller image, and copy the disk into it",
        path.display()
    )]
    Shrink {
        /// The image.
        path: PathBuf,
        /// The size asked for, in bytes.
        size: u64,
        /// The size that it has.
        before: u64,
    },
    /// The disk would end within a sector, as guests see it.
    #[error(
        "{}: cannot have {size} bytes: guests see sectors of {sector_size} bytes, and it would end within one",
        path.display()
    )]
    RaggedSectors {
        /// The image.
        path: PathBuf,
        /// The size asked for, in bytes.
        size: u64,
        /// The logical sector size in bytes.
        sector_size: u32,
    },
    /// The bitmap has no room for a disk of the size asked for.
    #[error(
        "{}: cannot grow to {size} bytes: its bitmap has room for a disk of {largest} bytes; create a larger overlay \
         on it instead: cowback create NEW --base {} --size {size}",
        path.display(), path.display()
    )]
    NoHeadroom {
        /// The image.
        path: PathBuf,
        /// The size asked for, in bytes.
        size: u64,
        /// The largest that is possible.
        largest: u64,
    },
    /// Something lies where a larger disk would show it.
    #[error("{}: cannot grow before it is repaired: {problem}; cowback check --repair {}", path.display(), path.display())]
    NotGrowable {
        /// The image.
        path: PathBuf,
        /// What is wrong.
        problem: Box<super::Problem>,
    },
    /// Neither a size nor a base was given.
    #[error("{}: cannot be created: give a size or a base", .0.display())]
    NoSize(PathBuf),
    /// The base cannot be recorded in a header.
    #[error("{}: its path is too long for an image header (at most {} bytes)", .0.display(), dscow::header::PARENT_PATH_MAX)]
    ParentPath(PathBuf),
    /// The size of a raw base is not in whole sectors.
    #[error("{}: its size of {size} bytes is not a multiple of 512", path.display())]
    ParentSize {
        /// The base.
        path: PathBuf,
        /// Its size in bytes.
        size: u64,
    },
    /// Whoever asked for the work does not want the rest of it.
    #[error("stopped")]
    Stopped,
    /// An operation of an executor failed.
    #[error(transparent)]
    Operation(#[from] IoError),
    /// Reading or writing failed.
    #[error("{}: cannot {action}: {cause}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What was attempted.
        action: &'static str,
        /// The kernel's reason.
        #[source]
        cause: io::Error,
    },
}

/// What is on a device that an image is to be created on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DeviceContent {
    /// A dscow image, or what is left of one.
    #[error("a dscow image")]
    Image,
    /// Anything else than zeros.
    #[error("data")]
    Data,
}

/// What to do about a device that is too small.
fn advice(largest_disk: Option<u64>) -> String {
    match largest_disk {
        Some(bytes) => format!("the largest disk for which it has room is one of {bytes} bytes"),
        None => "it has no room for any image".to_owned(),
    }
}

/// In what a parent differs from what the overlay recorded.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ParentChange {
    /// Its size.
    #[error("its size is {found} bytes, was {recorded}")]
    Size {
        /// Now, in bytes.
        found: u64,
        /// When the overlay was made.
        recorded: u64,
    },
    /// Its time of modification.
    #[error("it was modified on {found}, after {recorded}")]
    Modified {
        /// Now.
        found: String,
        /// When the overlay was made.
        recorded: String,
    },
    /// Its content.
    #[error("its content is different")]
    Fingerprint,
    /// It was a raw file, or is one now.
    #[error("it is {found}, was {recorded}")]
    Format {
        /// Now.
        found: &'static str,
        /// When the overlay was made.
        recorded: &'static str,
    },
    /// It is another dscow image.
    #[error("it is another image, with UUID {found} instead of {recorded}")]
    Uuid {
        /// Now.
        found: uuid::Uuid,
        /// When the overlay was made.
        recorded: uuid::Uuid,
    },
    /// It was opened for writing.
    #[error("it was opened for writing (generation {found}, was {recorded})")]
    Generation {
        /// Now.
        found: u64,
        /// When the overlay was made.
        recorded: u64,
    },
}

impl ImageError {
    /// Turns an error of the kernel into one that says what was attempted on which file.
    pub(crate) fn io(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |cause| Self::Io {
            path,
            action,
            cause,
        }
    }
}
