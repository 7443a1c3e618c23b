//! The numbers of the hypervisor's interface, each as a type of its own.

use std::fmt;

/// Bytes in a page of guest memory, and in a granted page.
pub const PAGE_SIZE: usize = 4096;

/// The identifier of a domain (`domid_t` of Xen's `xen.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DomId(pub u16);

/// The control domain, in which backends run.
pub const DOM0: DomId = DomId(0);

impl fmt::Display for DomId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A grant reference: an index into the grant table of the granting domain (`grant_ref_t`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GrantRef(pub u32);

impl fmt::Display for GrantRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The index of a page in a domain's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PageIndex(pub u32);

impl PageIndex {
    /// The page `count` pages after this one.
    #[must_use]
    pub fn offset_by(self, count: u32) -> Self {
        Self(self.0 + count)
    }

    /// Where the page begins in the domain's memory, in bytes.
    #[must_use]
    pub fn byte_offset(self) -> usize {
        self.0 as usize * PAGE_SIZE
    }
}

impl fmt::Display for PageIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An event channel port of one domain (`evtchn_port_t`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventPort(pub u32);

impl fmt::Display for EventPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
