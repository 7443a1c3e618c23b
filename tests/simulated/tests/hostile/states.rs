//! The frontend's state, and whether there is a guest at all.

use std::sync::atomic::{AtomicBool, Ordering};

use simulated::base_sector;
use simxen::Request;

use crate::scene::{BOTH_WAYS, Scene};

/// Everything that can be in a state node, and more.
const STATES: [&str; 16] = [
    "0",
    "1",
    "2",
    "3",
    "4",
    "5",
    "6",
    "7",
    "8",
    "9",
    "",
    "-1",
    "garbage",
    "4 ",
    "4294967300",
    "03",
];

/// Writes are on the ring, and not waited for.
fn submit_writes(attacker: &mut crate::attacker::Attacker) {
    let data = [3; 44 * 1024];
    for index in 0..32 {
        let sector = index * 88;
        let write = Request::Write {
            sector,
            data: &data,
        };
        attacker.frontend.submit(&write).unwrap();
    }
}

#[test]
fn flapping_through_all_states() {
    let mut scene = Scene::start();
    let mut attacker = scene.connect_plainly(true);
    attacker.frontend.write(0, &[6; 4096]).unwrap();
    let node = scene.disk.frontend_node("state");
    let store = scene.rig.host.xenstore().clone();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut next = 1_u32;
            while !stop.load(Ordering::Relaxed) {
                next = next.wrapping_mul(0x0019_660d).wrapping_add(0x3c6e_f35f);
                store
                    .write(&node, STATES[(next >> 16) as usize % STATES.len()])
                    .unwrap();
                // Sometimes fast enough that nobody can follow, sometimes slowly enough that somebody does.
                for _ in 0..next >> 28 {
                    std::thread::yield_now();
                }
            }
        });
        for _ in 0..60 {
            scene.bystander.check();
        }
        stop.store(true, Ordering::Relaxed);
    });
    drop(attacker);
    // Nothing is stuck: the device follows a frontend that does as it should.
    scene.set_state("6");
    scene.wait_for_backend("6");
    let mut attacker = scene.connect_plainly(true);
    assert_eq!(attacker.frontend.read(0, 4096).unwrap(), [6; 4096]);
    assert_eq!(attacker.frontend.read(8, 512).unwrap(), base_sector(8));
    scene.finish();
}

/// Connected and disconnected without end, as fast as the backend follows, with mistakes on each connection.
#[test]
fn connecting_without_end_does_not_fill_the_log() {
    let mut scene = Scene::start();
    for round in 0..100 {
        let mut attacker = scene.connect_plainly(round % 2 == 0);
        let nonsense = attacker.transfer(200, 0, &[]);
        assert_eq!(attacker.ask(nonsense), crate::attacker::NOT_SUPPORTED);
        attacker.frontend.close().unwrap();
        if round % 3 == 0 {
            // Upon which the image is closed, and opened again.
            let node = scene.disk.frontend_node("state");
            scene.rig.host.xenstore().rm(&node).unwrap();
            scene.wait_for_list_closed();
        }
        scene.start_over_closed();
    }
    scene.bystander.check();
    let lines = scene.log_lines().len();
    assert!(lines <= 250, "{lines} lines");
    scene.finish();
}

#[test]
fn closing_with_requests_in_flight() {
    for state in ["5", "6", "1", "0", "x"] {
        let mut scene = Scene::start();
        for persistent in BOTH_WAYS {
            let mut attacker = scene.connect_plainly(persistent);
            submit_writes(&mut attacker);
            scene.set_state(state);
            scene.bystander.check();
            drop(attacker);
            scene.set_state("6");
            scene.wait_for_backend("6");
            scene.start_over_closed();
        }
        scene.finish();
    }
}

/// The guest, its grants and its channels are gone at once.
#[test]
fn vanishing_with_requests_in_flight() {
    for persistent in BOTH_WAYS {
        let mut scene = Scene::start();
        let mut attacker = scene.connect_plainly(persistent);
        submit_writes(&mut attacker);
        scene.rig.host.vanish_domain(&scene.guest).unwrap();
        scene.bystander.check();
        scene.wait_for_backend("6");
        scene.finish();
    }
}

#[test]
fn destroyed_with_requests_in_flight() {
    for persistent in BOTH_WAYS {
        let scene = Scene::start();
        let mut attacker = scene.connect_plainly(persistent);
        submit_writes(&mut attacker);
        scene.finish();
    }
}
