//! `perf`: watching a thread, and what it prints about that.

use std::io::{ErrorKind, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::error::{BenchError, Result};
use crate::tool;

/// Samples of a second of CPU time.
const FREQUENCY: u32 = 2_000;

/// How long a thread is watched.
const SECONDS: u32 = 2;

/// A running `perf record`.
pub(super) struct Recording {
    child: Child,
    line: String,
}

impl Recording {
    /// Begins to watch a thread for [`SECONDS`].
    ///
    /// # Errors
    /// If there is no `perf`.
    pub(super) fn start(thread: i32, data: &Path) -> Result<Self> {
        let mut command = perf("perf");
        command
            .args(["record", "--quiet", "-F", &FREQUENCY.to_string()])
            .args(["-t", &thread.to_string()])
            // Else it copies every program that it meets to root's home.
            .arg("--no-buildid-cache")
            .arg("-o")
            .arg(data)
            .args(["--", "sleep", &SECONDS.to_string()]);
        let child = spawn(&mut command)?;
        let line = tool::line(&command);
        Ok(Self { child, line })
    }

    /// Whether it still watches.
    ///
    /// # Errors
    /// If the kernel does not say.
    pub(super) fn is_going_on(&mut self) -> Result<bool> {
        let status = self.child.try_wait();
        Ok(status
            .map_err(BenchError::io(format!("wait for `{}`", self.line)))?
            .is_none())
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// If it failed, such as where it may not watch others.
    pub(super) fn finish(mut self) -> Result<()> {
        let waiting = || BenchError::io(format!("wait for `{}`", self.line));
        let mut said = String::new();
        if let Some(stderr) = &mut self.child.stderr {
            stderr.read_to_string(&mut said).map_err(waiting())?;
        }
        let status = self.child.wait().map_err(waiting())?;
        if status.success() {
            return Ok(());
        }
        let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
        Err(BenchError::NoProfile(format!(
            "perf may not record here, or cannot: `{}`, {status}: {said}",
            self.line
        )))
    }
}

impl Drop for Recording {
    fn drop(&mut self) {
        // Only where something else failed meanwhile it is still there; then nothing is left to do about it.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A command that does the same whatever the user's settings are, and asks nobody on the network.
fn perf(program: &str) -> Command {
    let mut command = Command::new(program);
    command
        .env("PERF_CONFIG", "/dev/null")
        .env("LC_ALL", "C")
        .env_remove("DEBUGINFOD_URLS");
    command
}

fn spawn(command: &mut Command) -> Result<Child> {
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn();
    child.map_err(|cause| match cause.kind() {
        ErrorKind::NotFound => {
            let program = command.get_program().display();
            let problem = format!("{program} is missing: `make deps-bench` installs it");
            BenchError::NoProfile(problem)
        }
        _ => BenchError::io(format!("run `{}`", tool::line(command)))(cause),
    })
}

/// What `perf` has seen of a thread.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Samples {
    /// What made it look: a clock, or a counter of the processor.
    pub(super) event: String,
    /// The functions that the thread was found in.
    pub(super) symbols: Vec<Symbol>,
}

/// A function that a thread was found in.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Symbol {
    /// How much of the event was counted in it.
    pub(super) period: u64,
    /// How often it was found there.
    pub(super) samples: u64,
    /// The program or library that it is in.
    pub(super) object: String,
    /// Whether it is the kernel's.
    pub(super) is_kernel: bool,
    /// Its name, or an address if it has none.
    pub(super) name: String,
}

impl Samples {
    /// Reads what `perf record` has written.
    ///
    /// # Errors
    /// If `perf report` fails, or prints something else than it does.
    pub(super) fn read(data: &Path) -> Result<Self> {
        let mut command = perf("perf");
        command
            .args(["report", "--no-children", "-g", "none", "--stdio"])
            .args(["-F", "period,sample,dso,symbol", "-t", "\t", "-i"])
            .arg(data);
        let printed = tool::run(&mut command)?;
        parse(&printed).map_err(|problem| BenchError::Output {
            command: tool::line(&command),
            problem,
        })
    }

    /// How many there are.
    pub(super) fn count(&self) -> u64 {
        self.symbols.iter().map(|symbol| symbol.samples).sum()
    }

    /// The share of a count of the event, in percent.
    pub(super) fn percent(&self, period: u64) -> f64 {
        let all: u64 = self.symbols.iter().map(|symbol| symbol.period).sum();
        100.0 * period as f64 / all as f64
    }

    /// The share of functions that have a name, in percent.
    pub(super) fn named_percent(&self) -> f64 {
        let named = self.symbols.iter().filter(|symbol| symbol.is_named());
        self.percent(named.map(|symbol| symbol.period).sum())
    }
}

impl Symbol {
    /// Whether it has a name that people can read: a `perf` that does not know Rust leaves them as the linker has them.
    fn is_named(&self) -> bool {
        !["0x", "_ZN", "_R"]
            .iter()
            .any(|prefix| self.name.starts_with(prefix))
    }
}

/// What `perf report` prints with the fields and the separator of [`Samples::read`]: comments, and one line for each function.
/// A processor with two kinds of cores has an event, and a list, for each.
pub(super) fn parse(text: &str) -> std::result::Result<Samples, String> {
    let event = text
        .lines()
        .filter(|line| line.starts_with("# Samples:"))
        .find_map(|line| line.split('\'').nth(1))
        .unwrap_or("unknown event");
    let lines = text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    Ok(Samples {
        event: event.to_owned(),
        symbols: lines.map(symbol).collect::<std::result::Result<_, _>>()?,
    })
}

fn symbol(line: &str) -> std::result::Result<Symbol, String> {
    let unusable = || format!("not a line about a function: {line:?}");
    let mut fields = line.splitn(4, '\t').map(str::trim);
    let mut field = || fields.next().ok_or_else(unusable);
    let period = field()?.parse().map_err(|_| unusable())?;
    let samples = field()?.parse().map_err(|_| unusable())?;
    let object = field()?.to_owned();
    // `[.]` of a process, `[k]` of the kernel.
    let (level, name) = field()?.split_once(' ').ok_or_else(unusable)?;
    Ok(Symbol {
        period,
        samples,
        object,
        is_kernel: level == "[k]",
        name: name.trim().to_owned(),
    })
}

/// Printed by perf 6.1, shortened, with a function that has no name.
#[cfg(test)]
pub(super) const SAMPLE: &str = "\
# To display the perf.data header info, please use --header/--header-only options.
#
#
# Total Lost Samples: 0
#
# Samples: 20  of event 'cpu-clock:pppH'
# Event count (approx.): 10000000
#
#       Period\t     Samples\tShared Object    \tSymbol
 3000000    \t 6          \t[kernel.kallsyms]\t[k] finish_task_switch.isra.0
 2500000    \t 5          \tbench            \t[.] cowbackd::worker::vbd::take::<impl cowbackd::worker::vbd::Vbd>::serve
 2000000    \t 4          \tlibc.so.6        \t[.] __memmove_avx512_unaligned_erms
 1500000    \t 3          \tbench            \t[.] blkif::back::BackRing<M>::take
 1000000    \t 2          \tbench            \t[.] 0x00000000000a1b2c


";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_perf_prints_is_read() {
        let samples = parse(SAMPLE).unwrap();
        assert_eq!(samples.event, "cpu-clock:pppH");
        assert_eq!((samples.symbols.len(), samples.count()), (5, 20));
        assert_eq!(
            samples.symbols[0],
            Symbol {
                period: 3_000_000,
                samples: 6,
                object: "[kernel.kallsyms]".to_owned(),
                is_kernel: true,
                name: "finish_task_switch.isra.0".to_owned(),
            }
        );
        let ours = &samples.symbols[1];
        assert_eq!(
            (ours.is_kernel, ours.object.as_str(), ours.name.as_str()),
            (
                false,
                "bench",
                "cowbackd::worker::vbd::take::<impl cowbackd::worker::vbd::Vbd>::serve"
            )
        );
        assert_eq!(samples.named_percent().to_bits(), 90.0_f64.to_bits());
    }

    #[test]
    fn a_recording_without_samples_has_none() {
        let samples = parse("# Total Lost Samples: 0\n#\n").unwrap();
        assert_eq!((samples.count(), samples.symbols.len()), (0, 0));
    }

    #[test]
    fn what_is_something_else_is_refused() {
        for text in [
            "13.42%  bench  [.] main",
            "1\t2\tbench",
            "1\tx\tbench\t[.] main",
            "1\t2\tbench\tmain",
        ] {
            let problem = parse(text).unwrap_err();
            assert!(problem.starts_with("not a line about a function"), "{text}");
        }
    }

    #[test]
    fn a_missing_perf_is_a_failure_that_says_what_to_do() {
        let error = spawn(&mut perf("no-such-perf")).unwrap_err();
        assert_eq!(
            error.to_string(),
            "no profile of the worker: no-such-perf is missing: `make deps-bench` installs it"
        );
    }
}
