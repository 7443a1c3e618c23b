//! `cowback hotplug`: what the block-cow script calls.

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
    Add(DeviceArgs),
    /// Wait until the image of a device that is being removed is closed
    Remove(DeviceArgs),
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
        Action::Add(args) => {
            let body = json!({ "device": args.device });
            let added: Added = Client::new(&args.socket).post("/v1/hotplug/add", &body)?;
            print_line(&added.path)?;
        }
        Action::Remove(args) => {
            let body = json!({ "device": args.device });
            let Removed {} = Client::new(&args.socket).post("/v1/hotplug/remove", &body)?;
        }
    }
    Ok(Outcome::Done)
}
