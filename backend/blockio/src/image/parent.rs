//! What an overlay records of its parent.

use std::io;
use std::path::Path;

use dscow::fingerprint::{Fingerprinter, samples};
use dscow::header::Header;
use dscow::parent::{Modified, Parent};

use super::create::ParentFormat;
use super::error::ImageError;
use super::header_file::{read_header, write_pair};
use super::open::{ImageAccess, Overlay, size_of_file};
use crate::file::{Access, BlockFile, Caching, FileKind};
use crate::lock;

/// Looks at the file at `path` and describes it as a parent, after checking that it can be one. It is
/// recorded with an absolute path, so that it is found from wherever the overlay is opened.
///
/// The file is made durable: its last writer may have left it in the host's cache. After a loss of power it would hold
/// something else, and what is recorded of it (a generation, or samples and a time) need not tell.
///
/// # Errors
/// Names the file and why it cannot be a base.
pub fn identify_parent(path: &Path, format: ParentFormat) -> Result<Parent, ImageError> {
    let path = std::path::absolute(path).map_err(ImageError::io(path, "find out its full path"))?;
    if !Header::parent_path_fits(&path) {
        return Err(ImageError::ParentPath(path));
    }
    let file = BlockFile::open(&path, Access::ReadOnly, Caching::Buffered)?;
    if is_dscow(&file, format)? {
        drop(file);
        identify_dscow(&path)
    } else {
        identify_raw(&path, &file)
    }
}

/// Whether a file is a dscow image, as far as `format` leaves it open.
pub(crate) fn is_dscow(file: &BlockFile, format: ParentFormat) -> Result<bool, ImageError> {
    match format {
        ParentFormat::Raw => Ok(false),
        ParentFormat::Dscow => Ok(true),
        ParentFormat::Detect => match read_header(file) {
            Ok(_) => Ok(true),
            Err(ImageError::NotAnImage(_)) => Ok(false),
            // It begins like an image: whoever names it does not mean it as raw.
            Err(other) => Err(other),
        },
    }
}

fn identify_dscow(path: &Path) -> Result<Parent, ImageError> {
    let overlay = Overlay::open(path, ImageAccess::ReadOnly)?;
    make_durable(&overlay.file)?;
    super::chain::open_parents(&overlay)?;
    describe(&overlay.file, path, Some(&overlay.header))
}

fn identify_raw(path: &Path, file: &BlockFile) -> Result<Parent, ImageError> {
    lock::patiently(lock::PATIENCE, file, lock::lock_raw_base)?;
    make_durable(file)?;
    describe(file, path, None)
}

/// Syncs a file that may be open for reading only, with its time of modification.
fn make_durable(file: &BlockFile) -> Result<(), ImageError> {
    match file.sync_all() {
        // A file system that nobody can write to (squashfs) has nothing to sync.
        Err(cause) if cause.kind() == io::ErrorKind::InvalidInput => Ok(()),
        result => result.map_err(ImageError::io(file.path(), "sync it")),
    }
}

/// The size of a raw disk, which must be in whole sectors.
pub(crate) fn raw_size(file: &BlockFile) -> Result<u64, ImageError> {
    let size = size_of_file(file)?;
    if size == 0 || !size.is_multiple_of(512) {
        return Err(ImageError::ParentSize {
            path: file.path().to_owned(),
            size,
        });
    }
    Ok(size)
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
/// If the image could not be opened with that parent, or cannot be opened for writing, or its header cannot be written.
pub fn record_parent(path: &Path, parent: Parent) -> Result<(), ImageError> {
    let overlay = Overlay::open(path, ImageAccess::Writable)?;
    // As it will be opened: the parent's chain must not be too long then, nor hold the image itself.
    let header = Header {
        parent: Some(parent.clone()),
        commit_under_way: false,
        ..overlay.header
    };
    super::chain::open_parents_of(&overlay.file, &header)?;
    replace_parent(&overlay.file, Some(parent))
}

/// Describes an open file as a parent: an image if its header is given, else raw.
pub(super) fn describe(
    file: &BlockFile,
    path: &Path,
    header: Option<&Header>,
) -> Result<Parent, ImageError> {
    let path = path.to_owned();
    if let Some(header) = header {
        return Ok(Parent::Dscow {
            path,
            size: header.layout.virtual_size(),
            uuid: header.uuid,
            generation: header.generation,
        });
    }
    let size = raw_size(file)?;
    Ok(Parent::Raw {
        path,
        size,
        fingerprint: fingerprint(file, size)?,
        modified: modified(file)?,
    })
}

/// Puts `parent` in the place of the parent that the current header names. The image must be locked for writing and
/// must not have an engine that writes its header.
pub(crate) fn replace_parent(file: &BlockFile, parent: Option<Parent>) -> Result<(), ImageError> {
    let (current, slot) = read_header(file)?;
    let header = Header {
        // How much of the parent shows does not change, as long as there is one.
        parent_limit: current.parent_limit.filter(|_| parent.is_some()),
        parent,
        commit_under_way: false,
        ..current
    };
    write_pair(file, &header, slot)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As files of file systems are that nobody can write to.
    #[test]
    fn a_file_that_cannot_be_synced_needs_no_sync() {
        let file = BlockFile::open("/proc/version", Access::ReadOnly, Caching::Buffered).unwrap();
        assert_eq!(
            file.sync_all().unwrap_err().kind(),
            io::ErrorKind::InvalidInput
        );
        make_durable(&file).unwrap();
    }
}
