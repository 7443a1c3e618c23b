//! What the tests of several modules need.

use std::cell::UnsafeCell;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::ptr::NonNull;
use std::rc::Rc;

use tempfile::TempDir;

use crate::buffer::IoMemory;

/// A temporary directory on each kind of file system that this machine has: on disk, and in memory.
pub(crate) fn directories() -> Vec<TempDir> {
    let mut places = vec![std::env::temp_dir()];
    let memory = PathBuf::from("/dev/shm");
    if memory.is_dir() {
        places.push(memory);
    }
    places
        .into_iter()
        .map(|place| tempfile::tempdir_in(place).expect("a temporary directory"))
        .collect()
}

/// Bytes that differ from place to place, so that a piece in the wrong place shows.
pub(crate) fn pattern(len: usize, seed: u8) -> Vec<u8> {
    let cycle = (0..=250).cycle().map(|byte: u8| byte ^ seed);
    cycle.take(len).collect()
}

/// Memory in scattered segments: gaps between them, of bytes that nobody may touch.
pub(crate) struct Scattered {
    memory: UnsafeCell<Vec<u8>>,
    /// Offset and length of each segment in `memory`.
    segments: Vec<(usize, usize)>,
}

impl Scattered {
    /// What the gaps are filled with.
    const GAP: u8 = 0xee;

    /// Segments of these lengths, `gap` bytes apart, filled with `contents` in their order.
    pub(crate) fn new(lengths: &[usize], gap: usize, contents: &[u8]) -> Rc<Self> {
        let mut memory = vec![Self::GAP; gap];
        let mut segments = Vec::new();
        let mut rest = contents;
        for &len in lengths {
            segments.push((memory.len(), len));
            let (now, later) = rest.split_at(len);
            memory.extend_from_slice(now);
            memory.extend(vec![Self::GAP; gap]);
            rest = later;
        }
        Rc::new(Self {
            memory: UnsafeCell::new(memory),
            segments,
        })
    }

    /// Whether no byte outside of the segments has changed.
    pub(crate) fn gaps_are_intact(&self) -> bool {
        // SAFETY: the tests that ask have no operation in flight on this memory, and buffers hold no references.
        let memory = unsafe { &*self.memory.get() };
        let inside = |place: usize| {
            self.segments
                .iter()
                .any(|&(start, len)| (start..start + len).contains(&place))
        };
        memory
            .iter()
            .enumerate()
            .all(|(place, &byte)| inside(place) || byte == Self::GAP)
    }
}

// SAFETY: the vector is never resized, so its memory stays in place until the drop; it is initialised; and the only
// reference to it is the short one in `gaps_are_intact`.
unsafe impl IoMemory for Scattered {
    fn for_each_segment(&self, visit: &mut dyn FnMut(NonNull<u8>, usize)) {
        // SAFETY: no other reference to the vector exists during this call.
        let start = unsafe { (*self.memory.get()).as_mut_ptr() };
        for &(offset, len) in &self.segments {
            let address = start.wrapping_add(offset);
            visit(NonNull::new(address).expect("inside a vector"), len);
        }
    }
}

/// Says loudly that something could not be tested, and why; where tests must be complete (`CI=true`), fails.
pub(crate) fn not_tested(what: &str, why: &str) {
    assert!(
        std::env::var("CI").as_deref() != Ok("true"),
        "{what} cannot be tested here: {why}"
    );
    eprintln!("SKIPPED: {what} cannot be tested here: {why}");
}

/// A loop device over a file, detached when it is dropped.
pub(crate) struct LoopDevice {
    pub(crate) path: PathBuf,
}

impl LoopDevice {
    /// `None` where this machine lets us have none, which needs root.
    pub(crate) fn attach(backing: &Path, arguments: &[&str]) -> Option<Self> {
        let mut command = Command::new("losetup");
        let command = command
            .args(["--find", "--show"])
            .args(arguments)
            .arg(backing);
        let output = match command.output() {
            Ok(output) if output.status.success() => output,
            Ok(output) => {
                not_tested("a block device", &String::from_utf8_lossy(&output.stderr));
                return None;
            }
            Err(cause) => {
                not_tested("a block device", &format!("losetup: {cause}"));
                return None;
            }
        };
        let path = String::from_utf8(output.stdout).unwrap().trim().into();
        Some(Self { path })
    }
}

impl LoopDevice {
    /// Takes notice that the backing file has another size.
    pub(crate) fn follow_size(&self) {
        let done = Command::new("losetup")
            .arg("--set-capacity")
            .arg(&self.path)
            .status();
        assert!(done.unwrap().success());
    }
}

/// A file system of its own, unmounted when it is dropped.
pub(crate) struct FileSystem {
    // In the order in which they must go.
    mounted: Mounted,
    _device: LoopDevice,
    _folder: TempDir,
}

impl FileSystem {
    /// `None` where this machine cannot make or mount one.
    pub(crate) fn mount(kind: &str, len: u64) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let (backing, place) = (folder.path().join("backing"), folder.path().join("mnt"));
        File::create(&backing).unwrap().set_len(len).unwrap();
        std::fs::create_dir(&place).unwrap();
        let device = LoopDevice::attach(&backing, &[])?;
        let made = Command::new(format!("mkfs.{kind}"))
            .arg("-q")
            .arg(&device.path)
            .output();
        if !made.is_ok_and(|made| made.status.success()) {
            not_tested(
                &format!("a file system of type {kind}"),
                "mkfs does not work",
            );
            return None;
        }
        let mounted = Mounted::new(&device.path, &place)?;
        Some(Self {
            mounted,
            _device: device,
            _folder: folder,
        })
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.mounted.place.clone()
    }
}

/// A mounted device, unmounted when it is dropped.
pub(crate) struct Mounted {
    place: PathBuf,
}

impl Mounted {
    /// `None` where this machine cannot mount it.
    pub(crate) fn new(device: &Path, place: &Path) -> Option<Self> {
        Self::by(Command::new("mount").arg(device), place)
    }

    /// A file system in memory: `ramfs`, which can do next to nothing, or `tmpfs`.
    pub(crate) fn in_memory(kind: &str, options: &str, place: &Path) -> Option<Self> {
        let mut mount = Command::new("mount");
        Self::by(mount.args(["-t", kind, "-o", options, "none"]), place)
    }

    fn by(mount: &mut Command, place: &Path) -> Option<Self> {
        match mount.arg(place).output() {
            Ok(done) if done.status.success() => Some(Self {
                place: place.to_owned(),
            }),
            done => {
                not_tested("a mounted file system", &format!("{done:?}"));
                None
            }
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let done = Command::new("umount").arg(&self.place).status();
        if !done.is_ok_and(|status| status.success()) && !std::thread::panicking() {
            panic!("{} stays mounted", self.place.display());
        }
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let detached = Command::new("losetup")
            .arg("--detach")
            .arg(&self.path)
            .status();
        if !detached.is_ok_and(|status| status.success()) && !std::thread::panicking() {
            panic!("{} stays attached", self.path.display());
        }
    }
}
