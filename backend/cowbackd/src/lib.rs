//! The cowback daemon: serves dscow images to Xen guests.
//!
//! A library with one function, so that the benchmark can run the whole daemon over storage that costs nothing.
#![deny(unsafe_code)]

mod control;
mod daemon;
mod devices;
mod disk_target;
mod emulated;
mod images;
mod inheritance;
mod logging;
mod settings;
mod sole;
mod worker;
mod xentop;

use std::io;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;

use blockio::executor::Executor;
use clap::{CommandFactory, Parser};
use settings::{ControlAccess, Settings};

/// Opens the executor of a worker, on the worker's thread.
pub type OpenExecutor = fn() -> io::Result<Box<dyn Executor>>;

/// Serves copy-on-write images to Xen guests.
///
/// Watches xenstore for disks whose hotplug script is block-cow, and serves their rings. On SIGTERM it answers
/// what it has taken, closes the images, and leaves the guests to the next cowbackd.
///
/// Settings may be in a configuration file, with the names of these options and without the dashes in front; what is given
/// here counts more.
///
/// Exit codes: 0 stopped as asked; 1 failed, with the reason in the log; 2 wrong usage or configuration.
#[derive(Parser)]
#[command(name = "cowbackd", version, max_term_width = 100)]
pub struct Options {
    /// The configuration file [default: /etc/cowback/cowbackd.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Check the configuration file and these options, say what comes of them, and end
    #[arg(long)]
    check_config: bool,
    /// Where the control socket is [default: /run/cowback]
    #[arg(long, value_name = "DIR")]
    runtime_dir: Option<PathBuf>,
    /// How many worker threads serve the disks, 1 to 256 [default: the number of cores, at most 4]
    #[arg(long, value_name = "N")]
    workers: Option<NonZeroUsize>,
    /// How many queues a disk may have, 1 to 8 [default: the number of cores, at most 4]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=8))]
    queues: Option<u8>,
    /// Who may look by way of the control socket, beside root, who may change things too [default: root]
    #[arg(long, value_name = "WHO")]
    control_access: Option<ControlAccess>,
    /// Where xentop looks for statistics; to be changed in tests only
    #[arg(long, value_name = "DIR", default_value = "/dev/shm", hide = true)]
    shared_memory: PathBuf,
    /// What to log: off, error, warn, info, debug or trace; with commas, PART=LEVEL for parts [default: info]
    #[arg(long, env = "COWBACKD_LOG", value_name = "FILTER")]
    log: Option<String>,
}

/// What the daemon's command line takes, and what it says of that.
pub fn command() -> clap::Command {
    Options::command()
}

/// Runs the daemon until it is told to stop. The images' I/O is done by executors that `open_executor` makes.
pub fn main(options: &Options, open_executor: OpenExecutor) -> ExitCode {
    let settings = match Settings::gather(options) {
        Ok(settings) => settings,
        Err(error) => {
            eprintln!("cowbackd: {error}");
            return ExitCode::from(2);
        }
    };
    if options.check_config {
        println!("{settings}");
        return ExitCode::SUCCESS;
    }
    let log = match logging::start(&settings.log) {
        Ok(log) => log,
        Err(error) => {
            eprintln!("cowbackd: {error}");
            return ExitCode::from(2);
        }
    };
    match daemon::run(&settings, log, open_executor) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}
