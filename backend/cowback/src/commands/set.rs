//! `cowback set`

use control_api::Policies;

use super::create::OnEnospc;
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
    #[arg(long, value_name = "WHAT", value_enum)]
    on_enospc: Option<OnEnospc>,
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
    let wanted = Policies {
        on_enospc: args.on_enospc.map(|on_enospc| match on_enospc {
            OnEnospc::Pause => control_api::OnEnospc::Pause,
            OnEnospc::Report => control_api::OnEnospc::Report,
        }),
        detect_zeroes: args.detect_zeroes.as_deref().map(|whether| whether == "on"),
    };
    if wanted == Policies::default() {
        let error = "nothing is to be changed: give --on-enospc or --detect-zeroes";
        return Err(CommandError::Usage(error.to_owned()));
    }
    let client = Client::new(&args.socket);
    let path = disks::api_path(&client, &args.disk)?;
    show::show(
        client.patch(&path, &serde_json::to_value(wanted)?)?,
        args.json,
    )
}
