//! What goes into the machine and what comes out of it.

use crate::types::{DiskProperties, XenbusState};

/// How to treat a toolstack's wish to detach a disk that the guest is using.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum DetachPolicy {
    /// Serve the guest until its frontend has closed or is gone, as the kernel's blkback does.
    /// `xl block-detach` asks for exactly that (`libxl_device_disk_safe_remove`): the guest flushes
    /// what it has, or refuses and keeps its disk. With force, libxl takes the frontend away.
    #[default]
    WhenGuestAgrees,
    /// Disconnect at once.
    AtOnce,
}

/// The `hotplug-status` node, which the hotplug script writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HotplugStatus {
    /// Not written yet.
    None,
    /// `connected`
    Connected,
    /// Anything else.
    Error,
}

/// The nodes of the backend directory that others write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BackendSeen {
    /// `state`
    pub state: XenbusState,
    /// `online`
    pub online: bool,
    /// `hotplug-status`
    pub hotplug: HotplugStatus,
}

/// The frontend's `state` node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FrontendSeen {
    /// There is none, or it holds nothing that is a state: there is nobody to talk to.
    Gone,
    /// One of 1 to 8.
    State(XenbusState),
}

impl FrontendSeen {
    /// The meaning of the node's value.
    pub fn from_state(state: XenbusState) -> Self {
        if state == XenbusState::Unknown {
            Self::Gone
        } else {
            Self::State(state)
        }
    }

    pub(super) fn is(self, state: XenbusState) -> bool {
        self == Self::State(state)
    }
}

/// Everything that is observed, always all of it.
///
/// `backend.state` must have been read before `backend.online`: libxl changes both in one
/// transaction, and this order cannot see its state 5 without its `online=0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Observation {
    /// `None`: the backend directory, or its `state`, is gone.
    pub backend: Option<BackendSeen>,
    /// The frontend.
    pub frontend: FrontendSeen,
    /// The frontend now describes other rings than those that were given to the last `Connect`: it
    /// has started again, faster than its states could be followed.
    pub rings_changed: bool,
}

/// What can happen.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// Xenstore was looked at.
    Observed(Observation),
    /// The hotplug script's `add`.
    HotplugAdd,
    /// The hotplug script's `remove`.
    HotplugRemove,
    /// Time has passed: try again what failed, see [`super::Machine::wants_retry`].
    Retry,
    /// The publications that were asked for are done.
    Written,
    /// A publication failed, and those that came after it were not tried.
    WriteFailed {
        /// For people.
        reason: String,
        /// What xenstore holds now.
        seen: Observation,
    },
    /// The daemon is to end and to leave everything to the next one.
    Shutdown,
    /// Another device is to have the image: its guest goes on there. What is held is let go of as in a shutdown, so that this
    /// device can take it up again (after [`Event::Retry`]) if the guest comes back.
    Lend,
    /// Answer to `Open`.
    Opened(DiskProperties),
    /// Answer to `Open`.
    OpenFailed {
        /// For people.
        reason: String,
    },
    /// Answer to `Connect`.
    Connected,
    /// Answer to `Connect`.
    ConnectFailed {
        /// For people.
        reason: String,
    },
    /// Answer to `Disconnect`: drained and unmapped.
    Disconnected,
    /// Answer to `Close`: committed, and the lock released.
    Closed,
    /// The disk of the open image has another size now.
    Resized(DiskProperties),
    /// The frontend broke the ring protocol; its rings are still mapped.
    Fault {
        /// For people.
        reason: String,
    },
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Publish all features and limits (and on `vbd` see to it that the kernel is not in the way).
    PublishFeatures,
    /// Publish the disk's size and kind.
    PublishDisk(DiskProperties),
    /// Write the backend's `state` node, also if it has this value already: a frontend that is connected takes that for a
    /// sign to look at the disk's size again.
    SetState(XenbusState),
    /// Write the device's error node.
    RecordError(String),
    /// Order: open the image.
    Open,
    /// Order: connect to the rings that the frontend describes.
    Connect {
        /// An earlier process of this backend was connected to them.
        adopt: bool,
    },
    /// Order: take no more requests, finish those that were taken, unmap.
    Disconnect {
        /// The next process, or this one later, will connect to the same rings.
        handover: bool,
    },
    /// Order: commit and close the image, release its lock.
    Close {
        /// The next process, or this one later, will open it for the same frontend.
        handover: bool,
    },
    /// Answer every waiting hotplug `add`.
    AnswerAdd(Result<(), String>),
    /// Answer every waiting hotplug `remove`.
    AnswerRemove,
    /// The device is gone, and nothing of it is held any more.
    Forget,
    /// Shutdown is complete as far as this device goes.
    Finished,
}

impl Action {
    /// It is an order to the daemon, which will answer it.
    pub fn is_order(&self) -> bool {
        matches!(
            self,
            Self::Open | Self::Connect { .. } | Self::Disconnect { .. } | Self::Close { .. }
        )
    }

    /// It writes what the other side acts upon. Publications come last in a list of actions; the
    /// machine waits for [`Event::Written`] or [`Event::WriteFailed`] after them.
    pub fn is_publication(&self) -> bool {
        matches!(
            self,
            Self::PublishFeatures | Self::PublishDisk(_) | Self::SetState(_)
        )
    }
}
