//! A host that has run out of space: what could not be written waits, and is tried again.
//!
//! Nothing is answered with an error and nothing is lost: the request stays under way with all that it holds, its
//! claims among it. Reads and what needs no space go on. The driver tries again every now and then.

use super::action::{Action, Errno, OpId};
use super::{Engine, OnNoSpace, Part};

impl Engine {
    /// How many writes wait for space on the host.
    pub fn stalled(&self) -> usize {
        self.stalled.len()
    }

    /// Tries again what waits for space. Call it about once a second while [`Engine::stalled`] is not 0.
    pub fn retry_stalled(&mut self) {
        for op in std::mem::take(&mut self.stalled) {
            let action = self.action_of(op);
            self.push(action);
        }
    }

    /// What is done when the host has run out of space.
    pub fn on_no_space(&self) -> OnNoSpace {
        self.options.on_no_space
    }

    /// Changes what is done when the host has run out of space. What waits already is tried again, and fails if it finds none
    /// and is not to wait.
    pub fn set_on_no_space(&mut self, on_no_space: OnNoSpace) {
        self.options.on_no_space = on_no_space;
        self.retry_stalled();
    }

    /// Instead of [`Engine::complete`]: the action `op` found no space, and the driver is about to make some. It waits
    /// until [`Engine::retry_stalled`], whatever the image's policy is. Tells whether `op` is an action that can wait; if
    /// not, nothing has happened.
    pub fn postpone(&mut self, op: OpId) -> bool {
        let can_wait = self.parts[op.0].takes_space();
        if can_wait {
            self.stalled.push(op);
        }
        can_wait
    }

    /// Gives up what waits for space: it fails with `ENOSPC`. For a guest that is gone, or an operator who is not
    /// willing to wait.
    pub fn fail_stalled(&mut self) {
        for op in std::mem::take(&mut self.stalled) {
            self.completed(op, Err(Errno::ENOSPC));
        }
    }

    /// Whether the action `op`, which ended with `result`, is to wait for space.
    pub(super) fn stalls(&self, op: OpId, result: Result<(), Errno>) -> bool {
        self.options.on_no_space == OnNoSpace::Pause
            && result.is_err_and(Errno::is_no_space)
            && self.parts[op.0].takes_space()
    }

    pub(super) fn stall(&mut self, op: OpId) {
        self.stalled.push(op);
        self.stats.stalls += 1;
    }

    /// Starts a part that writes to the image's file, in a way that can be repeated.
    pub(super) fn start_io(&mut self, part: Part) {
        let op = self.new_op(part);
        let action = self.action_of(op);
        self.push(action);
    }

    fn action_of(&mut self, op: OpId) -> Action {
        match self.parts[op.0] {
            Part::WriteData { job, range } => self.write_of(op, job, range),
            Part::ZeroData { range, .. } => Action::ZeroData {
                op,
                offset: self.layout.data_position(range.start),
                len: range.len,
            },
            Part::MergeWrite { job, index } => self.write_of_merge(op, job, index),
            Part::BitmapWrite { run } => self.write_of_bitmap(op, run),
            other => unreachable!("{other:?} takes no space"),
        }
    }
}

impl Part {
    /// Whether it writes where nothing may have been written before. A sync does not: when it fails, data is lost
    /// already.
    fn takes_space(self) -> bool {
        matches!(
            self,
            Self::WriteData { .. }
                | Self::ZeroData { .. }
                | Self::MergeWrite { .. }
                | Self::BitmapWrite { .. }
        )
    }
}

impl Errno {
    /// Whether it says that the host has run out of space or of quota, which room given later cures.
    pub fn is_no_space(self) -> bool {
        matches!(self, Self::ENOSPC | Self::EDQUOT)
    }
}
