//! An event channel bound to a frontend.

use std::os::fd::BorrowedFd;

use thiserror::Error;
use xenevtchn::XenEventChannel;

use super::foreign::channel_descriptor;

/// An event channel, bound on the thread that uses it.
pub(super) struct Channel {
    inner: XenEventChannel,
}

/// What did not work with an event channel.
#[derive(Debug, Error)]
#[error("event channel {port} of domain {domid}: cannot {action}: {cause}")]
pub(super) struct ChannelError {
    domid: u16,
    port: u32,
    action: &'static str,
    cause: String,
}

impl Channel {
    /// Binds to a frontend's channel.
    pub(super) fn bind(domid: u16, port: u32) -> Result<Self, ChannelError> {
        XenEventChannel::new(u32::from(domid), port)
            .map(|inner| Self { inner })
            .map_err(|cause| ChannelError {
                domid,
                port,
                action: "bind",
                cause: cause.to_string(),
            })
    }

    /// The descriptor that is readable when there is an event.
    pub(super) fn descriptor(&self) -> std::io::Result<BorrowedFd<'_>> {
        channel_descriptor(&self.inner)
    }

    /// Takes the event off the channel and lets the next one come. To be called when the descriptor is
    /// readable, and before the ring is looked at: an event that comes after that look wakes us again.
    pub(super) fn acknowledge(&self) -> std::io::Result<()> {
        let port = self.inner.xenevtchn_pending()?;
        let port = u32::try_from(port).map_err(std::io::Error::other)?;
        self.inner.xenevtchn_unmask(port)
    }

    /// Tells the frontend that there are responses.
    pub(super) fn notify(&self) {
        if let Err(error) = self.inner.xenevtchn_notify() {
            // The frontend has closed its end. It will be seen to be gone in xenstore.
            tracing::debug!("cannot notify a frontend: {error}");
        }
    }
}
