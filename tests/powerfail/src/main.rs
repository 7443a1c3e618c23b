//! Runs a workload over a log of writes, and checks every state that a loss of power can leave.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use blockio::executor::Executor;
use blockio::image::Image;
use clap::{Args, Parser, Subcommand};
use powerfail::campaign::{Campaign, Choices, Report};
use powerfail::error::Error;
use powerfail::journal;
use powerfail::log::{Effect, Entry};
use powerfail::mark::{KernelMarks, Marks};
use powerfail::offline::Offline;
use powerfail::oracle::Oracle;
use powerfail::place::Place;
use powerfail::replay::Log;
use powerfail::sabotage::{Sabotage, Saboteur};
use powerfail::workload::{self, Setting};

#[derive(Parser)]
#[command(about, version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make what is there before logging begins: the bases, and the image with `--existing`.
    Prepare(Setting),
    /// Run the workload.
    Work(Work),
    /// Look at every state that a loss of power can leave.
    Check(Box<Check>),
    /// Print the entries of a log.
    Log {
        /// The device or file with the log.
        log: PathBuf,
    },
    /// Do something to an image that nobody has open.
    #[command(subcommand)]
    Offline(Offline),
}

#[derive(Args)]
struct Work {
    #[command(flatten)]
    setting: Setting,
    /// The `log-writes` device, by its name in device mapper.
    #[arg(long)]
    marks_to: Option<String>,
    /// How many writes and flushes.
    #[arg(long, default_value_t = 120)]
    operations: u64,
    /// Break this rule.
    #[arg(long)]
    sabotage: Option<Sabotage>,
}

#[derive(Args)]
struct Check {
    /// The device or file with the log.
    #[arg(long)]
    log: PathBuf,
    /// The journal.
    #[arg(long)]
    journal: PathBuf,
    /// A file with what the device held before the log. It is changed.
    #[arg(long)]
    replay: PathBuf,
    /// A file for the states, on the same file system.
    #[arg(long)]
    crashed: PathBuf,
    /// A loop device over that file.
    #[arg(long)]
    device: Option<PathBuf>,
    /// The type of the file system on the device.
    #[arg(long, requires_all = ["device", "mount_point", "image"])]
    file_system: Option<String>,
    /// Where it is mounted.
    #[arg(long)]
    mount_point: Option<PathBuf>,
    /// The image in the file system.
    #[arg(long)]
    image: Option<PathBuf>,
    /// What everything random follows from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// How many choices of what is lost are made between each two flushes.
    #[arg(long, default_value_t = 1)]
    losses: u64,
    /// So many sectors of 512 bytes, at a multiple of that, are written whole or not at all.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    untorn_sectors: u64,
    /// A rule was broken: succeed if that is noticed.
    #[arg(long)]
    expect_violation: bool,
}

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .init();
    match run(Cli::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::from(2)
        }
    }
}

fn run(command: Command) -> Result<ExitCode, Error> {
    match command {
        Command::Prepare(setting) => workload::prepare(&setting)?,
        Command::Work(work) => run_workload(&work)?,
        Command::Check(check) => return run_check(&check),
        Command::Offline(command) => command.run()?,
        Command::Log { log } => {
            for (index, entry) in Log::open(&log)?.entries.iter().enumerate() {
                print_entry(index, entry);
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn run_workload(work: &Work) -> Result<(), Error> {
    let marks = match &work.marks_to {
        Some(name) => Marks::Kernel(KernelMarks::open(name)?),
        None => Marks::None,
    };
    let wrap = |executor: Box<dyn Executor>, image: &Image| -> Box<dyn Executor> {
        match work.sabotage {
            Some(sabotage) => Box::new(Saboteur::new(executor, sabotage, image)),
            None => executor,
        }
    };
    let executors = workload::run(&work.setting, work.operations, &marks, &wrap)?;
    println!("executors: {}", executors.join(", "));
    Ok(())
}

fn run_check(check: &Check) -> Result<ExitCode, Error> {
    let start = Instant::now();
    let log = Log::open(&check.log)?;
    let oracle = Oracle::new(&journal::load(&check.journal)?);
    let place = place(check);
    let choices = Choices {
        seed: check.seed,
        losses: check.losses,
        untorn_sectors: check.untorn_sectors,
        stop_at_first: check.expect_violation,
    };
    let campaign = Campaign::new(
        &log,
        &oracle,
        &place,
        choices,
        &check.replay,
        &check.crashed,
    )?;
    let report = campaign.run()?;
    for violation in &report.violations {
        println!("VIOLATION: {violation}");
    }
    let (entries, seconds) = (log.entries.len(), start.elapsed().as_secs_f64());
    println!("{entries} entries of the log in {seconds:.1} s");
    println!("{report}");
    Ok(verdict(&report, check.expect_violation))
}

fn place(check: &Check) -> Place {
    match (
        &check.device,
        &check.file_system,
        &check.mount_point,
        &check.image,
    ) {
        (Some(device), Some(kind), Some(mount_point), Some(image)) => Place::FileSystem {
            device: device.clone(),
            kind: kind.clone(),
            mount_point: mount_point.clone(),
            image: image.clone(),
        },
        (Some(device), ..) => Place::Device(device.clone()),
        _ => Place::File,
    }
}

fn verdict(report: &Report, expect_violation: bool) -> ExitCode {
    let good = if expect_violation {
        report.bad_states > 0
    } else {
        // A run in which nothing had been flushed would show nothing.
        report.bad_states == 0 && report.promised_sectors > 0
    };
    if good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn print_entry(index: usize, entry: &Entry) {
    let effect = match &entry.effect {
        Effect::Nothing => String::new(),
        Effect::Write { offset, data } => format!("{} bytes at {offset}", data.end - data.start),
        Effect::Discard { offset, len } => format!("discard {len} bytes at {offset}"),
    };
    let mark = entry.mark.as_deref().map(String::from_utf8_lossy);
    let flush = if entry.flush { " FLUSH" } else { "" };
    let fua = if entry.fua { " FUA" } else { "" };
    println!(
        "{index:>6} {effect}{flush}{fua} {}",
        mark.unwrap_or_default()
    );
}
