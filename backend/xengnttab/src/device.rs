//! The device and its mappings: the system calls.
#![allow(unsafe_code)]

use std::ffi::{CString, c_void};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use crate::abi::{
    GRANT_COPY, GrantCopy, GrantCopySegment, MAP_GRANT_REF, MapGrantRef, UNMAP_GRANT_REF,
    UnmapGrantRef,
};
use crate::page::{MappedPages, Page};
use crate::{Access, DomId, Error, GrantRef, PAGE_SIZE};

/// Where Linux has the device.
pub const GNTDEV_PATH: &str = "/dev/xen/gntdev";

/// The most grants of one mapping: the default of gntdev's module parameter `limit`, which since Linux
/// 5.5 is per mapping. Before, it was 1024 * 1024 for all mappings of all processes together.
pub const GRANTS_PER_MAPPING_MAX: usize = 64 * 1024;

/// The open gntdev device. Clones share the descriptor.
///
/// gntdev keeps the mappings of a descriptor in a list that it walks to make and to remove one: whoever
/// has many mappings does well to spread them over descriptors, for example one per frontend device.
#[derive(Clone, Debug)]
pub struct Gnttab(Arc<OwnedFd>);

impl Gnttab {
    /// Opens [`GNTDEV_PATH`].
    ///
    /// # Errors
    /// The device is not there (not a Xen domain, or the module is not loaded), or may not be opened.
    pub fn open() -> Result<Self, Error> {
        Self::open_path(Path::new(GNTDEV_PATH))
    }

    /// Opens the device at `path`.
    ///
    /// # Errors
    /// As for [`open`](Self::open).
    pub fn open_path(path: &Path) -> Result<Self, Error> {
        let failed = |source| Error::Open {
            path: path.to_owned(),
            source,
        };
        let name = CString::new(path.as_os_str().as_bytes()).map_err(|e| failed(e.into()))?;
        // SAFETY: `name` is a string that ends in NUL and lives until the call returns.
        let fd = unsafe { libc::open(name.as_ptr(), libc::O_RDWR | libc::O_CLOEXEC) };
        if fd < 0 {
            return Err(failed(io::Error::last_os_error()));
        }
        // SAFETY: `fd` was just opened, so it is valid, and nothing else knows it.
        Ok(Self(Arc::new(unsafe { OwnedFd::from_raw_fd(fd) })))
    }

    /// Maps `grefs` of domain `domid`, one after the other, into one contiguous run of pages.
    ///
    /// It succeeds for all or none: one reference that is not granted, or is granted for less than
    /// `access`, fails the call.
    ///
    /// # Errors
    /// `grefs` is empty or longer than [`GRANTS_PER_MAPPING_MAX`], gntdev is at its limit, or the pages
    /// cannot be mapped.
    pub fn map(&self, domid: DomId, grefs: &[GrantRef], access: Access) -> Result<Mapping, Error> {
        let &[first, ..] = grefs else {
            return Err(Error::NoGrants { domid });
        };
        let count = grefs.len();
        if count > GRANTS_PER_MAPPING_MAX {
            return Err(Error::TooManyGrants {
                domid,
                count,
                max: GRANTS_PER_MAPPING_MAX,
            });
        }
        let registered = self
            .register(domid, grefs)
            .map_err(|source| Error::Register {
                domid,
                first,
                count,
                source,
            })?;
        registered.map(access).map_err(|source| Error::Map {
            domid,
            first,
            count,
            access,
            source,
        })
    }

    fn register(&self, domid: DomId, grefs: &[GrantRef]) -> io::Result<Registered> {
        let mut request = MapGrantRef::new(domid, grefs);
        // SAFETY: the buffer is the structure that MAP_GRANT_REF reads, with as many references as its
        // `count` says, and the `index` that the kernel writes is inside of it.
        unsafe { self.ioctl(MAP_GRANT_REF, request.as_mut_ptr().cast()) }?;
        Ok(Registered {
            gnttab: self.clone(),
            index: request.index(),
            // At most GRANTS_PER_MAPPING_MAX, checked by the only caller.
            count: grefs.len(),
        })
    }

    /// The GRANT_COPY ioctl over `segments`, whose `status` fields it fills.
    ///
    /// # Safety
    /// The local addresses in `segments` must be readable, and those that are destinations must be
    /// writable, for the lengths given.
    pub(crate) unsafe fn grant_copy(&self, segments: &mut [GrantCopySegment]) -> io::Result<()> {
        let count = u32::try_from(segments.len())
            .map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))?;
        let mut request = GrantCopy {
            count,
            segments: segments.as_mut_ptr(),
        };
        // SAFETY: the structure is the one that GRANT_COPY reads, `segments` points to `count` segments
        // that are borrowed until the call returns, and the caller vouches for the addresses in them.
        unsafe { self.ioctl(GRANT_COPY, (&raw mut request).cast()) }
    }

    /// # Safety
    /// `argument` must point to what the kernel reads and writes for `request`.
    unsafe fn ioctl(&self, request: u32, argument: *mut c_void) -> io::Result<()> {
        #[allow(clippy::cast_lossless, reason = "the type differs between C libraries")]
        let request = request as libc::Ioctl;
        // SAFETY: the descriptor is open as long as `self` lives; the caller vouches for the argument.
        let result = unsafe { libc::ioctl(self.0.as_raw_fd(), request, argument) };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }
}

/// References that gntdev has taken, until dropped; the name of a mapping that may or may not exist yet.
#[derive(Debug)]
struct Registered {
    gnttab: Gnttab,
    index: u64,
    count: usize,
}

impl Registered {
    fn map(self, access: Access) -> io::Result<Mapping> {
        let protection = match access {
            Access::ReadOnly => libc::PROT_READ,
            Access::ReadWrite => libc::PROT_READ | libc::PROT_WRITE,
        };
        let offset = libc::off_t::try_from(self.index)
            .map_err(|_| io::Error::from_raw_os_error(libc::EOVERFLOW))?;
        // SAFETY: without MAP_FIXED the kernel picks an address range that is not in use, so no memory of
        // this process changes.
        let address = unsafe {
            libc::mmap(
                ptr::null_mut(),
                self.count * PAGE_SIZE,
                protection,
                libc::MAP_SHARED,
                self.gnttab.0.as_raw_fd(),
                offset,
            )
        };
        if address == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(address.cast())
            .ok_or_else(|| io::Error::from_raw_os_error(libc::EFAULT))?;
        Ok(Mapping {
            base,
            access,
            registered: self,
        })
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let mut request = UnmapGrantRef {
            index: self.index,
            count: u32::try_from(self.count).unwrap_or(u32::MAX),
            pad: 0,
        };
        // SAFETY: the structure is the one that UNMAP_GRANT_REF reads.
        let result = unsafe {
            self.gnttab
                .ioctl(UNMAP_GRANT_REF, (&raw mut request).cast())
        };
        // It fails only for an index that gntdev does not know, and this one came from it.
        debug_assert!(result.is_ok(), "UNMAP_GRANT_REF: {result:?}");
    }
}

/// Granted pages, mapped one after the other; unmapped when dropped.
///
/// The kernel must be done with I/O on the pages by then. [`Page`] keeps a shared mapping alive for that.
#[derive(Debug)]
pub struct Mapping {
    base: NonNull<u8>,
    access: Access,
    // Dropped after `drop` has unmapped the pages: gntdev wants munmap first.
    registered: Registered,
}

// SAFETY: a mapping is the same for every thread of the process, may be unmapped by any, and `Mapping`
// itself never accesses the memory.
unsafe impl Send for Mapping {}
// SAFETY: as for `Send`; what is shared is an address and a length that do not change.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Pages in the mapping, at least 1.
    #[must_use]
    #[allow(clippy::len_without_is_empty, reason = "a mapping is never empty")]
    pub const fn len(&self) -> usize {
        self.registered.count
    }

    /// Bytes in the mapping.
    #[must_use]
    pub const fn len_bytes(&self) -> usize {
        self.registered.count * PAGE_SIZE
    }

    /// How the pages are mapped.
    #[must_use]
    pub const fn access(&self) -> Access {
        self.access
    }

    /// The first byte of the mapping, aligned to a page. Valid as long as the mapping lives.
    #[must_use]
    pub const fn as_ptr(&self) -> NonNull<u8> {
        self.base
    }

    /// The first byte of the page at `index`.
    ///
    /// # Panics
    /// There is no such page.
    #[must_use]
    pub fn page_ptr(&self, index: usize) -> NonNull<u8> {
        assert!(
            index < self.len(),
            "page {index} of a mapping of {} pages",
            self.len()
        );
        // SAFETY: the assertion keeps the offset within the mapping, which is one allocation.
        unsafe { self.base.add(index * PAGE_SIZE) }
    }

    /// A handle for each page, in order. The last one dropped unmaps them all.
    pub fn into_pages(self) -> impl Iterator<Item = Page<Self>> {
        Page::all_of(Arc::new(self))
    }
}

// SAFETY: the pages are mapped from construction until `drop`, and `page_ptr` checks its index.
unsafe impl MappedPages for Mapping {
    fn page_count(&self) -> usize {
        self.len()
    }

    fn access(&self) -> Access {
        self.access
    }

    fn page_ptr(&self, index: usize) -> NonNull<u8> {
        self.page_ptr(index)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the range is exactly the one that mmap returned, it is unmapped only here, and whoever
        // uses a pointer into it keeps the mapping alive.
        let result = unsafe { libc::munmap(self.base.as_ptr().cast(), self.len_bytes()) };
        // It fails only for arguments that are not a range of pages, and these are.
        debug_assert_eq!(result, 0, "munmap: {}", io::Error::last_os_error());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::CopySegment;

    const DOMID: DomId = DomId(5);

    /// A device that knows no ioctl of gntdev.
    fn not_gntdev() -> Gnttab {
        Gnttab::open_path(Path::new("/dev/null")).expect("open /dev/null")
    }

    #[test]
    fn a_device_that_is_not_there() {
        let error = Gnttab::open_path(Path::new("/dev/xen/no-such-device")).expect_err("no device");
        assert_eq!(error.errno(), Some(libc::ENOENT));
        assert_eq!(
            error.to_string(),
            "cannot open /dev/xen/no-such-device: No such file or directory (os error 2)"
        );
    }

    #[test]
    fn a_refused_registration_names_domain_and_grant() {
        let error = not_gntdev()
            .map(DOMID, &[GrantRef(8), GrantRef(9)], Access::ReadOnly)
            .expect_err("not gntdev");
        assert_eq!(error.errno(), Some(libc::ENOTTY));
        assert!(!error.is_bad_grant());
        assert_eq!(
            error.to_string(),
            "cannot register 2 grants of domain 5 from 8 on with gntdev: \
             Inappropriate ioctl for device (os error 25)"
        );
    }

    #[test]
    fn counts_that_cannot_be_mapped() {
        let gnttab = not_gntdev();
        assert!(matches!(
            gnttab.map(DOMID, &[], Access::ReadWrite),
            Err(Error::NoGrants { domid: DOMID })
        ));
        let many = vec![GrantRef(1); 65_537];
        assert!(matches!(
            gnttab.map(DOMID, &many, Access::ReadWrite),
            Err(Error::TooManyGrants {
                domid: DOMID,
                count: 65_537,
                max: 65_536
            })
        ));
    }

    #[test]
    fn copies() {
        let gnttab = not_gntdev();
        assert!(
            gnttab
                .copy(DOMID, &mut [])
                .expect("nothing to do")
                .is_empty()
        );
        let mut buffer = [0; 16];
        let mut segments = [CopySegment::FromGrant {
            gref: GrantRef(3),
            offset: 4081,
            to: &mut buffer,
        }];
        assert!(matches!(
            gnttab.copy(DOMID, &mut segments),
            Err(Error::CopyBeyondPage {
                domid: DOMID,
                gref: GrantRef(3),
                offset: 4081,
                len: 16
            })
        ));
        let mut segments = [CopySegment::ToGrant {
            gref: GrantRef(3),
            offset: 4080,
            from: &[0; 16],
        }];
        let error = gnttab.copy(DOMID, &mut segments).expect_err("not gntdev");
        assert_eq!(error.errno(), Some(libc::ENOTTY));
    }

    #[test]
    fn handles_can_go_to_a_worker_thread() {
        const fn send<T: Send>() {}
        send::<Gnttab>();
        send::<Mapping>();
        send::<Page<Mapping>>();
        send::<crate::PersistentGrants<Gnttab>>();
    }
}
