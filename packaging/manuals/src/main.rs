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

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use clap::error::ErrorKind;

    /// What documents call a command of ours, in their running text and in their blocks.
    fn commands_in(text: &str) -> Vec<String> {
        // A fence is three of these, so that blocks are at odd places too.
        let in_text = text.split('`').skip(1).step_by(2);
        let ours = in_text
            .flat_map(str::lines)
            .filter(|piece| piece.starts_with("cowback "));
        // What follows is a comment, or is done with what it prints.
        let commands = ours.map(|piece| piece.split(['#', '|', '\n']).next().unwrap_or_default());
        commands.map(|command| command.trim().to_owned()).collect()
    }

    #[test]
    fn the_documents_name_commands_and_options_that_there_are() {
        let repository = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let documents = fs::read_dir(repository.join("docs")).unwrap();
        let documents = documents.map(|entry| entry.unwrap().path());
        let mut count = 0;
        for document in documents.chain([repository.join("README.md")]) {
            for command in commands_in(&fs::read_to_string(&document).unwrap()) {
                count += 1;
                let words = command.split_whitespace();
                let Err(error) = cowback::command().try_get_matches_from(words) else {
                    continue;
                };
                // Much is named without all that it needs, or with a word for a value.
                let is_named = matches!(
                    error.kind(),
                    ErrorKind::MissingRequiredArgument
                        | ErrorKind::InvalidValue
                        | ErrorKind::ValueValidation
                        | ErrorKind::DisplayHelp
                        | ErrorKind::DisplayVersion
                );
                assert!(is_named, "{}: {command}: {error}", document.display());
            }
        }
        assert!(count > 50, "only {count} were found");
    }
}
