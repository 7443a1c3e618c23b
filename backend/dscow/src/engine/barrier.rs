//! Barrier writes: all that came before is durable before the barrier is written, and the barrier is durable before
//! anything that came later is begun.
//!
//! 1. Requests that come from now on are held back. 2. Those under way are waited for. 3. They are committed. 4. The
//!    barrier's own bytes are written. 5. They are committed. 6. The barrier is answered, and what was held back
//!    begins.
//!
//! What breaks without 3: after a power failure the barrier's bytes may be there and those of an earlier write not.
//! Without 1: the same for the barrier and a later write.

use std::collections::VecDeque;

use super::action::{Errno, Token};
use super::commit::Waiter;
use super::{Admitted, Engine};
use crate::units::DiskRange;

/// The barrier under way, if any, and what it holds back.
#[derive(Default)]
pub(super) struct Barriers {
    current: Option<Barrier>,
    held: VecDeque<(Token, Admitted)>,
}

struct Barrier {
    token: Token,
    /// What the barrier writes; may be empty.
    range: DiskRange,
    step: Step,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Draining,
    CommittingBefore,
    Writing,
    CommittingOwn,
}

impl Barriers {
    pub(super) fn is_active(&self) -> bool {
        self.current.is_some()
    }

    pub(super) fn hold(&mut self, token: Token, request: Admitted) {
        self.held.push_back((token, request));
    }
}

impl Engine {
    pub(super) fn barrier(&mut self, token: Token, range: DiskRange) {
        self.barriers.current = Some(Barrier {
            token,
            range,
            step: Step::Draining,
        });
        self.job_ended();
    }

    /// A read or a change may have ended: if a barrier waited for the last, it goes on.
    pub(super) fn job_ended(&mut self) {
        if self.jobs.is_empty()
            && let Some(barrier) = &mut self.barriers.current
            && barrier.step == Step::Draining
        {
            barrier.step = Step::CommittingBefore;
            self.commit_for(Waiter::Barrier);
        }
    }

    /// A change is carried out, or failed.
    pub(super) fn change_done(&mut self, token: Token, result: Result<(), Errno>) {
        match &self.barriers.current {
            Some(barrier) if barrier.token == token && barrier.step == Step::Writing => {
                self.barrier_step(result);
            }
            _ => self.finish(token, result),
        }
    }

    /// The step of the barrier that is under way has ended.
    pub(super) fn barrier_step(&mut self, result: Result<(), Errno>) {
        let Some(barrier) = &mut self.barriers.current else {
            unreachable!("a step belongs to the barrier under way")
        };
        let (token, range) = (barrier.token, barrier.range);
        match barrier.step {
            Step::CommittingBefore if result.is_ok() && range.len > 0 => {
                barrier.step = Step::Writing;
                self.write(token, range, &[]);
            }
            Step::Writing if result.is_ok() => {
                barrier.step = Step::CommittingOwn;
                self.commit_for(Waiter::Barrier);
            }
            _ => {
                self.barriers.current = None;
                self.finish(token, result);
                self.release_held();
            }
        }
    }

    fn release_held(&mut self) {
        while !self.barriers.is_active()
            && let Some((token, request)) = self.barriers.held.pop_front()
        {
            self.start(token, request);
        }
    }
}
