//! `cowback hotplug`: what the block-cow script calls.

use std::time::Duration;

use serde::Deserialize;
use serde_json::json;

use crate::client::{Client, SocketArg};
use crate::error::{CommandResult, Outcome};
use crate::output::print_line;

/// Tell the daemon about a device; the block-cow script calls this
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Open the image of a new device; prints the socket at which QEMU finds the disk, or the image's path if there is none
    Add(AddArgs),
    /// Wait until the image of a device that is being removed is closed
    Remove(DeviceArgs),
}

#[derive(clap::Args)]
struct AddArgs {
    #[command(flatten)]
    device: DeviceArgs,
    /// How long to wait for a daemon that is starting
    #[arg(long, default_value = "10", value_name = "SECONDS")]
    wait: u32,
}

#[derive(clap::Args)]
struct DeviceArgs {
    /// The device's xenbus path, such as backend/vbd3/1/51712
    device: String,
    #[command(flatten)]
    socket: SocketArg,
}

#[derive(Deserialize)]
struct Added {
    path: String,
}

#[derive(Deserialize)]
struct Removed {}

pub(crate) fn run(args: &Args) -> CommandResult {
    match &args.action {
        Action::Add(AddArgs { device: args, wait }) => {
            let body = json!({ "device": args.device });
            let client = Client::new(&args.socket);
            let client = client.with_patience(Duration::from_secs((*wait).into()));
            let added: Added = client.post("/v1/hotplug/add", &body)?;
            print_line(&added.path)?;
        }
        Action::Remove(args) => {
            let body = json!({ "device": args.device });
            let Removed {} = Client::new(&args.socket).post("/v1/hotplug/remove", &body)?;
        }
    }
    Ok(Outcome::Done)
}
