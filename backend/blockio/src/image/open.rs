//! Opening an image with all its parents.

use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use dscow::bitmap::{Bitmap, RunningChecksum};
use dscow::engine::{Engine, Mode, OnNoSpace, Options};
use dscow::header::{Header, Slot, State};
use dscow::layout::Layout;
use dscow::parents::{ParentLayer, Parents};
use dscow::units::BlockIndex;
use uuid::Uuid;

use super::bitmap_memory::prefer_large_pages;
use super::chain;
use super::error::ImageError;
use super::header_file::{Slots, check_counters, make_current_durable};
use crate::file::{Access, BlockFile, Caching, FileKind};
use crate::lock;

/// What an image is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ImageAccess {
    /// Reading; others may read too.
    ReadOnly,
    /// Writing, alone, past the page cache where possible.
    Writable,
}

/// An image opened with all its parents, locked, and checked; ready for an engine.
pub struct Image {
    /// The image itself.
    pub(super) top: Overlay,
    /// Its parents, nearest first.
    pub(super) below: Vec<Layer>,
    access: ImageAccess,
}

/// A dscow file: its header and its bitmap, both checked.
pub(super) struct Overlay {
    pub(super) file: Arc<BlockFile>,
    pub(super) header: Header,
    pub(super) slot: Slot,
    pub(super) bitmap: Bitmap,
}

/// An image below another.
pub enum Layer {
    /// A raw file or device.
    Raw {
        /// The file.
        file: Arc<BlockFile>,
        /// Its size in bytes.
        size: u64,
    },
    /// A dscow image.
    Dscow {
        /// The file.
        file: Arc<BlockFile>,
        /// Its header.
        header: Box<Header>,
        /// Its allocated blocks.
        bitmap: Bitmap,
    },
}

impl Image {
    /// Opens the image at `path` and all its parents, and locks them.
    ///
    /// # Errors
    /// Names the file that cannot be used, and why. Nothing stays open or locked then, and nothing was
    /// written.
    pub fn open(path: &Path, access: ImageAccess) -> Result<Self, ImageError> {
        Self::open_with(path, access, access.usual_caching())
    }

    /// As [`Image::open`]; the image's own file is read and written as `caching` says.
    ///
    /// # Errors
    /// As [`Image::open`].
    pub fn open_with(
        path: &Path,
        access: ImageAccess,
        caching: Caching,
    ) -> Result<Self, ImageError> {
        let top = Overlay::open_with(path, access, caching)?;
        let below = chain::open_parents(&top)?;
        Ok(Self { top, below, access })
    }

    /// An image that was just created and is locked for writing, with both slots saying the same.
    pub(super) fn of_new(file: Arc<BlockFile>, header: Header) -> Result<Self, ImageError> {
        let top = Overlay {
            bitmap: empty_bitmap(&file, &header.layout)?,
            file,
            header,
            slot: Slot::A,
        };
        let below = chain::open_parents(&top)?;
        let access = ImageAccess::Writable;
        Ok(Self { top, below, access })
    }

    /// An overlay without what is below it, for who looks only at what it holds itself. Its engine writes nothing.
    pub(super) fn alone(top: Overlay) -> Self {
        Self {
            top,
            below: Vec::new(),
            access: ImageAccess::ReadOnly,
        }
    }

    /// The image's own file; whoever keeps it keeps its lock.
    pub(super) fn shared_file(&self) -> Arc<BlockFile> {
        Arc::clone(&self.top.file)
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        self.top.file.path()
    }

    /// The current header.
    pub fn header(&self) -> &Header {
        &self.top.header
    }

    /// The allocated blocks.
    pub fn bitmap(&self) -> &Bitmap {
        &self.top.bitmap
    }

    /// Takes bits that its last user set and did not bring into the image: bytes of the bitmap from byte `at` on.
    ///
    /// # Panics
    /// If they reach beyond the bitmap.
    pub fn add_bits(&mut self, at: u64, bytes: &[u8]) {
        self.top.bitmap.add(at, bytes);
    }

    /// Whether the block that the disk ends in is allocated.
    pub(crate) fn has_last_block(&self) -> bool {
        let last = self.top.header.layout.block_count() - 1;
        self.top.bitmap.is_set(BlockIndex(last))
    }

    /// Looks whether the disk can be made larger without showing what it must not.
    pub(crate) fn check_growable(&self) -> Result<(), ImageError> {
        super::check::check_growable(self.file(), &self.top.header.layout, self.has_last_block())
    }

    /// Sees that the header that was read is on the disk, and with it the length of the file. The image must be open for
    /// writing.
    pub(crate) fn make_header_durable(&self) -> Result<(), ImageError> {
        make_current_durable(&self.top.file, self.top.slot)
    }

    /// The image's own file.
    pub fn file(&self) -> &BlockFile {
        &self.top.file
    }

    /// The images below, nearest first.
    pub fn below(&self) -> &[Layer] {
        &self.below
    }

    /// The engine for the image, not opened yet, and the files of its layers: the image's own first, then
    /// its parents, as [`dscow::parents::LayerIndex`] counts.
    pub fn into_engine(self, on_no_space: OnNoSpace) -> (Engine, Vec<Arc<BlockFile>>) {
        self.into_engine_of(Uuid::new_v4(), on_no_space)
    }

    /// As [`Image::into_engine`]; while it is in use the header names `owner`.
    pub fn into_engine_of(
        self,
        owner: Uuid,
        on_no_space: OnNoSpace,
    ) -> (Engine, Vec<Arc<BlockFile>>) {
        let mode = match self.access {
            ImageAccess::ReadOnly => Mode::ReadOnly,
            ImageAccess::Writable => Mode::Writable { owner },
        };
        let options = Options {
            io_alignment: io_alignment(&self.top.file),
            on_no_space,
        };
        let mut files = vec![self.top.file];
        let mut layers = Vec::new();
        for layer in self.below {
            let (file, layer) = layer.into_parts();
            files.push(file);
            layers.push(layer);
        }
        let Overlay {
            header,
            slot,
            bitmap,
            ..
        } = self.top;
        let engine = Engine::new(header, slot, bitmap, Parents::new(layers), mode, options);
        (engine, files)
    }
}

impl Layer {
    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        match self {
            Self::Raw { file, .. } | Self::Dscow { file, .. } => file.path(),
        }
    }

    fn into_parts(self) -> (Arc<BlockFile>, ParentLayer) {
        match self {
            Self::Raw { file, size } => (file, ParentLayer::Raw { size }),
            Self::Dscow {
                file,
                header,
                bitmap,
            } => {
                let layer = ParentLayer::Dscow {
                    layout: header.layout,
                    bitmap,
                    parent_limit: header.parent_limit.unwrap_or(u64::MAX),
                };
                (file, layer)
            }
        }
    }
}

impl ImageAccess {
    /// What is only read may be in the page cache for others.
    fn usual_caching(self) -> Caching {
        match self {
            Self::ReadOnly => Caching::Buffered,
            Self::Writable => Caching::DIRECT,
        }
    }
}

impl Overlay {
    pub(super) fn open(path: &Path, access: ImageAccess) -> Result<Self, ImageError> {
        Self::open_with(path, access, access.usual_caching())
    }

    fn open_with(path: &Path, access: ImageAccess, caching: Caching) -> Result<Self, ImageError> {
        let file = open_locked(path, access, caching)?;
        let slots = Slots::read(&file)?;
        let (header, slot) = slots.current(&file)?;
        if let Err(cause) = Header::check_whole(slots.bytes(slot.other())) {
            let path = path.display();
            tracing::warn!(
                "{path}: header slot {:?} is damaged ({cause}); slot {slot:?} is used, which says the same unless the \
                 host crashed while the header was written",
                slot.other()
            );
        }
        if access == ImageAccess::Writable {
            check_counters(&file, &header)?;
        }
        check_length(&file, &header.layout)?;
        let bitmap = load_bitmap(&file, &header)?;
        Ok(Self {
            file: Arc::new(file),
            header,
            slot,
            bitmap,
        })
    }
}

/// Opens an image's file and locks it; a device that is to be written is claimed too.
pub(super) fn open_locked(
    path: &Path,
    access: ImageAccess,
    caching: Caching,
) -> Result<BlockFile, ImageError> {
    match access {
        ImageAccess::ReadOnly => {
            let file = BlockFile::open(path, Access::ReadOnly, caching)?;
            lock::patiently(lock::PATIENCE, &file, lock::lock_shared)?;
            Ok(file)
        }
        ImageAccess::Writable => {
            let mut file = BlockFile::open(path, Access::ReadWrite, caching)?;
            lock::patiently(lock::PATIENCE, &file, lock::lock_exclusive)?;
            file.claim_device()?;
            Ok(file)
        }
    }
}

pub(super) fn size_of_file(file: &BlockFile) -> Result<u64, ImageError> {
    file.size()
        .map_err(ImageError::io(file.path(), "find out its size"))
}

pub(super) fn check_length(file: &BlockFile, layout: &Layout) -> Result<(), ImageError> {
    let len = size_of_file(file)?;
    let needed = layout.file_len();
    if len < needed {
        return Err(ImageError::Truncated {
            path: file.path().to_owned(),
            len,
            needed,
        });
    }
    Ok(())
}

fn load_bitmap(file: &BlockFile, header: &Header) -> Result<Bitmap, ImageError> {
    let (bitmap, crc) = read_bitmap(file, &header.layout)?;
    verify_bitmap(file.path(), header, &bitmap, crc)?;
    Ok(bitmap)
}

/// Reads the bitmap without touching what is not there: holes in a file, zeros on a device. Gives its checksum too.
pub(super) fn read_bitmap(file: &BlockFile, layout: &Layout) -> Result<(Bitmap, u32), ImageError> {
    let mut bitmap = empty_bitmap(file, layout)?;
    let crc = fill_bitmap(file, layout, &mut bitmap)
        .map_err(ImageError::io(file.path(), "read its bitmap"))?;
    Ok((bitmap, crc))
}

/// A bitmap without bits, for the image in `file`.
fn empty_bitmap(file: &BlockFile, layout: &Layout) -> Result<Bitmap, ImageError> {
    Bitmap::empty(layout).map_err(|cause| ImageError::NoMemory {
        path: file.path().to_owned(),
        cause,
    })
}

fn fill_bitmap(file: &BlockFile, layout: &Layout, bitmap: &mut Bitmap) -> io::Result<u32> {
    let start = layout.bitmap_offset().0;
    let range = start..start + layout.bitmap_used_len();
    let extents = file
        .extents_within(range)?
        .collect::<io::Result<Vec<_>>>()?;
    // A device says data everywhere, so it tells nothing.
    if file.kind() != FileKind::BlockDevice {
        prefer_large_pages(bitmap, start, &extents);
    }
    // Taken from each page while it is in the processor's cache.
    let mut checksum = RunningChecksum::default();
    file.visit_data_in(extents.into_iter().map(Ok), |at, page| {
        checksum.take(at - start, page);
        bitmap.load(at - start, page);
        ControlFlow::Continue(())
    })?;
    Ok(checksum.finish(layout))
}

fn verify_bitmap(
    path: &Path,
    header: &Header,
    bitmap: &Bitmap,
    found: u32,
) -> Result<(), ImageError> {
    if let Some(block) = bitmap.bit_past_end() {
        return Err(ImageError::BitmapPastEnd {
            path: path.to_owned(),
            block,
            block_count: bitmap.block_count(),
        });
    }
    if let State::Clean {
        bitmap_crc: expected,
    } = header.state
        && found != expected
    {
        return Err(ImageError::BitmapChecksum {
            path: path.to_owned(),
            found,
            expected,
        });
    }
    Ok(())
}

/// To what the engine has to align its operations on the image's own file.
fn io_alignment(file: &BlockFile) -> u32 {
    let alignment = file
        .dio_alignment()
        .map_or(512, |alignment| alignment.offset);
    alignment.max(512)
}
