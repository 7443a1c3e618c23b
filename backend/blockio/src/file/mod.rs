//! Image files and block devices: opening them, and blocking helpers for control paths.

mod at_once;
mod claim;
mod control;
mod create;
mod data;
mod direct;
mod error;
mod extents;
mod file_system;
#[cfg(test)]
mod tests;
mod zero;

use std::fs::{File, Metadata};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU8;

use rustix::fs::{Mode, OFlags, SeekFrom};

pub(crate) use at_once::sleeps;
pub use create::{CreateError, NewFile};
pub use direct::DioAlignment;
pub use error::{OpenError, OpenProblem};
pub use extents::{Extent, Extents};
pub use file_system::FileSystem;
pub(crate) use zero::{ZEROS, ZeroMethod};

/// Whether a file may be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reading only.
    ReadOnly,
    /// Reading and writing.
    ReadWrite,
}

/// Whether the host's page cache is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caching {
    /// Through the page cache.
    Buffered,
    /// Past the page cache (`O_DIRECT`), if the file supports it with offsets and memory aligned to no more than
    /// `alignment_max` bytes; else buffered, with a line in the log that says why.
    Direct {
        /// The coarsest alignment that the caller can live with, in bytes.
        alignment_max: u32,
    },
}

impl Caching {
    /// Direct I/O where it works in units of at most 4096 bytes: for images, whose engine keeps to any such alignment.
    pub const DIRECT: Caching = Caching::Direct {
        alignment_max: 4096,
    };
    /// Direct I/O where it works in sectors of 512 bytes: for who reads and writes sectors.
    pub const DIRECT_SECTORS: Caching = Caching::Direct { alignment_max: 512 };
}

/// What kind of file it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileKind {
    /// A regular file.
    Regular,
    /// A block device.
    BlockDevice,
}

/// Which file it is, whatever path it was opened by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FileIdentity {
    /// A regular file.
    Regular {
        /// The device number of its file system.
        device: u64,
        /// Its inode number there.
        inode: u64,
    },
    /// A block device.
    BlockDevice {
        /// The number of the device itself.
        device: u64,
    },
}

impl FileIdentity {
    /// Of what is at `path` at this moment; `None` if nothing is that holds blocks.
    pub fn at(path: &Path) -> Option<Self> {
        std::fs::metadata(path)
            .ok()
            .and_then(|metadata| Self::of(&metadata))
    }

    /// `None` for what holds no blocks.
    fn of(metadata: &Metadata) -> Option<Self> {
        let file_type = metadata.file_type();
        if file_type.is_file() {
            let (device, inode) = (metadata.dev(), metadata.ino());
            Some(Self::Regular { device, inode })
        } else if file_type.is_block_device() {
            let device = metadata.rdev();
            Some(Self::BlockDevice { device })
        } else {
            None
        }
    }

    fn kind(self) -> FileKind {
        match self {
            Self::Regular { .. } => FileKind::Regular,
            Self::BlockDevice { .. } => FileKind::BlockDevice,
        }
    }
}

/// When a file's contents last changed, as the file system tells: since 1970, UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ModificationTime {
    /// Whole seconds.
    pub seconds: i64,
    /// Nanoseconds within the second.
    pub nanoseconds: i64,
}

/// An open image file or block device. Closed on exec. Its locks (see [`crate::lock`]) last until it is dropped, or
/// until its process is gone and with it all operations in flight.
#[derive(Debug)]
pub struct BlockFile {
    file: File,
    path: PathBuf,
    access: Access,
    /// Keeps a block device claimed, see [`BlockFile::claim_device`].
    claim: Option<File>,
    /// `Some` if it is open for direct I/O.
    dio_alignment: Option<DioAlignment>,
    answers_at_once: bool,
    identity: FileIdentity,
    /// How many of the methods for zeroing ranges have turned out not to be supported.
    zero_methods_given_up: AtomicU8,
}

impl BlockFile {
    /// Opens an existing regular file or block device.
    ///
    /// # Errors
    ///
    /// If the path does not lead to a file that can be opened this way. Symbolic links are followed.
    pub fn open(
        path: impl AsRef<Path>,
        access: Access,
        caching: Caching,
    ) -> Result<Self, OpenError> {
        let path = path.as_ref();
        let mode = match access {
            Access::ReadOnly => OFlags::RDONLY,
            Access::ReadWrite => OFlags::RDWR,
        };
        // Non-blocking, so that a FIFO in the place of an image cannot stop us here; taken back once the kind is
        // known.
        let flags = mode | OFlags::CLOEXEC | OFlags::NOCTTY | OFlags::NONBLOCK;
        let file = rustix::fs::open(path, flags, Mode::empty())
            .map_err(|errno| OpenError::of_open(path, errno))?;
        Self::adopt(File::from(file), path, access, caching)
    }

    /// Takes an open descriptor, after checking what it leads to, and sets its flags.
    fn adopt(file: File, path: &Path, access: Access, caching: Caching) -> Result<Self, OpenError> {
        let failed = |cause: io::Error| OpenError::other(path, cause);
        let metadata = file.metadata().map_err(failed)?;
        let identity = FileIdentity::of(&metadata)
            .ok_or_else(|| OpenError::of_type(path, metadata.file_type()))?;
        let kind = identity.kind();
        set_status_flags(&file, OFlags::NONBLOCK, false).map_err(|errno| failed(errno.into()))?;
        if kind == FileKind::BlockDevice
            && access == Access::ReadWrite
            && device_is_read_only(&file).map_err(failed)?
        {
            return Err(OpenError::new(path, OpenProblem::ReadOnlyDevice));
        }
        let mut opened = Self {
            file,
            path: path.to_owned(),
            access,
            claim: None,
            dio_alignment: None,
            answers_at_once: false,
            identity,
            zero_methods_given_up: AtomicU8::new(0),
        };
        if let Caching::Direct { alignment_max } = caching {
            opened.try_direct(alignment_max);
            opened.find_out_answers_at_once();
        }
        Ok(opened)
    }

    /// The path that it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What kind of file it is.
    pub fn kind(&self) -> FileKind {
        self.identity.kind()
    }

    /// Whether it may be written.
    pub fn access(&self) -> Access {
        self.access
    }

    /// Which file it is.
    pub fn identity(&self) -> FileIdentity {
        self.identity
    }

    /// Whether it is open for direct I/O.
    pub fn direct(&self) -> bool {
        self.dio_alignment.is_some()
    }

    /// What operations must be aligned to; `None` if they need not be, since the file is buffered.
    pub fn dio_alignment(&self) -> Option<DioAlignment> {
        self.dio_alignment
    }

    /// The size in bytes at this moment.
    ///
    /// # Errors
    ///
    /// If the kernel does not tell.
    pub fn size(&self) -> io::Result<u64> {
        match self.kind() {
            FileKind::Regular => Ok(self.file.metadata()?.len()),
            // The position that this changes is never used.
            FileKind::BlockDevice => Ok(rustix::fs::seek(&self.file, SeekFrom::End(0))?),
        }
    }

    /// When the contents last changed. Meaningless for block devices.
    ///
    /// # Errors
    ///
    /// If the kernel does not tell.
    pub fn mtime(&self) -> io::Result<ModificationTime> {
        let metadata = self.file.metadata()?;
        Ok(ModificationTime {
            seconds: metadata.mtime(),
            nanoseconds: metadata.mtime_nsec(),
        })
    }
}

impl Drop for BlockFile {
    /// Releases the locks by name instead of leaving it to the last close: a child process that has been forked and
    /// has not reached its exec yet holds the open file too, and would hold the locks with it.
    fn drop(&mut self) {
        if let Err(cause) = crate::lock::unlock(self) {
            tracing::debug!("left to the kernel: {cause}");
        }
    }
}

impl AsFd for BlockFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl AsRawFd for BlockFile {
    fn as_raw_fd(&self) -> RawFd {
        self.file.as_raw_fd()
    }
}

fn set_status_flags(file: &File, flags: OFlags, set: bool) -> rustix::io::Result<()> {
    let mut status = rustix::fs::fcntl_getfl(file)?;
    status.set(flags, set);
    rustix::fs::fcntl_setfl(file, status)
}

/// Whether a block device is set read-only. Some drivers let it be opened for writing all the same.
fn device_is_read_only(file: &File) -> io::Result<bool> {
    /// `BLKROGET` of `linux/fs.h`.
    const GET_READ_ONLY: rustix::ioctl::Opcode = rustix::ioctl::opcode::none(0x12, 94);
    // SAFETY: this ioctl of block devices takes a pointer to an int, and fills it.
    let getter = unsafe { rustix::ioctl::Getter::<GET_READ_ONLY, libc::c_int>::new() };
    // SAFETY: the caller has checked that the descriptor is a block device, where this number has that meaning.
    let read_only = unsafe { rustix::ioctl::ioctl(file, getter) }?;
    Ok(read_only != 0)
}
