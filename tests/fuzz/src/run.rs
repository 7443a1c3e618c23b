//! A run: requests, faults, growing, death and reopening as a script decides, against the model.

use std::collections::BTreeMap;

use dscow::engine::{Errno, Mode, OnNoSpace, Request, Token};
use dscow::units::DiskRange;
use uuid::Uuid;

use crate::model::{ChangeId, Model, Sectors, Time};
use crate::script::Script;
use crate::stamp::{self, SECTOR, in_bytes};
use crate::world::{Answer, Fate, Nudge, Order, Setting, World, trace};

/// Longer scripts show nothing that several shorter ones do not.
const STEPS_MAX: u32 = 400;

/// Most sectors of a request.
const REQUEST_SECTORS_MAX: u64 = 40;

/// Most sectors of a disk that has grown.
const SECTORS_MAX: u64 = 256;

/// How often what has found no space is tried again before it is given up.
const RETRIES_MAX: u32 = 3;

const EIO: i32 = 5;
const EAGAIN: i32 = 11;
const EINTR: i32 = 4;
const EOPNOTSUPP: i32 = 95;

/// What is decided beforehand, and not by the script.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Plan {
    /// The fate of one step of those that would have been done, and which it is, counted from 0.
    pub(crate) fault: Option<(u32, Fate)>,
    /// When the script has nothing to say any more, what came last is done first.
    pub(crate) last_first: bool,
}

/// See the module.
pub(crate) struct Run<'s, W> {
    pub(crate) world: W,
    script: Script<'s>,
    plan: Plan,
    /// Steps that were done, as far as the plan counts them.
    steps_done: u32,
    setting: Setting,
    model: Model,
    orders: BTreeMap<u64, Placed>,
    /// Answers to orders that are nobody's business but whose who gave them: opening, closing, reading everything.
    answered: BTreeMap<u64, Answer>,
    tokens: u64,
    now: Time,
    /// When something failed last that may make a request fail.
    fault: Option<Time>,
    /// When what waited for space was last given up.
    given_up: Option<Time>,
    /// Sizes in sectors that the disk was to be grown to, which failed.
    failed_growths: Vec<u64>,
    /// Whether to tell people what happens.
    traced: bool,
}

/// An order that was not answered yet.
struct Placed {
    begin: Time,
    kind: Kind,
}

enum Kind {
    Read {
        first: u64,
    },
    Change {
        changes: Vec<ChangeId>,
        /// Those that may not be made although it ends well.
        perhaps: Vec<ChangeId>,
        barrier: bool,
    },
    Flush,
    Grow {
        sectors: u64,
    },
    /// It must be refused with this.
    Invalid(Errno),
    Own,
}

impl<'s, W: World> Run<'s, W> {
    pub(crate) fn new(
        world: W,
        initial: Vec<u8>,
        setting: Setting,
        script: Script<'s>,
        plan: Plan,
    ) -> Self {
        let mut run = Self {
            world,
            script,
            plan,
            steps_done: 0,
            setting,
            model: Model::new(initial),
            orders: BTreeMap::new(),
            answered: BTreeMap::new(),
            tokens: 0,
            now: 0,
            fault: None,
            given_up: None,
            failed_growths: Vec::new(),
            traced: std::env::var_os("FUZZ_TRACE").is_some(),
        };
        let size = run.model.size();
        trace!(run, "a disk of {size} sectors, {setting:?}");
        run.open();
        run
    }

    /// All of it. Returns how many steps the plan could have had a fate for.
    pub(crate) fn run(mut self) -> u32 {
        for _ in 0..STEPS_MAX {
            if self.script.is_over() {
                break;
            }
            self.now += 1;
            self.step();
            self.settle();
        }
        // Everything that was asked for ends, and the image is closed and opened once more.
        self.close_and_reopen();
        self.drain();
        self.steps_done
    }

    fn step(&mut self) {
        match self.script.byte() % 32 {
            0..=5 => self.write(),
            6 => self.barrier(),
            7..=8 => self.sparse_write(),
            9 => self.write_zeroes(),
            10 => self.discard(),
            11..=13 => self.read(),
            14 => self.flush(),
            15..=21 => self.advance(Fate::Done),
            22..=24 => {
                let part = self.script.byte();
                self.advance(Fate::Part(part));
            }
            25 => {
                let errno = if self.script.one_in(2) { EINTR } else { EAGAIN };
                self.advance(Fate::Again(errno));
            }
            26..=27 => {
                let fate = failure(&mut self.script);
                self.advance(fate);
            }
            28 => self.nudge(),
            29 => self.grow(),
            30 => self.close_and_reopen(),
            _ => self.die(),
        }
    }

    fn advance(&mut self, fate: Fate) {
        if self.world.waiting() > 0 {
            let index = self.script.index(self.world.waiting());
            self.apply(index, fate);
        }
    }

    /// A step goes as `fate` says, or as the plan does.
    fn apply(&mut self, index: usize, fate: Fate) {
        let mut fate = fate;
        if fate == Fate::Done {
            if let Some((step, planned)) = self.plan.fault
                && step == self.steps_done
            {
                fate = planned;
            }
            self.steps_done += 1;
        }
        self.apply_now(index, fate);
    }

    fn apply_now(&mut self, index: usize, fate: Fate) {
        if !fate.is_harmless() {
            self.fault = Some(self.now);
        }
        trace!(self, "{fate:?}: {}", self.world.describe(index));
        self.world.advance(index, fate);
    }

    /// A range of the disk, mostly a valid one.
    fn range(&mut self) -> Sectors {
        let size = self.model.size();
        let start = self.script.below(size);
        let len = 1 + self.script.below(REQUEST_SECTORS_MAX);
        Sectors {
            start,
            end: (start + len).min(size),
        }
    }

    /// Places an order.
    fn order(&mut self, kind: Kind, order: Order) -> u64 {
        let token = self.next_token();
        let begin = self.now;
        trace!(self, "{token}: {order}");
        self.orders.insert(token, Placed { begin, kind });
        self.world.order(Token(token), order);
        token
    }

    fn next_token(&mut self) -> u64 {
        self.tokens += 1;
        self.tokens
    }

    /// The stamp of the order that is placed next.
    fn next_stamp(&self) -> u64 {
        self.tokens + 1
    }

    fn write(&mut self) {
        let range = self.range();
        let data = stamp::sectors(self.next_stamp(), range.start, range.end - range.start);
        let kind = self.change(&[(range, Some(self.next_stamp()))], false);
        self.order(kind, Order::Request(Request::Write(bytes_of(range)), data));
    }

    fn barrier(&mut self) {
        if self.script.one_in(4) {
            let kind = self.change(&[], true);
            let request = Request::Barrier(DiskRange::new(0, 0));
            self.order(kind, Order::Request(request, Vec::new()));
            return;
        }
        let range = self.range();
        let data = stamp::sectors(self.next_stamp(), range.start, range.end - range.start);
        let kind = self.change(&[(range, Some(self.next_stamp()))], true);
        self.order(
            kind,
            Order::Request(Request::Barrier(bytes_of(range)), data),
        );
    }

    fn change(&mut self, parts: &[(Sectors, Option<u64>)], barrier: bool) -> Kind {
        if self.setting.mode == Mode::ReadOnly && !parts.is_empty() {
            return Kind::Invalid(Errno::EROFS);
        }
        Kind::Change {
            changes: self.begin(parts),
            perhaps: Vec::new(),
            barrier,
        }
    }

    fn begin(&mut self, parts: &[(Sectors, Option<u64>)]) -> Vec<ChangeId> {
        let begin =
            |(range, stamp): &(Sectors, Option<u64>)| self.model.begin(*range, *stamp, self.now);
        parts.iter().map(begin).collect()
    }

    /// Three parts, of each of which the whole blocks may be zeros.
    fn sparse_write(&mut self) {
        let range = self.range();
        let stamp = self.next_stamp();
        let mut data = stamp::sectors(stamp, range.start, range.end - range.start);
        let zero_parts = self.script.byte();
        let (mut parts, mut zeros) = (Vec::new(), Vec::new());
        let (mut at, mut written_to) = (range.start, range.start);
        for part in 0..3 {
            let end = range.start + (range.end - range.start) * (part + 1) / 3;
            let blocks = self.whole_blocks(Sectors { start: at, end });
            if zero_parts >> part & 1 == 1
                && let Some(blocks) = blocks
            {
                let place = |sector| in_bytes(sector - range.start);
                data[place(blocks.start)..place(blocks.end)].fill(0);
                let start = written_to;
                parts.push((
                    Sectors {
                        start,
                        end: blocks.start,
                    },
                    Some(stamp),
                ));
                parts.push((blocks, None));
                zeros.push(bytes_of(blocks));
                written_to = blocks.end;
            }
            at = end;
        }
        parts.push((
            Sectors {
                start: written_to,
                end: range.end,
            },
            Some(stamp),
        ));
        let kind = self.change(&parts, false);
        let range = bytes_of(range);
        self.order(kind, Order::SparseWrite { range, zeros, data });
    }

    /// The sectors of the whole blocks in a range; the last block is whole up to the end of the disk.
    fn whole_blocks(&self, range: Sectors) -> Option<Sectors> {
        let block = self.sectors_per_block();
        let start = range.start.next_multiple_of(block);
        let end = match range.end {
            // Growing may be in force before it is answered.
            end if end * SECTOR as u64 == self.world.engine().layout().virtual_size() => end,
            end => end - end % block,
        };
        (start < end).then_some(Sectors { start, end })
    }

    fn sectors_per_block(&self) -> u64 {
        self.world.engine().layout().block_size().bytes() / SECTOR as u64
    }

    fn write_zeroes(&mut self) {
        let range = self.range();
        let kind = self.change(&[(range, None)], false);
        let request = Request::WriteZeroes(bytes_of(range));
        self.order(kind, Order::Request(request, Vec::new()));
    }

    fn discard(&mut self) {
        let range = self.range();
        let block = self.sectors_per_block();
        let (mut surely, mut perhaps) = (Vec::new(), Vec::new());
        if let Some(whole) = self.whole_blocks(range) {
            // A last block that the end of the disk cuts off is not whole any more when the disk has grown before the
            // discard begins.
            let split = whole.end - whole.end % block;
            let tail = Sectors {
                start: split.max(whole.start),
                end: whole.end,
            };
            let end = tail.start;
            surely.push((Sectors { end, ..whole }, None));
            match self.may_grow_first() {
                true => perhaps.push((tail, None)),
                false => surely.push((tail, None)),
            }
        }
        let kind = match self.change(&surely, false) {
            _ if self.setting.mode == Mode::ReadOnly => Kind::Invalid(Errno::EROFS),
            Kind::Change { changes, .. } => {
                let perhaps = self.begin(&perhaps);
                Kind::Change {
                    changes,
                    perhaps,
                    barrier: false,
                }
            }
            other => other,
        };
        let request = Request::Discard(bytes_of(range));
        self.order(kind, Order::Request(request, Vec::new()));
    }

    /// Whether the disk may grow before an order that is placed now begins.
    fn may_grow_first(&self) -> bool {
        self.orders.values().any(|placed| match placed.kind {
            Kind::Grow { .. } => true,
            Kind::Change { barrier, .. } => barrier,
            _ => false,
        })
    }

    fn read(&mut self) {
        if self.script.one_in(8) {
            return self.read_outside();
        }
        let range = self.range();
        // What the memory holds before must not matter.
        let data = vec![0xee; in_bytes(range.end - range.start)];
        let kind = Kind::Read { first: range.start };
        self.order(kind, Order::Request(Request::Read(bytes_of(range)), data));
    }

    /// Ranges that are not of the disk, or not in sectors.
    fn read_outside(&mut self) {
        let size = self.world.engine().layout().virtual_size();
        let range = match self.script.byte() % 5 {
            0 => DiskRange::new(0, size + 512),
            1 => DiskRange::new(size, 512),
            2 => DiskRange::new(u64::MAX - 511, 512),
            3 => DiskRange::new(256, 512),
            _ => DiskRange::new(0, 0),
        };
        let kind = Kind::Invalid(Errno::EINVAL);
        self.order(kind, Order::Request(Request::Read(range), Vec::new()));
    }

    fn flush(&mut self) {
        self.order(Kind::Flush, Order::Request(Request::Flush, Vec::new()));
    }

    fn nudge(&mut self) {
        let nudge = match self.script.byte() % 4 {
            0 | 1 => Nudge::CommitIdle,
            2 => Nudge::RetryStalled,
            _ => Nudge::FailStalled,
        };
        self.apply_nudge(nudge);
    }

    fn apply_nudge(&mut self, nudge: Nudge) {
        if matches!(nudge, Nudge::FailStalled) {
            self.given_up = Some(self.now);
        }
        trace!(self, "{nudge:?}");
        self.world.nudge(nudge);
    }

    fn grow(&mut self) {
        let size = self.model.size();
        let sectors = match self.script.byte() {
            0 => size.saturating_sub(1),
            1 => 1 << 40,
            more => (size + u64::from(more) % 64).min(SECTORS_MAX),
        };
        let possible = self
            .world
            .engine()
            .layout()
            .grown(sectors * SECTOR as u64)
            .is_ok();
        let growing = |placed: &Placed| matches!(placed.kind, Kind::Grow { .. });
        let kind = if self.setting.mode == Mode::ReadOnly {
            Kind::Invalid(Errno::EROFS)
        } else if self.orders.values().any(growing) {
            Kind::Invalid(Errno::EBUSY)
        } else if sectors < size {
            Kind::Invalid(Errno::EINVAL)
        } else if !possible {
            Kind::Invalid(Errno::EFBIG)
        } else {
            Kind::Grow { sectors }
        };
        self.order(kind, Order::Grow(sectors * SECTOR as u64));
    }

    /// Takes the answers that have come, and checks them.
    fn settle(&mut self) {
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
    fn check_failure(&self, result: Result<(), Errno>, begin: Time) {
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

    fn next_index(&mut self) -> usize {
        let waiting = self.world.waiting();
        match self.plan.last_first && self.script.is_over() {
            true => waiting - 1,
            false => self.script.index(waiting),
        }
    }

    /// Lets the world work until nothing waits any more, with faults as long as the script has some.
    fn drain(&mut self) {
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
    fn open(&mut self) {
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

    fn close_and_reopen(&mut self) {
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
    fn die(&mut self) {
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

fn failure(script: &mut Script<'_>) -> Fate {
    let errno = match script.byte() % 8 {
        0..=2 => EIO,
        3..=4 => Errno::ENOSPC.0,
        5 => Errno::EDQUOT.0,
        6 => Errno::EINVAL.0,
        _ => EOPNOTSUPP,
    };
    let landed = script.byte();
    Fate::Fails { errno, landed }
}

fn bytes_of(range: Sectors) -> DiskRange {
    let sector = SECTOR as u64;
    DiskRange::new(range.start * sector, (range.end - range.start) * sector)
}
