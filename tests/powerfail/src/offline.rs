//! Commands on images that nobody has open, to be run as processes of their own whose writes and syncs are recorded.

use std::path::{Path, PathBuf};

use blockio::disk::DiskOptions;
use blockio::executor::open_executor;
use blockio::file::{Access, BlockFile, Caching};
use blockio::image::{CreateOptions, Image, ImageAccess, ImageError, ParentFormat, create};
use blockio::offline::{Silent, commit, rebase, resize};
use clap::Subcommand;
use dscow::engine::{Request, Token};
use dscow::units::DiskRange;

use crate::error::{Error, IoContext};
use crate::session::{OpenImage, succeed};

/// What to do.
#[derive(Clone, Debug, Subcommand)]
pub enum Offline {
    /// Write what an overlay holds to its base.
    Commit {
        /// The overlay.
        image: PathBuf,
    },
    /// Give an image another base.
    Rebase {
        /// The image.
        image: PathBuf,
        /// Its new base.
        base: PathBuf,
    },
    /// Make the disk of an image larger.
    Resize {
        /// The image.
        image: PathBuf,
        /// The size in bytes.
        size: u64,
    },
    /// Create an overlay.
    Create {
        /// The overlay.
        image: PathBuf,
        /// Its base.
        base: PathBuf,
    },
    /// Write 4096 bytes to a disk, raw or an image, and leave it as a process does that is killed then.
    Write {
        /// The disk.
        disk: PathBuf,
        /// Where, in bytes.
        offset: u64,
        /// What each byte is.
        byte: u8,
    },
}

impl Offline {
    /// Does it.
    ///
    /// # Errors
    /// What the command says.
    pub fn run(&self) -> Result<(), Error> {
        match self {
            Self::Commit { image } => {
                commit(image, &mut Silent)?;
            }
            Self::Rebase { image, base } => {
                rebase(image, Some((base, ParentFormat::Detect)), &mut Silent)?;
            }
            Self::Resize { image, size } => {
                resize(image, *size)?;
            }
            Self::Create { image, base } => {
                let options = CreateOptions {
                    base: Some(base.clone()),
                    ..CreateOptions::default()
                };
                create(image, &options)?;
            }
            Self::Write { disk, offset, byte } => write(disk, *offset, &[*byte; 4096])?,
        }
        Ok(())
    }
}

fn write(disk: &Path, offset: u64, bytes: &[u8]) -> Result<(), Error> {
    let image = match Image::open(disk, ImageAccess::Writable) {
        Err(ImageError::NotAnImage(_)) => return write_raw(disk, offset, bytes),
        image => image?,
    };
    let mut executor = open_executor().map_err(Error::Executor)?;
    let mut image = OpenImage::open(image, DiskOptions::default(), executor.as_mut())?;
    let range = DiskRange::new(offset, bytes.len() as u64);
    image.submit(Token(1), Request::Write(range), bytes);
    succeed(&image.wait()?, "writing")?;
    image.submit(Token(2), Request::Flush, &[]);
    succeed(&image.wait()?, "flushing")
}

fn write_raw(disk: &Path, offset: u64, bytes: &[u8]) -> Result<(), Error> {
    BlockFile::open(disk, Access::ReadWrite, Caching::Buffered)
        .map_err(ImageError::from)?
        .write_all_at(bytes, offset)
        .context(disk, "write")
}
