//! A blkif frontend that does over granted pages what a guest's driver does, or should not do.

mod abi;
mod handshake;
mod pages;
mod requests;
mod ring;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

pub use abi::{
    Abi, DIRECT_SEGMENTS_MAX, INDIRECT_PAGES_MAX, Operation, RING_HEADER_BYTES, Response,
    SECTOR_BYTES, SEGMENTS_PER_INDIRECT_PAGE, Segment,
};
pub use handshake::DiskInfo;
pub use requests::{Completion, Request, RequestId};
pub use ring::FrontRing;

use crate::error::{Error, Result};
use crate::hypervisor::Domain;
use crate::toolstack::Disk;
use pages::PagePool;
use requests::InFlight;

/// How a frontend connects.
#[derive(Clone, Debug)]
pub struct FrontendOptions {
    /// The guest's ABI.
    pub abi: Abi,
    /// Whether to write the `protocol` node; without it the backend takes the host's own ABI.
    pub write_protocol: bool,
    /// The number of queues, at least 1.
    pub queues: u32,
    /// Pages of each ring, as an exponent of two: 0 to 4.
    pub ring_order: u32,
    /// Whether to write `ring-ref0` for a ring of one page, too.
    pub numbered_ring_refs: bool,
    /// Whether to keep grants for good, if the backend can.
    pub persistent: bool,
    /// Most segments of a request; above 11 it becomes an indirect one, if the backend can.
    pub segments_max: u32,
    /// How long to wait for anything that the backend is to do.
    pub timeout: Duration,
}

impl Default for FrontendOptions {
    /// As a small 64-bit Linux guest: one queue of one page, persistent grants, indirect requests of up to 32 segments.
    fn default() -> Self {
        Self {
            abi: Abi::X86_64,
            write_protocol: true,
            queues: 1,
            ring_order: 0,
            numbered_ring_refs: false,
            persistent: true,
            segments_max: 32,
            timeout: Duration::from_secs(10),
        }
    }
}

impl FrontendOptions {
    fn protocol_node(&self) -> Option<&'static str> {
        self.write_protocol.then(|| self.abi.protocol())
    }
}

/// A connected frontend. Dropping it leaves everything as it is, as a guest that hangs; see [`Self::close`].
#[derive(Debug)]
pub struct Frontend {
    disk: Disk,
    options: FrontendOptions,
    info: DiskInfo,
    rings: Vec<FrontRing>,
    pages: PagePool,
    next_id: u64,
    next_queue: usize,
    in_flight: HashMap<RequestId, InFlight>,
    /// How many responses are awaited to each identifier that a test has put on the ring by itself.
    raw_in_flight: HashMap<u64, u32>,
    completed: BTreeMap<RequestId, Completion>,
    raw_responses: Vec<Response>,
}

impl Frontend {
    /// Connects to the backend, with the handshake of Linux's blkfront. Also serves to connect again after
    /// [`Self::close`], as a rebooted driver does.
    ///
    /// # Errors
    /// [`Error::Timeout`] if the backend does not follow, [`Error::Protocol`] if it closes instead,
    /// [`Error::Unsupported`] if it offers less than the options demand.
    pub fn connect(disk: &Disk, options: FrontendOptions) -> Result<Self> {
        let offered = handshake::begin(disk, options.timeout)?;
        Self::connect_to(disk, options, &offered)
    }

    /// Connects as a driver does that knows nothing of the one before it and does not wait for the backend: straight to
    /// state 3 and on to 4, while the backend may still be in state 4 with the rings of the other driver.
    ///
    /// # Errors
    /// As [`Self::connect`].
    pub fn connect_at_once(disk: &Disk, options: FrontendOptions) -> Result<Self> {
        let offered = DiskInfo::read(disk);
        Self::connect_to(disk, options, &offered)
    }

    fn connect_to(disk: &Disk, options: FrontendOptions, offered: &DiskInfo) -> Result<Self> {
        check_offer(offered, &options)?;
        let rings = (0..options.queues)
            .map(|_| FrontRing::new(disk.domain(), options.abi, options.ring_order))
            .collect::<Result<Vec<_>>>()?;
        let info = handshake::connect(disk, &rings, &options)?;
        let persistent = options.persistent && info.persistent;
        Ok(Self {
            pages: PagePool::new(disk.domain().clone(), persistent),
            disk: disk.clone(),
            options,
            info,
            rings,
            next_id: FIRST_ID,
            next_queue: 0,
            in_flight: HashMap::new(),
            raw_in_flight: HashMap::new(),
            completed: BTreeMap::new(),
            raw_responses: Vec::new(),
        })
    }

    /// What the backend said when the frontend connected.
    #[must_use]
    pub fn info(&self) -> &DiskInfo {
        &self.info
    }

    /// Reads anew what the backend says, as after a resize.
    pub fn refresh_info(&mut self) -> &DiskInfo {
        self.info = DiskInfo::read(&self.disk);
        &self.info
    }

    /// The disk.
    #[must_use]
    pub fn disk(&self) -> &Disk {
        &self.disk
    }

    /// The domain, for its memory and grants.
    #[must_use]
    pub fn domain(&self) -> &Domain {
        self.disk.domain()
    }

    /// The ABI in use.
    #[must_use]
    pub fn abi(&self) -> Abi {
        self.options.abi
    }

    /// A ring, for looking at it and for hostile tests.
    ///
    /// # Panics
    /// If there are not that many queues.
    pub fn ring(&mut self, queue: usize) -> &mut FrontRing {
        &mut self.rings[queue]
    }

    /// Changes how long is waited for the backend.
    pub fn set_timeout(&mut self, timeout: Duration) {
        self.options.timeout = timeout;
    }

    /// Closes from the guest's side: state 5, the backend follows, state 6, and all that was granted is taken back.
    ///
    /// # Errors
    /// [`Error::Timeout`] if the backend does not follow, [`Error::GrantStillMapped`] if it closes with grants mapped.
    pub fn close(mut self) -> Result<()> {
        self.complete_all()?;
        handshake::set_state(&self.disk, 5)?;
        handshake::wait_for_backend(&self.disk, &["5", "6"], self.options.timeout)?;
        self.finish_closing()
    }

    /// Closes when the toolstack or the backend has begun it: waits for the backend's state 5, then goes to 6.
    ///
    /// # Errors
    /// As [`Self::close`].
    pub fn close_as_asked(mut self) -> Result<()> {
        handshake::wait_for_backend(&self.disk, &["5", "6"], self.options.timeout)?;
        self.complete_all()?;
        self.finish_closing()
    }

    fn finish_closing(self) -> Result<()> {
        handshake::set_state(&self.disk, 6)?;
        handshake::wait_for_backend(&self.disk, &["6"], self.options.timeout)?;
        for ring in self.rings {
            ring.release()?;
        }
        self.pages.release()
    }
}

/// High bits are set to see that all 64 bits of an identifier come back.
const FIRST_ID: u64 = 0xc0b4_0000_0000_0001;

fn check_offer(offered: &DiskInfo, options: &FrontendOptions) -> Result<()> {
    if options.queues > offered.queues_max.max(1) {
        return Err(Error::Unsupported(format!(
            "{} queues, of {} that the backend offers",
            options.queues, offered.queues_max
        )));
    }
    if options.ring_order > offered.ring_order_max {
        return Err(Error::Unsupported(format!(
            "rings of order {}, of {} that the backend offers",
            options.ring_order, offered.ring_order_max
        )));
    }
    Ok(())
}
