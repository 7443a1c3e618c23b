//! A run: requests, faults, growing, death and reopening as a script decides, against the model.

mod answers;
mod life;
mod requests;

use std::collections::BTreeMap;

use dscow::engine::{Errno, Token};

use crate::model::{ChangeId, Model, Sectors, Time};
use crate::script::Script;
use crate::world::{Answer, Fate, Nudge, Order, Setting, World, trace};

pub(crate) use life::opened_as;

/// Longer scripts show nothing that several shorter ones do not.
const STEPS_MAX: u32 = 400;

/// Most sectors of a request.
const REQUEST_SECTORS_MAX: u64 = 40;

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

    fn apply_nudge(&mut self, nudge: Nudge) {
        if matches!(nudge, Nudge::FailStalled) {
            self.given_up = Some(self.now);
        }
        trace!(self, "{nudge:?}");
        self.world.nudge(nudge);
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
