//! What the control plane tells a worker.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use blockio::disk::DiskOptions;
use blockio::file::BlockFile;
use control_api::{Policies, Statistics};
use dscow::engine::{Engine, Errno};
use dscow::header::Header;
use nbd_server::Socket;
use runstate::RunState;
use tokio::sync::oneshot;
use xenstore_glue::frontend::FrontendConfig;
use xenstore_glue::{DeviceId, DiskProperties};

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
        reply: oneshot::Sender<Statistics>,
    },
    /// Tell how the worker is doing, and all of its devices.
    Survey {
        /// Where to.
        reply: oneshot::Sender<Survey>,
    },
    /// Serve a device in another way from now on. The reply is dropped if its image is not open.
    SetPolicies {
        /// Which.
        device: DeviceId,
        /// How.
        policies: Policies,
        /// Where to. Tells what holds now.
        reply: oneshot::Sender<Statistics>,
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

/// How a worker is doing.
#[derive(Debug, Default)]
pub(crate) struct Survey {
    /// What its thread has used of a processor since it began.
    pub(crate) cpu_time: Duration,
    /// Its devices whose images are open.
    pub(crate) vbds: Vec<(DeviceId, Statistics)>,
}
