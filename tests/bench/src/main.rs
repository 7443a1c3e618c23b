//! Measures cowback against raw files and qemu-nbd, side by side.

#![forbid(unsafe_code)]

use std::error::Error;
use std::path::PathBuf;

use bench::direct::{Measured, Session};
use bench::pattern::{Order, Pattern, Work};
use blockio::executor::open_executor;
use blockio::image::ImageAccess;
use clap::{Parser, Subcommand};

/// Measures cowback against raw files and qemu-nbd, side by side.
#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Drive one image through the engine and an executor, and say what was measured
    Direct(DirectArgs),
}

/// What is asked of the image; the options have the names that fio gives them.
#[derive(clap::Args)]
struct DirectArgs {
    /// The image; writing changes it
    image: PathBuf,
    /// read, write, randread or randwrite
    #[arg(long)]
    rw: Work,
    /// Bytes of a request
    #[arg(long, default_value_t = 4096)]
    bs: u64,
    /// Requests at a time
    #[arg(long, default_value_t = 32)]
    iodepth: usize,
    /// How many requests, no place twice
    #[arg(long)]
    number_ios: u64,
    /// Bytes of the disk that the requests are spread over; all of it if not given
    #[arg(long)]
    size: Option<u64>,
    /// A flush after each so many requests; 0 for none
    #[arg(long, default_value_t = 0)]
    fsync: u64,
    /// Which random order
    #[arg(long, default_value_t = 1)]
    randseed: u64,
    /// The stat file, in /sys/block, of the device whose writes are to be counted
    #[arg(long)]
    stat: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn main() -> Result<(), Box<dyn Error>> {
    match Args::parse().command {
        Command::Direct(args) => direct(&args),
    }
}

fn direct(args: &DirectArgs) -> Result<(), Box<dyn Error>> {
    // Also for reading: an image that is only read is read through the page cache, as bases are.
    let access = ImageAccess::Writable;
    let mut session = Session::open(&args.image, access, open_executor()?)?;
    let pattern = Pattern {
        direction: args.rw.direction,
        order: if args.rw.random {
            Order::Random {
                seed: args.randseed,
            }
        } else {
            Order::Sequential
        },
        request_len: args.bs,
        count: args.number_ios,
        span: args
            .size
            .unwrap_or(session.disk().engine().layout().virtual_size()),
        flush_every: args.fsync,
    };
    let measured = session.run(&pattern.steps(), args.iodepth, args.stat.as_deref())?;
    session.close()?;
    if args.json {
        println!("{}", serde_json::to_string(&measured)?);
    } else {
        print(&measured);
    }
    Ok(())
}

fn print(measured: &Measured) {
    println!(
        "{} requests, {} flushes: {:.0} requests/s, {:.2} us of CPU each",
        measured.requests,
        measured.flushes,
        measured.requests_per_second(),
        measured.cpu_ns_per_request() / 1000.0
    );
    if let Some(device) = measured.device {
        println!(
            "device: {} bytes written ({:.0} for each request), {} read, {} flushes",
            device.bytes_written,
            device.bytes_written as f64 / measured.requests as f64,
            device.bytes_read,
            device.flushes
        );
    }
}
