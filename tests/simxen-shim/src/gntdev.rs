//! `/dev/xen/gntdev`: open descriptors and their ioctls, as `drivers/xen/gntdev.c` of Linux has them.

use std::collections::HashMap;
use std::os::fd::{IntoRawFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use libc::{c_int, c_ulong, c_void};
use rustix::event::EventfdFlags;
use simxen::{DomId, GrantRef, PAGE_SIZE};

use crate::{Errno, grant_copy, host, mapping};

/// Most descriptors of a process that can be told apart here.
const DESCRIPTORS_MAX: usize = 65_536;
/// Most grants of one map request, the default of the driver's `limit` parameter.
const GRANTS_MAX: u32 = 64 * 1024;

const fn ioctl_number(number: c_ulong, argument_bytes: usize) -> c_ulong {
    // _IOC(_IOC_NONE, 'G', number, size) of asm-generic/ioctl.h.
    (argument_bytes as c_ulong) << 16 | (b'G' as c_ulong) << 8 | number
}

const MAP_GRANT_REF: c_ulong = ioctl_number(0, 24);
const UNMAP_GRANT_REF: c_ulong = ioctl_number(1, 16);
const GET_OFFSET_FOR_VADDR: c_ulong = ioctl_number(2, 24);
const GRANT_COPY: c_ulong = ioctl_number(8, 16);

/// The fixed part of `struct ioctl_gntdev_map_grant_ref`; `count` pairs of domain and reference follow it.
#[repr(C)]
struct MapArgument {
    count: u32,
    pad: u32,
    index: u64,
}

#[repr(C)]
struct UnmapArgument {
    index: u64,
    count: u32,
    pad: u32,
}

#[repr(C)]
struct OffsetArgument {
    address: u64,
    offset: u64,
    count: u32,
    pad: u32,
}

/// `struct ioctl_gntdev_grant_ref`: the domain is wider here than a domain identifier is.
#[repr(C)]
#[derive(Clone, Copy)]
struct GrantArgument {
    domain: u32,
    reference: u32,
}

/// Grants that one request has put into the table of a descriptor.
#[derive(Clone)]
pub(crate) struct GrantMap {
    /// Where `mmap` finds it, in pages.
    pub(crate) index: u64,
    /// The grants; `None` stands for a domain that cannot exist.
    pub(crate) grants: Vec<Option<(DomId, GrantRef)>>,
    /// Whether it is in the address space now; it can be there only once.
    pub(crate) in_address_space: Arc<AtomicBool>,
}

impl GrantMap {
    fn end(&self) -> u64 {
        self.index + self.grants.len() as u64
    }
}

/// An open descriptor: its maps, in the order of their indices.
#[derive(Default)]
struct Descriptor {
    maps: Vec<GrantMap>,
}

impl Descriptor {
    /// Adds a map at the first index where it fits: indices are used again, as by the driver.
    fn add(&mut self, grants: Vec<Option<(DomId, GrantRef)>>) -> u64 {
        let count = grants.len() as u64;
        let mut index = 0;
        let mut position = 0;
        for map in &self.maps {
            if index + count <= map.index {
                break;
            }
            index = map.end();
            position += 1;
        }
        self.maps.insert(
            position,
            GrantMap {
                index,
                grants,
                in_address_space: Arc::default(),
            },
        );
        index
    }

    fn position(&self, index: u64, count: u64) -> Option<usize> {
        self.maps
            .iter()
            .position(|map| map.index == index && map.grants.len() as u64 == count)
    }
}

/// One bit for each descriptor number that is gntdev: a test without a lock, for the calls that do not concern us.
static IS_GNTDEV: [AtomicU64; DESCRIPTORS_MAX / 64] = [const { AtomicU64::new(0) }; _];

fn descriptors() -> &'static Mutex<HashMap<RawFd, Descriptor>> {
    static DESCRIPTORS: OnceLock<Mutex<HashMap<RawFd, Descriptor>>> = OnceLock::new();
    DESCRIPTORS.get_or_init(Mutex::default)
}

fn bit(fd: RawFd) -> Option<(&'static AtomicU64, u64)> {
    let fd = usize::try_from(fd).ok()?;
    Some((IS_GNTDEV.get(fd / 64)?, 1 << (fd % 64)))
}

/// Whether a descriptor is one of gntdev.
pub(crate) fn is_gntdev(fd: RawFd) -> bool {
    bit(fd).is_some_and(|(word, mask)| word.load(Ordering::Acquire) & mask != 0)
}

/// Opens the device.
///
/// # Errors
/// `ENODEV` without a host, `EMFILE` without a free descriptor.
pub(crate) fn open(flags: c_int) -> Result<RawFd, Errno> {
    host::ensure_connected()?;
    let mut placeholder_flags = EventfdFlags::empty();
    if flags & libc::O_CLOEXEC != 0 {
        placeholder_flags |= EventfdFlags::CLOEXEC;
    }
    // Only its number is used: the table below says what it stands for.
    let placeholder = rustix::event::eventfd(0, placeholder_flags)?;
    let fd = placeholder.into_raw_fd();
    let (word, mask) = bit(fd).ok_or(Errno::MFILE)?;
    let mut table = descriptors().lock().expect("no holder panicked");
    table.insert(fd, Descriptor::default());
    word.fetch_or(mask, Ordering::Release);
    Ok(fd)
}

/// The descriptor is about to be closed. What is still in the address space stays there, as with any file.
pub(crate) fn forget(fd: RawFd) {
    if let Some((word, mask)) = bit(fd) {
        word.fetch_and(!mask, Ordering::Release);
    }
    descriptors()
        .lock()
        .expect("no holder panicked")
        .remove(&fd);
}

/// The map of exactly this index and length, for `mmap`.
///
/// # Errors
/// `EINVAL` if there is none.
pub(crate) fn find_map(fd: RawFd, index: u64, count: usize) -> Result<GrantMap, Errno> {
    let table = descriptors().lock().expect("no holder panicked");
    let descriptor = table.get(&fd).ok_or(Errno::BADF)?;
    let position = descriptor.position(index, count as u64);
    Ok(descriptor.maps[position.ok_or(Errno::INVAL)?].clone())
}

/// An ioctl on a descriptor of gntdev.
///
/// # Safety
/// `argument` points to what the request demands, as for the driver.
pub(crate) unsafe fn ioctl(
    fd: RawFd,
    request: c_ulong,
    argument: *mut c_void,
) -> Result<(), Errno> {
    if argument.is_null() {
        return Err(Errno::FAULT);
    }
    match request {
        // SAFETY: the caller vouches for the argument of this request.
        MAP_GRANT_REF => unsafe { map(fd, argument.cast()) },
        // SAFETY: the caller vouches for the argument of this request.
        UNMAP_GRANT_REF => unmap(fd, unsafe { &*argument.cast::<UnmapArgument>() }),
        // SAFETY: the caller vouches for the argument of this request.
        GET_OFFSET_FOR_VADDR => offset_of(unsafe { &mut *argument.cast::<OffsetArgument>() }),
        // SAFETY: the caller vouches for the argument of this request.
        GRANT_COPY => unsafe { grant_copy::copy(argument.cast()) },
        _ => Err(Errno::NOTTY),
    }
}

/// # Safety
/// `argument` points to the fixed part and as many grants as it says.
unsafe fn map(fd: RawFd, argument: *mut MapArgument) -> Result<(), Errno> {
    // SAFETY: the caller vouches for the fixed part.
    let count = unsafe { (*argument).count };
    if count == 0 || count > GRANTS_MAX {
        return Err(Errno::INVAL);
    }
    // SAFETY: the grants follow the fixed part directly, in the caller's same object.
    let first = unsafe { argument.add(1) }.cast::<GrantArgument>();
    // SAFETY: the caller vouches for `count` grants there, and does not change them during the call.
    let grants = unsafe { std::slice::from_raw_parts(first, count as usize) };
    let grants = grants
        .iter()
        .map(|grant| {
            let domain = u16::try_from(grant.domain).ok()?;
            Some((DomId(domain), GrantRef(grant.reference)))
        })
        .collect();
    let mut table = descriptors().lock().expect("no holder panicked");
    let index = table.get_mut(&fd).ok_or(Errno::BADF)?.add(grants);
    // SAFETY: the caller vouches for the fixed part.
    unsafe { (*argument).index = index * PAGE_SIZE as u64 };
    Ok(())
}

/// Takes a map out of the table. One that is in the address space stays mapped there until `munmap`.
fn unmap(fd: RawFd, argument: &UnmapArgument) -> Result<(), Errno> {
    let mut table = descriptors().lock().expect("no holder panicked");
    let descriptor = table.get_mut(&fd).ok_or(Errno::BADF)?;
    let index = argument.index / PAGE_SIZE as u64;
    let position = descriptor.position(index, u64::from(argument.count));
    descriptor.maps.remove(position.ok_or(Errno::NOENT)?);
    Ok(())
}

fn offset_of(argument: &mut OffsetArgument) -> Result<(), Errno> {
    let address = usize::try_from(argument.address).map_err(|_| Errno::INVAL)?;
    let (index, count) = mapping::find(address).ok_or(Errno::INVAL)?;
    argument.offset = index * PAGE_SIZE as u64;
    argument.count = u32::try_from(count).map_err(|_| Errno::INVAL)?;
    Ok(())
}
