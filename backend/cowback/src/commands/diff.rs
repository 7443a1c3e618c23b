//! `cowback diff`

use std::path::PathBuf;

use blockio::image::ImageError;
use blockio::offline::{self, Comparison, Difference};
use serde_json::json;

use super::BaseFormat;
use crate::error::{CommandError, CommandResult, Outcome};
use crate::output::{self, JsonList, Output};
use crate::progress::ProgressArgs;

/// Show where two disks differ: an overlay and its base, or two overlays
///
/// Goes by the bitmaps, and reads no data: what both disks have from the same place is the same, and what either has
/// of its own counts as different. With --compare such ranges are read, and only those are shown whose content
/// differs, in units of 4 KiB. The shorter disk is taken to go on in zeros. `zero` says that the first disk has zeros.
///
/// Exits with 0, whether they differ or not, unless --exit-code is given.
///
/// Example: cowback diff /images/vm1.cow /images/debian.img
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The disk as it is now
    first: PathBuf,
    /// The disk that it is compared with
    second: PathBuf,
    /// What the first is
    #[arg(long, value_enum, default_value = "detect")]
    first_format: BaseFormat,
    /// What the second is
    #[arg(long, value_enum, default_value = "detect")]
    second_format: BaseFormat,
    /// Read and compare what the bitmaps leave open
    #[arg(long)]
    compare: bool,
    /// Exit with 4 if they differ
    #[arg(long)]
    exit_code: bool,
    #[command(flatten)]
    progress: ProgressArgs,
    /// Print the ranges as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

pub(crate) fn run(args: &Args) -> CommandResult {
    let differences = if args.json {
        print_as_json(args)?
    } else {
        print_table(args)?
    };
    Ok(if args.exit_code && differences > 0 {
        Outcome::Different
    } else {
        Outcome::Done
    })
}

fn print_table(args: &Args) -> Result<u64, CommandError> {
    let mut output = Output::with_heading(&format!("{:>16}  {:>16}  WHAT", "START", "LENGTH"));
    let count = each(args, |found| {
        output.line(&format!(
            "{:>16}  {:>16}  {}",
            found.range.start.0,
            found.range.len,
            if found.zero { "zero" } else { "data" }
        ))
    })?;
    output.finish()?;
    Ok(count)
}

fn print_as_json(args: &Args) -> Result<u64, CommandError> {
    let members = json!({
        "first": output::path(&args.first),
        "second": output::path(&args.second),
        "compared": args.compare,
    });
    let mut list = JsonList::stdout(&members, "differences")?;
    let result = each(args, |found| {
        list.item(&json!({
            "start": found.range.start.0,
            "length": found.range.len,
            "zero": found.zero,
        }))
    });
    list.finish(result)
}

/// Visits all differences, and counts them.
fn each(
    args: &Args,
    mut visit: impl FnMut(&Difference) -> Result<(), CommandError>,
) -> Result<u64, CommandError> {
    let comparison = if args.compare {
        Comparison::Content
    } else {
        Comparison::Holders
    };
    let mut count = 0;
    // The work knows errors of images only; what was wrong with the output is kept here, and ends it.
    let mut broken = None;
    let result = offline::diff(
        (&args.first, args.first_format.into()),
        (&args.second, args.second_format.into()),
        comparison,
        args.progress.reporter(args.json).as_mut(),
        &mut |found| {
            count += 1;
            visit(&found).map_err(|error| {
                broken = Some(error);
                ImageError::Stopped
            })
        },
    );
    broken.map_or(Ok(()), Err)?;
    result?;
    Ok(count)
}
