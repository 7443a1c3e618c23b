//! The guest's side: honest about indices, or not; what it asks for may be odd in both.

use blkif::frontend::FrontRing;
use blkif::{LocalMemory, RawSlot};

use super::guest::Slot;
use super::shared::{RSP_PROD, Shared};

/// What a frontend does at once.
#[derive(Clone, Debug)]
pub(super) enum Act {
    Push(Vec<RawSlot>),
    Publish,
    PushAndPublish(Vec<RawSlot>),
    /// Takes responses, if it is awake.
    Take(u8),
    Sleep,
    /// Writes a word of the shared memory.
    Poke(usize, u32),
}

pub(super) struct Frontend {
    ring: FrontRing<LocalMemory>,
    shared: Shared,
    pub(super) is_honest: bool,
    asleep: bool,
    /// Everything that it asked for.
    pub(super) pushed: Vec<Slot>,
    /// Id and operation of each request that is not answered.
    outstanding: Vec<(u64, u8)>,
    /// Responses that it has taken.
    answered: usize,
}

impl Frontend {
    pub(super) fn new(shared: &Shared, is_honest: bool) -> Self {
        let start = shared.ledger.borrow().start;
        let ring = FrontRing::create_at(shared.memory.clone(), shared.abi, start);
        Self {
            ring: ring.expect("pages for a ring"),
            shared: shared.clone(),
            is_honest,
            asleep: false,
            pushed: Vec::new(),
            outstanding: Vec::new(),
            answered: 0,
        }
    }

    pub(super) fn act(&mut self, act: Act) {
        match act {
            Act::Push(slots) => self.push(slots),
            Act::Publish => self.publish(),
            Act::PushAndPublish(slots) => {
                self.push(slots);
                self.publish();
            }
            Act::Take(most) => self.take(most),
            Act::Sleep => self.sleep(),
            Act::Poke(at, value) => self.shared.memory.poke(at, value),
        }
    }

    fn push(&mut self, slots: Vec<RawSlot>) {
        for RawSlot(slot) in slots {
            let had_room = self.outstanding.len() < self.ring.size() as usize;
            let pushed = self.ring.push(&RawSlot(slot)).is_ok();
            if self.is_honest {
                assert_eq!(pushed, had_room, "room on the ring");
            }
            if pushed {
                let id = u64::from_le_bytes(slot[8..16].try_into().expect("eight bytes"));
                let code = if slot[0] == 6 { slot[1] } else { slot[0] };
                self.outstanding.push((id, code));
                self.pushed.push(slot);
            }
        }
    }

    fn publish(&mut self) {
        if self.ring.publish() {
            self.shared.notified.back.set(true);
        }
    }

    /// A notification wakes it.
    fn is_awake(&mut self) -> bool {
        if self.asleep && self.shared.notified.front.replace(false) {
            self.asleep = false;
        }
        !self.asleep
    }

    fn take(&mut self, most: u8) {
        if !self.is_awake() {
            return;
        }
        for _ in 0..most {
            match self.ring.take() {
                Ok(None) => return,
                Ok(Some(response)) if self.is_honest => {
                    let asked = (response.id, response.operation);
                    let asked = self.outstanding.iter().position(|found| *found == asked);
                    let asked = asked.expect("an answer to what was asked, and was not answered");
                    self.outstanding.swap_remove(asked);
                    let ledger = self.shared.ledger.borrow();
                    assert_eq!(ledger.responses[self.answered].1, response);
                    self.answered += 1;
                }
                Ok(Some(_)) => drop(self.outstanding.pop()),
                Err(error) => {
                    assert!(!self.is_honest, "{error}");
                    return;
                }
            }
        }
    }

    fn sleep(&mut self) {
        if self.is_awake() {
            match self.ring.final_check_for_responses() {
                Ok(more) => self.asleep = !more,
                Err(error) => assert!(!self.is_honest, "{error}"),
            }
        }
    }

    /// Asks for what it has to ask for, and takes what there is, until it may sleep.
    pub(super) fn settle(&mut self) {
        self.publish();
        while self.is_awake() {
            self.take(u8::MAX);
            self.sleep();
        }
    }

    /// An honest frontend does not wait for what is there.
    pub(super) fn check_wakeup(&self) {
        let ledger = self.shared.ledger.borrow();
        let is_behind = self.shared.memory.peek(RSP_PROD) != ledger.index(self.answered);
        let sleeps_on = self.asleep && !self.shared.notified.front.get();
        assert!(
            !(is_behind && sleeps_on),
            "the frontend sleeps on responses"
        );
    }

    pub(super) fn check_end(&self) {
        assert!(
            self.outstanding.is_empty(),
            "not answered: {:x?}",
            self.outstanding
        );
    }
}
