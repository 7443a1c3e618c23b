//! Validation: from what the guest claims to what the backend may act upon.

use smallvec::SmallVec;

use crate::limits::{Discard, Limits};
use crate::raw::{RawRequest, RawSegment};
use crate::response::{Response, Status};
use crate::units::{GrantRef, Sector};
use crate::wire::{
    DISCARD_SECURE, INDIRECT_PAGES_MAX, RawSlot, SECTORS_PER_PAGE, SEGMENTS_PER_INDIRECT_PAGE,
    SEGMENTS_PER_REQUEST_MAX, operation,
};

/// A part of a granted page, in whole sectors. `first <= last <= 7` holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    gref: GrantRef,
    first: u8,
    last: u8,
}

impl Segment {
    /// The page.
    #[must_use]
    pub const fn gref(&self) -> GrantRef {
        self.gref
    }

    /// The first sector in the page, 0 to 7.
    #[must_use]
    pub const fn first(&self) -> u8 {
        self.first
    }

    /// The last sector in the page, inclusive, 0 to 7.
    #[must_use]
    pub const fn last(&self) -> u8 {
        self.last
    }

    /// Sectors in the segment, 1 to 8.
    #[must_use]
    pub const fn sector_count(&self) -> u64 {
        // Lossless; `From` is not const.
        (self.last - self.first) as u64 + 1
    }

    /// Offset of the segment in its page, in bytes.
    #[must_use]
    pub const fn byte_offset(&self) -> usize {
        self.first as usize * 512
    }

    /// Length of the segment in bytes, 512 to 4096.
    #[must_use]
    pub const fn byte_len(&self) -> usize {
        (self.last - self.first) as usize * 512 + 512
    }
}

/// The segments of a transfer, in the order of the disk. Those of a direct request need no allocation.
pub type Segments = SmallVec<[Segment; SEGMENTS_PER_REQUEST_MAX]>;

/// Whether an indirect request reads or writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransferDirection {
    /// From the disk into the pages.
    Read,
    /// From the pages to the disk.
    Write,
}

/// An indirect request of which only the slot has been seen.
///
/// Map [`IndirectRequest::pages`], copy [`IndirectRequest::segment_count`] descriptors out of them once,
/// and give them to [`IndirectRequest::with_descriptors`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndirectRequest {
    id: u64,
    direction: TransferDirection,
    start: Sector,
    segment_count: u16,
    pages: [GrantRef; INDIRECT_PAGES_MAX],
}

/// What a validated request asks for.
///
/// Ranges are within the disk, aligned to its `sector-size`, and writes are to a disk that takes them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Read from `start` on into the segments.
    Read {
        /// Start on the disk.
        start: Sector,
        /// Where to; at least one.
        segments: Segments,
    },
    /// Write the segments from `start` on.
    Write {
        /// Start on the disk.
        start: Sector,
        /// Where from; at least one.
        segments: Segments,
    },
    /// Wait for all writes before this one, write, commit, and let no later write pass.
    WriteBarrier {
        /// Start on the disk; means nothing without segments.
        start: Sector,
        /// Where from; may be empty.
        segments: Segments,
    },
    /// Make all that was answered before durable.
    Flush,
    /// A flush that carries data: Linux's blkback flushes, then writes. The data itself is promised to be
    /// durable only by the next flush.
    FlushWrite {
        /// Start on the disk.
        start: Sector,
        /// Where from; at least one.
        segments: Segments,
    },
    /// The range is no longer needed.
    Discard {
        /// Start on the disk.
        start: Sector,
        /// Length; at least one sector.
        sectors: Sector,
        /// Every copy must be gone. Only if [`Discard::Secure`] is offered.
        secure: bool,
    },
    /// A transfer whose segments are still to be fetched.
    Indirect(IndirectRequest),
}

impl Operation {
    /// The code that the response must carry: for an indirect request that of the operation inside.
    #[must_use]
    pub const fn code(&self) -> u8 {
        match self {
            Self::Read { .. } => operation::READ,
            Self::Write { .. } => operation::WRITE,
            Self::WriteBarrier { .. } => operation::WRITE_BARRIER,
            Self::Flush | Self::FlushWrite { .. } => operation::FLUSH_DISKCACHE,
            Self::Discard { .. } => operation::DISCARD,
            Self::Indirect(indirect) => indirect.direction.code(),
        }
    }

    /// The segments, if this is a transfer whose segments are known.
    #[must_use]
    pub fn segments(&self) -> &[Segment] {
        match self {
            Self::Read { segments, .. }
            | Self::Write { segments, .. }
            | Self::WriteBarrier { segments, .. }
            | Self::FlushWrite { segments, .. } => segments,
            Self::Flush | Self::Discard { .. } | Self::Indirect(_) => &[],
        }
    }
}

/// A validated request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The guest's name for it, to be echoed in the one response. Opaque, and not necessarily unique.
    pub id: u64,
    /// What it asks for.
    pub operation: Operation,
}

impl Request {
    /// Decodes and validates a slot.
    ///
    /// # Errors
    /// The request must not be acted upon; the [`Rejection`] says what to answer.
    pub fn from_slot(slot: &RawSlot, limits: &Limits) -> Result<Self, Rejection> {
        RawRequest::decode(slot).validate(limits)
    }

    /// The response to this request.
    #[must_use]
    pub const fn response(&self, status: Status) -> Response {
        Response {
            id: self.id,
            operation: self.operation.code(),
            status,
        }
    }
}

/// Why a request was rejected. Each is a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, thiserror::Error)]
pub enum Reason {
    /// The code is none of the protocol's.
    #[error("unknown operation")]
    UnknownOperation,
    /// The operation exists and has not been advertised.
    #[error("operation that has not been offered")]
    NotOffered,
    /// An indirect request for something else than a read or a write.
    #[error("indirect request that is neither read nor write")]
    IndirectOperation,
    /// A transfer without segments.
    #[error("transfer without segments")]
    NoSegments,
    /// More segments than the slot holds, or than have been offered.
    #[error("too many segments")]
    TooManySegments,
    /// A segment that ends before it starts, or beyond its page.
    #[error("segment outside of its page")]
    BadSegment,
    /// A range that ends beyond the disk.
    #[error("range beyond the end of the disk")]
    BeyondEnd,
    /// A start, a segment or a length that is no multiple of `sector-size`.
    #[error("range not aligned to the logical block size")]
    Misaligned,
    /// A write or discard on a read-only disk.
    #[error("write to a read-only disk")]
    ReadOnly,
    /// A discard of nothing.
    #[error("discard of no sectors")]
    EmptyDiscard,
    /// A discard of which no copy may be left, where that has not been offered.
    #[error("secure discard, which has not been offered")]
    SecureDiscard,
    /// Fewer descriptors than the indirect request said.
    #[error("indirect descriptors missing")]
    MissingDescriptors,
}

impl Reason {
    /// Every reason, in order.
    pub const ALL: [Self; 12] = [
        Self::UnknownOperation,
        Self::NotOffered,
        Self::IndirectOperation,
        Self::NoSegments,
        Self::TooManySegments,
        Self::BadSegment,
        Self::BeyondEnd,
        Self::Misaligned,
        Self::ReadOnly,
        Self::EmptyDiscard,
        Self::SecureDiscard,
        Self::MissingDescriptors,
    ];

    /// The name for metrics; does not change.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::UnknownOperation => "unknown_operation",
            Self::NotOffered => "not_offered",
            Self::IndirectOperation => "indirect_operation",
            Self::NoSegments => "no_segments",
            Self::TooManySegments => "too_many_segments",
            Self::BadSegment => "bad_segment",
            Self::BeyondEnd => "beyond_end",
            Self::Misaligned => "misaligned",
            Self::ReadOnly => "read_only",
            Self::EmptyDiscard => "empty_discard",
            Self::SecureDiscard => "secure_discard",
            Self::MissingDescriptors => "missing_descriptors",
        }
    }

    /// The status to answer: EOPNOTSUPP for operations that are not done here, ERROR for the rest.
    #[must_use]
    pub const fn status(self) -> Status {
        match self {
            Self::UnknownOperation | Self::NotOffered | Self::SecureDiscard => Status::NotSupported,
            _ => Status::Error,
        }
    }
}

/// A request that must not be acted upon, and must be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("request {id:#x}, operation {operation}: {reason}")]
pub struct Rejection {
    /// The guest's name for the request.
    pub id: u64,
    /// The code for the response.
    pub operation: u8,
    /// What is wrong with it; also gives the status.
    pub reason: Reason,
}

impl Rejection {
    /// The response that the guest must get.
    #[must_use]
    pub const fn response(&self) -> Response {
        Response {
            id: self.id,
            operation: self.operation,
            status: self.reason.status(),
        }
    }
}

impl RawRequest {
    /// Holds the request against what the frontend has been told.
    ///
    /// # Errors
    /// The request must not be acted upon; the [`Rejection`] says what to answer.
    pub fn validate(&self, limits: &Limits) -> Result<Request, Rejection> {
        let (id, code, operation) = match *self {
            Self::Transfer {
                operation,
                id,
                sector,
                nr_segments,
                ref segments,
            } => (
                id,
                operation,
                validate_direct(operation, sector, nr_segments, segments, limits),
            ),
            Self::Discard {
                id,
                flag,
                sector,
                nr_sectors,
            } => (
                id,
                operation::DISCARD,
                validate_discard(flag, sector, nr_sectors, limits),
            ),
            Self::Indirect {
                indirect_op,
                id,
                sector,
                nr_segments,
                pages,
            } => (
                id,
                // Frontends compare the response with the operation inside.
                indirect_op,
                validate_indirect(indirect_op, id, sector, nr_segments, pages, limits)
                    .map(Operation::Indirect),
            ),
            Self::Unknown { operation, id } => (id, operation, Err(Reason::UnknownOperation)),
        };
        operation
            .map(|operation| Request { id, operation })
            .map_err(|reason| Rejection {
                id,
                operation: code,
                reason,
            })
    }
}

impl TransferDirection {
    const fn code(self) -> u8 {
        match self {
            Self::Read => operation::READ,
            Self::Write => operation::WRITE,
        }
    }
}

impl IndirectRequest {
    /// Whether it reads or writes.
    #[must_use]
    pub const fn direction(&self) -> TransferDirection {
        self.direction
    }

    /// How many segments its descriptor pages hold; at least 1, at most what has been offered.
    #[must_use]
    pub const fn segment_count(&self) -> u16 {
        self.segment_count
    }

    /// The descriptor pages: as many as the segments need, 512 to a page.
    #[must_use]
    pub fn pages(&self) -> &[GrantRef] {
        let count = usize::from(self.segment_count).div_ceil(SEGMENTS_PER_INDIRECT_PAGE);
        // At most 8: no more segments are offered than 8 pages hold.
        &self.pages[..count.min(INDIRECT_PAGES_MAX)]
    }

    /// The transfer, from the private copies of its descriptors; more than
    /// [`IndirectRequest::segment_count`] are not looked at.
    ///
    /// # Errors
    /// The request must not be acted upon; the [`Rejection`] says what to answer.
    pub fn with_descriptors(
        &self,
        descriptors: impl IntoIterator<Item = RawSegment>,
        limits: &Limits,
    ) -> Result<Request, Rejection> {
        let raw: SmallVec<[RawSegment; SEGMENTS_PER_REQUEST_MAX]> = descriptors
            .into_iter()
            .take(usize::from(self.segment_count))
            .collect();
        let operation = if raw.len() == usize::from(self.segment_count) {
            validate_transfer(self.direction.code(), self.start.0, &raw, limits)
        } else {
            Err(Reason::MissingDescriptors)
        };
        operation
            .map(|operation| Request {
                id: self.id,
                operation,
            })
            .map_err(|reason| self.reject(reason))
    }

    /// The rejection of this request for `reason`, when its descriptors cannot be had.
    #[must_use]
    pub const fn reject(&self, reason: Reason) -> Rejection {
        Rejection {
            id: self.id,
            operation: self.direction.code(),
            reason,
        }
    }
}

/// Whether the operation is offered comes first: a frontend that hears that it is not supported stops asking for it.
fn validate_direct(
    code: u8,
    sector: u64,
    nr_segments: u8,
    segments: &[RawSegment; SEGMENTS_PER_REQUEST_MAX],
    limits: &Limits,
) -> Result<Operation, Reason> {
    let features = limits.features();
    let offered = match code {
        operation::WRITE_BARRIER => features.barrier,
        operation::FLUSH_DISKCACHE => features.flush,
        _ => true,
    };
    if !offered {
        return Err(Reason::NotOffered);
    }
    let used = segments.get(..usize::from(nr_segments));
    validate_transfer(code, sector, used.ok_or(Reason::TooManySegments)?, limits)
}

fn validate_transfer(
    code: u8,
    sector: u64,
    raw: &[RawSegment],
    limits: &Limits,
) -> Result<Operation, Reason> {
    let start = Sector(sector);
    let segments = validate_segments(raw, limits)?;
    if segments.is_empty() {
        // Without data there is no range to check, and nothing that a read-only disk would refuse.
        return match code {
            operation::WRITE_BARRIER => Ok(Operation::WriteBarrier { start, segments }),
            operation::FLUSH_DISKCACHE => Ok(Operation::Flush),
            _ => Err(Reason::NoSegments),
        };
    }
    if code != operation::READ && limits.read_only() {
        return Err(Reason::ReadOnly);
    }
    // At most 4096 segments of 8 sectors: the sum cannot overflow.
    let count = segments.iter().map(Segment::sector_count).sum();
    validate_range(sector, count, limits)?;
    Ok(match code {
        operation::READ => Operation::Read { start, segments },
        operation::WRITE => Operation::Write { start, segments },
        operation::WRITE_BARRIER => Operation::WriteBarrier { start, segments },
        _ => Operation::FlushWrite { start, segments },
    })
}

/// Checks each segment: inside its page, and as `blkif.h` asks, its offset and length in whole logical
/// blocks.
fn validate_segments(raw: &[RawSegment], limits: &Limits) -> Result<Segments, Reason> {
    let mut segments = Segments::with_capacity(raw.len());
    for segment in raw {
        if segment.first_sect > segment.last_sect || segment.last_sect >= SECTORS_PER_PAGE {
            return Err(Reason::BadSegment);
        }
        let segment = Segment {
            gref: GrantRef(segment.gref),
            first: segment.first_sect,
            last: segment.last_sect,
        };
        let block = limits.sector_size();
        if !block.divides(u64::from(segment.first)) || !block.divides(segment.sector_count()) {
            return Err(Reason::Misaligned);
        }
        segments.push(segment);
    }
    Ok(segments)
}

/// Checks that `count` sectors from `sector` on are on the disk, and the start is aligned.
fn validate_range(sector: u64, count: u64, limits: &Limits) -> Result<(), Reason> {
    let end = sector.checked_add(count).ok_or(Reason::BeyondEnd)?;
    if end > limits.sectors().0 {
        return Err(Reason::BeyondEnd);
    }
    if !limits.sector_size().divides(sector) {
        return Err(Reason::Misaligned);
    }
    Ok(())
}

fn validate_discard(
    flag: u8,
    sector: u64,
    count: u64,
    limits: &Limits,
) -> Result<Operation, Reason> {
    let offered = limits.features().discard;
    if offered == Discard::No {
        return Err(Reason::NotOffered);
    }
    let secure = flag & DISCARD_SECURE != 0;
    // Who asks for it relies on it: the storage given back may still hold what was there.
    if secure && offered != Discard::Secure {
        return Err(Reason::SecureDiscard);
    }
    if limits.read_only() {
        return Err(Reason::ReadOnly);
    }
    if count == 0 {
        return Err(Reason::EmptyDiscard);
    }
    validate_range(sector, count, limits)?;
    if !limits.sector_size().divides(count) {
        return Err(Reason::Misaligned);
    }
    Ok(Operation::Discard {
        start: Sector(sector),
        sectors: Sector(count),
        secure,
    })
}

fn validate_indirect(
    code: u8,
    id: u64,
    sector: u64,
    nr_segments: u16,
    pages: [u32; INDIRECT_PAGES_MAX],
    limits: &Limits,
) -> Result<IndirectRequest, Reason> {
    let segments_max = limits.features().indirect_segments_max;
    if segments_max == 0 {
        return Err(Reason::NotOffered);
    }
    let direction = match code {
        operation::READ => TransferDirection::Read,
        operation::WRITE => TransferDirection::Write,
        _ => return Err(Reason::IndirectOperation),
    };
    if nr_segments == 0 {
        return Err(Reason::NoSegments);
    }
    if nr_segments > segments_max {
        return Err(Reason::TooManySegments);
    }
    // Known before the descriptors are: spares fetching them.
    if direction == TransferDirection::Write && limits.read_only() {
        return Err(Reason::ReadOnly);
    }
    Ok(IndirectRequest {
        id,
        direction,
        start: Sector(sector),
        segment_count: nr_segments,
        pages: pages.map(GrantRef),
    })
}
