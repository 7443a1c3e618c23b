//! Writes the manual pages and the shell completions of cowback's commands into a folder.
#![forbid(unsafe_code)]

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::PathBuf;

use clap::{Command, Parser};
use clap_complete::{Shell, generate_to};
use clap_mangen::Man;

/// What the commands do not say of themselves: files, environment, signals, examples.
const COWBACK_SECTIONS: &str = include_str!("../sections/cowback.1");
const COWBACKD_SECTIONS: &str = include_str!("../sections/cowbackd.8");

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
    let mut page = File::options()
        .append(true)
        .open(folder.join("cowback.1"))?;
    page.write_all(COWBACK_SECTIONS.as_bytes())?;
    let daemon = cowbackd::command();
    let mut page = File::create(folder.join("cowbackd.8"))?;
    Man::new(daemon.clone()).section("8").render(&mut page)?;
    page.write_all(COWBACKD_SECTIONS.as_bytes())?;
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

    use super::{COWBACK_SECTIONS, COWBACKD_SECTIONS};

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
    fn the_daemons_page_has_each_setting_of_the_configuration_file() {
        let settings = include_str!("../../cowbackd.toml")
            .lines()
            .filter_map(|line| line.strip_prefix('#')?.split_once(" = "))
            .filter(|(name, _)| !name.starts_with(' '));
        let mut count = 0;
        for (name, _) in settings {
            count += 1;
            let title = format!(".TP\n.B {}\n", name.replace('-', "\\-"));
            assert!(COWBACKD_SECTIONS.contains(&title), "{name}");
            let option = cowbackd::command()
                .get_arguments()
                .any(|argument| argument.get_long() == Some(name));
            assert!(option, "{name} is no option");
        }
        assert_eq!(count, 5);
    }

    #[test]
    fn the_examples_of_the_pages_are_commands_that_there_are() {
        let unescape = |line: &str| line.replace("\\-", "-");
        let mut count = 0;
        for line in [COWBACK_SECTIONS, COWBACKD_SECTIONS].concat().lines() {
            let (line, mut command) = match line.split(' ').next() {
                Some("cowback") => (unescape(line), cowback::command()),
                Some("cowbackd") => (unescape(line), cowbackd::command()),
                _ => continue,
            };
            count += 1;
            let words = line.split_whitespace();
            let parsed = command.try_get_matches_from_mut(words);
            assert!(parsed.is_ok(), "{line}: {parsed:?}");
        }
        assert_eq!(count, 9);
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
