//! Event channels: which one a frontend names, and how often it rings.

use std::sync::atomic::{AtomicBool, Ordering};

use simxen::{Access, DomId};

use crate::scene::Scene;

/// What a frontend must offer beside its channel.
fn offer_ring(scene: &Scene) {
    let page = scene.guest.allocate_pages(1).unwrap();
    scene.guest.fill_pages(page, 1, 0);
    let gref = scene.guest.grant(page, Access::ReadWrite).unwrap();
    scene.write_nodes(&[("ring-ref", gref.to_string().as_bytes())]);
}

#[test]
fn channels_that_are_not_its_own() {
    let mut scene = Scene::start();
    offer_ring(&scene);
    let foreign = scene.guest.offer_channel(DomId(1)).unwrap();
    let closed = scene.guest.allocate_channel().unwrap();
    let closed_port = closed.port();
    closed.close();
    for port in [foreign.port().0, closed_port.0, 4000, u32::MAX] {
        let port = port.to_string();
        scene.write_nodes(&[("event-channel", port.as_bytes()), ("state", b"3")]);
        scene.bystander.check();
        let reason = scene.closed_because();
        assert!(
            reason.contains(&format!("event channel {port} of domain 2: cannot bind")),
            "{reason}"
        );
        scene.start_over();
    }
    scene.finish();
}

/// Each channel that cannot be bound costs a descriptor that the library does not give back. So only a few are tried,
/// however the guest brings about that it may try again: by closing, or by taking its state away, upon which the image is
/// closed, and opened again.
#[test]
fn channels_that_cannot_be_bound_again_and_again() {
    for taken_away in [false, true] {
        let mut scene = Scene::start();
        offer_ring(&scene);
        scene.write_nodes(&[("event-channel", b"4000")]);
        for _ in 0..40 {
            scene.set_state("3");
            scene.wait_for_backend("5");
            if taken_away {
                scene.set_state("nothing");
                scene.wait_for_backend("6");
                scene.set_state("1");
                scene.wait_for_backend("2");
            } else {
                scene.start_over();
            }
        }
        scene.bystander.check();
        let log = scene.rig.daemon.log();
        // Each is logged at most twice: by the worker's report, and by the library.
        let tries = log
            .matches("event channel 4000 of domain 2: cannot bind")
            .count();
        assert!((1..=16).contains(&tries), "{tries} tries");
        scene.set_state("3");
        let reason = scene.closed_because();
        assert!(reason.contains("failed to connect too often"), "{reason}");
        scene.finish();
    }
}

/// Events without requests, as fast as a thread can make them.
#[test]
fn a_storm_of_events() {
    let mut scene = Scene::start();
    let mut attacker = scene.connect_plainly(true);
    let before = scene.log_lines_when_connected();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let channel = attacker.frontend.ring(0).channel();
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                channel.notify();
            }
        });
        for _ in 0..200 {
            scene.bystander.check();
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(scene.log_lines().len(), before);
    attacker.frontend.read(0, 512).unwrap();
    scene.finish();
}
