//! What a commit of an overlay into its parent does to headers and identities. The blocks are copied elsewhere.
//!
//! The parent is known to its overlay by things that a write to it changes. So before the first write the overlay's
//! header says that a commit is under way, and from then on an opening compares less. What the overlay shows does
//! not depend on how far the commit is: only blocks that it holds itself are written to the parent. When all of them are
//! durable there, the header records the parent as it is now, and only then the overlay is emptied: every block shows
//! the same from either place by then, so any mixture of old and new bits in the bitmap is right.

use std::io;
use std::path::Path;
use std::sync::Arc;

use dscow::bitmap::Bitmap;
use dscow::header::{Header, Slot, State};
use dscow::layout::BITMAP_PAGE_SIZE;
use dscow::parent::Parent;
use uuid::Uuid;

use super::chain::{Recorded, compare_dscow, compare_raw, resolve};
use super::error::{ImageError, ParentChange};
use super::header_file::{read_header, write_pair};
use super::open::{Image, ImageAccess, Overlay, size_of_file};
use super::parent::describe;
use super::siblings;
use crate::file::{Access, BlockFile, Caching, FileKind};
use crate::lock;

/// An overlay and its parent, both open for writing and locked against everybody else.
pub(crate) struct Merge {
    file: Arc<BlockFile>,
    header: Header,
    slot: Slot,
    recorded: Parent,
    target: Arc<BlockFile>,
}

/// The parent, to be written.
pub(crate) enum Target {
    /// A raw file or device of so many bytes.
    Raw(Arc<BlockFile>, u64),
    /// An image with all that is below it.
    Image(Box<Image>),
}

impl Merge {
    /// Opens the overlay at `path` (alone: what it does not hold is not read) and its parent, and checks that the parent
    /// is what the overlay says, and that no other image beside them stands on it. Nothing is written.
    pub(crate) fn open(path: &Path) -> Result<(Self, Image, Target), ImageError> {
        let overlay = Overlay::open(path, ImageAccess::Writable)?;
        let recorded =
            Recorded::of(&overlay.header).ok_or_else(|| ImageError::NoParent(path.to_owned()))?;
        let parent_path = resolve(path, recorded.parent.path());
        let target = open_target(path, &parent_path, &recorded)?;
        let file = match &target {
            Target::Raw(file, _) => Arc::clone(file),
            Target::Image(image) => image.shared_file(),
        };
        if let Some(other) = siblings::find(&file, &overlay.file) {
            return Err(ImageError::OtherOverlay {
                path: parent_path,
                other,
            });
        }
        let merge = Self {
            file: Arc::clone(&overlay.file),
            header: overlay.header.clone(),
            slot: overlay.slot,
            recorded: recorded.parent,
            target: file,
        };
        Ok((merge, Image::alone(overlay), target))
    }

    /// From where on the overlay shows zeros where it holds nothing, although its parent may have something there.
    pub(crate) fn parent_limit(&self) -> Option<u64> {
        self.header.parent_limit
    }

    /// Says in the overlay's header that the parent is being written from now on. Also if it says so already: a process
    /// that was killed may have left that in the host's cache only, or in one slot only.
    pub(crate) fn begin(&mut self) -> Result<(), ImageError> {
        self.write_header(&Header {
            commit_under_way: true,
            ..self.header.clone()
        })
    }

    /// Records the parent as it is now, and then empties the overlay. The parent must be durable and closed.
    pub(crate) fn finish(mut self) -> Result<(), ImageError> {
        let header = match self.recorded {
            Parent::Raw { .. } => None,
            Parent::Dscow { .. } => Some(read_header(&self.target)?.0),
        };
        let parent = describe(&self.target, self.recorded.path(), header.as_ref())?;
        // In use, since the bitmap is about to differ from any checksum. The generation stays: what the overlay shows
        // does not change, and the images above it need not know.
        self.write_header(&Header {
            parent: Some(parent),
            // What was hidden has become zeros in the parent.
            parent_limit: None,
            commit_under_way: false,
            state: State::InUse {
                owner: Uuid::new_v4(),
            },
            ..self.header.clone()
        })?;
        self.clear_bitmap()?;
        self.free_storage()?;
        let bitmap_crc = Bitmap::crc_of_empty(&self.header.layout);
        self.write_header(&Header {
            state: State::Clean { bitmap_crc },
            ..self.header.clone()
        })
    }

    fn clear_bitmap(&self) -> Result<(), ImageError> {
        let layout = &self.header.layout;
        let len = layout.bitmap_used_len().next_multiple_of(BITMAP_PAGE_SIZE);
        self.file
            .zero_range(layout.bitmap_offset().0, len)
            .and_then(|()| self.file.sync_data())
            .map_err(ImageError::io(self.file.path(), "clear its bitmap"))
    }

    /// Gives the storage of the data area back, which no bit names any more, where that is possible. Zeros will not do: they
    /// may take more storage than there was.
    fn free_storage(&self) -> Result<(), ImageError> {
        if self.file.kind() == FileKind::BlockDevice {
            return Ok(());
        }
        let layout = &self.header.layout;
        let start = layout.data_offset().0;
        match self.file.punch_hole(start, layout.file_len() - start) {
            Err(cause) if cause.kind() == io::ErrorKind::Unsupported => Ok(()),
            punched => punched
                .and_then(|()| self.file.sync_data())
                .map_err(ImageError::io(self.file.path(), "free its storage")),
        }
    }

    fn write_header(&mut self, header: &Header) -> Result<(), ImageError> {
        // Both slots are written, so the one in force is the same as before.
        self.header = write_pair(&self.file, header, self.slot)?;
        Ok(())
    }
}

fn open_target(path: &Path, parent_path: &Path, recorded: &Recorded) -> Result<Target, ImageError> {
    let within = |cause: ImageError| ImageError::Parent {
        path: path.to_owned(),
        cause: Box::new(cause),
    };
    let changed = |change: ParentChange| ImageError::ParentChanged {
        path: path.to_owned(),
        parent: parent_path.to_owned(),
        change,
    };
    match recorded.parent {
        Parent::Raw { .. } => {
            let (file, size, change) = open_raw(parent_path, recorded).map_err(within)?;
            change.map_or(Ok(()), |change| Err(changed(change)))?;
            Ok(Target::Raw(Arc::new(file), size))
        }
        Parent::Dscow { .. } => {
            let image = Image::open(parent_path, ImageAccess::Writable).map_err(within)?;
            compare_dscow(recorded, image.header()).map_err(changed)?;
            Ok(Target::Image(Box::new(image)))
        }
    }
}

fn open_raw(
    path: &Path,
    recorded: &Recorded,
) -> Result<(BlockFile, u64, Option<ParentChange>), ImageError> {
    let mut file = BlockFile::open(path, Access::ReadWrite, Caching::DIRECT_SECTORS)?;
    lock::patiently(lock::PATIENCE, &file, lock::lock_exclusive)?;
    file.claim_device()?;
    let size = size_of_file(&file)?;
    let change = compare_raw(&file, size, recorded)?;
    Ok((file, size, change))
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;
    use crate::image::header_file::{Slots, write_durably};
    use crate::image::{CreateOptions, create};

    /// As a process leaves it that was killed behind the first of its writes: in one slot, and perhaps not on the disk.
    #[test]
    fn a_commit_that_goes_on_writes_its_mark_again() {
        let folder = TempDir::new().unwrap();
        let (base, path) = (folder.path().join("base.img"), folder.path().join("vm.cow"));
        std::fs::write(&base, [1; 1 << 16]).unwrap();
        let options = CreateOptions {
            base: Some(base),
            ..CreateOptions::default()
        };
        let header = create(&path, &options).unwrap();
        let marked = Header {
            commit_under_way: true,
            sequence: header.sequence + 1,
            ..header
        };
        let file = BlockFile::open(&path, Access::ReadWrite, Caching::Buffered).unwrap();
        let (_, current) = read_header(&file).unwrap();
        write_durably(&file, current.other(), &marked.encode()).unwrap();

        let (mut merge, _overlay, _target) = Merge::open(&path).unwrap();
        merge.begin().unwrap();

        let slots = Slots::read(&file).unwrap();
        for slot in [&slots.a, &slots.b] {
            let found = Header::decode(slot).unwrap();
            assert!(found.commit_under_way);
            assert!(found.sequence > marked.sequence, "{}", found.sequence);
        }
    }
}
