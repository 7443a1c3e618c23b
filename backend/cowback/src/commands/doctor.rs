//! `cowback doctor`

use std::fs;
use std::path::PathBuf;

use serde::Deserialize;
use serde_json::json;

use crate::client::{Client, ClientError, SocketArg};
use crate::error::{CommandError, CommandResult, Outcome};
use crate::host::{Finding, Health, Host};
use crate::output::{Output, print_json};
use crate::sandbox;
use dscow::size;

/// Check whether this host can serve disks, and say what to do if not
///
/// Looks at Xen, its devices, xenstore, the hotplug script, the unit, the daemon, and the directories that are named: their
/// file systems, and whether the daemon sees them and can write there. Changes nothing.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Directories of images
    directories: Vec<PathBuf>,
    #[command(flatten)]
    socket: SocketArg,
    /// Print the result as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

pub(crate) fn run(args: &Args) -> CommandResult {
    let mut findings = Host::at("/").examine();
    let (daemon, pid) = daemon(&args.socket);
    findings.push(daemon);
    for path in &args.directories {
        findings.push(directory(path));
        findings.extend(sandbox::examine(path, pid));
    }
    if args.json {
        print_json(&json!({ "findings": findings }))?;
    } else {
        print_text(&findings)?;
    }
    let is_bad = |finding: &Finding| finding.health == Health::Bad;
    Ok(if findings.iter().any(is_bad) {
        Outcome::ProblemsFound
    } else {
        Outcome::Done
    })
}

fn print_text(findings: &[Finding]) -> Result<(), CommandError> {
    let mut output = Output::stdout();
    for finding in findings {
        let mark = match finding.health {
            Health::Good => "good",
            Health::Doubtful => "doubtful",
            Health::Bad => "BAD",
        };
        output.line(&format!("{mark:8}  {}: {}", finding.subject, finding.found))?;
        if let Some(advice) = &finding.advice {
            output.line(&format!("          {advice}"))?;
        }
    }
    output.finish()
}

#[derive(Deserialize)]
struct Daemon {
    version: String,
    pid: u32,
}

/// How the daemon is, and which process it is if it answers.
fn daemon(socket: &SocketArg) -> (Finding, Option<u32>) {
    let subject = "daemon";
    let answer = Client::new(socket).get::<Daemon>("/v1/daemon");
    let pid = answer.as_ref().ok().map(|daemon| daemon.pid);
    let finding = match answer {
        Ok(Daemon { version, pid }) if version == env!("CARGO_PKG_VERSION") => Finding::good(
            subject,
            format!("cowbackd {version} answers, process {pid}"),
        ),
        Ok(Daemon { version, .. }) => Finding::doubtful(
            subject,
            format!(
                "cowbackd {version} answers, and this is {}",
                env!("CARGO_PKG_VERSION")
            ),
            "systemctl restart cowbackd.service; guests do not notice",
        ),
        Err(error @ ClientError::Connect { .. }) => Finding::bad(
            subject,
            error.to_string(),
            "systemctl start cowbackd.service, and see journalctl -u cowbackd if it does not stay",
        ),
        Err(error) => Finding::bad(
            subject,
            error.to_string(),
            "see journalctl -u cowbackd, and restart it; guests do not notice",
        ),
    };
    (finding, pid)
}

/// File systems on which images are slow or unsafe, by what `statfs` calls them.
fn directory(path: &PathBuf) -> Finding {
    let subject = "images";
    let shown = path.display();
    let found = fs::metadata(path).and_then(|_| rustix::fs::statfs(path).map_err(Into::into));
    let found = match found {
        Ok(found) => found,
        Err(error) => {
            let advice = "name a directory that is there";
            return Finding::bad(subject, format!("{shown}: {error}"), advice);
        }
    };
    let block = u64::try_from(found.f_bsize).unwrap_or(0);
    let free = size::display(found.f_bavail.saturating_mul(block));
    // linux/magic.h
    match found.f_type {
        0xef53 => Finding::good(subject, format!("{shown}: ext4, {free} free")),
        0x5846_5342 => Finding::good(subject, format!("{shown}: xfs, {free} free")),
        0x9123_683e => Finding::doubtful(
            subject,
            format!(
                "{shown}: btrfs, {free} free; it copies on write itself, which is slow for disks"
            ),
            "chattr +C the directory before images are made in it",
        ),
        0x0102_1994 => Finding::doubtful(
            subject,
            format!("{shown}: tmpfs, {free} free; what is there is lost when the host stops"),
            "keep images on a disk",
        ),
        0x6969 => Finding::doubtful(
            subject,
            format!("{shown}: NFS, {free} free; it was never tested"),
            "keep images on a local disk",
        ),
        0x794c_7630 => Finding::bad(
            subject,
            format!(
                "{shown}: overlayfs, which gives a file another identity when it is first written"
            ),
            "keep images on the file system below",
        ),
        other => Finding::doubtful(
            subject,
            format!(
                "{shown}: a file system of the type {other:#x}, {free} free; it was never tested"
            ),
            "ext4 and xfs were",
        ),
    }
}
