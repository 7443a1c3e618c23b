//! Output that cannot be written: the command says so and ends; and nothing that it was doing is broken off for it.

use std::fs::{self, File};
use std::io::{self, PipeWriter};
use std::process::{ExitStatus, Stdio};

use crate::folder::Folder;

/// Every write to it finds no space.
fn full() -> File {
    File::options().write(true).open("/dev/full").unwrap()
}

/// Every write to it finds nobody who reads.
fn broken_pipe() -> PipeWriter {
    io::pipe().unwrap().1
}

/// Whatever prints anything, each with an image of its own.
const PRINTS: [&str; 18] = [
    "create new.cow --size 1M",
    "create --json new.cow --size 1M",
    "info top.cow",
    "info --json top.cow",
    "check top.cow",
    "check --json top.cow",
    "check --repair top.cow",
    "map top.cow",
    "map --json top.cow",
    "map top.cow --picture",
    "diff top.cow base.img",
    "diff --json top.cow base.img",
    "convert top.cow new.img",
    "convert --json top.cow new.img",
    "commit --sole-overlay top.cow",
    "commit --json --sole-overlay top.cow",
    "rebase --no-base top.cow",
    "resize top.cow 5M",
];

#[test]
fn a_full_standard_output_is_an_error_like_others() {
    for line in PRINTS {
        let folder = Folder::with_overlay();
        let args: Vec<&str> = line.split(' ').collect();
        let output = folder.command(&args).stdout(full()).output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{line}: {error}");
        assert!(
            error.starts_with("cowback: cannot write the output: No space left"),
            "{line}: {error}"
        );
        folder.check("top.cow");
    }
}

#[test]
fn who_reads_no_further_gets_no_complaint() {
    for line in PRINTS {
        let folder = Folder::with_overlay();
        let args: Vec<&str> = line.split(' ').collect();
        let output = folder.command(&args).stdout(broken_pipe()).output();
        let output = output.unwrap();
        assert_eq!(output.status.code(), Some(1), "{line}");
        assert_eq!(String::from_utf8(output.stderr).unwrap(), "", "{line}");
        folder.check("top.cow");
    }
}

fn with_stderr(folder: &Folder, line: &str, stderr: impl Into<Stdio>) -> ExitStatus {
    let args: Vec<&str> = line.split(' ').collect();
    folder.command(&args).stderr(stderr).status().unwrap()
}

#[test]
fn progress_that_nobody_can_see_stops_no_work() {
    for line in [
        "convert --progress top.cow new.img",
        "convert --progress --json top.cow new.img",
        "commit --progress --sole-overlay top.cow",
        "rebase --progress --no-base top.cow",
        "diff --progress --compare top.cow base.img",
    ] {
        for is_full in [true, false] {
            let folder = Folder::with_overlay();
            let status = match is_full {
                true => with_stderr(&folder, line, full()),
                false => with_stderr(&folder, line, broken_pipe()),
            };
            assert!(status.success(), "{line}: {status}");
            folder.check("top.cow");
            if line.starts_with("convert") {
                let read = |name| fs::read(folder.path(name)).unwrap();
                assert!(read("new.img") == read("full.img"));
            }
        }
    }
}

#[test]
fn an_error_that_nobody_can_see_has_its_exit_code() {
    let folder = Folder::with_overlay();
    let code = |line| with_stderr(&folder, line, full()).code();
    assert_eq!(code("info nothing.cow"), Some(1));
    assert_eq!(code("convert --base base.img top.cow new.img"), Some(2));
}
