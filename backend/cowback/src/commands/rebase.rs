//! `cowback rebase --unsafe`

use std::path::PathBuf;

use blockio::image;
use serde_json::json;

use super::{BaseFormat, print_json};
use crate::error::{CommandResult, Outcome};

/// Record a base anew, without looking at its content
///
/// For a base that was moved, copied or touched. If its content is not what it was when the overlay was
/// made, the disk is corrupt from then on.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The overlay
    image: PathBuf,
    /// Its base
    #[arg(long)]
    base: PathBuf,
    /// What the base is
    #[arg(long, value_enum, default_value = "detect")]
    base_format: BaseFormat,
    /// Confirms that the content of the base is the same
    #[arg(long = "unsafe", required = true)]
    confirmed: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> CommandResult {
    let parent = image::identify_parent(&args.base, args.base_format.into())?;
    let (base, format) = (parent.path().to_owned(), parent.format_name());
    image::record_parent(&args.image, parent)?;
    if args.json {
        print_json(&json!({ "image": args.image, "base": { "path": base, "format": format } }))?;
    } else {
        println!(
            "{}: its base is now {} ({format})",
            args.image.display(),
            base.display()
        );
    }
    Ok(Outcome::Done)
}
