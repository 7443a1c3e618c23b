//! Making the disk of a guest larger while the guest uses it.

use std::io;
use std::path::{Path, PathBuf};

use blockio::file::FileIdentity;
use blockio::image::{self, ImageError};
use dscow::engine::Errno;
use thiserror::Error;
use tokio::sync::oneshot;
use xenstore_glue::DeviceId;

use super::{Device, Devices, on_a_thread};
use crate::worker::{OpenImage, ToWorker};

/// What became of a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Resized {
    pub(crate) device: DeviceId,
    /// Size in bytes before.
    pub(crate) before: u64,
    /// Size in bytes now.
    pub(crate) after: u64,
}

/// Why a disk does not grow.
#[derive(Debug, Error)]
pub(crate) enum ResizeError {
    /// No device of this daemon uses the image.
    #[error("{}: is not the image of a disk that this daemon serves", .0.display())]
    NotServed(PathBuf),
    /// Its guest is left to this daemon, or by it to the next one: nobody may touch the image now.
    #[error(
        "{}: its guest is being taken over from one cowbackd by the next at this moment; try again",
        .0.display()
    )]
    Awaited(PathBuf),
    /// The image is open for reading only.
    #[error("{device}: {}: is served read-only, so the disk cannot grow", image.display())]
    ReadOnly { device: DeviceId, image: PathBuf },
    /// The size is not possible for this image, or there is no room for it.
    #[error("{device}: {cause}")]
    Image {
        device: DeviceId,
        #[source]
        cause: ImageError,
    },
    /// Another resize is under way, or the image is being opened or closed.
    #[error("{device}: {}: is being resized, opened or closed at this moment; try again", image.display())]
    Busy { device: DeviceId, image: PathBuf },
    /// The image could not be changed.
    #[error("{device}: {}: cannot be made larger: {cause}", image.display())]
    Failed {
        device: DeviceId,
        image: PathBuf,
        #[source]
        cause: io::Error,
    },
}

impl Devices {
    /// Makes the disk whose image is the file at `path` `size` bytes large, and has its guest told. It can break off anywhere:
    /// the disk is as large as before, or larger already, and the same call goes on.
    ///
    /// # Errors
    /// Names device, image and cause.
    pub(crate) async fn resize(&self, path: &Path, size: u64) -> Result<Resized, ResizeError> {
        let looked_at = path.to_owned();
        let file = on_a_thread(move || FileIdentity::at(&looked_at)).await;
        let Some((device, known)) = file.and_then(|file| self.user_of(file)) else {
            return Err(self.not_served(path).await);
        };
        let image = PathBuf::from(known.image());
        if known.read_only {
            return Err(ResizeError::ReadOnly { device, image });
        }
        let Some(open) = self.open_image(device, known.worker).await else {
            return Err(self.not_served(path).await);
        };
        let before = open.header.layout.virtual_size();
        let resized = Resized {
            device,
            before,
            after: size,
        };
        if size == before {
            return Ok(resized);
        }
        on_a_thread(move || {
            let OpenImage {
                file,
                header,
                has_last_block,
            } = open;
            image::prepare_growth(&file, &header, has_last_block, size)
        })
        .await
        .map_err(|cause| ResizeError::Image { device, cause })?;
        match self.grow(device, known.worker, size).await {
            Ok(()) => Ok(resized),
            Err(Errno::EBUSY) => Err(ResizeError::Busy { device, image }),
            Err(errno) => Err(ResizeError::Failed {
                device,
                image,
                cause: io::Error::from_raw_os_error(errno.0),
            }),
        }
    }

    /// No disk has the image open now. Whether somebody else may have it depends on what is left of its guest.
    async fn not_served(&self, path: &Path) -> ResizeError {
        let (devices, path) = (self.clone(), path.to_owned());
        on_a_thread(move || {
            let is_awaited = |header| devices.inner.inheritance.is_awaited(&header);
            if image::header(&path).is_ok_and(is_awaited) {
                ResizeError::Awaited(path)
            } else {
                ResizeError::NotServed(path)
            }
        })
        .await
    }

    /// The device that uses a file as its image: the one that writes to it, if there is one.
    fn user_of(&self, file: FileIdentity) -> Option<(DeviceId, Device)> {
        let devices = self.devices();
        let users = devices.iter().filter(|(_, known)| known.file == Some(file));
        users
            .min_by_key(|(device, known)| (known.read_only, **device))
            .map(|(device, known)| (*device, known.clone()))
    }

    async fn open_image(&self, device: DeviceId, worker: usize) -> Option<OpenImage> {
        let (reply, answer) = oneshot::channel();
        self.inner.workers[worker].send(ToWorker::ShowImage { device, reply });
        answer.await.ok()
    }

    async fn grow(&self, device: DeviceId, worker: usize, size: u64) -> Result<(), Errno> {
        let (reply, answer) = oneshot::channel();
        self.inner.workers[worker].send(ToWorker::Grow {
            device,
            size,
            reply,
        });
        // Nobody replies if it was closed meanwhile.
        answer.await.unwrap_or(Err(Errno::EBUSY))
    }
}
