//! `cowback list`

use control_api::Disk;
use serde_json::Value;

use crate::client::{Client, SocketArg};
use crate::disks;
use crate::error::{CommandResult, Outcome};
use crate::output::{Output, print_json};
use dscow::size;

/// List the disks that the running daemon serves
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    socket: SocketArg,
    /// Print the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

pub(crate) fn run(args: &Args) -> CommandResult {
    let described: Vec<Value> = Client::new(&args.socket).get("/v1/devices")?;
    if args.json {
        print_json(&Value::Array(described))?;
        return Ok(Outcome::Done);
    }
    let mut output = Output::stdout();
    output.line(&format!(
        "{:>5}  {:6}  {:12}  {:>10}  {:>10}  IMAGE",
        "DOMID", "VDEV", "STATE", "SIZE", "ALLOCATED"
    ))?;
    for disk in described {
        let Disk {
            domid,
            vdev,
            state,
            image,
            reason,
            statistics,
            ..
        } = disks::read(disk)?;
        let size = |bytes: Option<u64>| bytes.map_or_else(|| "-".to_owned(), size::display);
        let of_it = statistics.as_ref();
        output.line(&format!(
            "{domid:>5}  {vdev:6}  {state:12}  {:>10}  {:>10}  {}",
            size(of_it.map(|disk| disk.virtual_size_bytes)),
            size(of_it.map(|disk| disk.allocated_bytes)),
            image.as_deref().unwrap_or("-")
        ))?;
        if let Some(reason) = &reason {
            output.line(&format!("       {reason}"))?;
        }
    }
    output.finish()?;
    Ok(Outcome::Done)
}
