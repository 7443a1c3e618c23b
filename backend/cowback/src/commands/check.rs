//! `cowback check`

use std::path::PathBuf;

use blockio::image;
use serde_json::json;

use super::print_json;
use crate::error::{CommandResult, Outcome};

/// Check an image: header, bitmap, length, and that its base is what it was
///
/// Exits with 0 if all is well and with 3 if something is wrong. The image must not be in use.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The image
    image: PathBuf,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> CommandResult {
    let report = image::check(&args.image)?;
    let problems: Vec<String> = report.problems.iter().map(ToString::to_string).collect();
    if args.json {
        print_json(&json!({
            "image": args.image,
            "clean": problems.is_empty(),
            "problems": problems,
            "closed_cleanly": report.closed_cleanly,
            "allocated_blocks": report.allocated_blocks,
            "block_count": report.block_count,
        }))?;
    } else if problems.is_empty() {
        let closed = if report.closed_cleanly {
            "closed cleanly"
        } else {
            "not closed cleanly, which loses nothing that was flushed"
        };
        println!(
            "{}: clean ({} of {} blocks allocated; {closed})",
            args.image.display(),
            report.allocated_blocks,
            report.block_count
        );
    } else {
        for problem in &problems {
            println!("{problem}");
        }
    }
    Ok(if problems.is_empty() {
        Outcome::Done
    } else {
        Outcome::ProblemsFound
    })
}
