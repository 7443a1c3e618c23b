//! The functions of libc that this library stands in front of.

use std::ffi::CStr;

use libc::{c_char, c_int, c_ulong, c_void, mode_t, off_t, size_t};

use crate::mapping::{self, MmapCall};
use crate::{Errno, gntdev, real, set_errno, status};

const DEVICE: &CStr = c"/dev/xen/gntdev";

/// # Safety
/// `path` is null or a C string.
unsafe fn is_device(path: *const c_char) -> bool {
    if path.is_null() {
        return false;
    }
    // SAFETY: the caller vouches for the string.
    unsafe { CStr::from_ptr(path) == DEVICE }
}

fn open_device(flags: c_int) -> c_int {
    gntdev::open(flags).unwrap_or_else(|errno| {
        set_errno(errno);
        -1
    })
}

/// `open`. The mode is read whether it was passed or not: on the ABIs of Linux that is a register, and it is used only
/// if the flags say that it was passed.
///
/// # Safety
/// As libc's.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn open(path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    // SAFETY: the caller keeps libc's contract for the path.
    if unsafe { is_device(path) } {
        return open_device(flags);
    }
    // SAFETY: the caller keeps libc's contract.
    unsafe { real::open(path, flags, mode) }
}

/// `open64`, as [`open`].
///
/// # Safety
/// As libc's.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn open64(path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    // SAFETY: the caller keeps libc's contract.
    unsafe { open(path, flags, mode) }
}

/// `openat`, as [`open`].
///
/// # Safety
/// As libc's.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn openat(
    directory: c_int,
    path: *const c_char,
    flags: c_int,
    mode: mode_t,
) -> c_int {
    // SAFETY: the caller keeps libc's contract for the path.
    if unsafe { is_device(path) } {
        return open_device(flags);
    }
    // SAFETY: the caller keeps libc's contract.
    unsafe { real::openat(directory, path, flags, mode) }
}

/// `openat64`, as [`open`].
///
/// # Safety
/// As libc's.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn openat64(
    directory: c_int,
    path: *const c_char,
    flags: c_int,
    mode: mode_t,
) -> c_int {
    // SAFETY: the caller keeps libc's contract.
    unsafe { openat(directory, path, flags, mode) }
}

/// `ioctl`. Callers in Rust and musl pass the request as an `int`, so only its 32 bits count.
///
/// # Safety
/// As libc's.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn ioctl(fd: c_int, request: c_ulong, argument: *mut c_void) -> c_int {
    if gntdev::is_gntdev(fd) {
        // SAFETY: the caller keeps the driver's contract for the argument.
        return status(unsafe { gntdev::ioctl(fd, request & 0xffff_ffff, argument) });
    }
    // SAFETY: the caller keeps libc's contract.
    unsafe { real::ioctl(fd, request, argument) }
}

/// `mmap`.
///
/// # Safety
/// As libc's.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn mmap(
    address: *mut c_void,
    length: size_t,
    protection: c_int,
    flags: c_int,
    fd: c_int,
    offset: off_t,
) -> *mut c_void {
    let anonymous = flags & libc::MAP_ANONYMOUS != 0;
    if !anonymous && gntdev::is_gntdev(fd) {
        let call = MmapCall {
            address,
            length,
            protection,
            flags,
            fd,
            offset,
        };
        // SAFETY: the caller keeps libc's contract for the range.
        return unsafe { mapping::map(&call) }.unwrap_or_else(|errno: Errno| {
            set_errno(errno);
            libc::MAP_FAILED
        });
    }
    // SAFETY: the caller keeps libc's contract.
    let at = unsafe { real::mmap(address, length, protection, flags, fd, offset) };
    if at != libc::MAP_FAILED && flags & libc::MAP_FIXED != 0 && mapping::any() {
        mapping::release(address as usize, length);
    }
    at
}

/// `mmap64`, which is the same.
///
/// # Safety
/// As libc's.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn mmap64(
    address: *mut c_void,
    length: size_t,
    protection: c_int,
    flags: c_int,
    fd: c_int,
    offset: off_t,
) -> *mut c_void {
    // SAFETY: the caller keeps libc's contract.
    unsafe { mmap(address, length, protection, flags, fd, offset) }
}

/// `munmap`.
///
/// # Safety
/// As libc's.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn munmap(address: *mut c_void, length: size_t) -> c_int {
    // Before the call: afterwards another thread may have new granted pages at the same address.
    if mapping::any() {
        mapping::release(address as usize, length);
    }
    // SAFETY: the caller keeps libc's contract.
    unsafe { real::munmap(address, length) }
}

/// `close`.
///
/// # Safety
/// As libc's.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn close(fd: c_int) -> c_int {
    if gntdev::is_gntdev(fd) {
        gntdev::forget(fd);
    }
    // SAFETY: the caller keeps libc's contract.
    unsafe { real::close(fd) }
}
