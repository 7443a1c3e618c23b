//! Both halves of a ring over one memory: order, wrap, hostile indices, notification, re-adoption.

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use proptest::prelude::*;

use crate::frontend::{FrontError, FrontRing};
use crate::shared::Interposed;
use crate::{
    Abi, BackRing, LocalMemory, RawRequest, RawSlot, Response, RingError, SharedMemory, Status,
};

const REQ_PROD: usize = 0;
const REQ_EVENT: usize = 4;
const RSP_PROD: usize = 8;
const RSP_EVENT: usize = 12;

fn request(id: u64) -> RawSlot {
    RawRequest::Unknown { operation: 9, id }.encode()
}

fn id_of(slot: &RawSlot) -> u64 {
    match RawRequest::decode(slot) {
        RawRequest::Unknown { operation: 9, id } => id,
        other => panic!("not one of ours: {other:?}"),
    }
}

fn okay(id: u64) -> Response {
    Response {
        id,
        operation: 9,
        status: Status::Okay,
    }
}

/// Both halves of a one-page ring that stands at `index`.
fn pair(index: u32) -> (LocalMemory, FrontRing<LocalMemory>, BackRing<LocalMemory>) {
    let memory = LocalMemory::new(1);
    let front = FrontRing::create_at(memory.clone(), Abi::X86_64, index).expect("create");
    let back = BackRing::attach(memory.clone(), Abi::X86_64).expect("attach");
    (memory, front, back)
}

/// Attaches to a ring of which an earlier process has taken the requests up to `req_cons`.
fn attach_at<M: SharedMemory>(
    memory: M,
    abi: Abi,
    req_cons: u32,
) -> Result<BackRing<M>, RingError> {
    let mut ring = BackRing::attach(memory, abi)?;
    ring.resume_at(req_cons)?;
    Ok(ring)
}

#[test]
fn a_ring_goes_around_in_every_size_and_layout() {
    for pages in [1, 2, 4, 8, 16] {
        for abi in [Abi::X86_32, Abi::X86_64, Abi::Arm] {
            let memory = LocalMemory::new(pages);
            let mut front =
                FrontRing::create_at(memory.clone(), abi, u32::MAX - 40).expect("create");
            let mut back = BackRing::attach(memory, abi).expect("attach");
            let size = u64::from(back.size());
            assert_eq!(size, 32 * u64::try_from(pages).expect("small"));
            for lap in 0..3 {
                let ids = lap * size..(lap + 1) * size;
                for id in ids.clone() {
                    front.push(&request(id)).expect("room");
                }
                assert_eq!(front.push(&request(0)), Err(FrontError::Full));
                assert!(front.publish());
                for id in ids.clone() {
                    let slot = back.take().expect("honest").expect("a request");
                    assert_eq!(id_of(&slot), id);
                }
                assert_eq!(back.take(), Ok(None));
                for id in ids.clone().rev() {
                    back.push_response(okay(id)).expect("a request waits");
                }
                assert_eq!(front.take(), Ok(None), "not published yet");
                assert!(back.publish());
                for id in ids.rev() {
                    assert_eq!(front.take(), Ok(Some(okay(id))));
                }
                assert_eq!(front.take(), Ok(None));
                // Both sides go to sleep, so that the next lap must notify again.
                assert_eq!(back.final_check_for_requests(), Ok(false));
                assert_eq!(front.final_check_for_responses(), Ok(false));
            }
        }
    }
}

#[test]
fn memory_that_is_no_ring() {
    for pages in [0, 3, 5, 17, 32] {
        assert_eq!(
            BackRing::attach(LocalMemory::new(pages), Abi::X86_64).map(|_| ()),
            Err(RingError::MemorySize(pages * 4096))
        );
    }
}

#[test]
fn a_producer_beyond_the_ring_stops_it() {
    let (memory, mut front, mut back) = pair(0);
    front.push(&request(1)).expect("room");
    let _ = front.publish();
    assert!(back.take().expect("honest").is_some());
    memory.poke(REQ_PROD, 32);
    assert_eq!(back.pending(), Ok(31), "a full ring is not too full");
    let overflow = |req_prod| RingError::RequestOverflow {
        req_prod,
        rsp_prod: 0,
        size: 32,
    };
    for req_prod in [33, 34, 0x8000_0000, u32::MAX] {
        memory.poke(REQ_PROD, req_prod);
        assert_eq!(back.pending(), Err(overflow(req_prod)));
        assert_eq!(
            back.final_check_for_requests(),
            Err(overflow(req_prod)),
            "also when about to sleep"
        );
    }
    // What was seen before the index went bad is still good; then the ring stops.
    while back.req_cons() < 32 {
        assert!(back.take().expect("seen when the index was good").is_some());
    }
    assert_eq!(back.take(), Err(overflow(u32::MAX)));
}

#[test]
fn a_producer_that_goes_back_stops_the_ring() {
    let (memory, mut front, mut back) = pair(7);
    for id in 0..3 {
        front.push(&request(id)).expect("room");
    }
    let _ = front.publish();
    while back.take().expect("honest").is_some() {}
    back.push_response(okay(0)).expect("a request waits");
    let _ = back.publish();
    // Behind the consumer, not behind the responses: slots that hold requests taken long ago.
    memory.poke(REQ_PROD, 9);
    assert_eq!(
        back.take(),
        Err(RingError::ProducerWentBack {
            req_prod: 9,
            req_cons: 10
        })
    );
}

#[test]
fn a_changed_response_index_changes_nothing() {
    let (memory, mut front, mut back) = pair(0);
    front.push(&request(5)).expect("room");
    let _ = front.publish();
    assert!(back.take().expect("honest").is_some());
    memory.poke(RSP_PROD, 1000);
    back.push_response(okay(5)).expect("a request waits");
    assert!(back.publish());
    assert_eq!(memory.peek(RSP_PROD), 1);
    assert_eq!(front.take(), Ok(Some(okay(5))));
}

#[test]
fn a_slot_is_looked_at_once() {
    let (memory, mut front, mut back) = pair(0);
    front.push(&request(1)).expect("room");
    let _ = front.publish();
    let slot = back.take().expect("honest").expect("a request");
    // The guest rewrites the slot that has been taken: the copy does not change.
    for offset in (64..64 + 112).step_by(4) {
        memory.poke(offset, 0xffff_ffff);
    }
    assert_eq!(id_of(&slot), 1);
    assert_eq!(back.take(), Ok(None));
}

#[test]
fn a_response_too_many_is_refused() {
    let (memory, mut front, mut back) = pair(0);
    assert_eq!(
        back.push_response(okay(1)),
        Err(RingError::NothingToAnswer(0))
    );
    front.push(&request(1)).expect("room");
    let _ = front.publish();
    assert_eq!(
        back.push_response(okay(1)),
        Err(RingError::NothingToAnswer(0)),
        "on the ring, and not taken"
    );
    assert!(!back.publish(), "nothing was written");
    assert_eq!(memory.peek(RSP_PROD), 0);
}

#[test]
fn notifications_follow_the_event_indices() {
    let (memory, mut front, mut back) = pair(0);
    assert_eq!((memory.peek(REQ_EVENT), memory.peek(RSP_EVENT)), (1, 1));
    let mut push = |id| {
        front.push(&request(id)).expect("room");
        front.publish()
    };
    assert!(push(1), "the first request of a new ring");
    assert!(!push(2), "the backend is awake");
    assert_eq!(back.final_check_for_requests(), Ok(true));
    assert_eq!(memory.peek(REQ_EVENT), 1, "not asked while there is work");
    for _ in 0..2 {
        assert!(back.take().expect("honest").is_some());
    }
    assert_eq!(back.final_check_for_requests(), Ok(false));
    assert_eq!(memory.peek(REQ_EVENT), 3);
    assert!(push(3), "the backend sleeps");

    // The frontend wants to hear of the second response only.
    memory.poke(RSP_EVENT, 2);
    back.push_response(okay(1)).expect("a request waits");
    assert!(!back.publish());
    back.push_response(okay(2)).expect("a request waits");
    assert!(back.publish());
    assert!(!back.publish(), "nothing new, nothing to tell");
}

#[test]
fn a_ring_is_taken_over_where_the_page_stands() {
    let (memory, mut front, mut back) = pair(u32::MAX - 2);
    for id in 0..5 {
        front.push(&request(id)).expect("room");
    }
    let _ = front.publish();
    for id in 0..3 {
        let slot = back.take().expect("honest").expect("a request");
        assert_eq!(id_of(&slot), id);
    }
    back.push_response(okay(1)).expect("a request waits");
    let _ = back.publish();
    // Pushed and not published: it is lost with the process.
    back.push_response(okay(0)).expect("a request waits");
    drop(back);

    let mut heir = attach_at(memory, Abi::X86_64, 0).expect("attach");
    assert_eq!(heir.published_rsp_prod(), u32::MAX - 1);
    assert_eq!(heir.next_response_index(), u32::MAX - 1);
    assert_eq!(heir.published_req_prod(), 2);
    assert_eq!(heir.in_flight(), 2);
    let slot = heir.take().expect("honest").expect("a request");
    assert_eq!(id_of(&slot), 3, "0, 1 and 2 were taken before");
    for id in [0, 2, 3] {
        heir.push_response(okay(id)).expect("a request waits");
    }
    let _ = heir.publish();
    for id in [1, 0, 2, 3] {
        assert_eq!(front.take(), Ok(Some(okay(id))));
    }
}

#[test]
fn a_ring_that_cannot_be_taken_over() {
    let memory = LocalMemory::new(1);
    memory.poke(REQ_PROD, 40);
    memory.poke(RSP_PROD, 8);
    let attach_at =
        |req_cons| attach_at(memory.clone(), Abi::X86_32, req_cons).map(|ring| ring.in_flight());
    assert_eq!(attach_at(40), Ok(32));
    assert_eq!(
        attach_at(41),
        Err(RingError::ResumeOutOfRange {
            req_cons: 41,
            rsp_prod: 8,
            size: 32
        })
    );
    memory.poke(REQ_PROD, 20);
    assert_eq!(attach_at(20), Ok(12));
    assert_eq!(
        attach_at(21),
        Err(RingError::ProducerWentBack {
            req_prod: 20,
            req_cons: 21
        })
    );
    memory.poke(REQ_PROD, 41);
    assert_eq!(
        attach_at(8),
        Err(RingError::RequestOverflow {
            req_prod: 41,
            rsp_prod: 8,
            size: 32
        })
    );
}

/// What may happen to a ring, in any order.
#[derive(Clone, Debug)]
enum Step {
    Push(u8),
    PublishRequests,
    Take(u8),
    /// Answer the request in flight at this position, modulo how many there are.
    Answer(u8),
    PublishResponses,
    TakeResponse,
    /// The backend dies and another one takes over.
    TakeOver,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (1..8_u8).prop_map(Step::Push),
        Just(Step::PublishRequests),
        (1..8_u8).prop_map(Step::Take),
        any::<u8>().prop_map(Step::Answer),
        any::<u8>().prop_map(Step::Answer),
        Just(Step::PublishResponses),
        Just(Step::TakeResponse),
        Just(Step::TakeResponse),
        Just(Step::TakeOver),
    ]
}

/// The ring as queues.
#[derive(Default)]
struct Model {
    next_id: u64,
    pushed: VecDeque<u64>,
    on_ring: VecDeque<u64>,
    in_flight: Vec<u64>,
    answered: VecDeque<u64>,
    published: VecDeque<u64>,
}

impl Model {
    fn occupied(&self) -> usize {
        self.pushed.len()
            + self.on_ring.len()
            + self.in_flight.len()
            + self.answered.len()
            + self.published.len()
    }

    fn step<M: SharedMemory + Clone>(
        &mut self,
        memory: &M,
        front: &mut FrontRing<M>,
        back: &mut BackRing<M>,
        step: &Step,
    ) {
        match *step {
            Step::Push(count) => {
                for _ in 0..count {
                    let pushed = front.push(&request(self.next_id));
                    assert_eq!(pushed.is_ok(), self.occupied() < 32);
                    if pushed.is_ok() {
                        self.pushed.push_back(self.next_id);
                        self.next_id += 1;
                    }
                }
            }
            Step::PublishRequests => {
                let _ = front.publish();
                self.on_ring.append(&mut self.pushed);
            }
            Step::Take(count) => {
                for _ in 0..count {
                    let taken = back.take().expect("honest").map(|slot| id_of(&slot));
                    let expected = self.on_ring.pop_front();
                    assert_eq!(taken, expected);
                    self.in_flight.extend(expected);
                }
            }
            Step::Answer(which) if self.in_flight.is_empty() => {
                assert!(back.push_response(okay(which.into())).is_err());
            }
            Step::Answer(which) => {
                let id = self
                    .in_flight
                    .swap_remove(usize::from(which) % self.in_flight.len());
                back.push_response(okay(id)).expect("a request waits");
                self.answered.push_back(id);
            }
            Step::PublishResponses => {
                let _ = back.publish();
                self.published.append(&mut self.answered);
            }
            Step::TakeResponse => {
                let taken = front.take().expect("honest");
                assert_eq!(taken, self.published.pop_front().map(okay));
            }
            Step::TakeOver => {
                let req_cons = back.req_cons();
                *back = attach_at(memory.clone(), Abi::X86_64, req_cons).expect("attach");
                self.in_flight.extend(self.answered.drain(..));
            }
        }
        assert_eq!(back.in_flight() as usize, self.in_flight.len());
    }
}

proptest! {
    #[test]
    fn any_order_of_steps_keeps_every_request_once(
        steps in prop::collection::vec(step(), 1..200),
        start in prop_oneof![Just(0), u32::MAX - 60..=u32::MAX, any::<u32>()],
    ) {
        let (memory, mut front, mut back) = pair(start);
        let mut model = Model::default();
        for step in &steps {
            model.step(&memory, &mut front, &mut back, step);
        }
    }

    #[test]
    fn no_index_makes_the_backend_take_more_than_the_ring_holds(
        indices in prop::collection::vec(any::<u32>(), 1..50),
        near in prop::collection::vec(-40..40_i32, 1..50),
    ) {
        let (memory, _front, mut back) = pair(0);
        let near = near.into_iter().map(i32::cast_unsigned);
        for req_prod in indices.into_iter().chain(near) {
            memory.poke(REQ_PROD, req_prod);
            while let Ok(Some(_)) = back.take() {
                prop_assert!(back.in_flight() <= back.size());
            }
        }
    }
}

/// Memory in which `event` happens once, after so many accesses.
fn interpose(memory: LocalMemory, accesses: usize, event: Box<dyn FnOnce()>) -> Interposed {
    let (left, event) = (Cell::new(accesses), Cell::new(Some(event)));
    let before_access = move || match left.get().checked_sub(1) {
        Some(rest) => left.set(rest),
        None => {
            if let Some(event) = event.take() {
                event();
            }
        }
    };
    Interposed::new(memory, Box::new(before_access))
}

#[test]
fn a_request_at_any_moment_is_seen_or_notified() {
    let mut seen_late = 0;
    for moment in 0..12 {
        let (memory, mut front, _) = pair(0);
        // The ring of a backend that is awake: the frontend's first request does not notify.
        memory.poke(REQ_EVENT, 0x8000_0000);
        let notified = Rc::new(Cell::new(false));
        let event = {
            let notified = Rc::clone(&notified);
            Box::new(move || {
                front.push(&request(1)).expect("room");
                notified.set(front.publish());
            })
        };
        let memory = interpose(memory, moment, event);
        let mut back = BackRing::attach(memory, Abi::X86_64).expect("attach");
        let more = back.final_check_for_requests().expect("honest");
        let slept_in_vain = !more && back.published_req_prod() == 1 && !notified.get();
        assert!(!slept_in_vain, "request before access {moment} was missed");
        seen_late += u32::from(more && notified.get());
    }
    assert!(
        seen_late > 0,
        "no moment was between asking and looking again"
    );
}

#[test]
fn a_response_at_any_moment_is_seen_or_notified() {
    let mut seen_late = 0;
    for moment in 0..40 {
        let memory = LocalMemory::new(1);
        let notified = Rc::new(Cell::new(false));
        let event = {
            let (memory, notified) = (memory.clone(), Rc::clone(&notified));
            Box::new(move || {
                let mut back = BackRing::attach(memory, Abi::X86_64).expect("attach");
                if back.take().expect("honest").is_some() {
                    back.push_response(okay(1)).expect("a request waits");
                    notified.set(back.publish());
                }
            })
        };
        // Making the ring and publishing one request come first, in 51 accesses.
        let interposed = interpose(memory.clone(), 51 + moment, event);
        let mut front = FrontRing::create(interposed, Abi::X86_64).expect("create");
        memory.poke(RSP_EVENT, 0x8000_0000);
        front.push(&request(1)).expect("room");
        let _ = front.publish();
        let more = front.final_check_for_responses().expect("honest");
        let slept_in_vain = !more && memory.peek(RSP_PROD) == 1 && !notified.get();
        assert!(!slept_in_vain, "response before access {moment} was missed");
        seen_late += u32::from(more && notified.get());
    }
    assert!(
        seen_late > 0,
        "no moment was between asking and looking again"
    );
}

/// Serves the ring until it has answered `count` requests, asleep whenever the ring lets it.
fn serve(mut back: BackRing<LocalMemory>, count: u64, kicks: &Receiver<()>, to_front: &Sender<()>) {
    let mut served = 0;
    while served < count {
        while let Some(slot) = back.take().expect("honest") {
            back.push_response(okay(id_of(&slot)))
                .expect("a request waits");
            served += 1;
            // Publish in batches, so that notifications are held off, and not always.
            if served.is_multiple_of(3) && back.publish() {
                to_front.send(()).expect("the frontend waits");
            }
        }
        if back.publish() {
            to_front.send(()).expect("the frontend waits");
        }
        if served < count && !back.final_check_for_requests().expect("honest") {
            kicks
                .recv_timeout(Duration::from_secs(60))
                .expect("a notification was lost");
        }
    }
}

/// Sends `count` requests, at most `outstanding` at a time, and takes their responses, asleep whenever the
/// ring lets it.
fn drive(
    mut front: FrontRing<LocalMemory>,
    count: u64,
    outstanding: u64,
    kicks: &Receiver<()>,
    to_back: &Sender<()>,
) {
    let (mut sent, mut answered) = (0, 0);
    while answered < count {
        while sent < count && sent - answered < outstanding && front.push(&request(sent)).is_ok() {
            sent += 1;
        }
        if front.publish() {
            // The backend may have served everything already and be gone.
            let _ = to_back.send(());
        }
        while let Some(response) = front.take().expect("honest") {
            assert_eq!(response, okay(answered));
            answered += 1;
        }
        let can_push = sent < count && sent - answered < outstanding;
        if answered < count && !can_push && !front.final_check_for_responses().expect("honest") {
            kicks
                .recv_timeout(Duration::from_secs(60))
                .expect("a notification was lost");
        }
    }
}

#[test]
fn no_wakeup_is_lost_between_two_threads() {
    // With few requests at a time both sides are going to sleep nearly always, which is when a wakeup
    // can get lost; with a full ring, notifications are held off.
    for (outstanding, count) in [(1, 50_000), (2, 50_000), (32, 50_000)] {
        let (_, front, back) = pair(u32::MAX - 1000);
        let (to_back, kicks_back) = channel();
        let (to_front, kicks_front) = channel();
        std::thread::scope(|scope| {
            scope.spawn(move || serve(back, count, &kicks_back, &to_front));
            drive(front, count, outstanding, &kicks_front, &to_back);
        });
    }
}
