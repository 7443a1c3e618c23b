//! Looking at everything in an image's own file.

use std::ops::{ControlFlow, Range};

use dscow::bitmap::Bitmap;
use dscow::header::{Header, HeaderError, Slot, State};
use dscow::layout::Layout;
use dscow::units::{BlockIndex, DiskOffset};

use super::problem::{LostBlocks, Problem};
use crate::file::{BlockFile, FileKind};
use crate::image::ImageError;
use crate::image::header_file::Slots;
use crate::image::open::{read_bitmap, size_of_file};

/// What an image's own file turned out to hold.
pub(super) struct Examination<'a> {
    pub(super) file: &'a BlockFile,
    pub(super) header: Header,
    pub(super) slot: Slot,
    /// What is wrong with the slot that is not in force.
    pub(super) other_slot: Option<HeaderError>,
    /// Length of the file or device.
    pub(super) len: u64,
    /// The bitmap without [`bit_past_end`](Self::bit_past_end).
    pub(super) bitmap: Bitmap,
    /// What the bitmap sums up to, if that is not what the header says.
    pub(super) checksum: Option<Mismatch>,
    /// The first bit for a block that does not exist, in the last byte of the bitmap.
    pub(super) bit_past_end: Option<u64>,
    /// The first byte in the headroom that is not zero.
    pub(super) headroom: Option<u64>,
    /// The first byte past the end of the disk in a last block that is not zero.
    pub(super) past_end: Option<u64>,
    /// Parts of the file with storage for blocks that are not allocated.
    pub(super) leftovers: Vec<Range<u64>>,
}

pub(super) struct Mismatch {
    found: u32,
    expected: u32,
}

/// Examines an image that is locked.
///
/// # Errors
/// If it has no header that can be used, or cannot be read.
pub(super) fn examine(file: &BlockFile) -> Result<Examination<'_>, ImageError> {
    let slots = Slots::read(file)?;
    let (header, slot) = slots.current(file)?;
    let layout = header.layout;
    let (mut bitmap, found) = read_bitmap(file, &layout)?;
    let bit_past_end = bitmap.bit_past_end();
    if bit_past_end.is_some() {
        forget_bits_past_end(&mut bitmap);
    }
    // What the bits past the end were when the checksum was taken is not known, so with and without them will do.
    let matches = |expected| found == expected || bitmap.crc() == expected;
    let checksum = match header.state {
        State::Clean {
            bitmap_crc: expected,
        } if !matches(expected) => Some(Mismatch { found, expected }),
        _ => None,
    };
    Ok(Examination {
        other_slot: Header::check_whole(slots.bytes(slot.other())).err(),
        len: size_of_file(file)?,
        headroom: first_in_headroom(file, &layout)?,
        past_end: first_past_end(file, &layout, has_last_block(&layout, &bitmap))?,
        leftovers: leftovers(file, &layout, &bitmap)?,
        file,
        header,
        slot,
        bitmap,
        checksum,
        bit_past_end,
    })
}

impl Examination<'_> {
    /// What is wrong, most important first.
    pub(super) fn problems(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        if let Some(cause) = &self.other_slot {
            let (slot, cause) = (self.slot.other(), cause.clone());
            problems.push(Problem::HeaderSlot { slot, cause });
        }
        problems.extend(self.length());
        if let Some(Mismatch { found, expected }) = self.checksum {
            problems.push(Problem::BitmapChecksum { found, expected });
        }
        if let Some(block) = self.bit_past_end {
            let block_count = self.bitmap.block_count();
            problems.push(Problem::BitsPastEnd { block, block_count });
        }
        if let Some(offset) = self.headroom {
            problems.push(Problem::Headroom { offset });
        }
        if let Some(offset) = self.past_end {
            problems.push(Problem::PastEnd { offset });
        }
        problems
    }

    fn length(&self) -> Option<Problem> {
        let (len, needed) = (self.len, self.header.layout.file_len());
        if len >= needed {
            return None;
        }
        Some(match self.lost_blocks() {
            Some(lost) => Problem::Truncated { len, needed, lost },
            // A device does not become longer by being told so.
            None if self.file.kind() == FileKind::BlockDevice => {
                Problem::Unusable(ImageError::Truncated {
                    path: self.file.path().to_owned(),
                    len,
                    needed,
                })
            }
            None => Problem::Short { len, needed },
        })
    }

    /// What was allocated past the end of the file.
    fn lost_blocks(&self) -> Option<LostBlocks> {
        let layout = &self.header.layout;
        let bitmap_end = layout.bitmap_offset().0 + layout.bitmap_used_len();
        // What of the bitmap is not there was taken as zeros. Only the checksum of a clean image can confirm that.
        let is_confirmed = matches!(self.header.state, State::Clean { .. });
        if self.len < bitmap_end && !is_confirmed {
            return Some(LostBlocks::Bitmap);
        }
        let whole = self.len.saturating_sub(layout.data_offset().0);
        let first_missing = layout.block_size().block_of(DiskOffset(whole));
        let mut lost = runs(
            &self.bitmap,
            true,
            first_missing,
            BlockIndex(self.bitmap.block_count()),
        );
        let (first, end) = lost.next()?;
        let count = lost.fold(end.0 - first.0, |count, (first, end)| {
            count + end.0 - first.0
        });
        let first = first.0;
        Some(LostBlocks::Blocks { first, count })
    }
}

/// Clears the bits for blocks that do not exist, which are in the last byte that was loaded.
fn forget_bits_past_end(bitmap: &mut Bitmap) {
    let blocks_in_last_byte = bitmap.block_count() % 8;
    let used = bitmap.used_bytes();
    if let Some(last) = used
        .last()
        .map(|byte| byte & !(u8::MAX << blocks_in_last_byte))
    {
        bitmap.load(used.len() as u64 - 1, &[last]);
    }
}

fn first_nonzero(file: &BlockFile, range: Range<u64>) -> Result<Option<u64>, ImageError> {
    let mut found = None;
    file.visit_data(range, |at, bytes| {
        found = bytes
            .iter()
            .position(|byte| *byte != 0)
            .map(|i| at + i as u64);
        match found {
            Some(_) => ControlFlow::Break(()),
            None => ControlFlow::Continue(()),
        }
    })
    .map_err(ImageError::io(file.path(), "read it"))?;
    Ok(found)
}

fn first_in_headroom(file: &BlockFile, layout: &Layout) -> Result<Option<u64>, ImageError> {
    let start = layout.bitmap_offset().0;
    first_nonzero(
        file,
        start + layout.bitmap_used_len()..start + layout.bitmap_reserved_len(),
    )
}

/// What of an open image would show if its disk were larger.
pub(super) fn shown_by_growing(
    file: &BlockFile,
    layout: &Layout,
    has_last_block: bool,
) -> Result<Option<Problem>, ImageError> {
    if let Some(offset) = first_in_headroom(file, layout)? {
        return Ok(Some(Problem::Headroom { offset }));
    }
    let past_end = first_past_end(file, layout, has_last_block)?;
    Ok(past_end.map(|offset| Problem::PastEnd { offset }))
}

/// Whether the block that the disk ends in is allocated.
fn has_last_block(layout: &Layout, bitmap: &Bitmap) -> bool {
    bitmap.is_set(BlockIndex(layout.block_count() - 1))
}

fn first_past_end(
    file: &BlockFile,
    layout: &Layout,
    has_last_block: bool,
) -> Result<Option<u64>, ImageError> {
    if !has_last_block {
        return Ok(None);
    }
    let end_of_disk = layout.data_position(DiskOffset(layout.virtual_size()));
    first_nonzero(file, end_of_disk.0..layout.file_len())
}

/// Where the file has storage for blocks that are not allocated. A device has storage for everything, always.
fn leftovers(
    file: &BlockFile,
    layout: &Layout,
    bitmap: &Bitmap,
) -> Result<Vec<Range<u64>>, ImageError> {
    let mut found: Vec<Range<u64>> = Vec::new();
    if file.kind() == FileKind::BlockDevice {
        return Ok(found);
    }
    let data = layout.data_offset().0;
    let shift = layout.block_size().shift();
    let fail = || ImageError::io(file.path(), "find out where it has data");
    for extent in file
        .extents_within(data..layout.file_len())
        .map_err(fail())?
    {
        let extent = extent.map_err(fail())?;
        let end = extent.offset + extent.len;
        let (first, last) = ((extent.offset - data) >> shift, (end - 1 - data) >> shift);
        for (first, beyond) in runs(bitmap, false, BlockIndex(first), BlockIndex(last + 1)) {
            let start = (data + (first.0 << shift)).max(extent.offset);
            let range = start..(data + (beyond.0 << shift)).min(end);
            match found.last_mut() {
                Some(previous) if previous.end == range.start => previous.end = range.end,
                _ => found.push(range),
            }
        }
    }
    Ok(found)
}

/// The runs of blocks in a range whose bits are `value`, each as its first block and the one after its last.
fn runs(
    bitmap: &Bitmap,
    value: bool,
    from: BlockIndex,
    end: BlockIndex,
) -> impl Iterator<Item = (BlockIndex, BlockIndex)> {
    let mut at = from;
    std::iter::from_fn(move || {
        if at >= end {
            return None;
        }
        let first = bitmap.find(value, at, end)?;
        at = bitmap.find(!value, first, end).unwrap_or(end);
        Some((first, at))
    })
}
