//! A request between the ring and its response.

use std::time::Instant;

use blkif::{Operation, Request, Response, Sector, Segment, Status, TransferDirection};
use blockio::buffer::Buffer;
use dscow::engine;
use dscow::units::DiskRange;
use runstate::Place;
use smallvec::SmallVec;

use crate::worker::guest_pages::Destination;

/// A request that was taken off a ring and not answered yet. It ends in exactly one response.
pub(super) struct InFlight {
    pub(super) origin: Origin,
    pub(super) taken: Instant,
    /// The response if all goes well.
    pub(super) response: Response,
    /// What is to follow when the first part, a flush, has succeeded.
    pub(super) then: Option<(DiskRange, Buffer)>,
    /// Bytes that it takes beside the guest's pages: of its data if that is copied, and of blocks that it fills up.
    pub(super) copied_bytes: usize,
    /// Where what was read is to be copied to.
    pub(super) destination: Option<Destination>,
}

/// Where a request came from, and where its response goes.
#[derive(Clone, Copy)]
pub(super) struct Origin {
    pub(super) queue: usize,
    /// Where it is in the journal, if there is one.
    pub(super) place: Option<Place>,
}

/// A request that was taken and is valid, and whose data is still to be fetched.
pub(super) struct Arrival {
    pub(super) origin: Origin,
    pub(super) response: Response,
    pub(super) order: Order,
    /// Where its data is; empty for requests without.
    pub(super) segments: SmallVec<[Segment; 11]>,
}

/// What a guest's request means for the engine.
#[derive(Clone, Copy)]
pub(super) struct Order {
    /// What to submit.
    pub(super) request: engine::Request,
    /// A write that is to follow when that, a flush, has succeeded.
    pub(super) then: Option<DiskRange>,
    /// Which way its data goes.
    pub(super) direction: TransferDirection,
}

impl Arrival {
    /// `None` for an indirect request, whose segments are not known yet.
    pub(super) fn of(origin: Origin, request: Request) -> Option<Self> {
        let response = request.response(Status::Okay);
        let order = Order::of(&request.operation)?;
        let segments = match request.operation {
            Operation::Read { segments, .. }
            | Operation::Write { segments, .. }
            | Operation::WriteBarrier { segments, .. }
            | Operation::FlushWrite { segments, .. } => segments,
            Operation::Flush | Operation::Discard { .. } | Operation::Indirect(_) => {
                SmallVec::new()
            }
        };
        Some(Self {
            origin,
            response,
            order,
            segments,
        })
    }
}

impl Order {
    fn of(operation: &Operation) -> Option<Self> {
        let write = |request, then| Self {
            request,
            then,
            direction: TransferDirection::Write,
        };
        Some(match operation {
            Operation::Read { start, segments } => Self {
                request: engine::Request::Read(range(*start, segments)),
                then: None,
                direction: TransferDirection::Read,
            },
            Operation::Write { start, segments } => {
                write(engine::Request::Write(range(*start, segments)), None)
            }
            // Without data its place on the disk means nothing.
            Operation::WriteBarrier { segments, .. } if segments.is_empty() => {
                write(engine::Request::Barrier(DiskRange::new(0, 0)), None)
            }
            Operation::WriteBarrier { start, segments } => {
                write(engine::Request::Barrier(range(*start, segments)), None)
            }
            Operation::Flush => write(engine::Request::Flush, None),
            Operation::FlushWrite { start, segments } => {
                write(engine::Request::Flush, Some(range(*start, segments)))
            }
            Operation::Discard { start, sectors, .. } => {
                let range = DiskRange::new(start.0 * Sector::SIZE, sectors.0 * Sector::SIZE);
                write(engine::Request::Discard(range), None)
            }
            Operation::Indirect(_) => return None,
        })
    }
}

/// The bytes of the disk that the segments cover from `start` on. Validation checked that this is on the disk.
fn range(start: Sector, segments: &[Segment]) -> DiskRange {
    let sectors: u64 = segments.iter().map(Segment::sector_count).sum();
    DiskRange::new(start.0 * Sector::SIZE, sectors * Sector::SIZE)
}
