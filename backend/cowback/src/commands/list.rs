//! `cowback list`

use serde::{Deserialize, Serialize};

use crate::client::{Client, SocketArg};
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

/// A device, as the daemon's control API describes it.
#[derive(Deserialize, Serialize)]
struct Device {
    device: String,
    domid: u16,
    vdev: String,
    image: Option<String>,
    state: String,
    reason: Option<String>,
    virtual_size_bytes: Option<u64>,
    allocated_bytes: Option<u64>,
    #[serde(flatten)]
    more: serde_json::Map<String, serde_json::Value>,
}

pub(crate) fn run(args: &Args) -> CommandResult {
    let client = Client::new(&args.socket);
    let devices: Vec<Device> = client.get("/v1/devices")?;
    if args.json {
        print_json(&serde_json::to_value(&devices)?)?;
        return Ok(Outcome::Done);
    }
    let size = |bytes: Option<u64>| bytes.map_or_else(|| "-".to_owned(), size::display);
    let mut output = Output::stdout();
    output.line(&format!(
        "{:>5}  {:6}  {:12}  {:>10}  {:>10}  IMAGE",
        "DOMID", "VDEV", "STATE", "SIZE", "ALLOCATED"
    ))?;
    for device in &devices {
        output.line(&format!(
            "{:>5}  {:6}  {:12}  {:>10}  {:>10}  {}",
            device.domid,
            device.vdev,
            device.state,
            size(device.virtual_size_bytes),
            size(device.allocated_bytes),
            device.image.as_deref().unwrap_or("-")
        ))?;
        if let Some(reason) = &device.reason {
            output.line(&format!("       {reason}"))?;
        }
    }
    output.finish()?;
    Ok(Outcome::Done)
}
