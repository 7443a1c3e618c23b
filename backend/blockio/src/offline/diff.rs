//! Where two disks differ.

use std::cell::RefCell;
use std::path::Path;

use dscow::units::DiskRange;

use super::Progress;
use super::compare::{Pair, same};
use super::granules::{differing, sort};
use super::pipeline::{Put, Route};
use super::session::Session;
use super::sweep::{Choice, Sweep};
use super::volume::Volume;
use crate::image::{ImageError, ParentFormat};

/// Unit in bytes in which content is compared.
const UNIT: u64 = 4096;

/// How differences are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Comparison {
    /// By who holds what: what both have from the same place of the same file, or both know to be zeros, is the same, and
    /// all else counts as different. Reads no data.
    Holders,
    /// What the holders leave open is read and compared, in units of 4096 bytes.
    Content,
}

/// A range over which two disks differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The range.
    pub range: DiskRange,
    /// The first disk is known to have zeros there.
    pub zero: bool,
}

/// Tells `report` in ascending order where the disk at `first` differs from that at `second`. The shorter one is taken to
/// go on in zeros. What `report` returns as an error ends the work.
///
/// # Errors
/// Names the file that cannot be used or read, and why.
pub fn diff(
    first: (&Path, ParentFormat),
    second: (&Path, ParentFormat),
    comparison: Comparison,
    progress: &mut dyn Progress,
    report: &mut dyn FnMut(Difference) -> Result<(), ImageError>,
) -> Result<(), ImageError> {
    let mut session = Session::new()?;
    let one = session.join(Volume::open(first.0, first.1)?)?;
    let other = session.join(Volume::open(second.0, second.1)?)?;
    let size = session.size(one).max(session.size(other));
    // Those of the part of the disk that is being worked on, in the order in which they were found.
    let found = RefCell::new(Vec::new());
    let mut merger = Merger { last: None, report };
    progress.begin("compare", size);
    let by_holders = |pair: &Pair| {
        found.borrow_mut().push(Difference {
            range: pair.range,
            zero: pair.first.zero,
        });
        Choice::Skip
    };
    let sweep = Sweep {
        route: Route {
            from: one,
            beside: Some(other),
            to: None,
        },
        range: DiskRange::new(0, size),
        unit: UNIT,
        choose: &|session, pair| {
            if same(session, (one, Some(other)), pair) {
                Choice::Skip
            } else if comparison == Comparison::Content {
                Choice::Read
            } else {
                by_holders(pair)
            }
        },
        look: &mut |seen| {
            let puts = sort(&seen, UNIT, differing);
            found
                .borrow_mut()
                .extend(puts.into_iter().map(Difference::from));
            Vec::new()
        },
        part_done: &mut || {
            let mut part = found.take();
            part.sort_by_key(|difference: &Difference| difference.range.start);
            part.into_iter()
                .try_for_each(|difference| merger.add(difference))
        },
    };
    sweep.run(&mut session, progress)?;
    merger.finish()
}

impl From<Put> for Difference {
    fn from(put: Put) -> Self {
        Self {
            range: put.range(),
            zero: matches!(put, Put::Zeros(_)),
        }
    }
}

/// Makes one of differences that follow each other.
struct Merger<'a> {
    last: Option<Difference>,
    report: &'a mut dyn FnMut(Difference) -> Result<(), ImageError>,
}

impl Merger<'_> {
    fn add(&mut self, found: Difference) -> Result<(), ImageError> {
        match &mut self.last {
            Some(last) if last.range.end() == found.range.start.0 && last.zero == found.zero => {
                last.range.len += found.range.len;
                Ok(())
            }
            last => last
                .replace(found)
                .map_or(Ok(()), |complete| (self.report)(complete)),
        }
    }

    fn finish(self) -> Result<(), ImageError> {
        self.last.map_or(Ok(()), |last| (self.report)(last))
    }
}
