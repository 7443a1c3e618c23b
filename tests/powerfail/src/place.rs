//! Where an image is looked at: in the file itself, on a device over it, or in a file system on that device.

use std::ffi::CStr;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use blockio::disk::DiskOptions;
use blockio::executor::{Executor, open_executor};
use blockio::image::{Image, ImageAccess, ImageError};
use dscow::header::State;
use rustix::fs::Advice;
use rustix::io::Errno;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::error::{Error, IoContext};
use crate::oracle::Found;
use crate::replay::Target;
use crate::session::OpenImage;

/// Where the image is, in a file that holds what a loss of power left.
#[derive(Clone, Debug)]
pub enum Place {
    /// The file is the image.
    File,
    /// A loop device over the file is the image.
    Device(PathBuf),
    /// It is in a file system on a loop device over the file.
    FileSystem {
        /// The loop device.
        device: PathBuf,
        /// Its type, as `mount` knows it.
        kind: String,
        /// Where it is mounted; the base's path leads there.
        mount_point: PathBuf,
        /// The image.
        image: PathBuf,
    },
}

/// Bytes that are compared to see that a device shows its file.
const COMPARED: usize = 4096;

impl Place {
    /// What the image is, after a loss of power left `crashed`. If it is opened for writing it is changed with that.
    ///
    /// # Errors
    /// If the file system or the executor cannot be used. An image that cannot be used is no error.
    pub fn look(
        &self,
        crashed: &Path,
        access: ImageAccess,
        executor: &mut Box<dyn Executor>,
    ) -> Result<Found, Error> {
        match self {
            Self::File => find(crashed, access, executor),
            Self::Device(device) => find(device, access, executor),
            Self::FileSystem {
                device,
                kind,
                mount_point,
                image,
            } => {
                let flags = MountFlags::empty();
                if let Err(cause) = mount(device, mount_point, kind, flags, None::<&CStr>) {
                    return Ok(Found::Unusable(format!("{kind} does not mount: {cause}")));
                }
                let found = find(image, access, executor);
                leave(mount_point, executor.as_mut())?;
                found
            }
        }
    }

    /// Makes the device forget what it has read, and checks that it shows what is in the file at `offset`.
    ///
    /// # Errors
    /// If it does not.
    pub fn refresh(&self, crashed: &Target, offset: u64) -> Result<(), Error> {
        let (Self::Device(device) | Self::FileSystem { device, .. }) = self else {
            return Ok(());
        };
        let file = File::open(device).context(device, "open")?;
        let forget = || rustix::fs::fadvise(&file, 0, None, Advice::DontNeed);
        forget().context(device, "drop what is cached of")?;
        let (mut wanted, mut shown) = ([0; COMPARED], [0; COMPARED]);
        crashed.read(&mut wanted, offset)?;
        file.read_exact_at(&mut shown, offset)
            .context(device, "read")?;
        if wanted != shown {
            let device = device.display();
            return Err(Error::Usage(format!(
                "{device} does not show its file at {offset}"
            )));
        }
        forget().context(device, "drop what is cached of")
    }
}

/// Unmounts. Of a file that was used with io_uring the kernel lets go when the ring is next entered, or when a thread of its
/// own is done with it, which it tells nobody.
fn leave(mount_point: &Path, executor: &mut dyn Executor) -> Result<(), Error> {
    let mut events = Vec::new();
    for _ in 0..2000 {
        executor.poll(&mut events).map_err(Error::Executor)?;
        match unmount(mount_point, UnmountFlags::empty()) {
            Err(Errno::BUSY) => std::thread::sleep(Duration::from_millis(5)),
            result => return result.context(mount_point, "unmount"),
        }
    }
    Err(Errno::BUSY).context(mount_point, "unmount")
}

fn find(
    path: &Path,
    access: ImageAccess,
    executor: &mut Box<dyn Executor>,
) -> Result<Found, Error> {
    if !path.exists() {
        return Ok(Found::Missing);
    }
    Ok(match read(path, access, executor.as_mut()) {
        Ok(found) => found,
        // What a device is before an image was created on it.
        Err(Error::Image(ImageError::NotAnImage(_))) => Found::Missing,
        Err(cause) => {
            // This one may still be busy with what failed.
            *executor = open_executor().map_err(Error::Executor)?;
            Found::Unusable(cause.to_string())
        }
    })
}

/// Opens the image as the daemon does, and reads all of it.
fn read(path: &Path, access: ImageAccess, executor: &mut dyn Executor) -> Result<Found, Error> {
    let image = Image::open(path, access)?;
    let clean = matches!(image.header().state, State::Clean { .. });
    let mut image = OpenImage::open(image, DiskOptions::default(), executor)?;
    let values = image.read_all()?;
    image.close()?;
    Ok(Found::Image { clean, values })
}
