//! The connection to the simulated hypervisor, one for the process, made when first needed.

use std::collections::HashMap;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd, OwnedFd};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType,
};
use simxen::control::wire::{
    DESCRIPTORS_MAX, GRANT_TABLE_ENTRIES, GrantEntry, PACKET_BYTES_MAX, Reply, Request,
    SOCKET_VARIABLE,
};
use simxen::{DomId, GrantRef, PAGE_SIZE, PageIndex};

use crate::{Errno, real};

static CONNECTION: Mutex<Option<OwnedFd>> = Mutex::new(None);

/// Connects unless that is done already.
///
/// # Errors
/// `ENODEV` if there is no host: the process then sees a machine without Xen.
pub(crate) fn ensure_connected() -> Result<(), Errno> {
    let mut connection = CONNECTION.lock().expect("no holder panicked");
    if connection.is_none() {
        *connection = Some(connect().ok_or(Errno::NODEV)?);
    }
    Ok(())
}

fn connect() -> Option<OwnedFd> {
    let path = std::env::var_os(SOCKET_VARIABLE)?;
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .ok()?;
    let address = SocketAddrUnix::new(path).ok()?;
    rustix::net::connect(&socket, &address).ok()?;
    Some(socket)
}

/// Asks the hypervisor for something.
///
/// # Errors
/// What the hypervisor answered, or `EIO` if it is gone.
pub(crate) fn ask(request: &Request) -> Result<(Reply, Vec<OwnedFd>), Errno> {
    ensure_connected()?;
    let guard = CONNECTION.lock().expect("no holder panicked");
    let connection = guard.as_ref().ok_or(Errno::NODEV)?;
    rustix::net::send(connection, &request.to_packet(), SendFlags::NOSIGNAL)
        .map_err(|_| Errno::IO)?;
    let (packet, descriptors) = receive(connection).map_err(|_| Errno::IO)?;
    drop(guard);
    match Reply::from_packet(request, &packet) {
        Ok(Reply::Failed(errno)) => Err(Errno::from_raw_os_error(errno)),
        Ok(reply) => Ok((reply, descriptors)),
        Err(_) => Err(Errno::IO),
    }
}

fn receive(connection: &OwnedFd) -> Result<(Vec<u8>, Vec<OwnedFd>), Errno> {
    let mut packet = vec![0; PACKET_BYTES_MAX];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(DESCRIPTORS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::net::recvmsg(
        connection,
        &mut [IoSliceMut::new(&mut packet)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let mut descriptors = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            descriptors.extend(received);
        }
    }
    packet.truncate(received.bytes);
    Ok((packet, descriptors))
}

/// The memory and the grant table of a domain, both mapped here until the process ends: a stale user of a domain that
/// was destroyed then finds zeros and not a hole.
pub(crate) struct DomainView {
    /// Tells this domain from a later one of the same identifier.
    pub(crate) incarnation: u64,
    page_count: u32,
    memory_fd: OwnedFd,
    memory: *mut u8,
    grant_table: *const AtomicU64,
}

// SAFETY: the pointers are to shared mappings that are never unmapped and not tied to a thread.
unsafe impl Send for DomainView {}
// SAFETY: the grant table is accessed with atomics only, and the memory only by raw copies.
unsafe impl Sync for DomainView {}

impl DomainView {
    fn fetch(domain: DomId) -> Result<Self, Errno> {
        let (reply, descriptors) = ask(&Request::Domain(domain))?;
        let Reply::Domain(reply) = reply else {
            return Err(Errno::IO);
        };
        let [memory_fd, table_fd] = <[OwnedFd; 2]>::try_from(descriptors).map_err(|_| Errno::IO)?;
        let writable = libc::PROT_READ | libc::PROT_WRITE;
        let memory = map_whole(&memory_fd, reply.pages as usize * PAGE_SIZE, writable)?;
        let table_bytes = GRANT_TABLE_ENTRIES as usize * size_of::<AtomicU64>();
        let grant_table = map_whole(&table_fd, table_bytes, libc::PROT_READ)?;
        Ok(Self {
            incarnation: reply.incarnation,
            page_count: reply.pages,
            memory_fd,
            memory,
            grant_table: grant_table.cast(),
        })
    }

    /// The memfd of the domain's memory.
    pub(crate) fn memory_fd(&self) -> i32 {
        self.memory_fd.as_raw_fd()
    }

    /// The grant's entry in the table of now; `None` if it is unused or beyond the table.
    pub(crate) fn grant(&self, grant: GrantRef) -> Option<GrantEntry> {
        if grant.0 >= GRANT_TABLE_ENTRIES {
            return None;
        }
        // SAFETY: the index was checked against the size of the mapped table.
        let entry = unsafe { self.grant_table.add(grant.0 as usize) };
        // SAFETY: the entry is in the table, which is mapped for as long as the process runs.
        let word = unsafe { &*entry }.load(Ordering::Acquire);
        GrantEntry::from_word(word)
    }

    /// Where a page of the domain's memory begins; `None` if there is no such page.
    pub(crate) fn page(&self, page: PageIndex) -> Option<*mut u8> {
        if page.0 >= self.page_count {
            return None;
        }
        // SAFETY: the page was checked against the size of the mapped memory.
        Some(unsafe { self.memory.add(page.byte_offset()) })
    }
}

fn map_whole(fd: &OwnedFd, bytes: usize, protection: libc::c_int) -> Result<*mut u8, Errno> {
    // SAFETY: a fresh mapping at an address of the kernel's choice overlaps nothing that exists.
    let at = unsafe {
        real::mmap(
            null_mut(),
            bytes,
            protection,
            libc::MAP_SHARED,
            fd.as_raw_fd(),
            0,
        )
    };
    if at == libc::MAP_FAILED {
        return Err(Errno::NOMEM);
    }
    Ok(at.cast())
}

fn views() -> &'static Mutex<HashMap<DomId, Arc<DomainView>>> {
    static VIEWS: OnceLock<Mutex<HashMap<DomId, Arc<DomainView>>>> = OnceLock::new();
    VIEWS.get_or_init(Mutex::default)
}

/// The domain as known; it may be one that is gone.
///
/// # Errors
/// `ESRCH` if there is no such domain.
pub(crate) fn known_domain(domain: DomId) -> Result<Arc<DomainView>, Errno> {
    let known = views()
        .lock()
        .expect("no holder panicked")
        .get(&domain)
        .cloned();
    known.map_or_else(|| current_domain(domain), Ok)
}

/// The domain as it is now, by asking the hypervisor.
///
/// # Errors
/// `ESRCH` if there is no such domain.
pub(crate) fn current_domain(domain: DomId) -> Result<Arc<DomainView>, Errno> {
    let fetched = Arc::new(DomainView::fetch(domain)?);
    let mut views = views().lock().expect("no holder panicked");
    views.insert(domain, Arc::clone(&fetched));
    Ok(fetched)
}
