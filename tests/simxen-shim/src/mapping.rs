//! Granted pages in the address space: `mmap` and `munmap` of gntdev.

use std::collections::BTreeMap;
use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use libc::{c_int, c_void, off_t};
use simxen::control::wire::{GRANTS_PER_REQUEST_MAX, MapHandle, MappedGrant, Reply, Request};
use simxen::{DomId, GrantRef, PAGE_SIZE};

use crate::{Errno, gntdev, host, real};

/// A range of the address space that shows granted pages.
struct Mapping {
    /// The index of its map, in pages.
    index: u64,
    /// One for each page; `None` once that page is unmapped.
    handles: Vec<Option<MapHandle>>,
    /// Of the map: cleared when the last page goes.
    in_address_space: Arc<AtomicBool>,
}

/// All ranges by their first address.
static MAPPINGS: Mutex<BTreeMap<usize, Mapping>> = Mutex::new(BTreeMap::new());
/// How many there are: a test without a lock, for the calls that do not concern us.
static MAPPING_COUNT: AtomicUsize = AtomicUsize::new(0);

/// Whether any granted page is in the address space.
pub(crate) fn any() -> bool {
    MAPPING_COUNT.load(Ordering::Acquire) != 0
}

/// The index and the length in pages of the map that begins at, or contains, an address.
pub(crate) fn find(address: usize) -> Option<(u64, usize)> {
    let mappings = MAPPINGS.lock().expect("no holder panicked");
    let (start, mapping) = mappings.range(..=address).next_back()?;
    let pages = mapping.handles.len();
    (address < start + pages * PAGE_SIZE).then_some((mapping.index, pages))
}

/// What `mmap` was called with, for a descriptor of gntdev.
pub(crate) struct MmapCall {
    pub(crate) address: *mut c_void,
    pub(crate) length: usize,
    pub(crate) protection: c_int,
    pub(crate) flags: c_int,
    pub(crate) fd: RawFd,
    pub(crate) offset: off_t,
}

/// Maps the grants of a map into the address space: all of them or none.
///
/// # Errors
/// `EINVAL` if the offset and length are not those of a map, if it is mapped already, if a private mapping is to be
/// written, or if a grant is bad; `ENOMEM` if the address space has no room.
///
/// # Safety
/// With a fixed address, the caller owns the range there, as for the real call.
pub(crate) unsafe fn map(call: &MmapCall) -> Result<*mut c_void, Errno> {
    let writable = call.protection & libc::PROT_WRITE != 0;
    let shared = call.flags & libc::MAP_TYPE != libc::MAP_PRIVATE;
    if writable && !shared {
        return Err(Errno::INVAL);
    }
    let index = u64::try_from(call.offset).map_err(|_| Errno::INVAL)? / PAGE_SIZE as u64;
    let page_count = call.length.div_ceil(PAGE_SIZE);
    let map = gntdev::find_map(call.fd, index, page_count)?;
    if map.in_address_space.swap(true, Ordering::AcqRel) {
        return Err(Errno::INVAL);
    }
    let mapped = map_grants(&map.grants, writable).and_then(|(grants, mapped)| {
        // SAFETY: the caller owns the range of a fixed address.
        let placed = unsafe { place(call, page_count, &grants, &mapped) };
        placed
            .map(|at| (at, handles_of(&mapped)))
            .inspect_err(|_| unmap_grants(&handles_of(&mapped)))
    });
    match mapped {
        Ok((at, handles)) => {
            let mapping = Mapping {
                index,
                handles: handles.into_iter().map(Some).collect(),
                in_address_space: map.in_address_space,
            };
            let mut mappings = MAPPINGS.lock().expect("no holder panicked");
            mappings.insert(at as usize, mapping);
            MAPPING_COUNT.store(mappings.len(), Ordering::Release);
            Ok(at)
        }
        Err(errno) => {
            map.in_address_space.store(false, Ordering::Release);
            Err(errno)
        }
    }
}

fn handles_of(mapped: &[MappedGrant]) -> Vec<MapHandle> {
    mapped.iter().map(|grant| grant.handle).collect()
}

type MappedGrants = (Vec<(DomId, GrantRef)>, Vec<MappedGrant>);

/// Has the hypervisor map the grants: all or none.
fn map_grants(grants: &[Option<(DomId, GrantRef)>], writable: bool) -> Result<MappedGrants, Errno> {
    let grants: Option<Vec<_>> = grants.iter().copied().collect();
    let grants = grants.ok_or(Errno::INVAL)?;
    let mut mapped = Vec::with_capacity(grants.len());
    for part in grants.chunks(GRANTS_PER_REQUEST_MAX) {
        let request = Request::Map {
            writable,
            grants: part.to_vec(),
        };
        match host::ask(&request) {
            Ok((Reply::Mapped(more), _)) if more.len() == part.len() => mapped.extend(more),
            outcome => {
                unmap_grants(&handles_of(&mapped));
                return Err(outcome.err().unwrap_or(Errno::IO));
            }
        }
    }
    Ok((grants, mapped))
}

fn unmap_grants(handles: &[MapHandle]) {
    for part in handles.chunks(GRANTS_PER_REQUEST_MAX) {
        // It fails only if the host is gone, and then there is no account left to put right.
        let _ = host::ask(&Request::Unmap(part.to_vec()));
    }
}

/// Puts the pages next to each other into the address space.
///
/// # Safety
/// As [`map`].
unsafe fn place(
    call: &MmapCall,
    page_count: usize,
    grants: &[(DomId, GrantRef)],
    mapped: &[MappedGrant],
) -> Result<*mut c_void, Errno> {
    let placement = call.flags & (libc::MAP_FIXED | libc::MAP_FIXED_NOREPLACE);
    let bytes = page_count * PAGE_SIZE;
    if placement & libc::MAP_FIXED != 0 {
        release(call.address as usize, bytes);
    }
    // SAFETY: the caller owns the range of a fixed address; otherwise the kernel chooses a free one.
    let at = unsafe {
        real::mmap(
            call.address,
            bytes,
            libc::PROT_NONE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | placement,
            -1,
            0,
        )
    };
    if at == libc::MAP_FAILED {
        return Err(Errno::NOMEM);
    }
    for run in contiguous_runs(grants, mapped) {
        // SAFETY: the run lies within the range that was reserved above.
        let outcome = unsafe { place_run(at, call.protection, grants, mapped, run) };
        if let Err(errno) = outcome {
            // SAFETY: the range is the one reserved above, which nobody else knows of yet.
            unsafe { real::munmap(at, bytes) };
            return Err(errno);
        }
    }
    Ok(at)
}

/// Ranges of grants whose pages follow each other in the same domain: each is one system call and one kernel mapping.
fn contiguous_runs(
    grants: &[(DomId, GrantRef)],
    mapped: &[MappedGrant],
) -> Vec<std::ops::Range<usize>> {
    let mut runs: Vec<std::ops::Range<usize>> = Vec::new();
    for index in 0..mapped.len() {
        let follows = index > 0
            && grants[index].0 == grants[index - 1].0
            && mapped[index].incarnation == mapped[index - 1].incarnation
            && mapped[index].page == mapped[index - 1].page.offset_by(1);
        match runs.last_mut() {
            Some(run) if follows => run.end = index + 1,
            _ => runs.push(index..index + 1),
        }
    }
    runs
}

/// # Safety
/// The pages of `run` lie within a range at `at` that is the caller's to overwrite.
unsafe fn place_run(
    at: *mut c_void,
    protection: c_int,
    grants: &[(DomId, GrantRef)],
    mapped: &[MappedGrant],
    run: std::ops::Range<usize>,
) -> Result<(), Errno> {
    let domain = grants[run.start].0;
    let first = mapped[run.start];
    let mut view = host::known_domain(domain)?;
    if view.incarnation != first.incarnation {
        view = host::current_domain(domain)?;
    }
    if view.incarnation != first.incarnation {
        return Err(Errno::INVAL);
    }
    let offset = off_t::try_from(first.page.byte_offset()).map_err(|_| Errno::INVAL)?;
    // SAFETY: the caller vouches for the range.
    let target = unsafe { at.byte_add(run.start * PAGE_SIZE) };
    // Populated at once, since gntdev's pages take no page faults either.
    let flags = libc::MAP_SHARED | libc::MAP_FIXED | libc::MAP_POPULATE;
    let bytes = run.len() * PAGE_SIZE;
    // SAFETY: the caller vouches for the range, which this replaces.
    let placed = unsafe { real::mmap(target, bytes, protection, flags, view.memory_fd(), offset) };
    if placed == libc::MAP_FAILED {
        return Err(Errno::NOMEM);
    }
    Ok(())
}

/// The range is unmapped or replaced: ends the mappings of the granted pages in it.
pub(crate) fn release(address: usize, length: usize) {
    let end = address.saturating_add(length.next_multiple_of(PAGE_SIZE));
    let mut ended = Vec::new();
    let mut mappings = MAPPINGS.lock().expect("no holder panicked");
    // Ranges do not overlap each other, so going down from the end stops at the first that lies below.
    let overlapping: Vec<usize> = mappings
        .range(..end)
        .rev()
        .take_while(|(start, mapping)| *start + mapping.handles.len() * PAGE_SIZE > address)
        .map(|(start, _)| *start)
        .collect();
    for start in overlapping {
        let Some(mapping) = mappings.get_mut(&start) else {
            continue;
        };
        for (page, handle) in mapping.handles.iter_mut().enumerate() {
            let page_address = start + page * PAGE_SIZE;
            if (address..end).contains(&page_address) {
                ended.extend(handle.take());
            }
        }
        if mapping.handles.iter().all(Option::is_none) {
            mapping.in_address_space.store(false, Ordering::Release);
            mappings.remove(&start);
        }
    }
    MAPPING_COUNT.store(mappings.len(), Ordering::Release);
    drop(mappings);
    unmap_grants(&ended);
}
