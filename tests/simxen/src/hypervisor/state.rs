//! The state behind the hypervisor's lock, and the operations that backends ask for.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use rustix::io::Errno;

use super::account::BackendAccount;
use super::channel::ChannelEnds;
use super::pages::PageAllocator;
use crate::control::wire::{
    DomainReply, GRANT_TABLE_ENTRIES, GrantEntry, MapHandle, MappedGrant, Reply, Request,
};
use crate::error::{Error, Result};
use crate::ids::{DOM0, DomId, EventPort, GrantRef, PAGE_SIZE};
use crate::memory::SharedMemory;

/// Bytes of an entry of the shared grant table.
const GRANT_ENTRY_BYTES: usize = 8;
/// The first grant references are reserved by Xen.
const FIRST_GRANT: u32 = 8;

/// Names a backend's process, by its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct BackendId(u64);

/// The memory and the grant table of a domain. They outlive the domain while a backend has pages of it mapped.
#[derive(Debug)]
pub(super) struct DomainMemory {
    pub(super) id: DomId,
    pub(super) incarnation: u64,
    pub(super) page_count: u32,
    pub(super) pages: SharedMemory,
    grant_table: SharedMemory,
}

impl DomainMemory {
    /// The entry of a grant; `None` if it is unused or beyond the table.
    pub(super) fn grant(&self, grant: GrantRef) -> Option<GrantEntry> {
        if grant.0 >= GRANT_TABLE_ENTRIES {
            return None;
        }
        let word = self.grant_word(grant).load(Ordering::Acquire);
        GrantEntry::from_word(word)
    }

    pub(super) fn set_grant(&self, grant: GrantRef, entry: Option<GrantEntry>) {
        let word = entry.map_or(0, GrantEntry::to_word);
        self.grant_word(grant).store(word, Ordering::Release);
    }

    fn grant_word(&self, grant: GrantRef) -> &std::sync::atomic::AtomicU64 {
        self.grant_table
            .atomic_u64(grant.0 as usize * GRANT_ENTRY_BYTES)
    }

    fn clear_grants(&self) {
        let bytes = GRANT_TABLE_ENTRIES as usize * GRANT_ENTRY_BYTES;
        self.grant_table.fill(0, bytes, 0);
    }
}

/// A living domain.
#[derive(Debug)]
pub(super) struct DomainState {
    pub(super) memory: Arc<DomainMemory>,
    pub(super) allocator: PageAllocator,
    /// Grant references given back, last in first out as in Linux, so that numbers are soon used again.
    pub(super) free_grants: Vec<GrantRef>,
    pub(super) next_grant: u32,
    pub(super) ports: BTreeMap<EventPort, PortState>,
    pub(super) next_port: u32,
}

/// A port of a domain, offered to another one.
#[derive(Debug)]
pub(super) struct PortState {
    pub(super) offered_to: DomId,
    pub(super) ends: Arc<ChannelEnds>,
}

#[derive(Debug)]
struct BackendState {
    pid: i32,
    mappings: HashMap<MapHandle, (Arc<DomainMemory>, GrantRef)>,
    channels: HashMap<EventPort, Arc<ChannelEnds>>,
    grants_mapped_total: u64,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) domains: BTreeMap<DomId, DomainState>,
    backends: BTreeMap<BackendId, BackendState>,
    /// By incarnation, so that an old domain's mappings do not count for a new one of the same identifier.
    map_counts: HashMap<(u64, GrantRef), u32>,
    next_incarnation: u64,
    next_backend: u64,
    next_handle: u64,
    next_local_port: u32,
}

/// The hypervisor: shared by the domains' handles and the threads that serve backends.
#[derive(Debug)]
pub(crate) struct Hypervisor {
    state: Mutex<State>,
    changed: Condvar,
}

impl Hypervisor {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                domains: BTreeMap::new(),
                backends: BTreeMap::new(),
                map_counts: HashMap::new(),
                next_incarnation: 1,
                next_backend: 1,
                next_handle: 1,
                next_local_port: 1,
            }),
            changed: Condvar::new(),
        })
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state
            .lock()
            .expect("no thread panicked in the hypervisor")
    }

    /// Tells those who wait for the accounts that something changed.
    pub(super) fn announce(&self) {
        self.changed.notify_all();
    }

    pub(super) fn create_domain(&self, id: DomId, page_count: u32) -> Result<Arc<DomainMemory>> {
        let mut state = self.lock();
        if state.domains.contains_key(&id) {
            return Err(Error::DomainExists(id));
        }
        let memory = Arc::new(DomainMemory {
            id,
            incarnation: state.next_incarnation,
            page_count,
            pages: SharedMemory::create(
                &format!("simxen-domain-{id}"),
                page_count as usize * PAGE_SIZE,
            )?,
            grant_table: SharedMemory::create(
                &format!("simxen-grants-{id}"),
                GRANT_TABLE_ENTRIES as usize * GRANT_ENTRY_BYTES,
            )?,
        });
        state.next_incarnation += 1;
        state.domains.insert(
            id,
            DomainState {
                memory: Arc::clone(&memory),
                allocator: PageAllocator::new(page_count),
                free_grants: Vec::new(),
                next_grant: FIRST_GRANT,
                ports: BTreeMap::new(),
                next_port: 1,
            },
        );
        Ok(memory)
    }

    /// Takes a domain away with its grants and channels. Pages that backends have mapped stay readable to them.
    pub(super) fn destroy_domain(&self, id: DomId) {
        let mut state = self.lock();
        if let Some(domain) = state.domains.remove(&id) {
            domain.memory.clear_grants();
        }
        drop(state);
        self.announce();
    }

    pub(crate) fn add_backend(&self, pid: i32) -> BackendId {
        let mut state = self.lock();
        let id = BackendId(state.next_backend);
        state.next_backend += 1;
        state.backends.insert(
            id,
            BackendState {
                pid,
                mappings: HashMap::new(),
                channels: HashMap::new(),
                grants_mapped_total: 0,
            },
        );
        drop(state);
        self.announce();
        id
    }

    /// The process is gone: everything that it held is free.
    pub(crate) fn remove_backend(&self, id: BackendId) {
        let mut state = self.lock();
        if let Some(backend) = state.backends.remove(&id) {
            for (memory, grant) in backend.mappings.values() {
                state.count_unmapped(memory, *grant);
            }
            for ends in backend.channels.values() {
                ends.unbind();
            }
        }
        drop(state);
        self.announce();
    }

    /// The accounts of the processes that are connected now.
    pub(crate) fn accounts(&self) -> Vec<BackendAccount> {
        self.lock().accounts()
    }

    /// Waits until the accounts satisfy the predicate.
    pub(crate) fn wait_for_accounts(
        &self,
        what: &str,
        predicate: impl Fn(&[BackendAccount]) -> bool,
        timeout: Duration,
    ) -> Result<Vec<BackendAccount>> {
        let deadline = Instant::now() + timeout;
        let mut state = self.lock();
        loop {
            let accounts = state.accounts();
            if predicate(&accounts) {
                return Ok(accounts);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Error::Timeout {
                    what: what.to_owned(),
                    waited: timeout,
                    last: format!("{accounts:?}"),
                });
            }
            let (guard, _) = self
                .changed
                .wait_timeout(state, left)
                .expect("no thread panicked in the hypervisor");
            state = guard;
        }
    }

    /// Does what a backend asks for; the descriptors go with the reply.
    pub(crate) fn serve(&self, backend: BackendId, request: &Request) -> (Reply, Vec<OwnedFd>) {
        let mut state = self.lock();
        let outcome = match request {
            Request::Domain(domain) => state.share_domain(*domain),
            Request::Map { writable, grants } => state
                .map(backend, *writable, grants)
                .map(|mapped| (Reply::Mapped(mapped), Vec::new())),
            Request::Unmap(handles) => state
                .unmap(backend, handles)
                .map(|()| (Reply::Done, Vec::new())),
            Request::Bind { domain, port } => state.bind(backend, *domain, *port),
            Request::Unbind(port) => state
                .unbind(backend, *port)
                .map(|()| (Reply::Done, Vec::new())),
        };
        drop(state);
        self.announce();
        outcome.unwrap_or_else(|errno| (Reply::Failed(errno.raw_os_error()), Vec::new()))
    }
}

impl State {
    fn accounts(&self) -> Vec<BackendAccount> {
        self.backends
            .values()
            .map(|backend| BackendAccount {
                pid: backend.pid,
                grants_mapped: backend.mappings.len(),
                channels_bound: backend.channels.len(),
                grants_mapped_total: backend.grants_mapped_total,
            })
            .collect()
    }

    pub(super) fn map_count(&self, memory: &DomainMemory, grant: GrantRef) -> u32 {
        let key = (memory.incarnation, grant);
        self.map_counts.get(&key).copied().unwrap_or(0)
    }

    fn count_unmapped(&mut self, memory: &DomainMemory, grant: GrantRef) {
        let key = (memory.incarnation, grant);
        match self.map_counts.get_mut(&key) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(self.map_counts.remove(&key)),
        }
    }

    fn backend(&mut self, id: BackendId) -> Result<&mut BackendState, Errno> {
        self.backends.get_mut(&id).ok_or(Errno::BADF)
    }

    fn share_domain(&self, id: DomId) -> Result<(Reply, Vec<OwnedFd>), Errno> {
        let memory = &self.domains.get(&id).ok_or(Errno::SRCH)?.memory;
        let copy = |fd: std::os::fd::BorrowedFd<'_>| {
            fd.try_clone_to_owned()
                .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))
        };
        let descriptors = vec![copy(memory.pages.fd())?, copy(memory.grant_table.fd())?];
        let reply = DomainReply {
            incarnation: memory.incarnation,
            pages: memory.page_count,
        };
        Ok((Reply::Domain(reply), descriptors))
    }

    /// Every grant is checked before the first is mapped, so that a failure leaves nothing behind.
    fn map(
        &mut self,
        backend: BackendId,
        writable: bool,
        grants: &[(DomId, GrantRef)],
    ) -> Result<Vec<MappedGrant>, Errno> {
        let mut found = Vec::with_capacity(grants.len());
        for &(domain, grant) in grants {
            let memory = &self.domains.get(&domain).ok_or(Errno::INVAL)?.memory;
            let entry = memory.grant(grant).ok_or(Errno::INVAL)?;
            let allowed = entry.granted_to == DOM0
                && entry.page.0 < memory.page_count
                && !(writable && entry.read_only);
            if !allowed {
                return Err(Errno::INVAL);
            }
            found.push((Arc::clone(memory), grant, entry.page));
        }
        let mut mapped = Vec::with_capacity(found.len());
        for (memory, grant, page) in found {
            let handle = MapHandle(self.next_handle);
            self.next_handle += 1;
            *self
                .map_counts
                .entry((memory.incarnation, grant))
                .or_insert(0) += 1;
            mapped.push(MappedGrant {
                handle,
                incarnation: memory.incarnation,
                page,
            });
            let backend = self.backend(backend)?;
            backend.grants_mapped_total += 1;
            backend.mappings.insert(handle, (memory, grant));
        }
        Ok(mapped)
    }

    fn unmap(&mut self, backend: BackendId, handles: &[MapHandle]) -> Result<(), Errno> {
        for handle in handles {
            let mapping = self.backend(backend)?.mappings.remove(handle);
            let (memory, grant) = mapping.ok_or(Errno::INVAL)?;
            self.count_unmapped(&memory, grant);
        }
        Ok(())
    }

    fn bind(
        &mut self,
        backend: BackendId,
        domain: DomId,
        port: EventPort,
    ) -> Result<(Reply, Vec<OwnedFd>), Errno> {
        let remote = self.domains.get(&domain).ok_or(Errno::SRCH)?;
        let offered = remote.ports.get(&port).ok_or(Errno::INVAL)?;
        if offered.offered_to != DOM0 {
            return Err(Errno::INVAL);
        }
        let ends = Arc::clone(&offered.ends);
        let descriptors = ends.bind()?;
        let local_port = EventPort(self.next_local_port);
        self.next_local_port += 1;
        self.backend(backend)?.channels.insert(local_port, ends);
        Ok((Reply::Bound(local_port), descriptors))
    }

    fn unbind(&mut self, backend: BackendId, port: EventPort) -> Result<(), Errno> {
        let ends = self.backend(backend)?.channels.remove(&port);
        ends.ok_or(Errno::NOTCONN)?.unbind();
        Ok(())
    }
}
