//! What must become of a request, by docs/blkif.md alone: read from the bytes, and held to the rules one by one.

use blkif::{Operation, Request, Response, Segment, Status, TransferDirection};

use super::offer::Offer;

const READ: u8 = 0;
const WRITE: u8 = 1;
const WRITE_BARRIER: u8 = 2;
const FLUSH_DISKCACHE: u8 = 3;
const DISCARD: u8 = 5;
const INDIRECT: u8 = 6;

const SLOT_BYTES: usize = 112;
const SEGMENT_BYTES: usize = 8;

/// A part of a page: grant, first and last sector.
type Piece = (u32, u8, u8);

/// What a request that is let through asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wish {
    /// A read, or a write of some kind, which the code says.
    Transfer(u8, u64, Vec<Piece>),
    Flush,
    Discard {
        start: u64,
        sectors: u64,
        secure: bool,
    },
    /// A read or a write whose segments are still to be fetched.
    Indirect {
        code: u8,
        segments: usize,
        pages: Vec<u32>,
    },
}

/// What becomes of a request: what it asks for, or the status that refuses it; and what its response carries.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) id: u64,
    pub(super) code: u8,
    pub(super) wish: Result<Wish, Status>,
}

impl Verdict {
    /// What the product has made of it, in the same words.
    pub(super) fn of_product(outcome: Result<&Request, Response>) -> Self {
        match outcome {
            Ok(request) => Self {
                id: request.id,
                code: request.operation.code(),
                wish: Ok(Wish::of_operation(&request.operation)),
            },
            Err(refusal) => Self {
                id: refusal.id,
                code: refusal.operation,
                wish: Err(refusal.status),
            },
        }
    }

    /// What must become of a slot.
    pub(super) fn of_slot(slot: &[u8; SLOT_BYTES], offer: &Offer) -> Self {
        let code = match slot[0] {
            INDIRECT => slot[1],
            code => code,
        };
        Self {
            id: u64_at(slot, 8),
            code,
            wish: wish_of_slot(slot, offer),
        }
    }

    /// What must become of a slot whose indirect request was let through, with the descriptors that were there.
    pub(super) fn of_descriptors(
        slot: &[u8; SLOT_BYTES],
        descriptors: &[u8],
        offer: &Offer,
    ) -> Self {
        let (code, count) = (slot[1], usize::from(u16_at(slot, 2)));
        let wish = if descriptors.len() / SEGMENT_BYTES < count {
            Err(Status::Error)
        } else {
            transfer(code, u64_at(slot, 16), pieces(descriptors, count), offer)
        };
        let id = u64_at(slot, 8);
        Self { id, code, wish }
    }
}

impl Wish {
    fn of_operation(operation: &Operation) -> Self {
        let transfer = |start: u64| {
            let piece = |segment: &Segment| {
                let (first, last) = (segment.first(), segment.last());
                assert_eq!(segment.byte_offset(), 512 * usize::from(first));
                assert_eq!(segment.byte_len(), 512 * usize::from(last + 1 - first));
                (segment.gref().0, first, last)
            };
            let pieces = operation.segments().iter().map(piece).collect();
            Self::Transfer(operation.code(), start, pieces)
        };
        match operation {
            Operation::Read { start, .. }
            | Operation::Write { start, .. }
            | Operation::WriteBarrier { start, .. }
            | Operation::FlushWrite { start, .. } => transfer(start.0),
            Operation::Flush => Self::Flush,
            Operation::Discard {
                start,
                sectors,
                secure,
            } => Self::Discard {
                start: start.0,
                sectors: sectors.0,
                secure: *secure,
            },
            Operation::Indirect(indirect) => Self::Indirect {
                code: match indirect.direction() {
                    TransferDirection::Read => READ,
                    TransferDirection::Write => WRITE,
                },
                segments: indirect.segment_count().into(),
                pages: indirect.pages().iter().map(|page| page.0).collect(),
            },
        }
    }
}

fn wish_of_slot(slot: &[u8; SLOT_BYTES], offer: &Offer) -> Result<Wish, Status> {
    let offered = match slot[0] {
        READ | WRITE => true,
        WRITE_BARRIER => offer.barrier,
        FLUSH_DISKCACHE => offer.flush,
        DISCARD => offer.discard && (slot[1] & 1 == 0 || offer.secure_discard),
        INDIRECT => offer.indirect_segments > 0,
        _ => false,
    };
    if !offered {
        return Err(Status::NotSupported);
    }
    match slot[0] {
        DISCARD => discard(slot, offer),
        INDIRECT => indirect(slot, offer),
        _ if slot[1] > 11 => Err(Status::Error),
        code => transfer(
            code,
            u64_at(slot, 16),
            pieces(&slot[24..], slot[1].into()),
            offer,
        ),
    }
}

fn transfer(code: u8, start: u64, pieces: Vec<Piece>, offer: &Offer) -> Result<Wish, Status> {
    for (_, first, last) in &pieces {
        let (first, last) = (u64::from(*first), u64::from(*last));
        let is_in_page = first <= last && last < 8;
        refuse_unless(is_in_page && is_aligned(first, offer) && is_aligned(last + 1, offer))?;
    }
    let sectors: u128 = pieces
        .iter()
        .map(|(_, first, last)| u128::from(last - first) + 1)
        .sum();
    if sectors == 0 {
        return match code {
            FLUSH_DISKCACHE => Ok(Wish::Flush),
            WRITE_BARRIER => Ok(Wish::Transfer(code, start, pieces)),
            _ => Err(Status::Error),
        };
    }
    refuse_unless(code == READ || !offer.read_only)?;
    refuse_unless(is_on_disk(start, sectors, offer) && is_aligned(start, offer))?;
    Ok(Wish::Transfer(code, start, pieces))
}

fn discard(slot: &[u8; SLOT_BYTES], offer: &Offer) -> Result<Wish, Status> {
    let (start, sectors) = (u64_at(slot, 16), u64_at(slot, 24));
    refuse_unless(!offer.read_only && sectors > 0)?;
    refuse_unless(is_on_disk(start, sectors.into(), offer))?;
    refuse_unless(is_aligned(start, offer) && is_aligned(sectors, offer))?;
    Ok(Wish::Discard {
        start,
        sectors,
        secure: slot[1] & 1 == 1,
    })
}

fn indirect(slot: &[u8; SLOT_BYTES], offer: &Offer) -> Result<Wish, Status> {
    let (code, count) = (slot[1], u16_at(slot, 2));
    refuse_unless(code == READ || code == WRITE && !offer.read_only)?;
    refuse_unless((1..=offer.indirect_segments).contains(&count))?;
    let pages = usize::from(count).div_ceil(512);
    Ok(Wish::Indirect {
        code,
        segments: count.into(),
        pages: (0..pages).map(|page| u32_at(slot, 28 + 4 * page)).collect(),
    })
}

fn refuse_unless(rule: bool) -> Result<(), Status> {
    if rule { Ok(()) } else { Err(Status::Error) }
}

fn is_aligned(sectors: u64, offer: &Offer) -> bool {
    sectors.is_multiple_of(offer.block_sectors)
}

fn is_on_disk(start: u64, sectors: u128, offer: &Offer) -> bool {
    u128::from(start) + sectors <= u128::from(offer.sectors)
}

fn pieces(bytes: &[u8], count: usize) -> Vec<Piece> {
    let piece = |at: usize| (u32_at(bytes, at), bytes[at + 4], bytes[at + 5]);
    (0..count)
        .map(|number| piece(number * SEGMENT_BYTES))
        .collect()
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes([bytes[at], bytes[at + 1]])
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}
