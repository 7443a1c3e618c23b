//! Asking fio to make requests, and reading what it measured.
//!
//! fio gets the requests as a log to replay, not as options: so they are the same, in the same order, for every peer
//! and for the driver without fio, and there are exactly as many flushes as asked for. (With `fsync=32`, fio 3.33
//! issues several flushes in a row at depth 32, and how many depends on how fast they are answered.)

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde::Deserialize;

use crate::error::{BenchError, Result};
use crate::pattern::Step;
use crate::tool::{self, Side};

/// What fio talks to.
#[derive(Clone, Copy, Debug)]
pub enum Target<'a> {
    /// A file or block device, with io_uring, past the page cache.
    File(&'a Path),
    /// The same, through the page cache.
    Cached(&'a Path),
    /// An NBD server on this socket.
    Nbd(&'a Path),
}

/// What fio measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Measured {
    /// Reads and writes.
    pub requests: u64,
    /// Flushes.
    pub flushes: u64,
    /// Wall time from the first request to the last answer, in milliseconds, which is how fio counts.
    pub elapsed_ms: u64,
}

impl Measured {
    /// Reads and writes in a second.
    pub fn requests_per_second(&self) -> f64 {
        self.requests as f64 * 1000.0 / self.elapsed_ms.max(1) as f64
    }
}

/// Lets fio make the requests, `depth` at a time. `log` is a file to hold them, which is replaced.
///
/// # Errors
/// If fio fails, or did not make exactly these requests.
pub fn run(target: Target<'_>, steps: &[Step], depth: usize, log: &Path) -> Result<Measured> {
    fs::write(log, iolog(target, steps))
        .map_err(BenchError::io(format!("write {}", log.display())))?;
    let mut command = command(target, depth, log);
    let output = tool::run(&mut command)?;
    let unusable = |problem: String| BenchError::Output {
        command: tool::line(&command),
        problem,
    };
    let measured = parse(&output).map_err(unusable)?;
    let flushes = steps.iter().filter(|step| **step == Step::Flush).count() as u64;
    let requests = steps.len() as u64 - flushes;
    if (measured.requests, measured.flushes) != (requests, flushes) {
        return Err(unusable(format!(
            "{} requests and {} flushes instead of {requests} and {flushes}",
            measured.requests, measured.flushes
        )));
    }
    Ok(measured)
}

fn command(target: Target<'_>, depth: usize, log: &Path) -> Command {
    let mut command = Side::Client.command("fio");
    command.args([
        "--name=bench",
        "--output-format=json",
        "--replay_no_stall=1",
        "--gtod_reduce=1",
    ]);
    command
        .arg(format!("--iodepth={depth}"))
        .arg(format!("--read_iolog={}", log.display()));
    match target {
        Target::File(_) => command.args(["--ioengine=io_uring", "--direct=1"]),
        Target::Cached(_) => command.args(["--ioengine=io_uring", "--direct=0"]),
        Target::Nbd(socket) => command
            .arg("--ioengine=nbd")
            .arg(format!("--uri=nbd+unix:///?socket={}", socket.display())),
    };
    command
}

/// The requests as fio's log, version 2 (fio's HOWTO, "Trace file format v2").
fn iolog(target: Target<'_>, steps: &[Step]) -> String {
    let file = match target {
        Target::File(path) | Target::Cached(path) => path.display().to_string(),
        // fio's NBD engine gives its one "file" this name.
        Target::Nbd(_) => "nbd".to_owned(),
    };
    let mut log = format!("fio version 2 iolog\n{file} add\n{file} open\n");
    for step in steps {
        match step {
            Step::Read(range) => writeln!(log, "{file} read {} {}", range.start.0, range.len),
            Step::Write(range) => writeln!(log, "{file} write {} {}", range.start.0, range.len),
            Step::Flush => writeln!(log, "{file} sync 0 0"),
        }
        .expect("a string takes everything");
    }
    log.push_str(&file);
    log.push_str(" close\n");
    log
}

#[derive(Deserialize)]
struct Output {
    jobs: [Job; 1],
}

#[derive(Deserialize)]
struct Job {
    error: i32,
    read: Transfers,
    write: Transfers,
    sync: Syncs,
}

#[derive(Deserialize)]
struct Transfers {
    total_ios: u64,
    runtime: u64,
}

#[derive(Deserialize)]
struct Syncs {
    total_ios: u64,
}

/// What fio's JSON says. Notices may come before it.
fn parse(output: &str) -> std::result::Result<Measured, String> {
    let start = output.find('{').ok_or("no JSON")?;
    let output: Output =
        serde_json::from_str(&output[start..]).map_err(|cause| cause.to_string())?;
    let [job] = output.jobs;
    if job.error != 0 {
        return Err(format!("its job failed with errno {}", job.error));
    }
    Ok(Measured {
        requests: job.read.total_ios + job.write.total_ios,
        flushes: job.sync.total_ios,
        elapsed_ms: job.read.runtime.max(job.write.runtime),
    })
}

#[cfg(test)]
mod tests {
    use dscow::units::DiskRange;

    use super::*;

    /// What fio 3.33 printed for 512 writes and 16 flushes, without the parts that are not looked at.
    const OUTPUT: &str = r#"fio: connected to NBD server
{
  "fio version" : "fio-3.33",
  "jobs" : [
    {
      "jobname" : "bench", "error" : 0,
      "read" : { "io_bytes" : 0, "iops" : 0.0, "runtime" : 0, "total_ios" : 0 },
      "write" : { "io_bytes" : 2097152, "iops" : 42666.666667, "runtime" : 12, "total_ios" : 512 },
      "sync" : { "total_ios" : 16, "lat_ns" : { "min" : 0 } }
    }
  ],
  "disk_util" : []
}
"#;

    #[test]
    fn figures_are_found_behind_notices() {
        let expected = Measured {
            requests: 512,
            flushes: 16,
            elapsed_ms: 12,
        };
        let measured = parse(OUTPUT).unwrap();
        assert_eq!(measured, expected);
        assert!((measured.requests_per_second() - 42_666.67).abs() < 0.01);
    }

    #[test]
    fn what_is_not_a_result_is_refused() {
        let failed = OUTPUT.replace("\"error\" : 0", "\"error\" : 5");
        assert_eq!(
            parse(&failed),
            Err("its job failed with errno 5".to_owned())
        );
        assert_eq!(parse("fio: cannot connect"), Err("no JSON".to_owned()));
        assert!(parse("{}").is_err());
    }

    #[test]
    fn the_log_has_every_step_in_order() {
        let steps = [
            Step::Write(DiskRange::new(8192, 4096)),
            Step::Flush,
            Step::Read(DiskRange::new(0, 512)),
        ];
        let expected = "fio version 2 iolog\n/x add\n/x open\n/x write 8192 4096\n/x sync 0 0\n/x read 0 512\n/x close\n";
        assert_eq!(iolog(Target::File(Path::new("/x")), &steps), expected);
        let over_nbd = iolog(Target::Nbd(Path::new("/socket")), &steps);
        assert_eq!(over_nbd, expected.replace("/x", "nbd"));
    }
}
