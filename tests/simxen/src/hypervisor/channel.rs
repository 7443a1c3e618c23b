//! Event channels: one eventfd for each direction. The frontend's lives as long as the port; the backend's is made anew
//! at each binding.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};
use rustix::io::Errno;

use super::domain::Domain;
use crate::error::{Error, Result};
use crate::ids::EventPort;

const EVENTFD_FLAGS: EventfdFlags = EventfdFlags::CLOEXEC.union(EventfdFlags::NONBLOCK);

/// Both ends of a channel.
#[derive(Debug)]
pub(super) struct ChannelEnds {
    /// Counts notifications to the frontend.
    to_frontend: OwnedFd,
    /// Counts notifications to the backend; `None` while none is bound.
    to_backend: RwLock<Option<OwnedFd>>,
}

impl ChannelEnds {
    pub(super) fn new() -> Result<Self> {
        let to_frontend = rustix::event::eventfd(0, EVENTFD_FLAGS)
            .map_err(Error::os("create an eventfd for an event channel"))?;
        Ok(Self {
            to_frontend,
            to_backend: RwLock::new(None),
        })
    }

    /// Binds the backend's end; the descriptors are those of `Reply::Bound`. Notifications of the time before are lost
    /// in Xen, which makes up for it by setting a new binding pending at once: so does this.
    pub(super) fn bind(&self) -> Result<Vec<OwnedFd>, Errno> {
        let mut to_backend = self.to_backend.write().expect("no holder panicked");
        if to_backend.is_some() {
            return Err(Errno::INVAL);
        }
        let fresh = rustix::event::eventfd(1, EVENTFD_FLAGS)?;
        let descriptors = vec![
            rustix::io::fcntl_dupfd_cloexec(&fresh, 0)?,
            rustix::io::fcntl_dupfd_cloexec(&self.to_frontend, 0)?,
        ];
        *to_backend = Some(fresh);
        Ok(descriptors)
    }

    /// The backend's end is closed; the port can be bound again.
    pub(super) fn unbind(&self) {
        *self.to_backend.write().expect("no holder panicked") = None;
    }

    fn is_bound(&self) -> bool {
        self.to_backend
            .read()
            .expect("no holder panicked")
            .is_some()
    }

    fn notify_backend(&self) {
        let to_backend = self.to_backend.read().expect("no holder panicked");
        if let Some(eventfd) = &*to_backend {
            // It can fail only with the counter full, and then the backend is notified anyway.
            let _ = rustix::io::write(eventfd, &1_u64.to_ne_bytes());
        }
    }
}

/// The frontend's end of an event channel. Dropping it leaves the port open, as a guest's driver may: close it with
/// [`Self::close`].
#[derive(Debug)]
pub struct EventChannel {
    domain: Domain,
    port: EventPort,
    ends: Arc<ChannelEnds>,
}

impl EventChannel {
    pub(super) fn new(domain: Domain, port: EventPort, ends: Arc<ChannelEnds>) -> Self {
        Self { domain, port, ends }
    }

    /// The port, as the frontend writes it to xenstore.
    #[must_use]
    pub fn port(&self) -> EventPort {
        self.port
    }

    /// Whether a backend has bound the channel.
    #[must_use]
    pub fn is_bound(&self) -> bool {
        self.ends.is_bound()
    }

    /// Notifies the backend; does nothing while none is bound.
    pub fn notify(&self) {
        self.ends.notify_backend();
    }

    /// Waits for a notification and takes it. Returns false if none came in time.
    ///
    /// # Errors
    /// [`Error::Io`] if polling fails.
    pub fn wait(&self, timeout: Duration) -> Result<bool> {
        let limit = Timespec::try_from(timeout).unwrap_or(Timespec {
            tv_sec: i64::MAX,
            tv_nsec: 0,
        });
        let mut polled = [PollFd::new(&self.ends.to_frontend, PollFlags::IN)];
        match rustix::event::poll(&mut polled, Some(&limit)) {
            Ok(0) | Err(Errno::INTR) => Ok(false),
            Ok(_) => Ok(self.take_pending()),
            Err(errno) => Err(Error::os("wait for an event channel")(errno)),
        }
    }

    /// Takes the notifications that have come; returns whether there were any.
    pub fn take_pending(&self) -> bool {
        let mut count = [0; 8];
        rustix::io::read(&self.ends.to_frontend, &mut count).is_ok()
    }

    /// The descriptor that is readable while a notification is there to be taken.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.ends.to_frontend.as_fd()
    }

    /// Closes the port: it cannot be bound from now on. A backend that is bound stays so, and notifies nobody.
    pub fn close(self) {
        self.domain.close_port(self.port);
    }
}
