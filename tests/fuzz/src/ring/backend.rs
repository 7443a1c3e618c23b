//! The backend's process, in the order in which `cowbackd` does things, and what must come of each.

use blkif::{
    BackRing, Interposed, Limits, Operation, RawSegment, RawSlot, Request, Response, RingError,
    Status,
};
use runstate::{Journal, Place};

use super::guest::{Slot, descriptors};
use super::ledger::Fault;
use super::offer::Offer;
use super::oracle::{Verdict, Wish};
use super::shared::{REQ_EVENT, REQ_PROD, RSP_EVENT, RSP_PROD, Shared};
use crate::script::Script;

pub(super) struct Backend {
    pub(super) shared: Shared,
    pub(super) offer: Offer,
    pub(super) limits: Limits,
    pub(super) ring: BackRing<Interposed>,
    /// Without one, nobody can go on after a death.
    pub(super) journal: Option<Journal>,
    pub(super) in_flight: Vec<InFlight>,
    /// The producer index that it saw last; one of these.
    pub(super) seen: Vec<u32>,
    /// The frontend broke the protocol: no more is taken.
    pub(super) stopped: bool,
    pub(super) asleep: bool,
}

/// A request that was taken, and is being done.
pub(super) struct InFlight {
    number: usize,
    place: Option<Place>,
    id: u64,
    code: u8,
}

/// What there is to be taken, if it is looked at now.
struct View {
    req_prod: u32,
    slot: Slot,
}

impl Backend {
    /// A process for a ring that was just made.
    pub(super) fn connect(shared: &Shared, offer: &Offer, with_journal: bool) -> Self {
        let start = shared.ledger.borrow().start;
        let ring = BackRing::attach(shared.interposed(), shared.abi).expect("a new ring");
        let journal = with_journal.then(|| Journal::begin(shared, 0, ring.size(), start));
        Self {
            shared: shared.clone(),
            offer: *offer,
            limits: offer.limits(),
            ring,
            journal,
            in_flight: Vec::new(),
            seen: vec![start],
            stopped: false,
            asleep: false,
        }
    }

    /// Takes up to `limit` requests, until there are no more and it may sleep.
    pub(super) fn serve(&mut self, script: &mut Script<'_>, limit: u32) {
        if self.asleep && !self.shared.notified.back.replace(false) {
            return;
        }
        self.asleep = false;
        for _ in 0..limit {
            if self.stopped {
                return;
            }
            // A frontend may make requests as soon as it sees responses in their slots, before they are published.
            if self
                .journal
                .as_ref()
                .is_some_and(|journal| !journal.has_room())
            {
                self.publish();
            }
            match self.take() {
                Some((number, slot)) => {
                    let journal = self.journal.as_mut();
                    let place = journal.map(|journal| journal.take(&self.shared, &slot));
                    self.handle(script, number, place, &slot);
                }
                None if !self.stopped && !self.final_check() => return,
                None => {}
            }
        }
    }

    /// Sleeps, unless it sees something to do.
    pub(super) fn go_to_sleep(&mut self) {
        if !self.stopped && !self.asleep {
            self.final_check();
        }
    }

    fn view(&self) -> View {
        let slot = self.shared.ledger.borrow().req_cons() % self.ring.size();
        View {
            req_prod: self.shared.memory.peek(REQ_PROD),
            slot: self.shared.slot(slot),
        }
    }

    fn judge(&self, req_prod: u32) -> Result<usize, Fault> {
        self.shared
            .ledger
            .borrow()
            .judge(req_prod, self.ring.size())
    }

    /// Takes one request; its number.
    fn take(&mut self) -> Option<(usize, Slot)> {
        let req_cons = self.shared.ledger.borrow().req_cons();
        let before = self.view();
        let taken = self.ring.take();
        let after = self.view();
        // What it saw before is good; else it looks, at some moment.
        let (looks, knows): (Vec<u32>, Vec<u32>) =
            self.seen.iter().partition(|seen| **seen == req_cons);
        let looks_at = [before.req_prod, after.req_prod];
        let judged = looks_at.map(|req_prod| self.judge(req_prod));
        match taken {
            Err(error) => {
                let fault = fault_of(&error);
                assert!(
                    !looks.is_empty() && judged.contains(&Err(fault)),
                    "{error}: {judged:?}"
                );
                self.stopped = true;
                None
            }
            Ok(None) => {
                assert!(
                    !looks.is_empty() && judged.contains(&Ok(0)),
                    "nothing to take: {judged:?}"
                );
                self.seen = vec![req_cons];
                None
            }
            Ok(Some(slot)) => {
                let mut seen = knows;
                if !looks.is_empty() {
                    let good = |req_prod: &u32| self.judge(*req_prod).is_ok_and(|count| count > 0);
                    seen.extend(looks_at.into_iter().filter(good));
                }
                assert!(!seen.is_empty(), "taken from nowhere: {judged:?}");
                seen.dedup();
                self.seen = seen;
                Some(self.took(slot.0, &before.slot, &after.slot))
            }
        }
    }

    fn took(&mut self, slot: Slot, before: &Slot, after: &Slot) -> (usize, Slot) {
        let words = slot.chunks(4).zip(before.chunks(4).zip(after.chunks(4)));
        for (word, (before, after)) in words {
            assert!(word == before || word == after, "not what was in the slot");
        }
        let mut ledger = self.shared.ledger.borrow_mut();
        let index = ledger.req_cons();
        ledger.taken.push((index, slot));
        assert_eq!(self.ring.req_cons(), ledger.req_cons());
        assert_eq!(self.ring.in_flight() as usize, ledger.in_flight());
        assert!(self.ring.in_flight() <= self.ring.size());
        (ledger.taken.len() - 1, slot)
    }

    /// Looks once more before it sleeps. Returns whether there is more to be taken.
    fn final_check(&mut self) -> bool {
        let is_quiet = !self.shared.is_armed();
        let before = self.shared.memory.peek(REQ_PROD);
        let checked = self.ring.final_check_for_requests();
        let after = self.shared.memory.peek(REQ_PROD);
        // It looks twice, unless it sees something at once.
        let expected =
            [(before, before), (before, after), (after, after)].map(|(first, second)| {
                match self.judge(first) {
                    Ok(0) => self.judge(second),
                    judged => judged,
                }
            });
        match checked {
            Err(error) => {
                let fault = fault_of(&error);
                assert!(expected.contains(&Err(fault)), "{error}: {expected:?}");
                self.stopped = true;
                false
            }
            Ok(more) => {
                let is_expected =
                    |judged: &Result<usize, Fault>| judged.is_ok_and(|count| (count > 0) == more);
                assert!(expected.iter().any(is_expected), "{more}, but {expected:?}");
                let good = |req_prod: &u32| self.judge(*req_prod).is_ok();
                self.seen = [before, after].into_iter().filter(good).collect();
                self.seen.dedup();
                self.asleep = !more;
                if is_quiet && !more {
                    let event = self.shared.memory.peek(REQ_EVENT);
                    assert_eq!(event, before.wrapping_add(1), "asks for the next request");
                }
                more
            }
        }
    }

    /// Does what a request asks for, or begins to.
    pub(super) fn handle(
        &mut self,
        script: &mut Script<'_>,
        number: usize,
        place: Option<Place>,
        slot: &Slot,
    ) {
        let outcome = Request::from_slot(&RawSlot(*slot), &self.limits);
        let verdict = Verdict::of_slot(slot, &self.offer);
        compare(&verdict, &outcome);
        let outcome = match (outcome, &verdict.wish) {
            (Ok(request), Ok(Wish::Indirect { segments, .. })) => {
                let Operation::Indirect(indirect) = &request.operation else {
                    unreachable!("compared");
                };
                let bytes = descriptors(script, &self.offer, *segments);
                let pages = bytes.chunks(4096).flat_map(RawSegment::decode_page);
                let outcome = indirect.with_descriptors(pages, &self.limits);
                let verdict = Verdict::of_descriptors(slot, &bytes, &self.offer);
                compare(&verdict, &outcome);
                outcome
            }
            (outcome, _) => outcome,
        };
        let (id, code) = (verdict.id, verdict.code);
        match outcome {
            Ok(request) => {
                let response = request.response(Status::Okay);
                assert_eq!((response.id, response.operation), (id, code));
                self.in_flight.push(InFlight {
                    number,
                    place,
                    id,
                    code,
                });
            }
            Err(rejection) => self.respond(number, place, rejection.response()),
        }
    }

    /// One of the requests that are being done is done.
    pub(super) fn finish(&mut self, which: usize, status: Status) {
        if self.in_flight.is_empty() {
            self.answer_nothing();
            return;
        }
        let done = self.in_flight.swap_remove(which % self.in_flight.len());
        let response = Response {
            id: done.id,
            operation: done.code,
            status,
        };
        self.respond(done.number, done.place, response);
    }

    /// A response without a request is not written.
    fn answer_nothing(&mut self) {
        let response = Response {
            id: 0,
            operation: 0,
            status: Status::Okay,
        };
        let refused = self.ring.push_response(response);
        assert!(matches!(refused, Err(RingError::NothingToAnswer(_))));
    }

    fn respond(&mut self, number: usize, place: Option<Place>, response: Response) {
        let is_quiet = !self.shared.is_armed();
        let index = self.ring.next_response_index();
        assert_eq!(index, self.shared.ledger.borrow().rsp_prod());
        if let (Some(journal), Some(place)) = (&mut self.journal, place) {
            journal.answer(&self.shared, place, index);
        }
        let pushed = self.ring.push_response(response);
        pushed.expect("the request was taken, and is answered once");
        let mut ledger = self.shared.ledger.borrow_mut();
        ledger.responses.push((number, response));
        if is_quiet {
            let written = self.shared.response(index % self.ring.size());
            let expected = (response.id, response.operation, response.status.code());
            assert_eq!(written, expected);
        }
    }

    /// Shows the frontend its responses.
    pub(super) fn publish(&mut self) {
        let is_quiet = !self.shared.is_armed();
        let (old, new) = {
            let mut ledger = self.shared.ledger.borrow_mut();
            ledger.publishing = ledger.responses.len();
            (ledger.published, ledger.publishing)
        };
        let event = || self.shared.memory.peek(RSP_EVENT);
        let before = event();
        let notify = self.ring.publish();
        let after = event();
        let mut ledger = self.shared.ledger.borrow_mut();
        let is_passed = |event: u32| (old..new).any(|number| ledger.index(number + 1) == event);
        assert!(
            [before, after].map(is_passed).contains(&notify),
            "responses {old} to {new}, event {before} or {after}, notified: {notify}"
        );
        ledger.published = new;
        if notify {
            self.shared.notified.front.set(true);
        }
        if is_quiet && old != new {
            assert_eq!(self.shared.memory.peek(RSP_PROD), ledger.rsp_prod());
        }
        drop(ledger);
        if let Some(journal) = &mut self.journal {
            journal.published(&self.shared);
        }
    }

    /// Does everything that was taken, and shows the frontend.
    pub(super) fn drain(&mut self) {
        while !self.in_flight.is_empty() {
            self.finish(0, Status::Okay);
        }
        self.publish();
        assert_eq!(self.ring.in_flight(), 0);
        assert!(self.shared.ledger.borrow().unanswered().is_empty());
    }

    /// With an honest frontend it does not wait for what is there.
    pub(super) fn check_wakeup(&self) {
        let is_behind = self.shared.memory.peek(REQ_PROD) != self.ring.req_cons();
        let sleeps_on = self.asleep && !self.shared.notified.back.get();
        assert!(!(is_behind && sleeps_on), "the backend sleeps on requests");
    }
}

/// The product must have made of a request what the rules say.
fn compare(verdict: &Verdict, outcome: &Result<Request, blkif::Rejection>) {
    let product = match outcome {
        Ok(request) => Verdict::of_product(Ok(request)),
        Err(rejection) => Verdict::of_product(Err(rejection.response())),
    };
    assert_eq!(product, *verdict, "{outcome:?}");
}

pub(super) fn fault_of(error: &RingError) -> Fault {
    match error {
        RingError::RequestOverflow { .. } => Fault::Overflow,
        RingError::ProducerWentBack { .. } => Fault::WentBack,
        other => panic!("{other}"),
    }
}
