//! `cowback resize`

use std::path::{Path, PathBuf};

use blockio::{image, offline};
use serde::Deserialize;
use serde_json::json;

use crate::client::{Client, ClientError};
use crate::error::{CommandError, CommandResult, Outcome};
use crate::output::{self, print_json, print_line};
use crate::waiting_guest::RuntimeDirArg;
use dscow::size;

/// Make the disk of an image larger
///
/// What is new reads as zeros, also where the base is larger. If a guest uses the disk, the daemon that serves it is asked to
/// make it larger and to tell the guest; nobody else may be using the image. Its bitmap must have room for the new size
/// (`cowback create --headroom`), and so must its device if it is on one. Disks cannot be made smaller.
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

/// What became of a disk.
struct Resized {
    before: u64,
    after: u64,
    /// The device that a guest uses it by.
    device: Option<String>,
}

/// The daemon's answer.
#[derive(Deserialize)]
struct Answer {
    device: String,
    virtual_size_bytes_before: u64,
    virtual_size_bytes: u64,
}

pub(crate) fn run(args: &Args, runtime_dir: &RuntimeDirArg) -> CommandResult {
    let size = match args.size {
        Change::To(size) => size,
        Change::By(more) => {
            let before = image::inspect(&args.image)?.header.layout.virtual_size();
            let sum = before.checked_add(more);
            sum.ok_or_else(|| CommandError::Usage("the size is too large".to_owned()))?
        }
    };
    let done = match resize_in_use(&args.image, size, runtime_dir)? {
        Some(done) => done,
        None => resize_offline(&args.image, size)?,
    };
    if args.json {
        print_json(&json!({
            "image": output::path(&args.image),
            "device": done.device,
            "virtual_size_bytes_before": done.before,
            "virtual_size_bytes": done.after,
        }))?;
    } else {
        let (before, after) = (size::display(done.before), size::display(done.after));
        let device = done.device.map(|device| format!(", in use as {device}"));
        print_line(&format!(
            "{}: {after}, was {before}{}",
            args.image.display(),
            device.unwrap_or_default()
        ))?;
    }
    Ok(Outcome::Done)
}

/// Asks the daemon to make the disk larger; `None` if it does not serve this image, or there is none.
///
/// It is asked first: while it is being restarted, nobody has the image of a guest that waits for it locked, and to open the
/// image then would cost that guest its disk.
fn resize_in_use(
    image: &Path,
    size: u64,
    runtime_dir: &RuntimeDirArg,
) -> Result<Option<Resized>, CommandError> {
    let path = std::path::absolute(image).unwrap_or_else(|_| image.to_owned());
    // A path that is no text cannot be in the request.
    let Some(text) = path.to_str() else {
        return Ok(None);
    };
    let body = json!({ "image": text, "virtual_size_bytes": size });
    match Client::at(&runtime_dir.socket()).post("/v1/resize", &body) {
        Ok(Answer {
            device,
            virtual_size_bytes_before: before,
            virtual_size_bytes: after,
        }) => Ok(Some(Resized {
            before,
            after,
            device: Some(device),
        })),
        Err(ClientError::NotFound(_)) => Ok(None),
        Err(cause @ ClientError::Connect { .. }) if runtime_dir.has_left_guests() => {
            let image = image.to_owned();
            Err(CommandError::GuestsMayWait { image, cause })
        }
        Err(ClientError::Connect { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn resize_offline(image: &Path, size: u64) -> Result<Resized, CommandError> {
    let offline::Resized { before, after } = offline::resize(image, size)?;
    Ok(Resized {
        before,
        after,
        device: None,
    })
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
