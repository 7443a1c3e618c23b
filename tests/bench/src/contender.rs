//! Who is measured: how each makes its image, and how it is asked.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use blockio::executor::open_executor;
use blockio::image::{CreateOptions, ImageAccess, create};
use blockio::space::SpaceStrategy;

use crate::device::DeviceCounts;
use crate::direct::{self, Session};
use crate::error::{BenchError, Result};
use crate::fio;
use crate::pattern::{Direction, Order, Pattern};
use crate::server::{QemuAio, Server, ServerKind};
use crate::site::Site;
use crate::tool::{self, Side};

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contender {
    /// Ours through the executor, without any protocol.
    Direct,
    /// A raw file or device, by fio alone.
    Raw,
    /// Ours over NBD.
    OursNbd,
    /// `qemu-nbd` on a raw file or device.
    QemuRaw,
    /// `qemu-nbd` on a qcow2 overlay with clusters of 64 KiB, which is the default.
    Qcow2,
    /// The same with subclusters (`extended_l2=on`).
    Qcow2Extended,
}

/// What of the disk is there before a measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// All of it.
    Allocated,
    /// Nothing: an overlay over a base that is full of data, or a sparse file.
    Fresh,
}

/// What contenders need to know of where they are.
pub struct Surroundings<'a> {
    /// Where images go.
    pub site: &'a Site<'a>,
    /// What overlays are made over; not on a device, where there is no room for it.
    pub base: Option<&'a Path>,
    /// A folder for the socket and the like.
    pub scratch: &'a Path,
    /// The program `cowback`.
    pub cowback: &'a Path,
    /// How QEMU does its I/O.
    pub qemu_aio: QemuAio,
}

/// One measurement.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sample {
    /// Reads and writes in a second.
    pub requests_per_second: f64,
    /// What reached the device meanwhile, for each of them.
    pub device_bytes_per_request: f64,
}

impl Contender {
    /// Its name in the report.
    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "ours, no protocol",
            Self::Raw => "raw by fio",
            Self::OursNbd => "ours by NBD",
            Self::QemuRaw => "qemu-nbd raw",
            Self::Qcow2 => "qemu-nbd qcow2",
            Self::Qcow2Extended => "qemu-nbd qcow2 extended_l2",
        }
    }

    fn file_name(self, state: State) -> String {
        let name = match self {
            Self::Direct | Self::OursNbd => "image.cow",
            Self::Raw | Self::QemuRaw => "image.raw",
            Self::Qcow2 | Self::Qcow2Extended => "image.qcow2",
        };
        match state {
            State::Allocated => format!("allocated-{name}"),
            State::Fresh => format!("fresh-{name}"),
        }
    }

    /// Makes the image of a disk of `len` bytes, in the place of any that was there.
    ///
    /// # Errors
    /// If that fails.
    pub fn make_image(self, state: State, len: u64, around: &Surroundings<'_>) -> Result<PathBuf> {
        let image = around.site.path(&self.file_name(state));
        around.site.remove(&image)?;
        match self {
            Self::Direct | Self::OursNbd => make_ours(&image, len, state, around.base)?,
            Self::Raw | Self::QemuRaw => make_raw(&image, len)?,
            Self::Qcow2 => make_qcow2(&image, len, around.base, &[])?,
            Self::Qcow2Extended => make_qcow2(&image, len, around.base, &["-o", "extended_l2=on"])?,
        }
        if state == State::Allocated {
            self.fill(&image, len, around)?;
        }
        around.site.settle()?;
        Ok(image)
    }

    /// Writes the whole disk, from its start to its end.
    fn fill(self, image: &Path, len: u64, around: &Surroundings<'_>) -> Result<()> {
        let pattern = Pattern {
            direction: Direction::Write,
            order: Order::Sequential,
            request_len: 1 << 20,
            count: len >> 20,
            span: len,
            flush_every: len >> 20,
        };
        match self {
            Self::Direct | Self::OursNbd => {
                let executor = open_executor().map_err(BenchError::io("start an executor"))?;
                let mut session = Session::open(image, ImageAccess::Writable, executor)?;
                session.run(&pattern.steps(), 8, None)?;
                session.close()?;
            }
            Self::Raw | Self::QemuRaw => {
                let log = around.scratch.join("requests.log");
                fio::run(fio::Target::File(image), &pattern.steps(), 8, &log)?;
            }
            Self::Qcow2 | Self::Qcow2Extended => {
                unreachable!("only first writes are measured with qcow2")
            }
        }
        Ok(())
    }

    /// Makes the requests, `depth` at a time.
    ///
    /// # Errors
    /// If one of them fails, or the server or the client does.
    pub fn measure(
        self,
        image: &Path,
        pattern: &Pattern,
        depth: usize,
        around: &Surroundings<'_>,
    ) -> Result<Sample> {
        match self {
            Self::Direct => measure_direct(image, pattern, depth, &around.site.stat()),
            Self::Raw => ask_fio(fio::Target::File(image), pattern, depth, around),
            Self::OursNbd => self.serve(
                ServerKind::Cowback(around.cowback),
                image,
                pattern,
                depth,
                around,
            ),
            Self::QemuRaw => self.serve_qemu("raw", image, pattern, depth, around),
            Self::Qcow2 | Self::Qcow2Extended => {
                self.serve_qemu("qcow2", image, pattern, depth, around)
            }
        }
    }
    fn serve_qemu(
        self,
        format: &'static str,
        image: &Path,
        pattern: &Pattern,
        depth: usize,
        around: &Surroundings<'_>,
    ) -> Result<Sample> {
        let kind = ServerKind::Qemu {
            format,
            aio: around.qemu_aio,
        };
        self.serve(kind, image, pattern, depth, around)
    }

    fn serve(
        self,
        kind: ServerKind<'_>,
        image: &Path,
        pattern: &Pattern,
        depth: usize,
        around: &Surroundings<'_>,
    ) -> Result<Sample> {
        let server = Server::start(kind, image, &around.scratch.join("nbd.socket"))?;
        let sample = ask_fio(fio::Target::Nbd(server.socket()), pattern, depth, around)?;
        server.stop()?;
        Ok(sample)
    }
}

fn make_ours(image: &Path, len: u64, state: State, base: Option<&Path>) -> Result<()> {
    let options = CreateOptions {
        base: base.filter(|_| state == State::Fresh).map(Path::to_owned),
        size: Some(len),
        force: true,
        ..CreateOptions::default()
    };
    create(image, &options)?;
    Ok(())
}

fn make_raw(image: &Path, len: u64) -> Result<()> {
    if image.exists() {
        return Ok(());
    }
    File::create_new(image)
        .and_then(|file| file.set_len(len))
        .map_err(BenchError::io(format!("make {}", image.display())))
}

fn make_qcow2(image: &Path, len: u64, base: Option<&Path>, options: &[&str]) -> Result<()> {
    let mut command = Command::new("qemu-img");
    command.args(["create", "-q", "-f", "qcow2"]).args(options);
    if let Some(base) = base {
        command.args(["-F", "raw", "-b"]).arg(base);
    }
    command.arg(image).arg(len.to_string());
    tool::run(&mut command)?;
    Ok(())
}

fn measure_direct(image: &Path, pattern: &Pattern, depth: usize, stat: &Path) -> Result<Sample> {
    let measured = drive(image, pattern, depth, SpaceStrategy::Auto, stat)?;
    Ok(Sample {
        requests_per_second: measured.requests_per_second(),
        device_bytes_per_request: per_request(
            measured.device.unwrap_or_default(),
            measured.requests,
        ),
    })
}

/// Runs this program's own driver, on the client's processor as fio would be.
///
/// # Errors
/// If it fails.
pub fn drive(
    image: &Path,
    pattern: &Pattern,
    depth: usize,
    space: SpaceStrategy,
    stat: &Path,
) -> Result<direct::Measured> {
    let program = std::env::current_exe().map_err(BenchError::io("find this program"))?;
    let mut command = Side::Client.command(&program.to_string_lossy());
    command.arg("direct").arg(image).args(pattern.arguments());
    command
        .arg(format!("--iodepth={depth}"))
        .arg(format!("--allocation={space}"))
        .arg("--stat")
        .arg(stat)
        .arg("--json");
    let output = tool::run(&mut command)?;
    serde_json::from_str(&output).map_err(|cause| BenchError::Output {
        command: tool::line(&command),
        problem: cause.to_string(),
    })
}

fn ask_fio(
    target: fio::Target<'_>,
    pattern: &Pattern,
    depth: usize,
    around: &Surroundings<'_>,
) -> Result<Sample> {
    let stat = around.site.stat();
    let counts =
        || DeviceCounts::read(&stat).map_err(BenchError::io(format!("read {}", stat.display())));
    let before = counts()?;
    let measured = fio::run(
        target,
        &pattern.steps(),
        depth,
        &around.scratch.join("requests.log"),
    )?;
    Ok(Sample {
        requests_per_second: measured.requests_per_second(),
        device_bytes_per_request: per_request(counts()?.since(before), measured.requests),
    })
}

fn per_request(counts: DeviceCounts, requests: u64) -> f64 {
    counts.bytes_written as f64 / requests as f64
}
