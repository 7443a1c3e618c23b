//! `cowbackd --check-config`, as a person runs it before a restart.

use std::fs;
use std::process::{Command, Output};

/// What the command says of such a file.
fn check(text: &str) -> Output {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("c.toml"), text).unwrap();
    Command::new(env!("CARGO_BIN_EXE_cowbackd"))
        .args(["--config", "c.toml", "--check-config"])
        .args(["--runtime-dir", "run"])
        .env_remove("COWBACKD_LOG")
        .current_dir(folder.path())
        .output()
        .unwrap()
}

#[test]
fn a_good_file_and_what_comes_of_it() {
    let output = check("log = 'warn'\n");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let said = String::from_utf8(output.stdout).unwrap();
    let lines: Vec<_> = said.lines().collect();
    // A relative folder on the command line is one of where it was given.
    assert!(lines[0].starts_with("runtime-dir = \"/"), "{said}");
    assert!(lines[0].ends_with("/run\""), "{said}");
    assert!(lines[1].starts_with("# workers = "), "{said}");
    assert_eq!(lines.last(), Some(&"log = \"warn\""));
}

#[test]
fn a_bad_file_is_refused_with_its_line() {
    for (text, part) in [
        ("worker = 2\n", "unknown field `worker`"),
        (
            "workers = 1000\n",
            "c.toml: workers: 1000 is not between 1 and 256",
        ),
        ("log = 'inof'\n", "c.toml: log: \"inof\""),
    ] {
        let output = check(text);
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(
            said.starts_with("cowbackd: ") && said.contains(part),
            "{said}"
        );
        assert!(output.stdout.is_empty());
    }
}
