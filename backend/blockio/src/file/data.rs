//! Reading what a sparse file holds, and nothing of what it does not.

use std::io;
use std::ops::{ControlFlow, Range};

use super::extents::Extent;
use super::{BlockFile, ZEROS};
use crate::buffer::AlignedBuf;

/// Bytes read at a time.
const PIECE_SIZE: u64 = 1 << 20;
/// A hole that is no longer than this is read along with the data around it: another read takes longer.
const READ_ALONG: u64 = 64 << 10;
/// What is left out if it is all zeros. A divisor of [`PIECE_SIZE`], and a multiple of what direct I/O is aligned to.
const PAGE_SIZE: usize = 4096;

impl BlockFile {
    /// Calls `visit` with the position and the bytes of everything in `range` that may be other than zero, in order,
    /// in pieces of at most 4096 bytes. Long holes of a file are not read; of a device everything is.
    ///
    /// `visit` may break off.
    ///
    /// # Errors
    ///
    /// What the kernel says; the range must lie inside the file.
    pub fn visit_data(
        &self,
        range: Range<u64>,
        visit: impl FnMut(u64, &[u8]) -> ControlFlow<()>,
    ) -> io::Result<()> {
        self.visit_data_in(self.extents_within(range)?, visit)
    }

    /// As [`BlockFile::visit_data`], for who has asked for the extents already.
    ///
    /// # Errors
    ///
    /// What the kernel says, and what the extents say; they must lie inside the file.
    pub fn visit_data_in(
        &self,
        extents: impl IntoIterator<Item = io::Result<Extent>>,
        mut visit: impl FnMut(u64, &[u8]) -> ControlFlow<()>,
    ) -> io::Result<()> {
        // One buffer for all pieces: to touch fresh memory takes longer than to read.
        let mut buffer = AlignedBuf::zeroed(0);
        let mut extents = extents.into_iter().peekable();
        while let Some(extent) = extents.next() {
            let Extent { offset, len } = extent?;
            let mut end = offset + len;
            while let Some(next) = extents.next_if(|next| is_near(end, next)) {
                let Extent { offset, len } = next?;
                end = offset + len;
            }
            let mut at = offset;
            while at < end {
                let piece = at..end.min((at / PIECE_SIZE + 1) * PIECE_SIZE);
                let bytes = self.read_piece(&mut buffer, piece.clone())?;
                if visit_pages(at, bytes, &mut visit).is_break() {
                    return Ok(());
                }
                at = piece.end;
            }
        }
        Ok(())
    }

    /// Reads a range that lies within [`PIECE_SIZE`] bytes from a multiple of it on, whole pages at a time, as direct I/O
    /// wants it.
    fn read_piece<'a>(
        &self,
        buffer: &'a mut AlignedBuf,
        piece: Range<u64>,
    ) -> io::Result<&'a [u8]> {
        let start = piece.start - piece.start % PAGE_SIZE as u64;
        let in_piece = |at: u64| usize::try_from(at - start).expect("at most a piece");
        let outer_len = in_piece(piece.end).next_multiple_of(PAGE_SIZE);
        if buffer.len() < outer_len {
            *buffer = AlignedBuf::zeroed(outer_len);
        }
        let filled = self.fill(&mut buffer.as_mut_slice()[..outer_len], start)?;
        buffer.as_slice()[..filled]
            .get(in_piece(piece.start)..in_piece(piece.end))
            .ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }
}

/// Whether the hole between `end` and the next extent is to be read along.
fn is_near(end: u64, next: &io::Result<Extent>) -> bool {
    next.as_ref()
        .is_ok_and(|next| next.offset - end <= READ_ALONG)
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
