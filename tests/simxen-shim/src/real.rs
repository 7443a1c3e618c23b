//! The functions of libc that this library replaces, as they are behind it.

use std::ffi::CStr;
use std::mem::transmute;
use std::ptr::null_mut;
use std::sync::atomic::{AtomicPtr, Ordering};

use libc::{c_char, c_int, c_ulong, c_void, mode_t, off_t, size_t};

/// A symbol of the next library in the search order, looked up when first needed.
struct Next {
    name: &'static CStr,
    found: AtomicPtr<c_void>,
}

impl Next {
    const fn new(name: &'static CStr) -> Self {
        Self {
            name,
            found: AtomicPtr::new(null_mut()),
        }
    }

    fn get(&self) -> *mut c_void {
        let mut found = self.found.load(Ordering::Acquire);
        if found.is_null() {
            // SAFETY: the name is a C string that lives forever.
            found = unsafe { libc::dlsym(libc::RTLD_NEXT, self.name.as_ptr()) };
            if found.is_null() {
                // There is no way to go on without libc.
                std::process::abort();
            }
            self.found.store(found, Ordering::Release);
        }
        found
    }
}

type Open = unsafe extern "C" fn(*const c_char, c_int, mode_t) -> c_int;
type OpenAt = unsafe extern "C" fn(c_int, *const c_char, c_int, mode_t) -> c_int;
type Ioctl = unsafe extern "C" fn(c_int, c_ulong, *mut c_void) -> c_int;
type Mmap = unsafe extern "C" fn(*mut c_void, size_t, c_int, c_int, c_int, off_t) -> *mut c_void;
type Munmap = unsafe extern "C" fn(*mut c_void, size_t) -> c_int;
type Close = unsafe extern "C" fn(c_int) -> c_int;

/// `open`, with the mode always passed: an unused one is ignored by libc.
///
/// # Safety
/// As libc's.
pub(crate) unsafe fn open(path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    static NEXT: Next = Next::new(c"open64");
    // SAFETY: libc's open64 has this signature; its optional last argument travels like a fixed one on Linux's ABIs.
    let function = unsafe { transmute::<*mut c_void, Open>(NEXT.get()) };
    // SAFETY: the caller keeps libc's contract.
    unsafe { function(path, flags, mode) }
}

/// `openat`, as [`open`].
///
/// # Safety
/// As libc's.
pub(crate) unsafe fn openat(
    directory: c_int,
    path: *const c_char,
    flags: c_int,
    mode: mode_t,
) -> c_int {
    static NEXT: Next = Next::new(c"openat64");
    // SAFETY: libc's openat64 has this signature; its optional last argument travels like a fixed one on Linux's ABIs.
    let function = unsafe { transmute::<*mut c_void, OpenAt>(NEXT.get()) };
    // SAFETY: the caller keeps libc's contract.
    unsafe { function(directory, path, flags, mode) }
}

/// `ioctl` with its one optional argument.
///
/// # Safety
/// As libc's.
pub(crate) unsafe fn ioctl(fd: c_int, request: c_ulong, argument: *mut c_void) -> c_int {
    static NEXT: Next = Next::new(c"ioctl");
    // SAFETY: libc's ioctl has this signature; its optional argument travels like a fixed one on Linux's ABIs.
    let function = unsafe { transmute::<*mut c_void, Ioctl>(NEXT.get()) };
    // SAFETY: the caller keeps libc's contract.
    unsafe { function(fd, request, argument) }
}

/// `mmap`.
///
/// # Safety
/// As libc's.
pub(crate) unsafe fn mmap(
    address: *mut c_void,
    length: size_t,
    protection: c_int,
    flags: c_int,
    fd: c_int,
    offset: off_t,
) -> *mut c_void {
    static NEXT: Next = Next::new(c"mmap64");
    // SAFETY: libc's mmap64 has this signature where off_t has 64 bits, as on all hosts of Xen that run this.
    let function = unsafe { transmute::<*mut c_void, Mmap>(NEXT.get()) };
    // SAFETY: the caller keeps libc's contract.
    unsafe { function(address, length, protection, flags, fd, offset) }
}

/// `munmap`.
///
/// # Safety
/// As libc's.
pub(crate) unsafe fn munmap(address: *mut c_void, length: size_t) -> c_int {
    static NEXT: Next = Next::new(c"munmap");
    // SAFETY: libc's munmap has this signature.
    let function = unsafe { transmute::<*mut c_void, Munmap>(NEXT.get()) };
    // SAFETY: the caller keeps libc's contract.
    unsafe { function(address, length) }
}

/// `close`.
///
/// # Safety
/// As libc's.
pub(crate) unsafe fn close(fd: c_int) -> c_int {
    static NEXT: Next = Next::new(c"close");
    // SAFETY: libc's close has this signature.
    let function = unsafe { transmute::<*mut c_void, Close>(NEXT.get()) };
    // SAFETY: the caller keeps libc's contract.
    unsafe { function(fd) }
}
