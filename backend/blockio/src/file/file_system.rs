//! What kind of file system a file is in, and the hint that XFS takes.

use std::io;

use rustix::ioctl::{Getter, Opcode, Setter, ioctl, opcode};

use super::{BlockFile, FileKind};

/// A kind of file system, as far as it makes a difference.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FileSystem {
    /// ext4 (or ext2 or ext3, which have the same number).
    Ext4,
    /// XFS.
    Xfs,
    /// Any other, and none: a block device.
    Other,
}

/// `FS_XFLAG_EXTSIZE` of `linux/fs.h`: the extent-size hint counts.
const EXTENT_SIZE_FLAG: u32 = 0x800;

/// `struct fsxattr` of `linux/fs.h`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Attributes {
    flags: u32,
    /// In bytes.
    extent_size: u32,
    extent_count: u32,
    project: u32,
    copy_extent_size: u32,
    padding: [u8; 8],
}

/// `FS_IOC_FSGETXATTR` and `FS_IOC_FSSETXATTR` of `linux/fs.h`.
const GET_ATTRIBUTES: Opcode = opcode::read::<Attributes>(b'X', 31);
const SET_ATTRIBUTES: Opcode = opcode::write::<Attributes>(b'X', 32);

impl BlockFile {
    /// What kind of file system it is in.
    pub fn file_system(&self) -> FileSystem {
        if self.kind() == FileKind::BlockDevice {
            return FileSystem::Other;
        }
        match rustix::fs::fstatfs(&self.file) {
            Ok(status) if status.f_type == libc::EXT4_SUPER_MAGIC => FileSystem::Ext4,
            Ok(status) if status.f_type == libc::XFS_SUPER_MAGIC => FileSystem::Xfs,
            Ok(_) | Err(_) => FileSystem::Other,
        }
    }

    /// Whether a read past the page cache is known to come from storage, and not from a cache of the file system's own.
    pub(super) fn direct_reads_are_of_storage(&self) -> bool {
        const KNOWN: [libc::c_long; 3] = [
            libc::EXT4_SUPER_MAGIC,
            libc::XFS_SUPER_MAGIC,
            libc::TMPFS_MAGIC,
        ];
        self.kind() == FileKind::Regular
            && rustix::fs::fstatfs(&self.file).is_ok_and(|status| KNOWN.contains(&status.f_type))
    }

    /// Has the file system take storage for this file in pieces of `bytes`, aligned to that. The file must not hold any
    /// yet.
    ///
    /// # Errors
    ///
    /// `ENOTTY` or `EOPNOTSUPP` if the file system has no such hint, `EINVAL` if it does not take this one.
    pub fn set_extent_size(&self, bytes: u32) -> io::Result<()> {
        let mut attributes = self.attributes()?;
        attributes.flags |= EXTENT_SIZE_FLAG;
        attributes.extent_size = bytes;
        // SAFETY: this ioctl reads such a structure.
        let setter = unsafe { Setter::<SET_ATTRIBUTES, Attributes>::new(attributes) };
        // SAFETY: a file system that does not know the number refuses it; those that do give it this meaning.
        unsafe { ioctl(&self.file, setter) }?;
        Ok(())
    }

    /// The pieces in bytes in which the file system takes storage for this file, if a hint says so.
    ///
    /// # Errors
    ///
    /// `ENOTTY` or `EOPNOTSUPP` if the file system has no such hint.
    pub fn extent_size(&self) -> io::Result<Option<u32>> {
        let attributes = self.attributes()?;
        Ok((attributes.flags & EXTENT_SIZE_FLAG != 0).then_some(attributes.extent_size))
    }

    fn attributes(&self) -> io::Result<Attributes> {
        // SAFETY: this ioctl fills such a structure.
        let getter = unsafe { Getter::<GET_ATTRIBUTES, Attributes>::new() };
        // SAFETY: a file system that does not know the number refuses it; those that do give it this meaning.
        Ok(unsafe { ioctl(&self.file, getter) }?)
    }
}
