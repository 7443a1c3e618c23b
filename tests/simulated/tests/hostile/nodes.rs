//! The frontend's nodes in xenstore.

use std::sync::atomic::{AtomicBool, Ordering};

use simulated::options;
use simxen::frontend::FrontRing;
use simxen::{Abi, Frontend, FrontendOptions, GrantRef};

use crate::attacker::Attacker;
use crate::scene::Scene;

/// Values that are no numbers, or none that fit; xenstore takes up to 4096 bytes with the path.
fn no_numbers() -> Vec<Vec<u8>> {
    let mut values: Vec<Vec<u8>> = [
        "",
        " ",
        "four",
        "-1",
        "+1",
        "1 ",
        " 1",
        "0x10",
        "1e3",
        "1.0",
        "4294967296",
        "99999999999999999999999999",
        "1\n",
        "١",
        "\u{1b}[31mred\u{1b}[0m",
    ]
    .map(|value| value.as_bytes().to_vec())
    .into();
    values.push(vec![b'9'; 3900]);
    values.push(vec![b'x'; 3900]);
    values.push(vec![0xff, 0xfe, 0x80]);
    values.push(b"1\x002".to_vec());
    values
}

/// What a good frontend would have written; `None` if a node has no business there.
struct Offer {
    _ring: FrontRing,
    nodes: Vec<(&'static str, Vec<u8>)>,
}

impl Offer {
    fn good(scene: &Scene) -> Self {
        let ring = FrontRing::new(&scene.guest, Abi::X86_64, 0).unwrap();
        let nodes = vec![
            ("ring-ref", ring.grants()[0].to_string().into_bytes()),
            (
                "event-channel",
                ring.channel().port().to_string().into_bytes(),
            ),
            ("protocol", b"x86_64-abi".to_vec()),
            ("feature-persistent", b"1".to_vec()),
        ];
        Self { _ring: ring, nodes }
    }

    fn write(&self, scene: &Scene) {
        for (name, value) in &self.nodes {
            scene.write_nodes(&[(name, value)]);
        }
    }
}

/// The backend refuses what the frontend offers now, and says why.
fn refused(scene: &mut Scene, wanted: &[&str]) {
    scene.set_state("3");
    let reason = scene.closed_because();
    assert!(reason.len() < 600, "{} bytes", reason.len());
    assert!(!reason.chars().any(char::is_control), "{reason:?}");
    for wanted in wanted {
        assert!(reason.contains(wanted), "{reason} instead of {wanted}");
    }
    scene.start_over();
}

/// After all of that the frontend comes to its senses.
fn connects(scene: &mut Scene) {
    scene.bystander.check();
    for name in [
        "ring-page-order",
        "num-ring-pages",
        "multi-queue-num-queues",
    ] {
        let node = scene.disk.frontend_node(name);
        scene.rig.host.xenstore().rm(&node).unwrap();
    }
    let mut attacker = Attacker::new(Frontend::connect(&scene.disk, options()).unwrap());
    attacker.frontend.read(0, 4096).unwrap();
    scene.bystander.check();
}

#[test]
fn nodes_that_are_missing() {
    let mut scene = Scene::start();
    let offer = Offer::good(&scene);
    for missing in ["ring-ref", "event-channel"] {
        offer.write(&scene);
        let node = scene.disk.frontend_node(missing);
        scene.rig.host.xenstore().rm(&node).unwrap();
        refused(&mut scene, &[missing, "is missing"]);
    }
    offer.write(&scene);
    scene.write_nodes(&[("ring-page-order", b"1"), ("ring-ref0", b"8")]);
    refused(&mut scene, &["ring-ref1 is missing"]);
    scene.write_nodes(&[("multi-queue-num-queues", b"2")]);
    refused(&mut scene, &["queue-0/event-channel is missing"]);
    connects(&mut scene);
    scene.finish();
}

#[test]
fn nodes_that_are_no_numbers_gigantic_or_no_text() {
    let mut scene = Scene::start();
    let offer = Offer::good(&scene);
    for name in [
        "ring-ref",
        "event-channel",
        "feature-persistent",
        "ring-page-order",
        "num-ring-pages",
        "multi-queue-num-queues",
    ] {
        for value in no_numbers() {
            offer.write(&scene);
            scene.write_nodes(&[(name, &value)]);
            refused(&mut scene, &[name]);
        }
        let node = scene.disk.frontend_node(name);
        scene.rig.host.xenstore().rm(&node).unwrap();
    }
    for value in no_numbers() {
        offer.write(&scene);
        scene.write_nodes(&[("protocol", &value)]);
        refused(&mut scene, &["protocol"]);
    }
    scene.write_nodes(&[("protocol", b"x86_64-abi")]);
    connects(&mut scene);
    scene.finish();
}

#[test]
fn ring_sizes_and_queues_beyond_the_limits() {
    let mut scene = Scene::start();
    let offer = Offer::good(&scene);
    for (name, values) in [
        (
            "ring-page-order",
            &["5", "6", "31", "32", "64", "4294967295"][..],
        ),
        (
            "num-ring-pages",
            &["0", "3", "17", "32", "65536", "4294967295"],
        ),
        ("multi-queue-num-queues", &["0", "9", "1000", "4294967295"]),
    ] {
        for value in values {
            offer.write(&scene);
            scene.write_nodes(&[(name, value.as_bytes())]);
            refused(&mut scene, &[&format!("{name} is {value}, which is not")]);
        }
        let node = scene.disk.frontend_node(name);
        scene.rig.host.xenstore().rm(&node).unwrap();
    }
    connects(&mut scene);
    scene.finish();
}

#[test]
fn ring_pages_and_channels_offered_twice_or_never_granted() {
    let mut scene = Scene::start();
    let offer = Offer::good(&scene);
    offer.write(&scene);
    let value = |name: &str| {
        let found = offer.nodes.iter().find(|(node, _)| *node == name);
        found.unwrap().1.clone()
    };
    let (page, port) = (value("ring-ref"), value("event-channel"));
    scene.write_nodes(&[
        ("ring-page-order", b"1"),
        ("ring-ref0", &page),
        ("ring-ref1", &page),
    ]);
    refused(&mut scene, &["ring-ref1 repeats the number"]);
    scene.write_nodes(&[("ring-page-order", b"0"), ("multi-queue-num-queues", b"2")]);
    for queue in ["queue-0", "queue-1"] {
        scene.write_nodes(&[(&format!("{queue}/event-channel"), &port)]);
        scene.write_nodes(&[(&format!("{queue}/ring-ref"), &page)]);
    }
    refused(&mut scene, &["queue-1/event-channel repeats the number"]);
    scene.write_nodes(&[("multi-queue-num-queues", b"1")]);
    let gone = scene
        .guest
        .grant(simxen::PageIndex(0), simxen::Access::ReadWrite)
        .unwrap();
    scene.guest.revoke(gone);
    for bad in [gone, GrantRef(0), GrantRef(u32::MAX)] {
        scene.write_nodes(&[
            ("ring-ref", bad.to_string().as_bytes()),
            ("ring-ref0", bad.to_string().as_bytes()),
        ]);
        refused(&mut scene, &["cannot map the ring", "domain 2"]);
    }
    connects(&mut scene);
    scene.finish();
}

/// What a frontend offers changes all the time while the backend reads it. What was read is what counts; most of it makes
/// no sense.
#[test]
fn nodes_that_are_rewritten_while_connecting() {
    let mut scene = Scene::start();
    let rings: Vec<FrontRing> = (0..8)
        .map(|_| FrontRing::new(&scene.guest, Abi::X86_64, 0).unwrap())
        .collect();
    let store = scene.rig.host.xenstore().clone();
    let node = |name: &str| scene.disk.frontend_node(name);
    let names = ["ring-ref", "ring-ref0", "ring-ref1", "event-channel"].map(node);
    let (order, queues, protocol) = (
        node("ring-page-order"),
        node("multi-queue-num-queues"),
        node("protocol"),
    );
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut round = 0;
            while !stop.load(Ordering::Relaxed) {
                round += 1;
                let ring = &rings[round % rings.len()];
                let (page, port) = (
                    ring.grants()[0].to_string(),
                    ring.channel().port().to_string(),
                );
                for name in &names {
                    let value = if name.ends_with("event-channel") {
                        &port
                    } else {
                        &page
                    };
                    store.write(name, value).unwrap();
                }
                store
                    .write(&order, ["0", "1", "77", "x"][round % 4])
                    .unwrap();
                store
                    .write(&queues, ["1", "1", "2", "9"][round / 3 % 4])
                    .unwrap();
                store
                    .write(&protocol, ["x86_64-abi", "x86_32-abi"][round % 2])
                    .unwrap();
            }
        });
        for round in 0..60 {
            scene.set_state("3");
            let state = scene.disk.backend_node("state");
            let answered = |state: Option<&[u8]>| matches!(state, Some(b"4" | b"5"));
            scene
                .rig
                .host
                .xenstore()
                .wait_for(&state, answered, simulated::PATIENCE)
                .unwrap();
            scene.start_over();
            if round % 20 == 0 {
                scene.bystander.check();
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    scene.rig.host.xenstore().rm(&protocol).unwrap();
    connects(&mut scene);
    scene.finish();
}

/// Thousands of nodes that nobody has asked for, and a state that is written without end.
#[test]
fn a_directory_full_of_nonsense() {
    let mut scene = Scene::start();
    let mut attacker = scene.connect(FrontendOptions::clone(&options()));
    let lines = scene.log_lines_when_connected();
    let large = vec![b'z'; 3000];
    for round in 0..2000 {
        scene.write_nodes(&[(&format!("junk-{round}/below"), &large), ("state", b"4")]);
        if round % 500 == 0 {
            scene.bystander.check();
            attacker.frontend.read(0, 4096).unwrap();
        }
    }
    attacker.frontend.read(0, 4096).unwrap();
    assert_eq!(scene.log_lines().len(), lines);
    scene.finish();
}
