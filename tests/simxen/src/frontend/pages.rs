//! The pages that a frontend grants for data: kept granted for good, or granted for each request.

use crate::error::Result;
use crate::hypervisor::{Access, Domain};
use crate::ids::{GrantRef, PageIndex};

/// A page of data with its grant.
#[derive(Clone, Copy, Debug)]
pub(super) struct DataPage {
    pub(super) page: PageIndex,
    pub(super) grant: GrantRef,
}

/// Where a frontend gets its pages of data from.
#[derive(Debug)]
pub(super) struct PagePool {
    domain: Domain,
    /// Whether grants stay, as with `feature-persistent` on both sides.
    persistent: bool,
    idle: Vec<DataPage>,
}

impl PagePool {
    pub(super) fn new(domain: Domain, persistent: bool) -> Self {
        Self {
            domain,
            persistent,
            idle: Vec::new(),
        }
    }

    /// A granted page. A persistent one is always writable for the backend, since it serves for any request.
    pub(super) fn take(&mut self, access: Access) -> Result<DataPage> {
        if let Some(page) = self.idle.pop() {
            return Ok(page);
        }
        let access = if self.persistent {
            Access::ReadWrite
        } else {
            access
        };
        let page = self.domain.allocate_pages(1)?;
        let grant = self.domain.grant(page, access)?;
        Ok(DataPage { page, grant })
    }

    /// Takes a page back. One that is not persistent must be unmapped by now: Linux's blkfront gives up the disk if it
    /// is not.
    pub(super) fn give_back(&mut self, page: DataPage) -> Result<()> {
        if self.persistent {
            self.idle.push(page);
            return Ok(());
        }
        self.end(page)
    }

    fn end(&self, page: DataPage) -> Result<()> {
        self.domain.end_access(page.grant)?;
        self.domain.free_pages(page.page, 1)
    }

    /// Ends all grants.
    pub(super) fn release(mut self) -> Result<()> {
        while let Some(page) = self.idle.pop() {
            self.end(page)?;
        }
        Ok(())
    }
}
