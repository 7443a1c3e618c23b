//! The cowback daemon: serves dscow images to Xen guests.
//!
//! A library with one function, so that the benchmark can run the whole daemon over storage that costs nothing.
#![deny(unsafe_code)]

mod control;
mod daemon;
mod devices;
mod images;
mod inheritance;
mod logging;
mod sole;
mod target;
mod worker;

use std::io;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;

use blockio::executor::Executor;
use clap::Parser;

/// Opens the executor of a worker, on the worker's thread.
pub type OpenExecutor = fn() -> io::Result<Box<dyn Executor>>;

/// Serves copy-on-write images to Xen guests.
///
/// Watches xenstore for disks whose hotplug script is block-cow, and serves their rings. On SIGTERM it answers
/// what it has taken, closes the images, and leaves the guests to the next cowbackd.
///
/// Exit codes: 0 stopped as asked; 1 failed, with the reason in the log; 2 wrong usage.
#[derive(Parser)]
#[command(name = "cowbackd", version, max_term_width = 100)]
pub struct Options {
    /// Where the control socket is
    #[arg(long, default_value = "/run/cowback", value_name = "DIR")]
    runtime_dir: PathBuf,
    /// How many worker threads serve the disks [default: the number of cores, at most 4]
    #[arg(long, value_name = "N")]
    workers: Option<NonZeroUsize>,
    /// How many queues a disk may have, 1 to 8 [default: the number of cores, at most 4]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=8))]
    queues: Option<u8>,
    /// What to log, in the syntax of tracing's `EnvFilter`
    #[arg(
        long,
        default_value = "info",
        env = "COWBACKD_LOG",
        value_name = "FILTER"
    )]
    log: String,
}

/// Runs the daemon until it is told to stop. The images' I/O is done by executors that `open_executor` makes.
pub fn main(options: &Options, open_executor: OpenExecutor) -> ExitCode {
    if let Err(error) = logging::start(&options.log) {
        eprintln!("cowbackd: --log {}: {error}", options.log);
        return ExitCode::from(2);
    }
    match daemon::run(options, open_executor) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}
