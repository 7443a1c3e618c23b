//! `IOCTL_GNTDEV_GRANT_COPY`: the hypervisor copies between granted pages and memory of the process. It needs no word
//! with the host: the grant tables are shared memory, and a copy leaves nothing behind that has to be counted.

use libc::c_void;
use simxen::{DOM0, DomId, GrantRef, PAGE_SIZE};

use crate::Errno;
use crate::host::{self, DomainView};

const SOURCE_IS_GRANT: u16 = 1;
const DEST_IS_GRANT: u16 = 2;

/// `GNTST_*` of Xen's `grant_table.h`.
type GrantStatus = i16;
const OKAY: GrantStatus = 0;
const GENERAL_ERROR: GrantStatus = -1;
const BAD_DOMAIN: GrantStatus = -2;
const BAD_GRANT: GrantStatus = -3;
const BAD_PAGE: GrantStatus = -9;

/// `struct ioctl_gntdev_grant_copy`.
#[repr(C)]
pub(crate) struct CopyArgument {
    count: u32,
    segments: *mut Segment,
}

/// An end of a copy; the flags of the segment tell which field counts.
#[repr(C)]
#[derive(Clone, Copy)]
union End {
    memory: *mut c_void,
    foreign: Foreign,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Foreign {
    reference: u32,
    offset: u16,
    domain: u16,
}

/// `struct ioctl_gntdev_grant_copy_segment`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Segment {
    source: End,
    dest: End,
    length: u16,
    flags: u16,
    status: GrantStatus,
}

const _: () = assert!(size_of::<Segment>() == 24);
const _: () = assert!(size_of::<CopyArgument>() == 16);

/// Copies all segments. Each has its own status; the call as a whole fails only if a segment is malformed, and then
/// what came before is done.
///
/// # Errors
/// `EINVAL` for a segment that goes beyond a granted page.
///
/// # Safety
/// `argument` and the segments it points to are as for the driver; the memory they name is the caller's.
pub(crate) unsafe fn copy(argument: *mut CopyArgument) -> Result<(), Errno> {
    // SAFETY: the caller vouches for the argument.
    let CopyArgument { count, segments } = unsafe { argument.read() };
    for index in 0..count as usize {
        // SAFETY: the caller vouches for `count` segments.
        let at = unsafe { segments.add(index) };
        // SAFETY: the caller vouches for the segment.
        let mut segment = unsafe { at.read() };
        // SAFETY: the caller vouches for the memory that the segment names.
        segment.status = unsafe { copy_segment(&segment) }?;
        // SAFETY: the caller vouches for the segment.
        unsafe { at.write(segment) };
    }
    Ok(())
}

/// # Safety
/// As [`copy`].
unsafe fn copy_segment(segment: &Segment) -> Result<GrantStatus, Errno> {
    let length = usize::from(segment.length);
    // SAFETY: the flag tells which field of the union the caller has set.
    let source = unsafe {
        resolve(
            segment.source,
            segment.flags & SOURCE_IS_GRANT != 0,
            length,
            false,
        )
    }?;
    // SAFETY: the flag tells which field of the union the caller has set.
    let dest = unsafe {
        resolve(
            segment.dest,
            segment.flags & DEST_IS_GRANT != 0,
            length,
            true,
        )
    }?;
    match (source, dest) {
        (Err(status), _) | (_, Err(status)) => Ok(status),
        (Ok(source), Ok(dest)) => {
            // SAFETY: both ends are either within a mapped guest page or memory that the caller vouches for. They may
            // be the same page, so the copy allows overlap.
            unsafe { std::ptr::copy(source, dest, length) };
            Ok(OKAY)
        }
    }
}

/// Where an end of a copy is in this address space.
///
/// # Safety
/// `is_grant` tells which field of the union is set.
unsafe fn resolve(
    end: End,
    is_grant: bool,
    length: usize,
    for_writing: bool,
) -> Result<Result<*mut u8, GrantStatus>, Errno> {
    if !is_grant {
        // SAFETY: the caller says that this field is set.
        return Ok(Ok(unsafe { end.memory }.cast()));
    }
    // SAFETY: the caller says that this field is set.
    let foreign = unsafe { end.foreign };
    if usize::from(foreign.offset) + length > PAGE_SIZE {
        return Err(Errno::INVAL);
    }
    let domain = DomId(foreign.domain);
    let grant = GrantRef(foreign.reference);
    let known = host::known_domain(domain)
        .map_err(|_| BAD_DOMAIN)
        .and_then(|view| page_of(&view, grant, for_writing));
    // A failure may be due to an older domain of the same identifier, so it is confirmed with the host.
    let page = known.or_else(|_| {
        let view = host::current_domain(domain).map_err(|_| BAD_DOMAIN)?;
        page_of(&view, grant, for_writing)
    });
    Ok(page.map(|page| {
        // SAFETY: the offset was checked above to lie within the page.
        unsafe { page.add(usize::from(foreign.offset)) }
    }))
}

/// The statuses are those of Xen's `acquire_grant_for_copy`.
fn page_of(view: &DomainView, grant: GrantRef, for_writing: bool) -> Result<*mut u8, GrantStatus> {
    if grant.0 >= simxen::control::wire::GRANT_TABLE_ENTRIES {
        return Err(BAD_GRANT);
    }
    let entry = view.grant(grant).ok_or(GENERAL_ERROR)?;
    if entry.granted_to != DOM0 || (for_writing && entry.read_only) {
        return Err(GENERAL_ERROR);
    }
    view.page(entry.page).ok_or(BAD_PAGE)
}
