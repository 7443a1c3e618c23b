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

use super::action::{Action, Errno, Token};
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
    /// Flushes that came while a commit was under way; they share the next one.
    waiting: Vec<Token>,
    /// The first failure. The kernel has forgotten the pages that it could not write, so a later sync
    /// that succeeds would prove nothing: every flush fails from here on.
    failed: Option<Errno>,
}

#[derive(Default)]
enum Phase {
    #[default]
    Idle,
    SyncingData {
        pages: Vec<PageRun>,
        tokens: Vec<Token>,
    },
    WritingBitmap {
        pending: usize,
        tokens: Vec<Token>,
    },
    SyncingBitmap {
        tokens: Vec<Token>,
    },
}

/// Neighbouring bitmap pages as they were when the commit began.
#[derive(Debug, PartialEq, Eq)]
struct PageRun {
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
        if let Some(errno) = self.commit.failed {
            self.finish(token, Err(errno));
            return;
        }
        self.commit.waiting.push(token);
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
        let tokens = std::mem::take(&mut self.commit.waiting);
        let pages = self.commit.copy_dirty_pages(&self.layout, &self.bitmap);
        self.commit.phase = Phase::SyncingData { pages, tokens };
        self.stats.commits += 1;
        let op = self.new_op(Part::Commit);
        self.push(Action::Sync { op });
    }

    /// One sync or bitmap write of the commit is done.
    pub(super) fn commit_step(&mut self, result: Result<(), Errno>) {
        if let Err(errno) = result {
            self.commit.failed.get_or_insert(errno);
        }
        let finished = match std::mem::take(&mut self.commit.phase) {
            Phase::Idle => unreachable!("a commit step completes only while a commit is under way"),
            Phase::SyncingData { pages, tokens } => self.data_is_durable(pages, tokens),
            Phase::WritingBitmap { pending, tokens } => self.bitmap_write_done(pending, tokens),
            Phase::SyncingBitmap { tokens } => Some(tokens),
        };
        if let Some(tokens) = finished {
            self.commit_done(tokens);
        }
    }

    fn data_is_durable(&mut self, pages: Vec<PageRun>, tokens: Vec<Token>) -> Option<Vec<Token>> {
        // With no new bits the sync was all there is to do. After a failed sync the data may be lost, so
        // the bits that point to it must not reach the disk.
        if pages.is_empty() || self.commit.failed.is_some() {
            return Some(tokens);
        }
        let pending = pages.len();
        self.commit.phase = Phase::WritingBitmap { pending, tokens };
        for PageRun { offset, bytes } in pages {
            let op = self.new_op(Part::Commit);
            self.push(Action::WriteBitmap { op, offset, bytes });
        }
        None
    }

    fn bitmap_write_done(&mut self, pending: usize, tokens: Vec<Token>) -> Option<Vec<Token>> {
        if pending > 1 {
            let pending = pending - 1;
            self.commit.phase = Phase::WritingBitmap { pending, tokens };
            return None;
        }
        if self.commit.failed.is_some() {
            return Some(tokens);
        }
        self.commit.phase = Phase::SyncingBitmap { tokens };
        let op = self.new_op(Part::Commit);
        self.push(Action::Sync { op });
        None
    }

    fn commit_done(&mut self, tokens: Vec<Token>) {
        let result = self.commit.failed.map_or(Ok(()), Err);
        for token in tokens {
            self.finish(token, result);
        }
        if let Some(errno) = self.commit.failed {
            for token in std::mem::take(&mut self.commit.waiting) {
                self.finish(token, Err(errno));
            }
        }
        if !self.commit.waiting.is_empty() {
            self.start_commit();
        } else {
            self.close_after_commit();
        }
    }
}
