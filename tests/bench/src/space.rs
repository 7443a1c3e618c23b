//! How much room an overlay takes for what a guest writes: a Debian installation, through NBD.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use blockio::buffer::AlignedBuf;
use blockio::executor::open_executor;
use blockio::image::{CreateOptions, ImageAccess, create, inspect};
use dscow::engine::Request;
use dscow::units::DiskRange;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::contender::Surroundings;
use crate::device::DeviceCounts;
use crate::direct::Session;
use crate::error::{BenchError, Result};
use crate::report::{Figure, Row, Target, Unit};
use crate::server::{Server, ServerKind};
use crate::site::Mounted;
use crate::tool;

/// Bytes of the guest's disk.
const DISK: u64 = 4 << 30;

/// How long the disk may take to appear.
const PATIENCE: Timespec = Timespec {
    tv_sec: 30,
    tv_nsec: 0,
};

/// Installs Debian into a fresh overlay and compares the room that it takes with what was written.
///
/// # Errors
/// If that fails, such as without a mirror to install from.
pub fn measure(only: Option<&str>, around: &Surroundings<'_>) -> Result<Vec<Row>> {
    if only.is_some_and(|only| !"open-space".contains(only)) {
        return Ok(Vec::new());
    }
    tool::show("installing Debian into an overlay");
    let base = around.site.path("empty.raw");
    File::create_new(&base)
        .and_then(|file| file.set_len(DISK))
        .map_err(BenchError::io("make a base"))?;
    let image = around.site.path("debian.cow");
    let options = CreateOptions {
        base: Some(base.clone()),
        ..CreateOptions::default()
    };
    create(&image, &options)?;
    let server = Server::start(
        ServerKind::Cowback(around.cowback),
        &image,
        &around.scratch.join("nbd.socket"),
    )?;
    let sent = install(&server, around)?;
    server.stop()?;
    let found = inspect(&image)?;
    let data = bytes_of_data(&image)?;
    around.site.remove(&image)?;
    around.site.remove(&base)?;
    tool::show("");

    let taken = Figure::new("the overlay's file", vec![found.storage_bytes as f64]);
    let row = |work, peer: Figure| {
        Row::of("open-space", work, Unit::Bytes, taken.clone())
            .against(peer)
            .at(around.site.kind().name())
    };
    let data = Figure::new("blocks of 4 KiB that are not zeros", vec![data as f64]);
    let all = Figure::new("all that was written", vec![sent as f64]);
    Ok(vec![
        row("a Debian installation in a fresh overlay", data).wanting(Target::RatioAtMost(1.1)),
        row("the same, with what was written again", all),
    ])
}

/// How many bytes of the disk are in blocks of 4 KiB that hold something. The base has none of them.
///
/// Blocks that are allocated are not what room is compared with: the file system also asks for zeros, which take none.
fn bytes_of_data(image: &Path) -> Result<u64> {
    const STEP: usize = 1 << 20;
    let executor = open_executor().map_err(BenchError::io("start an executor"))?;
    let mut session = Session::open(image, ImageAccess::ReadOnly, executor)?;
    let buffer = AlignedBuf::zeroed(STEP).into_buffer();
    let mut blocks = 0;
    for start in (0..DISK).step_by(STEP) {
        session.request(
            Request::Read(DiskRange::new(start, STEP as u64)),
            buffer.clone(),
        )?;
        let bytes = buffer.to_vec();
        blocks += bytes
            .chunks(4096)
            .filter(|block| block.iter().any(|byte| *byte != 0))
            .count() as u64;
    }
    session.close()?;
    Ok(blocks * 4096)
}

/// Makes a file system on the served disk and installs into it. Gives how many bytes the file system wrote.
fn install(server: &Server, around: &Surroundings<'_>) -> Result<u64> {
    let folder = around.scratch.join("fuse");
    let disk = FuseDisk::mount(server.socket(), &folder)?;
    let device = tool::run(
        Command::new("losetup")
            .args(["--find", "--show"])
            .arg(&disk.file),
    )?;
    let device = PathBuf::from(device.trim());
    let open = File::open(&device).map_err(BenchError::io(format!("open {}", device.display())))?;
    tool::run(Command::new("losetup").arg("--detach").arg(&device))?;
    let stat = Path::new("/sys/block")
        .join(device.file_name().expect("a device has a name"))
        .join("stat");
    let counts =
        || DeviceCounts::read(&stat).map_err(BenchError::io(format!("read {}", stat.display())));

    let before = counts()?;
    // Discarded blocks would count as written and take no room.
    let features = "nodiscard,lazy_itable_init=0,lazy_journal_init=0";
    tool::run(
        Command::new("mkfs.ext4")
            .args(["-q", "-F", "-E", features])
            .arg(&device),
    )?;
    let root = around.scratch.join("guest");
    let root = Mounted::new(&device, root)?;
    tool::run(
        Command::new("mmdebstrap")
            .args(["--variant=minbase", "--mode=root", "trixie"])
            .arg(root.folder())
            .arg(mirror()?),
    )?;
    root.unmount()?;
    let sent = counts()?.since(before).bytes_written;
    drop(open);
    disk.unmount()?;
    Ok(sent)
}

/// The mirror to install from: `DEBIAN_MIRROR`, else what this host's apt uses.
fn mirror() -> Result<String> {
    if let Ok(mirror) = env::var("DEBIAN_MIRROR") {
        return Ok(mirror);
    }
    let mut command = Command::new("apt-get");
    let sites = tool::run(command.args(["indextargets", "--format", "$(SITE)", "Label: Debian"]))?;
    sites
        .lines()
        .next()
        .map(str::to_owned)
        .ok_or_else(|| BenchError::Output {
            command: tool::line(&command),
            problem: "no mirror; name one in DEBIAN_MIRROR".to_owned(),
        })
}

/// The disk of an NBD server as a file.
struct FuseDisk {
    nbdfuse: Child,
    folder: PathBuf,
    file: PathBuf,
}

impl FuseDisk {
    fn mount(socket: &Path, folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder).map_err(BenchError::io(format!("make {}", folder.display())))?;
        let file = folder.join("disk");
        let mounts =
            File::open("/proc/self/mounts").map_err(BenchError::io("watch what is mounted"))?;
        let mut command = Command::new("nbdfuse");
        command
            .arg(&file)
            .arg("--unix")
            .arg(socket)
            .stdin(Stdio::null());
        let name = tool::line(&command);
        let mut nbdfuse = command
            .spawn()
            .map_err(BenchError::io(format!("run `{name}`")))?;
        while !file.exists() {
            // The kernel reports each change of the mounts as an exceptional condition.
            let changed = poll(&mut [PollFd::new(&mounts, PollFlags::PRI)], Some(&PATIENCE));
            let ended = nbdfuse
                .try_wait()
                .map_err(BenchError::io(format!("wait for `{name}`")))?;
            if let (Ok(1..), None) = (changed, ended) {
                continue;
            }
            return Err(BenchError::Failed {
                command: name,
                status: ended.map_or("no disk appeared".to_owned(), |status| status.to_string()),
                stderr: "what it said is above".to_owned(),
            });
        }
        Ok(Self {
            nbdfuse,
            folder: folder.to_owned(),
            file,
        })
    }

    fn unmount(mut self) -> Result<()> {
        tool::run(Command::new("umount").arg(&self.folder))?;
        self.nbdfuse
            .wait()
            .map_err(BenchError::io("wait for nbdfuse"))?;
        Ok(())
    }
}

impl Drop for FuseDisk {
    fn drop(&mut self) {
        if let Ok(None) = self.nbdfuse.try_wait() {
            // It is still there after a failure. If this does not work, there is nothing else to try.
            let _ = tool::run(Command::new("umount").arg("--lazy").arg(&self.folder));
            let _ = self.nbdfuse.kill();
        }
    }
}
