//! What the backend has told the frontend about the disk, and holds it to.

use crate::units::Sector;
use crate::wire::{INDIRECT_PAGES_MAX, SEGMENTS_PER_INDIRECT_PAGE};

/// The logical block size that the frontend is told (`sector-size`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SectorSize {
    /// 512 bytes.
    B512,
    /// 1024 bytes.
    B1024,
    /// 2048 bytes.
    B2048,
    /// 4096 bytes, the most that fits into a granted page.
    B4096,
}

impl SectorSize {
    /// The size in bytes.
    #[must_use]
    pub const fn bytes(self) -> u32 {
        match self {
            Self::B512 => 512,
            Self::B1024 => 1024,
            Self::B2048 => 2048,
            Self::B4096 => 4096,
        }
    }

    /// The size of `bytes`, if there is one.
    #[must_use]
    pub const fn from_bytes(bytes: u32) -> Option<Self> {
        match bytes {
            512 => Some(Self::B512),
            1024 => Some(Self::B1024),
            2048 => Some(Self::B2048),
            4096 => Some(Self::B4096),
            _ => None,
        }
    }

    /// Whether a number of 512-byte sectors is a whole number of logical blocks.
    pub(crate) const fn divides(self, sectors: u64) -> bool {
        sectors.is_multiple_of(self.bytes() as u64 / Sector::SIZE)
    }
}

/// What is offered of discard (`feature-discard`, `discard-secure`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Discard {
    /// Not offered.
    #[default]
    No,
    /// Offered, but not secure: a guest's wish for that is refused.
    Plain,
    /// Offered, and so is secure discard.
    Secure,
}

/// The optional operations that the backend has advertised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features {
    /// `feature-flush-cache`.
    pub flush: bool,
    /// `feature-barrier`.
    pub barrier: bool,
    /// `feature-discard` and `discard-secure`.
    pub discard: Discard,
    /// `feature-max-indirect-segments`; 0 if the node is not written.
    pub indirect_segments_max: u16,
}

/// The limits that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LimitsError {
    /// Byte offsets on the disk would not fit into 64 bits.
    #[error("a disk of {0} sectors of 512 bytes is too large to address in bytes")]
    DiskTooLarge(u64),
    /// The disk ends within a logical block.
    #[error("{sectors} sectors of 512 bytes are no whole number of blocks of {sector_size} bytes")]
    RaggedEnd {
        /// Size of the disk in units of 512 bytes.
        sectors: u64,
        /// The logical block size in bytes.
        sector_size: u32,
    },
    /// More indirect segments than the descriptor pages of a request can hold.
    #[error("{0} indirect segments do not fit into one request")]
    TooManyIndirectSegments(u16),
}

/// What requests of one vbd are validated against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    sectors: Sector,
    sector_size: SectorSize,
    read_only: bool,
    features: Features,
}

impl Limits {
    /// The limits of a disk of `sectors` units of 512 bytes.
    ///
    /// # Errors
    /// The disk is too large to address in bytes, ends within a logical block, or more indirect segments
    /// are offered than a request can carry.
    pub fn new(
        sectors: Sector,
        sector_size: SectorSize,
        read_only: bool,
        features: Features,
    ) -> Result<Self, LimitsError> {
        if sectors.0 > Sector::END_OF_ADDRESSES {
            return Err(LimitsError::DiskTooLarge(sectors.0));
        }
        if !sector_size.divides(sectors.0) {
            return Err(LimitsError::RaggedEnd {
                sectors: sectors.0,
                sector_size: sector_size.bytes(),
            });
        }
        let indirect = features.indirect_segments_max;
        if usize::from(indirect) > INDIRECT_PAGES_MAX * SEGMENTS_PER_INDIRECT_PAGE {
            return Err(LimitsError::TooManyIndirectSegments(indirect));
        }
        Ok(Self {
            sectors,
            sector_size,
            read_only,
            features,
        })
    }

    /// Size of the disk in units of 512 bytes (`sectors`).
    #[must_use]
    pub const fn sectors(&self) -> Sector {
        self.sectors
    }

    /// The logical block size (`sector-size`).
    #[must_use]
    pub const fn sector_size(&self) -> SectorSize {
        self.sector_size
    }

    /// Whether writes are refused (`mode` is `r`).
    #[must_use]
    pub const fn read_only(&self) -> bool {
        self.read_only
    }

    /// What has been advertised.
    #[must_use]
    pub const fn features(&self) -> Features {
        self.features
    }
}
