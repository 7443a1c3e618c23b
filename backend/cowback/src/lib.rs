//! The cowback command line: dscow images offline, the daemon online.
//!
//! A library with two functions, so that its manual can be made from what it says of itself.
#![forbid(unsafe_code)]
// They panic where nothing can be written.
#![deny(clippy::print_stdout, clippy::print_stderr)]

mod client;
mod commands;
mod disks;
mod error;
mod forest;
mod host;
mod output;
mod picture;
mod progress;
mod replace;
mod sandbox;
mod waiting_guest;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};

use crate::error::{CommandError, CommandResult};
use crate::waiting_guest::RuntimeDirArg;

/// Copy-on-write disk images for Xen guests.
///
/// Exit codes: 0 done; 1 failed, with the reason on standard error; 2 wrong usage; 3 `check` found something
/// wrong with the image, or could not repair all of it, `doctor` found something wrong with the host, or `tree` an image that
/// it cannot look at; 4 `diff --exit-code` found a difference.
#[derive(Parser)]
#[command(name = "cowback", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    #[command(flatten)]
    runtime_dir: RuntimeDirArg,
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
    Show(commands::show::Args),
    Set(commands::set::Args),
    Top(commands::top::Args),
    Tree(commands::tree::Args),
    Log(commands::log::Args),
    Doctor(commands::doctor::Args),
    Hotplug(commands::hotplug::Args),
}

impl Command {
    /// The image that it is going to change, if it is one that exists: a device may hold one already.
    fn changes(&self) -> Option<&Path> {
        match self {
            Self::Commit(args) => Some(&args.image),
            Self::Rebase(args) => Some(&args.image),
            Self::Resize(args) => Some(&args.image),
            Self::Check(args) => args.repair.then_some(&args.image),
            Self::Export(args) => (!args.read_only).then_some(&args.image),
            Self::Create(args) => Some(&args.image),
            Self::Convert(args) => Some(&args.destination),
            _ => None,
        }
        .map(PathBuf::as_path)
    }

    fn run(&self, runtime_dir: &RuntimeDirArg) -> CommandResult {
        match self {
            Self::Create(args) => commands::create::run(args),
            Self::Info(args) => commands::info::run(args),
            Self::Check(args) => commands::check::run(args),
            Self::Map(args) => commands::map::run(args),
            Self::Diff(args) => commands::diff::run(args),
            Self::Convert(args) => commands::convert::run(args),
            Self::Commit(args) => commands::commit::run(args),
            Self::Export(args) => commands::export::run(args),
            Self::Rebase(args) => commands::rebase::run(args),
            Self::Resize(args) => commands::resize::run(args, runtime_dir),
            Self::List(args) => commands::list::run(args),
            Self::Show(args) => commands::show::run(args),
            Self::Set(args) => commands::set::run(args),
            Self::Top(args) => commands::top::run(args),
            Self::Tree(args) => commands::tree::run(args),
            Self::Log(args) => commands::log::run(args),
            Self::Doctor(args) => commands::doctor::run(args),
            Self::Hotplug(args) => commands::hotplug::run(args),
        }
    }

    /// Whether a program reads what it prints.
    fn wants_json(&self) -> bool {
        match self {
            Self::Create(args) => args.json,
            Self::Info(args) => args.json,
            Self::Check(args) => args.json,
            Self::Map(args) => args.json,
            Self::Diff(args) => args.json,
            Self::Convert(args) => args.json,
            Self::Commit(args) => args.json,
            Self::Export(args) => args.json,
            Self::Rebase(args) => args.json,
            Self::Resize(args) => args.json,
            Self::List(args) => args.json,
            Self::Show(args) => args.json,
            Self::Set(args) => args.json,
            Self::Tree(args) => args.json,
            Self::Log(args) => args.json,
            Self::Doctor(args) => args.json,
            Self::Hotplug(_) | Self::Top(_) => false,
        }
    }
}

/// Does what this process's arguments ask for.
pub fn main() -> ExitCode {
    let Cli {
        command,
        runtime_dir,
    } = Cli::parse();
    let guarded = command
        .changes()
        .map_or(Ok(()), |image| runtime_dir.refuse_if_guest_waits(image));
    let result = guarded.and_then(|()| command.run(&runtime_dir));
    match result {
        Ok(outcome) => outcome.into(),
        Err(error) => fail(error, command.wants_json()),
    }
}

/// What the command line takes, and what it says of that.
pub fn command() -> clap::Command {
    Cli::command()
}

/// Says what failed: to people always, and to a program unless it knows.
fn fail(error: CommandError, json: bool) -> ExitCode {
    let (error, is_told) = match error {
        // Who reads the output has seen enough, as `head` does.
        CommandError::Print(cause) if cause.kind() == ErrorKind::BrokenPipe => {
            return ExitCode::from(1);
        }
        CommandError::Told(error) => (*error, true),
        error @ CommandError::Print(_) => (error, true),
        error => (error, !json),
    };
    output::note(&format!("cowback: {error}"));
    if !is_told {
        // If that fails too, the exit code is left.
        let _ = output::print_line(&serde_json::json!({ "error": error.to_string() }).to_string());
    }
    match error {
        CommandError::Usage(_) => ExitCode::from(2),
        _ => ExitCode::from(1),
    }
}
