//! Two disks side by side: where they can differ, without reading them.

use dscow::units::DiskRange;

use super::session::{Member, Session};
use crate::extents::{DiskExtent, DiskExtents};
use crate::image::ImageError;

/// A range over which each of two disks is of one kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pair {
    pub(super) range: DiskRange,
    /// What the first disk has there.
    pub(super) first: DiskExtent,
    /// What the second has there; nobody holds what is past its end, or what is in no disk at all.
    pub(super) second: DiskExtent,
}

/// The pairs of `range`, from its start and without gaps, at most `count` of them. Past the end of a disk there are
/// zeros. Bounded, because the disks change under a map only between two calls.
pub(super) fn pairs(
    session: &Session,
    first: Member,
    second: Option<Member>,
    range: DiskRange,
    count: usize,
) -> Result<Vec<Pair>, ImageError> {
    let mut ones = Side::new(session, Some(first), range);
    let mut others = Side::new(session, second, range);
    let mut found = Vec::new();
    let mut at = range.start.0;
    while at < range.end() && found.len() < count {
        let (first, second) = (ones.at(at)?, others.at(at)?);
        let until = first.range.end().min(second.range.end());
        let range = DiskRange::new(at, until - at);
        found.push(Pair {
            range,
            first,
            second,
        });
        at = until;
    }
    Ok(found)
}

/// Whether both disks have the same bytes there, as far as that is known without reading: both have the same place
/// of the same file, or both are zero.
pub(super) fn same(session: &Session, members: (Member, Option<Member>), pair: &Pair) -> bool {
    if pair.first.zero && pair.second.zero {
        return true;
    }
    let place = |member, extent: &DiskExtent| {
        let (file, offset) = session.place(member, extent)?;
        // The pair may begin inside the extent.
        Some((file, offset + (pair.range.start.0 - extent.range.start.0)))
    };
    let first = place(members.0, &pair.first);
    let second = members.1.and_then(|member| place(member, &pair.second));
    first.is_some() && first == second
}

/// The extents of one disk, and zeros where it ends.
struct Side<'a> {
    session: &'a Session,
    member: Option<Member>,
    extents: Option<DiskExtents<'a>>,
    current: Option<DiskExtent>,
    end: u64,
}

impl<'a> Side<'a> {
    fn new(session: &'a Session, member: Option<Member>, range: DiskRange) -> Self {
        let extents = member.and_then(|member| {
            let inside = session.size(member).saturating_sub(range.start.0);
            let range = DiskRange::new(range.start.0, range.len.min(inside));
            (range.len > 0).then(|| session.map(member).extents(range))
        });
        Self {
            session,
            member,
            extents,
            current: None,
            end: range.end(),
        }
    }

    /// The extent that holds the byte at `at`. To be asked in ascending order.
    fn at(&mut self, at: u64) -> Result<DiskExtent, ImageError> {
        if let Some(extent) = self.current.filter(|extent| at < extent.range.end()) {
            return Ok(extent);
        }
        let extent = match (self.extents.as_mut().and_then(Iterator::next), self.member) {
            (Some(found), Some(member)) => found.map_err(self.session.map_error(member))?,
            _ => DiskExtent {
                range: DiskRange::new(at, self.end - at),
                holder: None,
                zero: true,
            },
        };
        self.current = Some(extent);
        Ok(extent)
    }
}
