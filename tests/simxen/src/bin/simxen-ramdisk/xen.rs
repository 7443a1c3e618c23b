//! gntdev and libxenevtchn, as any backend uses them.

use std::ffi::{CStr, c_int, c_uint, c_void};
use std::io;
use std::mem::transmute;
use std::os::fd::RawFd;

const MAP_GRANT_REF: u64 = 24 << 16 | (b'G' as u64) << 8;
const UNMAP_GRANT_REF: u64 = 16 << 16 | (b'G' as u64) << 8 | 1;
const GRANT_COPY: u64 = 16 << 16 | (b'G' as u64) << 8 | 8;
pub(crate) const PAGE_BYTES: usize = 4096;
/// Pages of the largest ring.
const MAP_MAX: usize = 16;

fn checked(result: c_int) -> io::Result<c_int> {
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(result)
}

/// Waits until one of the descriptors is readable.
pub(crate) fn wait_readable(descriptors: &[RawFd]) -> io::Result<()> {
    poll(descriptors, -1).map(drop)
}

pub(crate) fn is_readable(fd: RawFd) -> io::Result<bool> {
    poll(&[fd], 0).map(|count| count > 0)
}

fn poll(descriptors: &[RawFd], timeout_ms: c_int) -> io::Result<c_int> {
    let mut polled: Vec<libc::pollfd> = descriptors
        .iter()
        .map(|&fd| libc::pollfd {
            fd,
            events: libc::POLLIN,
            revents: 0,
        })
        .collect();
    let count = libc::nfds_t::try_from(polled.len()).map_err(io::Error::other)?;
    // SAFETY: the pointer and the count are those of the vector.
    checked(unsafe { libc::poll(polled.as_mut_ptr(), count, timeout_ms) })
}

#[repr(C)]
struct MapGrantRefs {
    count: u32,
    pad: u32,
    index: u64,
    grants: [[u32; 2]; MAP_MAX],
}

#[repr(C)]
struct UnmapGrantRefs {
    index: u64,
    count: u32,
    pad: u32,
}

#[repr(C)]
struct CopySegment {
    source: u64,
    dest: u64,
    length: u16,
    flags: u16,
    status: i16,
}

#[repr(C)]
struct Copy {
    count: u32,
    segments: *mut CopySegment,
}

/// `/dev/xen/gntdev`.
pub(crate) struct GrantDevice {
    fd: RawFd,
}

/// Granted pages in the address space, until dropped.
pub(crate) struct Mapping {
    fd: RawFd,
    index: u64,
    page_count: usize,
    at: *mut u8,
}

impl GrantDevice {
    pub(crate) fn open() -> io::Result<Self> {
        // SAFETY: the path is a C string.
        let fd = unsafe { libc::open(c"/dev/xen/gntdev".as_ptr(), libc::O_RDWR | libc::O_CLOEXEC) };
        checked(fd).map(|fd| Self { fd })
    }

    pub(crate) fn map(&self, domain: u32, grants: &[u32], writable: bool) -> io::Result<Mapping> {
        let page_count = grants.len();
        let count = u32::try_from(page_count).map_err(io::Error::other)?;
        let mut request = MapGrantRefs {
            count,
            pad: 0,
            index: 0,
            grants: [[0; 2]; MAP_MAX],
        };
        for (slot, grant) in request.grants.iter_mut().zip(grants) {
            *slot = [domain, *grant];
        }
        // SAFETY: the argument is as the driver wants it; rings have at most 16 pages.
        checked(unsafe { libc::ioctl(self.fd, MAP_GRANT_REF, &raw mut request) })?;
        let protection = libc::PROT_READ | if writable { libc::PROT_WRITE } else { 0 };
        let offset = libc::off_t::try_from(request.index).map_err(io::Error::other)?;
        // SAFETY: the kernel chooses a free range.
        let at = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                page_count * PAGE_BYTES,
                protection,
                libc::MAP_SHARED,
                self.fd,
                offset,
            )
        };
        if at == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        Ok(Mapping {
            fd: self.fd,
            index: request.index,
            page_count,
            at: at.cast(),
        })
    }

    /// Copies between a granted page and `buffer`.
    pub(crate) fn copy(
        &self,
        domain: u32,
        grant: u32,
        offset: usize,
        buffer: &mut [u8],
        into_guest: bool,
    ) -> io::Result<()> {
        let foreign = u64::from(grant) | (offset as u64) << 32 | u64::from(domain) << 48;
        let local = buffer.as_mut_ptr() as u64;
        let (source, dest, flags) = if into_guest {
            (local, foreign, 2)
        } else {
            (foreign, local, 1)
        };
        let mut segment = CopySegment {
            source,
            dest,
            length: u16::try_from(buffer.len()).map_err(io::Error::other)?,
            flags,
            status: 0,
        };
        let mut request = Copy {
            count: 1,
            segments: &raw mut segment,
        };
        // SAFETY: the argument is as the driver wants it, and the local end is the buffer.
        checked(unsafe { libc::ioctl(self.fd, GRANT_COPY, &raw mut request) })?;
        match segment.status {
            0 => Ok(()),
            status => Err(io::Error::other(format!("grant copy status {status}"))),
        }
    }
}

impl Mapping {
    /// The first byte, valid for as long as the mapping lives.
    pub(crate) fn at(&self) -> *mut u8 {
        self.at
    }

    pub(crate) fn read(&self, offset: usize, into: &mut [u8]) {
        assert!(offset + into.len() <= self.page_count * PAGE_BYTES);
        // SAFETY: the assertion keeps the range within the mapping.
        let from = unsafe { self.at.add(offset) };
        // SAFETY: as above; the destination is a slice of our own.
        unsafe { std::ptr::copy_nonoverlapping(from, into.as_mut_ptr(), into.len()) }
    }

    pub(crate) fn write(&self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= self.page_count * PAGE_BYTES);
        // SAFETY: the assertion keeps the range within the mapping.
        let to = unsafe { self.at.add(offset) };
        // SAFETY: as above; the source is a slice of our own.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        let mut request = UnmapGrantRefs {
            index: self.index,
            count: u32::try_from(self.page_count).unwrap_or(0),
            pad: 0,
        };
        // SAFETY: the range is this mapping's, and no reference into it is left.
        unsafe { libc::munmap(self.at.cast(), self.page_count * PAGE_BYTES) };
        // SAFETY: the argument is as the driver wants it.
        unsafe { libc::ioctl(self.fd, UNMAP_GRANT_REF, &raw mut request) };
    }
}

type Handle = *mut c_void;

/// libxenevtchn, loaded at run time.
#[derive(Clone, Copy)]
pub(crate) struct EventLibrary {
    open: extern "C" fn(*mut c_void, c_uint) -> Handle,
    close: extern "C" fn(Handle) -> c_int,
    fd: extern "C" fn(Handle) -> c_int,
    bind: extern "C" fn(Handle, u32, u32) -> c_int,
    pending: extern "C" fn(Handle) -> c_int,
    unmask: extern "C" fn(Handle, u32) -> c_int,
    notify: extern "C" fn(Handle, u32) -> c_int,
}

impl EventLibrary {
    pub(crate) fn load() -> io::Result<Self> {
        // SAFETY: the name is a C string, and the library has no initialisers that could do harm.
        let library = unsafe { libc::dlopen(c"libxenevtchn.so".as_ptr(), libc::RTLD_NOW) };
        if library.is_null() {
            return Err(io::Error::other("libxenevtchn.so cannot be loaded"));
        }
        let symbol = |name: &CStr| {
            // SAFETY: the library is loaded and the name a C string.
            let found = unsafe { libc::dlsym(library, name.as_ptr()) };
            if found.is_null() {
                return Err(io::Error::other(format!("{name:?} is missing")));
            }
            Ok(found)
        };
        let (open, bind) = (
            symbol(c"xenevtchn_open")?,
            symbol(c"xenevtchn_bind_interdomain")?,
        );
        let of_handle = |name: &CStr| {
            // SAFETY: this is the type of all functions that are loaded so.
            symbol(name).map(|found| unsafe {
                transmute::<*mut c_void, extern "C" fn(Handle) -> c_int>(found)
            })
        };
        let of_port = |name: &CStr| {
            // SAFETY: this is the type of all functions that are loaded so.
            symbol(name).map(|found| unsafe {
                transmute::<*mut c_void, extern "C" fn(Handle, u32) -> c_int>(found)
            })
        };
        Ok(Self {
            // SAFETY: this is the function's type.
            open: unsafe {
                transmute::<*mut c_void, extern "C" fn(Handle, c_uint) -> Handle>(open)
            },
            // SAFETY: this is the function's type.
            bind: unsafe {
                transmute::<*mut c_void, extern "C" fn(Handle, u32, u32) -> c_int>(bind)
            },
            close: of_handle(c"xenevtchn_close")?,
            fd: of_handle(c"xenevtchn_fd")?,
            pending: of_handle(c"xenevtchn_pending")?,
            unmask: of_port(c"xenevtchn_unmask")?,
            notify: of_port(c"xenevtchn_notify")?,
        })
    }
}

/// One bound channel with a handle of its own, closed when dropped.
pub(crate) struct Channel {
    library: EventLibrary,
    handle: Handle,
    port: u32,
}

impl Channel {
    pub(crate) fn bind(library: EventLibrary, domain: u32, remote_port: u32) -> io::Result<Self> {
        let handle = (library.open)(std::ptr::null_mut(), 0);
        if handle.is_null() {
            return Err(io::Error::last_os_error());
        }
        let port = checked((library.bind)(handle, domain, remote_port))?;
        Ok(Self {
            library,
            handle,
            port: u32::try_from(port).map_err(io::Error::other)?,
        })
    }

    pub(crate) fn fd(&self) -> RawFd {
        (self.library.fd)(self.handle)
    }

    /// Takes an event if there is one, and allows the next.
    pub(crate) fn take_event(&self) -> io::Result<()> {
        if is_readable(self.fd())? {
            checked((self.library.pending)(self.handle))?;
            checked((self.library.unmask)(self.handle, self.port))?;
        }
        Ok(())
    }

    pub(crate) fn notify(&self) -> io::Result<()> {
        checked((self.library.notify)(self.handle, self.port)).map(drop)
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        (self.library.close)(self.handle);
    }
}
