//! Copying a disk into a new file or onto a device, in another format or without its chain.

use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::sync::Arc;

use dscow::units::DiskRange;

use super::Progress;
use super::compare::{Pair, same};
use super::granules::{Fate, all_zero, differing, sort};
use super::pipeline::Route;
use super::session::{Member, Session};
use super::sweep::{Choice, Sweep};
use super::volume::Volume;
use crate::file::{Access, BlockFile, Caching, NewFile};
use crate::image::{CreateOptions, ImageError, ParentFormat, create_to_fill, refuse_content};
use crate::lock;

/// Unit in bytes in which zeros are looked for in raw disks.
const UNIT: u64 = 4096;

/// What a disk is to become.
#[derive(Clone, Debug)]
pub enum Target {
    /// A raw file, or a raw disk on a device.
    Raw {
        /// Write to a device also if that holds something, which is lost then.
        force: bool,
    },
    /// A dscow image. The size is that of the source, whatever the options say. With a base the image holds only what
    /// differs from it.
    Dscow(CreateOptions),
}

/// What a conversion did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Converted {
    /// Size of the disk.
    pub virtual_size: u64,
    /// Bytes read of the source.
    pub read_bytes: u64,
    /// Bytes written, as data or as zeros that had to be written.
    pub written_bytes: u64,
}

/// Copies the disk at `source` to `target`. A file is there completely or not at all, and never replaces another. On a
/// device an interruption leaves a part of the disk, and the conversion can be made again. Holes stay holes; with
/// `detect_zeroes` data that is zeros becomes one, in units of 4096 bytes or of the image's blocks.
///
/// # Errors
/// Names the file and the cause.
pub fn convert(
    source: (&Path, ParentFormat),
    path: &Path,
    target: &Target,
    detect_zeroes: bool,
    progress: &mut dyn Progress,
) -> Result<Converted, ImageError> {
    let volume = Volume::open(source.0, source.1)?;
    let virtual_size = volume.size();
    let mut session = Session::new()?;
    let from = session.join(volume)?;
    let destination = Destination::create(&mut session, path, target, virtual_size)?;
    let Destination {
        to,
        beside,
        unit,
        is_clean,
        ..
    } = destination;
    progress.begin("copy", virtual_size);
    let sweep = Sweep {
        route: Route {
            from,
            beside,
            to: Some(to),
        },
        range: DiskRange::new(0, virtual_size),
        unit,
        choose: &|session, pair| choose(session, (from, beside), pair, is_clean),
        look: &mut |seen| {
            sort(&seen, unit, |now, by_itself| {
                if is_clean && (detect_zeroes || beside.is_some()) {
                    differing(now, by_itself)
                } else if detect_zeroes && all_zero(now) {
                    Fate::Zeros
                } else {
                    Fate::Data
                }
            })
        },
        part_done: &mut || Ok(()),
    };
    let swept = sweep.run(&mut session, progress)?;
    session.close(to)?;
    drop(session);
    if let Some(new) = destination.new {
        new.publish()?;
    }
    Ok(Converted {
        virtual_size,
        read_bytes: swept.read_bytes,
        written_bytes: swept.written_bytes,
    })
}

fn choose(
    session: &Session,
    members: (Member, Option<Member>),
    pair: &Pair,
    is_clean: bool,
) -> Choice {
    if is_clean && same(session, members, pair) {
        Choice::Skip
    } else if !is_clean && pair.first.zero {
        Choice::Zeros
    } else {
        Choice::Read
    }
}

/// Where a disk is copied to.
struct Destination {
    to: Member,
    /// What the destination shows where nothing is written; zeros if there is none.
    beside: Option<Member>,
    /// Unit in bytes in which it is written.
    unit: u64,
    /// Where nothing is written it shows what is beside. A device that is raw shows whatever it had.
    is_clean: bool,
    /// To be published at the end.
    new: Option<NewFile>,
}

impl Destination {
    fn create(
        session: &mut Session,
        path: &Path,
        target: &Target,
        size: u64,
    ) -> Result<Self, ImageError> {
        match target {
            Target::Dscow(options) => Self::dscow(session, path, options, size),
            Target::Raw { force } if is_device(path) => {
                let device = open_device(path, size, *force)?;
                Ok(Self {
                    to: session.join(Volume::of_raw(Arc::new(device), size))?,
                    beside: None,
                    unit: UNIT,
                    is_clean: false,
                    new: None,
                })
            }
            Target::Raw { .. } => {
                let new = NewFile::create(path, Caching::DIRECT_SECTORS)?;
                new.file()
                    .set_len(size)
                    .map_err(ImageError::io(path, "set its length"))?;
                Ok(Self {
                    to: session.join(Volume::of_raw(Arc::clone(new.file()), size))?,
                    beside: None,
                    unit: UNIT,
                    is_clean: true,
                    new: Some(new),
                })
            }
        }
    }

    fn dscow(
        session: &mut Session,
        path: &Path,
        options: &CreateOptions,
        size: u64,
    ) -> Result<Self, ImageError> {
        let options = CreateOptions {
            size: Some(size),
            ..options.clone()
        };
        let beside = options
            .base
            .as_deref()
            .map(|base| Volume::open(base, options.base_format))
            .transpose()?;
        let (image, new) = create_to_fill(path, &options)?;
        Ok(Self {
            to: session.join(Volume::of_image(image))?,
            beside: beside.map(|volume| session.join(volume)).transpose()?,
            unit: options.block_size.bytes(),
            is_clean: true,
            new,
        })
    }
}

fn is_device(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|found| found.file_type().is_block_device())
}

/// A device to write a raw disk of `size` bytes to.
fn open_device(path: &Path, size: u64, force: bool) -> Result<BlockFile, ImageError> {
    let mut device = BlockFile::open(path, Access::ReadWrite, Caching::DIRECT_SECTORS)?;
    lock::patiently(lock::PATIENCE, &device, lock::lock_exclusive)?;
    device.claim_device()?;
    let found = device
        .size()
        .map_err(ImageError::io(path, "find out its size"))?;
    if found < size {
        return Err(ImageError::TooSmall {
            path: path.to_owned(),
            found,
            needed: size,
        });
    }
    if !force {
        refuse_content(&device)?;
    }
    Ok(device)
}
