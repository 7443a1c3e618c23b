//! Goes once over a disk, and does with each part of it what is to be done.

use dscow::units::DiskRange;

use super::Progress;
use super::compare::{Pair, pairs};
use super::pipeline::{CHUNK, Piece, Put, Route, Seen, carry};
use super::session::Session;
use crate::image::ImageError;

/// Pairs looked at before the ranges among them are worked on.
const PAIRS: usize = 4096;

/// Bytes written between two flushes: what is flushed need not be written again after an interruption.
const FLUSH_INTERVAL: u64 = 1 << 30;

/// What is to be done with a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// Nothing.
    Skip,
    /// Read it and look at it.
    Read,
    /// Make zeros of it in what is written.
    Zeros,
}

/// What a sweep did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Swept {
    /// Bytes read (of one disk).
    pub(super) read_bytes: u64,
    /// Bytes written, as data or as zeros.
    pub(super) written_bytes: u64,
}

/// A sweep to make.
pub(super) struct Sweep<'a> {
    pub(super) route: Route,
    /// What to go over.
    pub(super) range: DiskRange,
    /// What is read is widened to whole units of so many bytes.
    pub(super) unit: u64,
    /// What to do with a range, going by who holds it.
    pub(super) choose: &'a dyn Fn(&Session, &Pair) -> Choice,
    /// What to write of what was read.
    pub(super) look: &'a mut dyn FnMut(Seen<'_>) -> Vec<Put>,
    /// Told after each part of the disk that is done with, in ascending order.
    pub(super) part_done: &'a mut dyn FnMut() -> Result<(), ImageError>,
}

impl Sweep<'_> {
    /// Makes the sweep. Everything written is still to be flushed.
    pub(super) fn run(
        mut self,
        session: &mut Session,
        progress: &mut dyn Progress,
    ) -> Result<Swept, ImageError> {
        let mut swept = Swept::default();
        let mut unflushed = 0;
        let (mut at, end) = (self.range.start.0, self.range.end());
        while at < end {
            let rest = DiskRange::new(at, end - at);
            let found = pairs(session, self.route.from, self.route.beside, rest, PAIRS)?;
            let pieces = self.pieces(session, &found);
            let last = pieces.last().map_or(at, |piece| piece.range().end());
            let until = found.last().map_or(end, |pair| pair.range.end()).max(last);
            // What was widened may reach back into what was counted before.
            let ahead = |range: DiskRange| range.end() - range.start.0.max(at);
            let busy: u64 = pieces.iter().map(|piece| ahead(piece.range())).sum();
            progress.advance(until - at - busy);
            swept.read_bytes += reads(&pieces);
            let written = self.carry(session, pieces, progress)?;
            swept.written_bytes += written;
            unflushed += written;
            if let Some(to) = self.route.to
                && unflushed >= FLUSH_INTERVAL
            {
                session.flush(to)?;
                unflushed = 0;
            }
            (self.part_done)()?;
            at = until;
        }
        Ok(swept)
    }

    fn carry(
        &mut self,
        session: &mut Session,
        pieces: Vec<Piece>,
        progress: &mut dyn Progress,
    ) -> Result<u64, ImageError> {
        let mut written = zeros(&pieces);
        carry(
            session,
            &self.route,
            CHUNK.max(self.unit),
            pieces,
            &mut |seen| {
                let puts = (self.look)(seen);
                written += puts.iter().map(|put| put.range().len).sum::<u64>();
                puts
            },
            &mut |bytes| progress.advance(bytes),
        )?;
        Ok(written)
    }

    fn pieces(&self, session: &Session, pairs: &[Pair]) -> Vec<Piece> {
        let mut pieces: Vec<Piece> = Vec::new();
        for pair in pairs {
            let (start, end) = (pair.range.start.0, pair.range.end());
            // What was widened may reach into this one.
            let done = pieces.last().map_or(0, |piece| piece.range().end());
            match (self.choose)(session, pair) {
                Choice::Skip => {}
                Choice::Zeros if done >= end => {}
                Choice::Zeros => {
                    let start = start.max(done);
                    pieces.push(Piece::Zeros(DiskRange::new(start, end - start)));
                }
                Choice::Read => {
                    let start = (start / self.unit * self.unit).max(self.range.start.0);
                    let end = end.next_multiple_of(self.unit).min(self.range.end());
                    match pieces.last_mut() {
                        Some(Piece::Read(last)) if start <= last.end() => {
                            last.len = end - last.start.0;
                        }
                        _ => pieces.push(Piece::Read(DiskRange::new(start, end - start))),
                    }
                }
            }
        }
        pieces
    }
}

fn reads(pieces: &[Piece]) -> u64 {
    let read = |piece: &Piece| match piece {
        Piece::Read(range) => range.len,
        Piece::Zeros(_) => 0,
    };
    pieces.iter().map(read).sum()
}

fn zeros(pieces: &[Piece]) -> u64 {
    pieces.iter().map(|piece| piece.range().len).sum::<u64>() - reads(pieces)
}
