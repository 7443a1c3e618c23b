//! `cowback info`

use std::path::PathBuf;

use blockio::image::{self, Inspection};
use dscow::header::State;
use serde_json::{Value, json};

use super::print_json;
use crate::error::{CommandResult, Outcome};
use crate::size;

/// Show what an image is and how much it holds
///
/// Works while the image is in use; what it holds is then as of the last commit.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The image
    image: PathBuf,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(args: &Args) -> CommandResult {
    let inspection = image::inspect(&args.image)?;
    if args.json {
        print_json(&as_json(args, &inspection))?;
    } else {
        print_text(args, &inspection);
    }
    Ok(Outcome::Done)
}

fn as_json(args: &Args, found: &Inspection) -> Value {
    let header = &found.header;
    let layout = &header.layout;
    json!({
        "image": args.image,
        "format": "dscow",
        "version": dscow::header::VERSION,
        "uuid": header.uuid,
        "virtual_size_bytes": layout.virtual_size(),
        "block_size_bytes": layout.block_size().bytes(),
        "block_count": layout.block_count(),
        "allocated_blocks": found.allocated_blocks,
        "allocated_bytes": allocated_bytes(found),
        "storage_bytes": found.storage_bytes,
        "state": state(header.state),
        "generation": header.generation,
        "created_unix_seconds": header.created,
        "commit_under_way": header.commit_under_way,
        "base": header.parent.as_ref().map(|parent| json!({
            "path": parent.path(),
            "format": parent.format_name(),
            "size_bytes": parent.size(),
        })),
        "chain": found.below.iter().map(|(path, _)| path).collect::<Vec<_>>(),
    })
}

fn print_text(args: &Args, found: &Inspection) {
    let header = &found.header;
    let layout = &header.layout;
    let share = 100.0 * ratio(found.allocated_blocks, layout.block_count());
    println!("image:         {}", args.image.display());
    println!(
        "format:        dscow version {}, blocks of {}",
        dscow::header::VERSION,
        layout.block_size()
    );
    println!("uuid:          {}", header.uuid);
    println!("state:         {}", state(header.state));
    println!(
        "virtual size:  {} ({} bytes)",
        size::display(layout.virtual_size()),
        layout.virtual_size()
    );
    println!(
        "allocated:     {} ({} of {} blocks, {share:.1} %)",
        size::display(allocated_bytes(found)),
        found.allocated_blocks,
        layout.block_count()
    );
    println!("takes on disk: {}", size::display(found.storage_bytes));
    if found.below.is_empty() {
        println!("base:          none");
    }
    for (i, (path, header)) in found.below.iter().enumerate() {
        let label = if i == 0 { "base:" } else { "" };
        let format = header.as_ref().map_or("raw", |_| "dscow");
        println!("{label:14} {} ({format})", path.display());
    }
    if header.commit_under_way {
        println!("commit:        under way into its base; finish it with cowback commit");
    }
}

fn allocated_bytes(found: &Inspection) -> u64 {
    found.allocated_blocks << found.header.layout.block_size().shift()
}

fn state(state: State) -> &'static str {
    match state {
        State::Clean { .. } => "clean",
        State::InUse { .. } => "in use",
    }
}

/// Precise enough for a percentage.
#[allow(clippy::cast_precision_loss)]
fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole as f64
}
