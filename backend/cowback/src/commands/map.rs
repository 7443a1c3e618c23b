//! `cowback map`

use std::path::{Path, PathBuf};

use blockio::extents::{DiskExtent, DiskExtents};
use blockio::image::ImageError;
use blockio::offline::Volume;
use dscow::units::DiskRange;
use serde_json::{Value, json};

use super::BaseFormat;
use crate::error::{CommandError, CommandResult, Outcome};
use crate::output::{self, JsonList, Output};
use crate::picture::{COLUMNS_MAX, Cell, Holder, Picture, Style, columns_of_stdout};
use crate::replace;
use dscow::size;

/// Show which image of a chain holds what of the disk
///
/// Prints one line for each range: where it starts, how long it is, which image holds it (0 is the image itself, 1 its
/// base, and so on; - if none does), and whether it is data or zeros. Ranges of zeros take no storage. Data may be zeros
/// too; it is not read.
///
/// Examples: cowback map /images/vm1.cow --picture; cowback map --picture vm1.svg /images/vm1.cow
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The image, or a raw disk
    image: PathBuf,
    /// What it is
    #[arg(long, value_enum, default_value = "detect")]
    format: BaseFormat,
    /// Draw the disk instead: as a grid as wide as the terminal, or into a file
    #[arg(long, conflicts_with = "json", num_args = 0..=1, value_name = "FILE.svg")]
    picture: Option<Option<PathBuf>>,
    /// Print the ranges as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

pub(crate) fn run(args: &Args) -> CommandResult {
    if let Some(Some(file)) = &args.picture
        && !is_svg(file)
    {
        return Err(CommandError::Usage(format!(
            "{}: a picture is written to a file whose name ends in .svg; to draw on the terminal, put --picture last",
            file.display()
        )));
    }
    let volume = Volume::open(&args.image, args.format.into())?;
    let extents = volume.map().extents(DiskRange::new(0, volume.size()));
    if args.json {
        print_json(args, &volume, extents)?;
        return Ok(Outcome::Done);
    }
    match &args.picture {
        Some(Some(file)) => write_picture(args, file, &volume, extents)?,
        Some(None) => print_picture(args, &volume, extents)?,
        None => print_table(args, &volume, extents)?,
    }
    Ok(Outcome::Done)
}

fn each(
    args: &Args,
    extents: DiskExtents<'_>,
    mut visit: impl FnMut(&DiskExtent) -> Result<(), CommandError>,
) -> Result<(), CommandError> {
    for extent in extents {
        let extent = extent.map_err(|cause| ImageError::Io {
            path: args.image.clone(),
            action: "find out where it has data",
            cause,
        })?;
        visit(&extent)?;
    }
    Ok(())
}

fn print_table(args: &Args, volume: &Volume, extents: DiskExtents<'_>) -> Result<(), CommandError> {
    let mut output = Output::with_heading(&format!(
        "{:>16}  {:>16}  {:>5}  {:4}  FILE",
        "START", "LENGTH", "DEPTH", "WHAT"
    ));
    let layers: Vec<&Path> = volume.layers().collect();
    each(args, extents, |extent| {
        let depth = extent.depth();
        output.line(&format!(
            "{:>16}  {:>16}  {:>5}  {:4}  {}",
            extent.range.start.0,
            extent.range.len,
            depth.map_or_else(|| "-".to_owned(), |depth| depth.to_string()),
            if extent.zero { "zero" } else { "data" },
            depth.map_or(String::from("-"), |depth| layers[depth]
                .display()
                .to_string()),
        ))
    })?;
    output.finish()
}

fn print_json(args: &Args, volume: &Volume, extents: DiskExtents<'_>) -> Result<(), CommandError> {
    let layers: Vec<Value> = volume
        .layers()
        .enumerate()
        .map(|(depth, path)| json!({ "depth": depth, "path": output::path(path) }))
        .collect();
    let members = json!({
        "image": output::path(&args.image),
        "virtual_size_bytes": volume.size(),
        "layers": layers,
    });
    let mut list = JsonList::stdout(&members, "extents")?;
    let result = each(args, extents, |extent| {
        list.item(&json!({
            "start": extent.range.start.0,
            "length": extent.range.len,
            "depth": extent.depth(),
            "zero": extent.zero,
            "offset": extent.holder.map(|(_, offset)| offset.0),
        }))
    });
    list.finish(result)
}

/// A disk as a picture, with what there is of each kind.
struct Drawing {
    picture: Picture,
    top: u64,
    below: u64,
}

impl Drawing {
    fn of(
        args: &Args,
        volume: &Volume,
        extents: DiskExtents<'_>,
        columns: u64,
    ) -> Result<Self, CommandError> {
        let mut picture = Picture::new(volume.size(), columns);
        let (mut top, mut below) = (0, 0);
        each(args, extents, |extent| {
            let (start, len) = (extent.range.start.0, extent.range.len);
            match extent.depth() {
                Some(0) if !extent.zero => {
                    picture.add(start, len, Holder::Top);
                    top += len;
                }
                Some(_) if !extent.zero => {
                    picture.add(start, len, Holder::Below);
                    below += len;
                }
                _ => {}
            }
            Ok(())
        })?;
        Ok(Self {
            picture,
            top,
            below,
        })
    }
}

fn print_picture(
    args: &Args,
    volume: &Volume,
    extents: DiskExtents<'_>,
) -> Result<(), CommandError> {
    let style = Style::for_stdout();
    let Drawing {
        picture,
        top,
        below,
    } = Drawing::of(args, volume, extents, columns_of_stdout())?;
    let mut output = Output::stdout();
    for row in picture.rows(style) {
        output.line(&row)?;
    }
    let sample = |cell: Cell| cell.sample(style);
    output.line(&format!(
        "{} half or more of {}, {} less: {} in {}",
        sample(Cell::Top),
        size::display(picture.cell_bytes()),
        sample(Cell::SomeTop),
        size::display(top),
        args.image.display(),
    ))?;
    output.line(&format!(
        "{} half or more, {} less, and nothing of the above: {} in images below",
        sample(Cell::Below),
        sample(Cell::SomeBelow),
        size::display(below),
    ))?;
    output.line(&format!(
        "{} zeros: {}",
        sample(Cell::Zero),
        size::display(volume.size() - top - below)
    ))?;
    output.finish()
}

/// Whether a file may be written as a picture: one that is named by mistake may be an image.
fn is_svg(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "svg")
}

fn write_picture(
    args: &Args,
    to: &Path,
    volume: &Volume,
    extents: DiskExtents<'_>,
) -> Result<(), CommandError> {
    let Drawing {
        picture,
        top,
        below,
    } = Drawing::of(args, volume, extents, COLUMNS_MAX)?;
    let image = args.image.display().to_string();
    let cell = size::display(picture.cell_bytes());
    let legend = [
        (
            Cell::Top,
            format!(
                "half or more of {cell} is in {image}: {} together with what is less",
                size::display(top)
            ),
        ),
        (Cell::SomeTop, "less than half".to_owned()),
        (
            Cell::Below,
            format!(
                "half or more is in images below: {} together with what is less",
                size::display(below)
            ),
        ),
        (Cell::SomeBelow, "less than half".to_owned()),
        (
            Cell::Zero,
            format!("zeros: {}", size::display(volume.size() - top - below)),
        ),
    ];
    replace::with(to, picture.svg(&image, &legend).as_bytes()).map_err(|cause| {
        CommandError::Image(ImageError::Io {
            path: to.to_owned(),
            action: "write",
            cause,
        })
    })
}
