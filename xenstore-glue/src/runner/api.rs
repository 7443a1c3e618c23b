//! What the daemon and the runner say to each other.

use std::path::PathBuf;
use std::time::Duration;

use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

use super::main_loop::Runner;
use crate::frontend::{FrontendConfig, Limits};
use crate::machine::{DetachPolicy, FrontendSeen};
use crate::types::{DeviceId, DiskProperties, DomId, XenbusState};

/// How a runner is to work.
#[derive(Clone, Debug)]
pub struct RunnerConfig {
    /// The nodes to publish in each backend directory before it goes to state 2, by name and value.
    /// Name every feature and limit, also those that are not offered: on `backend/vbd` the kernel may
    /// have published its own. `feature-discard` becomes `0` where `discard-enable` or a read-only `mode` forbids it.
    pub features: Vec<(String, String)>,
    /// What to accept of frontends; to agree with `features`.
    pub limits: Limits,
    /// How to detach a disk that is in use.
    pub detach: DetachPolicy,
    /// What to publish as `kthread-pid`, where the toolstack's tools look for the process that serves a disk.
    pub pid: u32,
    /// `/sys`
    pub sysfs_root: PathBuf,
    /// How long until something that failed is tried again.
    pub retry_after: Duration,
    /// How long no event must have come for a watch that is not needed any more, before it is given
    /// up.
    pub retire_watches_after: Duration,
    /// How long xenstored may take for an answer before it counts as dead.
    pub patience: Duration,
    /// How often to see whether xenstored is alive when there is nothing else to ask it.
    pub heartbeat: Duration,
}

impl RunnerConfig {
    /// The usual settings with these features and limits.
    pub fn new(features: Vec<(String, String)>, limits: Limits) -> Self {
        Self {
            features,
            limits,
            detach: DetachPolicy::default(),
            pid: std::process::id(),
            sysfs_root: "/sys".into(),
            retry_after: Duration::from_secs(5),
            retire_watches_after: Duration::from_secs(10),
            patience: Duration::from_secs(60),
            heartbeat: Duration::from_secs(10),
        }
    }
}

/// The `mode` node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DeviceMode {
    /// `r`
    ReadOnly,
    /// `w`
    Writable,
    /// `w!`: writable, and the toolstack vouches that sharing is intended.
    WritableShared,
}

/// What the toolstack wrote about a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendConfig {
    /// The target of the disk specification: the `params` node, on `vbd3` without its `aio:` prefix.
    pub params: String,
    /// How it may be used.
    pub mode: DeviceMode,
    /// `device-type`: `disk` or `cdrom`; `disk` if there is none.
    pub device_type: String,
    /// `dev`: the name in the guest, for example `xvda`; empty if there is none.
    pub vdev: String,
    /// The domain that maps its pages to us; may be 0.
    pub frontend_domid: DomId,
    /// `removable`
    pub removable: bool,
    /// `discard-enable`; yes if it does not say.
    pub discard_enable: bool,
    /// The frontend domain's name. `None` where it cannot be read.
    pub domain_name: Option<String>,
    /// The frontend domain's `vm` path, `/vm/<uuid>`: the same for a guest before and after its
    /// reboot or migration. `None` where it cannot be read (in a driver domain).
    pub vm: Option<String>,
}

/// To the daemon. Per device at most one order is without its [`Report`] at any time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// Open the image; answer [`Report::Opened`] or [`Report::OpenFailed`].
    Open {
        /// The device.
        device: DeviceId,
        /// Read afresh.
        config: BackendConfig,
    },
    /// Map the rings, bind the channels and begin to serve; answer [`Report::Connected`] or
    /// [`Report::ConnectFailed`] (then nothing may stay mapped).
    Connect {
        /// The device; its image is open.
        device: DeviceId,
        /// The rings.
        frontend: FrontendConfig,
        /// An earlier process was serving these rings, and the guest has not been told.
        adopt: bool,
    },
    /// Take no more requests, finish those taken, unmap; answer [`Report::Disconnected`].
    Disconnect {
        /// The device.
        device: DeviceId,
        /// The next process will adopt these rings, so keep what it needs for that.
        handover: bool,
    },
    /// Commit and close the image, release its lock; answer [`Report::Closed`].
    Close {
        /// The device; it is not connected.
        device: DeviceId,
        /// The next process will open the image for the same frontend.
        handover: bool,
    },
    /// Every device that was in xenstore when the runner began has been taken up, and was to be opened if it was to be;
    /// comes once, without an answer.
    LookedThrough,
    /// The device is no more; no answer.
    Forgotten {
        /// The device; it is not connected, and its image is closed.
        device: DeviceId,
    },
}

/// From the daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// The image is open.
    Opened {
        /// The device.
        device: DeviceId,
        /// What to tell the frontend.
        disk: DiskProperties,
    },
    /// The image cannot be opened.
    OpenFailed {
        /// The device.
        device: DeviceId,
        /// A sentence for whoever runs the host.
        reason: String,
    },
    /// The rings are being served.
    Connected {
        /// The device.
        device: DeviceId,
    },
    /// The rings cannot be served.
    ConnectFailed {
        /// The device.
        device: DeviceId,
        /// A sentence for whoever runs the host.
        reason: String,
    },
    /// Drained and unmapped.
    Disconnected {
        /// The device.
        device: DeviceId,
    },
    /// The image is closed.
    Closed {
        /// The device.
        device: DeviceId,
    },
    /// The frontend broke the protocol of its rings. They stay mapped until `Disconnect`.
    Fault {
        /// The device.
        device: DeviceId,
        /// A sentence for whoever runs the host.
        reason: String,
    },
    /// The disk of an open image has another size, of which the frontend is to be told.
    Resized {
        /// The device.
        device: DeviceId,
        /// What to tell the frontend from now on.
        disk: DiskProperties,
    },
    /// The host has run out of space and the guest waits, or it does not wait any more.
    WaitingForSpace {
        /// The device.
        device: DeviceId,
        /// Whether it waits now.
        waiting: bool,
    },
}

/// A device as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceStatus {
    /// The device.
    pub device: DeviceId,
    /// The `state` node of the backend.
    pub backend_state: XenbusState,
    /// The `state` node of the frontend.
    pub frontend: FrontendSeen,
    /// The image is open.
    pub image_open: bool,
    /// The rings are being served.
    pub connected: bool,
    /// What is wrong, if anything.
    pub reason: Option<String>,
}

/// Why the runner ended early.
#[derive(Debug, Error)]
pub enum RunnerError {
    /// The connection is of no use any more; a new process has to begin again.
    #[error("xenstore connection lost while {doing}: {source}")]
    Xenstore {
        /// What was being attempted.
        doing: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The daemon has stopped listening to orders.
    #[error("the daemon does not take orders any more")]
    DaemonGone,
}

/// Why a request to the runner was not granted.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum HandleError {
    /// The runner has ended.
    #[error("the xenstore runner has ended")]
    Ended,
}

/// Everything that belongs to a new runner.
pub struct Channels {
    /// To be spawned or awaited; nothing happens before.
    pub runner: Runner,
    /// For the control API.
    pub handle: Handle,
    /// What the daemon is to do.
    pub orders: mpsc::UnboundedReceiver<Order>,
    /// What the daemon has done.
    pub reports: mpsc::UnboundedSender<Report>,
}

/// Requests of the control API to the runner. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    requests: mpsc::UnboundedSender<Request>,
}

#[derive(Debug)]
pub(super) enum Request {
    Add(DeviceId, oneshot::Sender<Result<(), String>>),
    Remove(DeviceId, oneshot::Sender<Result<(), String>>),
    Lend(DeviceId, oneshot::Sender<()>),
    Snapshot(oneshot::Sender<Vec<DeviceStatus>>),
    Shutdown(oneshot::Sender<()>),
}

impl Handle {
    pub(super) fn new(requests: mpsc::UnboundedSender<Request>) -> Self {
        Self { requests }
    }

    /// The hotplug script's `add`: returns when the image is open, or with a sentence that says why
    /// it is not.
    pub async fn hotplug_add(&self, device: DeviceId) -> Result<(), String> {
        self.ask(|answer| Request::Add(device, answer))
            .await
            .map_err(|error| error.to_string())?
    }

    /// The hotplug script's `remove`: returns when the image is closed, at once if it is not open.
    pub async fn hotplug_remove(&self, device: DeviceId) -> Result<(), String> {
        self.ask(|answer| Request::Remove(device, answer))
            .await
            .map_err(|error| error.to_string())?
    }

    /// Has a device let go of its image, for another device of the same guest to go on with: what was taken is answered, and the
    /// image closed, without a word in xenstore. Returns when that is done, at once if the image is not open.
    ///
    /// # Errors
    /// If the runner has ended.
    pub async fn lend(&self, device: DeviceId) -> Result<(), HandleError> {
        self.ask(|answer| Request::Lend(device, answer)).await
    }

    /// All devices, in the order of their ids.
    pub async fn snapshot(&self) -> Result<Vec<DeviceStatus>, HandleError> {
        self.ask(Request::Snapshot).await
    }

    /// Disconnects and closes everything without a word in xenstore, for the next process to adopt.
    /// Returns when that is done; the runner has ended then.
    pub async fn shutdown(&self) -> Result<(), HandleError> {
        self.ask(Request::Shutdown).await
    }

    async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<T>) -> Request,
    ) -> Result<T, HandleError> {
        let (answer, answered) = oneshot::channel();
        self.requests
            .send(request(answer))
            .map_err(|_| HandleError::Ended)?;
        answered.await.map_err(|_| HandleError::Ended)
    }
}
