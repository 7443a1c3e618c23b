//! The functions of libxenevtchn, over eventfds that both ends share: a notification is one write, without any detour.
//!
//! The descriptor of a handle is an epoll instance. A channel is in it as "one shot", which is just the meaning of an
//! event channel's mask: once reported it stays silent until unmasked, and what came meanwhile is then reported.

use std::collections::HashMap;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::null_mut;
use std::sync::Mutex;

use libc::{c_int, c_uint, c_void};
use rustix::event::{Timespec, epoll};
use rustix::fs::OFlags;
use simxen::control::wire::{Reply, Request};
use simxen::{DomId, EventPort};

use crate::{Errno, host, set_errno, status};

const NO_CLOEXEC: c_uint = 1;
const REPORTED_ONCE: epoll::EventFlags = epoll::EventFlags::IN.union(epoll::EventFlags::ONESHOT);

/// The local end of a bound channel.
struct Channel {
    /// Readable when the other end has notified.
    pending: OwnedFd,
    /// Written to notify the other end.
    other_end: OwnedFd,
}

/// What `xenevtchn_handle` points to.
pub(crate) struct Handle {
    epoll: OwnedFd,
    channels: Mutex<HashMap<EventPort, Channel>>,
}

impl Handle {
    fn open(flags: c_uint) -> Result<Self, Errno> {
        host::ensure_connected()?;
        let create_flags = if flags & NO_CLOEXEC == 0 {
            epoll::CreateFlags::CLOEXEC
        } else {
            epoll::CreateFlags::empty()
        };
        Ok(Self {
            epoll: epoll::create(create_flags)?,
            channels: Mutex::default(),
        })
    }

    fn bind(&self, domain: u32, port: EventPort) -> Result<EventPort, Errno> {
        let domain = u16::try_from(domain).map(DomId).map_err(|_| Errno::SRCH)?;
        let (reply, descriptors) = host::ask(&Request::Bind { domain, port })?;
        let Reply::Bound(local_port) = reply else {
            return Err(Errno::IO);
        };
        let [pending, other_end] = <[OwnedFd; 2]>::try_from(descriptors).map_err(|_| Errno::IO)?;
        let data = epoll::EventData::new_u64(u64::from(local_port.0));
        epoll::add(&self.epoll, &pending, data, REPORTED_ONCE)?;
        let channel = Channel { pending, other_end };
        let mut channels = self.channels.lock().expect("no holder panicked");
        channels.insert(local_port, channel);
        Ok(local_port)
    }

    fn unbind(&self, port: EventPort) -> Result<(), Errno> {
        let mut channels = self.channels.lock().expect("no holder panicked");
        let channel = channels.remove(&port).ok_or(Errno::NOTCONN)?;
        // Closing alone would not do: the host holds the same eventfd open.
        epoll::delete(&self.epoll, &channel.pending)?;
        drop(channels);
        host::ask(&Request::Unbind(port)).map(drop)
    }

    /// The port that was notified, now masked. Waits for one unless the descriptor is non-blocking.
    fn pending(&self) -> Result<EventPort, Errno> {
        loop {
            let port = match self.next_event(Some(&Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            }))? {
                Some(port) => port,
                None if rustix::fs::fcntl_getfl(&self.epoll)?.contains(OFlags::NONBLOCK) => {
                    return Err(Errno::AGAIN);
                }
                None => match self.next_event(None)? {
                    Some(port) => port,
                    None => continue,
                },
            };
            let channels = self.channels.lock().expect("no holder panicked");
            if let Some(channel) = channels.get(&port) {
                // Notifications up to here are this event; later ones are reported after unmasking.
                let mut count = [0; 8];
                let _ = rustix::io::read(&channel.pending, &mut count);
                return Ok(port);
            }
        }
    }

    fn next_event(&self, timeout: Option<&Timespec>) -> Result<Option<EventPort>, Errno> {
        let mut space = [MaybeUninit::<epoll::Event>::uninit(); 1];
        let (events, _) = epoll::wait(&self.epoll, &mut space, timeout)?;
        Ok(events.first().map(|event| {
            let port = u32::try_from(event.data.u64()).expect("ports are 32 bits wide");
            EventPort(port)
        }))
    }

    fn unmask(&self, port: EventPort) -> Result<(), Errno> {
        let channels = self.channels.lock().expect("no holder panicked");
        // The driver ignores ports that are not the handle's own.
        let Some(channel) = channels.get(&port) else {
            return Ok(());
        };
        let data = epoll::EventData::new_u64(u64::from(port.0));
        epoll::modify(&self.epoll, &channel.pending, data, REPORTED_ONCE)
    }

    fn notify(&self, port: EventPort) -> Result<(), Errno> {
        let channels = self.channels.lock().expect("no holder panicked");
        let channel = channels.get(&port).ok_or(Errno::NOTCONN)?;
        match rustix::io::write(&channel.other_end, &1_u64.to_ne_bytes()) {
            // A full counter means that the other end is notified already.
            Ok(_) | Err(Errno::AGAIN) => Ok(()),
            Err(errno) => Err(errno),
        }
    }
}

fn port_or_error(outcome: Result<EventPort, Errno>) -> c_int {
    let port = outcome.and_then(|port| c_int::try_from(port.0).map_err(|_| Errno::OVERFLOW));
    port.unwrap_or_else(|errno| {
        set_errno(errno);
        -1
    })
}

/// `xenevtchn_open`: the logger is not used.
#[unsafe(no_mangle)]
pub(crate) extern "C" fn xenevtchn_open(_logger: *mut c_void, flags: c_uint) -> *mut Handle {
    match Handle::open(flags) {
        Ok(handle) => Box::into_raw(Box::new(handle)),
        Err(errno) => {
            set_errno(errno);
            null_mut()
        }
    }
}

/// `xenevtchn_close`: also unbinds what is still bound.
///
/// # Safety
/// `handle` is null or from [`xenevtchn_open`], and is not used again.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn xenevtchn_close(handle: *mut Handle) -> c_int {
    if handle.is_null() {
        return 0;
    }
    // SAFETY: the caller gives back what xenevtchn_open made from a box.
    let handle = unsafe { Box::from_raw(handle) };
    let channels = handle.channels.lock().expect("no holder panicked");
    let ports: Vec<EventPort> = channels.keys().copied().collect();
    drop(channels);
    for port in ports {
        // It fails only if the host is gone.
        let _ = handle.unbind(port);
    }
    0
}

/// `xenevtchn_fd`.
///
/// # Safety
/// `handle` is from [`xenevtchn_open`].
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn xenevtchn_fd(handle: *mut Handle) -> c_int {
    // SAFETY: the caller vouches for the handle.
    unsafe { &*handle }.epoll.as_raw_fd()
}

/// `xenevtchn_bind_interdomain`.
///
/// # Safety
/// `handle` is from [`xenevtchn_open`].
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn xenevtchn_bind_interdomain(
    handle: *mut Handle,
    domain: u32,
    remote_port: u32,
) -> c_int {
    // SAFETY: the caller vouches for the handle.
    port_or_error(unsafe { &*handle }.bind(domain, EventPort(remote_port)))
}

/// `xenevtchn_unbind`.
///
/// # Safety
/// `handle` is from [`xenevtchn_open`].
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn xenevtchn_unbind(handle: *mut Handle, port: u32) -> c_int {
    // SAFETY: the caller vouches for the handle.
    status(unsafe { &*handle }.unbind(EventPort(port)))
}

/// `xenevtchn_pending`.
///
/// # Safety
/// `handle` is from [`xenevtchn_open`].
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn xenevtchn_pending(handle: *mut Handle) -> c_int {
    // SAFETY: the caller vouches for the handle.
    port_or_error(unsafe { &*handle }.pending())
}

/// `xenevtchn_unmask`.
///
/// # Safety
/// `handle` is from [`xenevtchn_open`].
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn xenevtchn_unmask(handle: *mut Handle, port: u32) -> c_int {
    // SAFETY: the caller vouches for the handle.
    status(unsafe { &*handle }.unmask(EventPort(port)))
}

/// `xenevtchn_notify`.
///
/// # Safety
/// `handle` is from [`xenevtchn_open`].
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn xenevtchn_notify(handle: *mut Handle, port: u32) -> c_int {
    // SAFETY: the caller vouches for the handle.
    status(unsafe { &*handle }.notify(EventPort(port)))
}
