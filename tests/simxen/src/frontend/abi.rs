//! The layouts of blkif requests and responses for each ABI, from `io/blkif.h` of Xen. Written on its own, so that a
//! mistake of the backend's decoder is not repeated here.

use crate::ids::GrantRef;

/// Bytes at the beginning of a ring: the indices and their padding (`io/ring.h`).
pub const RING_HEADER_BYTES: usize = 64;
/// Most segments in the request itself (`BLKIF_MAX_SEGMENTS_PER_REQUEST`).
pub const DIRECT_SEGMENTS_MAX: usize = 11;
/// Most pages of segments of an indirect request (`BLKIF_MAX_INDIRECT_PAGES_PER_REQUEST`).
pub const INDIRECT_PAGES_MAX: usize = 8;
/// Segments in one such page.
pub const SEGMENTS_PER_INDIRECT_PAGE: usize = 512;
/// Bytes of a sector: the unit of all sector numbers, whatever the disk's own sector size is.
pub const SECTOR_BYTES: usize = 512;

const SEGMENT_BYTES: usize = 8;

/// The guest's ABI, which decides how structures are padded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abi {
    /// 64-bit x86: 64-bit numbers are aligned to 8 bytes.
    X86_64,
    /// 32-bit x86: they are aligned to 4.
    X86_32,
    /// 32- and 64-bit Arm: as 64-bit x86.
    Arm,
}

/// Operation codes (`BLKIF_OP_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Reads sectors.
    Read = 0,
    /// Writes sectors.
    Write = 1,
    /// Writes sectors, after all that came before and before all that comes after.
    WriteBarrier = 2,
    /// Makes all that is written durable.
    Flush = 3,
    /// Says that sectors are not needed any more.
    Discard = 5,
    /// Reads or writes with segments in pages of their own.
    Indirect = 6,
}

impl Operation {
    /// The code on the ring.
    #[must_use]
    pub fn code(self) -> u8 {
        self as u8
    }
}

/// A part of a granted page that takes part in a transfer; sectors are counted within the page, the last included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The page.
    pub grant: GrantRef,
    /// First sector.
    pub first_sector: u8,
    /// Last sector.
    pub last_sector: u8,
}

impl Segment {
    /// The segment as it lies in a request or an indirect page.
    #[must_use]
    pub fn to_bytes(self) -> [u8; SEGMENT_BYTES] {
        let [a, b, c, d] = self.grant.0.to_le_bytes();
        [a, b, c, d, self.first_sector, self.last_sector, 0, 0]
    }
}

/// A response as it came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Response {
    /// Of the request that it answers.
    pub id: u64,
    /// Of the request; for an indirect one, the operation within.
    pub operation: u8,
    /// 0 fine, -1 error, -2 not supported.
    pub status: i16,
}

/// Where the fields of a request and a response are, in bytes.
struct Layout {
    entry_bytes: usize,
    id: usize,
    sector: usize,
    segments: usize,
    discard_count: usize,
    indirect_handle: usize,
    indirect_grants: usize,
}

const ALIGNED_TO_8: Layout = Layout {
    entry_bytes: 112,
    id: 8,
    sector: 16,
    segments: 24,
    discard_count: 24,
    indirect_handle: 24,
    indirect_grants: 28,
};

const ALIGNED_TO_4: Layout = Layout {
    entry_bytes: 108,
    id: 4,
    sector: 12,
    segments: 20,
    discard_count: 20,
    indirect_handle: 20,
    indirect_grants: 24,
};

const RESPONSE_OPERATION: usize = 8;
const RESPONSE_STATUS: usize = 10;

impl Abi {
    fn layout(self) -> &'static Layout {
        match self {
            Self::X86_64 | Self::Arm => &ALIGNED_TO_8,
            Self::X86_32 => &ALIGNED_TO_4,
        }
    }

    /// What a frontend writes into its `protocol` node.
    #[must_use]
    pub fn protocol(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64-abi",
            Self::X86_32 => "x86_32-abi",
            Self::Arm => "arm-abi",
        }
    }

    /// Bytes of a ring entry, which holds a request or a response.
    #[must_use]
    pub fn entry_bytes(self) -> usize {
        self.layout().entry_bytes
    }

    /// Entries of a ring of this many bytes: as many as fit, rounded down to a power of two.
    #[must_use]
    pub fn ring_entries(self, ring_bytes: usize) -> u32 {
        let fit = (ring_bytes - RING_HEADER_BYTES) / self.entry_bytes();
        let fit = u32::try_from(fit).expect("rings are a few pages");
        1 << fit.ilog2()
    }

    /// A read, write, barrier or flush with its segments in the request; more than 11 of them are cut off, while the
    /// count stays as it is.
    #[must_use]
    pub fn encode_transfer(
        self,
        operation: u8,
        handle: u16,
        id: u64,
        sector: u64,
        segments: &[Segment],
    ) -> Vec<u8> {
        let layout = self.layout();
        let mut entry = vec![0; layout.entry_bytes];
        let count = u8::try_from(segments.len()).unwrap_or(u8::MAX);
        put(&mut entry, 0, &[operation, count]);
        put(&mut entry, 2, &handle.to_le_bytes());
        put(&mut entry, layout.id, &id.to_le_bytes());
        put(&mut entry, layout.sector, &sector.to_le_bytes());
        for (index, segment) in segments.iter().take(DIRECT_SEGMENTS_MAX).enumerate() {
            let at = layout.segments + index * SEGMENT_BYTES;
            put(&mut entry, at, &segment.to_bytes());
        }
        entry
    }

    /// A discard of `count` sectors; a `flag` of 1 asks for a secure one.
    #[must_use]
    pub fn encode_discard(
        self,
        flag: u8,
        handle: u16,
        id: u64,
        sector: u64,
        count: u64,
    ) -> Vec<u8> {
        let layout = self.layout();
        let mut entry = vec![0; layout.entry_bytes];
        put(&mut entry, 0, &[Operation::Discard.code(), flag]);
        put(&mut entry, 2, &handle.to_le_bytes());
        put(&mut entry, layout.id, &id.to_le_bytes());
        put(&mut entry, layout.sector, &sector.to_le_bytes());
        put(&mut entry, layout.discard_count, &count.to_le_bytes());
        entry
    }

    /// An indirect request; more than 8 pages are cut off.
    #[must_use]
    pub fn encode_indirect(
        self,
        inner_operation: u8,
        segment_count: u16,
        handle: u16,
        id: u64,
        sector: u64,
        pages: &[GrantRef],
    ) -> Vec<u8> {
        let layout = self.layout();
        let mut entry = vec![0; layout.entry_bytes];
        put(
            &mut entry,
            0,
            &[Operation::Indirect.code(), inner_operation],
        );
        put(&mut entry, 2, &segment_count.to_le_bytes());
        put(&mut entry, layout.id, &id.to_le_bytes());
        put(&mut entry, layout.sector, &sector.to_le_bytes());
        put(&mut entry, layout.indirect_handle, &handle.to_le_bytes());
        for (index, page) in pages.iter().take(INDIRECT_PAGES_MAX).enumerate() {
            let at = layout.indirect_grants + index * 4;
            put(&mut entry, at, &page.0.to_le_bytes());
        }
        entry
    }

    /// Reads a response out of a ring entry.
    ///
    /// # Panics
    /// If the entry is shorter than [`Self::entry_bytes`].
    #[must_use]
    pub fn decode_response(self, entry: &[u8]) -> Response {
        let id = entry[..8].try_into().expect("eight bytes");
        let status = entry[RESPONSE_STATUS..RESPONSE_STATUS + 2].try_into();
        Response {
            id: u64::from_le_bytes(id),
            operation: entry[RESPONSE_OPERATION],
            status: i16::from_le_bytes(status.expect("two bytes")),
        }
    }
}

fn put(entry: &mut [u8], at: usize, bytes: &[u8]) {
    entry[at..at + bytes.len()].copy_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEGMENT: Segment = Segment {
        grant: GrantRef(0x0a0b_0c0d),
        first_sector: 1,
        last_sector: 7,
    };

    #[test]
    fn a_read_on_64_bit_x86_has_these_bytes() {
        let entry = Abi::X86_64.encode_transfer(
            0,
            0xca00,
            0x1122_3344_5566_7788,
            0x0102_0304_0506_0708,
            &[SEGMENT],
        );
        assert_eq!(entry.len(), 112);
        assert_eq!(
            entry[..32],
            [
                0, 1, 0x00, 0xca, 0, 0, 0, 0, // operation, count, handle, padding
                0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11, // id
                8, 7, 6, 5, 4, 3, 2, 1, // sector
                0x0d, 0x0c, 0x0b, 0x0a, 1, 7, 0, 0, // segment
            ]
        );
    }

    #[test]
    fn a_write_on_32_bit_x86_has_these_bytes() {
        let entry = Abi::X86_32.encode_transfer(1, 0xca00, 0x11, 0x22, &[SEGMENT]);
        assert_eq!(entry.len(), 108);
        assert_eq!(
            entry[..28],
            [
                1, 1, 0x00, 0xca, // operation, count, handle
                0x11, 0, 0, 0, 0, 0, 0, 0, // id
                0x22, 0, 0, 0, 0, 0, 0, 0, // sector
                0x0d, 0x0c, 0x0b, 0x0a, 1, 7, 0, 0, // segment
            ]
        );
    }

    #[test]
    fn an_indirect_request_has_these_bytes() {
        let entry = Abi::X86_64.encode_indirect(1, 0x0201, 0xca00, 0x11, 0x22, &[GrantRef(9)]);
        assert_eq!(
            entry[..32],
            [
                6, 1, 1, 2, 0, 0, 0, 0, // operation, inner operation, count, padding
                0x11, 0, 0, 0, 0, 0, 0, 0, // id
                0x22, 0, 0, 0, 0, 0, 0, 0, // sector
                0x00, 0xca, 0, 0, 9, 0, 0, 0, // handle, padding, page
            ]
        );
        let entry = Abi::X86_32.encode_indirect(0, 1, 0xca00, 0x11, 0x22, &[GrantRef(9)]);
        assert_eq!(entry[20..28], [0x00, 0xca, 0, 0, 9, 0, 0, 0]);
    }

    #[test]
    fn a_discard_has_these_bytes() {
        let entry = Abi::X86_64.encode_discard(1, 0xca00, 0x11, 0x22, 0x33);
        assert_eq!(
            entry[..32],
            [
                5, 1, 0x00, 0xca, 0, 0, 0, 0, 0x11, 0, 0, 0, 0, 0, 0, 0, 0x22, 0, 0, 0, 0, 0, 0, 0,
                0x33, 0, 0, 0, 0, 0, 0, 0,
            ]
        );
        let entry = Abi::X86_32.encode_discard(0, 0, 0, 0, 0x33);
        assert_eq!(entry[20..28], [0x33, 0, 0, 0, 0, 0, 0, 0]);
    }

    #[test]
    fn rings_have_these_many_entries() {
        for (order, entries) in [(0, 32), (1, 64), (2, 128), (3, 256), (4, 512)] {
            for abi in [Abi::X86_64, Abi::X86_32, Abi::Arm] {
                assert_eq!(abi.ring_entries(4096 << order), entries, "{abi:?} {order}");
            }
        }
    }

    #[test]
    fn a_response_is_read_from_these_bytes() {
        let mut entry = vec![0; 112];
        entry[..12].copy_from_slice(&[8, 7, 6, 5, 4, 3, 2, 1, 3, 0xee, 0xfe, 0xff]);
        assert_eq!(
            Abi::X86_64.decode_response(&entry),
            Response {
                id: 0x0102_0304_0506_0708,
                operation: 3,
                status: -2
            }
        );
    }
}
