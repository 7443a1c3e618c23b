//! Changes of the image's own data, on their way through the decisions about space, and what the disk does there by
//! itself: fills, reservations, and giving back what they took too much.
//!
//! A crash at any moment leaves nothing to repair. All of it happens in blocks whose bits are not set, so that nobody
//! reads them from this file, and that no change under way touches; a change that comes meanwhile is held back until it is
//! over.

use dscow::engine::{Engine, OpId, Token};
use dscow::units::DiskRange;
use rustc_hash::FxHashMap;
use slab::Slab;

use super::{Disk, in_memory};
use crate::buffer::{AlignedBuf, Buffer};
use crate::executor::{Executor, IoError, Op};
use crate::space::{Space, Surroundings, Verdict};

/// Marks the keys of the disk's own operations. The engine's are small numbers.
const OWN: usize = 1 << 31;

/// Ranges given back at a time.
const GIVE_BACK_MAX: usize = 32;

/// A change of the image's own data that the engine has asked for.
pub(super) struct Change {
    pub(super) op: OpId,
    pub(super) range: DiskRange,
    pub(super) io: Op,
}

/// What is under way for the sake of space.
pub(super) struct Changes {
    pub(super) space: Space<Change>,
    /// Writes that were made larger.
    fills: FxHashMap<OpId, Fill>,
    own: Slab<Own>,
    /// Strides to be given back, the next one last.
    loans: Vec<DiskRange>,
    /// The close that waits until all is given back.
    closing: Option<Token>,
    /// Bytes that are written around a write that is made larger.
    zeros: Option<Buffer>,
}

struct Fill {
    range: DiskRange,
    /// The write as the engine asked for it, in case that there is no room for more.
    plain: Op,
}

/// An operation that the engine knows nothing of.
#[derive(Clone, Copy)]
enum Own {
    Reserve,
    GiveBack(DiskRange),
}

impl Changes {
    pub(super) fn new(space: Space<Change>) -> Self {
        Self {
            space,
            fills: FxHashMap::default(),
            own: Slab::new(),
            loans: Vec::new(),
            closing: None,
            zeros: None,
        }
    }
}

impl Disk {
    /// Performs a change, or holds it back for a moment.
    pub(super) fn start_change(&mut self, executor: &mut dyn Executor, mut change: Change) {
        if let Op::Write { takes_storage, .. } = &mut change.io {
            *takes_storage = self.engine.is_first_write(change.range)
                && !self.changes.space.is_prepared(change.range);
        }
        let space = &mut self.changes.space;
        let verdict = match change.io {
            Op::Write { .. } => space.admit_write(change.range, &self.engine),
            _ => space.admit_other(change.range),
        };
        match verdict {
            Verdict::Go => executor.submit(self.number.key(change.op), change.io),
            Verdict::Wait => self.changes.space.hold(change.range, change),
            Verdict::Reserve(range) => {
                executor.submit(self.number.key(change.op), change.io);
                let (offset, len) = self.place_of(range);
                let file = self.slots[0];
                self.start_own(executor, Own::Reserve, Op::Reserve { file, offset, len });
            }
            Verdict::Fill(range) => self.fill(executor, change, range),
        }
    }

    /// Writes zeros around a write, so that `range` is written in all.
    fn fill(&mut self, executor: &mut dyn Executor, change: Change, range: DiskRange) {
        let Op::Write { file, buffer, .. } = &change.io else {
            unreachable!("only writes are made larger")
        };
        let stride = in_memory(self.changes.space.stride());
        let zeros = self
            .changes
            .zeros
            .get_or_insert_with(|| AlignedBuf::zeroed(stride).into_buffer());
        let before = in_memory(change.range.start.0 - range.start.0);
        let after = in_memory(range.end() - change.range.end());
        let parts = [
            zeros.slice(0, before),
            buffer.clone(),
            zeros.slice(0, after),
        ];
        let io = Op::Write {
            file: *file,
            offset: self.place_of(range).0,
            buffer: Buffer::concat(parts),
            takes_storage: true,
        };
        let plain = change.io;
        self.changes.fills.insert(change.op, Fill { range, plain });
        executor.submit(self.number.key(change.op), io);
    }

    /// Looks at a finished operation before the engine does. Returns what the engine is to be told, if anything.
    pub(super) fn after_change(
        &mut self,
        executor: &mut dyn Executor,
        op: OpId,
        result: Result<(), IoError>,
    ) -> Option<Result<(), IoError>> {
        if op.as_usize() & OWN != 0 {
            let own = self.changes.own.remove(op.as_usize() & !OWN);
            self.own_done(executor, own, &result);
            return None;
        }
        if let Some(Fill { range, plain }) = self.changes.fills.remove(&op) {
            let held = self.changes.space.over(range);
            let filled = result.is_ok();
            if !filled {
                self.changes.space.take_no_more();
                executor.submit(self.number.key(op), plain);
            }
            self.start_held(executor, held);
            return filled.then_some(result);
        }
        let out_of_space = result.as_ref().is_err_and(IoError::is_no_space);
        if out_of_space && self.changes.space.has_loans() && self.engine.postpone(op) {
            self.changes.space.take_no_more();
            self.begin_give_back(executor);
            return None;
        }
        Some(result)
    }

    fn start_held(&mut self, executor: &mut dyn Executor, held: Vec<Change>) {
        for change in held {
            self.start_change(executor, change);
        }
    }

    /// Gives back what was taken and not used, and closes the image when that is done.
    pub(super) fn close_when_given_back(&mut self, executor: &mut dyn Executor, token: Token) {
        self.changes.closing = Some(token);
        self.begin_give_back(executor);
    }

    fn begin_give_back(&mut self, executor: &mut dyn Executor) {
        let mut loans = self.changes.space.take_loans(self.engine.disk_end());
        loans.reverse();
        self.changes.loans.append(&mut loans);
        self.give_back(executor);
    }

    /// Goes on with giving back, and does what waits for its end.
    fn give_back(&mut self, executor: &mut dyn Executor) {
        // A reservation must not come after what gives back the same stride.
        let reserving = self
            .changes
            .own
            .iter()
            .any(|(_, own)| matches!(own, Own::Reserve));
        while !reserving && self.changes.own.len() < GIVE_BACK_MAX {
            let Some(stride) = self.changes.loans.pop() else {
                break;
            };
            for range in self.engine.unused_within(stride) {
                if !self.changes.space.begin_give_back(range) {
                    continue;
                }
                let (offset, len) = self.place_of(range);
                let file = self.slots[0];
                self.start_own(
                    executor,
                    Own::GiveBack(range),
                    Op::ZeroRange { file, offset, len },
                );
            }
        }
        if self.changes.own.is_empty() && self.changes.loans.is_empty() {
            self.given_back();
        }
    }

    fn given_back(&mut self) {
        self.engine.retry_stalled();
        if let Some(token) = self.changes.closing.take() {
            self.engine.close(token);
        }
    }

    fn start_own(&mut self, executor: &mut dyn Executor, own: Own, io: Op) {
        let op = OpId::from_usize(OWN | self.changes.own.insert(own));
        executor.submit(self.number.key(op), io);
    }

    fn own_done(&mut self, executor: &mut dyn Executor, own: Own, result: &Result<(), IoError>) {
        if let Err(error) = result {
            tracing::info!(
                parent: &self.span,
                "{error}; no harm is done, but from now on no more storage is taken than is needed"
            );
        }
        match own {
            Own::Reserve if result.is_err() => self.changes.space.take_no_more(),
            Own::Reserve => {}
            // If it failed, more storage than is needed stays taken, and nothing else is wrong.
            Own::GiveBack(range) => {
                let held = self.changes.space.over(range);
                self.start_held(executor, held);
            }
        }
        let is_waited_for = self.changes.closing.is_some() || matches!(own, Own::GiveBack(_));
        if is_waited_for || !self.changes.loans.is_empty() {
            self.give_back(executor);
        }
    }

    /// Where a range of the disk is in the image's own file: offset and length in bytes.
    fn place_of(&self, range: DiskRange) -> (u64, u64) {
        let offset = self.engine.layout().data_position(range.start).0;
        (offset, range.len)
    }
}

impl Surroundings for Engine {
    fn disk_end(&self) -> u64 {
        let layout = self.layout();
        layout.file_len() - layout.data_offset().0
    }

    fn room(&self, write: DiskRange, bounds: DiskRange) -> Option<DiskRange> {
        self.room_around(write, bounds)
    }

    fn used(&self, range: DiskRange) -> u64 {
        self.allocated_within(range)
    }
}
