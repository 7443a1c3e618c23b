//! Where images are put: a loop device on memory, with a file system or as it is.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{BenchError, Result};
use crate::tool;

/// How often unmounting is tried, and how long it is left alone in between.
const UNMOUNT_TRIES: u32 = 50;
const UNMOUNT_PAUSE: Duration = Duration::from_millis(100);

/// What an image is put on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SiteKind {
    /// A file on ext4.
    Ext4,
    /// A file on XFS.
    Xfs,
    /// The block device itself.
    Device,
}

impl SiteKind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Ext4, Self::Xfs, Self::Device];

    /// Its name in the report.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ext4 => "ext4",
            Self::Xfs => "XFS",
            Self::Device => "block device",
        }
    }
}

/// A folder of the benchmark's own, in memory.
pub struct Scratch {
    folder: PathBuf,
}

impl Scratch {
    /// Mounts a file system in memory at `folder`, which is made if it is not there. Only this process and its
    /// children see it.
    ///
    /// # Errors
    /// If that is not possible.
    pub fn mount(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder).map_err(BenchError::io(format!("make {}", folder.display())))?;
        tool::run(
            Command::new("mount")
                .args(["-t", "tmpfs", "-o", "size=90%", "cowback-bench"])
                .arg(folder),
        )?;
        Ok(Self {
            folder: folder.to_owned(),
        })
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The path of something in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

/// A loop device whose backing file is in memory.
pub struct LoopDevice {
    path: PathBuf,
    /// The kernel gives the device up when the last user closes it.
    _open: File,
}

impl LoopDevice {
    /// A loop device of `len` bytes, backed by a new file at `backing`. All of its memory is allocated here, so that
    /// no measurement pays for it.
    ///
    /// # Errors
    /// If it cannot be set up.
    pub fn new(backing: &Path, len: u64) -> Result<Self> {
        tool::run(
            Command::new("fallocate")
                .arg("--length")
                .arg(len.to_string())
                .arg(backing),
        )?;
        let path = tool::run(
            Command::new("losetup")
                .args(["--find", "--show"])
                .arg(backing),
        )?;
        let path = PathBuf::from(path.trim());
        let open = File::open(&path).map_err(BenchError::io(format!("open {}", path.display())))?;
        // It is in use, so this only asks the kernel to detach it when it no longer is.
        tool::run(Command::new("losetup").arg("--detach").arg(&path))?;
        Ok(Self { path, _open: open })
    }

    /// The device.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The file with the kernel's counts of what it has done.
    pub fn stat(&self) -> PathBuf {
        let name = self.path.file_name().expect("a device has a name");
        Path::new("/sys/block").join(name).join("stat")
    }
}

/// A file system that is mounted. If nobody unmounts it, it is taken out of the way.
pub struct Mounted {
    folder: PathBuf,
    is_there: bool,
}

impl Mounted {
    /// Mounts the file system on `device` at `folder`, which is made if it is not there.
    ///
    /// # Errors
    /// If that is not possible.
    pub fn new(device: &Path, folder: PathBuf) -> Result<Self> {
        fs::create_dir_all(&folder)
            .map_err(BenchError::io(format!("make {}", folder.display())))?;
        tool::run(Command::new("mount").arg(device).arg(&folder))?;
        Ok(Self {
            folder,
            is_there: true,
        })
    }

    /// Where it is.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Unmounts it. The kernel lets go of the files of an io_uring some time after their program has ended, so this
    /// is tried for a while.
    ///
    /// # Errors
    /// If something still uses it.
    pub fn unmount(mut self) -> Result<()> {
        let mut tries = UNMOUNT_TRIES;
        while let Err(error) = tool::run(Command::new("umount").arg(&self.folder)) {
            tries -= 1;
            if tries == 0 {
                return Err(error);
            }
            thread::sleep(UNMOUNT_PAUSE);
        }
        self.is_there = false;
        Ok(())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if self.is_there {
            // If this does not work, there is nothing else to try.
            let _ = tool::run(Command::new("umount").arg("--lazy").arg(&self.folder));
        }
    }
}

/// A loop device made ready for images.
pub struct Site<'a> {
    kind: SiteKind,
    device: &'a LoopDevice,
    /// Where its file system is mounted, if it has one.
    mounted: Option<Mounted>,
}

impl<'a> Site<'a> {
    /// Makes the device ready, at the cost of all that is on it.
    ///
    /// # Errors
    /// If the file system cannot be made or mounted.
    pub fn prepare(kind: SiteKind, device: &'a LoopDevice, mount_point: PathBuf) -> Result<Self> {
        // Nothing is left to be done in the background.
        let mut make = match kind {
            SiteKind::Device => {
                return Ok(Self {
                    kind,
                    device,
                    mounted: None,
                });
            }
            SiteKind::Ext4 => {
                let mut make = Command::new("mkfs.ext4");
                make.args([
                    "-q",
                    "-F",
                    "-E",
                    "nodiscard,lazy_itable_init=0,lazy_journal_init=0",
                ]);
                make
            }
            SiteKind::Xfs => {
                let mut make = Command::new("mkfs.xfs");
                make.args(["-q", "-f", "-K"]);
                make
            }
        };
        tool::run(make.arg(device.path()))?;
        let mounted = Some(Mounted::new(device.path(), mount_point)?);
        Ok(Self {
            kind,
            device,
            mounted,
        })
    }

    /// What it is.
    pub fn kind(&self) -> SiteKind {
        self.kind
    }

    /// Where to put an image: a file of this name, or the device, which has room for one.
    pub fn path(&self, name: &str) -> PathBuf {
        self.mounted.as_ref().map_or_else(
            || self.device.path().to_owned(),
            |mounted| mounted.folder().join(name),
        )
    }

    /// The file with the kernel's counts of what the device has done.
    pub fn stat(&self) -> PathBuf {
        self.device.stat()
    }

    /// Removes an image. On a device there is nothing to remove: the next image replaces it.
    ///
    /// # Errors
    /// If it cannot be removed.
    pub fn remove(&self, image: &Path) -> Result<()> {
        if self.mounted.is_none() || !image.exists() {
            return Ok(());
        }
        fs::remove_file(image).map_err(BenchError::io(format!("remove {}", image.display())))
    }

    /// Lets the file system finish what was asked of it before, such as to free the storage of an image that was removed.
    /// Otherwise the next measurement would pay for that.
    ///
    /// # Errors
    /// If it does not.
    pub fn settle(&self) -> Result<()> {
        let Some(mounted) = &self.mounted else {
            return Ok(());
        };
        // Frozen means that nothing is left to be written, nor to be done in the background.
        for what in ["--freeze", "--unfreeze"] {
            tool::run(Command::new("fsfreeze").arg(what).arg(mounted.folder()))?;
        }
        Ok(())
    }

    /// Unmounts the file system.
    ///
    /// # Errors
    /// If something still uses it.
    pub fn unmount(self) -> Result<()> {
        self.mounted.map_or(Ok(()), Mounted::unmount)
    }
}
