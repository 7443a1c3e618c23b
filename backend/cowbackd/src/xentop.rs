//! What `xentop` shows of a disk. Of a device of the class vbd3 libxenstat reads a file in memory that is named after the
//! process in the device's node `kthread-pid`, as tapdisk keeps it (`struct vbd3_stats` in Xen's `tools/libs/stat`, since 4.20).

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process;

use control_api::{Latency, Statistics};
use xenstore_glue::{DeviceClass, DeviceId};

/// Where a daemon notes which folder is its own, for the next one to remove should it be killed.
const NOTE: &str = "xentop";

/// Of the file's layout.
const VERSION: u32 = 1;

/// What a file has after its version, in words of 64 bits.
const WORDS: usize = 11;

/// The folder of the files.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    /// Where the next daemon reads of it, if this one is killed.
    note: PathBuf,
}

impl Folder {
    /// Makes the folder in `memory`, a file system in memory, and removes what an earlier daemon of this runtime directory left.
    ///
    /// # Errors
    /// If it cannot be made.
    pub(crate) fn make(memory: &Path, runtime_dir: &Path) -> io::Result<Self> {
        let path = memory.join(format!("td3-{}", process::id()));
        let note = runtime_dir.join(NOTE);
        if let Ok(left) = fs::read_to_string(&note) {
            let left = memory.join(left.trim());
            if left.parent() == Some(memory) {
                // It need not be there any more.
                let _ = fs::remove_dir_all(left);
            }
        }
        fs::create_dir(&path)?;
        let name = path.file_name().unwrap_or_default().as_encoded_bytes();
        fs::write(&note, name)?;
        Ok(Self { path, note })
    }

    /// The file of a device, if xentop looks for one.
    ///
    /// # Errors
    /// If it cannot be made.
    pub(crate) fn file(&self, device: DeviceId) -> io::Result<Option<StatisticsFile>> {
        if device.class != DeviceClass::Vbd3 {
            return Ok(None);
        }
        let path = self
            .path
            .join(format!("vbd-{}-{}", device.domid, device.devid));
        let mut file = StatisticsFile {
            file: File::create(&path)?,
            path,
            words: [u64::MAX; WORDS],
        };
        file.update(&Statistics::default());
        Ok(Some(file))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.note);
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// The file of a device.
#[derive(Debug)]
pub(crate) struct StatisticsFile {
    file: File,
    path: PathBuf,
    /// What it says.
    words: [u64; WORDS],
}

impl StatisticsFile {
    /// Has it say this. Whether it does: if it cannot be written, its figures stand still.
    pub(crate) fn update(&mut self, statistics: &Statistics) -> bool {
        let words = words(statistics);
        if words == self.words {
            return true;
        }
        let head = [VERSION, 0].into_iter().flat_map(u32::to_ne_bytes);
        let bytes: Vec<u8> = head
            .chain(words.into_iter().flat_map(u64::to_ne_bytes))
            .collect();
        // Whoever reads it sees all of it or nothing: the kernel writes so little under a lock.
        let is_written = self.file.write_all_at(&bytes, 0).is_ok();
        if is_written {
            self.words = words;
        }
        is_written
    }
}

impl Drop for StatisticsFile {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
    }
}

/// In the order of the file. Requests are counted when they are answered.
fn words(statistics: &Statistics) -> [u64; WORDS] {
    const SECTOR: u64 = 512;
    let micros = |latency: &Latency| u64::try_from(latency.sum().as_micros()).unwrap_or(u64::MAX);
    [
        statistics.throttles,
        statistics.reads,
        statistics.reads,
        statistics.read_bytes / SECTOR,
        micros(&statistics.latency.read),
        statistics.writes,
        statistics.writes,
        statistics.written_bytes / SECTOR,
        micros(&statistics.latency.write),
        statistics.failed,
        0,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn device(path: &str) -> DeviceId {
        path.parse().unwrap()
    }

    #[test]
    fn a_file_says_what_libxenstat_reads() {
        let memory = tempfile::tempdir().unwrap();
        let folder = Folder::make(memory.path(), memory.path()).unwrap();
        assert!(
            folder
                .file(device("backend/vbd/5/51712"))
                .unwrap()
                .is_none()
        );
        let mut file = folder
            .file(device("backend/vbd3/5/51712"))
            .unwrap()
            .unwrap();
        let path = memory
            .path()
            .join(format!("td3-{}/vbd-5-51712", process::id()));
        let statistics = Statistics {
            reads: 3,
            read_bytes: 4096,
            writes: 2,
            written_bytes: 1024,
            failed: 1,
            ..Statistics::default()
        };
        file.update(&statistics);
        let bytes = fs::read(&path).unwrap();
        assert_eq!(bytes[..8], [1, 0, 0, 0, 0, 0, 0, 0]);
        let words: Vec<u64> = bytes[8..]
            .chunks(8)
            .map(|word| u64::from_ne_bytes(word.try_into().unwrap()))
            .collect();
        assert_eq!(words, [0, 3, 3, 8, 0, 2, 2, 2, 0, 1, 0]);
        drop(file);
        assert!(!path.exists());
    }

    #[test]
    fn what_could_not_be_written_is_not_taken_for_written() {
        let mut file = StatisticsFile {
            file: File::options().write(true).open("/dev/full").unwrap(),
            path: PathBuf::from("/nonexistent"),
            words: [u64::MAX; WORDS],
        };
        for _ in 0..2 {
            assert!(!file.update(&Statistics::default()));
        }
    }

    #[test]
    fn what_a_killed_daemon_left_is_removed_and_nothing_else() {
        let memory = tempfile::tempdir().unwrap();
        let runtime = tempfile::tempdir().unwrap();
        for name in ["td3-1", "td3-2", "other"] {
            fs::create_dir(memory.path().join(name)).unwrap();
        }
        fs::write(runtime.path().join(NOTE), "td3-1").unwrap();
        let folder = Folder::make(memory.path(), runtime.path()).unwrap();
        let left = |name: &str| memory.path().join(name).exists();
        assert!(!left("td3-1") && left("td3-2") && left("other"));
        drop(folder);
        assert_eq!(fs::read_dir(memory.path()).unwrap().count(), 2);
        // A note of ours does not lead anywhere else.
        let outside = runtime.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(runtime.path().join(NOTE), outside.to_str().unwrap()).unwrap();
        let _folder = Folder::make(memory.path(), runtime.path()).unwrap();
        assert!(outside.exists());
    }
}
