//! The header slot: 4096 bytes that describe an image. Byte diagram in docs/image-format.md.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use thiserror::Error;
use uuid::Uuid;
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, LE, U32, U64};

use crate::engine::OnNoSpace;
use crate::layout::{HEADER_SLOT_BYTES, HEADER_SLOT_SIZE, Layout, LayoutError};
use crate::parent::{Modified, Parent};
use crate::units::{BlockSize, SECTOR_SIZE};

/// First bytes of every slot. The line ending and the control character notice transfers in text mode.
pub const MAGIC: [u8; 8] = *b"DSCOW\r\n\x1a";
/// The version of the format that this crate reads and writes.
pub const VERSION: u32 = 2;
/// Longest path of a parent, in bytes.
pub const PARENT_PATH_MAX: usize = 3072;

/// Highest sequence number and generation: far beyond what counting reaches, far from wrapping.
pub const COUNTER_MAX: u64 = 1 << 62;
/// How far both counters of an image are from [`COUNTER_MAX`] at least when it is opened for writing: far more than they
/// count until it is closed. So whoever has opened it need not look at them again.
pub const COUNTER_RESERVE: u64 = 1 << 32;

/// Incompatible features known here: none yet.
const INCOMPATIBLE_KNOWN: u64 = 0;

/// Compatible feature: when the host has run out of space, writes fail instead of waiting.
pub const COMPATIBLE_REPORT_NO_SPACE: u64 = 1;
/// Compatible feature: guests are told that the disk has logical sectors of 4096 bytes. Says nothing about the content.
pub const COMPATIBLE_LARGE_SECTORS: u64 = 1 << 1;
/// The logical sector size of disks with that feature, in bytes.
pub const LARGE_SECTOR_SIZE: u32 = 4096;

const STATE_CLEAN: u32 = 0;
const STATE_IN_USE: u32 = 1;
const PARENT_NONE: u32 = 0;
const PARENT_RAW: u32 = 1;
const PARENT_DSCOW: u32 = 2;

/// The bytes of a slot.
pub type SlotBytes = [u8; HEADER_SLOT_BYTES];

/// One of the two header slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    /// At offset 0.
    A,
    /// At offset 4096.
    B,
}

impl Slot {
    /// The slot that the next header is written to when this one is current.
    pub fn other(self) -> Self {
        match self {
            Self::A => Self::B,
            Self::B => Self::A,
        }
    }

    /// Where the slot is in the image.
    pub fn offset(self) -> crate::units::FileOffset {
        match self {
            Self::A => crate::units::FileOffset(0),
            Self::B => crate::units::FileOffset(HEADER_SLOT_SIZE),
        }
    }
}

/// Whether the bitmap's checksum can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Closed cleanly: the CRC32C of the bitmap's used bytes is this.
    Clean {
        /// CRC32C of the used bytes of the bitmap.
        bitmap_crc: u32,
    },
    /// Open for writing, or left so by a crash. The bitmap is correct all the same, by construction.
    InUse {
        /// Random identity of the process that opened it.
        owner: Uuid,
    },
}

/// Everything that a header slot says, validated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Counts up with each header write; the valid slot with the higher one is current.
    pub sequence: u64,
    /// Features that do not keep older versions from reading and writing the image.
    pub compatible_features: u64,
    /// Identity of the image, for ever.
    pub uuid: Uuid,
    /// Sizes and positions.
    pub layout: Layout,
    /// Counts up each time that the image is opened for writing.
    pub generation: u64,
    /// When it was created, in seconds since 1970.
    pub created: u64,
    /// Clean or in use.
    pub state: State,
    /// What it is an overlay of.
    pub parent: Option<Parent>,
    /// A commit into the parent is under way: blocks that this image holds are being written to it, so that its time of
    /// modification, fingerprint, generation and size may differ from what is recorded.
    pub commit_under_way: bool,
    /// How many bytes of the parent show through, if not all: set when a disk grows that was smaller than its
    /// parent, so that what is new reads as zeros.
    pub parent_limit: Option<u64>,
}

/// Why the bytes of a slot are not a header.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum HeaderError {
    /// Not a dscow image.
    #[error("no dscow signature")]
    Magic,
    /// A version that this crate does not know.
    #[error("format version {0} is not supported (this is for version {VERSION})")]
    Version(u32),
    /// Bytes changed since the slot was written.
    #[error("header checksum is {found:#010x}, expected {expected:#010x}")]
    Checksum {
        /// What the bytes sum up to.
        found: u32,
        /// What the slot says.
        expected: u32,
    },
    /// The image needs a feature that this version does not have.
    #[error("unknown incompatible features {0:#x}")]
    IncompatibleFeatures(u64),
    /// A sequence number or generation that leaves no room to count on.
    #[error("counter {0} is beyond {COUNTER_MAX}")]
    Counter(u64),
    /// Block size outside 4 KiB to 2 MiB.
    #[error("block size shift {0} is not between 12 and 21")]
    BlockSize(u32),
    /// Sizes or positions that contradict each other.
    #[error(transparent)]
    Layout(#[from] LayoutError),
    /// Neither clean nor in use.
    #[error("state {0} is neither 0 (clean) nor 1 (in use)")]
    State(u32),
    /// Parent format unknown.
    #[error("parent format {0} is not 0 (none), 1 (raw) or 2 (dscow)")]
    ParentFormat(u32),
    /// More of the parent would show than the disk has bytes, or a part of a sector.
    #[error("limit {0} of the parent is not a multiple of 512 within the virtual size")]
    ParentLimit(u64),
    /// Parent path empty, too long, or with a NUL.
    #[error(
        "parent path of {0} bytes is empty, longer than {PARENT_PATH_MAX} bytes or contains a NUL"
    )]
    ParentPath(usize),
}

/// The slot as it lies on disk. All integers little-endian.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable)]
#[repr(C)]
struct RawSlot {
    magic: [u8; 8],
    version: U32<LE>,
    crc: U32<LE>,
    sequence: U64<LE>,
    incompatible_features: U64<LE>,
    compatible_features: U64<LE>,
    autoclear_features: U64<LE>,
    uuid: [u8; 16],
    virtual_size: U64<LE>,
    block_shift: U32<LE>,
    state: U32<LE>,
    bitmap_offset: U64<LE>,
    bitmap_len: U64<LE>,
    data_offset: U64<LE>,
    generation: U64<LE>,
    created: U64<LE>,
    bitmap_crc: U32<LE>,
    parent_format: U32<LE>,
    parent_uuid: [u8; 16],
    parent_size: U64<LE>,
    parent_generation: U64<LE>,
    parent_fingerprint: [u8; 32],
    parent_mtime_seconds: U64<LE>,
    parent_mtime_nanoseconds: U32<LE>,
    parent_flags: U32<LE>,
    owner: [u8; 16],
    parent_path_len: U32<LE>,
    reserved_0: [u8; 4],
    parent_limit: U64<LE>,
    reserved_1: [u8; 272],
    parent_path: [u8; PARENT_PATH_MAX],
    reserved_2: [u8; 512],
}

/// The parent's modification time was recorded.
const PARENT_FLAG_MTIME: u32 = 1;
/// A commit into the parent is under way.
const PARENT_FLAG_COMMIT: u32 = 2;

const _: () = {
    assert!(size_of::<RawSlot>() == HEADER_SLOT_BYTES);
    assert!(std::mem::offset_of!(RawSlot, sequence) == 16);
    assert!(std::mem::offset_of!(RawSlot, uuid) == 48);
    assert!(std::mem::offset_of!(RawSlot, bitmap_offset) == 80);
    assert!(std::mem::offset_of!(RawSlot, bitmap_crc) == 120);
    assert!(std::mem::offset_of!(RawSlot, parent_uuid) == 128);
    assert!(std::mem::offset_of!(RawSlot, owner) == 208);
    assert!(std::mem::offset_of!(RawSlot, parent_limit) == 232);
    assert!(std::mem::offset_of!(RawSlot, parent_path) == 512);
};

impl Header {
    /// The bytes to write to a slot.
    ///
    /// Autoclear features are written as zero: a writer drops those it does not know, and none are known.
    /// The parent's path must fit ([`PARENT_PATH_MAX`]); [`Header::parent_path_fits`] tells.
    pub fn encode(&self) -> Box<SlotBytes> {
        let mut raw = RawSlot::new_zeroed();
        raw.magic = MAGIC;
        raw.version = VERSION.into();
        raw.sequence = self.sequence.into();
        raw.compatible_features = self.compatible_features.into();
        raw.uuid = *self.uuid.as_bytes();
        raw.virtual_size = self.layout.virtual_size().into();
        raw.block_shift = self.layout.block_size().shift().into();
        raw.bitmap_offset = self.layout.bitmap_offset().0.into();
        raw.bitmap_len = self.layout.bitmap_reserved_len().into();
        raw.data_offset = self.layout.data_offset().0.into();
        raw.generation = self.generation.into();
        raw.created = self.created.into();
        match self.state {
            State::Clean { bitmap_crc } => {
                raw.state = STATE_CLEAN.into();
                raw.bitmap_crc = bitmap_crc.into();
            }
            State::InUse { owner } => {
                raw.state = STATE_IN_USE.into();
                raw.owner = *owner.as_bytes();
            }
        }
        if let Some(parent) = &self.parent {
            raw.set_parent(parent);
            if self.commit_under_way {
                raw.parent_flags |= PARENT_FLAG_COMMIT;
            }
        }
        raw.parent_limit = self.parent_limit.unwrap_or(0).into();
        raw.crc = raw.checksum().into();
        let mut bytes = Box::new([0; HEADER_SLOT_BYTES]);
        bytes.copy_from_slice(raw.as_bytes());
        bytes
    }

    /// What is to be done when the host has run out of space while the image serves somebody.
    pub fn on_no_space(&self) -> OnNoSpace {
        if self.compatible_features & COMPATIBLE_REPORT_NO_SPACE == 0 {
            OnNoSpace::Pause
        } else {
            OnNoSpace::Report
        }
    }

    /// The logical sector size that guests are told, in bytes: 512 or 4096.
    pub fn sector_size(&self) -> u32 {
        if self.compatible_features & COMPATIBLE_LARGE_SECTORS == 0 {
            u32::try_from(SECTOR_SIZE).expect("512 fits")
        } else {
            LARGE_SECTOR_SIZE
        }
    }

    /// The sequence number or the generation, if it has come so near to [`COUNTER_MAX`] that no other header may be
    /// written: what counted further would be no header. Only an image that somebody made so can have such a header.
    pub fn exhausted_counter(&self) -> Option<u64> {
        [self.sequence, self.generation]
            .into_iter()
            .find(|counter| *counter > COUNTER_MAX - COUNTER_RESERVE)
    }

    /// Whether the format has room for `path`.
    pub fn parent_path_fits(path: &std::path::Path) -> bool {
        let bytes = path.as_os_str().as_bytes();
        (1..=PARENT_PATH_MAX).contains(&bytes.len()) && !bytes.contains(&0)
    }

    /// Whether a slot is as it was written, understood or not. Both slots are, except after a crash during the write of
    /// one.
    ///
    /// # Errors
    /// [`HeaderError::Magic`] or [`HeaderError::Checksum`].
    pub fn check_whole(bytes: &SlotBytes) -> Result<(), HeaderError> {
        RawSlot::whole(bytes).map(|_| ())
    }

    /// Reads a slot.
    ///
    /// # Errors
    /// The first rule of the format that the bytes break.
    pub fn decode(bytes: &SlotBytes) -> Result<Self, HeaderError> {
        RawSlot::whole(bytes)?.to_header()
    }
}

impl RawSlot {
    /// A slot that is as it was written, whether or not it can be understood. Magic, checksum and sequence are where
    /// they are in every version from 2 on.
    fn whole(bytes: &SlotBytes) -> Result<Self, HeaderError> {
        let raw = Self::read_from_bytes(bytes).map_err(|_| HeaderError::Magic)?;
        if raw.magic != MAGIC {
            return Err(HeaderError::Magic);
        }
        let found = raw.checksum();
        if found != raw.crc.get() {
            return Err(HeaderError::Checksum {
                found,
                expected: raw.crc.get(),
            });
        }
        Ok(raw)
    }

    fn checksum(&self) -> u32 {
        let bytes = self.as_bytes();
        let at = std::mem::offset_of!(RawSlot, crc);
        let crc = crc32c::crc32c(&bytes[..at]);
        let crc = crc32c::crc32c_append(crc, &[0; 4]);
        crc32c::crc32c_append(crc, &bytes[at + 4..])
    }

    fn set_parent(&mut self, parent: &Parent) {
        let path = parent.path().as_os_str().as_bytes();
        assert!(
            Header::parent_path_fits(parent.path()),
            "the caller checks the parent's path"
        );
        self.parent_path[..path.len()].copy_from_slice(path);
        self.parent_path_len = u32::try_from(path.len())
            .expect("bounded by PARENT_PATH_MAX")
            .into();
        self.parent_size = parent.size().into();
        match parent {
            Parent::Raw {
                fingerprint,
                modified,
                ..
            } => {
                self.parent_format = PARENT_RAW.into();
                self.parent_fingerprint = *fingerprint;
                if let Some(modified) = modified {
                    self.parent_flags = PARENT_FLAG_MTIME.into();
                    self.parent_mtime_seconds = modified.seconds.cast_unsigned().into();
                    self.parent_mtime_nanoseconds = modified.nanoseconds.into();
                }
            }
            Parent::Dscow {
                uuid, generation, ..
            } => {
                self.parent_format = PARENT_DSCOW.into();
                self.parent_uuid = *uuid.as_bytes();
                self.parent_generation = (*generation).into();
            }
        }
    }

    fn to_header(&self) -> Result<Header, HeaderError> {
        if self.version.get() != VERSION {
            return Err(HeaderError::Version(self.version.get()));
        }
        for counter in [self.sequence.get(), self.generation.get()] {
            if counter > COUNTER_MAX {
                return Err(HeaderError::Counter(counter));
            }
        }
        let unknown = self.incompatible_features.get() & !INCOMPATIBLE_KNOWN;
        if unknown != 0 {
            return Err(HeaderError::IncompatibleFeatures(unknown));
        }
        let shift = self.block_shift.get();
        let block_size = BlockSize::from_shift(shift).ok_or(HeaderError::BlockSize(shift))?;
        Ok(Header {
            sequence: self.sequence.get(),
            compatible_features: self.compatible_features.get(),
            uuid: Uuid::from_bytes(self.uuid),
            layout: Layout::checked(
                self.virtual_size.get(),
                block_size,
                self.bitmap_offset.get(),
                self.bitmap_len.get(),
                self.data_offset.get(),
            )?,
            generation: self.generation.get(),
            created: self.created.get(),
            state: match self.state.get() {
                STATE_CLEAN => State::Clean {
                    bitmap_crc: self.bitmap_crc.get(),
                },
                STATE_IN_USE => State::InUse {
                    owner: Uuid::from_bytes(self.owner),
                },
                other => return Err(HeaderError::State(other)),
            },
            commit_under_way: self.commit_is_under_way(),
            parent: self.to_parent()?,
            parent_limit: self.to_parent_limit()?,
        })
    }

    /// Without a parent the flag means nothing.
    fn commit_is_under_way(&self) -> bool {
        self.parent_format.get() != PARENT_NONE && self.parent_flags.get() & PARENT_FLAG_COMMIT != 0
    }

    fn to_parent_limit(&self) -> Result<Option<u64>, HeaderError> {
        let limit = self.parent_limit.get();
        if limit > self.virtual_size.get() || !limit.is_multiple_of(SECTOR_SIZE) {
            return Err(HeaderError::ParentLimit(limit));
        }
        Ok((limit > 0).then_some(limit))
    }

    fn to_parent(&self) -> Result<Option<Parent>, HeaderError> {
        let format = self.parent_format.get();
        if format == PARENT_NONE {
            return Ok(None);
        }
        let path = self.to_parent_path()?;
        let size = self.parent_size.get();
        match format {
            PARENT_RAW => Ok(Some(Parent::Raw {
                path,
                size,
                fingerprint: self.parent_fingerprint,
                modified: (self.parent_flags.get() & PARENT_FLAG_MTIME != 0).then(|| Modified {
                    seconds: self.parent_mtime_seconds.get().cast_signed(),
                    nanoseconds: self.parent_mtime_nanoseconds.get(),
                }),
            })),
            PARENT_DSCOW => Ok(Some(Parent::Dscow {
                path,
                size,
                uuid: Uuid::from_bytes(self.parent_uuid),
                generation: self.parent_generation.get(),
            })),
            other => Err(HeaderError::ParentFormat(other)),
        }
    }

    fn to_parent_path(&self) -> Result<PathBuf, HeaderError> {
        let len = self.parent_path_len.get() as usize;
        let path = self
            .parent_path
            .get(..len)
            .map(|bytes| PathBuf::from(OsStr::from_bytes(bytes)));
        path.filter(|path| Header::parent_path_fits(path))
            .ok_or(HeaderError::ParentPath(len))
    }
}

/// Why the two slots hold no header.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum NoHeader {
    /// Neither slot is as it was written.
    #[error("header slot A: {a}; header slot B: {b}")]
    NeitherWhole {
        /// What is wrong with slot A.
        a: HeaderError,
        /// What is wrong with slot B.
        b: HeaderError,
    },
    /// The current slot is as it was written, and breaks a rule or needs something that is not known here.
    #[error("header slot {slot:?}: {cause}")]
    Current {
        /// The slot.
        slot: Slot,
        /// What is wrong with it.
        cause: HeaderError,
    },
}

impl NoHeader {
    /// Whether neither slot has the signature, so that this was never an image.
    pub fn is_foreign(&self) -> bool {
        matches!(
            self,
            Self::NeitherWhole {
                a: HeaderError::Magic,
                b: HeaderError::Magic,
            }
        )
    }
}

/// Takes the slot with the higher sequence number among those that are as they were written.
///
/// One slot may be torn by a crash while it was written; that is normal and not an error. But a slot that is whole and
/// not understood is never passed over for an older one: whoever wrote it did so with knowledge that we lack.
///
/// # Errors
/// See [`NoHeader`].
pub fn select(a: &SlotBytes, b: &SlotBytes) -> Result<(Header, Slot), NoHeader> {
    let (raw, slot) = match (RawSlot::whole(a), RawSlot::whole(b)) {
        (Ok(a), Ok(b)) if b.sequence.get() > a.sequence.get() => (b, Slot::B),
        (Ok(a), _) => (a, Slot::A),
        (Err(_), Ok(b)) => (b, Slot::B),
        (Err(a), Err(b)) => return Err(NoHeader::NeitherWhole { a, b }),
    };
    raw.to_header()
        .map(|header| (header, slot))
        .map_err(|cause| NoHeader::Current { slot, cause })
}

#[cfg(test)]
mod tests;
