//! What a frontend writes into its directory to describe its rings: numbers, nearly numbers, and anything.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use xenstore_glue::DeviceId;
use xenstore_glue::frontend::{
    FrontendConfig, FrontendError, HEADER_NODES, Header, Limits, Node, Protocol,
};

use crate::script::Script;

/// Longest text of an error: it goes into a log line and an error node.
const TEXT_MAX: usize = 600;

const ODD: &[&[u8]] = &[
    b"",
    b" 1",
    b"1 ",
    b"+1",
    b"-1",
    b"0x10",
    b"1\n",
    b"4294967296",
    b"18446744073709551617",
    b"99999999999999999999999999999999999999999999999999999999999999999999999999",
    b"one",
    b"1.0",
    "\u{661}".as_bytes(),
    b"\xff",
    b"1\0",
    b"x86_64-abi ",
];

const PROTOCOLS: [(&str, Protocol); 3] = [
    ("x86_64-abi", Protocol::X86_64),
    ("x86_32-abi", Protocol::X86_32),
    ("arm-abi", Protocol::Arm),
];

/// Describes rings.
pub(crate) fn frontend_nodes(script: &mut Script<'_>) {
    device_path(script);
    let limits = Limits {
        max_ring_page_order: u32::from(script.byte() % 5),
        max_queues: u32::from(script.byte() % 9),
        default_protocol: PROTOCOLS[script.index(3)].1,
    };
    let mut directory = Directory::default();
    directory.write_header(script, &limits);
    let header = match Header::parse(&limits, |name| directory.read(name)) {
        Ok(header) => header,
        Err(error) => return directory.check_refusal(&error),
    };
    let names = header.ring_nodes();
    let queues = limits.max_queues.max(1) as usize;
    assert!(names.len() <= queues * (2 + (1 << limits.max_ring_page_order)));
    directory.write_rings(script, &names);
    match header.finish(|name| directory.read(name)) {
        Ok(config) => directory.check(&limits, &config),
        Err(error) => directory.check_refusal(&error),
    }
}

/// The path of a device, which others write too.
fn device_path(script: &mut Script<'_>) {
    let len = script.index(64);
    let text = String::from_utf8_lossy(script.take(len)).into_owned();
    let path = match script.byte() % 4 {
        0 => text,
        1 => format!("backend/vbd3/{text}"),
        2 => format!("/local/domain/0/backend/vbd/{text}"),
        _ => format!("backend/vbd/{}/{}", script.u16(), script.u32()),
    };
    match path.parse::<DeviceId>() {
        Ok(device) => assert_eq!(device.to_string().parse(), Ok(device)),
        Err(error) => check_text(&error.to_string()),
    }
}

/// A frontend's directory.
#[derive(Default)]
struct Directory {
    nodes: BTreeMap<String, Vec<u8>>,
    /// Nodes that may not be as they should.
    odd: usize,
    /// Those that may be asked for.
    announced: BTreeSet<String>,
    asked: RefCell<BTreeSet<String>>,
}

impl Directory {
    fn write_header(&mut self, script: &mut Script<'_>, limits: &Limits) {
        self.announced
            .extend(HEADER_NODES.iter().map(|name| (*name).to_owned()));
        if script.byte() % 2 == 1 {
            let (name, _) = PROTOCOLS[script.index(3)];
            self.write(script, "protocol", name.to_owned());
        }
        for (name, value) in [
            ("feature-persistent", u32::from(script.byte() % 3)),
            (
                "ring-page-order",
                Self::up_to(script, limits.max_ring_page_order),
            ),
            (
                "num-ring-pages",
                1 << Self::up_to(script, limits.max_ring_page_order),
            ),
            (
                "multi-queue-num-queues",
                1 + Self::up_to(script, limits.max_queues.max(1) - 1),
            ),
        ] {
            if script.byte() % 2 == 1 {
                self.write(script, name, value.to_string());
            }
        }
    }

    fn up_to(script: &mut Script<'_>, most: u32) -> u32 {
        u32::from(script.byte()) % (most + 1)
    }

    fn write_rings(&mut self, script: &mut Script<'_>, names: &[String]) {
        self.announced.extend(names.iter().cloned());
        let first = u64::from(script.u32());
        for (number, name) in names.iter().enumerate() {
            // Distinct, and no event channel is 0.
            let value = (first + number as u64) % u64::from(u32::MAX) + 1;
            self.write(script, name, value.to_string());
        }
    }

    /// Mostly as it should be.
    fn write(&mut self, script: &mut Script<'_>, name: &str, value: String) {
        let decision = script.byte();
        if decision < 224 {
            self.nodes.insert(name.to_owned(), value.into_bytes());
            return;
        }
        self.odd += 1;
        let odd = match decision % 8 {
            0 => return,
            1 => ODD[script.index(ODD.len())].to_vec(),
            2 => {
                let len = script.index(256);
                script.take(len).to_vec()
            }
            3 => script.u32().to_string().into_bytes(),
            4 => format!("000{value}").into_bytes(),
            5 => char::from(script.byte())
                .to_string()
                .repeat(1 << 16)
                .into_bytes(),
            6 => b"0".to_vec(),
            _ => script.byte().to_string().into_bytes(),
        };
        self.nodes.insert(name.to_owned(), odd);
    }

    /// What the store says of a node, and that it was asked.
    fn read(&self, name: &str) -> Node {
        assert!(self.announced.contains(name), "{name} was not announced");
        self.asked.borrow_mut().insert(name.to_owned());
        match self.nodes.get(name) {
            None => Node::Missing,
            Some(bytes) => match String::from_utf8(bytes.clone()) {
                Ok(text) => Node::Value(text),
                Err(_) => Node::Malformed,
            },
        }
    }

    /// The number in a node, by digits.
    fn number(&self, name: &str) -> Option<u32> {
        let digits = self.nodes.get(name)?;
        assert!(!digits.is_empty(), "{name} is empty");
        let value = digits.iter().fold(0_u64, |value, digit| {
            assert!(digit.is_ascii_digit(), "{name} is no number");
            (value * 10 + u64::from(digit - b'0')).min(1 << 32)
        });
        Some(u32::try_from(value).expect("a number of 32 bits"))
    }

    fn check_refusal(&self, error: &FrontendError) {
        assert!(self.odd > 0, "refused for no reason: {error}");
        check_text(&error.to_string());
    }

    /// What was taken is what is written, and within the limits.
    fn check(&self, limits: &Limits, config: &FrontendConfig) {
        let protocol = self.nodes.get("protocol").map(Vec::as_slice);
        let named = PROTOCOLS
            .iter()
            .find(|(_, known)| *known == config.protocol);
        match protocol {
            None => assert_eq!(config.protocol, limits.default_protocol),
            Some(text) => assert_eq!(named.map(|(name, _)| name.as_bytes()), Some(text)),
        }
        let persistent = self.number("feature-persistent").unwrap_or(0);
        assert_eq!(config.persistent_grants, persistent != 0);
        let queues = self.number("multi-queue-num-queues").unwrap_or(1);
        assert!(queues >= 1 && queues <= limits.max_queues.max(1));
        assert_eq!(config.queues.len(), queues as usize);
        let order = self.number("ring-page-order").map(|order| 1 << order);
        let pages = order.or_else(|| self.number("num-ring-pages")).unwrap_or(1);
        assert!(pages.is_power_of_two() && pages <= 1 << limits.max_ring_page_order);
        let (mut refs, mut channels) = (BTreeSet::new(), BTreeSet::new());
        for (number, queue) in config.queues.iter().enumerate() {
            let folder = if queues == 1 {
                String::new()
            } else {
                format!("queue-{number}/")
            };
            let channel = queue.event_channel.0;
            assert_eq!(
                Some(channel),
                self.number(&format!("{folder}event-channel"))
            );
            assert!(channel > 0 && channels.insert(channel), "a channel twice");
            assert_eq!(queue.ring_refs.len(), pages as usize);
            for (page, reference) in queue.ring_refs.iter().enumerate() {
                let numbered = format!("{folder}ring-ref{page}");
                let names = if pages == 1 {
                    vec![numbered, format!("{folder}ring-ref")]
                } else {
                    vec![numbered]
                };
                let asked = self.asked.borrow();
                let is_written = |name: &String| {
                    asked.contains(name) && is_number(self.nodes.get(name), reference.0)
                };
                assert!(
                    names.iter().any(is_written),
                    "{reference:?} is in none of {names:?}"
                );
                assert!(refs.insert(reference.0), "a page twice");
            }
        }
    }
}

fn is_number(text: Option<&Vec<u8>>, number: u32) -> bool {
    text.and_then(|text| std::str::from_utf8(text).ok())
        .is_some_and(|text| text.parse() == Ok(number))
}

/// A text that goes into the log must be short, and of one line.
fn check_text(text: &str) {
    assert!(text.len() <= TEXT_MAX, "{} bytes: {text}", text.len());
    assert!(!text.chars().any(char::is_control), "{text:?}");
}
