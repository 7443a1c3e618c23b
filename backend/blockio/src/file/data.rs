//! Reading what a sparse file holds, and nothing of what it does not.

use std::io;
use std::ops::{ControlFlow, Range};

use super::{BlockFile, ZEROS};

/// Bytes read at a time.
const PIECE_SIZE: u64 = 1 << 20;
/// What is left out if it is all zeros. A divisor of [`PIECE_SIZE`].
const PAGE_SIZE: usize = 4096;

impl BlockFile {
    /// Calls `visit` with the position and the bytes of everything in `range` that may be other than zero, in order,
    /// in pieces of at most 4096 bytes. Holes of a file are not read; of a device everything is.
    ///
    /// `visit` may break off.
    ///
    /// # Errors
    ///
    /// What the kernel says; the range must lie inside the file.
    pub fn visit_data(
        &self,
        range: Range<u64>,
        mut visit: impl FnMut(u64, &[u8]) -> ControlFlow<()>,
    ) -> io::Result<()> {
        let mut bytes = Vec::new();
        for extent in self.extents_within(range)? {
            let extent = extent?;
            let end = extent.offset + extent.len;
            let mut at = extent.offset;
            while at < end {
                let len = (PIECE_SIZE - at % PIECE_SIZE).min(end - at);
                let len_in_memory = usize::try_from(len).expect("at most a piece");
                if bytes.len() < len_in_memory {
                    bytes = vec![0; len_in_memory];
                }
                let piece = &mut bytes[..len_in_memory];
                self.read_exact_at(piece, at)?;
                if visit_pages(at, piece, &mut visit).is_break() {
                    return Ok(());
                }
                at += len;
            }
        }
        Ok(())
    }
}

fn visit_pages(
    mut at: u64,
    bytes: &[u8],
    visit: &mut impl FnMut(u64, &[u8]) -> ControlFlow<()>,
) -> ControlFlow<()> {
    for page in bytes.chunks(PAGE_SIZE) {
        if page != &ZEROS.0[..page.len()] {
            visit(at, page)?;
        }
        at += page.len() as u64;
    }
    ControlFlow::Continue(())
}
