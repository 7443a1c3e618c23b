//! What an overlay records of its parent.

use std::path::Path;

use dscow::fingerprint::{Fingerprinter, samples};
use dscow::header::Header;
use dscow::parent::{Modified, Parent};

use super::create::ParentFormat;
use super::error::ImageError;
use super::open::{ImageAccess, Overlay, read_header, size_of_file};
use crate::file::{Access, BlockFile, Caching, FileKind};
use crate::lock;

/// Looks at the file at `path` and describes it as a parent, after checking that it can be one. It is
/// recorded with an absolute path, so that it is found from wherever the overlay is opened.
///
/// # Errors
/// Names the file and why it cannot be a base.
pub fn identify_parent(path: &Path, format: ParentFormat) -> Result<Parent, ImageError> {
    let path = std::path::absolute(path).map_err(ImageError::io(path, "find out its full path"))?;
    if !Header::parent_path_fits(&path) {
        return Err(ImageError::ParentPath(path));
    }
    let file = BlockFile::open(&path, Access::ReadOnly, Caching::Buffered)?;
    let is_dscow = match format {
        ParentFormat::Raw => false,
        ParentFormat::Dscow => true,
        ParentFormat::Detect => match read_header(&file) {
            Ok(_) => true,
            Err(ImageError::NotAnImage(_)) => false,
            // It begins like an image: whoever made the overlay did not mean it as raw.
            Err(other) => return Err(other),
        },
    };
    if is_dscow {
        drop(file);
        identify_dscow(&path)
    } else {
        identify_raw(&path, &file)
    }
}

fn identify_dscow(path: &Path) -> Result<Parent, ImageError> {
    let overlay = Overlay::open(path, ImageAccess::ReadOnly)?;
    super::chain::open_parents(&overlay)?;
    Ok(Parent::Dscow {
        path: path.to_owned(),
        size: overlay.header.layout.virtual_size(),
        uuid: overlay.header.uuid,
        generation: overlay.header.generation,
    })
}

fn identify_raw(path: &Path, file: &BlockFile) -> Result<Parent, ImageError> {
    lock::lock_raw_base(file)?;
    let size = size_of_file(file)?;
    if size == 0 || !size.is_multiple_of(512) {
        return Err(ImageError::ParentSize {
            path: path.to_owned(),
            size,
        });
    }
    Ok(Parent::Raw {
        path: path.to_owned(),
        size,
        fingerprint: fingerprint(file, size)?,
        modified: modified(file)?,
    })
}

/// Takes the fingerprint of a raw parent.
pub(super) fn fingerprint(file: &BlockFile, size: u64) -> Result<[u8; 32], ImageError> {
    let mut digest = Fingerprinter::new(size);
    let mut bytes = Vec::new();
    for sample in samples(size) {
        bytes.resize(usize::try_from(sample.len).expect("samples are small"), 0);
        file.read_exact_at(&mut bytes, sample.offset.0)
            .map_err(ImageError::io(file.path(), "read it"))?;
        digest.update(&bytes);
    }
    Ok(digest.finish())
}

/// The time of modification of a regular file; a device has none.
pub(super) fn modified(file: &BlockFile) -> Result<Option<Modified>, ImageError> {
    if file.kind() == FileKind::BlockDevice {
        return Ok(None);
    }
    let time = file
        .mtime()
        .map_err(ImageError::io(file.path(), "find out when it was modified"))?;
    Ok(Some(Modified {
        seconds: time.seconds,
        nanoseconds: u32::try_from(time.nanoseconds).unwrap_or(0),
    }))
}

/// A time as seconds since 1970, as `date -d @...` takes it.
pub(super) fn describe_time(time: Modified) -> String {
    format!("@{}.{:09}", time.seconds, time.nanoseconds)
}

/// Records `parent` as the parent of the image at `path`, in the place of the one it had, without looking
/// at the content of either: only for who knows that the content is the same.
///
/// # Errors
/// If the image cannot be opened for writing, or its header cannot be written.
pub fn record_parent(path: &Path, parent: Parent) -> Result<(), ImageError> {
    let overlay = Overlay::open(path, ImageAccess::Writable)?;
    let header = Header {
        sequence: overlay.header.sequence + 1,
        parent: Some(parent),
        ..overlay.header
    };
    let file = &overlay.file;
    // To the slot that is not current: if this is torn, the old header holds.
    file.write_all_at(&header.encode()[..], overlay.slot.other().offset().0)
        .map_err(ImageError::io(path, "write its header"))?;
    file.sync_data()
        .map_err(ImageError::io(path, "sync its header"))
}
