//! `cowback create`

use std::path::PathBuf;

use blockio::image::{self, CreateOptions};
use blockio::space::SpaceStrategy;
use dscow::layout::Headroom;
use dscow::units::BlockSize;
use serde_json::json;

use super::BaseFormat;
use crate::error::{CommandResult, Outcome};
use crate::output::{self, print_json, print_line};
use dscow::size;

/// Create an image, empty or as an overlay of a base
///
/// The base is never written. It must not change any more: the overlay remembers what it was like.
///
/// The image is a new file, or a block device that is there: then it may not be in use, must have room for the whole
/// disk and the metadata in front of it, and its first MiB must be zeros, unless --force is given.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The image to create: a new file (none that exists is replaced), or a block device
    pub(crate) image: PathBuf,
    /// The base: a raw file, a block device, or another dscow image
    #[arg(long)]
    base: Option<PathBuf>,
    /// What the base is
    #[arg(long, value_enum, default_value = "detect", requires = "base")]
    base_format: BaseFormat,
    /// Size of the disk, such as 10G; the base's if not given
    #[arg(long, value_parser = size::parse)]
    size: Option<u64>,
    /// Size of a block, from 4K to 2M
    #[arg(long, value_parser = parse_block_size, default_value = "4K")]
    block_size: BlockSize,
    /// How far the disk can grow later: `none`, `generous` (4 TiB, or twice its size), or a size. Costs nothing in a
    /// file; on a device it takes 32 MiB for each TiB at blocks of 4 KiB [default: generous in a file, none on a device]
    #[arg(long, value_parser = parse_headroom)]
    headroom: Option<Headroom>,
    /// What happens when the host runs out of space under a guest: it waits until there is some, or its writes fail
    #[arg(long, value_enum, default_value = "pause")]
    on_enospc: OnEnospc,
    /// Logical sector size that guests see, in bytes. A disk that was partitioned with one does not work with the other
    #[arg(long, value_parser = ["512", "4096"], default_value = "512")]
    sector_size: String,
    /// How storage is taken in a file: `extent-hint` has XFS take it in pieces of 64 KiB; nothing else makes a difference
    /// to a new image
    #[arg(long, value_name = "STRATEGY", default_value = "auto")]
    allocation: SpaceStrategy,
    /// Use a block device that is not empty; what it holds is lost
    #[arg(long)]
    force: bool,
    /// Print the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum OnEnospc {
    Pause,
    Report,
}

fn parse_headroom(text: &str) -> Result<Headroom, String> {
    match text {
        "none" => Ok(Headroom::Exact),
        "generous" => Ok(Headroom::Generous),
        size => size::parse(size).map(Headroom::UpTo),
    }
}

pub(super) fn parse_block_size(text: &str) -> Result<BlockSize, String> {
    BlockSize::from_bytes(size::parse(text)?)
        .ok_or_else(|| "must be a power of two between 4K and 2M".to_owned())
}

pub(crate) fn run(args: &Args) -> CommandResult {
    let options = CreateOptions {
        base: args.base.clone(),
        base_format: args.base_format.into(),
        size: args.size,
        block_size: args.block_size,
        headroom: args.headroom,
        report_no_space: args.on_enospc == OnEnospc::Report,
        large_sectors: args.sector_size == "4096",
        space: args.allocation,
        force: args.force,
    };
    let header = image::create(&args.image, &options)?;
    let virtual_size = header.layout.virtual_size();
    if args.json {
        print_json(&json!({
            "image": output::path(&args.image),
            "uuid": header.uuid,
            "virtual_size_bytes": virtual_size,
            "block_size_bytes": args.block_size.bytes(),
            "sector_size_bytes": header.sector_size(),
            "largest_virtual_size_bytes": header.layout.largest_disk_of_bitmap(),
            "base": header.parent.as_ref().map(|parent| output::path(parent.path())),
        }))?;
    } else {
        let base = header.parent.as_ref().map_or_else(
            || "without a base".to_owned(),
            |parent| format!("over {}", parent.path().display()),
        );
        print_line(&format!(
            "{}: created, {}, {base}",
            args.image.display(),
            size::display(virtual_size)
        ))?;
    }
    Ok(Outcome::Done)
}
