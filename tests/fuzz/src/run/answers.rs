//! Answers, and what they may be.

use dscow::engine::{Errno, OnNoSpace, Token};

use super::{Kind, Placed, Run};
use crate::model::Time;
use crate::stamp::SECTOR;
use crate::world::{Answer, World, trace};

impl<W: World> Run<'_, W> {
    /// Takes the answers that have come, and checks them.
    pub(super) fn settle(&mut self) {
        for answer in self.world.take_answers() {
            let Token(token) = answer.token;
            trace!(self, "{token} ends: {:?}", answer.result);
            let placed = self.orders.remove(&token);
            let placed = placed.expect("every order is answered once");
            self.answer(token, placed, answer);
        }
    }

    fn answer(&mut self, token: u64, Placed { begin, kind }: Placed, answer: Answer) {
        let result = answer.result;
        match kind {
            Kind::Own => {
                self.answered.insert(token, answer);
            }
            Kind::Invalid(errno) => assert_eq!(result, Err(errno), "of an order that is not valid"),
            Kind::Read { first } => {
                self.check_failure(result, begin);
                if result.is_ok() {
                    self.model.check_read(first, &answer.data, begin);
                }
            }
            Kind::Change {
                changes,
                perhaps,
                barrier,
            } => {
                for change in changes {
                    self.model.end(change, result.is_ok(), self.now);
                }
                for change in perhaps {
                    self.model.end(change, false, self.now);
                }
                if barrier {
                    self.check_commit(result, begin);
                } else {
                    self.check_failure(result, begin);
                    self.check_no_space(result, begin);
                }
                if barrier && result.is_ok() {
                    self.model.barrier(begin);
                }
            }
            Kind::Flush => {
                self.check_commit(result, begin);
                if result.is_ok() {
                    self.model.flushed(begin);
                }
            }
            Kind::Grow { sectors } => {
                if result.is_err() {
                    self.check_commit(result, begin);
                }
                let size = self.world.engine().layout().virtual_size() / SECTOR as u64;
                let expected = match result {
                    Ok(()) => sectors,
                    Err(_) => self.model.size(),
                };
                assert_eq!(
                    size, expected,
                    "sectors after growing ended with {result:?}"
                );
                match result {
                    Ok(()) => self.model.grow(size),
                    Err(_) => self.failed_growths.push(sectors),
                }
            }
        }
    }

    /// A request fails only if something failed meanwhile.
    pub(super) fn check_failure(&self, result: Result<(), Errno>, begin: Time) {
        let failed = [self.fault, self.given_up]
            .into_iter()
            .flatten()
            .any(|at| at >= begin);
        assert!(
            result.is_ok() || failed,
            "{result:?}, and nothing had failed"
        );
    }

    /// What commits fails if it must, and only if something failed at some time.
    fn check_commit(&self, result: Result<(), Errno>, begin: Time) {
        if result.is_ok() {
            assert!(!self.world.is_poisoned(), "durable after a failed sync");
        } else if self.world.engine().failure().is_none() {
            self.check_failure(result, begin);
        }
    }

    /// Who is to wait for space is not told that there is none.
    fn check_no_space(&self, result: Result<(), Errno>, begin: Time) {
        let waits = self.setting.on_no_space == OnNoSpace::Pause;
        if waits && result.is_err_and(Errno::is_no_space) {
            let given_up = self.given_up.is_some_and(|at| at >= begin);
            assert!(given_up, "{result:?}, and nobody gave up waiting");
        }
    }
}
