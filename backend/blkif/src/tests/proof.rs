//! The index arithmetic, proved: every index against every other, in 10 bits.
//!
//! Why this says everything about 32 bits: nothing but [`Index`] can look into an index, so all that happens to indices is
//!
//! * how far one is ahead of another, which is compared with the size of the ring, and with such distances that are at most
//!   the size. So all distances beyond the size are treated alike, and 10 bits have some of them for each size (513 to 1023
//!   for the largest);
//! * whether two are equal, and which of two comes first after a third ([`moved_past`]). Three points on a circle of 1024 can
//!   be in every order that they can be in on one of 2^32;
//! * the slot, an index modulo the size, which divides 2^10 as it divides 2^32.
//!
//! So for any 32-bit indices there are 10-bit ones of the same slots for which every comparison comes out the same, and they
//! still correspond after each step: a 32-bit ring does nothing that a 10-bit one does not do.
//!
//! The expectations are counts that do not wrap. Each state of a ring is its responses and how many requests are in flight;
//! all of them are visited, so nothing needs to be said about how they are reached.

use crate::ring::{BackIndices, Index, RingError, moved_past};
use crate::wire::{Abi, PAGE_SIZE};

const BITS: u32 = 10;
const COUNTS: u32 = 1 << BITS;

/// Slots of every ring that there can be.
const SIZES: [u32; 5] = [32, 64, 128, 256, 512];

type Indices = BackIndices<BITS>;

const fn wrap(count: u32) -> u32 {
    count % COUNTS
}

/// Every state of every ring: slots, responses so far (a count), requests in flight, and the indices.
fn every_state(mut check: impl FnMut(u32, u32, u32, Indices)) {
    for size in SIZES {
        for rsp_prod in COUNTS..2 * COUNTS {
            for in_flight in 0..=size {
                let indices = Indices::resume(size, wrap(rsp_prod), wrap(rsp_prod + in_flight));
                check(size, rsp_prod, in_flight, indices.expect("resume"));
            }
        }
    }
}

#[test]
fn these_are_the_sizes() {
    for (order, size) in SIZES.into_iter().enumerate() {
        for abi in [Abi::X86_32, Abi::X86_64, Abi::Arm] {
            assert_eq!(abi.slots(PAGE_SIZE << order), size as usize);
        }
    }
}

#[test]
fn a_ring_goes_on_exactly_where_it_can_stand() {
    for size in SIZES {
        for rsp_prod in COUNTS..2 * COUNTS {
            for ahead in 0..COUNTS {
                let (rsp_prod, req_cons) = (wrap(rsp_prod), wrap(rsp_prod + ahead));
                let resumed = Indices::resume(size, rsp_prod, req_cons);
                assert_eq!(resumed.is_ok(), ahead <= size);
                if let Ok(indices) = resumed {
                    assert_eq!(indices.in_flight(), ahead);
                    assert_eq!(
                        (indices.rsp_prod(), indices.req_cons()),
                        (rsp_prod, req_cons)
                    );
                }
            }
        }
    }
}

#[test]
fn every_producer_index_is_judged_as_its_count_is() {
    every_state(|size, rsp_prod, in_flight, indices| {
        // What the peer's index stands for: the next count with this index from the responses on.
        for outstanding in 0..COUNTS {
            let judged = indices.pending(wrap(rsp_prod + outstanding));
            let is_right = match judged {
                Ok(pending) => outstanding <= size && in_flight + pending == outstanding,
                Err(RingError::RequestOverflow { .. }) => outstanding > size,
                Err(RingError::ProducerWentBack { .. }) => outstanding < in_flight,
                Err(_) => false,
            };
            assert!(
                is_right,
                "{indices:?}, {outstanding} outstanding: {judged:?}"
            );
        }
    });
}

#[test]
fn a_request_is_taken_from_its_slot() {
    every_state(|size, rsp_prod, in_flight, mut indices| {
        // `pending` allows no more.
        if in_flight < size {
            let req_cons = rsp_prod + in_flight;
            assert_eq!(indices.req_event(), wrap(req_cons + 1));
            assert_eq!(indices.take(), req_cons % size);
            assert_eq!(indices.req_cons(), wrap(req_cons + 1));
            assert_eq!(indices.in_flight(), in_flight + 1);
            assert_eq!(indices.rsp_prod(), wrap(rsp_prod));
        }
    });
}

#[test]
fn a_response_goes_where_no_request_waits() {
    every_state(|size, rsp_prod, in_flight, mut indices| {
        let before = indices;
        let responded = indices.respond();
        if in_flight == 0 {
            assert_eq!(responded, Err(RingError::NothingToAnswer(wrap(rsp_prod))));
            assert_eq!(indices, before);
            return;
        }
        assert_eq!(responded, Ok(rsp_prod % size));
        assert_eq!(indices.rsp_prod(), wrap(rsp_prod + 1));
        assert_eq!(indices.in_flight(), in_flight - 1);
        // Those that were not taken yet, if the ring is as full as it can be.
        for req in rsp_prod + in_flight..rsp_prod + size {
            assert_ne!(responded, Ok(req % size));
        }
    });
}

#[test]
fn what_is_published_is_what_was_answered() {
    for rsp_prod in COUNTS..2 * COUNTS {
        let start = wrap(rsp_prod);
        let mut indices = Indices::resume(SIZES[0], start, start).expect("resume");
        for answered in 0..COUNTS {
            let end = wrap(rsp_prod + answered);
            let mut now = indices;
            assert_eq!(now.publish(), (answered > 0).then_some((start, end)));
            assert_eq!(now.publish(), None);
            indices.take();
            indices.respond().expect("a request was taken");
        }
    }
}

#[test]
fn a_peer_is_told_exactly_when_its_event_is_passed() {
    for old in COUNTS..2 * COUNTS {
        for moved in 0..COUNTS {
            for ahead in 0..COUNTS {
                // The event that the peer asked for, as the next count with its index after the old one.
                let event = old + 1 + ahead;
                let [old, new, event] = [old, old + moved, event].map(wrap).map(Index::<BITS>::new);
                assert_eq!(moved_past(old, new, event), ahead < moved);
            }
        }
    }
}
