//! The process after one that was killed: what it finds, and where it goes on.

use blkif::BackRing;
use runstate::{Journal, Left, Mismatch};

use super::backend::{Backend, fault_of};
use super::ledger::{Fault, Ledger, distance};
use super::shared::{REQ_PROD, RSP_PROD, Remains, Shared};
use crate::script::Script;

impl Backend {
    /// Goes on where this process died; `None` if the indices, or the journal, say that it cannot.
    pub(super) fn revive(self, script: &mut Script<'_>, remains: &Remains) -> Option<Self> {
        let shared = self.shared;
        let rsp_prod = shared.memory.peek(RSP_PROD);
        let mut ring = attach(&shared)?;
        assert_eq!(ring.next_response_index(), rsp_prod);
        let resumed = Journal::resume(&shared, 0, ring.size(), rsp_prod);
        let (journal, left) = check_resumed(&shared, remains, rsp_prod, resumed)?;
        resume_ring(&shared, &mut ring, left.req_cons)?;
        // The dead one may have published, and not notified.
        shared.notified.front.set(true);
        let mut heir = Self {
            ring,
            journal: Some(journal),
            in_flight: Vec::new(),
            seen: vec![left.req_cons],
            stopped: false,
            asleep: false,
            shared,
            ..self
        };
        let numbers = heir.shared.ledger.borrow().unanswered();
        for (number, taken) in numbers.into_iter().zip(left.unanswered) {
            heir.handle(script, number, Some(taken.place), &taken.request);
        }
        Some(heir)
    }
}

/// Attaches to the ring, or must not be able to.
fn attach(shared: &Shared) -> Option<BackRing<blkif::Interposed>> {
    let attached = BackRing::attach(shared.interposed(), shared.abi);
    let [rsp_prod, req_prod] = [RSP_PROD, REQ_PROD].map(|at| shared.memory.peek(at));
    let slots = 32 * shared.pages;
    match attached {
        Ok(ring) => {
            assert!(distance(rsp_prod, req_prod) <= slots, "more than fit");
            Some(ring)
        }
        Err(error) => {
            assert_eq!(fault_of(&error), Fault::Overflow);
            assert!(distance(rsp_prod, req_prod) > slots, "{error}");
            None
        }
    }
}

/// Holds what was found to what was; brings the ledger to where the heir is.
fn check_resumed(
    shared: &Shared,
    remains: &Remains,
    rsp_prod: u32,
    resumed: Result<(Journal, Left), Mismatch>,
) -> Option<(Journal, Left)> {
    let mut ledger = shared.ledger.borrow_mut();
    let shown = [remains.ledger.published, remains.ledger.publishing];
    let shown = shown.map(|count| ledger.index(count));
    let is_true = shown.contains(&rsp_prod);
    let (journal, left) = match resumed {
        Ok(found) => found,
        Err(error) => {
            assert!(!is_true, "{error}");
            assert!(matches!(error, Mismatch::Count { .. }), "{error}");
            return None;
        }
    };
    let count = left.unanswered.len();
    assert_eq!(distance(rsp_prod, left.req_cons), count, "{left:?}");
    if is_true {
        follow(&mut ledger, remains, rsp_prod, &left);
    } else {
        believe(&mut ledger, rsp_prod, &left);
    }
    Some((journal, left))
}

/// Nobody lied: exactly what was taken and not answered is to be done again.
fn follow(ledger: &mut Ledger, remains: &Remains, rsp_prod: u32, left: &Left) {
    let taken = distance(ledger.start, left.req_cons);
    let was_taken = remains.ledger.taken.len();
    assert!(
        taken == was_taken || taken + 1 == was_taken,
        "{taken} requests of {was_taken} were noted"
    );
    ledger.taken.truncate(taken);
    ledger.responses.truncate(distance(ledger.start, rsp_prod));
    ledger.published = ledger.responses.len();
    ledger.publishing = ledger.published;
    let expected = ledger.unanswered();
    assert_eq!(expected.len(), left.unanswered.len(), "to be done again");
    for (number, found) in expected.into_iter().zip(&left.unanswered) {
        let (index, request) = ledger.taken[number];
        assert_eq!(found.index, index, "in their order");
        assert_eq!(found.request, request, "as they were taken");
    }
}

/// The frontend changed the response index, and it fits. So it has deceived itself; but what is done again is what it once
/// asked for.
fn believe(ledger: &mut Ledger, rsp_prod: u32, left: &Left) {
    let mut found = Vec::new();
    for taken in &left.unanswered {
        let asked = (taken.index, taken.request);
        assert!(ledger.taken.contains(&asked), "as it was taken");
        assert!(!found.contains(&asked), "twice");
        found.push(asked);
    }
    *ledger = Ledger::new(rsp_prod);
    ledger.taken = found;
}

/// Goes on behind the requests that were taken, or must not be able to.
fn resume_ring(
    shared: &Shared,
    ring: &mut BackRing<blkif::Interposed>,
    req_cons: u32,
) -> Option<()> {
    let resumed = ring.resume_at(req_cons);
    let ledger = shared.ledger.borrow();
    let judged = ledger.judge(shared.memory.peek(REQ_PROD), ring.size());
    match resumed {
        Ok(()) => {
            assert!(judged.is_ok(), "{judged:?}");
            assert_eq!(ring.in_flight() as usize, ledger.in_flight());
            assert_eq!(ring.req_cons(), ledger.req_cons());
            Some(())
        }
        Err(error) => {
            assert_eq!(judged, Err(fault_of(&error)));
            None
        }
    }
}
