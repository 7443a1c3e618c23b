//! Opening the image that a device asks for. Blocks; called on a thread of its own.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use blockio::disk::DiskOptions;
use blockio::file::{BlockFile, Caching, CreateError, OpenProblem};
use blockio::image::{self, CreateOptions, Image, ImageAccess, ImageError};
use dscow::engine::{Engine, OnNoSpace};
use dscow::header::{Header, State};
use dscow::units::{BlockSize, SECTOR_SIZE};
use runstate::{RunState, RunStateError};
use thiserror::Error;
use uuid::Uuid;
use xenstore_glue::{DeviceId, DiskProperties};

use crate::disk_target::{Cache, Target, TargetError};
use crate::inheritance::{Inheritance, Loan};

/// Blocks of an image are never smaller than a page, so the physical size, which guests align to, is a page.
const PHYSICAL_SECTOR_SIZE: u32 = 4096;

/// Bytes of a sector, where they are not of the usual 512.
const LARGE_SECTOR: u32 = 4096;

/// How long to wait for what a killed daemon has under way in the kernel.
const DEAD_WRITES_PATIENCE: Duration = Duration::from_secs(60);

/// How long a device that is claimed is left alone before it is tried again.
const CLAIM_PAUSE: Duration = Duration::from_millis(100);

/// An image that was opened for a device.
pub(crate) struct Opened {
    pub(crate) engine: Engine,
    pub(crate) files: Vec<Arc<BlockFile>>,
    pub(crate) disk: DiskProperties,
    /// How it is driven.
    pub(crate) options: DiskOptions,
    /// What outlives the daemon.
    pub(crate) run_state: Option<Box<RunState>>,
    /// The run state was left by an earlier daemon, which was connected to the frontend.
    pub(crate) can_be_adopted: bool,
    /// From whom its guest has brought the image along, to be told if it is given back as it was.
    pub(crate) loans: Vec<Loan>,
}

/// Why a device gets no image.
#[derive(Debug, Error)]
pub(crate) enum OpenImageError {
    /// The target is not understood.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The image cannot be opened or created.
    #[error(transparent)]
    Image(#[from] ImageError),
    /// What an earlier daemon left of it cannot be used now.
    #[error(transparent)]
    RunState(#[from] RunStateError),
    /// The image exists, and is an overlay of something else.
    #[error("{}: exists, but is an overlay of {found} and not of {}", image.display(), asked.display())]
    OtherBase {
        image: PathBuf,
        found: String,
        asked: PathBuf,
    },
    /// The image exists, and is not as its specification says.
    #[error("{}: exists, but has {what} of {found} bytes and not of {asked}", image.display())]
    OtherSizes {
        image: PathBuf,
        what: &'static str,
        found: u64,
        asked: u64,
    },
}

/// What the toolstack wants the frontend to see of a disk, whatever the image.
#[derive(Clone, Copy)]
pub(crate) struct ForFrontend {
    /// A CD-ROM.
    pub(crate) cdrom: bool,
    /// It may give storage back.
    pub(crate) discard: bool,
}

/// Opens what `params` asks for, creating an overlay that does not exist.
///
/// # Errors
/// Names the file and the cause. An overlay that was created and cannot be opened stays: it is empty, and somebody
/// else may have opened it in between.
pub(crate) fn open(
    device: DeviceId,
    params: &str,
    access: ImageAccess,
    frontend: ForFrontend,
    inheritance: &Inheritance,
) -> Result<Opened, OpenImageError> {
    let target = Target::parse(params)?;
    let access = match target.options.read_only {
        true => ImageAccess::ReadOnly,
        false => access,
    };
    if access == ImageAccess::Writable || target.base.is_some() {
        create_if_missing(&target)?;
    }
    let mut image = match inheritance.has_left(device) {
        true => open_when_free(&target, access)?,
        false => open_image(&target, access)?,
    };
    check_base(&target, &image)?;
    check_sizes(&target, image.header())?;
    let disk = properties(image.header(), access, frontend);
    let left = inheritance.of(device, image.header(), disk.read_only)?;
    let (mut left, is_own) = left.map_or((None, false), |(left, is_own)| (Some(left), is_own));
    if let Some(left) = &mut left
        && !disk.read_only
    {
        bring_in(left, &mut image)?;
    }
    // A disk whose flushes failed is not to look as if they had not.
    let can_be_adopted = is_own && left.as_ref().is_some_and(|left| !left.is_broken());
    // What a daemon before this one had done to the image is not known to this one.
    let is_used = left.as_ref().is_some_and(RunState::was_ever_connected);
    let loans = match is_used {
        true => Vec::new(),
        false => inheritance.loans_to(device),
    };
    let owner = left
        .as_ref()
        .map_or_else(Uuid::new_v4, |left| left.identity().owner);
    let bits_len = image.header().layout.bitmap_reserved_len();
    let run_state = left.or_else(|| inheritance.begin(device, owner, bits_len));
    let on_no_space = target.options.on_no_space;
    let on_no_space = on_no_space.unwrap_or_else(|| image.header().on_no_space());
    let (engine, files) = image.into_engine_of(owner, on_no_space);
    Ok(Opened {
        engine,
        files,
        disk,
        options: DiskOptions {
            detect_zeroes: target.options.detect_zeroes,
            ..DiskOptions::default()
        },
        run_state: run_state.map(Box::new),
        can_be_adopted,
        loans,
    })
}

fn properties(header: &Header, access: ImageAccess, frontend: ForFrontend) -> DiskProperties {
    let read_only = access == ImageAccess::ReadOnly;
    let layout = &header.layout;
    let block_size = u32::try_from(layout.block_size().bytes()).expect("at most 2 MiB");
    let discard = frontend.discard && !read_only;
    DiskProperties {
        sectors: layout.virtual_size() / SECTOR_SIZE,
        sector_size: header.sector_size(),
        physical_sector_size: PHYSICAL_SECTOR_SIZE,
        read_only,
        removable: false,
        cdrom: frontend.cdrom,
        // Only whole blocks give storage back.
        discard_granularity: if discard { block_size } else { 0 },
    }
}

fn open_image(target: &Target, access: ImageAccess) -> Result<Image, ImageError> {
    match target.options.cache {
        Cache::Direct => Image::open(&target.image, access),
        Cache::Host => Image::open_with(&target.image, access, Caching::Buffered),
    }
}

/// Opens an image that a killed daemon had open. What that has under way in the kernel must have come to its end before;
/// it keeps the file locked so long.
fn open_when_free(target: &Target, access: ImageAccess) -> Result<Image, ImageError> {
    let begun = Instant::now();
    loop {
        // Each attempt waits for a while by itself.
        match open_image(target, access) {
            Err(ImageError::Locked(_)) if begun.elapsed() < DEAD_WRITES_PATIENCE => {}
            Err(ImageError::Open(error))
                if matches!(error.problem, OpenProblem::Claimed)
                    && begun.elapsed() < DEAD_WRITES_PATIENCE =>
            {
                std::thread::sleep(CLAIM_PAUSE);
            }
            opened => return opened,
        }
    }
}

/// Brings what was noted into the image.
fn bring_in(left: &mut RunState, image: &mut Image) -> Result<(), RunStateError> {
    if let State::Clean { .. } = image.header().state {
        // It is there already, and what the image holds may have become less since: a commit moves it to the base.
        return left.forget_allocated();
    }
    for (at, bytes) in left.allocated()? {
        image.add_bits(at, &bytes);
    }
    Ok(())
}

fn create_if_missing(target: &Target) -> Result<(), ImageError> {
    if target.base.is_none() && target.options.size.is_none() {
        return Ok(());
    }
    // A dangling link exists, and is reported by the opening.
    if target.image.symlink_metadata().is_ok() {
        return Ok(());
    }
    let options = CreateOptions {
        base: target.base.clone(),
        size: target.options.size,
        block_size: target.options.block_size.unwrap_or_default(),
        large_sectors: target.options.sector_size == Some(LARGE_SECTOR),
        report_no_space: target.options.on_no_space == Some(OnNoSpace::Report),
        ..CreateOptions::default()
    };
    match image::create(&target.image, &options) {
        // Another device of the same target was faster, and has the image open by now: the opening will say so.
        Err(ImageError::Create(CreateError::Exists(_))) => return Ok(()),
        created => created?,
    };
    let over = target.base.as_ref();
    let over = over.map_or_else(String::new, |base| format!(" over {}", base.display()));
    tracing::info!("created {}{over}", target.image.display());
    Ok(())
}

/// An image that exists must be an overlay of the base that was asked for: the guest would boot something
/// else than its configuration says.
fn check_base(target: &Target, image: &Image) -> Result<(), OpenImageError> {
    let Some(asked) = &target.base else {
        return Ok(());
    };
    let found = image.below().first().map(image::Layer::path);
    if found.is_some_and(|found| is_same_file(found, asked)) {
        return Ok(());
    }
    Err(OpenImageError::OtherBase {
        image: target.image.clone(),
        found: found.map_or_else(|| "nothing".to_owned(), |path| path.display().to_string()),
        asked: asked.clone(),
    })
}

/// What cannot be changed once a disk is there must be as it was asked for.
fn check_sizes(target: &Target, header: &Header) -> Result<(), OpenImageError> {
    let options = &target.options;
    let asked_sector = options.sector_size.map(u64::from);
    for (what, asked, found) in [
        (
            "blocks",
            options.block_size.map(BlockSize::bytes),
            header.layout.block_size().bytes(),
        ),
        ("sectors", asked_sector, header.sector_size().into()),
    ] {
        if let Some(asked) = asked
            && asked != found
        {
            let image = target.image.clone();
            return Err(OpenImageError::OtherSizes {
                image,
                what,
                found,
                asked,
            });
        }
    }
    Ok(())
}

fn is_same_file(one: &Path, other: &Path) -> bool {
    if one == other {
        return true;
    }
    match (one.canonicalize(), other.canonicalize()) {
        (Ok(one), Ok(other)) => one == other,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn open_writable(params: &str) -> Result<Opened, OpenImageError> {
        let runtime_dir = tempfile::tempdir().unwrap();
        let inheritance = Inheritance::find(runtime_dir.path()).unwrap();
        let device = "backend/vbd3/1/51712".parse().unwrap();
        let frontend = ForFrontend {
            cdrom: false,
            discard: true,
        };
        open(
            device,
            params,
            ImageAccess::Writable,
            frontend,
            &inheritance,
        )
    }

    fn open_error(params: &str) -> String {
        let opened = open_writable(params);
        opened.err().expect("it must not open").to_string()
    }

    #[test]
    fn an_overlay_is_created_once_and_then_opened() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        fs::write(path("base.img"), vec![1; 1 << 20]).unwrap();
        let params = format!("dscow:{}:{}", path("vm.cow"), path("base.img"));
        let opened = open_writable(&params).unwrap();
        assert_eq!(opened.disk.sectors, 2048);
        assert!(open_error(&params).contains("in use by"));
        drop(opened);
        let opened = open_writable(&path("vm.cow")).unwrap();
        assert_eq!(opened.files.len(), 2);
    }

    #[test]
    fn a_missing_base_leaves_no_overlay_behind() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        let message = open_error(&format!("dscow:{}:{}", path("vm.cow"), path("no.img")));
        assert!(message.ends_with("no.img: does not exist"), "{message}");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_disk_is_made_as_its_options_say_and_must_stay_so() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("new.cow").display().to_string();
        let target = |options: &str| format!("dscow,{options}:{path}");
        let opened = open_writable(&target("size=1M,block-size=64K,sector-size=4096")).unwrap();
        assert_eq!(opened.disk.sectors, 2048);
        assert_eq!(opened.disk.sector_size, 4096);
        assert_eq!(opened.disk.discard_granularity, 64 << 10);
        assert!(!opened.options.detect_zeroes);
        drop(opened);
        // Its size may have changed since, and says nothing about what is in it.
        let opened = open_writable(&target("size=2M,detect-zeroes=on,cache=host")).unwrap();
        assert_eq!(opened.disk.sectors, 2048);
        assert!(opened.options.detect_zeroes && !opened.files[0].direct());
        drop(opened);
        for (options, message) in [
            ("block-size=4K", "has blocks of 65536 bytes and not of 4096"),
            (
                "sector-size=512",
                "has sectors of 4096 bytes and not of 512",
            ),
        ] {
            let error = open_error(&target(options));
            assert!(error.ends_with(message), "{error}");
        }
        let opened = open_writable(&target("read-only")).unwrap();
        assert!(opened.disk.read_only);
        // Nothing is made to be read only.
        fs::remove_file(&path).unwrap();
        assert!(open_error(&target("size=1M,read-only")).contains("does not exist"));
    }

    #[test]
    fn an_overlay_of_something_else_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        for name in ["one.img", "two.img"] {
            fs::write(path(name), vec![1; 4096]).unwrap();
        }
        let params = |base: &str| format!("dscow:{}:{}", path("vm.cow"), path(base));
        drop(open_writable(&params("one.img")).unwrap());
        let message = open_error(&params("two.img"));
        assert!(
            message.contains("one.img and not of") && message.ends_with("two.img"),
            "{message}"
        );
        // The same base by another path is the same base.
        std::os::unix::fs::symlink(path("one.img"), path("link.img")).unwrap();
        open_writable(&params("link.img")).unwrap();
    }
}
