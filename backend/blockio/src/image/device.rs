//! Creating an image on a block device.

use std::ops::ControlFlow;
use std::path::Path;

use dscow::header::{Header, MAGIC, Slot};
use dscow::layout::{HEADER_SLOT_SIZE, Headroom, Layout};

use super::error::{DeviceContent, ImageError};
use super::header_file::write_pair;
use super::open::size_of_file;
use crate::file::{Access, BlockFile, Caching};
use crate::lock;

/// How much of a device is looked at to tell whether it is empty. What file systems, volume managers and partition
/// tables put down to be known by lies within it.
const SIGNATURES_LEN: u64 = 1 << 20;

/// Makes the device at `path` an image with this header, after checking that it may and can be one.
pub(super) fn write_new(
    path: &Path,
    header: &Header,
    headroom: Headroom,
    force: bool,
) -> Result<Header, ImageError> {
    let mut device = BlockFile::open(path, Access::ReadWrite, Caching::Buffered)?;
    lock::patiently(lock::PATIENCE, &device, lock::lock_exclusive)?;
    device.claim_device()?;
    check_room(&device, &header.layout, headroom)?;
    if !force {
        refuse_content(&device)?;
    }
    clear_metadata(&device, &header.layout)?;
    // As if slot A had been current, so that it is afterwards.
    write_pair(&device, header, Slot::A)
}

/// Refuses a device that is not empty.
pub(crate) fn refuse_content(device: &BlockFile) -> Result<(), ImageError> {
    content(device)?.map_or(Ok(()), |content| {
        let path = device.path().to_owned();
        Err(ImageError::NotEmpty { path, content })
    })
}

fn check_room(device: &BlockFile, layout: &Layout, headroom: Headroom) -> Result<(), ImageError> {
    let (found, needed) = (size_of_file(device)?, layout.file_len());
    if needed <= found {
        return Ok(());
    }
    Err(ImageError::DeviceTooSmall {
        path: device.path().to_owned(),
        needed,
        metadata: layout.data_offset().0,
        found,
        largest: Layout::largest_disk_within(found, layout.block_size(), headroom),
    })
}

/// What is on the device; `None` if its beginning is all zeros.
fn content(device: &BlockFile) -> Result<Option<DeviceContent>, ImageError> {
    let len = SIGNATURES_LEN.min(size_of_file(device)?);
    let mut content = None;
    device
        .visit_data(0..len, |at, page| {
            let may_be_slot = at < 2 * HEADER_SLOT_SIZE;
            content = Some(if may_be_slot && page.starts_with(&MAGIC) {
                DeviceContent::Image
            } else {
                DeviceContent::Data
            });
            ControlFlow::Break(())
        })
        .map_err(ImageError::io(device.path(), "read what it holds"))?;
    Ok(content)
}

/// Makes header slots and bitmap zeros, durably. What lies in the data area stays: no bit names it.
///
/// The slots go first, so that a crash in between cannot leave the header of an older image over a bitmap that is
/// partly cleared.
fn clear_metadata(device: &BlockFile, layout: &Layout) -> Result<(), ImageError> {
    let slots = 0..2 * HEADER_SLOT_SIZE;
    let bitmap = layout.bitmap_offset().0;
    for range in [slots, bitmap..bitmap + layout.bitmap_reserved_len()] {
        device
            .zero_range(range.start, range.end - range.start)
            .and_then(|()| device.sync_data())
            .map_err(ImageError::io(device.path(), "clear its metadata"))?;
    }
    Ok(())
}
