//! A disk to work on: an image with its chain, or a raw file or device.

use std::path::Path;
use std::sync::Arc;

use dscow::engine::{Engine, OnNoSpace};

use crate::extents::DiskMap;
use crate::file::{Access, BlockFile, Caching, FileIdentity};
use crate::image::{Image, ImageAccess, ImageError, ParentFormat, is_dscow, raw_size};
use crate::lock;

/// A disk that is open.
pub struct Volume {
    pub(super) kind: Kind,
    /// The image's own file first, then its parents.
    pub(super) files: Vec<Arc<BlockFile>>,
    size: u64,
}

pub(super) enum Kind {
    Image(Box<Engine>),
    Raw,
}

impl Volume {
    /// Opens a disk for reading, locks it against writers, and checks that it is whole.
    ///
    /// # Errors
    /// Names the file that cannot be used, and why.
    pub fn open(path: &Path, format: ParentFormat) -> Result<Self, ImageError> {
        let file = BlockFile::open(path, Access::ReadOnly, Caching::Buffered)?;
        if is_dscow(&file, format)? {
            return Ok(Self::of_image(Image::open(path, ImageAccess::ReadOnly)?));
        }
        lock::patiently(lock::PATIENCE, &file, lock::lock_raw_base)?;
        let size = raw_size(&file)?;
        Ok(Self::of_raw(Arc::new(file), size))
    }

    /// The disk of an image that is open.
    pub(super) fn of_image(image: Image) -> Self {
        let size = image.header().layout.virtual_size();
        let (engine, files) = image.into_engine(OnNoSpace::Report);
        Self {
            kind: Kind::Image(Box::new(engine)),
            files,
            size,
        }
    }

    /// The disk of a raw file or device that is open, and locked as its use demands.
    pub(super) fn of_raw(file: Arc<BlockFile>, size: u64) -> Self {
        Self {
            kind: Kind::Raw,
            files: vec![file],
            size,
        }
    }

    /// Size of the disk in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Shows no more than the first `size` bytes.
    pub(super) fn limited_to(self, size: u64) -> Self {
        Self {
            size: self.size.min(size),
            ..self
        }
    }

    /// The paths of the layers by their depth, the image itself first.
    pub fn layers(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|file| file.path())
    }

    /// Which layer holds what.
    pub fn map(&self) -> DiskMap<'_> {
        match &self.kind {
            Kind::Image(engine) => DiskMap::of_engine(engine, &self.files),
            Kind::Raw => DiskMap::of_raw(&self.files[0]),
        }
    }

    /// Whether a file is one of its layers.
    pub(super) fn contains(&self, file: FileIdentity) -> bool {
        self.files.iter().any(|layer| layer.identity() == file)
    }
}
