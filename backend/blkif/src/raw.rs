//! Requests as the guest wrote them: decoded, not validated.

use zerocopy::{FromBytes, transmute};

use crate::wire::{
    INDIRECT_PAGES_MAX, RawSlot, SEGMENTS_PER_REQUEST_MAX, WireDiscard, WireIndirect, WireSegment,
    WireTransfer, operation,
};

/// A segment as the guest wrote it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RawSegment {
    /// Grant reference of the page.
    pub gref: u32,
    /// First sector of the page to transfer.
    pub first_sect: u8,
    /// Last sector of the page to transfer, inclusive.
    pub last_sect: u8,
}

impl RawSegment {
    /// The segments in a copy of one descriptor page of an indirect request, all of those that fit into
    /// `page`. The copy must be private: the guest can still write to the page itself.
    pub fn decode_page(page: &[u8]) -> impl Iterator<Item = Self> + '_ {
        page.chunks_exact(size_of::<WireSegment>())
            .filter_map(|bytes| WireSegment::read_from_bytes(bytes).ok())
            .map(Self::from)
    }
}

impl From<WireSegment> for RawSegment {
    fn from(wire: WireSegment) -> Self {
        Self {
            gref: wire.gref.get(),
            first_sect: wire.first_sect,
            last_sect: wire.last_sect,
        }
    }
}

impl From<RawSegment> for WireSegment {
    fn from(raw: RawSegment) -> Self {
        Self {
            gref: raw.gref.into(),
            first_sect: raw.first_sect,
            last_sect: raw.last_sect,
            pad: [0; 2],
        }
    }
}

/// A request as the guest wrote it. Every field is the guest's claim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RawRequest {
    /// READ, WRITE, WRITE_BARRIER or FLUSH_DISKCACHE.
    Transfer {
        /// One of those four codes.
        operation: u8,
        /// Opaque to the backend.
        id: u64,
        /// Start on the disk, in units of 512 bytes.
        sector: u64,
        /// How many of `segments` are meant; may be more than there are.
        nr_segments: u8,
        /// The segments; those from `nr_segments` on are leftovers.
        segments: [RawSegment; SEGMENTS_PER_REQUEST_MAX],
    },
    /// DISCARD.
    Discard {
        /// Opaque to the backend.
        id: u64,
        /// `BLKIF_DISCARD_SECURE` or 0.
        flag: u8,
        /// Start on the disk, in units of 512 bytes.
        sector: u64,
        /// Length in units of 512 bytes.
        nr_sectors: u64,
    },
    /// INDIRECT.
    Indirect {
        /// The operation inside.
        indirect_op: u8,
        /// Opaque to the backend.
        id: u64,
        /// Start on the disk, in units of 512 bytes.
        sector: u64,
        /// How many segments the descriptor pages hold.
        nr_segments: u16,
        /// Grant references of the descriptor pages.
        pages: [u32; INDIRECT_PAGES_MAX],
    },
    /// A code that this crate does not know.
    Unknown {
        /// The code.
        operation: u8,
        /// Opaque to the backend.
        id: u64,
    },
}

impl RawRequest {
    /// The request in a slot. Every slot decodes to something.
    #[must_use]
    pub fn decode(slot: &RawSlot) -> Self {
        let transfer: WireTransfer = transmute!(slot.0);
        match transfer.operation {
            operation::READ
            | operation::WRITE
            | operation::WRITE_BARRIER
            | operation::FLUSH_DISKCACHE => Self::Transfer {
                operation: transfer.operation,
                id: transfer.id.get(),
                sector: transfer.sector_number.get(),
                nr_segments: transfer.nr_segments,
                segments: transfer.segments.map(RawSegment::from),
            },
            operation::DISCARD => {
                let discard: WireDiscard = transmute!(slot.0);
                Self::Discard {
                    id: discard.id.get(),
                    flag: discard.flag,
                    sector: discard.sector_number.get(),
                    nr_sectors: discard.nr_sectors.get(),
                }
            }
            operation::INDIRECT => {
                let indirect: WireIndirect = transmute!(slot.0);
                Self::Indirect {
                    indirect_op: indirect.indirect_op,
                    id: indirect.id.get(),
                    sector: indirect.sector_number.get(),
                    nr_segments: indirect.nr_segments.get(),
                    pages: indirect
                        .indirect_grefs
                        .map(zerocopy::little_endian::U32::get),
                }
            }
            // The id is at the same place in every request, so even this one can be answered.
            unknown => Self::Unknown {
                operation: unknown,
                id: transfer.id.get(),
            },
        }
    }

    /// The slot that holds this request; bytes that it does not use are 0. For frontends.
    #[must_use]
    pub fn encode(&self) -> RawSlot {
        match *self {
            Self::Transfer {
                operation,
                id,
                sector,
                nr_segments,
                segments,
            } => RawSlot(transmute!(WireTransfer {
                operation,
                nr_segments,
                handle: 0.into(),
                pad: [0; 4],
                id: id.into(),
                sector_number: sector.into(),
                segments: segments.map(WireSegment::from),
            })),
            Self::Discard {
                id,
                flag,
                sector,
                nr_sectors,
            } => RawSlot(transmute!(WireDiscard {
                operation: operation::DISCARD,
                flag,
                handle: 0.into(),
                pad: [0; 4],
                id: id.into(),
                sector_number: sector.into(),
                nr_sectors: nr_sectors.into(),
                unused: [0; 80],
            })),
            Self::Indirect {
                indirect_op,
                id,
                sector,
                nr_segments,
                pages,
            } => RawSlot(transmute!(WireIndirect {
                operation: operation::INDIRECT,
                indirect_op,
                nr_segments: nr_segments.into(),
                pad: [0; 4],
                id: id.into(),
                sector_number: sector.into(),
                handle: 0.into(),
                pad2: [0; 2],
                indirect_grefs: pages.map(Into::into),
                unused: [0; 52],
            })),
            Self::Unknown { operation, id } => RawSlot(transmute!(WireTransfer {
                operation,
                nr_segments: 0,
                handle: 0.into(),
                pad: [0; 4],
                id: id.into(),
                sector_number: 0.into(),
                segments: [WireSegment::from(RawSegment::default()); SEGMENTS_PER_REQUEST_MAX],
            })),
        }
    }
}
