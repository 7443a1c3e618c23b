//! Looking at an image that somebody else may be using.

use std::path::Path;

use dscow::header::Header;

use super::chain;
use super::error::ImageError;
use super::header_file::read_header;
use super::open::{check_length, read_bitmap};
use crate::file::{Access, BlockFile, Caching};

/// What an image says of itself. If somebody has it open, as of the last commit.
#[derive(Debug)]
pub struct Inspection {
    /// Its current header.
    pub header: Header,
    /// How many blocks are allocated.
    pub allocated_blocks: u64,
    /// Bytes of storage that its file takes.
    pub storage_bytes: u64,
    /// The images below it, nearest first, as far as they can be found: each as its path, and the header
    /// if it is a dscow image.
    pub below: Vec<(std::path::PathBuf, Option<Header>)>,
}

/// Reads header and bitmap without locking anything and without checking the parents.
///
/// # Errors
/// Names the file that cannot be read, and why.
pub fn inspect(path: &Path) -> Result<Inspection, ImageError> {
    let (file, header) = peek(path)?;
    check_length(&file, &header.layout)?;
    let bitmap = read_bitmap(&file, &header.layout)?;
    let storage_bytes = file
        .allocated_bytes()
        .map_err(ImageError::io(path, "find out its storage"))?;
    Ok(Inspection {
        below: below(path, &header),
        header,
        allocated_blocks: bitmap.count_set(),
        storage_bytes,
    })
}

fn peek(path: &Path) -> Result<(BlockFile, Header), ImageError> {
    /// A header that is being written while it is read looks torn; the other slot is valid then, and
    /// only a second header write in the same moment could hide both.
    const TRIES: usize = 3;
    let file = BlockFile::open(path, Access::ReadOnly, Caching::Buffered)?;
    let mut last = read_header(&file);
    for _ in 1..TRIES {
        if !matches!(last, Err(ImageError::CorruptHeader { .. })) {
            break;
        }
        last = read_header(&file);
    }
    let (header, _) = last?;
    Ok((file, header))
}

fn below(path: &Path, header: &Header) -> Vec<(std::path::PathBuf, Option<Header>)> {
    let mut found = Vec::new();
    let mut child = path.to_owned();
    let mut parent = header.parent.clone();
    while let Some(recorded) = parent {
        let path = chain::resolve(&child, recorded.path());
        let header = match recorded {
            dscow::parent::Parent::Raw { .. } => None,
            dscow::parent::Parent::Dscow { .. } => peek(&path).ok().map(|(_, header)| header),
        };
        parent = header.as_ref().and_then(|header| header.parent.clone());
        found.push((path.clone(), header));
        child = path;
        if found.len() == super::CHAIN_DEPTH_MAX {
            break;
        }
    }
    found
}
