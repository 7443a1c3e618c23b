//! The commands in docs/operations.md that carry disks to other formats and back, as they are written there.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

const MANUAL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/operations.md");

/// The blocks of commands under a heading of the manual.
fn blocks_under(heading: &str) -> Vec<String> {
    let manual = fs::read_to_string(MANUAL).unwrap();
    let section = manual.split("\n## ").find(|part| part.starts_with(heading));
    let section = section.expect("the manual has that heading");
    let blocks = section.split("```\n").skip(1).step_by(2);
    blocks.map(str::to_owned).collect()
}

/// Runs commands of the manual in a folder that stands for theirs.
fn run(script: &str, folder: &Path) {
    let name = folder.to_str().unwrap();
    let script = script.replace("/images", name).replace("/run", name);
    let binaries = Path::new(env!("CARGO_BIN_EXE_cowback")).parent().unwrap();
    let path = format!("{}:{}", binaries.display(), std::env::var("PATH").unwrap());
    let output = Command::new("bash")
        .args(["-euo", "pipefail", "-c", &script])
        .env("PATH", path)
        .output()
        .unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}\n{error}");
}

/// A base of 33 MiB, and an overlay that differs from it in 3 MiB, and is longer by 512 bytes.
fn overlay(folder: &Path) {
    let raw = |name: &str, ranges: &[(u64, usize, u8)]| {
        let file = fs::File::create(folder.join(name)).unwrap();
        file.set_len((33 << 20) + 512).unwrap();
        for (start, len, byte) in ranges {
            file.write_all_at(&vec![*byte; *len], *start).unwrap();
        }
    };
    raw("base.img", &[(0, 9 << 20, 1)]);
    raw(
        "full.img",
        &[(0, 8 << 20, 1), (20 << 20, 2 << 20, 3), (33 << 20, 512, 4)],
    );
    run(
        "cowback convert --format dscow --base /images/base.img /images/full.img /images/vm1.cow",
        folder,
    );
}

fn out_and_in(format: &str, options: &str) {
    let folder = TempDir::new().unwrap();
    let folder = folder.path();
    overlay(folder);
    let blocks = blocks_under("Other formats");
    let [out, into] = &blocks[..] else {
        panic!("two blocks of commands, not {}", blocks.len())
    };
    run(
        &out.replace("-O qcow2", &format!("-O {format} {options}")),
        folder,
    );
    run(&into.replace("-f qcow2", &format!("-f {format}")), folder);
    run(
        "cowback check /images/new.cow
         cowback diff --compare --exit-code /images/new.cow /images/full.img
         test \"$(cowback info --json /images/new.cow | grep allocated_blocks | tr -dc 0-9)\" = 2561",
        folder,
    );
}

#[test]
fn qcow2_out_and_in() {
    out_and_in("qcow2", "");
}

#[test]
fn vhd_out_and_in() {
    out_and_in("vpc", "-o force_size=on");
}

#[test]
fn vmdk_out_and_in() {
    out_and_in("vmdk", "");
}
