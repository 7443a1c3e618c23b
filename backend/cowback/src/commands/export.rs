//! `cowback export`

use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;

use blockio::disk::{Disk, DiskNumber, DiskOptions};
use blockio::executor::open_executor;
use blockio::image::{Image, ImageAccess};
use blockio::space::SpaceStrategy;
use dscow::engine::OnNoSpace;
use nbd_server::{Export, Offer, Socket, Until};
use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::error::{CommandError, CommandResult, Outcome};
use crate::output::{self, print_line};
use dscow::size;

/// Serve an image to NBD clients, such as qemu-img, nbdcopy and fio
///
/// Prints one line when clients can connect. Serves until SIGTERM or SIGINT; then answers what it has taken, closes the
/// image and removes the socket. Only the user who starts it can connect.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The image
    pub(crate) image: PathBuf,
    /// The unix socket to listen on; one that a dead process has left there is replaced
    #[arg(long, value_name = "PATH")]
    socket: PathBuf,
    /// Refuse writes. The image and its bases can then be read by others at the same time
    #[arg(long)]
    pub(crate) read_only: bool,
    /// Name of the export; clients that give no name find it too
    #[arg(long, default_value = "")]
    name: String,
    /// Search writes for whole blocks of zeros, and make them holes
    #[arg(long)]
    detect_zeroes: bool,
    /// How storage is taken for blocks that are written for the first time: auto, sparse, fill, strides or extent-hint
    #[arg(long, value_name = "STRATEGY", default_value = "auto")]
    allocation: SpaceStrategy,
    /// Most clients at a time; others wait
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..))]
    clients: u16,
    /// Stop when the last client has gone, once one was there: for scripts
    #[arg(long)]
    exit_with_last_client: bool,
    /// Print the line that says that clients can connect as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

pub(crate) fn run(args: &Args) -> CommandResult {
    log_to_stderr();
    let stop = stop_signal().map_err(CommandError::Signals)?;
    // The socket first: an image is not touched in vain.
    let socket = Socket::listen(&args.socket)?;
    let access = match args.read_only {
        true => ImageAccess::ReadOnly,
        false => ImageAccess::Writable,
    };
    let (engine, files) = Image::open(&args.image, access)?.into_engine(OnNoSpace::Report);
    let mut executor = open_executor().map_err(CommandError::Executor)?;
    let executor = executor.as_mut();
    let number = DiskNumber(0);
    let options = DiskOptions {
        detect_zeroes: args.detect_zeroes,
        space: args.allocation,
    };
    let disk = Disk::new(number, engine, files, options, executor);
    let size = disk.engine().layout().virtual_size();
    let offer = Offer {
        name: args.name.clone(),
        description: args.image.display().to_string(),
        read_only: args.read_only,
        clients_max: args.clients.into(),
    };
    let export = Export::new(disk, number, socket, offer, executor)?;
    let until = match args.exit_with_last_client {
        true => Until::LastClientGone,
        false => Until::Stopped,
    };
    let mut said = Ok(());
    nbd_server::run(export, executor, stop.as_fd(), until, |_| {
        said = say_ready(args, size);
        if said.is_err() {
            // Nobody will ever know that clients can connect. It ends as if by a signal: the image is open by now.
            let _ = stop.shutdown(Shutdown::Read);
        }
    })?;
    said?;
    Ok(Outcome::Done)
}

fn say_ready(args: &Args, bytes: u64) -> Result<(), CommandError> {
    let uri = uri(&args.socket, &args.name);
    if args.json {
        let ready = json!({
            "ready": true,
            "image": output::path(&args.image),
            "socket": output::path(&args.socket),
            "uri": uri,
            "size": bytes,
            "read_only": args.read_only,
        });
        print_line(&ready.to_string())
    } else {
        let (image, size) = (args.image.display(), size::display(bytes));
        let how = if args.read_only { ", read-only" } else { "" };
        print_line(&format!("{image} ({size}{how}) is served at {uri}"))
    }
}

/// The export's address, as clients take it.
fn uri(socket: &Path, name: &str) -> String {
    let socket = std::path::absolute(socket).unwrap_or_else(|_| socket.to_owned());
    let (name, socket) = (
        escape(name.as_bytes()),
        escape(socket.as_os_str().as_bytes()),
    );
    format!("nbd+unix:///{name}?socket={socket}")
}

/// Bytes in a URI: what could mean something there is escaped.
fn escape(bytes: &[u8]) -> String {
    let mut escaped = String::new();
    for &byte in bytes {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b'/' => {
                escaped.push(byte.into());
            }
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

/// A descriptor that becomes readable when SIGTERM or SIGINT arrives.
fn stop_signal() -> std::io::Result<UnixStream> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    let arm = |kind| {
        let _context = runtime.enter();
        signal(kind)
    };
    let (terminate, interrupt) = (arm(SignalKind::terminate())?, arm(SignalKind::interrupt())?);
    let (ours, theirs) = UnixStream::pair()?;
    thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            runtime.block_on(either(terminate, interrupt));
            // Its end of file is what makes the other side readable.
            drop(theirs);
            // Signals that follow find their handlers still there, and change nothing.
            runtime.block_on(std::future::pending::<()>());
        })?;
    Ok(ours)
}

async fn either(mut terminate: Signal, mut interrupt: Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// Warnings and errors of the server go to standard error; `COWBACK_LOG` asks for more or less.
fn log_to_stderr() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("COWBACK_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_target(false)
        // It would panic where the log cannot be written.
        .log_internal_errors(false)
        .init();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_escaped() {
        assert_eq!(
            uri(Path::new("/run/a b/vm1.sock"), "root disk&1"),
            "nbd+unix:///root%20disk%261?socket=/run/a%20b/vm1.sock"
        );
        assert_eq!(uri(Path::new("/s"), ""), "nbd+unix:///?socket=/s");
    }
}
