//! A daemon that is killed after each store that it makes, to its journal or to the ring.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;

use proptest::prelude::*;

use super::*;

const SLOTS: u32 = 4;
/// Not 0, so that indices wrap soon.
const FIRST: u32 = u32::MAX - 2;

/// Memory that goes on when the process does not: stores after its death have no effect.
#[derive(Clone)]
struct Memory {
    words: Rc<RefCell<Vec<u32>>>,
    stores_left: Rc<Cell<usize>>,
    /// The ring: its response producer index, and the request that each response is for.
    rsp_prod: Rc<Cell<u32>>,
    responses: Rc<RefCell<Vec<u32>>>,
}

impl Memory {
    fn new() -> Self {
        Self {
            words: Rc::new(RefCell::new(vec![0xdead; Journal::words(SLOTS)])),
            stores_left: Rc::new(Cell::new(usize::MAX)),
            rsp_prod: Rc::new(Cell::new(FIRST)),
            responses: Rc::default(),
        }
    }

    fn may_store(&self) -> bool {
        let left = self.stores_left.get();
        self.stores_left.set(left.saturating_sub(1));
        left > 0
    }

    /// The requests whose responses the frontend has seen.
    fn seen(&self) -> Vec<u32> {
        let count = self.rsp_prod.get().wrapping_sub(FIRST) as usize;
        self.responses.borrow()[..count].to_vec()
    }
}

impl Words for Memory {
    fn load(&self, index: usize) -> u32 {
        self.words.borrow()[index]
    }

    fn store(&self, index: usize, value: u32) {
        if self.may_store() {
            self.words.borrow_mut()[index] = value;
        }
    }
}

/// A daemon that takes requests, and answers those that it likes.
struct Daemon {
    memory: Memory,
    journal: Journal,
    under_way: Vec<(u32, Place)>,
    next_response: u32,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Take,
    /// Answers one of those under way.
    Answer(usize),
    Publish,
}

fn request(index: u32) -> [u8; REQUEST_BYTES] {
    let mut bytes = [index.to_le_bytes()[0]; REQUEST_BYTES];
    bytes[..4].copy_from_slice(&index.to_ne_bytes());
    bytes
}

impl Daemon {
    fn start(memory: &Memory) -> Self {
        Self {
            memory: memory.clone(),
            journal: Journal::begin(memory, 0, SLOTS, FIRST),
            under_way: Vec::new(),
            next_response: FIRST,
        }
    }

    /// The daemon after one that was killed; checks that it finds what there is to be done, no less and no more.
    fn restart(memory: &Memory) -> Self {
        let rsp_prod = memory.rsp_prod.get();
        let (journal, left) = Journal::resume(memory, 0, SLOTS, rsp_prod).unwrap();
        memory
            .responses
            .borrow_mut()
            .truncate(rsp_prod.wrapping_sub(FIRST) as usize);
        let mut all: Vec<u32> = left.unanswered.iter().map(|taken| taken.index).collect();
        assert!(all.is_sorted_by_key(|index| index.wrapping_sub(FIRST)));
        all.extend(memory.seen());
        let taken = left.req_cons.wrapping_sub(FIRST);
        assert_eq!(all.len(), taken as usize, "none twice");
        let all: BTreeSet<u32> = all.into_iter().collect();
        let expected = (0..taken).map(|i| FIRST.wrapping_add(i));
        assert_eq!(
            all,
            expected.collect(),
            "each is answered or to be executed"
        );
        for taken in &left.unanswered {
            assert_eq!(taken.request, request(taken.index));
        }
        let under_way = left
            .unanswered
            .iter()
            .map(|taken| (taken.index, taken.place));
        Self {
            memory: memory.clone(),
            journal,
            under_way: under_way.collect(),
            next_response: rsp_prod,
        }
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Take => {
                let taken = self
                    .journal
                    .req_cons
                    .wrapping_sub(self.memory.rsp_prod.get());
                if taken < SLOTS {
                    let index = self.journal.req_cons;
                    let place = self.journal.take(&self.memory, &request(index));
                    self.under_way.push((index, place));
                }
            }
            Step::Answer(which) => {
                if !self.under_way.is_empty() {
                    let (index, place) = self.under_way.remove(which % self.under_way.len());
                    self.journal.answer(&self.memory, place, self.next_response);
                    self.next_response = self.next_response.wrapping_add(1);
                    if self.memory.may_store() {
                        self.memory.responses.borrow_mut().push(index);
                    }
                }
            }
            Step::Publish => {
                if self.memory.may_store() {
                    self.memory.rsp_prod.set(self.next_response);
                }
                self.journal.published(&self.memory);
            }
        }
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => Just(Step::Take),
        3 => (0..4_usize).prop_map(Step::Answer),
        1 => Just(Step::Publish),
    ];
    prop::collection::vec(step, 1..24)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn whenever_it_is_killed_each_request_is_answered_or_executed_again(
        before in steps(),
        after in steps(),
    ) {
        // Killed after each store of the first life, and after each of some of the second, its resuming included.
        for first in 0.. {
            let memory = Memory::new();
            let mut daemon = Daemon::start(&memory);
            memory.stores_left.set(first);
            before.iter().for_each(|step| daemon.step(*step));
            let survived = memory.stores_left.get() > 0;
            for second in [0, 1, 2, 3, 5, 8, 40, 90, usize::MAX] {
                let memory = memory.copy();
                memory.stores_left.set(second);
                let mut daemon = Daemon::restart(&memory);
                after.iter().for_each(|step| daemon.step(*step));
                memory.stores_left.set(usize::MAX);
                Daemon::restart(&memory);
            }
            if survived {
                break;
            }
        }
    }
}

impl Memory {
    /// As it is now, on its own from here on.
    fn copy(&self) -> Self {
        Self {
            words: Rc::new(RefCell::new(self.words.borrow().clone())),
            stores_left: Rc::new(Cell::new(usize::MAX)),
            rsp_prod: Rc::new(Cell::new(self.rsp_prod.get())),
            responses: Rc::new(RefCell::new(self.responses.borrow().clone())),
        }
    }
}

#[test]
fn a_ring_with_other_indices_is_refused() {
    let memory = Memory::new();
    let mut daemon = Daemon::start(&memory);
    for step in [Step::Take, Step::Take, Step::Answer(0), Step::Publish] {
        daemon.step(step);
    }
    // The frontend says that it has seen one more, or one less, or any number.
    for rsp_prod in [FIRST, FIRST.wrapping_add(2), 77] {
        let error = Journal::resume(&memory.copy(), 0, SLOTS, rsp_prod).unwrap_err();
        assert!(matches!(error, Mismatch::Count { .. }), "{error}");
    }
    memory.words.borrow_mut()[16] = 7;
    let error = Journal::resume(&memory, 0, SLOTS, FIRST.wrapping_add(1)).unwrap_err();
    assert_eq!(error, Mismatch::State(0));
}
