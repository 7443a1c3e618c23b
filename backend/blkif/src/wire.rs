//! The bytes of the protocol: constants, ABIs and the layouts of a request slot.
//!
//! Everything after the request id has the same layout in every ABI. What differs is the place of the
//! id: where 64-bit integers are aligned to 8 bytes it is at offset 8, on i386 it is at offset 4. So one
//! set of structs, that of the 8-byte aligned ABIs, describes all of them once a slot of i386 has been
//! widened by the 4 missing bytes ([`Abi::gap_words`]).

use std::mem::{offset_of, size_of};

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Bytes of a page of Xen, the unit of a grant, on every architecture.
pub const PAGE_SIZE: usize = 4096;
/// The most pages of one ring: order 4, `max-ring-page-order` of Linux's blkback.
pub const RING_PAGES_MAX: usize = 16;
/// Segments in a direct request (`BLKIF_MAX_SEGMENTS_PER_REQUEST`).
pub const SEGMENTS_PER_REQUEST_MAX: usize = 11;
/// Descriptor pages of an indirect request (`BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST`).
pub const INDIRECT_PAGES_MAX: usize = 8;
/// Segment descriptors in one page of an indirect request.
pub const SEGMENTS_PER_INDIRECT_PAGE: usize = PAGE_SIZE / size_of::<WireSegment>();
/// Bytes of a [`RawSlot`].
pub const SLOT_BYTES: usize = 112;
/// Sectors in a page; a segment's `last_sect` is below it.
pub(crate) const SECTORS_PER_PAGE: u8 = 8;

/// Request codes (`BLKIF_OP_*` of `blkif.h`).
pub mod operation {
    /// Read sectors into the segments.
    pub const READ: u8 = 0;
    /// Write the segments.
    pub const WRITE: u8 = 1;
    /// Write, ordered against every other write, and durable when answered.
    pub const WRITE_BARRIER: u8 = 2;
    /// Make what was written before durable.
    pub const FLUSH_DISKCACHE: u8 = 3;
    /// Say that a range is no longer needed.
    pub const DISCARD: u8 = 5;
    /// A read or write whose segments are in pages of their own.
    pub const INDIRECT: u8 = 6;
}

/// `BLKIF_DISCARD_SECURE` in the flag byte of a discard.
pub(crate) const DISCARD_SECURE: u8 = 1;

/// Bytes of the indices before the first slot in the shared page (`struct blkif_sring`).
pub(crate) const SRING_HEADER_BYTES: usize = 64;
pub(crate) const SRING_REQ_PROD: usize = 0;
pub(crate) const SRING_REQ_EVENT: usize = 4;
pub(crate) const SRING_RSP_PROD: usize = 8;
pub(crate) const SRING_RSP_EVENT: usize = 12;

/// The layout of the ring, as the frontend names it in its `protocol` node (`protocols.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Abi {
    /// `x86_32-abi`: 64-bit integers are aligned to 4 bytes.
    X86_32,
    /// `x86_64-abi`: 64-bit integers are aligned to 8 bytes.
    X86_64,
    /// `arm-abi`, for 32- and 64-bit Arm: the layout of `x86_64-abi`.
    Arm,
}

/// The frontend's `protocol` node names no ABI of `protocols.h`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the frontend's protocol node says {0:?}, which is no blkif ABI")]
pub struct UnknownProtocol(pub String);

impl Abi {
    /// The ABI for the frontend's `protocol` node, `None` if there is no such node.
    ///
    /// A missing node means what it means to Linux's blkback: `x86_32-abi` on x86 (frontends from before
    /// the node existed were 32-bit), the native ABI elsewhere.
    ///
    /// # Errors
    /// The node holds something else than the names in `protocols.h`.
    pub fn from_protocol(protocol: Option<&str>) -> Result<Self, UnknownProtocol> {
        match protocol {
            Some("x86_32-abi") => Ok(Self::X86_32),
            Some("x86_64-abi") => Ok(Self::X86_64),
            Some("arm-abi") => Ok(Self::Arm),
            Some(other) => Err(UnknownProtocol(other.to_owned())),
            None if cfg!(any(target_arch = "x86", target_arch = "x86_64")) => Ok(Self::X86_32),
            None => Ok(Self::Arm),
        }
    }

    /// The name of the ABI in the `protocol` node.
    #[must_use]
    pub const fn protocol(self) -> &'static str {
        match self {
            Self::X86_32 => "x86_32-abi",
            Self::X86_64 => "x86_64-abi",
            Self::Arm => "arm-abi",
        }
    }

    /// Bytes from one slot of the ring to the next (`sizeof(union blkif_sring_entry)`).
    #[must_use]
    pub const fn slot_bytes(self) -> usize {
        SLOT_BYTES - 4 * self.gap_words()
    }

    /// 32-bit words of [`RawSlot`] after the first one that a slot of this ABI does not have.
    pub(crate) const fn gap_words(self) -> usize {
        match self {
            Self::X86_32 => 1,
            Self::X86_64 | Self::Arm => 0,
        }
    }

    /// Slots of a ring of `bytes`: as many as fit behind the indices, rounded down to a power of two
    /// (`__RING_SIZE` of `ring.h`). 0 if none fits.
    pub(crate) const fn slots(self, bytes: usize) -> usize {
        let fit = bytes.saturating_sub(SRING_HEADER_BYTES) / self.slot_bytes();
        match fit.checked_ilog2() {
            Some(order) => 1 << order,
            None => 0,
        }
    }
}

/// One request slot, copied out of the shared page and not yet looked at.
///
/// The bytes are those of the 8-byte aligned ABIs; a slot of `x86_32-abi` has been widened. So the bytes
/// mean the same for every ABI, and can be kept and decoded again later.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RawSlot(pub [u8; SLOT_BYTES]);

impl std::fmt::Debug for RawSlot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        crate::RawRequest::decode(self).fmt(f)
    }
}

/// `struct blkif_request_segment`; also the entry of an indirect descriptor page.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct WireSegment {
    pub(crate) gref: U32,
    pub(crate) first_sect: u8,
    pub(crate) last_sect: u8,
    pub(crate) pad: [u8; 2],
}

/// `struct blkif_request`.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct WireTransfer {
    pub(crate) operation: u8,
    pub(crate) nr_segments: u8,
    pub(crate) handle: U16,
    pub(crate) pad: [u8; 4],
    pub(crate) id: U64,
    pub(crate) sector_number: U64,
    pub(crate) segments: [WireSegment; SEGMENTS_PER_REQUEST_MAX],
}

/// `struct blkif_request_discard`, and what is left of the slot.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct WireDiscard {
    pub(crate) operation: u8,
    pub(crate) flag: u8,
    pub(crate) handle: U16,
    pub(crate) pad: [u8; 4],
    pub(crate) id: U64,
    pub(crate) sector_number: U64,
    pub(crate) nr_sectors: U64,
    pub(crate) unused: [u8; 80],
}

/// `struct blkif_request_indirect`, and what is left of the slot.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct WireIndirect {
    pub(crate) operation: u8,
    pub(crate) indirect_op: u8,
    pub(crate) nr_segments: U16,
    pub(crate) pad: [u8; 4],
    pub(crate) id: U64,
    pub(crate) sector_number: U64,
    pub(crate) handle: U16,
    pub(crate) pad2: [u8; 2],
    pub(crate) indirect_grefs: [U32; INDIRECT_PAGES_MAX],
    pub(crate) unused: [u8; 52],
}

/// `struct blkif_response` without its tail padding, which only the 8-byte aligned ABIs have.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct WireResponse {
    pub(crate) id: U64,
    pub(crate) operation: u8,
    pub(crate) pad: u8,
    pub(crate) status: zerocopy::little_endian::I16,
}

/// Words of a [`WireResponse`].
pub(crate) const RESPONSE_WORDS: usize = 3;

const _: () = {
    assert!(size_of::<WireSegment>() == 8);
    assert!(offset_of!(WireSegment, first_sect) == 4);
    assert!(offset_of!(WireSegment, last_sect) == 5);

    assert!(size_of::<WireTransfer>() == SLOT_BYTES);
    assert!(offset_of!(WireTransfer, nr_segments) == 1);
    assert!(offset_of!(WireTransfer, handle) == 2);
    assert!(offset_of!(WireTransfer, id) == 8);
    assert!(offset_of!(WireTransfer, sector_number) == 16);
    assert!(offset_of!(WireTransfer, segments) == 24);

    assert!(size_of::<WireDiscard>() == SLOT_BYTES);
    assert!(offset_of!(WireDiscard, flag) == 1);
    assert!(offset_of!(WireDiscard, id) == 8);
    assert!(offset_of!(WireDiscard, sector_number) == 16);
    assert!(offset_of!(WireDiscard, nr_sectors) == 24);

    assert!(size_of::<WireIndirect>() == SLOT_BYTES);
    assert!(offset_of!(WireIndirect, indirect_op) == 1);
    assert!(offset_of!(WireIndirect, nr_segments) == 2);
    assert!(offset_of!(WireIndirect, id) == 8);
    assert!(offset_of!(WireIndirect, sector_number) == 16);
    assert!(offset_of!(WireIndirect, handle) == 24);
    assert!(offset_of!(WireIndirect, indirect_grefs) == 28);

    assert!(size_of::<WireResponse>() == 4 * RESPONSE_WORDS);
    assert!(offset_of!(WireResponse, operation) == 8);
    assert!(offset_of!(WireResponse, status) == 10);

    assert!(Abi::X86_32.slot_bytes() == 108);
    assert!(Abi::X86_64.slot_bytes() == 112);
    assert!(Abi::Arm.slot_bytes() == 112);
    assert!(SEGMENTS_PER_INDIRECT_PAGE == 512);
};
