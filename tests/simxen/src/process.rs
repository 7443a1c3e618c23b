//! Waiting for a child process with a limit, without polling.

use std::os::fd::OwnedFd;
use std::process::{Child, ExitStatus};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Pid, PidfdFlags};

use crate::error::{Error, Result};

/// Waits until the child has ended; `None` if it has not within the limit.
pub(crate) fn wait_for_exit(child: &mut Child, limit: Duration) -> Result<Option<ExitStatus>> {
    let attempt = format!("wait for process {}", child.id());
    let pidfd = open_pidfd(child)?;
    let limit = Timespec::try_from(limit).unwrap_or(Timespec {
        tv_sec: i64::MAX,
        tv_nsec: 0,
    });
    let mut polled = [PollFd::new(&pidfd, PollFlags::IN)];
    rustix::event::poll(&mut polled, Some(&limit)).map_err(Error::os(attempt.as_str()))?;
    child.try_wait().map_err(Error::io(attempt))
}

fn open_pidfd(child: &Child) -> Result<OwnedFd> {
    rustix::process::pidfd_open(pid_of(child), PidfdFlags::empty())
        .map_err(Error::os(format!("open process {}", child.id())))
}

/// The child's process identifier.
pub(crate) fn pid_of(child: &Child) -> Pid {
    let raw = i32::try_from(child.id()).expect("process identifiers are positive 32-bit numbers");
    Pid::from_raw(raw).expect("no child is process zero")
}
