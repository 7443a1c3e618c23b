//! `cowback convert`

use std::path::PathBuf;

use blockio::image::CreateOptions;
use blockio::offline::{self, Target};
use dscow::units::BlockSize;
use serde_json::json;

use super::BaseFormat;
use super::create::parse_block_size;
use crate::error::{CommandError, CommandResult, Outcome};
use crate::output::{self, print_json, print_line};
use crate::progress::ProgressArgs;
use dscow::size;

/// Copy a disk into another format, or into one image without its chain
///
/// Holes stay holes, and data that is zeros becomes holes too. A new file appears under its name only when it is complete,
/// also if the command is killed or the host crashes. On a device an interruption leaves part of the disk; give
/// the command again with --force.
///
/// Other formats (qcow2, VHD, VMDK) go through qemu-img and `cowback export`, see the operations manual.
///
/// Examples: cowback convert /images/vm1.cow vm1.img;
/// cowback convert --format dscow --base /images/debian.img vm1.img /images/vm1.cow
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The disk to copy: an image with all that is below it, or a raw file or device
    source: PathBuf,
    /// The new file, which must not exist yet; or a block device
    pub(crate) destination: PathBuf,
    /// What the source is
    #[arg(long, value_enum, default_value = "detect")]
    source_format: BaseFormat,
    /// What to make of it
    #[arg(long, value_enum, default_value = "raw")]
    format: DestinationFormat,
    /// Make an overlay of this base, which holds only what differs from it
    #[arg(long)]
    base: Option<PathBuf>,
    /// What the base is
    #[arg(long, value_enum, default_value = "detect", requires = "base")]
    base_format: BaseFormat,
    /// Size of a block of a dscow image, from 4K to 2M
    #[arg(long, value_parser = parse_block_size, default_value = "4K")]
    block_size: BlockSize,
    /// Write data that is zeros as data
    #[arg(long)]
    keep_zeroes: bool,
    /// Write to a device also if that holds something, which is lost then
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    progress: ProgressArgs,
    /// Print the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// What a disk becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum DestinationFormat {
    /// A raw file or device
    Raw,
    /// A dscow image
    Dscow,
}

pub(crate) fn run(args: &Args) -> CommandResult {
    let target = target(args)?;
    let done = offline::convert(
        (&args.source, args.source_format.into()),
        &args.destination,
        &target,
        !args.keep_zeroes,
        args.progress.reporter(args.json).as_mut(),
    )?;
    if args.json {
        print_json(&json!({
            "source": output::path(&args.source),
            "destination": output::path(&args.destination),
            "virtual_size_bytes": done.virtual_size,
            "read_bytes": done.read_bytes,
            "written_bytes": done.written_bytes,
        }))?;
    } else {
        print_line(&format!(
            "{}: {} of disk, {} written",
            args.destination.display(),
            size::display(done.virtual_size),
            size::display(done.written_bytes)
        ))?;
    }
    Ok(Outcome::Done)
}

fn target(args: &Args) -> Result<Target, CommandError> {
    match args.format {
        DestinationFormat::Raw if args.base.is_some() => Err(CommandError::Usage(
            "a raw disk has no base; add --format dscow".to_owned(),
        )),
        DestinationFormat::Raw => Ok(Target::Raw { force: args.force }),
        DestinationFormat::Dscow => Ok(Target::Dscow(CreateOptions {
            base: args.base.clone(),
            base_format: args.base_format.into(),
            block_size: args.block_size,
            force: args.force,
            ..CreateOptions::default()
        })),
    }
}
