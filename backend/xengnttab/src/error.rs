//! What can go wrong with grants.

use std::io;
use std::path::PathBuf;

use crate::{Access, DomId, GrantRef, GrantStatus};

/// An attempt to use grants failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The device could not be opened.
    #[error("cannot open {}: {source}", path.display())]
    Open {
        /// The device.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A mapping of no pages was asked for.
    #[error("no grants of domain {domid} to map")]
    NoGrants {
        /// The granting domain.
        domid: DomId,
    },
    /// More pages than one mapping can have.
    #[error("{count} grants of domain {domid} are more than the {max} of one mapping")]
    TooManyGrants {
        /// The granting domain.
        domid: DomId,
        /// How many were asked for.
        count: usize,
        /// How many there may be.
        max: usize,
    },
    /// gntdev did not take the references. It does not look at the grants yet: the cause is its limit, or
    /// memory, or that the device is not gntdev.
    #[error(
        "cannot register {count} grants of domain {domid} from {first} on with gntdev: {source}"
    )]
    Register {
        /// The granting domain.
        domid: DomId,
        /// The first reference.
        first: GrantRef,
        /// How many references.
        count: usize,
        /// The cause.
        source: io::Error,
    },
    /// The pages could not be mapped. With `count` 1 the grant is `first`; else it is one of them, or
    /// all: gntdev does not say.
    #[error("cannot map {count} grants of domain {domid} from {first} on {access}: {source}")]
    Map {
        /// The granting domain.
        domid: DomId,
        /// The first reference.
        first: GrantRef,
        /// How many references.
        count: usize,
        /// How they were to be mapped.
        access: Access,
        /// The cause; EINVAL for a reference that grants nothing, or not this access.
        source: io::Error,
    },
    /// A copy that would leave the granted page.
    #[error(
        "cannot copy {len} bytes at {offset} of grant {gref} of domain {domid}: beyond the page"
    )]
    CopyBeyondPage {
        /// The granting domain.
        domid: DomId,
        /// The reference.
        gref: GrantRef,
        /// Offset in the page, in bytes.
        offset: usize,
        /// Length in bytes.
        len: usize,
    },
    /// The hypervisor did not make a copy.
    #[error("cannot copy from grant {gref} of domain {domid}: {status}")]
    CopyRefused {
        /// The granting domain.
        domid: DomId,
        /// The reference.
        gref: GrantRef,
        /// Why not.
        status: GrantStatus,
    },
    /// A batch of copies failed as a whole; how far it got is not known.
    #[error("cannot copy {count} segments to or from grants of domain {domid}: {source}")]
    Copy {
        /// The granting domain.
        domid: DomId,
        /// How many segments.
        count: usize,
        /// The cause.
        source: io::Error,
    },
}

impl Error {
    /// The error number of the system call, if one failed.
    #[must_use]
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Open { source, .. }
            | Self::Register { source, .. }
            | Self::Map { source, .. }
            | Self::Copy { source, .. } => source.raw_os_error(),
            Self::NoGrants { .. }
            | Self::TooManyGrants { .. }
            | Self::CopyBeyondPage { .. }
            | Self::CopyRefused { .. } => None,
        }
    }

    /// Whether a grant is to blame, and not a shortage on this host: then the granting domain is, and
    /// other grants may well be mapped.
    #[must_use]
    pub fn is_bad_grant(&self) -> bool {
        matches!(self, Self::Map { .. }) && !self.is_shortage()
    }

    /// Whether something on this host ran out, such as memory or the process's limit of mappings
    /// (`vm.max_map_count`).
    #[must_use]
    pub fn is_shortage(&self) -> bool {
        matches!(
            self.errno(),
            Some(libc::ENOMEM | libc::EAGAIN | libc::EMFILE | libc::ENFILE)
        )
    }
}
