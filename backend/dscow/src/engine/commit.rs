//! Flush: making completed writes durable.
//!
//! 1. Copy the bitmap pages that have new bits. Only blocks whose data writes have *completed* have
//!    their bit set, so the copy names nothing that the next step does not cover.
//! 2. Sync the data. 3. Write the copied pages. 4. Sync again. 5. Answer.
//!
//! What breaks without the copy: a block completed between 2 and 3 would have its bit written in 3 while
//! its data is still volatile; after a power failure the block would read as whatever lay there before.
//! What breaks without 2, or with 2 and 3 swapped: the same. Without 4: the flush is answered while the
//! bits are volatile, and after a power failure the base shows through a block that was flushed.

use std::collections::BTreeSet;

use super::action::{Action, Errno, OpId, Token};
use super::{Engine, Part};
use crate::bitmap::{Bitmap, PageIndex};
use crate::layout::{BITMAP_PAGE_SIZE, Layout};
use crate::units::FileOffset;

/// Most pages in one bitmap write: 1 MiB.
const RUN_PAGES_MAX: usize = 256;

/// The state of the commit machine of an image.
#[derive(Default)]
pub(super) struct Commit {
    /// Pages with bits that are not in any commit yet.
    dirty: BTreeSet<PageIndex>,
    phase: Phase,
    /// Those who came while a commit was under way; they share the next one.
    waiting: Vec<Waiter>,
    /// The first failure. The kernel has forgotten the pages that it could not write, so a later sync
    /// that succeeds would prove nothing: every flush fails from here on.
    failed: Option<Errno>,
}

/// Who is to be told when a commit is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waiter {
    /// The request of a flush.
    Flush(Token),
    /// The barrier under way.
    Barrier,
    /// The file's new length.
    Growing,
    /// The header of a larger disk.
    Resizing,
}

#[derive(Default)]
enum Phase {
    #[default]
    Idle,
    SyncingData {
        pages: Vec<PageRun>,
        waiters: Vec<Waiter>,
    },
    WritingBitmap {
        /// Kept until all are written: one that found no space is written again as it was.
        pages: Vec<PageRun>,
        pending: usize,
        waiters: Vec<Waiter>,
    },
    SyncingBitmap {
        waiters: Vec<Waiter>,
    },
}

/// Neighbouring bitmap pages as they were when the commit began.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct PageRun {
    offset: FileOffset,
    bytes: Vec<u8>,
}

impl Commit {
    pub(super) fn mark_dirty(&mut self, page: PageIndex) {
        self.dirty.insert(page);
    }

    pub(super) fn has_uncommitted_bits(&self) -> bool {
        !self.dirty.is_empty()
    }

    pub(super) fn is_idle(&self) -> bool {
        matches!(self.phase, Phase::Idle)
    }

    /// A sync of the same file for another purpose counts as well when it fails: each failure is told only once.
    pub(super) fn note_sync(&mut self, result: Result<(), Errno>) {
        if let Err(errno) = result {
            self.failed.get_or_insert(errno);
        }
    }

    pub(super) fn failure(&self) -> Option<Errno> {
        self.failed
    }

    /// Takes the pages with new bits, copied now, neighbours together.
    fn copy_dirty_pages(&mut self, layout: &Layout, bitmap: &Bitmap) -> Vec<PageRun> {
        let mut runs: Vec<PageRun> = Vec::new();
        for page in std::mem::take(&mut self.dirty) {
            let offset = layout.bitmap_offset().0 + page.0 * BITMAP_PAGE_SIZE;
            let bytes = bitmap.page(page);
            match runs.last_mut() {
                Some(run) if run.can_take(offset) => run.bytes.extend_from_slice(bytes),
                _ => runs.push(PageRun {
                    offset: FileOffset(offset),
                    bytes: bytes.to_vec(),
                }),
            }
        }
        runs
    }
}

impl PageRun {
    fn can_take(&self, offset: u64) -> bool {
        let len = self.bytes.len();
        self.offset.0 + len as u64 == offset && len < RUN_PAGES_MAX * 4096
    }
}

impl Engine {
    /// A flush: joins the next commit, which starts now if none is under way.
    pub(super) fn flush(&mut self, token: Token) {
        self.commit_for(Waiter::Flush(token));
    }

    pub(super) fn commit_for(&mut self, waiter: Waiter) {
        if let Some(errno) = self.commit.failed {
            self.committed(waiter, Err(errno));
            return;
        }
        self.commit.waiting.push(waiter);
        if self.commit.is_idle() {
            self.start_commit();
        }
    }

    /// Commits new bits although nobody asked. Call it about once a second: it bounds what a crash of
    /// the host can take from a guest that never flushes.
    pub fn commit_idle(&mut self) {
        if self.commit.is_idle() && self.commit.failed.is_none() && self.has_uncommitted_bits() {
            self.start_commit();
        }
    }

    pub(super) fn start_commit(&mut self) {
        let waiters = std::mem::take(&mut self.commit.waiting);
        let pages = self.commit.copy_dirty_pages(&self.layout, &self.bitmap);
        self.commit.phase = Phase::SyncingData { pages, waiters };
        self.stats.commits += 1;
        let op = self.new_op(Part::CommitSync);
        self.push(Action::Sync { op });
    }

    /// One sync or bitmap write of the commit is done.
    pub(super) fn commit_step(&mut self, result: Result<(), Errno>) {
        if let Err(errno) = result {
            self.commit.failed.get_or_insert(errno);
        }
        let finished = match std::mem::take(&mut self.commit.phase) {
            Phase::Idle => unreachable!("a commit step completes only while a commit is under way"),
            Phase::SyncingData { pages, waiters } => self.data_is_durable(pages, waiters),
            Phase::WritingBitmap {
                pages,
                pending,
                waiters,
            } => self.bitmap_write_done(pages, pending, waiters),
            Phase::SyncingBitmap { waiters } => Some(waiters),
        };
        if let Some(waiters) = finished {
            self.commit_done(waiters);
        }
    }

    fn data_is_durable(
        &mut self,
        pages: Vec<PageRun>,
        waiters: Vec<Waiter>,
    ) -> Option<Vec<Waiter>> {
        // With no new bits the sync was all there is to do. After a failed sync the data may be lost, so
        // the bits that point to it must not reach the disk.
        if pages.is_empty() || self.commit.failed.is_some() {
            return Some(waiters);
        }
        let pending = pages.len();
        self.commit.phase = Phase::WritingBitmap {
            pages,
            pending,
            waiters,
        };
        for run in 0..pending {
            self.start_io(Part::BitmapWrite { run });
        }
        None
    }

    /// The action that writes a run of copied pages.
    pub(super) fn write_of_bitmap(&self, op: OpId, run: usize) -> Action {
        let Phase::WritingBitmap { pages, .. } = &self.commit.phase else {
            unreachable!("the bitmap is written only in its phase of a commit")
        };
        let PageRun { offset, bytes } = &pages[run];
        Action::WriteBitmap {
            op,
            offset: *offset,
            bytes: bytes.clone(),
        }
    }

    fn bitmap_write_done(
        &mut self,
        pages: Vec<PageRun>,
        pending: usize,
        waiters: Vec<Waiter>,
    ) -> Option<Vec<Waiter>> {
        if pending > 1 {
            self.commit.phase = Phase::WritingBitmap {
                pages,
                pending: pending - 1,
                waiters,
            };
            return None;
        }
        if self.commit.failed.is_some() {
            return Some(waiters);
        }
        self.commit.phase = Phase::SyncingBitmap { waiters };
        let op = self.new_op(Part::CommitSync);
        self.push(Action::Sync { op });
        None
    }

    fn commit_done(&mut self, waiters: Vec<Waiter>) {
        let result = self.commit.failed.map_or(Ok(()), Err);
        for waiter in waiters {
            self.committed(waiter, result);
        }
        if let Some(errno) = self.commit.failed {
            for waiter in std::mem::take(&mut self.commit.waiting) {
                self.committed(waiter, Err(errno));
            }
        }
        // Who was told may have started the next one already.
        if !self.commit.is_idle() {
            return;
        }
        if self.commit.waiting.is_empty() {
            self.close_after_commit();
        } else {
            self.start_commit();
        }
    }

    fn committed(&mut self, waiter: Waiter, result: Result<(), Errno>) {
        match waiter {
            Waiter::Flush(token) => self.finish(token, result),
            Waiter::Barrier => self.barrier_step(result),
            Waiter::Growing => self.length_synced(result),
            Waiter::Resizing => self.header_synced(result),
        }
    }
}
