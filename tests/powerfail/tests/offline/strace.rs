//! Runs a process under `strace`, and takes from its log what it does to files and what it makes durable. io_uring, whose
//! operations are no calls, is made to fail, so that threads do the I/O.

use std::path::{Path, PathBuf};
use std::process::Command;

use powerfail::offline::Offline;

use crate::content::Effect;

/// The calls by which a file is changed or made durable, and the one that is made to fail.
const CALLS: &str =
    "pwrite64,pwritev,pwritev2,fdatasync,fsync,sync_file_range,fallocate,ftruncate,io_uring_setup";

/// What a call is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Call {
    Change(Effect),
    /// Makes what was done before durable, and the time of modification only if `all`.
    Sync {
        all: bool,
    },
}

/// A line of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// A thread enters a call.
    Enters(u32, PathBuf, Call),
    /// It returns from it; whether it succeeded.
    Returns(u32, bool),
}

/// Does `command` in a process of its own. Returns its calls in their order.
pub(crate) fn record(command: &Offline, log: &Path) -> Vec<Line> {
    let output = Command::new("strace")
        .args(["-f", "-qq", "-xx", "-y", "-s", "16777216"])
        .arg(format!("--trace={CALLS}"))
        .arg("--inject=io_uring_setup:error=ENOSYS")
        .arg("-o")
        .arg(log)
        .arg(env!("CARGO_BIN_EXE_powerfail"))
        .arg("offline")
        .args(arguments(command))
        .output()
        .expect("strace is installed");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {error}");
    let text = std::fs::read_to_string(log).unwrap();
    text.lines().flat_map(parse).collect()
}

fn arguments(command: &Offline) -> Vec<String> {
    let path = |path: &Path| path.to_str().unwrap().to_owned();
    match command {
        Offline::Commit { image } => vec!["commit".to_owned(), path(image)],
        Offline::Rebase { image, base } => vec!["rebase".to_owned(), path(image), path(base)],
        Offline::Resize { image, size } => {
            vec!["resize".to_owned(), path(image), size.to_string()]
        }
        Offline::Create { image, base } => vec!["create".to_owned(), path(image), path(base)],
        Offline::Write { disk, offset, byte } => vec![
            "write".to_owned(),
            path(disk),
            offset.to_string(),
            byte.to_string(),
        ],
    }
}

/// What a line says: a whole call, one of its ends, or nothing of interest.
fn parse(line: &str) -> Vec<Line> {
    let (thread, rest) = line.split_once(' ').unwrap();
    let thread = thread.parse().unwrap();
    let rest = rest.trim_start();
    if rest.starts_with("io_uring_setup") || rest.starts_with("<... io_uring_setup") {
        return Vec::new();
    }
    if rest.starts_with("<... ") {
        return vec![Line::Returns(thread, succeeded(rest))];
    }
    let (name, arguments) = rest.split_once('(').unwrap();
    let (path, arguments) = file(arguments);
    let Some(call) = call(name, arguments) else {
        return Vec::new();
    };
    let mut lines = vec![Line::Enters(thread, path, call)];
    if !rest.ends_with("<unfinished ...>") {
        lines.push(Line::Returns(thread, succeeded(rest)));
    }
    lines
}

fn succeeded(line: &str) -> bool {
    let (_, result) = line.rsplit_once(" = ").unwrap();
    !result.starts_with('-') && !result.starts_with('?')
}

/// The file behind a descriptor (`3<\x2f...>, ...`), and the arguments that follow.
fn file(arguments: &str) -> (PathBuf, &str) {
    let (_, rest) = arguments.split_once('<').unwrap();
    let (path, rest) = rest.split_once('>').unwrap();
    let path = String::from_utf8(bytes(path)).unwrap();
    (PathBuf::from(path), rest.trim_start_matches(", "))
}

fn call(name: &str, arguments: &str) -> Option<Call> {
    let effect = match name {
        "fdatasync" => return Some(Call::Sync { all: false }),
        "fsync" => return Some(Call::Sync { all: true }),
        "pwrite64" => {
            let (_, numbers) = arguments.rsplit_once("\", ").unwrap();
            Effect::Write {
                offset: numbers_of(numbers)[1],
                data: strings(arguments),
            }
        }
        "pwritev" | "pwritev2" => {
            let (_, numbers) = arguments.rsplit_once("], ").unwrap();
            Effect::Write {
                offset: numbers_of(numbers)[1],
                data: strings(arguments),
            }
        }
        "ftruncate" => Effect::SetLen(numbers_of(arguments)[0]),
        "fallocate" => {
            let (mode, numbers) = arguments.split_once(", ").unwrap();
            let zeroes = mode.contains("PUNCH_HOLE") || mode.contains("ZERO_RANGE");
            assert!(
                mode.contains("KEEP_SIZE"),
                "{mode} makes the file longer, which is not recorded"
            );
            let numbers = numbers_of(numbers);
            let (offset, len) = (numbers[0], numbers[1]);
            if !zeroes {
                return None;
            }
            Effect::Zero { offset, len }
        }
        other => panic!("{other} is not recorded"),
    };
    Some(Call::Change(effect))
}

/// The numbers at the beginning of each of these arguments.
fn numbers_of(arguments: &str) -> Vec<u64> {
    let digits = |argument: &str| -> String {
        let digits = argument.trim_start().chars();
        digits.take_while(char::is_ascii_digit).collect()
    };
    arguments
        .split(',')
        .filter_map(|argument| digits(argument).parse().ok())
        .collect()
}

/// The bytes of all strings, one after the other.
fn strings(arguments: &str) -> Vec<u8> {
    assert!(!arguments.contains("\"..."), "a string is cut off");
    arguments
        .split('"')
        .skip(1)
        .step_by(2)
        .flat_map(bytes)
        .collect()
}

/// `\x2f\x74` and so on.
fn bytes(hex: &str) -> Vec<u8> {
    hex.split("\\x")
        .skip(1)
        .map(|byte| u8::from_str_radix(byte, 16).unwrap())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_is_understood() {
        let path = || PathBuf::from("/t/a");
        let write = |offset, data: &[u8]| {
            Call::Change(Effect::Write {
                offset,
                data: data.to_vec(),
            })
        };
        let file = r"3<\x2f\x74\x2f\x61>";
        for (text, call, ok) in [
            (
                format!(
                    r#"pwritev({file}, [{{iov_base="\x01\x02", iov_len=2}}, {{iov_base="\x03", iov_len=1}}], 2, 4096) = 3"#
                ),
                write(4096, &[1, 2, 3]),
                true,
            ),
            (
                format!(r#"pwrite64({file}, "\x09\x08", 2, 512) = 2"#),
                write(512, &[9, 8]),
                true,
            ),
            (format!("fsync({file}) = 0"), Call::Sync { all: true }, true),
            (
                format!(
                    "fallocate({file}, FALLOC_FL_KEEP_SIZE|FALLOC_FL_PUNCH_HOLE, 8192, 4096) = -1 EOPNOTSUPP (no)"
                ),
                Call::Change(Effect::Zero {
                    offset: 8192,
                    len: 4096,
                }),
                false,
            ),
            (
                format!("ftruncate({file}, 77) = 0"),
                Call::Change(Effect::SetLen(77)),
                true,
            ),
        ] {
            let wanted = [Line::Enters(12, path(), call), Line::Returns(12, ok)];
            assert_eq!(parse(&format!("12    {text}")), wanted);
        }
        let begun = parse(&format!("7 fdatasync({file} <unfinished ...>"));
        assert_eq!(begun, [Line::Enters(7, path(), Call::Sync { all: false })]);
        assert_eq!(
            parse("7 <... fdatasync resumed>) = 0"),
            [Line::Returns(7, true)]
        );
        let reserve = format!("9 fallocate({file}, FALLOC_FL_KEEP_SIZE, 0, 4096) = 0");
        assert_eq!(parse(&reserve), []);
    }
}
