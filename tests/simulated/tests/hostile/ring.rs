//! The ring's pages: indices and slots.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use simulated::{PATIENCE, options};
use simxen::frontend::FrontRing;
use simxen::{Abi, FrontendOptions};

use crate::attacker::{ERROR, OKAY, READ, WRITE, whole};
use crate::scene::{BOTH_WAYS, Scene, plain};

/// Bytes of a slot that no answer covers: from the sector on.
const BEHIND_ANSWER: usize = 16;

#[test]
fn a_producer_beyond_the_ring() {
    let mut scene = Scene::start();
    for persistent in BOTH_WAYS {
        for ahead in [33, 1000, 1 << 31, u32::MAX - 32] {
            let mut attacker = scene.connect_plainly(persistent);
            let ring = attacker.frontend.ring(0);
            ring.set_request_producer(ring.request_producer().wrapping_add(ahead));
            ring.channel().notify();
            scene.bystander.check();
            let reason = scene.closed_because();
            assert!(
                reason.contains("the frontend claims requests up to"),
                "{reason}"
            );
            drop(attacker);
            scene.start_over();
        }
    }
    scene.finish();
}

#[test]
fn a_producer_that_goes_back() {
    let mut scene = Scene::start();
    let mut attacker = scene.connect_plainly(true);
    for sector in 0..5 {
        attacker.frontend.read(sector, 512).unwrap();
    }
    let ring = attacker.frontend.ring(0);
    ring.set_request_producer(2);
    ring.channel().notify();
    scene.bystander.check();
    let reason = scene.closed_because();
    // Behind what was answered, it is as far ahead of the answers as indices can be.
    assert!(
        reason.contains("the frontend claims requests up to 2 with responses up to 5"),
        "{reason}"
    );
    // The ring is not looked at again, whatever is there.
    attacker.frontend.ring(0).set_request_producer(5);
    attacker.frontend.ring(0).channel().notify();
    scene.bystander.check();
    scene.finish();
}

/// A ring that begins just below the end of all indices, or whose indices cannot be.
#[test]
fn indices_that_wrap_or_do_not_fit() {
    let scene = Scene::start();
    for (request, response, wraps) in [
        (u32::MAX - 5, u32::MAX - 5, true),
        (4, u32::MAX - 5, true),
        (34, 1, false),
        (0, 1, false),
        (u32::MAX, 0, false),
    ] {
        let ring = FrontRing::new(&scene.guest, Abi::X86_64, 0).unwrap();
        ring.set_response_producer(response);
        ring.set_request_producer(request);
        scene.write_nodes(&[
            ("protocol", b"x86_64-abi"),
            ("ring-ref", ring.grants()[0].to_string().as_bytes()),
            (
                "event-channel",
                ring.channel().port().to_string().as_bytes(),
            ),
            ("state", b"3"),
        ]);
        if !wraps {
            let reason = scene.closed_because();
            assert!(reason.contains("the ring is not usable"), "{reason}");
            scene.start_over();
            continue;
        }
        scene.wait_for_backend("4");
        scene.set_state("4");
        // A slot of zeros is a read without segments, which is refused.
        let end = request.wrapping_add(16);
        for index in 0..16 {
            ring.write_entry(request.wrapping_add(index), &[0; 112]);
        }
        ring.set_response_event(end);
        ring.set_request_producer(end);
        ring.channel().notify();
        while ring.response_producer() != end {
            ring.channel().wait(PATIENCE).unwrap();
        }
        for index in 0..16 {
            let answer = Abi::X86_64.decode_response(&ring.read_entry(request.wrapping_add(index)));
            assert_eq!(answer.status, ERROR);
        }
        scene.start_over();
    }
    scene.finish();
}

/// The sector and the segment of a write change all the time, from what is right to what is not. Whatever was copied out
/// is looked at, and nothing else: a sector that was not checked would be one that may not be written.
#[test]
fn slots_that_change_while_they_are_read() {
    let mut scene = Scene::start();
    for persistent in BOTH_WAYS {
        let mut attacker = scene.connect_plainly(persistent);
        let page = attacker.page(0xee);
        let good = attacker.transfer(WRITE, 64, &[whole(page.grant)]);
        let mut bad = attacker.transfer(WRITE, 1 << 54, &[whole(page.grant)]);
        bad[28..30].copy_from_slice(&[7, 200]);
        let domain = attacker.domain();
        let ring = attacker.frontend.ring(0);
        let (first_page, entries) = (ring.first_page(), ring.entry_count());
        let places: Vec<usize> = (0..entries)
            .map(|index| ring.entry_position(index))
            .collect();
        let stop = AtomicBool::new(false);
        let mut seen = [0, 0];
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    for content in [&bad, &good] {
                        for place in &places {
                            let bytes = &content[BEHIND_ANSWER..32];
                            domain.write_memory(first_page, place + BEHIND_ANSWER, bytes);
                        }
                    }
                }
            });
            let begun = Instant::now();
            let mut round = 0;
            while round < 200 || seen.contains(&0) {
                assert!(begun.elapsed() < PATIENCE, "{seen:?}");
                round += 1;
                for _ in 0..entries {
                    attacker.send(0, good.clone());
                }
                for _ in 0..entries {
                    match attacker.answer().status {
                        OKAY => seen[0] += 1,
                        ERROR => seen[1] += 1,
                        other => panic!("answered {other}"),
                    }
                }
                if round % 50 == 0 {
                    scene.bystander.check();
                }
            }
            stop.store(true, Ordering::Relaxed);
        });
        let found = attacker.frontend.read(48, 24 * 512).unwrap();
        assert!(
            found[..16 * 512]
                .chunks(512)
                .enumerate()
                .all(|(at, sector)| sector == simulated::base_sector(48 + at))
        );
        assert!(found[16 * 512..].iter().all(|byte| *byte == 0xee));
        attacker.frontend.close().unwrap();
        scene.start_over_closed();
    }
    scene.finish();
}

/// The indices that only the backend may write are its own business: whatever is in the page, it goes on.
#[test]
fn indices_of_the_backend_that_are_overwritten() {
    let mut scene = Scene::start();
    let mut attacker = scene.connect_plainly(false);
    let domain = attacker.domain();
    let first_page = attacker.frontend.ring(0).first_page();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let ring = attacker.frontend.ring(0);
        scope.spawn(|| {
            let mut value = 0x9e37_79b9_u32;
            while !stop.load(Ordering::Relaxed) {
                value = value.wrapping_mul(0x0019_660d).wrapping_add(0x3c6e_f35f);
                for place in [4, 8, 12] {
                    domain
                        .word(first_page, place)
                        .store(value, Ordering::Relaxed);
                }
            }
        });
        for round in 1..=50 {
            for index in 0..32 {
                ring.write_entry(index, &[0; 112]);
            }
            ring.set_request_producer(round * 32);
            ring.channel().notify();
            scene.bystander.check();
        }
        stop.store(true, Ordering::Relaxed);
    });
    scene.wait_for_listed("rejected", |count| count == 50 * 32);
    assert_eq!(scene.listed("connected"), true);
    scene.finish();
}

/// A worker takes a part of what is on a ring and goes on with others before it takes more. That shows in the answers, which
/// come to be seen at the end of each round: not all of a full ring's together, or not always.
#[test]
fn a_full_ring_is_taken_in_turns() {
    let mut scene = Scene::start();
    let mut attacker = scene.connect(FrontendOptions {
        ring_order: 4,
        ..options()
    });
    let ring = attacker.frontend.ring(0);
    let begun = Instant::now();
    let mut end = 0;
    let mut seen_in_between = false;
    while !seen_in_between {
        for index in 0..512 {
            ring.write_entry(index, &[0; 112]);
        }
        let start = end;
        end += 512;
        ring.set_request_producer(end);
        ring.channel().notify();
        let mut answered = start;
        while answered != end {
            answered = ring.response_producer();
            seen_in_between |= answered != start && answered != end;
            assert!(
                begun.elapsed() < PATIENCE,
                "always all at once, or not at all"
            );
        }
    }
    scene.bystander.check();
    scene.finish();
}

/// Ends an attack with the test, however that ends.
struct Ends<'t>(&'t AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Half a gigabyte asked for at once. The worker has something left to do all that time, and must look at other rings after
/// each turn; and a turn must be no longer than what a turn of small requests takes.
#[test]
fn a_ring_full_of_large_requests() {
    let mut scene = Scene::start();
    let mut attacker = scene.connect(FrontendOptions {
        ring_order: 4,
        ..plain(true)
    });
    let page = attacker.page(0);
    let largest = attacker.indirect(READ, 0, &[whole(page.grant); 256]);
    let ring = attacker.frontend.ring(0);
    let size = ring.entry_count();
    for index in 0..size {
        ring.write_entry(index, &largest);
    }
    ring.set_request_producer(size);
    ring.channel().notify();
    // What the attacker got for each request of the other guest.
    let mut meanwhile = Vec::new();
    loop {
        let before = ring.response_producer();
        scene.bystander.look();
        let after = ring.response_producer();
        if after == size {
            break;
        }
        if before > 0 {
            meanwhile.push(after - before);
        }
    }
    assert!(meanwhile.len() >= 10, "{meanwhile:?}");
    meanwhile.sort_unstable();
    let median = meanwhile[meanwhile.len() / 2];
    // A few turns of four requests each, which have 1024 segments.
    assert!(median <= 32, "{meanwhile:?}");
    scene.finish();
}

/// The worker always has something left to do, for ever. (Not looking at other rings meanwhile would make this slow, and not
/// fail: whenever the attacker has no processor, the worker does come to the end of its ring.)
#[test]
fn a_ring_that_is_always_full() {
    let mut scene = Scene::start();
    let mut attacker = scene.connect(FrontendOptions {
        ring_order: 4,
        ..options()
    });
    let (begun, stop) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // What is in the slots does not matter, so nothing has to be written there: whatever is answered makes room for
            // as much.
            let ring = attacker.frontend.ring(0);
            let size = ring.entry_count();
            for round in 0_u32.. {
                let answered = ring.response_producer();
                ring.set_request_producer(answered.wrapping_add(size));
                // If the worker did come to the end, since this thread had no processor for a while.
                if round.is_multiple_of(1 << 12) {
                    ring.channel().notify();
                }
                begun.fetch_or(answered > size, Ordering::Relaxed);
                if stop.load(Ordering::Relaxed) {
                    return;
                }
            }
        });
        let _ends = Ends(&stop);
        while !begun.load(Ordering::Relaxed) {
            std::thread::yield_now();
        }
        for _ in 0..20 {
            scene.bystander.check();
        }
    });
    assert!(scene.listed("rejected").as_u64() > Some(512));
    scene.finish();
}

/// A guest whose every request is refused gets its answers at once, and room for more requests with each: the worker must
/// leave its ring all the same.
#[test]
fn a_ring_that_is_never_empty() {
    let mut scene = Scene::start();
    let mut attacker = scene.connect(FrontendOptions {
        ring_order: 4,
        ..options()
    });
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // The answer lands in its slot before it is published; whoever looks there can put the next request on the
            // ring while the worker is still at it.
            let ring = attacker.frontend.ring(0);
            let size = ring.entry_count();
            let mut produced = 0u32;
            let mut spins = 0u32;
            while !stop.load(Ordering::Relaxed) {
                let status = &ring.read_entry(produced)[10..12];
                if produced >= size && status != [0xff, 0xff] {
                    spins += 1;
                    if spins.is_multiple_of(1 << 12) {
                        ring.channel().notify();
                    }
                    continue;
                }
                ring.write_entry(produced, &[0; 112]);
                produced += 1;
                ring.set_request_producer(produced);
            }
        });
        let _ends = Ends(&stop);
        for _ in 0..50 {
            scene.bystander.check();
        }
    });
    assert!(scene.listed("rejected").as_u64() > Some(512));
    let lines = scene.log_lines();
    let refused = lines
        .iter()
        .filter(|line| line.contains("transfer without segments"));
    assert_eq!(refused.count(), 1, "{lines:?}");
    scene.finish();
}
