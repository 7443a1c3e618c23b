//! What can be wrong with an image.

use dscow::header::{HeaderError, Slot};
use thiserror::Error;

use crate::image::ImageError;

/// Something that is wrong with an image.
#[derive(Debug, Error)]
pub enum Problem {
    /// It has no header that can be used, or one of its parents cannot be used.
    #[error(transparent)]
    Unusable(ImageError),
    /// The slot that is not in force is not as it was written.
    #[error(
        "header slot {slot:?} was damaged, or torn by a crash while it was written ({cause}); the other slot is used"
    )]
    HeaderSlot {
        /// The slot.
        slot: Slot,
        /// What is wrong with it.
        cause: HeaderError,
    },
    /// The file or device ends before its last block, and blocks that are allocated were there.
    #[error("it is {len} bytes long, but its header asks for {needed}: {lost}")]
    Truncated {
        /// Its length in bytes.
        len: u64,
        /// The least length in bytes.
        needed: u64,
        /// What is gone.
        lost: LostBlocks,
    },
    /// The file ends before its last block, and nothing was there.
    #[error(
        "it is {len} bytes long, but its header asks for {needed}; no block that is allocated lies there"
    )]
    Short {
        /// Its length in bytes.
        len: u64,
        /// The least length in bytes.
        needed: u64,
    },
    /// The bitmap is not what was written when the image was closed.
    #[error(
        "the bitmap was damaged while the image was closed: its checksum is {found:#010x}, expected {expected:#010x}; \
         nobody can tell which blocks are allocated"
    )]
    BitmapChecksum {
        /// What the bitmap sums up to.
        found: u32,
        /// What the header says.
        expected: u32,
    },
    /// The bitmap has a bit for a block that does not exist.
    #[error("the bitmap marks block {block}, but the image has {block_count} blocks")]
    BitsPastEnd {
        /// The first block marked.
        block: u64,
        /// How many there are.
        block_count: u64,
    },
    /// A byte in the bitmap's headroom is not zero: growing the image would show blocks never written.
    #[error("the bitmap's headroom has a bit set at byte {offset} of the file")]
    Headroom {
        /// Where in the file.
        offset: u64,
    },
    /// The last block is not zero past the end of the disk: growing the image would show it.
    #[error("the last block is not zero past the end of the disk, at byte {offset} of the file")]
    PastEnd {
        /// Where in the file.
        offset: u64,
    },
}

/// What a file that was cut off has lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum LostBlocks {
    /// Blocks.
    #[error("{count} blocks that are allocated are lost, the first of them block {first}")]
    Blocks {
        /// The first of them.
        first: u64,
        /// How many.
        count: u64,
    },
    /// A part of the bitmap, so that nobody knows.
    #[error("a part of the bitmap is lost")]
    Bitmap,
}

impl Problem {
    /// Whether it can be repaired without guessing.
    pub fn is_repairable(&self) -> bool {
        match self {
            Self::HeaderSlot { .. }
            | Self::Short { .. }
            | Self::BitsPastEnd { .. }
            | Self::Headroom { .. }
            | Self::PastEnd { .. } => true,
            Self::Unusable(_) | Self::Truncated { .. } | Self::BitmapChecksum { .. } => false,
        }
    }
}
