//! A command that is recorded, also after another that was killed, and what is looked at after each loss of power.

use std::collections::HashSet;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};

use blockio::image::{CreateOptions, ParentFormat, check, create};
use blockio::offline::{Comparison, Silent, diff};
use dscow::layout::Headroom;
use dscow::units::BlockSize;
use powerfail::offline::Offline;
use tempfile::TempDir;

use crate::strace::record;
use crate::timeline::{State, Timeline, put};

pub(crate) const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// A folder with disks; what they must show is in another.
pub(crate) struct Folder {
    disks: TempDir,
    expected: TempDir,
}

impl Folder {
    pub(crate) fn new() -> Self {
        // In memory where there is such a file system: here nothing depends on what is durable on a real disk.
        let memory = Path::new("/dev/shm");
        let folder = || match memory.is_dir() {
            true => tempfile::tempdir_in(memory).unwrap(),
            false => TempDir::new().unwrap(),
        };
        Self {
            disks: folder(),
            expected: folder(),
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.disks.path().join(name)
    }

    /// Where it is kept what a disk must show.
    pub(crate) fn expected(&self, name: &str) -> PathBuf {
        self.expected.path().join(name)
    }

    /// A raw disk of these bytes.
    pub(crate) fn raw(&self, name: &str, bytes: &[u8]) -> PathBuf {
        fs::write(self.path(name), bytes).unwrap();
        self.path(name)
    }

    pub(crate) fn overlay(&self, name: &str, base: &Path, size: Option<u64>) -> PathBuf {
        let options = CreateOptions {
            base: Some(base.to_owned()),
            size,
            headroom: Some(Headroom::UpTo(MIB)),
            block_size: BlockSize::from_bytes(4096).unwrap(),
            ..CreateOptions::default()
        };
        create(&self.path(name), &options).unwrap();
        self.path(name)
    }

    /// Writes a block to a disk.
    pub(crate) fn write(&self, disk: &Path, offset: u64, byte: u8) {
        let disk = disk.to_owned();
        Offline::Write { disk, offset, byte }.run().unwrap();
    }
}

/// Whether two disks show the same.
pub(crate) fn same(disk: &Path, expected: &Path) -> Result<(), String> {
    let mut differences = Vec::new();
    let result = diff(
        (disk, ParentFormat::Detect),
        (expected, ParentFormat::Raw),
        Comparison::Content,
        &mut Silent,
        &mut |difference| {
            differences.push(difference.range);
            Ok(())
        },
    );
    let disk = disk.display();
    match result {
        Err(cause) => Err(format!("{disk}: {cause}")),
        Ok(()) if differences.is_empty() => Ok(()),
        Ok(()) => Err(format!("{disk} shows something else in {differences:?}")),
    }
}

/// Whether nothing is wrong with an image.
pub(crate) fn is_well(image: &Path) -> Result<(), String> {
    let report = check(image).map_err(|cause| cause.to_string())?;
    match report.problems.first() {
        Some(problem) => Err(format!("{}: {problem}", image.display())),
        None => Ok(()),
    }
}

/// When the power failed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Look {
    /// The command had ended, and said that all went well.
    pub(crate) done: bool,
    /// Whether the command is to be given again now. That takes long, and is left out where another process was killed.
    pub(crate) again: bool,
}

/// What must hold after a loss of power.
pub(crate) type Check<'a> = &'a dyn Fn(Look) -> Result<(), String>;

/// A rule that is broken in what was recorded, to show that it would be noticed. It gets the step with which the second
/// process began.
pub(crate) type Sabotage = fn(&mut Timeline, usize);

/// Files, a command that changes them, and what must hold.
pub(crate) struct Scenario<'a> {
    pub(crate) files: Vec<PathBuf>,
    pub(crate) command: Offline,
    pub(crate) check: Check<'a>,
    pub(crate) sabotage: Option<Sabotage>,
}

/// What was looked at, and what was wrong.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) kills: usize,
    pub(crate) states: usize,
    pub(crate) violations: Vec<String>,
    seen: HashSet<u64>,
}

impl Scenario<'_> {
    /// The power fails while the command is under way.
    pub(crate) fn once(&self) -> Report {
        let mut report = Report::default();
        let mut timeline = Timeline::new(self.files.clone());
        self.go_on(&mut timeline, 0, true, &mut report);
        report
    }

    /// The command is killed wherever it can be, and given again, and the power fails while that is under way.
    pub(crate) fn repeated(&self) -> Report {
        self.after(&self.command, &|| {})
    }

    /// Another command is killed wherever it can be before this one, of which `prepare` takes notice.
    pub(crate) fn after(&self, first: &Offline, prepare: &dyn Fn()) -> Report {
        let mut report = Report::default();
        let mut timeline = Timeline::new(self.files.clone());
        timeline.add(&self.record(first));
        for kill in timeline.kill_points() {
            let mut timeline = timeline.until(kill);
            timeline.put();
            prepare();
            self.go_on(&mut timeline, kill, false, &mut report);
            report.kills += 1;
        }
        report
    }

    fn record(&self, command: &Offline) -> Vec<crate::strace::Line> {
        let log = tempfile::NamedTempFile::new().unwrap();
        record(command, log.path())
    }

    /// Records the command after what happened before, and looks at what can be left.
    fn go_on(&self, timeline: &mut Timeline, start: usize, thorough: bool, report: &mut Report) {
        timeline.add(&self.record(&self.command));
        if let Some(sabotage) = self.sabotage {
            sabotage(timeline, start);
        }
        timeline.states(start, thorough, &mut |state| {
            self.look(&state, thorough, report);
        });
    }

    fn look(&self, state: &State, again: bool, report: &mut Report) {
        let mut hasher = DefaultHasher::new();
        (&state.contents, state.done).hash(&mut hasher);
        if !report.seen.insert(hasher.finish()) {
            return;
        }
        report.states += 1;
        put(&self.files, &state.contents);
        if let Err(problem) = (self.check)(Look {
            done: state.done,
            again,
        }) {
            let story = &state.story;
            let done = if state.done { "done" } else { "under way" };
            report
                .violations
                .push(format!("{problem} ({done}, {story})"));
        }
    }
}
