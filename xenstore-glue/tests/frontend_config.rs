//! What frontends write, well-behaved and hostile, and what is made of it.

use std::collections::HashMap;

use xenstore_glue::frontend::{
    FrontendConfig, FrontendError, Header, Limits, Node, Protocol, QueueConfig,
};
use xenstore_glue::{EventChannel, GrantRef};

const LIMITS: Limits = Limits {
    max_ring_page_order: 4,
    max_queues: 4,
    default_protocol: Protocol::X86_32,
};

fn parse(nodes: &[(&str, &str)]) -> Result<FrontendConfig, FrontendError> {
    let nodes: HashMap<&str, &str> = nodes.iter().copied().collect();
    let get = |name: &str| match nodes.get(name) {
        None => Node::Missing,
        Some(&"<binary>") => Node::Malformed,
        Some(value) => Node::Value((*value).to_owned()),
    };
    let header = Header::parse(&LIMITS, get)?;
    // Only what was announced may be asked for: the runner reads exactly these nodes.
    let announced = header.ring_nodes();
    header.finish(|name| {
        assert!(announced.iter().any(|node| node == name), "{name}");
        get(name)
    })
}

fn queue(ring_refs: &[u32], port: u32) -> QueueConfig {
    QueueConfig {
        ring_refs: ring_refs.iter().copied().map(GrantRef).collect(),
        event_channel: EventChannel(port),
    }
}

fn message(nodes: &[(&str, &str)]) -> String {
    parse(nodes).unwrap_err().to_string()
}

#[test]
fn the_oldest_frontends_give_a_ring_and_a_channel() {
    assert_eq!(
        parse(&[("ring-ref", "8"), ("event-channel", "15")]),
        Ok(FrontendConfig {
            protocol: Protocol::X86_32,
            persistent_grants: false,
            queues: vec![queue(&[8], 15)],
        })
    );
}

#[test]
fn linux_with_one_page_numbers_it_or_does_not() {
    for nodes in [
        [("ring-page-order", "0"), ("ring-ref0", "8")],
        [("ring-page-order", "0"), ("ring-ref", "8")],
        [("num-ring-pages", "1"), ("ring-ref", "8")],
        [("feature-persistent", "0"), ("ring-ref0", "8")],
    ] {
        let nodes = [&nodes[..], &[("event-channel", "15")]].concat();
        assert_eq!(
            parse(&nodes).unwrap().queues,
            [queue(&[8], 15)],
            "{nodes:?}"
        );
    }
}

#[test]
fn the_style_of_the_header_decides_between_two_names_for_one_page() {
    let both = [
        ("ring-ref", "1"),
        ("ring-ref0", "2"),
        ("event-channel", "3"),
    ];
    assert_eq!(parse(&both).unwrap().queues, [queue(&[1], 3)]);
    let numbered = [&both[..], &[("ring-page-order", "0")]].concat();
    assert_eq!(parse(&numbered).unwrap().queues, [queue(&[2], 3)]);
}

#[test]
fn large_rings_and_many_queues() {
    assert_eq!(
        parse(&[
            ("protocol", "x86_64-abi"),
            ("feature-persistent", "1"),
            ("ring-page-order", "1"),
            ("num-ring-pages", "2"),
            ("multi-queue-num-queues", "2"),
            ("queue-0/ring-ref0", "1"),
            ("queue-0/ring-ref1", "2"),
            ("queue-0/event-channel", "5"),
            ("queue-1/ring-ref0", "3"),
            ("queue-1/ring-ref1", "4"),
            ("queue-1/event-channel", "6"),
        ]),
        Ok(FrontendConfig {
            protocol: Protocol::X86_64,
            persistent_grants: true,
            queues: vec![queue(&[1, 2], 5), queue(&[3, 4], 6)],
        })
    );
    assert_eq!(
        parse(&[
            ("protocol", "arm-abi"),
            ("num-ring-pages", "2"),
            ("multi-queue-num-queues", "1"),
            ("ring-ref0", "1"),
            ("ring-ref1", "0"),
            ("event-channel", "4294967295"),
        ])
        .unwrap()
        .queues,
        [queue(&[1, 0], 4_294_967_295)]
    );
}

#[test]
fn missing_nodes_are_named() {
    assert_eq!(
        message(&[("ring-ref", "8")]),
        "frontend node event-channel is missing"
    );
    assert_eq!(
        message(&[("event-channel", "8")]),
        "frontend node ring-ref is missing"
    );
    assert_eq!(
        message(&[
            ("event-channel", "8"),
            ("ring-page-order", "1"),
            ("ring-ref0", "1")
        ]),
        "frontend node ring-ref1 is missing"
    );
    assert_eq!(
        message(&[
            ("multi-queue-num-queues", "2"),
            ("ring-ref", "1"),
            ("event-channel", "8")
        ]),
        "frontend node queue-0/event-channel is missing"
    );
}

#[test]
fn values_that_are_not_numbers_are_shown_escaped_and_cut() {
    for value in ["", " 8", "8 ", "-1", "+8", "0x8", "4294967296", "८"] {
        let error = parse(&[("ring-ref", value), ("event-channel", "15")]).unwrap_err();
        assert!(matches!(error, FrontendError::NotANumber { .. }), "{value}");
    }
    assert_eq!(
        message(&[("ring-ref", "8\n\u{7}evil"), ("event-channel", "15")]),
        "frontend node ring-ref is not a number: \"8\\n\\u{7}evil\""
    );
    assert!(message(&[("event-channel", &"9".repeat(4000))]).len() < 120);
    assert_eq!(
        message(&[("ring-ref", "<binary>"), ("event-channel", "15")]),
        "frontend node ring-ref is not text"
    );
    assert_eq!(
        message(&[("protocol", "<binary>")]),
        "frontend node protocol is not text"
    );
    assert_eq!(
        message(&[("protocol", "vax-abi")]),
        "frontend node protocol names no known protocol: \"vax-abi\""
    );
}

#[test]
fn counts_are_bounded_before_anything_is_read_for_them() {
    assert_eq!(
        message(&[("ring-page-order", "5")]),
        "frontend node ring-page-order is 5, which is not at most 4"
    );
    for order in ["31", "32", "64", "4294967295"] {
        assert!(parse(&[("ring-page-order", order)]).is_err(), "{order}");
    }
    for pages in ["0", "3", "32", "4294967295"] {
        assert!(parse(&[("num-ring-pages", pages)]).is_err(), "{pages}");
    }
    for queues in ["0", "5", "4294967295"] {
        let error = parse(&[("multi-queue-num-queues", queues)]).unwrap_err();
        assert!(
            matches!(error, FrontendError::OutOfRange { .. }),
            "{queues}"
        );
    }
    assert_eq!(
        message(&[("ring-ref", "1"), ("event-channel", "0")]),
        "frontend node event-channel is 0, which is not an event channel"
    );
}

#[test]
fn pages_and_channels_belong_to_one_ring() {
    assert_eq!(
        message(&[
            ("ring-page-order", "1"),
            ("ring-ref0", "7"),
            ("ring-ref1", "7"),
            ("event-channel", "1"),
        ]),
        "frontend node ring-ref1 repeats the number 7 of another ring"
    );
    assert_eq!(
        message(&[
            ("multi-queue-num-queues", "2"),
            ("queue-0/ring-ref", "1"),
            ("queue-0/event-channel", "5"),
            ("queue-1/ring-ref", "2"),
            ("queue-1/event-channel", "5"),
        ]),
        "frontend node queue-1/event-channel repeats the number 5 of another ring"
    );
}
