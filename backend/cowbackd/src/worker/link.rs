//! The connection to one frontend: its rings, channels and grants.

use blkif::{Abi, BackRing, Discard, Features, Limits, LimitsError, RingError, Sector, SectorSize};
use blockio::buffer::BufferPool;
use runstate::fail_point;
use thiserror::Error;
use xengnttab::{Access, DomId, Gnttab, GrantRef};
use xenstore_glue::DiskProperties;
use xenstore_glue::frontend::{FrontendConfig, Limits as AcceptedRings, Protocol, QueueConfig};

use super::channel::{Channel, ChannelError};
use super::foreign::RingMemory;
use super::guest_pages::GuestPages;

/// Most pages of a ring, as an exponent of two; what Linux's blkback offers.
const RING_PAGE_ORDER_MAX: u32 = 4;

/// Most segments of an indirect request; what Linux's blkback offers.
const INDIRECT_SEGMENTS_MAX: u16 = 256;

/// What frontends may ask for when they connect, with at most `queues_max` queues.
pub(crate) fn accepted(queues_max: u32) -> AcceptedRings {
    AcceptedRings {
        max_ring_page_order: RING_PAGE_ORDER_MAX,
        max_queues: queues_max,
        ..AcceptedRings::default()
    }
}

/// The nodes by which frontends learn what is offered. What is not offered is named too: the kernel's blkback may
/// have been bound to the device before, and have offered it.
pub(crate) fn advertised(queues_max: u32) -> Vec<(String, String)> {
    [
        ("feature-flush-cache", 1),
        ("feature-barrier", 1),
        // Not for each disk, see `DiskProperties`.
        ("feature-discard", 1),
        ("discard-secure", 0),
        (
            "feature-max-indirect-segments",
            u32::from(INDIRECT_SEGMENTS_MAX),
        ),
        ("feature-persistent", 1),
        ("max-ring-page-order", RING_PAGE_ORDER_MAX),
        ("max-ring-pages", 1 << RING_PAGE_ORDER_MAX),
        ("multi-queue-max-queues", queues_max),
    ]
    .map(|(node, value)| (node.to_owned(), value.to_string()))
    .into()
}

/// The connection to one frontend.
pub(super) struct Link {
    pub(super) queues: Vec<Queue>,
    pub(super) pages: GuestPages,
    pub(super) limits: Limits,
    /// No more requests are taken: it is being disconnected, or the frontend broke the protocol.
    pub(super) stopped: bool,
}

/// One ring with its event channel.
pub(super) struct Queue {
    pub(super) ring: BackRing<RingMemory>,
    pub(super) channel: Channel,
    /// The grant of the ring's first page, and the frontend's channel: which ring it is.
    reference: u32,
    port: u32,
    /// The frontend is not asked to notify: the worker looks at the ring by itself.
    pub(super) is_awake: bool,
}

/// Why a frontend cannot be connected to.
#[derive(Debug, Error)]
pub(super) enum LinkError {
    /// The size of the disk does not fit the protocol.
    #[error(transparent)]
    Limits(#[from] LimitsError),
    /// The sector size is not one that the protocol knows.
    #[error("sector size {0} is not supported")]
    SectorSize(u32),
    /// A ring page cannot be mapped.
    #[error("cannot map the ring: {0}")]
    Map(#[from] xengnttab::Error),
    /// The ring's indices cannot be.
    #[error("the ring is not usable: {0}")]
    Ring(#[from] RingError),
    /// The channel cannot be bound.
    #[error(transparent)]
    Channel(#[from] ChannelError),
}

impl Link {
    /// Maps the rings and binds the channels of a frontend. `in_place`: storage may work on its pages themselves.
    pub(super) fn connect(
        domid: u16,
        frontend: &FrontendConfig,
        disk: &DiskProperties,
        in_place: bool,
        pool: &BufferPool,
    ) -> Result<Self, LinkError> {
        let gnttab = Gnttab::open()?;
        let abi = abi(frontend.protocol);
        let queues = frontend
            .queues
            .iter()
            .map(|queue| Queue::connect(&gnttab, domid, abi, queue))
            .collect::<Result<Vec<_>, _>>()?;
        let persistent = frontend.persistent_grants;
        let pages = GuestPages::new(
            gnttab,
            DomId(domid),
            persistent,
            in_place,
            queues.len(),
            pool.clone(),
        );
        Ok(Self {
            queues,
            pages,
            limits: limits(disk)?,
            stopped: false,
        })
    }

    /// How many requests the ring of a queue holds.
    pub(super) fn ring_size(&self, queue: usize) -> u32 {
        self.queues[queue].ring.size()
    }

    /// The rings, as the run state knows them.
    pub(super) fn rings(&self) -> Vec<runstate::Ring> {
        let ring = |queue: &Queue| runstate::Ring {
            reference: queue.reference,
            channel: queue.port,
            index: queue.ring.next_response_index(),
        };
        self.queues.iter().map(ring).collect()
    }
}

impl Queue {
    fn connect(
        gnttab: &Gnttab,
        domid: u16,
        abi: Abi,
        queue: &QueueConfig,
    ) -> Result<Self, LinkError> {
        let refs: Vec<GrantRef> = queue.ring_refs.iter().map(|r| GrantRef(r.0)).collect();
        let mapping = gnttab.map(DomId(domid), &refs, Access::ReadWrite)?;
        let ring = BackRing::attach(RingMemory(mapping), abi)?;
        let channel = Channel::bind(domid, queue.event_channel.0)?;
        Ok(Self {
            ring,
            channel,
            reference: refs.first().map_or(0, |first| first.0),
            port: queue.event_channel.0,
            is_awake: false,
        })
    }

    /// Shows the frontend its responses, and wakes it if it asked for that.
    pub(super) fn publish(&mut self) {
        let must_notify = self.ring.publish();
        fail_point::pass();
        if must_notify {
            self.channel.notify();
        }
    }
}

fn abi(protocol: Protocol) -> Abi {
    match protocol {
        Protocol::X86_64 => Abi::X86_64,
        Protocol::X86_32 => Abi::X86_32,
        Protocol::Arm => Abi::Arm,
    }
}

/// What requests are held against.
pub(super) fn limits(disk: &DiskProperties) -> Result<Limits, LinkError> {
    let sector_size = match disk.sector_size {
        512 => SectorSize::B512,
        4096 => SectorSize::B4096,
        other => return Err(LinkError::SectorSize(other)),
    };
    Ok(Limits::new(
        Sector(disk.sectors),
        sector_size,
        disk.read_only,
        Features {
            flush: true,
            barrier: true,
            discard: match disk.discard_granularity {
                0 => Discard::No,
                _ => Discard::Plain,
            },
            indirect_segments_max: INDIRECT_SEGMENTS_MAX,
        },
    )?)
}
