//! Measures cowback against raw files and qemu-nbd, side by side.

#![forbid(unsafe_code)]

mod single;

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use bench::error::BenchError;
use bench::inside;
use bench::null::NullExecutor;
use bench::render;
use bench::report::{Report, Settings};
use bench::scale::Scale;
use bench::suite::{self, Plan};
use bench::xen;
use bench::xen::report::XenReport;
use clap::{Parser, Subcommand};
use serde::de::DeserializeOwned;

/// Measures cowback against raw files and qemu-nbd, side by side.
#[derive(Parser)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Measure everything, print a table, and keep the figures as JSON. Needs root
    Run(RunArgs),
    /// Print docs/performance.md, made from the figures that a run has kept
    Report {
        /// The figures
        json: PathBuf,
    },
    /// Make a report of what `tests/xen/bench/run` has measured, print its tables, and keep it as JSON
    XenCollect {
        /// What it has left
        folder: PathBuf,
        /// Where to keep the report
        #[arg(
            long,
            value_name = "PATH",
            default_value = "target/bench/xen-bench.json"
        )]
        json: PathBuf,
    },
    /// Print docs/performance-xen.md, made from such a report
    XenReport {
        /// The report
        json: PathBuf,
    },
    /// Drive one image through the engine and an executor, and say what was measured
    Direct(single::DirectArgs),
    /// The same with an executor that does nothing: what the engine itself costs
    Engine(single::EngineArgs),
    /// Run the daemon over storage that does nothing; it takes cowbackd's options
    NullDaemon(cowbackd::Options),
    /// Open one image and say what that took
    Open {
        /// The image
        image: PathBuf,
    },
}

#[derive(clap::Args)]
struct RunArgs {
    /// Only see that everything works; the figures mean nothing
    #[arg(long)]
    quick: bool,
    /// Only rows whose names contain this: direct-read, direct-write, direct-first-write-flush, nbd-read, nbd-write,
    /// nbd-first-write, nbd-first-write-flush, nbd-sequential-read, nbd-sequential-write, synced-first-write-bytes,
    /// space-speed, space-taken, chain-read-cpu, chain-read, open-time, open-memory, open-space, engine-read,
    /// engine-write, engine-first-write, ring-read, ring-write, ring-cached-read, ring-cached-write,
    /// ring-profile-read, ring-profile-write, ring-profile-cached-read, disks
    #[arg(long, value_name = "ROW")]
    only: Option<String>,
    /// Measurements of each contender
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    rounds: Option<u16>,
    /// Where to keep the figures
    #[arg(long, value_name = "PATH", default_value = "target/bench/bench.json")]
    json: PathBuf,
    /// Set by the program itself, for its second half that is cleaned up by the kernel
    #[arg(long, hide = true)]
    inside: bool,
}

/// Rounds of a whole run, and of a smoke test.
const ROUNDS: (u16, u16) = (5, 1);

fn main() -> ExitCode {
    let result = match Args::parse().command {
        Command::Run(args) if args.inside => run(&args),
        Command::Run(_) => run_inside(),
        Command::Report { json } => read_report(&json).map(|report: Report| {
            print!("{}", render::document(&report));
            ExitCode::SUCCESS
        }),
        Command::XenCollect { folder, json } => xen_collect(&folder, &json),
        Command::XenReport { json } => read_report(&json).map(|report: XenReport| {
            print!("{}", xen::render::document(&report));
            ExitCode::SUCCESS
        }),
        Command::Direct(args) => single::direct(&args),
        Command::Engine(args) => single::engine(&args),
        Command::NullDaemon(options) => Ok(cowbackd::main(&options, NullExecutor::watching)),
        Command::Open { image } => single::open(&image),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {error}");
        ExitCode::FAILURE
    })
}

type Result<T> = std::result::Result<T, Box<dyn Error>>;

fn run_inside() -> Result<ExitCode> {
    let arguments = std::env::args_os().skip(1).chain(["--inside".into()]);
    let status = inside::run(arguments)?;
    Ok(if status.success() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn run(args: &RunArgs) -> Result<ExitCode> {
    let rounds = args
        .rounds
        .unwrap_or(if args.quick { ROUNDS.1 } else { ROUNDS.0 });
    let settings = Settings {
        rounds: rounds.into(),
        quick: args.quick,
        scale: if args.quick {
            Scale::QUICK
        } else {
            Scale::FULL
        },
    };
    let folder = args.json.parent().unwrap_or(Path::new("."));
    let folder = std::path::absolute(folder)?;
    fs::create_dir_all(&folder)?;
    let cowback = std::env::current_exe()?.with_file_name("cowback");
    let plan = Plan {
        settings,
        only: args.only.as_deref(),
        scratch: &folder.join("scratch"),
        cowback: &cowback,
    };
    let report = suite::run(&plan)?;
    fs::write(&args.json, serde_json::to_string_pretty(&report)? + "\n")?;
    print!("{}", render::table(&report));
    Ok(if report.failures.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn xen_collect(folder: &Path, json: &Path) -> Result<ExitCode> {
    let report = xen::collect::collect(folder)?;
    fs::write(json, serde_json::to_string_pretty(&report)? + "\n")?;
    print!("{}", xen::render::tables(&report));
    Ok(ExitCode::SUCCESS)
}

fn read_report<R: DeserializeOwned>(json: &Path) -> Result<R> {
    let text =
        fs::read_to_string(json).map_err(BenchError::io(format!("read {}", json.display())))?;
    serde_json::from_str(&text).map_err(|cause| {
        let path = json.display().to_string();
        BenchError::Report { path, cause }.into()
    })
}
