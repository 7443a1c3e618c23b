//! What a daemon's process uses.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::error::{BenchError, Result};

/// What the daemon uses at a moment.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// Memory of its own, in bytes.
    pub private: u64,
    /// Storage of its run states, which is memory too, in bytes.
    pub run_states: u64,
    /// CPU time of all its threads.
    pub cpu: Duration,
    /// Open descriptors.
    pub descriptors: usize,
}

impl Usage {
    /// What the process uses whose runtime directory is `runtime`.
    ///
    /// # Errors
    /// If the kernel does not say.
    pub fn of(pid: i32, runtime: &Path) -> Result<Self> {
        let status = read(&format!("/proc/{pid}/status"))?;
        let private = status
            .lines()
            .find_map(|line| line.strip_prefix("RssAnon:"))
            .and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok())
            .ok_or_else(|| unusable(pid, "no RssAnon in its status"))?;
        let folder = runtime.join("disks");
        let listing = || BenchError::io(format!("list {}", folder.display()));
        let mut run_states = 0;
        for entry in fs::read_dir(&folder).map_err(listing())? {
            use std::os::unix::fs::MetadataExt;
            run_states += entry
                .and_then(|e| e.metadata())
                .map_err(listing())?
                .blocks()
                * 512;
        }
        let descriptors = format!("/proc/{pid}/fd");
        Ok(Self {
            private: private << 10,
            run_states,
            cpu: threads(pid, |_| true)?,
            descriptors: fs::read_dir(&descriptors)
                .map_err(BenchError::io(format!("list {descriptors}")))?
                .count(),
        })
    }
}

/// CPU time of the daemon's workers.
///
/// # Errors
/// If the kernel does not say.
pub fn worker_cpu(pid: i32) -> Result<Duration> {
    threads(pid, |name| name.starts_with("worker-"))
}

/// The thread of the daemon's first worker.
///
/// # Errors
/// If there is none.
pub fn worker_thread(pid: i32) -> Result<i32> {
    let folder = format!("/proc/{pid}/task");
    let threads = fs::read_dir(&folder).map_err(BenchError::io(format!("list {folder}")))?;
    threads
        .flatten()
        .filter(|thread| {
            fs::read_to_string(thread.path().join("comm")).is_ok_and(|name| name == "worker-0\n")
        })
        .find_map(|thread| thread.file_name().to_str()?.parse().ok())
        .ok_or_else(|| unusable(pid, "no thread called worker-0"))
}

/// CPU time of the threads with certain names (`Documentation/scheduler/sched-stats.rst` of Linux).
fn threads(pid: i32, is_wanted: impl Fn(&str) -> bool) -> Result<Duration> {
    let folder = format!("/proc/{pid}/task");
    let listing = || BenchError::io(format!("list {folder}"));
    let mut sum = Duration::ZERO;
    for entry in fs::read_dir(&folder).map_err(listing())? {
        let thread = entry.map_err(listing())?.path();
        // One that has ended meanwhile counts no more.
        let (Ok(name), Ok(times)) = (
            fs::read_to_string(thread.join("comm")),
            fs::read_to_string(thread.join("schedstat")),
        ) else {
            continue;
        };
        if is_wanted(name.trim()) {
            let ns = times.split(' ').next().and_then(|ns| ns.parse().ok());
            sum += Duration::from_nanos(ns.ok_or_else(|| unusable(pid, "no times"))?);
        }
    }
    Ok(sum)
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(path).map_err(BenchError::io(format!("read {path}")))
}

fn unusable(pid: i32, problem: &str) -> BenchError {
    BenchError::Process {
        pid,
        problem: problem.to_owned(),
    }
}
