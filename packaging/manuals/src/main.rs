//! Writes the manual pages and the shell completions of cowback's commands into a folder.
#![forbid(unsafe_code)]

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;

use clap::{Command, Parser};
use clap_complete::{Shell, generate_to};
use clap_mangen::Man;

/// Writes the manual pages and the shell completions of cowback's commands.
#[derive(Parser)]
struct Args {
    /// The folder to write into: made if it is not there
    folder: PathBuf,
}

fn main() -> io::Result<()> {
    let Args { folder } = Args::parse();
    fs::create_dir_all(&folder)?;
    clap_mangen::generate_to(cowback::command(), &folder)?;
    let daemon = cowbackd::command();
    let mut page = File::create(folder.join("cowbackd.8"))?;
    Man::new(daemon.clone()).section("8").render(&mut page)?;
    for command in [cowback::command(), daemon] {
        complete(command, &folder)?;
    }
    Ok(())
}

fn complete(mut command: Command, folder: &std::path::Path) -> io::Result<()> {
    let name = command.get_name().to_owned();
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        generate_to(shell, &mut command, &name, folder)?;
    }
    Ok(())
}
