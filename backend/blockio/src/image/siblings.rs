//! Other images that stand on the same parent, as far as they can be found.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::chain::resolve;
use super::header_file::read_header;
use crate::file::{Access, BlockFile, Caching, FileIdentity};

/// Looks in the folders of `parent` and of `overlay` for an image other than `overlay` whose parent is `parent`. What
/// cannot be read is passed over: this can only warn of some, and never tell that there is none.
pub(super) fn find(parent: &BlockFile, overlay: &BlockFile) -> Option<PathBuf> {
    let folders = [overlay.path(), parent.path()].map(|path| {
        let folder = path.parent().unwrap_or(Path::new("."));
        if folder == Path::new("") {
            PathBuf::from(".")
        } else {
            folder.to_owned()
        }
    });
    let once = usize::from(folders[0] != folders[1]) + 1;
    folders[..once]
        .iter()
        .filter_map(|folder| fs::read_dir(folder).ok())
        .flat_map(Iterator::flatten)
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_file()))
        .map(|entry| entry.path())
        .find(|path| stands_on(path, parent, overlay.identity()))
}

fn stands_on(path: &Path, parent: &BlockFile, except: FileIdentity) -> bool {
    let Ok(file) = BlockFile::open(path, Access::ReadOnly, Caching::Buffered) else {
        return false;
    };
    if file.identity() == except || file.identity() == parent.identity() {
        return false;
    }
    let recorded = read_header(&file)
        .ok()
        .and_then(|(header, _)| header.parent);
    let Some(metadata) = recorded.and_then(|found| fs::metadata(resolve(path, found.path())).ok())
    else {
        return false;
    };
    match parent.identity() {
        FileIdentity::Regular { device, inode } => {
            (metadata.dev(), metadata.ino()) == (device, inode)
        }
        FileIdentity::BlockDevice { device } => metadata.rdev() == device,
    }
}
