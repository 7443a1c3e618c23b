//! `cowback tree`

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use blockio::image::{self, Content, ImageError};
use control_api::Disk;

use crate::client::{Client, SocketArg};
use crate::error::{CommandError, CommandResult, Outcome};
use crate::forest::{Forest, Node};
use crate::output::{Output, print_json};
use dscow::size;

/// Show bases and the images over them as trees
///
/// Of each disk: how large it is for a guest, and what its own file takes on the host's disk; or why it cannot be looked at,
/// and the exit code is 3 then. Of a directory, files that are no images are left out.
///
/// Example: cowback tree /images
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Images, and directories of images; those that the running daemon serves if there are none
    paths: Vec<PathBuf>,
    #[command(flatten)]
    socket: SocketArg,
    /// Print the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

pub(crate) fn run(args: &Args) -> CommandResult {
    let forest = grow(&images(args)?);
    if args.json {
        print_json(&forest.as_json())?;
    } else {
        print_text(&forest)?;
    }
    Ok(if forest.has_problems() {
        Outcome::ProblemsFound
    } else {
        Outcome::Done
    })
}

fn print_text(forest: &Forest) -> Result<(), CommandError> {
    let mut output = Output::stdout();
    let size = |bytes: Option<u64>| bytes.map_or_else(|| "-".to_owned(), size::display);
    output.line(&format!("{:>10}  {:>10}  DISK", "SIZE", "TAKES"))?;
    for (before, path, node) in forest.lines() {
        let (virtual_size, storage) = (size(node.virtual_size), size(node.storage));
        let format = if node.format == "raw" { " (raw)" } else { "" };
        let problem = node.problem.as_ref();
        let problem = problem.map_or_else(String::new, |problem| format!(": {problem}"));
        let path = path.display();
        output.line(&format!(
            "{virtual_size:>10}  {storage:>10}  {before}{path}{format}{problem}"
        ))?;
    }
    output.finish()
}

/// The images that are asked for.
fn images(args: &Args) -> Result<Vec<PathBuf>, CommandError> {
    if args.paths.is_empty() {
        let disks: Vec<Disk> = Client::new(&args.socket).get("/v1/devices")?;
        let images = disks.into_iter().filter_map(|disk| disk.image);
        return Ok(images.map(PathBuf::from).collect());
    }
    let mut images = Vec::new();
    for path in &args.paths {
        if path.is_dir() {
            let found = images_in(path).map_err(|cause| ImageError::Io {
                path: path.clone(),
                action: "list",
                cause,
            })?;
            images.extend(found);
        } else {
            images.push(path.clone());
        }
    }
    Ok(images)
}

/// The images of a directory, and what cannot be told from one. What else is there is nobody's business.
fn images_in(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut images = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_file() && !matches!(image::header(&path), Err(ImageError::NotAnImage(_))) {
            images.push(path);
        }
    }
    Ok(images)
}

/// The trees that images are in, with all that lies below them. One that cannot be looked at stands alone, and keeps no
/// other from being shown.
fn grow(images: &[PathBuf]) -> Forest {
    let mut forest = Forest::default();
    for named in images {
        // One disk has one name here, by which path it was ever reached.
        let mut above = one_name(named);
        let found = match image::inspect(named) {
            Ok(found) => found,
            Err(cause) => {
                forest.add(above, unusable(named, &cause));
                continue;
            }
        };
        forest.add(
            above.clone(),
            Node {
                format: "dscow",
                virtual_size: Some(found.header.layout.virtual_size()),
                storage: Some(found.storage_bytes),
                problem: None,
            },
        );
        for below in &found.below {
            let path = one_name(&below.path);
            if !forest.has(&path) {
                forest.add(path.clone(), describe(&below.path, &below.content));
            }
            if !forest.put_over(path.clone(), above.clone()) {
                forest.note_problem(&above, ImageError::Cycle(path).to_string());
                break;
            }
            above = path;
        }
    }
    forest
}

fn unusable(path: &Path, cause: &ImageError) -> Node {
    // What is wrong may be in what comes after the header.
    let header = image::header(path).ok();
    Node {
        format: "dscow",
        virtual_size: header.map(|header| header.layout.virtual_size()),
        storage: None,
        problem: Some(cause.to_string()),
    }
}

fn one_name(path: &Path) -> PathBuf {
    fs::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}

fn describe(path: &Path, content: &Content) -> Node {
    let file = fs::metadata(path);
    let problem = match (content, &file) {
        (Content::Unknown(cause), _) => Some(cause.to_string()),
        (_, Err(cause)) => Some(cause.to_string()),
        _ => None,
    };
    let file = file.ok();
    let (format, virtual_size) = match content {
        Content::Raw => ("raw", file.as_ref().map(fs::Metadata::len)),
        Content::Image(header) => ("dscow", Some(header.layout.virtual_size())),
        Content::Unknown(_) => ("dscow", None),
    };
    Node {
        format,
        // Of a device, its node's length is not its size.
        virtual_size: virtual_size.filter(|size| *size > 0),
        storage: file
            .map(|file| file.blocks() * 512)
            .filter(|_| problem.is_none()),
        problem,
    }
}
