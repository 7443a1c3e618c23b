//! Whole files of any bytes, opened, checked, read, written and repaired as production does it.
//!
//! A case is an image with changed headers and any bitmap, of any length, which may name a parent: a raw file, an image
//! over it, itself, or nothing at all. Whatever else a changed header names is not opened: cases must not reach
//! files that are not theirs.

use std::path::{Path, PathBuf};

use blockio::buffer::{AlignedBuf, Buffer};
use blockio::disk::{Disk, DiskNumber, DiskOptions, Finished};
use blockio::executor::faulty::{Fate, FaultyExecutor};
use blockio::executor::{Event, Executor};
use blockio::image::{
    CheckReport, Image, ImageAccess, ImageError, ParentFormat, Problem, check, identify_parent,
    inspect, repair,
};
use dscow::engine::{Errno, OnNoSpace, Request, Token};
use dscow::header::{Header, SlotBytes};
use dscow::parent::Parent;
use dscow::units::DiskRange;
use uuid::Uuid;

use crate::chain::{Below, Chain, Content};
use crate::files::MemoryFile;
use crate::script::Script;
use crate::slots;

/// Longest range that is read or written.
const RANGE_MAX: u64 = 1 << 18;

/// Opens what `data` makes.
///
/// # Panics
/// If an image that opens cannot be used, or a check and an opening contradict each other.
pub fn image(data: &[u8]) {
    let mut script = Script::new(data);
    let Some(case) = Case::of_script(&mut script) else {
        return;
    };
    let report = case.check();
    let ranges = [(); 3].map(|()| range(&mut script));
    let before = case.read(&ranges);
    case.compare(report.as_ref(), before.as_ref().err());
    // What it says does not matter, as long as it says it.
    let _ = inspect(case.path());
    if script.one_in(2) {
        case.repair(before.ok(), &ranges);
    }
    if Image::open(case.path(), ImageAccess::Writable).is_ok() {
        case.write(&mut script);
    }
}

/// The files of a case.
struct Case {
    top: MemoryFile,
    /// Kept so that their paths lead to them.
    _below: Vec<MemoryFile>,
}

impl Case {
    fn of_script(script: &mut Script<'_>) -> Option<Self> {
        let below = parents();
        let Chain { mut header, .. } = Chain::of_script(script);
        header.sequence = 3;
        let top = MemoryFile::new(Content::of_new_image(&header));
        header.parent = named_parent(script, &below, &top);
        let slots = slots::of_script(script, &header);
        if !are_at_home(&slots, &below, &top) {
            return None;
        }
        let header = dscow::header::select(&slots[0], &slots[1]).ok();
        let header = header.map(|(header, _)| header);
        fill(script, &top, &slots, header.as_ref())?;
        Some(Self { top, _below: below })
    }

    fn path(&self) -> &Path {
        self.top.path()
    }

    fn check(&self) -> Result<CheckReport, ImageError> {
        check(self.path())
    }

    /// What it holds at each of the ranges, if it can be opened.
    fn read(&self, ranges: &[DiskRange]) -> Result<Vec<Result<Vec<u8>, Errno>>, ImageError> {
        let image = Image::open(self.path(), ImageAccess::ReadOnly)?;
        let mut user = User::new(image);
        Ok(ranges.iter().map(|range| user.read(*range)).collect())
    }

    /// What opens has nothing wrong with it that matters, and where nothing is wrong, it opens.
    fn compare(&self, report: Result<&CheckReport, &ImageError>, refusal: Option<&ImageError>) {
        let Ok(report) = report else {
            assert!(refusal.is_some(), "{report:?}, but it opens");
            return;
        };
        let fatal = report
            .problems
            .iter()
            .find(|problem| !problem.is_repairable());
        match refusal {
            None => assert!(fatal.is_none(), "it opens, but {fatal:?}"),
            Some(refusal) => assert!(
                !report.problems.is_empty(),
                "nothing is wrong, but {refusal}"
            ),
        }
    }

    /// Repairs it. What it showed before, it shows afterwards.
    fn repair(&self, before: Option<Vec<Result<Vec<u8>, Errno>>>, ranges: &[DiskRange]) {
        let Ok(report) = repair(self.path()) else {
            return;
        };
        let left = |problem: &&Problem| problem.is_repairable();
        let could = report.found.iter().all(Problem::is_repairable);
        let left = report.now.problems.iter().find(left);
        assert!(!could || left.is_none(), "{left:?} was not repaired");
        if let Some(before) = before {
            let after = self.read(ranges).expect("a repaired image opens as before");
            assert_eq!(before, after, "a repair has changed what the image shows");
        }
    }

    /// Writes to it, closes it, and opens it again.
    fn write(&self, script: &mut Script<'_>) {
        let image = Image::open(self.path(), ImageAccess::Writable).expect("it was opened before");
        let mut user = User::new(image);
        let range = range(script);
        let data = vec![0x77; usize::try_from(range.len).expect("short")];
        let written = user.request(Request::Write(range), buffer(&data)).result;
        if written.is_ok() {
            assert_eq!(
                user.read(range).as_ref(),
                Ok(&data),
                "what was just written"
            );
        }
        let flushed = user.request(Request::Flush, Buffer::empty()).result;
        assert_eq!(flushed, Ok(()), "of a flush");
        user.close();
        let report = self
            .check()
            .expect("an image that was written can be checked");
        let fatal = report
            .problems
            .iter()
            .find(|problem| !problem.is_repairable());
        assert!(fatal.is_none(), "after writing: {fatal:?}");
        let again = self.read(&[range]).expect("an image that was closed opens");
        assert!(
            written.is_err() || again == [Ok(data)],
            "what was written is lost"
        );
    }
}

/// The lowest first: a raw file, and an image over it.
fn parents() -> Vec<MemoryFile> {
    let raw = Below::Raw { sectors: 100 };
    let raw = MemoryFile::new(raw.content(1, |_| ()));
    let mut script = Script::new(&[0, 1, 79, 0, 0b1010]);
    let overlay = Below::of_script(&mut script);
    let overlay = overlay.content(0, |header| {
        header.parent = identify_parent(raw.path(), ParentFormat::Raw).ok();
    });
    vec![raw, MemoryFile::new(overlay)]
}

fn named_parent(script: &mut Script<'_>, below: &[MemoryFile], top: &MemoryFile) -> Option<Parent> {
    let nowhere = |path: PathBuf| Parent::Dscow {
        path,
        size: 512,
        uuid: Uuid::nil(),
        generation: 0,
    };
    let known = |file: &MemoryFile| identify_parent(file.path(), ParentFormat::Detect).ok();
    match script.byte() % 6 {
        0 => None,
        1 | 2 => known(&below[0]),
        3 => known(&below[1]),
        4 => known(top),
        _ => Some(nowhere(top.path().join("missing"))),
    }
}

/// Whether nothing is named that is not the case's own.
fn are_at_home(slots: &[SlotBytes; 2], below: &[MemoryFile], top: &MemoryFile) -> bool {
    let missing = top.path().join("missing");
    let own =
        |path: &Path| path == missing || below.iter().chain([top]).any(|file| file.path() == path);
    slots.iter().all(|slot| {
        let header = Header::decode(slot).ok();
        let parent = header.and_then(|header| header.parent);
        parent.is_none_or(|parent| own(parent.path()))
    })
}

/// Puts headers, a bitmap and some data into the file, and gives it a length. `None` if no file can have it.
fn fill(
    script: &mut Script<'_>,
    top: &MemoryFile,
    slots: &[SlotBytes; 2],
    header: Option<&Header>,
) -> Option<()> {
    use std::os::unix::fs::FileExt;

    let file = top.file();
    file.set_len(0).expect("a file in memory");
    file.write_all_at(slots.as_flattened(), 0)
        .expect("a file in memory");
    let layout = header.map(|header| header.layout);
    let needed = layout.map_or(1 << 20, |layout| layout.file_len());
    let len = match script.byte() {
        0..=191 => needed,
        192..=223 => needed.saturating_sub(1 << (script.byte() % 48)),
        224..=239 => needed + (1 << (script.byte() % 40)),
        _ => u64::from(script.u16()),
    };
    file.set_len(len).ok()?;
    for _ in 0..script.byte() % 4 {
        let place = script.byte();
        let near = layout.map_or(8192, |layout| match place % 4 {
            0 => layout.bitmap_offset().0,
            1 => layout.bitmap_offset().0 + layout.bitmap_used_len() - 1,
            2 => layout.data_offset().0,
            _ => layout.data_offset().0 + layout.virtual_size() - 1,
        });
        let at = near + u64::from(script.byte());
        let count = 1 + script.byte() % 16;
        let bytes = script.take(count.into());
        if at + bytes.len() as u64 <= len {
            file.write_all_at(bytes, at).expect("inside the file");
        }
    }
    if script.one_in(2)
        && let Some(header) = header
    {
        believe_bitmap(top, header);
    }
    Some(())
}

/// Makes the checksum of the bitmap right in both slots, if the bitmap is small and the image closed.
fn believe_bitmap(top: &MemoryFile, header: &Header) {
    use std::os::unix::fs::FileExt;

    let used = usize::try_from(header.layout.bitmap_used_len()).expect("in memory");
    let mut bitmap = vec![0; used.min(1 << 16)];
    let at = header.layout.bitmap_offset().0;
    let is_clean = matches!(header.state, dscow::header::State::Clean { .. });
    if !is_clean || used > bitmap.len() || top.file().read_exact_at(&mut bitmap, at).is_err() {
        return;
    }
    let state = dscow::header::State::Clean {
        bitmap_crc: crc32c::crc32c(&bitmap),
    };
    let header = Header {
        state,
        ..header.clone()
    };
    for at in [0, 4096] {
        top.file()
            .write_all_at(&header.encode()[..], at)
            .expect("inside the file");
    }
}

fn range(script: &mut Script<'_>) -> DiskRange {
    let start = match script.byte() % 4 {
        0 => script.u64(),
        1 => u64::from(script.u32()) << 9,
        _ => 512 * u64::from(script.byte()),
    };
    let len = match script.byte() % 4 {
        0 => u64::from(script.u32()) % RANGE_MAX,
        _ => 512 * u64::from(script.byte()),
    };
    DiskRange::new(start, len)
}

/// Somebody who uses an image, one request after the other, without any faults.
struct User {
    disk: Disk,
    executor: FaultyExecutor,
}

impl User {
    fn new(image: Image) -> Self {
        let mut executor = FaultyExecutor::new();
        let (engine, files) = image.into_engine(OnNoSpace::Report);
        let options = DiskOptions::default();
        let mut disk = Disk::new(DiskNumber(1), engine, files, options, &mut executor);
        disk.open(&mut executor, Token(1));
        let mut user = Self { disk, executor };
        assert_eq!(user.wait().result, Ok(()), "of opening");
        user
    }

    fn wait(&mut self) -> Finished {
        let mut events = Vec::new();
        loop {
            if let Some(finished) = self.disk.take_finished().pop() {
                return finished;
            }
            self.executor
                .poll(&mut events)
                .expect("polling cannot fail");
            if events.is_empty() {
                events.extend(self.executor.perform(0, Fate::Real));
            }
            for event in events.drain(..) {
                if let Event::Done { key, result } = event {
                    let (_, op) = DiskNumber::of_key(key);
                    self.disk.complete(&mut self.executor, op, result);
                }
            }
        }
    }

    fn request(&mut self, request: Request, buffer: Buffer) -> Finished {
        self.disk
            .submit(&mut self.executor, Token(2), request, buffer);
        self.wait()
    }

    fn read(&mut self, range: DiskRange) -> Result<Vec<u8>, Errno> {
        let len = usize::try_from(range.len).expect("short");
        let finished = self.request(Request::Read(range), AlignedBuf::zeroed(len).into_buffer());
        let valid = self.is_valid(range);
        let expected = if valid { Ok(()) } else { Err(Errno::EINVAL) };
        assert_eq!(finished.result, expected, "of reading {range:?}");
        finished.result.map(|()| finished.buffer.to_vec())
    }

    fn is_valid(&self, range: DiskRange) -> bool {
        let size = self.disk.engine().layout().virtual_size();
        let end = range.start.0.checked_add(range.len);
        let in_sectors = range.start.0.is_multiple_of(512) && range.len.is_multiple_of(512);
        range.len > 0 && in_sectors && end.is_some_and(|end| end <= size)
    }

    fn close(mut self) {
        self.disk.close(&mut self.executor, Token(3));
        assert_eq!(self.wait().result, Ok(()), "of closing");
        self.disk.release(&mut self.executor);
    }
}

fn buffer(data: &[u8]) -> Buffer {
    AlignedBuf::from_slice(data).into_buffer()
}
