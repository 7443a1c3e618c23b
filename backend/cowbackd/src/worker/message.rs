//! What the control plane tells a worker.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use blockio::disk::DiskOptions;
use blockio::file::BlockFile;
use dscow::engine::{Engine, Errno, OnNoSpace};
use dscow::header::Header;
use nbd_server::Socket;
use runstate::RunState;
use serde::Serialize;
use tokio::sync::oneshot;
use utoipa::ToSchema;
use xenstore_glue::frontend::FrontendConfig;
use xenstore_glue::{DeviceId, DiskProperties};

use super::latency::Latencies;
use crate::inheritance::Loan;
use crate::xentop::StatisticsFile;

/// How often connecting to a frontend has failed since its disk was attached. Clones share the count.
#[derive(Clone, Debug, Default)]
pub(crate) struct FailedConnects(Arc<AtomicU32>);

impl FailedConnects {
    pub(super) fn count(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn add_one(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// A message to a worker. Each of the first four is answered by one report.
pub(crate) enum ToWorker {
    /// Take over an image that was opened for a device.
    Open(Box<Opening>),
    /// Connect to the frontend's rings.
    Connect {
        /// Whose.
        device: DeviceId,
        /// What the frontend offers.
        frontend: FrontendConfig,
        /// An earlier process was connected to it; go on where that stopped.
        adopt: bool,
    },
    /// Take no more requests, finish those that were taken, unmap.
    Disconnect {
        /// Which.
        device: DeviceId,
        /// The guest is still there, and its requests are to be carried out however long that takes.
        handover: bool,
    },
    /// Commit and close the image.
    Close {
        /// Which.
        device: DeviceId,
        /// The next daemon goes on with the same frontend.
        handover: bool,
    },
    /// Tell how the device is doing.
    Inspect {
        /// Which.
        device: DeviceId,
        /// Where to.
        reply: oneshot::Sender<VbdStatistics>,
    },
    /// Tell how the worker is doing, and all of its devices.
    Survey {
        /// Where to.
        reply: oneshot::Sender<Survey>,
    },
    /// Serve a device in another way from now on. The reply is dropped if its image is not open.
    SetPolicy {
        /// Which.
        device: DeviceId,
        /// How.
        policy: Policy,
        /// Where to. Tells what holds now.
        reply: oneshot::Sender<VbdStatistics>,
    },
    /// Show the image that the device has open. The reply is dropped if it has none.
    ShowImage {
        /// Which.
        device: DeviceId,
        /// Where to.
        reply: oneshot::Sender<OpenImage>,
    },
    /// Make the disk larger. The reply comes when it is; it is dropped if the image is not open, or is left to the next daemon.
    Grow {
        /// Which.
        device: DeviceId,
        /// The new size in bytes, for which there is room.
        size: u64,
        /// Where to.
        reply: oneshot::Sender<Result<(), Errno>>,
    },
    /// End the thread. Nothing may be open any more.
    Stop,
}

/// An image that was opened for a device.
pub(crate) struct Opening {
    /// For whom.
    pub(crate) device: DeviceId,
    /// Its engine, not opened yet.
    pub(crate) engine: Engine,
    /// The files of its layers, the image's own first.
    pub(crate) files: Vec<Arc<BlockFile>>,
    /// What the frontend is to know of it.
    pub(crate) disk: DiskProperties,
    /// How it is driven.
    pub(crate) options: DiskOptions,
    /// Where QEMU comes for the disk that it emulates.
    pub(crate) socket: Option<Socket>,
    pub(crate) belongings: Belongings,
}

/// What a device has beside its image.
pub(crate) struct Belongings {
    /// What the next daemon needs if this one is killed, or what this one needs of the last.
    pub(crate) run_state: Option<Box<RunState>>,
    /// How often it was connected to in vain, also by way of an image that was opened before.
    pub(crate) failed_connects: FailedConnects,
    /// What xentop reads.
    pub(crate) statistics_file: Option<StatisticsFile>,
    /// From whom its guest has brought the image along.
    pub(crate) loans: Vec<Loan>,
}

/// An image that is in use, as it is at one moment.
pub(crate) struct OpenImage {
    /// Its own file; whoever keeps it keeps its lock.
    pub(crate) file: Arc<BlockFile>,
    pub(crate) header: Header,
    /// The block that the disk ends in is allocated.
    pub(crate) has_last_block: bool,
}

/// What can be changed of how a disk is served. It holds until its image is closed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Policy {
    pub(crate) on_no_space: Option<OnNoSpace>,
    pub(crate) detect_zeroes: Option<bool>,
}

/// How a worker is doing.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    /// What its thread has used of a processor since it began.
    pub(crate) cpu_time: Duration,
    /// Its devices whose images are open.
    pub(crate) vbds: Vec<(DeviceId, VbdStatistics)>,
}

/// How a vbd is doing.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub(crate) struct VbdStatistics {
    /// What is done for a write that finds no space on the host: "pause" or "report".
    #[schema(value_type = String, example = "pause")]
    pub(crate) on_enospc: &'static str,
    /// Whether writes are searched for blocks of zeros, which become holes.
    pub(crate) detect_zeroes: bool,
    /// Size of the virtual disk in bytes.
    pub(crate) virtual_size_bytes: u64,
    /// Blocks allocated, in bytes.
    pub(crate) allocated_bytes: u64,
    /// Requests answered since the image was opened.
    pub(crate) reads: u64,
    /// As above.
    pub(crate) writes: u64,
    /// As above.
    pub(crate) flushes: u64,
    /// Bytes read by the guest.
    pub(crate) read_bytes: u64,
    /// Bytes written by the guest.
    pub(crate) written_bytes: u64,
    /// Requests that failed because of the host.
    pub(crate) failed: u64,
    /// Requests that were refused because they broke the protocol.
    pub(crate) rejected: u64,
    /// How often no more was taken from a ring, since what was taken already took too much memory.
    pub(crate) throttles: u64,
    /// Blocks that were copied up from the base.
    pub(crate) copy_ups: u64,
    /// Commits of the bitmap.
    pub(crate) commits: u64,
    /// Discards.
    pub(crate) discards: u64,
    /// Pages of the guest that are kept mapped.
    pub(crate) kept_pages: u64,
    /// Requests taken and not answered at this moment.
    pub(crate) in_flight: u64,
    /// Writes that wait for space on the host at this moment.
    pub(crate) waiting_for_space: u64,
    /// How often a write had to wait for space.
    pub(crate) space_waits: u64,
    /// QEMUs that are connected at this moment.
    pub(crate) emulated_clients: u64,
    /// Requests of theirs, which are in none of the counts above.
    pub(crate) emulated_requests: u64,
    /// How long the guest's requests took that did not fail.
    pub(crate) latency: Latencies,
}
