//! What both sides see, and what outlives the backend: the pages of the ring, the journal, the event channel. And what
//! happens between two accesses to them.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use blkif::{Abi, Interposed, LocalMemory};
use runstate::{Journal, Words};

use super::guest::Slot;
use super::ledger::Ledger;

pub(super) const REQ_PROD: usize = 0;
pub(super) const REQ_EVENT: usize = 4;
pub(super) const RSP_PROD: usize = 8;
pub(super) const RSP_EVENT: usize = 12;

const HEADER_BYTES: usize = 64;
const WORD: usize = 4;

/// What is to happen, and before which of the backend's next accesses to what is shared.
type Armed = Option<(u32, Box<dyn FnOnce()>)>;

/// Clones are the same.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) memory: LocalMemory,
    pub(super) abi: Abi,
    pub(super) pages: usize,
    journal: Rc<RefCell<Vec<u32>>>,
    armed: Rc<RefCell<Armed>>,
    /// Whether each side was notified since it last went to sleep.
    pub(super) notified: Rc<Notified>,
    pub(super) ledger: Rc<RefCell<Ledger>>,
}

#[derive(Default)]
pub(super) struct Notified {
    pub(super) front: Cell<bool>,
    pub(super) back: Cell<bool>,
}

/// What a dead process leaves.
pub(super) struct Remains {
    ring: Vec<u32>,
    journal: Vec<u32>,
    front_notified: bool,
    /// What it had taken off the ring, the last of which it may not have noted, and what it had answered. All of the ledger
    /// of that moment: the process may since have believed the frontend, and begun another one.
    pub(super) ledger: Ledger,
}

impl Shared {
    pub(super) fn new(abi: Abi, pages: usize, slots: u32, start: u32) -> Self {
        Self {
            memory: LocalMemory::new(pages),
            abi,
            pages,
            journal: Rc::new(RefCell::new(vec![0xdead; Journal::words(slots)])),
            armed: Rc::default(),
            notified: Rc::default(),
            ledger: Rc::new(RefCell::new(Ledger::new(start))),
        }
    }

    /// The ring's pages as the backend accesses them.
    pub(super) fn interposed(&self) -> Interposed {
        let shared = self.clone();
        Interposed::new(self.memory.clone(), Box::new(move || shared.pass()))
    }

    /// Lets something happen after so many of the backend's accesses.
    pub(super) fn arm(&self, accesses: u32, event: Box<dyn FnOnce()>) {
        *self.armed.borrow_mut() = Some((accesses, event));
    }

    /// What has not happened by now happens now.
    pub(super) fn over(&self) {
        let armed = self.armed.borrow_mut().take();
        if let Some((_, event)) = armed {
            event();
        }
    }

    /// An access is about to be made.
    fn pass(&self) {
        let mut armed = self.armed.borrow_mut();
        let is_due = match &mut *armed {
            Some((0, _)) => true,
            Some((left, _)) => {
                *left -= 1;
                false
            }
            None => false,
        };
        drop(armed);
        if is_due {
            self.over();
        }
    }

    /// Whether something may still happen.
    pub(super) fn is_armed(&self) -> bool {
        self.armed.borrow().is_some()
    }

    pub(super) fn bytes(&self) -> usize {
        self.pages * 4096
    }

    /// The bytes of a slot, widened to the layout of the 8-byte aligned ABIs.
    pub(super) fn slot(&self, number: u32) -> Slot {
        let start = self.slot_start(number);
        let mut slot = [0; 112];
        for (word, bytes) in slot.chunks_exact_mut(WORD).enumerate() {
            let at = match (self.abi, word) {
                // Not there: the id follows the first word.
                (Abi::X86_32, 1) => continue,
                (Abi::X86_32, 2..) => word - 1,
                _ => word,
            };
            let value = self.memory.peek(start + at * WORD);
            bytes.copy_from_slice(&value.to_le_bytes());
        }
        slot
    }

    /// The response in a slot: id, operation and status.
    pub(super) fn response(&self, number: u32) -> (u64, u8, i16) {
        let start = self.slot_start(number);
        let [low, high, rest] =
            [0, 1, 2].map(|word| self.memory.peek(start + word * WORD).to_le_bytes());
        let id = u64::from_le_bytes([low, high].concat().try_into().expect("eight bytes"));
        (id, rest[0], i16::from_le_bytes([rest[2], rest[3]]))
    }

    fn slot_start(&self, number: u32) -> usize {
        let stride = if self.abi == Abi::X86_32 { 108 } else { 112 };
        HEADER_BYTES + number as usize * stride
    }

    pub(super) fn remains(&self) -> Remains {
        let words = (0..self.bytes()).step_by(WORD);
        Remains {
            ring: words.map(|at| self.memory.peek(at)).collect(),
            journal: self.journal.borrow().clone(),
            front_notified: self.notified.front.get(),
            ledger: self.ledger.borrow().clone(),
        }
    }

    /// Everything as the dead process left it: what it did since was not done.
    pub(super) fn restore(&self, remains: &Remains) {
        for (word, value) in remains.ring.iter().enumerate() {
            self.memory.poke(word * WORD, *value);
        }
        self.journal.borrow_mut().clone_from(&remains.journal);
        self.notified.front.set(remains.front_notified);
        self.ledger.borrow_mut().clone_from(&remains.ledger);
    }
}

impl Words for Shared {
    fn load(&self, index: usize) -> u32 {
        self.journal.borrow()[index]
    }

    fn store(&self, index: usize, value: u32) {
        self.pass();
        self.journal.borrow_mut()[index] = value;
    }
}
