//! `cowback show`

use control_api::{Disk, Latency, Statistics};
use serde_json::Value;

use crate::client::{Client, SocketArg};
use crate::disks::{self, display};
use crate::error::{CommandResult, Outcome};
use crate::output::{Output, print_json};
use dscow::size;

/// Show one disk that the running daemon serves, and how it is doing
///
/// Example: cowback show 5:xvda
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The disk: domain and name in the guest, such as 5:xvda, or its xenbus path
    disk: String,
    #[command(flatten)]
    socket: SocketArg,
    /// Print the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

pub(crate) fn run(args: &Args) -> CommandResult {
    let client = Client::new(&args.socket);
    let path = disks::api_path(&client, &args.disk)?;
    show(client.get(&path)?, args.json)
}

/// Shows what the daemon says of a disk.
pub(super) fn show(described: Value, json: bool) -> CommandResult {
    if json {
        print_json(&described)?;
    } else {
        let mut output = Output::stdout();
        for (label, text) in lines(&disks::read(described)?) {
            output.line(&format!("{label:14} {text}"))?;
        }
        output.finish()?;
    }
    Ok(Outcome::Done)
}

pub(super) fn lines(disk: &Disk) -> Vec<(&'static str, String)> {
    let mut lines = vec![
        ("disk:", format!("{} of domain {}", disk.vdev, disk.domid)),
        ("device:", disk.device.clone()),
        (
            "image:",
            disk.image.clone().unwrap_or_else(|| "-".to_owned()),
        ),
        ("state:", disk.state.clone()),
    ];
    if disk.read_only {
        lines.push(("", "read-only".to_owned()));
    }
    if !disk.connected {
        lines.push(("", "no guest uses its rings".to_owned()));
    }
    lines.extend(disk.reason.clone().map(|reason| ("reason:", reason)));
    if let Some(statistics) = &disk.statistics {
        lines.extend(of_image(statistics));
        lines.extend(of_requests(statistics));
    }
    lines
}

fn of_image(disk: &Statistics) -> Vec<(&'static str, String)> {
    let zeroes = if disk.detect_zeroes { "on" } else { "off" };
    vec![
        ("size:", size::display(disk.virtual_size_bytes)),
        ("allocated:", size::display(disk.allocated_bytes)),
        ("copied up:", format!("{} blocks", disk.copy_ups)),
        ("commits:", disk.commits.to_string()),
        ("on-enospc:", disk.on_enospc.as_str().to_owned()),
        (
            "no space:",
            format!(
                "{} writes wait, {} have waited",
                disk.waiting_for_space, disk.space_waits
            ),
        ),
        ("detect-zeroes:", zeroes.to_owned()),
    ]
}

fn of_requests(disk: &Statistics) -> Vec<(&'static str, String)> {
    let latency = &disk.latency;
    let kind = |count: u64, bytes: Option<u64>, latency: &Latency| {
        let bytes = bytes.map_or_else(String::new, |bytes| format!(", {}", size::display(bytes)));
        format!(
            "{count}{bytes}; {} on average, 99 of 100 within {}",
            display(latency.mean()),
            display(latency.quantile(990))
        )
    };
    vec![
        (
            "reads:",
            kind(disk.reads, Some(disk.read_bytes), &latency.read),
        ),
        (
            "writes:",
            kind(disk.writes, Some(disk.written_bytes), &latency.write),
        ),
        ("flushes:", kind(disk.flushes, None, &latency.flush)),
        ("discards:", kind(disk.discards, None, &latency.discard)),
        ("in flight:", disk.in_flight.to_string()),
        ("failed:", disk.failed.to_string()),
        (
            "refused:",
            format!("{}, since they broke the protocol", disk.rejected),
        ),
        ("kept pages:", disk.kept_pages.to_string()),
        (
            "QEMU:",
            format!(
                "{} connected, {} requests",
                disk.emulated_clients, disk.emulated_requests
            ),
        ),
    ]
}
