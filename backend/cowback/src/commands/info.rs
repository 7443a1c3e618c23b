//! `cowback info`

use std::path::PathBuf;

use blockio::image::{self, Below, Content, Inspection};
use dscow::header::State;
use serde_json::{Value, json};

use crate::error::{CommandError, CommandResult, Outcome};
use crate::output::{self, Output, print_json};
use dscow::size;

/// Show what an image is and how much it holds
///
/// Works while the image is in use; what it holds is then as of the last commit.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The image
    image: PathBuf,
    /// Print the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

pub(crate) fn run(args: &Args) -> CommandResult {
    let inspection = image::inspect(&args.image)?;
    if args.json {
        print_json(&as_json(args, &inspection))?;
    } else {
        print_text(args, &inspection)?;
    }
    Ok(Outcome::Done)
}

fn as_json(args: &Args, found: &Inspection) -> Value {
    let header = &found.header;
    let layout = &header.layout;
    json!({
        "image": output::path(&args.image),
        "format": "dscow",
        "version": dscow::header::VERSION,
        "uuid": header.uuid,
        "virtual_size_bytes": layout.virtual_size(),
        "block_size_bytes": layout.block_size().bytes(),
        "block_count": layout.block_count(),
        "sector_size_bytes": header.sector_size(),
        "allocated_blocks": found.allocated_blocks,
        "allocated_bytes": allocated_bytes(found),
        "storage_bytes": found.storage_bytes,
        "state": state(header.state),
        "generation": header.generation,
        "created_unix_seconds": header.created,
        "commit_under_way": header.commit_under_way,
        "base": header.parent.as_ref().map(|parent| json!({
            "path": output::path(parent.path()),
            "format": parent.format_name(),
            "size_bytes": parent.size(),
        })),
        "chain": found.below.iter().map(|below| output::path(&below.path)).collect::<Vec<_>>(),
    })
}

fn print_text(args: &Args, found: &Inspection) -> Result<(), CommandError> {
    let header = &found.header;
    let layout = &header.layout;
    let share = 100.0 * ratio(found.allocated_blocks, layout.block_count());
    let mut output = Output::stdout();
    let mut line = |label: &str, text: String| output.line(&format!("{label:14} {text}"));
    line("image:", args.image.display().to_string())?;
    let (version, block) = (dscow::header::VERSION, layout.block_size());
    line(
        "format:",
        format!("dscow version {version}, blocks of {block}"),
    )?;
    line("uuid:", header.uuid.to_string())?;
    line("state:", state(header.state).to_owned())?;
    let bytes = layout.virtual_size();
    line(
        "virtual size:",
        format!("{} ({bytes} bytes)", size::display(bytes)),
    )?;
    line(
        "sectors:",
        format!("{} bytes, as guests see them", header.sector_size()),
    )?;
    let bytes = size::display(allocated_bytes(found));
    let (allocated, count) = (found.allocated_blocks, layout.block_count());
    line(
        "allocated:",
        format!("{bytes} ({allocated} of {count} blocks, {share:.1} %)"),
    )?;
    line("takes on disk:", size::display(found.storage_bytes))?;
    if found.below.is_empty() {
        line("base:", "none".to_owned())?;
    }
    for (i, Below { path, content }) in found.below.iter().enumerate() {
        let label = if i == 0 { "base:" } else { "" };
        let format = match content {
            Content::Raw => "raw",
            Content::Image(_) | Content::Unknown(_) => "dscow",
        };
        line(label, format!("{} ({format})", path.display()))?;
        if let Content::Unknown(cause) = content {
            line("", format!("which cannot be looked at: {cause}"))?;
        }
    }
    if header.commit_under_way {
        let image = args.image.display();
        let finish = format!("finish it with: cowback commit --sole-overlay {image}");
        line("commit:", format!("under way into its base; {finish}"))?;
    }
    output.finish()
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
