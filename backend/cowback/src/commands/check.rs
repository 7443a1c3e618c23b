//! `cowback check`

use std::path::PathBuf;

use blockio::image::{self, CheckReport, Problem, RepairReport};
use serde_json::{Value, json};

use crate::error::{CommandError, CommandResult, Outcome};
use crate::output::{self, Output, print_json};
use dscow::size;

/// Check an image: header, bitmap, length, and that its base is what it was
///
/// Exits with 0 if all is well, also if it is so after a repair, and with 3 if something is wrong, or is left after a
/// repair. Nobody may have the image open for writing meanwhile; with --repair nobody may have it open at all.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The image
    pub(crate) image: PathBuf,
    /// Repair what can be repaired without guessing. Also marks an image as closed that a crash has left in use, and
    /// gives back the storage of writes that a crash cut off. If anything else is wrong with the image itself, nothing is
    /// changed
    #[arg(long)]
    pub(crate) repair: bool,
    /// Print the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

pub(crate) fn run(args: &Args) -> CommandResult {
    let report = if args.repair {
        image::repair(&args.image)?
    } else {
        RepairReport {
            found: Vec::new(),
            repaired: Vec::new(),
            now: image::check(&args.image)?,
        }
    };
    if args.json {
        print_json(&as_json(args, &report))?;
    } else {
        print_text(args, &report)?;
    }
    Ok(if report.now.problems.is_empty() {
        Outcome::Done
    } else {
        Outcome::ProblemsFound
    })
}

fn as_json(args: &Args, report: &RepairReport) -> Value {
    let now = &report.now;
    let texts = |problems: &[Problem]| problems.iter().map(ToString::to_string).collect::<Vec<_>>();
    let mut value = json!({
        "image": output::path(&args.image),
        "clean": now.problems.is_empty(),
        "problems": texts(&now.problems),
        "repairable": is_repairable(now),
        "closed_cleanly": now.closed_cleanly,
        "allocated_blocks": now.allocated_blocks,
        "block_count": now.block_count,
        "leftover_bytes": now.leftover_bytes,
    });
    if args.repair {
        let repaired = report.repaired.iter().map(ToString::to_string);
        value["repaired"] = json!(repaired.collect::<Vec<_>>());
        value["problems_before"] = json!(texts(&report.found));
    }
    value
}

fn print_text(args: &Args, report: &RepairReport) -> Result<(), CommandError> {
    let mut output = Output::stdout();
    let (image, now) = (args.image.display(), &report.now);
    for problem in &report.found {
        output.line(&format!("found: {problem}"))?;
    }
    for repair in &report.repaired {
        output.line(&format!("repaired: {repair}"))?;
    }
    if now.problems.is_empty() {
        let closed = if now.closed_cleanly {
            "closed cleanly"
        } else {
            "not closed cleanly, which loses nothing that was flushed"
        };
        output.line(&format!(
            "{image}: clean ({} of {} blocks allocated; {closed})",
            now.allocated_blocks, now.block_count
        ))?;
        if now.leftover_bytes > 0 {
            let bytes = size::display(now.leftover_bytes);
            output.line(&format!(
                "{bytes} of writes that a crash cut off take space: --repair gives it back"
            ))?;
        }
        return output.finish();
    }
    for problem in &now.problems {
        output.line(&problem.to_string())?;
    }
    if is_repairable(now) {
        output.line(&format!(
            "{image}: all of this can be repaired without loss, with --repair"
        ))?;
    }
    output.finish()
}

fn is_repairable(report: &CheckReport) -> bool {
    !report.problems.is_empty() && report.problems.iter().all(Problem::is_repairable)
}
