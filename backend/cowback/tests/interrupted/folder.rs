//! A folder with disks, that can be put back to what it was.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use tempfile::TempDir;

const KIB: u64 = 1 << 10;

/// Far longer than the kernel takes, however busy the machine is.
const LOCKS_MAX: Duration = Duration::from_secs(120);

/// Disks, and copies of them.
pub(crate) struct Folder {
    disks: TempDir,
    copies: TempDir,
}

impl Folder {
    pub(crate) fn new() -> Self {
        Self {
            disks: TempDir::new().unwrap(),
            copies: TempDir::new().unwrap(),
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.disks.path().join(name)
    }

    /// Where the copy of a disk is, as it was at the beginning.
    pub(crate) fn copy_of(&self, name: &str) -> PathBuf {
        self.copies.path().join(name)
    }

    /// The command line, in this folder.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        self.prefixed(&[], arguments)
    }

    /// The command line behind another command, in this folder.
    pub(crate) fn prefixed(&self, prefix: &[&str], arguments: &[&str]) -> Command {
        let mut words = prefix.iter().chain([&env!("CARGO_BIN_EXE_cowback")]);
        let mut command = Command::new(words.next().unwrap());
        command
            .args(words)
            .args(arguments)
            .current_dir(self.disks.path());
        command
    }

    /// Runs the command line until no file is locked by the dead: the kernel finishes the I/O of a killed process when it
    /// comes to it, and has no event for that.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        let begun = Instant::now();
        loop {
            let output = self.command(arguments).output().unwrap();
            let is_locked = String::from_utf8_lossy(&output.stderr).contains("is in use by");
            if !is_locked || begun.elapsed() > LOCKS_MAX {
                return output;
            }
        }
    }

    /// Runs the command line, which must succeed.
    pub(crate) fn cowback(&self, arguments: &[&str]) -> Output {
        let output = self.run(arguments);
        assert!(
            output.status.success(),
            "cowback {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        output
    }

    /// A raw disk with data in ranges (start and length in KiB, and the byte), and holes elsewhere.
    pub(crate) fn raw(&self, name: &str, size: u64, data: &[(u64, u64, u8)]) {
        let file = fs::File::create(self.path(name)).unwrap();
        file.set_len(size).unwrap();
        for (start, len, byte) in data {
            let bytes = vec![*byte; usize::try_from(len * KIB).unwrap()];
            file.write_all_at(&bytes, start * KIB).unwrap();
        }
    }

    /// An overlay that holds these ranges.
    pub(crate) fn overlay(&self, name: &str, base: &str, data: &[(u64, u64, u8)]) {
        self.cowback(&["create", name, "--base", base]);
        self.fill(name, data);
    }

    /// Makes an image hold these ranges and show what it did elsewhere: by way of a raw disk that is converted to an
    /// overlay of what the image stands on.
    pub(crate) fn fill(&self, name: &str, data: &[(u64, u64, u8)]) {
        let info = self.cowback(&["info", "--json", name]);
        let info: serde_json::Value = serde_json::from_slice(&info.stdout).unwrap();
        let base = info["base"]["path"].as_str().unwrap();
        let block_size = info["block_size_bytes"].to_string();
        self.cowback(&["convert", name, "filling.img"]);
        let file = fs::File::options()
            .write(true)
            .open(self.path("filling.img"))
            .unwrap();
        for (start, len, byte) in data {
            let bytes = vec![*byte; usize::try_from(len * KIB).unwrap()];
            file.write_all_at(&bytes, start * KIB).unwrap();
        }
        fs::remove_file(self.path(name)).unwrap();
        let format = [
            "--format",
            "dscow",
            "--base",
            base,
            "--block-size",
            &block_size,
        ];
        self.cowback(&[&["convert", "filling.img", name], &format[..]].concat());
        fs::remove_file(self.path("filling.img")).unwrap();
    }

    /// Changes a byte of a file.
    pub(crate) fn damage(&self, name: &str, offset: u64, byte: u8) {
        let file = fs::File::options().write(true).open(self.path(name));
        file.unwrap().write_all_at(&[byte], offset).unwrap();
    }

    /// What a disk shows, as a raw disk outside of this folder.
    pub(crate) fn show(&self, name: &str, to: &Path) {
        self.cowback(&["convert", name, to.to_str().unwrap()]);
    }

    /// Keeps copies of all disks. Times of modification are kept, since they identify bases.
    pub(crate) fn keep_copies(&self) {
        for entry in fs::read_dir(self.disks.path()).unwrap() {
            copy(&entry.unwrap().path(), self.copies.path());
        }
    }

    /// Puts all disks back, and removes what was not there.
    pub(crate) fn restore(&self) {
        for entry in fs::read_dir(self.disks.path()).unwrap() {
            fs::remove_file(entry.unwrap().path()).unwrap();
        }
        for entry in fs::read_dir(self.copies.path()).unwrap() {
            copy(&entry.unwrap().path(), self.disks.path());
        }
    }

    /// The names of all files, in order.
    pub(crate) fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.disks.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

fn copy(file: &Path, to: &Path) {
    let status = Command::new("cp")
        .args(["--sparse=always", "--preserve=timestamps"])
        .args([file, to])
        .status()
        .unwrap();
    assert!(status.success());
}
