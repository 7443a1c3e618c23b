//! Memory for the parts of a bitmap that are about to be read.

use std::ops::Range;

use dscow::bitmap::Bitmap;
use rustix::mm::Advice;

use crate::file::{BlockFile, FileKind};

/// What the kernel's large pages are aligned to on the machines that matter; elsewhere the advice has no effect.
const LARGE_PAGE: usize = 2 << 20;

/// Asks for large pages where the file has nothing but data for the bitmap in `range`. To touch the memory of a large bitmap
/// for the first time, 4096 bytes at a time, takes longer than to read it. Where there are holes small pages are right:
/// what stays zero then takes no memory. Only an advice: nothing comes of it if it cannot be followed.
pub(super) fn prefer_large_pages(file: &BlockFile, range: Range<u64>, bitmap: &Bitmap) {
    // A device says data everywhere, so it tells nothing.
    let Ok(extents) = file.extents_within(range.clone()) else {
        return;
    };
    if file.kind() == FileKind::BlockDevice {
        return;
    }
    let bytes = bitmap.used_bytes();
    for extent in extents.map_while(Result::ok) {
        let start = in_memory(extent.offset - range.start);
        let end = in_memory(extent.offset + extent.len - range.start);
        let Some(part) = bytes.get(start..end) else {
            return;
        };
        advise(part);
    }
}

fn advise(memory: &[u8]) {
    let skipped = memory.as_ptr().align_offset(LARGE_PAGE);
    let whole = memory.len().saturating_sub(skipped) / LARGE_PAGE * LARGE_PAGE;
    if whole == 0 {
        return;
    }
    let start = memory[skipped..].as_ptr().cast_mut().cast();
    // SAFETY: the range lies within `memory`, which is allocated and stays so during the call; this advice only changes
    // what size of pages the kernel uses for it, never its content.
    let advised = unsafe { rustix::mm::madvise(start, whole, Advice::LinuxHugepage) };
    if let Err(cause) = advised {
        tracing::debug!("no large pages for a bitmap: {cause}");
    }
}

fn in_memory(len: u64) -> usize {
    usize::try_from(len).expect("bitmaps are held in memory on 64-bit hosts")
}
