//! `cowback set`

use serde_json::{Map, Value};

use super::show;
use crate::client::{Client, SocketArg};
use crate::disks;
use crate::error::{CommandError, CommandResult};

/// Change how the running daemon serves a disk
///
/// It holds until the image is closed, by a shutdown or a restart of the daemon. What is to last belongs into the disk's
/// target: see cowback-disk(5).
///
/// Example: cowback set 5:xvda --on-enospc report
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The disk: domain and name in the guest, such as 5:xvda, or its xenbus path
    disk: String,
    /// What is done for writes that find no space on the host, also for those that wait already
    #[arg(long, value_name = "WHAT", value_parser = ["pause", "report"])]
    on_enospc: Option<String>,
    /// Whether writes are searched for blocks of zeros, which become holes
    #[arg(long, value_name = "WHETHER", value_parser = ["on", "off"])]
    detect_zeroes: Option<String>,
    #[command(flatten)]
    socket: SocketArg,
    /// Print the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

pub(crate) fn run(args: &Args) -> CommandResult {
    let mut wanted = Map::new();
    if let Some(on_enospc) = &args.on_enospc {
        wanted.insert("on_enospc".into(), on_enospc.as_str().into());
    }
    if let Some(detect_zeroes) = &args.detect_zeroes {
        wanted.insert("detect_zeroes".into(), (detect_zeroes == "on").into());
    }
    if wanted.is_empty() {
        let error = "nothing is to be changed: give --on-enospc or --detect-zeroes";
        return Err(CommandError::Usage(error.to_owned()));
    }
    let client = Client::new(&args.socket);
    let path = disks::api_path(&client, &args.disk)?;
    show::show(client.patch(&path, &Value::Object(wanted))?, args.json)
}
