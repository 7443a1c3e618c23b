//! Preloaded library that points gntdev and libxenevtchn at a simulated Xen host.
//!
//! A process that runs with this library in `LD_PRELOAD` and the host's socket in `SIMXEN_SOCKET` finds a working
//! `/dev/xen/gntdev`: the calls of libc that concern it are answered here, all others go on to the real libc. With a
//! symbolic link `libxenevtchn.so` to this library on `LD_LIBRARY_PATH`, the process finds working event channels too.
//! The process itself knows of nothing.
//!
//! Only calls through libc can be seen here, not system calls made directly. Descriptors of gntdev that are duplicated,
//! or inherited across a fork, are not followed.

mod evtchn;
mod gntdev;
mod grant_copy;
mod host;
mod interpose;
mod mapping;
mod real;

/// Why a call fails: the `errno` that the caller gets to see.
type Errno = rustix::io::Errno;

/// Sets the calling thread's `errno`.
fn set_errno(errno: Errno) {
    // SAFETY: libc returns the address of this thread's own errno, valid for as long as the thread runs.
    let at = unsafe { libc::__errno_location() };
    // SAFETY: the address is this thread's errno, which nobody else accesses.
    unsafe { *at = errno.raw_os_error() };
}

/// The result of a C function: zero, or -1 with `errno` set.
fn status(outcome: Result<(), Errno>) -> libc::c_int {
    match outcome {
        Ok(()) => 0,
        Err(errno) => {
            set_errno(errno);
            -1
        }
    }
}
