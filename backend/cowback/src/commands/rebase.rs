//! `cowback rebase`

use std::path::{Path, PathBuf};

use blockio::image;
use blockio::offline::{self, Rebased};
use serde_json::json;

use super::BaseFormat;
use crate::error::{CommandError, CommandResult, Outcome};
use crate::output::{self, print_json, print_line};
use crate::progress::ProgressArgs;
use dscow::size;

/// Give an overlay another base, or none, without changing its content
///
/// What differs between the old base and the new is copied into the overlay first; what they share (a common base
/// further down) is not read. May be interrupted at any moment: the overlay has its old base then, and its content.
///
/// With --unsafe the base is only recorded, without looking at its content: for a base that was moved, copied or
/// touched. If its content is not what it was, the disk is corrupt from then on.
///
/// Images that stand on this one notice that it was written; record it anew in each, with rebase --unsafe.
///
/// Examples: cowback rebase --base /images/debian-13.1.img /images/vm1.cow;
/// cowback rebase --no-base /images/vm1.cow
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The overlay
    pub(crate) image: PathBuf,
    /// The new base
    #[arg(long, required_unless_present = "no_base", conflicts_with = "no_base")]
    base: Option<PathBuf>,
    /// What the base is
    #[arg(long, value_enum, default_value = "detect")]
    base_format: BaseFormat,
    /// Copy all that the overlay does not hold into it, so that it needs no base any more
    #[arg(long)]
    no_base: bool,
    /// Only record the base: confirms that its content is the same
    #[arg(long = "unsafe", conflicts_with = "no_base")]
    unchecked: bool,
    #[command(flatten)]
    progress: ProgressArgs,
    /// Print the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

pub(crate) fn run(args: &Args) -> CommandResult {
    let done = match &args.base {
        Some(base) if args.unchecked => {
            let parent = image::identify_parent(base, args.base_format.into())?;
            image::record_parent(&args.image, parent)?;
            Rebased::default()
        }
        base => {
            let base = base.as_deref().map(|base| (base, args.base_format.into()));
            offline::rebase(
                &args.image,
                base,
                args.progress.reporter(args.json).as_mut(),
            )?
        }
    };
    report(args, done)?;
    Ok(Outcome::Done)
}

fn report(args: &Args, done: Rebased) -> Result<(), CommandError> {
    let parent = image::inspect(&args.image)?.header.parent;
    let base = parent
        .as_ref()
        .map(|parent| (parent.path(), parent.format_name()));
    if args.json {
        let base =
            base.map(|(path, format)| json!({ "path": output::path(path), "format": format }));
        return print_json(&json!({
            "image": output::path(&args.image),
            "base": base,
            "compared_bytes": done.compared_bytes,
            "copied_bytes": done.copied_bytes,
        }));
    }
    let now =
        |(path, format): (&Path, &str)| format!("its base is now {} ({format})", path.display());
    let now = base.map_or_else(|| "it has no base any more".to_owned(), now);
    let copied = if args.unchecked {
        String::new()
    } else {
        format!("; {} copied into it", size::display(done.copied_bytes))
    };
    print_line(&format!("{}: {now}{copied}", args.image.display()))
}
