//! Grant mapping over the Linux gntdev device, as RAII types.
//!
//! A domain grants another one access to its pages under small numbers, grant references.
//! `/dev/xen/gntdev` maps granted pages into a process. This crate wraps it:
//!
//! - [`Gnttab`] is the open device, [`Mapping`] a contiguous run of mapped pages that is unmapped when
//!   dropped, [`Page`] one page of a mapping that keeps the mapping alive while I/O is in flight on it.
//! - [`PersistentGrants`] keeps pages mapped for a frontend that uses the same grants again and again
//!   (`feature-persistent` of blkif).
//! - [`Gnttab::copy`] copies to and from granted pages without mapping them, in batches: for everybody else.
//!
//! The interface to the kernel is that of Linux's `include/uapi/xen/gntdev.h`; the C library's `open`,
//! `ioctl`, `mmap` and `munmap` are called, so that they can be interposed.
//!
//! The owner of a granted page can write to it at any time. Nothing here hands out references to such
//! memory: only raw pointers, for the kernel to do I/O on, and copies.
#![deny(unsafe_code)]

mod abi;
mod cache;
mod copy;
mod device;
mod error;
mod page;

pub use cache::{Bounds, CacheStats, Mapper, PersistentGrants, Resolved};
pub use copy::{CopyDirection, CopySegment, GrantStatus, RawCopy};
pub use device::{GNTDEV_PATH, GRANTS_PER_MAPPING_MAX, Gnttab, Mapping};
pub use error::Error;
pub use page::{MappedPages, Page};

use std::fmt;

/// Bytes of a page of Xen, the unit of a grant, on every architecture.
pub const PAGE_SIZE: usize = 4096;

/// A domain's number (`domid_t`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DomId(pub u16);

impl fmt::Display for DomId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A grant reference (`grant_ref_t`): an index into the grant table of the domain that grants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GrantRef(pub u32);

impl fmt::Display for GrantRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How pages are mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// For reading. All that a page granted read-only allows.
    ReadOnly,
    /// For reading and writing.
    ReadWrite,
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ReadOnly => "read-only",
            Self::ReadWrite => "read-write",
        })
    }
}
