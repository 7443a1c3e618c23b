//! `cowback resize`

use std::path::PathBuf;

use blockio::{image, offline};
use serde_json::json;

use crate::error::{CommandError, CommandResult, Outcome};
use crate::output::{self, print_json, print_line};
use crate::size;

/// Make the disk of an image larger
///
/// What is new reads as zeros, also where the base is larger. The image must not be in use. Its bitmap must have room for
/// the new size (`cowback create --headroom`), and so must its device if it is on one. Disks cannot be made smaller.
///
/// May be interrupted at any moment, also by a crash of the host, and begun again.
///
/// Example: cowback resize /images/vm1.cow +10G
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The image
    pub(crate) image: PathBuf,
    /// The new size, such as 20G, or by how much it grows, such as +10G
    #[arg(value_parser = parse_change)]
    size: Change,
    /// Print the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// A size as it is to become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    To(u64),
    By(u64),
}

fn parse_change(text: &str) -> Result<Change, String> {
    match text.strip_prefix('+') {
        Some(more) => size::parse(more).map(Change::By),
        None => size::parse(text).map(Change::To),
    }
}

pub(crate) fn run(args: &Args) -> CommandResult {
    let size = match args.size {
        Change::To(size) => size,
        Change::By(more) => {
            let before = image::inspect(&args.image)?.header.layout.virtual_size();
            let sum = before.checked_add(more);
            sum.ok_or_else(|| CommandError::Usage("the size is too large".to_owned()))?
        }
    };
    let done = offline::resize(&args.image, size)?;
    if args.json {
        print_json(&json!({
            "image": output::path(&args.image),
            "virtual_size_bytes_before": done.before,
            "virtual_size_bytes": done.after,
        }))?;
    } else {
        let (before, after) = (size::display(done.before), size::display(done.after));
        print_line(&format!("{}: {after}, was {before}", args.image.display()))?;
    }
    Ok(Outcome::Done)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_absolute_or_a_difference() {
        assert_eq!(parse_change("20G"), Ok(Change::To(20 << 30)));
        assert_eq!(parse_change("+1M"), Ok(Change::By(1 << 20)));
        assert!(parse_change("-1M").is_err());
        assert!(parse_change("++1M").is_err());
    }
}
