//! What a frontend offers to connect to: parsed and checked from its xenstore directory.
//!
//! The guest writes these nodes, so every value is an attack until it has passed here.
//! The names and their meaning are those of Xen's `public/io/blkif.h`; where that leaves a choice,
//! Linux's blkback is followed, because that is what frontends are tested with.

use std::collections::BTreeSet;

use thiserror::Error;

use crate::types::{EventChannel, GrantRef, decimal, excerpt};

/// The layout of ring slots (`XEN_IO_PROTO_ABI_*` in public/io/protocols.h).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// `x86_64-abi`
    X86_64,
    /// `x86_32-abi`
    X86_32,
    /// `arm-abi`
    Arm,
}

impl Protocol {
    /// What blkback assumes of a frontend that does not say: the 32-bit layout on x86, else native.
    pub const BLKBACK_DEFAULT: Self = if cfg!(any(target_arch = "x86_64", target_arch = "x86")) {
        Self::X86_32
    } else {
        Self::Arm
    };
}

/// The most that the backend accepts; the same numbers that it publishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest ring size, as the logarithm of its pages (`max-ring-page-order`).
    pub max_ring_page_order: u32,
    /// Most queues (`multi-queue-max-queues`).
    pub max_queues: u32,
    /// For a frontend that does not name its protocol.
    pub default_protocol: Protocol,
}

impl Default for Limits {
    /// One page, one queue, blkback's protocol.
    fn default() -> Self {
        Self {
            max_ring_page_order: 0,
            max_queues: 1,
            default_protocol: Protocol::BLKBACK_DEFAULT,
        }
    }
}

/// One ring with its event channel.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct QueueConfig {
    /// The ring's pages in order; 1, 2, 4, ... of them.
    pub ring_refs: Vec<GrantRef>,
    /// The frontend's end of the channel.
    pub event_channel: EventChannel,
}

/// Everything needed to connect to a frontend.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct FrontendConfig {
    /// The layout of ring slots.
    pub protocol: Protocol,
    /// The frontend reuses its grants, so they may stay mapped.
    pub persistent_grants: bool,
    /// At least one; all have the same number of ring pages.
    pub queues: Vec<QueueConfig>,
}

/// A node as it was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// There is no such node, or it may not be read.
    Missing,
    /// It is there, and its value is not text.
    Malformed,
    /// Its value.
    Value(String),
}

impl Node {
    /// The value, if there is one.
    pub fn value(&self) -> Option<&str> {
        match self {
            Self::Value(value) => Some(value),
            Self::Missing | Self::Malformed => None,
        }
    }
}

/// Why a frontend cannot be connected to. Values appear escaped and cut short.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FrontendError {
    /// A node that must be there is not.
    #[error("frontend node {node} is missing")]
    Missing {
        /// Relative to the frontend's directory.
        node: String,
    },
    /// The value is not UTF-8.
    #[error("frontend node {node} is not text")]
    NotText {
        /// Relative to the frontend's directory.
        node: String,
    },
    /// The value is not an unsigned 32-bit decimal number.
    #[error("frontend node {node} is not a number: {value}")]
    NotANumber {
        /// Relative to the frontend's directory.
        node: String,
        /// What was there.
        value: String,
    },
    /// The number is not one that the backend offers or that means anything.
    #[error("frontend node {node} is {value}, which is not {expected}")]
    OutOfRange {
        /// Relative to the frontend's directory.
        node: String,
        /// What was there.
        value: u32,
        /// What would be accepted.
        expected: String,
    },
    /// A protocol that does not exist.
    #[error("frontend node protocol names no known protocol: {value}")]
    UnknownProtocol {
        /// What was there.
        value: String,
    },
    /// A ring page or an event channel is offered twice.
    #[error("frontend node {node} repeats the number {value} of another ring")]
    Repeated {
        /// Relative to the frontend's directory.
        node: String,
        /// The number.
        value: u32,
    },
}

/// The nodes that say how many rings there are and how big: to be read first.
pub const HEADER_NODES: [&str; 5] = [
    "protocol",
    "feature-persistent",
    "ring-page-order",
    "num-ring-pages",
    "multi-queue-num-queues",
];

/// The shape of a frontend's rings, from which follows which nodes describe them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    protocol: Protocol,
    persistent_grants: bool,
    ring_pages: u32,
    /// `ring-page-order` or `num-ring-pages` is there, so the ring has been described the newer way.
    pages_are_numbered: bool,
    queues: u32,
}

impl Header {
    /// Checks the values of [`HEADER_NODES`], which `get` returns by name.
    pub fn parse(limits: &Limits, get: impl Fn(&str) -> Node) -> Result<Self, FrontendError> {
        let (ring_pages, pages_are_numbered) = ring_pages(limits, &get)?;
        Ok(Self {
            protocol: protocol(limits, get("protocol"))?,
            persistent_grants: optional_number(&get, "feature-persistent")?.unwrap_or(0) != 0,
            ring_pages,
            pages_are_numbered,
            queues: queue_count(limits, &get)?,
        })
    }

    /// The nodes that [`Self::finish`] will ask for; their number is bounded by the limits.
    pub fn ring_nodes(&self) -> Vec<String> {
        let mut nodes = Vec::new();
        for directory in self.directories() {
            nodes.push(format!("{directory}event-channel"));
            nodes.push(format!("{directory}ring-ref"));
            nodes.extend((0..self.ring_pages).map(|page| format!("{directory}ring-ref{page}")));
        }
        nodes
    }

    /// Checks the values of [`Self::ring_nodes`] and puts everything together.
    pub fn finish(&self, get: impl Fn(&str) -> Node) -> Result<FrontendConfig, FrontendError> {
        let mut seen = Seen::default();
        let queues = self
            .directories()
            .iter()
            .map(|directory| self.queue(directory, &get, &mut seen))
            .collect::<Result<_, _>>()?;
        Ok(FrontendConfig {
            protocol: self.protocol,
            persistent_grants: self.persistent_grants,
            queues,
        })
    }

    /// A single queue is described in the frontend's directory itself, several in `queue-N`.
    fn directories(&self) -> Vec<String> {
        if self.queues == 1 {
            return vec![String::new()];
        }
        (0..self.queues)
            .map(|queue| format!("queue-{queue}/"))
            .collect()
    }

    fn queue(
        &self,
        directory: &str,
        get: &impl Fn(&str) -> Node,
        seen: &mut Seen,
    ) -> Result<QueueConfig, FrontendError> {
        let node = format!("{directory}event-channel");
        let port = number(get, &node)?;
        if port == 0 {
            return Err(FrontendError::OutOfRange {
                node,
                value: port,
                expected: "an event channel".into(),
            });
        }
        seen.first_time(&mut |seen| &mut seen.channels, &node, port)?;

        let mut ring_refs = Vec::new();
        for page in 0..self.ring_pages {
            let node = self.ring_node(directory, page, get);
            let reference = number(get, &node)?;
            seen.first_time(&mut |seen| &mut seen.pages, &node, reference)?;
            ring_refs.push(GrantRef(reference));
        }
        Ok(QueueConfig {
            ring_refs,
            event_channel: EventChannel(port),
        })
    }

    /// Several pages are always numbered. A single page may be called either way: Linux writes
    /// `ring-ref0` when it found a page order of 0 worth mentioning and `ring-ref` when it did not,
    /// and both may be there when one driver follows another; the style of the header decides.
    fn ring_node(&self, directory: &str, page: u32, get: &impl Fn(&str) -> Node) -> String {
        let numbered = format!("{directory}ring-ref{page}");
        if self.ring_pages > 1 {
            return numbered;
        }
        let plain = format!("{directory}ring-ref");
        let (first, second) = if self.pages_are_numbered {
            (numbered, plain)
        } else {
            (plain, numbered)
        };
        if get(&first) == Node::Missing && get(&second) != Node::Missing {
            second
        } else {
            first
        }
    }
}

/// The numbers met so far: mapping a page into two rings or binding a channel twice is nothing that
/// a frontend in its right mind asks for.
#[derive(Default)]
struct Seen {
    pages: BTreeSet<u32>,
    channels: BTreeSet<u32>,
}

impl Seen {
    fn first_time(
        &mut self,
        set: &mut impl FnMut(&mut Self) -> &mut BTreeSet<u32>,
        node: &str,
        value: u32,
    ) -> Result<(), FrontendError> {
        if set(self).insert(value) {
            Ok(())
        } else {
            Err(FrontendError::Repeated {
                node: node.to_owned(),
                value,
            })
        }
    }
}

fn protocol(limits: &Limits, node: Node) -> Result<Protocol, FrontendError> {
    match node {
        Node::Missing => Ok(limits.default_protocol),
        Node::Malformed => Err(FrontendError::NotText {
            node: "protocol".into(),
        }),
        Node::Value(value) => match value.as_str() {
            "x86_64-abi" => Ok(Protocol::X86_64),
            "x86_32-abi" => Ok(Protocol::X86_32),
            "arm-abi" => Ok(Protocol::Arm),
            other => Err(FrontendError::UnknownProtocol {
                value: excerpt(other),
            }),
        },
    }
}

/// How many pages each ring has, and whether one of the two nodes for it is there. Frontends write
/// both nodes with the same meaning (blkif.h, note 3); the one that is not deprecated wins.
fn ring_pages(limits: &Limits, get: &impl Fn(&str) -> Node) -> Result<(u32, bool), FrontendError> {
    let max_order = limits.max_ring_page_order.min(16);
    let max_pages = 1_u32 << max_order;
    if let Some(order) = optional_number(get, "ring-page-order")? {
        if order > max_order {
            return Err(FrontendError::OutOfRange {
                node: "ring-page-order".into(),
                value: order,
                expected: format!("at most {max_order}"),
            });
        }
        return Ok((1 << order, true));
    }
    if let Some(pages) = optional_number(get, "num-ring-pages")? {
        if pages > max_pages || !pages.is_power_of_two() {
            return Err(FrontendError::OutOfRange {
                node: "num-ring-pages".into(),
                value: pages,
                expected: format!("a power of two up to {max_pages}"),
            });
        }
        return Ok((pages, true));
    }
    Ok((1, false))
}

fn queue_count(limits: &Limits, get: &impl Fn(&str) -> Node) -> Result<u32, FrontendError> {
    let node = "multi-queue-num-queues";
    let queues = optional_number(get, node)?.unwrap_or(1);
    if queues == 0 || queues > limits.max_queues.max(1) {
        return Err(FrontendError::OutOfRange {
            node: node.into(),
            value: queues,
            expected: format!("between 1 and {}", limits.max_queues.max(1)),
        });
    }
    Ok(queues)
}

fn number(get: &impl Fn(&str) -> Node, node: &str) -> Result<u32, FrontendError> {
    optional_number(get, node)?.ok_or_else(|| FrontendError::Missing {
        node: node.to_owned(),
    })
}

fn optional_number(get: &impl Fn(&str) -> Node, node: &str) -> Result<Option<u32>, FrontendError> {
    match get(node) {
        Node::Missing => Ok(None),
        Node::Malformed => Err(FrontendError::NotText {
            node: node.to_owned(),
        }),
        Node::Value(value) => decimal(&value)
            .map(Some)
            .ok_or_else(|| FrontendError::NotANumber {
                node: node.to_owned(),
                value: excerpt(&value),
            }),
    }
}
