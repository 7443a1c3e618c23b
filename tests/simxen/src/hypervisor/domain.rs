//! A domain as its own kernel sees it: memory, the pages it grants, the ports it offers.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use super::channel::{ChannelEnds, EventChannel};
use super::state::{DomainMemory, DomainState, Hypervisor, PortState};
use crate::control::wire::{GRANT_TABLE_ENTRIES, GrantEntry};
use crate::error::{Error, Result};
use crate::ids::{DOM0, DomId, EventPort, GrantRef, PAGE_SIZE, PageIndex};

/// What a grant allows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reading and writing.
    ReadWrite,
    /// Reading only.
    ReadOnly,
}

/// A domain. Clones are the same domain.
#[derive(Clone, Debug)]
pub struct Domain {
    hypervisor: Arc<Hypervisor>,
    memory: Arc<DomainMemory>,
}

impl Domain {
    pub(crate) fn create(hypervisor: &Arc<Hypervisor>, id: DomId, page_count: u32) -> Result<Self> {
        let memory = hypervisor.create_domain(id, page_count)?;
        Ok(Self {
            hypervisor: Arc::clone(hypervisor),
            memory,
        })
    }

    /// Takes the domain away, its grants and its ports with it, as a crash of the guest does.
    pub(crate) fn vanish(&self) {
        self.hypervisor.destroy_domain(self.memory.id);
    }

    /// The domain's identifier.
    #[must_use]
    pub fn id(&self) -> DomId {
        self.memory.id
    }

    fn with_state<T>(&self, act: impl FnOnce(&mut DomainState) -> Result<T>) -> Result<T> {
        let mut state = self.hypervisor.lock();
        let domain = state
            .domains
            .get_mut(&self.memory.id)
            .filter(|domain| Arc::ptr_eq(&domain.memory, &self.memory));
        match domain {
            Some(domain) => act(domain),
            None => Err(self.exhausted("life: it was destroyed")),
        }
    }

    fn exhausted(&self, resource: &'static str) -> Error {
        Error::Exhausted {
            domain: self.memory.id,
            resource,
        }
    }

    /// Takes `count` pages in a row, with whatever they held before.
    ///
    /// # Errors
    /// [`Error::Exhausted`] if there are none.
    pub fn allocate_pages(&self, count: u32) -> Result<PageIndex> {
        self.with_state(|domain| {
            domain
                .allocator
                .allocate(count)
                .ok_or_else(|| self.exhausted("memory"))
        })
    }

    /// Gives pages back. It is the caller's business that no grant of them is left.
    ///
    /// # Errors
    /// [`Error::Exhausted`] if the domain was destroyed.
    pub fn free_pages(&self, first: PageIndex, count: u32) -> Result<()> {
        self.with_state(|domain| {
            domain.allocator.free(first, count);
            Ok(())
        })
    }

    /// Copies bytes out of memory, from `offset` bytes into page `first` on; they may go over several pages.
    ///
    /// # Panics
    /// If the range is beyond the domain's memory.
    pub fn read_memory(&self, first: PageIndex, offset: usize, into: &mut [u8]) {
        self.memory.pages.read(first.byte_offset() + offset, into);
    }

    /// Copies bytes into memory, as [`Self::read_memory`].
    ///
    /// # Panics
    /// If the range is beyond the domain's memory.
    pub fn write_memory(&self, first: PageIndex, offset: usize, bytes: &[u8]) {
        self.memory.pages.write(first.byte_offset() + offset, bytes);
    }

    /// Sets whole pages to one value.
    ///
    /// # Panics
    /// If the range is beyond the domain's memory.
    pub fn fill_pages(&self, first: PageIndex, count: u32, value: u8) {
        let bytes = count as usize * PAGE_SIZE;
        self.memory.pages.fill(first.byte_offset(), bytes, value);
    }

    /// A 32-bit word of memory that is shared with other processes.
    ///
    /// # Panics
    /// If it is beyond the domain's memory or not aligned.
    #[must_use]
    pub fn word(&self, first: PageIndex, offset: usize) -> &AtomicU32 {
        self.memory.pages.atomic_u32(first.byte_offset() + offset)
    }

    /// Grants domain 0 access to a page.
    ///
    /// # Errors
    /// [`Error::Exhausted`] if the grant table is full.
    pub fn grant(&self, page: PageIndex, access: Access) -> Result<GrantRef> {
        self.grant_entry(GrantEntry {
            granted_to: DOM0,
            read_only: access == Access::ReadOnly,
            page,
        })
    }

    /// Puts any entry into the grant table: for another domain, of a page that does not exist.
    ///
    /// # Errors
    /// [`Error::Exhausted`] if the grant table is full.
    pub fn grant_entry(&self, entry: GrantEntry) -> Result<GrantRef> {
        self.with_state(|domain| {
            let fresh = GrantRef(domain.next_grant);
            let grant = domain.free_grants.pop().unwrap_or(fresh);
            if grant.0 >= GRANT_TABLE_ENTRIES {
                return Err(self.exhausted("grants"));
            }
            if grant == fresh {
                domain.next_grant += 1;
            }
            self.memory.set_grant(grant, Some(entry));
            Ok(grant)
        })
    }

    /// Ends a grant that no backend has mapped.
    ///
    /// # Errors
    /// [`Error::GrantStillMapped`]; the grant then stays.
    pub fn end_access(&self, grant: GrantRef) -> Result<()> {
        let mappings = self.map_count(grant);
        if mappings > 0 {
            return Err(Error::GrantStillMapped {
                domain: self.memory.id,
                grant,
                mappings,
            });
        }
        self.revoke(grant);
        Ok(())
    }

    /// Takes a grant out of the table whatever its state, as a hostile guest does: it cannot be mapped any more; those
    /// who have it mapped keep it.
    pub fn revoke(&self, grant: GrantRef) {
        self.memory.set_grant(grant, None);
        // Of a destroyed domain there is no state left to put the number back into.
        let _ = self.with_state(|domain| {
            domain.free_grants.push(grant);
            Ok(())
        });
    }

    /// How many mappings of a grant backends have now.
    #[must_use]
    pub fn map_count(&self, grant: GrantRef) -> u32 {
        self.hypervisor.lock().map_count(&self.memory, grant)
    }

    /// Offers domain 0 a new event channel.
    ///
    /// # Errors
    /// [`Error::Io`] if no descriptor can be made, [`Error::Exhausted`] if the domain was destroyed.
    pub fn allocate_channel(&self) -> Result<EventChannel> {
        self.offer_channel(DOM0)
    }

    /// Offers a new event channel to any domain; only domain 0 has backends here.
    ///
    /// # Errors
    /// As [`Self::allocate_channel`].
    pub fn offer_channel(&self, offered_to: DomId) -> Result<EventChannel> {
        let ends = Arc::new(ChannelEnds::new()?);
        let port = self.with_state(|domain| {
            let port = EventPort(domain.next_port);
            domain.next_port += 1;
            domain.ports.insert(
                port,
                PortState {
                    offered_to,
                    ends: Arc::clone(&ends),
                },
            );
            Ok(port)
        })?;
        Ok(EventChannel::new(self.clone(), port, ends))
    }

    pub(super) fn close_port(&self, port: EventPort) {
        // The ports of a destroyed domain are closed already.
        let _ = self.with_state(|domain| {
            domain.ports.remove(&port);
            Ok(())
        });
        self.hypervisor.announce();
    }
}
