//! Failures, as programs see them.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::process::Command;

use serde_json::{Value, json};

use crate::folder::Folder;

/// Whatever takes `--json`, and cannot do what it is asked for.
const FAILS: [&str; 12] = [
    "create --json top.cow --size 1M",
    "info --json nothing",
    "check --json nothing",
    "map --json nothing",
    "diff --json nothing top.cow",
    "diff --json top.cow nothing",
    "convert --json top.cow base.img",
    "commit --json --sole-overlay nothing",
    "export --json --socket sock nothing",
    "rebase --json --base nothing top.cow",
    "resize --json top.cow 1M",
    "list --json --socket nothing",
];

#[test]
fn a_command_that_fails_prints_one_object_and_a_sentence() {
    let folder = Folder::with_overlay();
    for line in FAILS {
        let output = folder.run(line);
        assert_eq!(output.status.code(), Some(1), "{line}");
        let sentence = String::from_utf8(output.stderr).unwrap();
        let sentence = sentence.strip_prefix("cowback: ").unwrap().trim_end();
        let document: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(document, json!({ "error": sentence }), "{line}");
    }
    let output = folder.run("convert --json --base base.img top.cow new.img");
    assert_eq!(output.status.code(), Some(2));
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(document["error"].is_string(), "{document}");
}

#[test]
fn a_command_that_fails_prints_nothing_else() {
    let folder = Folder::with_overlay();
    for line in [
        "map nothing",
        "diff nothing top.cow",
        "diff top.cow nothing",
    ] {
        let output = folder.run(line);
        assert_eq!(output.status.code(), Some(1), "{line}");
        assert_eq!(String::from_utf8(output.stdout).unwrap(), "", "{line}");
    }
}

/// A list may be longer than memory, so what comes first is out when the rest fails.
#[test]
fn a_list_that_breaks_off_says_why_and_stays_json() {
    let folder = Folder::with_overlay();
    let file = File::create(folder.path("holes.img")).unwrap();
    file.set_len(48 << 20).unwrap();
    for i in 0..6000 {
        file.write_all_at(&[1; 4096], i * 8192).unwrap();
    }
    for (line, list) in [
        ("map --json holes.img", "extents"),
        ("diff --json holes.img base.img", "differences"),
    ] {
        // The kernel is made to fail when it is asked for the 10000th time where the next data or hole is.
        let output = Command::new("strace")
            .args(["-f", "-qq", "-o", "/dev/null", "-e", "trace=lseek"])
            .args(["-e", "inject=lseek:error=EIO:when=10000+"])
            .arg(env!("CARGO_BIN_EXE_cowback"))
            .args(line.split(' '))
            .current_dir(folder.path("."))
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(1), "{line}");
        let sentence = String::from_utf8(output.stderr).unwrap();
        assert!(
            sentence.contains("holes.img: cannot find out"),
            "{sentence}"
        );
        let document: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(
            document["error"],
            sentence.strip_prefix("cowback: ").unwrap().trim_end()
        );
        assert!(document[list].as_array().unwrap().len() > 100, "{document}");
    }
}

#[test]
fn commands_in_messages_can_be_given() {
    let folder = Folder::with_overlay();
    // A commit that fails in the middle, because the base cannot be written, leaves it under way.
    let output = Command::new("strace")
        .args(["-f", "-qq", "-o", "/dev/null"])
        .args(["-e", "inject=io_uring_setup:error=ENOSYS"])
        .args([
            "-e",
            "inject=fallocate:error=EIO",
            "-e",
            "inject=pwritev,pwritev2:error=EIO",
        ])
        .arg(env!("CARGO_BIN_EXE_cowback"))
        .args(["commit", "--sole-overlay", "top.cow"])
        .current_dir(folder.path("."))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let wanted = "cowback commit --sole-overlay top.cow";
    let info = String::from_utf8(folder.run("info top.cow").stdout).unwrap();
    assert!(info.contains(wanted), "{info}");
    let said = String::from_utf8(folder.run("rebase --no-base top.cow").stderr).unwrap();
    assert!(said.contains(wanted), "{said}");
    assert!(folder.run(&wanted["cowback ".len()..]).status.success());
    let said = String::from_utf8(folder.run("info top.cow").stdout).unwrap();
    assert!(!said.contains("under way"), "{said}");
}

#[test]
fn info_goes_by_what_the_image_records_of_its_base() {
    let folder = Folder::with_overlay();
    folder.succeeds(&["create", "upper.cow", "--base", "top.cow"]);
    let base = |line: &str| {
        let output = String::from_utf8(folder.run(line).stdout).unwrap();
        output[output.find("base:").unwrap()..].to_owned()
    };
    assert!(base("info upper.cow").contains("top.cow (dscow)"));
    assert!(base("info upper.cow").contains("base.img (raw)"));
    fs::write(folder.path("top.cow"), "something else").unwrap();
    let said = base("info upper.cow");
    assert!(said.contains("top.cow (dscow)"), "{said}");
    assert!(said.contains("top.cow: is not a dscow image"), "{said}");
    fs::remove_file(folder.path("top.cow")).unwrap();
    let said = base("info upper.cow");
    assert!(said.contains("top.cow (dscow)"), "{said}");
    assert!(said.contains("top.cow: does not exist"), "{said}");
}
