//! A folder with images, and the command run in it.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

pub(crate) struct Folder(TempDir);

impl Folder {
    /// A base of 4 MiB with data in its first MiB.
    pub(crate) fn with_base(base: impl AsRef<OsStr>) -> Self {
        let folder = Self(TempDir::new().unwrap());
        let file = File::create(folder.path(base)).unwrap();
        file.set_len(4 << 20).unwrap();
        file.write_all_at(&[1; 1 << 20], 0).unwrap();
        folder
    }

    /// The base, and an overlay over it that holds a block.
    pub(crate) fn with_overlay() -> Self {
        let folder = Self::with_base("base.img");
        fs::copy(folder.path("base.img"), folder.path("full.img")).unwrap();
        let full = File::options().write(true).open(folder.path("full.img"));
        full.unwrap().write_all_at(&[2; 4096], 2 << 20).unwrap();
        let convert = "convert --format dscow --base base.img full.img top.cow";
        folder.succeeds(&convert.split(' ').collect::<Vec<_>>());
        folder
    }

    pub(crate) fn path(&self, name: impl AsRef<OsStr>) -> PathBuf {
        self.0.path().join(name.as_ref())
    }

    pub(crate) fn command(&self, args: &[impl AsRef<OsStr>]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cowback"));
        command.current_dir(&self.0).args(args);
        command
    }

    /// Runs a command line of words without blanks.
    pub(crate) fn run(&self, line: &str) -> Output {
        let args: Vec<&str> = line.split(' ').collect();
        self.command(&args).output().unwrap()
    }

    /// Runs a command that must succeed; returns its output.
    #[track_caller]
    pub(crate) fn succeeds(&self, args: &[impl AsRef<OsStr>]) -> String {
        let output = self.command(args).output().unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{}: {error}", output.status);
        String::from_utf8(output.stdout).unwrap()
    }

    /// An image must be without fault, and closed.
    #[track_caller]
    pub(crate) fn check(&self, image: impl AsRef<OsStr>) {
        let report = self.succeeds(&["check".as_ref(), "--json".as_ref(), image.as_ref()]);
        let report: Value = serde_json::from_str(&report).unwrap();
        assert_eq!(report["closed_cleanly"], true, "{report}");
    }
}
