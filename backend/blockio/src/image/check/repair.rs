//! Repairing what can be repaired without guessing.
//!
//! A repair is a list of steps, made before the first of them is done. After each step, and within it, the image is
//! valid and holds what it held: who is killed in between, or loses power, has an image that can be used, and repaired
//! again.

use std::fmt;
use std::io;
use std::ops::Range;
use std::path::Path;

use dscow::header::{Header, Slot, SlotBytes, State};
use dscow::layout::BITMAP_PAGE_SIZE;
use dscow::units::DiskOffset;
use uuid::Uuid;

use super::examine::{Examination, examine};
use super::problem::Problem;
use super::{CheckReport, report};
use crate::file::{BlockFile, Caching};
use crate::image::create::set_len;
use crate::image::error::ImageError;
use crate::image::header_file;
use crate::image::open::{ImageAccess, open_locked};

/// Something that was repaired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repair {
    /// A header slot was written anew from the other one.
    HeaderSlot(Slot),
    /// The file was made as long as it must be.
    Extended,
    /// Bits for blocks that do not exist were cleared.
    BitsPastEnd,
    /// The headroom was cleared.
    Headroom,
    /// The last block was cleared past the end of the disk.
    PastEnd,
    /// An image that a crash had left in use was marked as closed, with a checksum.
    MarkedClean,
    /// So many bytes of storage in blocks that are not allocated were given back.
    Freed(u64),
}

impl fmt::Display for Repair {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HeaderSlot(slot) => write!(formatter, "wrote header slot {slot:?} anew"),
            Self::Extended => formatter.write_str("made the file as long as it must be"),
            Self::BitsPastEnd => formatter.write_str("cleared bits for blocks that do not exist"),
            Self::Headroom => formatter.write_str("cleared the bitmap's headroom"),
            Self::PastEnd => formatter.write_str("cleared what was past the end of the disk"),
            Self::MarkedClean => formatter.write_str("marked the image as closed"),
            Self::Freed(bytes) => {
                write!(
                    formatter,
                    "gave back {bytes} bytes of blocks that are not allocated"
                )
            }
        }
    }
}

/// What a repair found and did.
#[derive(Debug)]
pub struct RepairReport {
    /// What was wrong.
    pub found: Vec<Problem>,
    /// What was done.
    pub repaired: Vec<Repair>,
    /// How the image is now. Its problems are those that are left.
    pub now: CheckReport,
}

/// Checks the image at `path` and repairs what can be repaired without guessing. If there is anything else wrong with its
/// own file, nothing is changed. Problems of its parents do not matter.
///
/// # Errors
/// What keeps the check from being made, as for [`check`](super::check), or a repair: then some may have been made, and
/// the image is as valid as before. [`ImageError::CounterExhausted`] if no other header can be written; nothing was then.
pub fn repair(path: &Path) -> Result<RepairReport, ImageError> {
    let file = open_locked(path, ImageAccess::Writable, Caching::Buffered)?;
    let before = match examine(&file) {
        Ok(examination) => examination,
        Err(error) => {
            let (found, now) = (Vec::new(), CheckReport::unusable(error)?);
            let repaired = Vec::new();
            return Ok(RepairReport {
                found,
                repaired,
                now,
            });
        }
    };
    let found = report(&before)?;
    let mut repaired = Vec::new();
    let plan = plan(&before);
    if !plan.is_empty() {
        header_file::check_counters(&file, &before.header)?;
        header_file::make_current_durable(&file, before.slot)?;
    }
    for (repair, steps) in plan {
        for step in &steps {
            perform(&file, step)?;
        }
        repaired.push(repair);
    }
    let now = report(&examine(&file)?)?;
    repaired.retain_mut(|repair| match repair {
        // Not every file system can give storage back.
        Repair::Freed(bytes) => {
            *bytes = bytes.saturating_sub(now.leftover_bytes);
            *bytes > 0
        }
        _ => true,
    });
    let found = found.problems;
    Ok(RepairReport {
        found,
        repaired,
        now,
    })
}

/// One step of a repair.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Make the file this long.
    SetLen(u64),
    /// Write to a header slot, durably.
    WriteHeader(Slot, Box<SlotBytes>),
    /// Make a range zeros.
    Zero(Range<u64>),
    /// Clear bits in one byte: write it.
    WriteByte(u64, u8),
    /// Give the storage of ranges back, which are not read by anybody.
    Free(Vec<Range<u64>>),
    /// Make everything before durable.
    Sync,
}

/// What to do, in this order; nothing if the image has a problem that cannot be repaired.
pub(super) fn plan(found: &Examination<'_>) -> Vec<(Repair, Vec<Step>)> {
    let mut plan = Vec::new();
    if found
        .problems()
        .iter()
        .any(|problem| !problem.is_repairable())
    {
        return plan;
    }
    let layout = &found.header.layout;
    let mut headers = Headers::new(found);
    if found.len < layout.file_len() {
        let steps = vec![Step::SetLen(layout.file_len()), Step::Sync];
        plan.push((Repair::Extended, steps));
    }
    if found.other_slot.is_some() {
        let slot = headers.current.other();
        plan.push((Repair::HeaderSlot(slot), vec![headers.copy_to_other()]));
    }
    if found.bit_past_end.is_some() {
        // The checksum may have been taken with these bits: until a new one is written, there must be none.
        let mut steps = headers.put_in_force(State::InUse {
            owner: Uuid::new_v4(),
        });
        let last = layout.bitmap_used_len() - 1;
        let byte = found.bitmap.used_bytes().last().copied().unwrap_or(0);
        steps.push(Step::WriteByte(layout.bitmap_offset().0 + last, byte));
        steps.push(Step::Sync);
        plan.push((Repair::BitsPastEnd, steps));
    }
    if found.headroom.is_some() {
        let used_end = layout.bitmap_offset().0 + layout.bitmap_used_len();
        let page_end = used_end.next_multiple_of(BITMAP_PAGE_SIZE);
        let end = layout.bitmap_offset().0 + layout.bitmap_reserved_len();
        let zeros = [used_end..page_end, page_end..end].map(Step::Zero);
        plan.push((Repair::Headroom, [&zeros[..], &[Step::Sync]].concat()));
    }
    if found.past_end.is_some() {
        let end_of_disk = layout.data_position(DiskOffset(layout.virtual_size())).0;
        let steps = vec![Step::Zero(end_of_disk..layout.file_len()), Step::Sync];
        plan.push((Repair::PastEnd, steps));
    }
    if !found.leftovers.is_empty() {
        let bytes = found
            .leftovers
            .iter()
            .map(|range| range.end - range.start)
            .sum();
        let steps = vec![Step::Free(found.leftovers.clone()), Step::Sync];
        plan.push((Repair::Freed(bytes), steps));
    }
    if let State::InUse { .. } = headers.header.state {
        let bitmap_crc = found.bitmap.crc();
        let steps = headers.put_in_force(State::Clean { bitmap_crc });
        // An image that was clean before is only what it was.
        if matches!(found.header.state, State::InUse { .. }) {
            plan.push((Repair::MarkedClean, steps));
        } else if let Some((_, before)) = plan.last_mut() {
            before.extend(steps);
        }
    }
    plan
}

/// The header in force as the steps go on.
struct Headers {
    header: Header,
    current: Slot,
}

impl Headers {
    fn new(found: &Examination<'_>) -> Self {
        Self {
            header: found.header.clone(),
            current: found.slot,
        }
    }

    /// Writes what is in force to the other slot, which is in force then.
    fn copy_to_other(&mut self) -> Step {
        self.header.sequence += 1;
        self.current = self.current.other();
        Step::WriteHeader(self.current, self.header.encode())
    }

    /// Writes a new state to both slots.
    fn put_in_force(&mut self, state: State) -> Vec<Step> {
        self.header.state = state;
        vec![self.copy_to_other(), self.copy_to_other()]
    }
}

pub(super) fn perform(file: &BlockFile, step: &Step) -> Result<(), ImageError> {
    match step {
        Step::SetLen(len) => set_len(file, *len),
        Step::WriteHeader(slot, bytes) => header_file::write_durably(file, *slot, bytes),
        Step::Zero(range) => file
            .zero_range(range.start, range.end - range.start)
            .map_err(ImageError::io(file.path(), "clear a part of it")),
        Step::WriteByte(offset, byte) => file
            .write_all_at(&[*byte], *offset)
            .map_err(ImageError::io(file.path(), "write its bitmap")),
        Step::Free(ranges) => ranges.iter().try_for_each(|range| free(file, range)),
        Step::Sync => file
            .sync_data()
            .map_err(ImageError::io(file.path(), "sync it")),
    }
}

fn free(file: &BlockFile, range: &Range<u64>) -> Result<(), ImageError> {
    match file.punch_hole(range.start, range.end - range.start) {
        Err(cause) if cause.kind() == io::ErrorKind::Unsupported => Ok(()),
        result => result.map_err(ImageError::io(file.path(), "give storage back")),
    }
}
