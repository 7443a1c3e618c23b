//! The quantities of the protocol that must not be mixed up.

use std::fmt;

/// An index or a count of 512-byte sectors of the virtual disk.
///
/// The unit is 512 bytes whatever `sector-size` says (`blkif.h`, "sector-size").
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sector(pub u64);

impl Sector {
    /// Bytes per sector.
    pub const SIZE: u64 = 512;

    /// The first sector whose byte offset does not fit into 64 bits.
    pub(crate) const END_OF_ADDRESSES: u64 = u64::MAX / Self::SIZE;

    /// The offset in bytes from the start of the disk.
    ///
    /// Sectors of a validated request are within the disk, whose size in bytes fits into 64 bits
    /// (see [`crate::Limits::new`]); any other sector saturates.
    #[must_use]
    pub const fn byte_offset(self) -> u64 {
        self.0.saturating_mul(Self::SIZE)
    }
}

impl fmt::Display for Sector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A reference into the frontend's grant table (`grant_ref_t`). Chosen by the guest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GrantRef(pub u32);

impl fmt::Display for GrantRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
