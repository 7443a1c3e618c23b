//! Looking at an image that somebody else may be using.

use std::path::{Path, PathBuf};

use dscow::header::Header;
use dscow::parent::Parent;

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
    /// The disks below it, nearest first, as far as they can be found.
    pub below: Vec<Below>,
}

/// A disk below an image.
#[derive(Debug)]
pub struct Below {
    /// Where it is, according to the image above it.
    pub path: PathBuf,
    /// What it is.
    pub content: Content,
}

/// What a disk below an image is: its format as the image above records it, whatever is there now.
#[derive(Debug)]
pub enum Content {
    /// A raw disk, which is not looked at.
    Raw,
    /// An image, with this header.
    Image(Box<Header>),
    /// An image that is missing or cannot be read.
    Unknown(ImageError),
}

/// Reads header and bitmap without locking anything and without checking the parents.
///
/// # Errors
/// Names the file that cannot be read, and why.
pub fn inspect(path: &Path) -> Result<Inspection, ImageError> {
    let (file, header) = peek(path)?;
    check_length(&file, &header.layout)?;
    let (bitmap, _) = read_bitmap(&file, &header.layout)?;
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

/// The header of the image at `path`, which somebody else may be using.
///
/// # Errors
/// Names the file that cannot be read, and why.
pub fn header(path: &Path) -> Result<Header, ImageError> {
    peek(path).map(|(_, header)| header)
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

fn below(path: &Path, header: &Header) -> Vec<Below> {
    let mut found: Vec<Below> = Vec::new();
    let mut child = path.to_owned();
    let mut parent = header.parent.clone();
    while let Some(recorded) = parent.take() {
        let path = chain::resolve(&child, recorded.path());
        let content = match recorded {
            Parent::Raw { .. } => Content::Raw,
            Parent::Dscow { .. } => peek(&path).map_or_else(Content::Unknown, |(_, header)| {
                parent = header.parent.clone();
                Content::Image(Box::new(header))
            }),
        };
        child.clone_from(&path);
        found.push(Below { path, content });
        if found.len() == super::CHAIN_DEPTH_MAX {
            break;
        }
    }
    found
}
