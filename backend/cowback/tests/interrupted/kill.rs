//! Kills a command at every point, and looks at what it left.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Output;

use tempfile::TempDir;

use crate::folder::Folder;

/// The calls by which anything is changed or made durable.
const CALLS: [&str; 9] = [
    "pwrite64",
    "pwritev",
    "pwritev2",
    "io_uring_enter",
    "fdatasync",
    "fsync",
    "fallocate",
    "ftruncate",
    "linkat",
];

/// Far more than a command on these small disks makes: a loop that does not end is a fault of its own.
const CALLS_MAX: u32 = 2000;

/// A command to be killed.
pub(crate) struct Scenario {
    /// Makes the disks.
    pub(crate) prepare: fn(&Folder),
    pub(crate) command: &'static [&'static str],
    /// Images that must be valid at every moment.
    pub(crate) images: &'static [&'static str],
    /// Disks that must show at every moment what they did.
    pub(crate) keeps: &'static [&'static str],
    /// Disks that show in the end what another showed at the beginning.
    pub(crate) ends_as: &'static [(&'static str, &'static str)],
}

impl Scenario {
    pub(crate) fn run(&self) {
        let folder = Folder::new();
        (self.prepare)(&folder);
        folder.keep_copies();
        let shown = TempDir::new().unwrap();
        for name in self.keeps {
            folder.show(name, &shown.path().join(name));
        }
        for io_uring in [true, false] {
            let kills: u32 = self
                .calls_made(&folder, io_uring)
                .into_iter()
                .map(|call| self.kill_at_each(&folder, shown.path(), call, io_uring))
                .sum();
            eprintln!(
                "{:?}: killed {kills} times (io_uring: {io_uring})",
                self.command
            );
            // Threads each count their own calls, so there are fewer then.
            assert!(kills >= 5, "the calls by which it writes are others");
        }
    }

    /// The calls that the command makes when nobody kills it.
    fn calls_made(&self, folder: &Folder, io_uring: bool) -> Vec<&'static str> {
        folder.restore();
        let log = TempDir::new().unwrap();
        let log = log.path().join("calls");
        let trace = format!("--trace=io_uring_setup,{}", CALLS.join(","));
        let strace = ["-o", log.to_str().unwrap(), &trace];
        let output = self.traced(folder, &strace, io_uring);
        assert!(output.status.success(), "{output:?}");
        let log = fs::read_to_string(log).unwrap();
        let is_made = |call: &&str| log.contains(&format!(" {call}("));
        CALLS.into_iter().filter(is_made).collect()
    }

    /// Runs the command under `strace` with these options.
    fn traced(&self, folder: &Folder, options: &[&str], io_uring: bool) -> Output {
        let mut strace = [&["strace", "-f", "-qq"], options].concat();
        if !io_uring {
            strace.push("--inject=io_uring_setup:error=ENOSYS");
        }
        let mut command = folder.prefixed(&strace, self.command);
        command.output().expect("strace is installed")
    }

    /// Kills at the first, second, ... call of a kind until the command gets through; returns how often.
    fn kill_at_each(&self, folder: &Folder, shown: &Path, call: &str, io_uring: bool) -> u32 {
        for n in 1..CALLS_MAX {
            folder.restore();
            let what = format!("{call} number {n}, io_uring: {io_uring}");
            let was_killed = self.kill_at(folder, call, n, io_uring);
            if was_killed {
                self.check_after_kill(folder, shown, &what);
                folder.cowback(self.command);
            }
            self.check_at_end(folder, shown, &what);
            if !was_killed {
                return n - 1;
            }
        }
        panic!("{call} is called more than {CALLS_MAX} times")
    }

    fn kill_at(&self, folder: &Folder, call: &str, n: u32, io_uring: bool) -> bool {
        let kill = format!("--inject={call}:signal=SIGKILL:when={n}");
        let output = self.traced(folder, &["-o", "/dev/null", &kill], io_uring);
        let error = String::from_utf8_lossy(&output.stderr);
        match output.status.signal() {
            // strace ends as the traced process did.
            Some(9) => true,
            _ if output.status.success() => false,
            _ => panic!("{}: {error}", output.status),
        }
    }

    fn check_after_kill(&self, folder: &Folder, shown: &Path, what: &str) {
        for image in self.images {
            folder.cowback(&["check", image]);
        }
        self.check_contents(folder, shown, what);
        let known = folder.names();
        for name in known {
            let is_expected = folder.copy_of(&name).exists()
                || self.ends_as.iter().any(|(result, _)| *result == name);
            assert!(is_expected, "{name} is left behind ({what})");
            // A result is there completely or not at all.
            if !folder.copy_of(&name).exists() {
                self.check_results(folder, shown, what);
            }
        }
        // What does not replace anything must not be in the way of the next attempt.
        for (result, _) in self.ends_as {
            if !folder.copy_of(result).exists() {
                let _ = fs::remove_file(folder.path(result));
            }
        }
    }

    fn check_at_end(&self, folder: &Folder, shown: &Path, what: &str) {
        for image in self.images {
            folder.cowback(&["check", image]);
        }
        self.check_contents(folder, shown, what);
        self.check_results(folder, shown, what);
    }

    fn check_contents(&self, folder: &Folder, shown: &Path, what: &str) {
        for name in self.keeps {
            same(folder, name, &shown.join(name), what);
        }
    }

    fn check_results(&self, folder: &Folder, shown: &Path, what: &str) {
        for (result, origin) in self.ends_as {
            same(folder, result, &shown.join(origin), what);
        }
    }
}

/// Compares a disk with what it must show.
fn same(folder: &Folder, name: &str, expected: &Path, what: &str) {
    let expected = expected.to_str().unwrap();
    let output = folder.run(&["diff", "--compare", "--exit-code", name, expected]);
    assert!(
        output.status.success(),
        "{name} shows something else after {what}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}
