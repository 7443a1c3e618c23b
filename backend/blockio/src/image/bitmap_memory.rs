//! Memory for the parts of a bitmap that are about to be read.

use dscow::bitmap::Bitmap;
use rustix::mm::Advice;

use crate::file::Extent;

/// What the kernel's large pages are aligned to on the machines that matter; elsewhere the advice has no effect.
const LARGE_PAGE: usize = 2 << 20;

/// Asks for large pages where the file, in `extents`, has data for at least half of one; the bitmap begins at byte
/// `start` of the file. To touch the memory of a large bitmap for the first time, 4096 bytes at a time, takes longer than
/// to read it. Where most is holes small pages are right: what stays zero then takes no memory. Only an advice: nothing
/// comes of it if it cannot be followed.
pub(super) fn prefer_large_pages(bitmap: &Bitmap, start: u64, extents: &[Extent]) {
    let bytes = bitmap.used_bytes();
    let skipped = bytes.as_ptr().align_offset(LARGE_PAGE);
    let Some(aligned) = bytes.get(skipped..) else {
        return;
    };
    let pages = aligned.chunks_exact(LARGE_PAGE);
    let shares = data_in_each(extents, start + skipped as u64, pages.len());
    for (page, data) in pages.zip(shares) {
        if data >= LARGE_PAGE as u64 / 2 {
            advise(page);
        }
    }
}

/// How many bytes of the extents lie in each of `count` large pages, the first of which is byte `start` of the file.
fn data_in_each(extents: &[Extent], start: u64, count: usize) -> Vec<u64> {
    let size = LARGE_PAGE as u64;
    let mut shares = vec![0; count];
    for extent in extents {
        let end = (extent.offset + extent.len).saturating_sub(start);
        let mut at = extent.offset.saturating_sub(start);
        while at < end {
            let page = at / size;
            let stop = end.min((page + 1) * size);
            if let Some(share) = usize::try_from(page)
                .ok()
                .and_then(|page| shares.get_mut(page))
            {
                *share += stop - at;
            }
            at = stop;
        }
    }
    shares
}

fn advise(page: &[u8]) {
    let start = page.as_ptr().cast_mut().cast();
    // SAFETY: the range is that of a slice, whose memory is allocated and stays so during the call; this advice only
    // changes what size of pages the kernel uses for it, never its content.
    let advised = unsafe { rustix::mm::madvise(start, page.len(), Advice::LinuxHugepage) };
    if let Err(cause) = advised {
        tracing::debug!("no large pages for a bitmap: {cause}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_in_each_large_page_is_added_up() {
        let size = LARGE_PAGE as u64;
        let start = 8192;
        let extent = |from: u64, to: u64| Extent {
            offset: start + from,
            len: to - from,
        };
        let extents = [
            // Begins before the first.
            Extent {
                offset: 4096,
                len: 8192,
            },
            extent(8192, 12288),
            extent(size - 4096, 2 * size + 1),
            // Ends after the last.
            extent(3 * size - 4096, 4 * size),
        ];
        assert_eq!(
            data_in_each(&extents, start, 3),
            [4096 + 4096 + 4096, size, 1 + 4096]
        );
    }
}
