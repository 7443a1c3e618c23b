//! What can happen to a device.

use xenstore_glue::XenbusState as State;
use xenstore_glue::machine::{Event, FrontendSeen, HotplugStatus};

use crate::world::DISK;

/// One for all failures: the machine does not look at it.
pub(crate) const REASON: &str = "reason";

/// What happens next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// The frontend goes to a state.
    Frontend(FrontendSeen),
    /// The frontend went away and came back to the same state before anybody looked.
    OtherRings,
    /// The toolstack writes `online`.
    Online(bool),
    /// The hotplug script writes its status.
    Hotplug(HotplugStatus),
    /// Somebody writes the backend's state who should not.
    Meddle(State),
    /// libxl destroys the domain: everything at once.
    Destroy,
    /// The backend's directory goes.
    RemoveDirectory,
    /// The directory is made again, before anybody noticed that it was gone or after.
    MakeDirectory,
    /// The hotplug script asks to add the device.
    Add,
    /// The hotplug script asks to remove it.
    Remove,
    /// Time passes.
    Retry,
    /// The disk of the open image grows.
    Resize,
    /// The daemon has done what it was ordered.
    Succeed,
    /// It could not.
    Fail,
    /// The frontend breaks the protocol of its rings.
    Fault,
    /// Somebody says what nobody has reason to say.
    Stray(Stray),
    /// The daemon is to end.
    Shutdown,
    /// Another device of the same guest is to have the image.
    Lend,
}

/// An answer to a question that was not asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "they are called as the events are")]
pub enum Stray {
    Opened,
    OpenFailed,
    Connected,
    ConnectFailed,
    Disconnected,
    Closed,
    Written,
    Fault,
    Resized,
}

impl Stray {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Opened,
        Self::OpenFailed,
        Self::Connected,
        Self::ConnectFailed,
        Self::Disconnected,
        Self::Closed,
        Self::Written,
        Self::Fault,
        Self::Resized,
    ];

    pub(crate) fn event(self) -> Event {
        let reason = REASON.to_owned();
        match self {
            Self::Opened => Event::Opened(DISK),
            Self::OpenFailed => Event::OpenFailed { reason },
            Self::Connected => Event::Connected,
            Self::ConnectFailed => Event::ConnectFailed { reason },
            Self::Disconnected => Event::Disconnected,
            Self::Closed => Event::Closed,
            Self::Written => Event::Written,
            Self::Fault => Event::Fault { reason },
            Self::Resized => Event::Resized(DISK),
        }
    }
}

/// How the machine's writes to xenstore go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Writes {
    /// Well.
    Work,
    /// After so many, each fails.
    FailAfter(u8),
}
