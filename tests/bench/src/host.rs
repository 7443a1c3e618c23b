//! Where and with what the benchmark runs.

use std::fs;
use std::process::Command;

use crate::error::{BenchError, Result};
use crate::report::Host;
use crate::server::QemuAio;
use crate::tool;

/// Describes this host.
///
/// # Errors
/// If a program that is needed is missing, or the kernel does not tell what it is.
pub fn describe(qemu_aio: QemuAio) -> Result<Host> {
    let said = |program: &str, arguments: &[&str]| tool::run(Command::new(program).args(arguments));
    let first_line = |text: String| text.lines().next().unwrap_or_default().trim().to_owned();
    let cpuinfo = read("/proc/cpuinfo")?;
    let meminfo = read("/proc/meminfo")?;
    Ok(Host {
        date: first_line(said("date", &["-u", "+%F"])?),
        commit: first_line(said(
            "git",
            &["-c", "safe.directory=*", "describe", "--always", "--dirty"],
        )?),
        kernel: first_line(read("/proc/sys/kernel/osrelease")?),
        cpu: field(&cpuinfo, "model name")
            .unwrap_or("unknown processor")
            .to_owned(),
        cpus: cpuinfo
            .lines()
            .filter(|line| line.starts_with("processor"))
            .count(),
        memory: field(&meminfo, "MemTotal").and_then(kibibytes).unwrap_or(0),
        fio: first_line(said("fio", &["--version"])?),
        qemu: first_line(said("qemu-nbd", &["--version"])?),
        qemu_aio: qemu_aio.name().to_owned(),
    })
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(path).map_err(BenchError::io(format!("read {path}")))
}

/// The value of the first line `name: value`.
fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (key, value) = line.split_once(':')?;
        (key.trim() == name).then(|| value.trim())
    })
}

/// The bytes of `N kB`.
fn kibibytes(text: &str) -> Option<u64> {
    text.strip_suffix(" kB")?
        .parse::<u64>()
        .ok()?
        .checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_by_their_names() {
        let text = "processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\nMemTotal:       24576 kB\n";
        assert_eq!(field(text, "model name"), Some("Some CPU @ 2 GHz"));
        assert_eq!(
            field(text, "MemTotal").and_then(kibibytes),
            Some(24576 * 1024)
        );
        assert_eq!(field(text, "model"), None);
    }
}
