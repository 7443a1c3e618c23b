//! The commands that docs/testing.md gives to look at one thing closer, as they stand there.

use std::process::Command;

use simxen::locate::built_file;

#[test]
fn a_thing_can_be_looked_at_closer() {
    let document = include_str!("../../../docs/testing.md");
    let (_, rest) = document.split_once("To look at one thing closer").unwrap();
    let block = rest.split("```").nth(1).unwrap();
    assert!(block.lines().count() > 3, "{block}");
    let commands = block.replace("target/release/bench", env!("CARGO_BIN_EXE_bench"));
    let cowback = built_file("cowback", "cargo build -p cowback").unwrap();
    let path = format!(
        "{}:{}",
        cowback.parent().unwrap().display(),
        std::env::var("PATH").unwrap()
    );
    let folder = tempfile::tempdir().unwrap();
    let output = Command::new("sh")
        .args(["-exc", &commands])
        .env("PATH", path)
        .current_dir(&folder)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}
