//! What the engine asks its driver to do.

use crate::header::{Slot, SlotBytes};
use crate::parents::LayerIndex;
use crate::units::{DiskRange, FileOffset};

/// Names a request; chosen by the caller, opaque here, handed back when the request is finished.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(pub u64);

/// Names an action that is under way; hand it to [`super::Engine::complete`] when it is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct OpId(pub(crate) usize);

impl OpId {
    /// As a plain number, for drivers that carry it through an interface of integers.
    pub fn as_usize(self) -> usize {
        self.0
    }

    /// The inverse of [`OpId::as_usize`]. A number that did not come from there makes `complete` panic.
    pub fn from_usize(raw: usize) -> Self {
        Self(raw)
    }
}

/// Names a bounce buffer between its [`Action::AllocBounce`] and its [`Action::FreeBounce`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BounceId(pub u64);

/// An errno value as the operating system reports it, such as 5 for `EIO`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Errno(pub i32);

impl Errno {
    /// The device failed.
    pub const EIO: Self = Self(5);
    /// A request outside the disk or not in whole sectors.
    pub const EINVAL: Self = Self(22);
    /// The host has no memory for it.
    pub const ENOMEM: Self = Self(12);
    /// The image is being grown or closed.
    pub const EBUSY: Self = Self(16);
    /// The disk cannot be made that large.
    pub const EFBIG: Self = Self(27);
    /// The host has run out of space.
    pub const ENOSPC: Self = Self(28);
    /// A write to an image that was opened read-only.
    pub const EROFS: Self = Self(30);
    /// The host's quota of space is used up.
    pub const EDQUOT: Self = Self(122);
}

/// What a client wants of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Fill the request's buffer with the disk's bytes.
    Read(DiskRange),
    /// Put the request's buffer on the disk.
    Write(DiskRange),
    /// The same (or nothing, if the range is empty), durable when it is finished, after everything that was submitted
    /// before is durable and before anything that is submitted later has begun.
    Barrier(DiskRange),
    /// Give back the storage of whole blocks, which read as zeros from then on. What the range covers of the blocks
    /// at its ends only in part is left as it is.
    Discard(DiskRange),
    /// Make exactly this range read as zeros.
    WriteZeroes(DiskRange),
    /// Make every write that was answered before durable.
    Flush,
}

/// A position in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// In the buffer of a request, `offset` bytes from its start.
    Request {
        /// Whose buffer.
        token: Token,
        /// Bytes from the start.
        offset: u64,
    },
    /// In a bounce buffer, `offset` bytes from its start.
    Bounce {
        /// Which one.
        bounce: BounceId,
        /// Bytes from the start.
        offset: u64,
    },
}

/// An order to the driver.
///
/// Orders that carry an [`OpId`] are I/O: they may run side by side, in any order, and each is completed
/// exactly once. All others are performed at once, in the order in which they come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Read `len` bytes of a layer's file into memory.
    Read {
        /// To be completed.
        op: OpId,
        /// The layer to read.
        layer: LayerIndex,
        /// Where in its file.
        offset: FileOffset,
        /// Where to.
        memory: Memory,
        /// Bytes.
        len: u64,
    },
    /// Write `len` bytes from memory to the data area of the image.
    WriteData {
        /// To be completed.
        op: OpId,
        /// Where in the image's file.
        offset: FileOffset,
        /// Where from.
        memory: Memory,
        /// Bytes.
        len: u64,
    },
    /// Make `len` bytes of the data area of the image read as zeros, giving back their storage if possible.
    ZeroData {
        /// To be completed.
        op: OpId,
        /// Where in the image's file.
        offset: FileOffset,
        /// Bytes.
        len: u64,
    },
    /// Make the image's file at least `len` bytes long, or see that the device is; what is new reads as zeros.
    SetLen {
        /// To be completed.
        op: OpId,
        /// Bytes.
        len: u64,
    },
    /// Write whole bitmap pages.
    WriteBitmap {
        /// To be completed.
        op: OpId,
        /// Where in the image's file.
        offset: FileOffset,
        /// A multiple of 4096 bytes.
        bytes: Vec<u8>,
    },
    /// Write a header slot.
    WriteHeader {
        /// To be completed.
        op: OpId,
        /// Which one.
        slot: Slot,
        /// Its content.
        bytes: Box<SlotBytes>,
    },
    /// Make everything durable that was completed on the image's file before (fdatasync).
    Sync {
        /// To be completed.
        op: OpId,
    },
    /// Fill memory with zeros.
    FillZero {
        /// Where.
        memory: Memory,
        /// Bytes.
        len: u64,
    },
    /// Allocate a bounce buffer. Its content does not matter.
    AllocBounce {
        /// Its name.
        bounce: BounceId,
        /// Bytes; a block at most, or what a read takes when it is aligned.
        len: u64,
    },
    /// Copy memory.
    Copy {
        /// Where from.
        from: Memory,
        /// Where to.
        to: Memory,
        /// Bytes.
        len: u64,
    },
    /// Free a bounce buffer.
    FreeBounce {
        /// Its name.
        bounce: BounceId,
    },
    /// A request is finished; its buffer is not used any more.
    Finish {
        /// Which one.
        token: Token,
        /// How it went.
        result: Result<(), Errno>,
    },
}
