//! What can go wrong when driving the simulated host.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::ids::{DomId, GrantRef};
use crate::xenstore::XsError;

/// The result of most operations of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an operation of the simulated host failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A system call, or a file of the simulation, failed.
    #[error("{attempt}: {source}")]
    Io {
        /// What was attempted, and on what.
        attempt: String,
        /// The cause.
        source: io::Error,
    },
    /// Xenstore refused an operation.
    #[error("xenstore: {operation} {path}: {source}")]
    Xenstore {
        /// The operation, e.g. "write".
        operation: &'static str,
        /// The node.
        path: String,
        /// The cause, as it goes over the wire.
        source: XsError,
    },
    /// Something that was waited for did not happen.
    #[error("waited {waited:?} for {what}; last seen: {last}")]
    Timeout {
        /// What was waited for.
        what: String,
        /// How long.
        waited: Duration,
        /// The state of affairs when giving up.
        last: String,
    },
    /// A domain of this identifier is there already.
    #[error("domain {0} exists already")]
    DomainExists(DomId),
    /// The domain has too little memory, grants or ports left.
    #[error("domain {domain} is out of {resource}")]
    Exhausted {
        /// Which domain.
        domain: DomId,
        /// What it ran out of.
        resource: &'static str,
    },
    /// Access to a granted page cannot be ended, since a backend has it mapped.
    #[error("grant {grant} of domain {domain} is still mapped {mappings} time(s)")]
    GrantStillMapped {
        /// The granting domain.
        domain: DomId,
        /// The grant.
        grant: GrantRef,
        /// How many mappings there are.
        mappings: u32,
    },
    /// The backend did what makes a frontend give up its disk.
    #[error("the backend broke the protocol: {0}")]
    Protocol(String),
    /// The backend answered a request with an error status.
    #[error("{request} failed with blkif status {status}")]
    RequestFailed {
        /// The request.
        request: String,
        /// The status of `blkif.h`: -1 is an error, -2 means not supported.
        status: i16,
    },
    /// The frontend was asked for what it or the backend cannot do.
    #[error("not possible on this connection: {0}")]
    Unsupported(String),
    /// The device's virtual name is not understood.
    #[error("{0:?} is not a virtual device name of the xvd family")]
    BadVdev(String),
    /// The hotplug command failed.
    #[error("hotplug {action} for {path} failed: {detail}")]
    Hotplug {
        /// "add" or "remove".
        action: &'static str,
        /// The backend path.
        path: String,
        /// Exit status and standard error.
        detail: String,
    },
    /// A file that has to be built first is missing.
    #[error("{} is missing; build it with `{build_command}`", path.display())]
    NotBuilt {
        /// Where it was looked for.
        path: PathBuf,
        /// The command that makes it.
        build_command: String,
    },
    /// The daemon ended before what was waited for happened.
    #[error("the daemon ended ({status}) while waiting for {what}; its log:\n{log}")]
    DaemonEnded {
        /// Its exit status.
        status: String,
        /// What was waited for.
        what: String,
        /// What it wrote.
        log: String,
    },
}

impl Error {
    /// Wraps an I/O error, with what was attempted.
    pub(crate) fn io(attempt: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let attempt = attempt.into();
        move |source| Self::Io { attempt, source }
    }

    /// Wraps the error of a bare system call, with what was attempted.
    pub(crate) fn os(attempt: impl Into<String>) -> impl FnOnce(rustix::io::Errno) -> Self {
        let attempt = attempt.into();
        move |source| Self::Io {
            attempt,
            source: source.into(),
        }
    }
}
