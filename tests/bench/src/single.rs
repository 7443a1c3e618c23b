//! Single measurements, each in a process of its own: what the benchmark runs, and people too.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use bench::direct::{Measured, Session};
use bench::null::NullExecutor;
use bench::opening;
use bench::pattern::{Direction, Order, Pattern, Work};
use blockio::disk::DiskOptions;
use blockio::executor::open_executor;
use blockio::image::ImageAccess;
use blockio::space::SpaceStrategy;

use crate::Result;

/// What is asked of an image; the options have the names that fio gives them.
#[derive(clap::Args)]
struct PatternArgs {
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
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// `bench direct`
#[derive(clap::Args)]
pub(crate) struct DirectArgs {
    /// The image; writing changes it
    image: PathBuf,
    #[command(flatten)]
    pattern: PatternArgs,
    /// The stat file, in /sys/block, of the device whose writes are to be counted
    #[arg(long)]
    stat: Option<PathBuf>,
    /// How storage is taken for blocks that are written for the first time, as for `cowback export`
    #[arg(long, default_value_t)]
    allocation: SpaceStrategy,
}

/// `bench engine`
#[derive(clap::Args)]
pub(crate) struct EngineArgs {
    /// The image; it is opened, and never changed
    image: PathBuf,
    #[command(flatten)]
    pattern: PatternArgs,
    /// Allocate the whole disk first
    #[arg(long)]
    allocate: bool,
    /// Make the requests so many times
    #[arg(long, default_value_t = 1)]
    repeat: u64,
}

impl PatternArgs {
    fn pattern(&self, session: &Session) -> Pattern {
        let order = match self.rw.random {
            true => Order::Random {
                seed: self.randseed,
            },
            false => Order::Sequential,
        };
        Pattern {
            direction: self.rw.direction,
            order,
            request_len: self.bs,
            count: self.number_ios,
            span: self.size.unwrap_or_else(|| virtual_size(session)),
            flush_every: self.fsync,
        }
    }

    fn print(&self, measured: &Measured) -> Result<ExitCode> {
        if self.json {
            println!("{}", serde_json::to_string(measured)?);
        } else {
            print(measured);
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn virtual_size(session: &Session) -> u64 {
    session.disk().engine().layout().virtual_size()
}

pub(crate) fn direct(args: &DirectArgs) -> Result<ExitCode> {
    // Also for reading: an image that is only read is read through the page cache, as bases are.
    let options = DiskOptions {
        space: args.allocation,
        ..DiskOptions::default()
    };
    let executor = open_executor()?;
    let mut session = Session::open_with(&args.image, ImageAccess::Writable, options, executor)?;
    let steps = args.pattern.pattern(&session).steps();
    let measured = session.run(&steps, args.pattern.iodepth, args.stat.as_deref())?;
    session.close()?;
    args.pattern.print(&measured)
}

pub(crate) fn engine(args: &EngineArgs) -> Result<ExitCode> {
    let executor = Box::new(NullExecutor::new()?);
    let mut session = Session::open(&args.image, ImageAccess::Writable, executor)?;
    if args.allocate {
        let whole = Pattern {
            direction: Direction::Write,
            order: Order::Sequential,
            request_len: 1 << 20,
            count: virtual_size(&session) >> 20,
            span: virtual_size(&session),
            flush_every: 0,
        };
        session.run(&whole.steps(), 1, None)?;
    }
    let steps = args.pattern.pattern(&session).steps();
    let mut measured = session.run(&steps, args.pattern.iodepth, None)?;
    for _ in 1..args.repeat {
        measured = session.run(&steps, args.pattern.iodepth, None)?;
    }
    // Not closed: nothing of it is on the disk, and nothing is to be.
    args.pattern.print(&measured)
}

pub(crate) fn open(image: &Path) -> Result<ExitCode> {
    println!("{}", serde_json::to_string(&opening::open(image)?)?);
    Ok(ExitCode::SUCCESS)
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
            per_request(device.bytes_written, measured.requests),
            device.bytes_read,
            device.flushes
        );
    }
}

/// Precise enough for people.
#[allow(clippy::cast_precision_loss)]
fn per_request(bytes: u64, requests: u64) -> f64 {
    bytes as f64 / requests as f64
}
