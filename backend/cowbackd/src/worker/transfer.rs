//! From a guest's validated request to one for the engine.

use std::rc::Rc;

use blkif::{Operation, Sector, Segment};
use blockio::buffer::Buffer;
use dscow::engine::Request;
use dscow::units::DiskRange;
use xengnttab::{Access, Gnttab, GrantRef, Grants, Mapping, Page};

use super::foreign::{GuestMemory, PagePart};

/// What a guest's request means for the engine.
pub(super) enum Transfer<'a> {
    /// Read into the segments.
    Read(DiskRange, &'a [Segment]),
    /// Write from the segments.
    Write(DiskRange, &'a [Segment]),
    /// Flush.
    Flush,
    /// Flush, then write from the segments.
    FlushThenWrite(DiskRange, &'a [Segment]),
    /// Not offered, so that validation refused it before.
    NotOffered,
}

impl<'a> Transfer<'a> {
    pub(super) fn of(operation: &'a Operation) -> Self {
        match operation {
            Operation::Read { start, segments } => Self::Read(range(*start, segments), segments),
            Operation::Write { start, segments } => Self::Write(range(*start, segments), segments),
            Operation::Flush => Self::Flush,
            Operation::FlushWrite { start, segments } => {
                Self::FlushThenWrite(range(*start, segments), segments)
            }
            Operation::WriteBarrier { .. } | Operation::Discard { .. } | Operation::Indirect(_) => {
                Self::NotOffered
            }
        }
    }
}

/// The bytes of the disk that the segments cover from `start` on. Validation checked that this is on the disk.
fn range(start: Sector, segments: &[Segment]) -> DiskRange {
    let sectors: u64 = segments.iter().map(Segment::sector_count).sum();
    DiskRange::new(start.0 * Sector::SIZE, sectors * Sector::SIZE)
}

/// Maps the pages of a request.
///
/// # Errors
/// If a grant is not what it should be: the request fails, the disk does not.
pub(super) fn map(
    grants: &mut Grants<Gnttab>,
    segments: &[Segment],
    access: Access,
    scratch: &mut Vec<Page<Mapping>>,
) -> Result<Buffer, xengnttab::Error> {
    let grefs: smallvec::SmallVec<[GrantRef; 11]> = segments
        .iter()
        .map(|segment| GrantRef(segment.gref().0))
        .collect();
    scratch.clear();
    grants.resolve(&grefs, access, scratch)?;
    let parts = segments.iter().map(|segment| PagePart {
        offset: segment.byte_offset(),
        len: segment.byte_len(),
    });
    let memory = GuestMemory::new(scratch.drain(..).zip(parts));
    Ok(Buffer::from_memory(Rc::new(memory)))
}

/// The engine's request for a transfer of `range`.
pub(super) fn engine_request(access: Access, range: DiskRange) -> Request {
    match access {
        // Guest pages that are written to take what was read from the disk.
        Access::ReadWrite => Request::Read(range),
        Access::ReadOnly => Request::Write(range),
    }
}
