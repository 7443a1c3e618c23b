//! A ring: a guest's side, honest about the indices or not, and the backend's side, which may be killed at any moment.
//!
//! A case is a script of what both sides do. Of what a backend does, something may come in between at any access to the
//! shared memory or to its journal: the frontend does something, or the process dies, and another one goes on from what
//! is there. Everything that the backend does is compared with what the bytes in the shared memory say, by arithmetic and
//! rules of our own (`ledger.rs`, `oracle.rs`); honest frontends also check their side.

mod backend;
mod frontend;
mod guest;
mod heir;
mod ledger;
mod offer;
mod oracle;
mod shared;

use std::cell::RefCell;
use std::rc::Rc;

use blkif::{Abi, RawSlot, Status};

use crate::script::Script;
use backend::Backend;
use frontend::{Act, Frontend};
use offer::Offer;
use shared::{REQ_EVENT, REQ_PROD, RSP_EVENT, RSP_PROD, Remains, Shared};

/// Lets a guest and a backend share a ring.
///
/// # Panics
/// If a request is answered not once, or as another; if something is let through that must not be, or is not that may be; if
/// an index is judged wrongly; if a side sleeps although there is something to be done; if something is lost or done twice
/// after a death.
pub fn ring(data: &[u8]) {
    let mut script = Script::new(data);
    while !script.is_over() {
        Connection::of_script(&mut script).run(&mut script);
    }
}

/// One ring, from its making until it is given up.
struct Connection {
    shared: Shared,
    offer: Offer,
    frontend: Rc<RefCell<Frontend>>,
    /// None if it could not go on.
    backend: Option<Backend>,
    is_honest: bool,
    has_journal: bool,
    /// What the process left, if it died during a step.
    remains: Rc<RefCell<Option<Remains>>>,
    next_id: u64,
    traced: bool,
}

impl Connection {
    fn of_script(script: &mut Script<'_>) -> Self {
        let bits = script.byte();
        let abi = [Abi::X86_64, Abi::X86_32, Abi::Arm, Abi::X86_64][usize::from(bits & 3)];
        let (is_honest, has_journal) = (bits & 4 == 0, bits & 0x18 != 0x18);
        // Mostly small: what a process leaves is copied whenever one dies.
        let pages = match bits >> 5 {
            0..=5 => 1,
            6 => 2,
            _ => [4, 8, 16][script.index(3)],
        };
        let start = match script.byte() % 4 {
            0 => 0,
            1 => script.u32(),
            _ => u32::MAX - u32::from(script.byte()),
        };
        let offer = Offer::of_script(script);
        let slots = u32::try_from(32 * pages).expect("few");
        let shared = Shared::new(abi, pages, slots, start);
        let frontend = Rc::new(RefCell::new(Frontend::new(&shared, is_honest)));
        let backend = Backend::connect(&shared, &offer, has_journal);
        Self {
            shared,
            offer,
            frontend,
            backend: Some(backend),
            is_honest,
            has_journal,
            remains: Rc::default(),
            next_id: 0,
            traced: std::env::var_os("FUZZ_TRACE").is_some(),
        }
    }

    fn run(mut self, script: &mut Script<'_>) {
        while !script.is_over() && self.backend.is_some() {
            let step = script.byte() % 16;
            if step == 15 && script.one_in(8) {
                break;
            }
            self.trace(format_args!("step {step}"));
            match step {
                0..=4 => {
                    let act = self.act(script);
                    self.frontend.borrow_mut().act(act);
                }
                5..=7 => {
                    let limit = limit(script);
                    self.between(script, |backend, script| backend.serve(script, limit));
                }
                8 => self.between(script, |backend, _| backend.go_to_sleep()),
                9..=11 => self.finish(script),
                12 | 13 => self.between(script, |backend, _| backend.publish()),
                _ => self.kill(script),
            }
            self.check();
        }
        self.end(script);
    }

    fn trace(&self, what: std::fmt::Arguments<'_>) {
        if self.traced {
            eprintln!("{what}");
        }
    }

    /// Some requests are done.
    fn finish(&mut self, script: &mut Script<'_>) {
        let (count, which) = (script.byte() % 8 + 1, usize::from(script.byte()));
        let status = match script.byte() {
            0..=199 => Status::Okay,
            200..=239 => Status::Error,
            _ => Status::NotSupported,
        };
        self.between(script, |backend, _| {
            (0..count).for_each(|_| backend.finish(which, status));
        });
    }

    /// Lets the backend do something, during which something may happen, as the script decides.
    fn between(
        &mut self,
        script: &mut Script<'_>,
        step: impl FnOnce(&mut Backend, &mut Script<'_>),
    ) {
        match script.byte() % 8 {
            0..=3 => {}
            4 | 5 if self.has_journal => self.arm_death(script),
            _ => self.arm_act(script),
        }
        if let Some(backend) = &mut self.backend {
            step(backend, script);
        }
        self.shared.over();
        self.go_on(script);
    }

    fn arm_act(&mut self, script: &mut Script<'_>) {
        let accesses = moment(script);
        let act = self.act_in_between(script);
        self.trace(format_args!("after {accesses} accesses: {act:?}"));
        let frontend = Rc::clone(&self.frontend);
        let event = move || frontend.borrow_mut().act(act);
        self.shared.arm(accesses, Box::new(event));
    }

    fn arm_death(&self, script: &mut Script<'_>) {
        let accesses = moment(script);
        self.trace(format_args!("after {accesses} accesses: death"));
        let (shared, remains) = (self.shared.clone(), Rc::clone(&self.remains));
        let event = move || *remains.borrow_mut() = Some(shared.remains());
        self.shared.arm(accesses, Box::new(event));
    }

    /// The process is killed between two steps.
    fn kill(&mut self, script: &mut Script<'_>) {
        if self.has_journal {
            *self.remains.borrow_mut() = Some(self.shared.remains());
            self.go_on(script);
        }
    }

    /// If the process died, another one goes on; it may die as well while it begins to.
    fn go_on(&mut self, script: &mut Script<'_>) {
        loop {
            let Some(remains) = self.remains.borrow_mut().take() else {
                return;
            };
            let Some(dead) = self.backend.take() else {
                return;
            };
            self.shared.restore(&remains);
            if script.one_in(8) {
                self.arm_death(script);
            }
            self.backend = dead.revive(script, &remains);
            self.shared.over();
            let says = if self.backend.is_some() {
                "goes on"
            } else {
                "gives up"
            };
            self.trace(format_args!("the next process {says}"));
            if self.backend.is_none() {
                assert!(!self.is_honest, "an honest guest lost its disk");
                return;
            }
        }
    }
}

// What the frontend does, and what is seen of it.
impl Connection {
    fn act(&mut self, script: &mut Script<'_>) -> Act {
        if !self.is_honest && script.one_in(4) {
            return self.poke(script);
        }
        self.fair_act(script)
    }

    fn act_in_between(&mut self, script: &mut Script<'_>) -> Act {
        if !self.is_honest && !script.one_in(4) {
            return self.poke(script);
        }
        self.fair_act(script)
    }

    fn fair_act(&mut self, script: &mut Script<'_>) -> Act {
        match script.byte() % 8 {
            0..=3 => Act::PushAndPublish(self.requests(script)),
            4 => Act::Push(self.requests(script)),
            5 => Act::Publish,
            6 => Act::Take(script.byte()),
            _ => Act::Sleep,
        }
    }

    /// Some requests, different in their ids only.
    fn requests(&mut self, script: &mut Script<'_>) -> Vec<RawSlot> {
        let template = guest::request(script, &self.offer);
        let count = match script.byte() {
            few @ 0..=239 => few / 80 + 1,
            many => (many - 239) * 15,
        };
        // A guest may use an id twice at a time.
        let reuses = script.one_in(16);
        let mut slots = vec![template; count.into()];
        for slot in &mut slots {
            self.next_id += u64::from(!reuses);
            let id = self.next_id.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            slot[8..16].copy_from_slice(&id.to_le_bytes());
        }
        slots.into_iter().map(RawSlot).collect()
    }

    /// A word of the shared memory, and what to write there: mostly nearly what it should be.
    fn poke(&self, script: &mut Script<'_>) -> Act {
        let at = match script.byte() % 8 {
            0 | 1 => REQ_PROD,
            2 => RSP_PROD,
            3 => REQ_EVENT,
            4 => RSP_EVENT,
            _ => 4 * (usize::from(script.u16()) % (self.shared.bytes() / 4)),
        };
        let ledger = self.shared.ledger.borrow();
        let value = match script.byte() % 8 {
            0 => script.u32(),
            1 => ledger.req_cons(),
            2 => ledger.rsp_prod(),
            3 => ledger
                .rsp_prod()
                .wrapping_add(32 * u32::from(script.byte() % 17)),
            4 => ledger.index(ledger.published),
            _ => self.shared.memory.peek(at),
        };
        let little = u32::from(script.byte()).wrapping_sub(128);
        Act::Poke(at, value.wrapping_add(little))
    }

    fn check(&self) {
        if let (true, Some(backend)) = (self.is_honest, &self.backend) {
            assert!(!backend.stopped, "stopped for an honest frontend");
            backend.check_wakeup();
            self.frontend.borrow().check_wakeup();
        }
    }

    /// Everybody does what there is to be done, and no more than they know of.
    fn end(mut self, script: &mut Script<'_>) {
        let Some(backend) = &mut self.backend else {
            return;
        };
        backend.drain();
        if !self.is_honest {
            return;
        }
        let mut frontend = self.frontend.borrow_mut();
        for round in 0.. {
            assert!(round < 10, "they keep each other awake");
            frontend.settle();
            if backend.asleep && !self.shared.notified.back.get() {
                break;
            }
            backend.serve(script, u32::MAX);
            backend.drain();
        }
        backend.check_wakeup();
        frontend.check_end();
        let ledger = self.shared.ledger.borrow();
        let taken = ledger.taken.iter().map(|(_, slot)| slot);
        assert!(taken.eq(&frontend.pushed), "not what was asked for");
    }
}

/// So many requests are taken at most; mostly few, as if there was much else to do.
fn limit(script: &mut Script<'_>) -> u32 {
    match u32::from(script.byte()) {
        few @ 0..=127 => few % 4 + 1,
        many => (many - 127) * 5,
    }
}

/// So many accesses until something happens. Looking at indices are few, taking a request and noting it some seventy.
fn moment(script: &mut Script<'_>) -> u32 {
    match u32::from(script.byte()) {
        at_once @ 0..=95 => at_once % 4,
        soon @ 96..=223 => soon - 96,
        late => (late - 221) * 64,
    }
}
