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
        for line in lines(&disks::read(disk)?) {
            output.line(&line)?;
        }
    }
    output.finish()?;
    Ok(Outcome::Done)
}

/// A disk, and below it what it suffers from.
fn lines(disk: &Disk) -> Vec<String> {
    let size = |bytes: Option<u64>| bytes.map_or_else(|| "-".to_owned(), size::display);
    let of_it = disk.statistics.as_ref();
    let row = format!(
        "{:>5}  {:6}  {:12}  {:>10}  {:>10}  {}",
        disk.domid,
        disk.vdev,
        disk.state,
        size(of_it.map(|disk| disk.virtual_size_bytes)),
        size(of_it.map(|disk| disk.allocated_bytes)),
        disk.image.as_deref().unwrap_or("-")
    );
    let ills = [disks::no_space(disk), disk.reason.clone()];
    let ills = ills
        .into_iter()
        .flatten()
        .map(|ill| format!("       {ill}"));
    [row].into_iter().chain(ills).collect()
}

#[cfg(test)]
mod tests {
    use control_api::Statistics;

    use super::*;

    #[test]
    fn a_disk_without_space_says_how_many_writes_wait() {
        let mut disk = Disk {
            domid: 5,
            vdev: "xvda".to_owned(),
            state: "connected".to_owned(),
            image: Some("/images/vm1.cow".to_owned()),
            statistics: Some(Statistics::default()),
            ..Disk::default()
        };
        assert_eq!(lines(&disk).len(), 1);
        disk.statistics.as_mut().unwrap().waiting_for_space = 3;
        let shown = lines(&disk);
        assert!(shown[0].ends_with("/images/vm1.cow"), "{shown:?}");
        assert_eq!(shown[1..], ["       NO SPACE (3 wait)"]);
        disk.reason = Some("it is so".to_owned());
        assert_eq!(lines(&disk)[2], "       it is so");
        disk.statistics = None;
        assert_eq!(lines(&disk).len(), 2);
    }
}
