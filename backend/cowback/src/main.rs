//! The cowback command line: dscow images offline, the daemon online.
#![forbid(unsafe_code)]

mod client;
mod commands;
mod error;
mod output;
mod picture;
mod progress;
mod size;

use std::io::ErrorKind;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::error::CommandError;

/// Copy-on-write disk images for Xen guests.
///
/// Exit codes: 0 done; 1 failed, with the reason on standard error; 2 wrong usage; 3 `check` found something
/// wrong with the image, or could not repair all of it; 4 `diff --exit-code` found a difference.
#[derive(Parser)]
#[command(name = "cowback", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Create(commands::create::Args),
    Info(commands::info::Args),
    Check(commands::check::Args),
    Map(commands::map::Args),
    Diff(commands::diff::Args),
    Convert(commands::convert::Args),
    Commit(commands::commit::Args),
    Export(commands::export::Args),
    Rebase(commands::rebase::Args),
    Resize(commands::resize::Args),
    List(commands::list::Args),
    Hotplug(commands::hotplug::Args),
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Create(args) => commands::create::run(&args),
        Command::Info(args) => commands::info::run(&args),
        Command::Check(args) => commands::check::run(&args),
        Command::Map(args) => commands::map::run(&args),
        Command::Diff(args) => commands::diff::run(&args),
        Command::Convert(args) => commands::convert::run(&args),
        Command::Commit(args) => commands::commit::run(&args),
        Command::Export(args) => commands::export::run(&args),
        Command::Rebase(args) => commands::rebase::run(&args),
        Command::Resize(args) => commands::resize::run(&args),
        Command::List(args) => commands::list::run(&args),
        Command::Hotplug(args) => commands::hotplug::run(&args),
    };
    match result {
        Ok(outcome) => outcome.into(),
        // Who reads the output has seen enough, as `head` does.
        Err(CommandError::Print(cause)) if cause.kind() == ErrorKind::BrokenPipe => {
            ExitCode::from(1)
        }
        Err(error @ CommandError::Usage(_)) => {
            eprintln!("cowback: {error}");
            ExitCode::from(2)
        }
        Err(error) => {
            eprintln!("cowback: {error}");
            ExitCode::from(1)
        }
    }
}
