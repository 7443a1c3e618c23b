//! The index arithmetic, against wide integers that do not wrap.

use crate::ring::{BackIndices, RingError, must_notify};

/// Bases around which every index wraps somewhere.
const BASES: [u64; 4] = [1 << 32, (1 << 32) - 3, (1 << 32) + 17, 3 << 31];

#[allow(clippy::cast_possible_truncation, reason = "indices are modulo 2^32")]
const fn wrap(index: u64) -> u32 {
    index as u32
}

#[test]
fn pending_says_what_unbounded_indices_say() {
    for base in BASES {
        for size in [1_u64, 2, 4, 8] {
            for in_flight in 0..=size {
                let req_cons = base + in_flight;
                let indices = BackIndices::<32>::resume(wrap(size), wrap(base), wrap(req_cons))
                    .expect("resume");
                assert_eq!(u64::from(indices.in_flight()), in_flight);
                for req_prod in base - 40..base + 40 {
                    let expected = if req_prod < base || req_prod > base + size {
                        Err(RingError::RequestOverflow {
                            req_prod: wrap(req_prod),
                            rsp_prod: wrap(base),
                            size: wrap(size),
                        })
                    } else if req_prod < req_cons {
                        Err(RingError::ProducerWentBack {
                            req_prod: wrap(req_prod),
                            req_cons: wrap(req_cons),
                        })
                    } else {
                        Ok(wrap(req_prod - req_cons))
                    };
                    assert_eq!(
                        indices.pending(wrap(req_prod)),
                        expected,
                        "base {base}, size {size}, in flight {in_flight}, producer {req_prod}"
                    );
                }
            }
        }
    }
}

#[test]
fn resume_takes_only_what_can_be_in_flight() {
    for base in BASES {
        for ahead in 0..=32 {
            assert!(BackIndices::<32>::resume(32, wrap(base), wrap(base + ahead)).is_ok());
        }
        for req_cons in [base - 1, base + 33, base + (1 << 31)] {
            assert_eq!(
                BackIndices::<32>::resume(32, wrap(base), wrap(req_cons)),
                Err(RingError::ResumeOutOfRange {
                    req_cons: wrap(req_cons),
                    rsp_prod: wrap(base),
                    size: 32
                })
            );
        }
    }
}

#[test]
fn slots_follow_the_index_across_the_wrap() {
    let mut indices = BackIndices::<32>::resume(4, u32::MAX - 1, u32::MAX - 1).expect("resume");
    assert_eq!(indices.take(), 2);
    assert_eq!(indices.take(), 3);
    assert_eq!(indices.take(), 0);
    assert_eq!(indices.req_cons(), 1);
    assert_eq!(indices.in_flight(), 3);
    assert_eq!(indices.respond(), Ok(2));
    assert_eq!(indices.publish(), Some((u32::MAX - 1, u32::MAX)));
    assert_eq!(indices.respond(), Ok(3));
    assert_eq!(indices.respond(), Ok(0));
    assert_eq!(indices.publish(), Some((u32::MAX, 1)));
    assert_eq!(indices.publish(), None);
    assert_eq!(indices.respond(), Err(RingError::NothingToAnswer(1)));
    assert_eq!(indices.rsp_prod(), 1);
}

#[test]
fn notify_exactly_when_the_event_is_passed() {
    // The peer wants to be told when entry `event - 1` is there: the index moved from at most
    // `event - 1` to at least `event`.
    for base in BASES {
        for old in base..base + 8 {
            for new in old..base + 16 {
                for event in base - 8..base + 24 {
                    assert_eq!(
                        must_notify(wrap(old), wrap(new), wrap(event)),
                        old < event && event <= new,
                        "{old} to {new}, event {event}"
                    );
                }
            }
        }
    }
}
