//! How ranges are made to read as zeros, best method first.

use std::sync::atomic::Ordering;

use libc::c_int;

use super::BlockFile;

/// Zeros to write where nothing better works.
#[repr(align(4096))]
pub(crate) struct Zeros(pub(crate) [u8; 64 * 1024]);

pub(crate) static ZEROS: Zeros = Zeros([0; 64 * 1024]);

/// A way to make a range read as zeros. In the order in which they are tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum ZeroMethod {
    /// Give the storage back: a hole in a file, a discard that zeroes on a device.
    PunchHole = 0,
    /// Let the file system or the device zero it: unwritten extents, or write-zeroes.
    ZeroRange = 1,
    /// Write zeros.
    Write = 2,
}

impl BlockFile {
    /// What to try first. Files and devices know both calls, until one is refused.
    pub(crate) fn zero_method(&self) -> ZeroMethod {
        match self.zero_methods_given_up.load(Ordering::Relaxed) {
            0 => ZeroMethod::PunchHole,
            1 => ZeroMethod::ZeroRange,
            _ => ZeroMethod::Write,
        }
    }

    /// Whether zeroing a range writes no zeros, as far as is known: it may turn out later that it does.
    pub fn zeroes_fast(&self) -> bool {
        self.zero_method().fallocate_mode().is_some()
    }

    /// Remembers that the methods before `method` are not supported for this file.
    pub(crate) fn give_up_zero_methods_before(&self, method: ZeroMethod) {
        self.zero_methods_given_up
            .fetch_max(method as u8, Ordering::Relaxed);
    }
}

impl ZeroMethod {
    /// The mode for `fallocate`; `None` if zeros are to be written.
    pub(crate) fn fallocate_mode(self) -> Option<c_int> {
        match self {
            Self::PunchHole => Some(libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE),
            Self::ZeroRange => Some(libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE),
            Self::Write => None,
        }
    }

    /// What to try after this method failed with `errno`; `None` if the failure is not about the method.
    pub(crate) fn next_after(self, errno: i32) -> Option<Self> {
        let not_supported = matches!(
            errno,
            libc::EOPNOTSUPP | libc::ENOSYS | libc::ENODEV | libc::EINVAL
        );
        match self {
            Self::PunchHole if not_supported => Some(Self::ZeroRange),
            Self::ZeroRange if not_supported => Some(Self::Write),
            _ => None,
        }
    }
}
