//! `cowback log`

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::client::{Client, SocketArg};
use crate::error::{CommandResult, Outcome};
use crate::output::{print_json, print_line};

/// Show what the running daemon logs, or change it
///
/// It holds until the daemon ends; what is to last belongs into its configuration file.
///
/// Examples: cowback log; cowback log debug; cowback log info,xenstore_glue=trace
#[derive(clap::Args)]
pub(crate) struct Args {
    /// What to log from now on: off, error, warn, info, debug or trace; with commas, PART=LEVEL for parts
    filter: Option<String>,
    #[command(flatten)]
    socket: SocketArg,
    /// Print the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Deserialize, Serialize)]
struct Log {
    filter: String,
}

pub(crate) fn run(args: &Args) -> CommandResult {
    let client = Client::new(&args.socket);
    let log: Log = match &args.filter {
        Some(filter) => client.put("/v1/log", &json!({ "filter": filter }))?,
        None => client.get("/v1/log")?,
    };
    if args.json {
        print_json(&serde_json::to_value(&log)?)?;
    } else {
        print_line(&log.filter)?;
    }
    Ok(Outcome::Done)
}
