//! Opening, closing and dying, and letting everything come to rest.

use dscow::engine::{Mode, OnNoSpace, Request};
use dscow::units::DiskRange;
use uuid::Uuid;

use super::{Kind, Run, failure};
use crate::script::Script;
use crate::stamp::SECTOR;
use crate::world::{Answer, Fate, Nudge, Order, Setting, World, trace};

/// How often what has found no space is tried again before it is given up.
const RETRIES_MAX: u32 = 3;

impl<W: World> Run<'_, W> {
    fn next_index(&mut self) -> usize {
        let waiting = self.world.waiting();
        match self.plan.last_first && self.script.is_over() {
            true => waiting - 1,
            false => self.script.index(waiting),
        }
    }

    /// Lets the world work until nothing waits any more, with faults as long as the script has some.
    pub(super) fn drain(&mut self) {
        let mut retries = 0;
        loop {
            self.now += 1;
            if self.world.waiting() > 0 {
                let index = self.next_index();
                let fate = match self.script.byte() {
                    255 => failure(&mut self.script),
                    _ => Fate::Done,
                };
                self.apply(index, fate);
            } else if self.world.engine().stalled() > 0 {
                retries += 1;
                let gives_up = retries > RETRIES_MAX;
                self.apply_nudge(if gives_up {
                    Nudge::FailStalled
                } else {
                    Nudge::RetryStalled
                });
            } else {
                break;
            }
            self.settle();
        }
        assert!(self.orders.is_empty(), "not all orders were answered");
        self.world.check_rest();
    }

    /// Lets the world work until `token` is answered, with few faults.
    fn finish(&mut self, token: u64) -> Answer {
        let mut decisions = self.script.u16();
        self.answer_to(token, |run| {
            let fails = decisions % 8 == 7;
            decisions >>= 3;
            let fate = match fails {
                true => failure(&mut run.script),
                false => Fate::Done,
            };
            run.apply(0, fate);
        })
    }

    /// The same without any.
    fn finish_surely(&mut self, token: u64) -> Answer {
        self.answer_to(token, |run| run.apply_now(0, Fate::Done))
    }

    fn answer_to(&mut self, token: u64, mut advance: impl FnMut(&mut Self)) -> Answer {
        loop {
            self.settle();
            if let Some(answer) = self.answered.remove(&token) {
                return answer;
            }
            if self.world.waiting() == 0 {
                self.apply_nudge(Nudge::FailStalled);
            } else {
                advance(self);
            }
        }
    }

    /// Opens the image; in a process that dies if that fails.
    pub(super) fn open(&mut self) {
        let token = self.order(Kind::Own, Order::Open);
        let answer = self.finish(token);
        if answer.result.is_err() {
            self.check_failure(answer.result, self.now);
            self.world.restart(&mut self.script, self.setting);
            let token = self.order(Kind::Own, Order::Open);
            let again = self.finish_surely(token);
            assert_eq!(again.result, Ok(()), "opening without any faults");
        }
    }

    /// All that the disk shows. Nothing else may be under way.
    fn content(&mut self) -> Vec<u8> {
        let len = self.world.engine().layout().virtual_size();
        let data = vec![0xee; usize::try_from(len).expect("disks of cases are small")];
        let request = Request::Read(DiskRange::new(0, len));
        let token = self.order(Kind::Own, Order::Request(request, data));
        let answer = self.finish_surely(token);
        assert_eq!(answer.result, Ok(()), "reading without any faults");
        answer.data
    }

    /// What the disk shows when all is done; checked.
    fn settled_content(&mut self) -> Vec<u8> {
        self.drain();
        self.now += 1;
        let content = self.content();
        self.model.check_read(0, &content, self.now);
        content
    }

    pub(super) fn close_and_reopen(&mut self) {
        let content = self.settled_content();
        let token = self.order(Kind::Own, Order::Close);
        let result = self.finish(token).result;
        let is_sure = self.setting.mode == Mode::ReadOnly || !self.world.is_poisoned();
        assert!(
            result.is_err() || is_sure,
            "closed well after a failed sync"
        );
        self.restart();
        let reopened = self.content();
        if result.is_ok() {
            assert!(
                reopened == content,
                "a closed image shows something else when it is opened"
            );
        } else {
            self.adopt_size();
            self.model.check_reopened(&reopened);
        }
        self.model.restart(reopened);
    }

    /// The process dies with whatever is under way; another one opens the image.
    pub(super) fn die(&mut self) {
        for placed in self.orders.values() {
            if let Kind::Grow { sectors } = placed.kind {
                self.failed_growths.push(sectors);
            }
        }
        self.orders.clear();
        self.restart();
        self.adopt_size();
        self.now += 1;
        let content = self.content();
        self.model.check_reopened(&content);
        self.model.restart(content);
    }

    /// After the disk was opened anew: growing that had not ended well may have been done all the same.
    fn adopt_size(&mut self) {
        let size = self.world.engine().layout().virtual_size() / SECTOR as u64;
        let known = size == self.model.size() || self.failed_growths.contains(&size);
        assert!(
            known,
            "the disk has {size} sectors when it is opened anew, which nobody asked for"
        );
        self.failed_growths.clear();
        self.model.grow(size);
    }

    fn restart(&mut self) {
        self.setting = opened_as(&mut self.script);
        trace!(
            self,
            "the process dies; opened anew with {:?}", self.setting
        );
        self.world.restart(&mut self.script, self.setting);
        self.fault = None;
        self.given_up = None;
        self.open();
    }
}

/// How an image is opened this time: mostly for writing.
pub(crate) fn opened_as(script: &mut Script<'_>) -> Setting {
    let decision = script.byte();
    Setting {
        mode: match decision >> 4 {
            15 => Mode::ReadOnly,
            _ => Mode::Writable {
                owner: Uuid::from_u128(7),
            },
        },
        on_no_space: match decision & 1 {
            0 => OnNoSpace::Report,
            _ => OnNoSpace::Pause,
        },
        io_alignment: [512, 4096, 512, 1024][usize::from(decision >> 1 & 3)],
    }
}
