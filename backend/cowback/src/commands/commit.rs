//! `cowback commit`

use std::path::PathBuf;

use blockio::{image, offline};
use serde_json::json;

use crate::error::{CommandResult, Outcome};
use crate::output::{self, print_json, print_line};
use crate::progress::ProgressArgs;
use dscow::size;

/// Write all that an overlay holds to its base, and empty the overlay
///
/// The base is changed: it shows then what the overlay showed. EVERY OTHER OVERLAY OF THIS BASE IS LOST, since what
/// it does not hold itself is overwritten. Overlays in use, and those in the folders of the image and of the
/// base, are noticed and named; others cannot be known. Copy the base before, if in doubt.
///
/// May be interrupted at any moment, also by a crash of the host: the overlay shows what it did and can be used, and the
/// same command goes on. Until it is done the base shows a mixture.
///
/// Example: cowback commit --sole-overlay /images/vm1.cow
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The overlay
    pub(crate) image: PathBuf,
    /// Confirms that no other overlay of the base is needed
    #[arg(long, required = true)]
    sole_overlay: bool,
    #[command(flatten)]
    progress: ProgressArgs,
    /// Print the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

pub(crate) fn run(args: &Args) -> CommandResult {
    let done = offline::commit(&args.image, args.progress.reporter(args.json).as_mut())?;
    let parent = image::inspect(&args.image)?.header.parent;
    let base = parent.as_ref().map(dscow::parent::Parent::path);
    if args.json {
        print_json(&json!({
            "image": output::path(&args.image),
            "base": base.map(output::path),
            "written_bytes": done.written_bytes,
        }))?;
    } else {
        print_line(&format!(
            "{}: {} written to {}; the overlay is empty now",
            args.image.display(),
            size::display(done.written_bytes),
            base.map_or_else(|| "its base".to_owned(), |base| base.display().to_string())
        ))?;
    }
    Ok(Outcome::Done)
}
