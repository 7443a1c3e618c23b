//! Writes a log like that of dm-log-writes for one image's file, from what passes through its executor. With it everything
//! here can be tried, and sabotage shown to be noticed, on any machine and without root: the file stands for the device.

use std::cell::RefCell;
use std::io;
use std::mem;
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use blockio::executor::{Event, Executor, FileSlot, Op};
use blockio::file::BlockFile;
use rustc_hash::FxHashMap;

use crate::content::SECTOR;
use crate::log::{Effect, Entry, SUPER_LEN, SuperBlock, encode_entry, encode_super};

/// A write that no sync covers yet.
struct Unflushed {
    offset: u64,
    data: Vec<u8>,
}

/// A log that is being written, in memory.
pub struct Recording {
    log: Vec<u8>,
    entries: u64,
    unflushed: Vec<Unflushed>,
}

impl Default for Recording {
    fn default() -> Self {
        Self {
            log: vec![0; SECTOR],
            entries: 0,
            unflushed: Vec::new(),
        }
    }
}

impl Recording {
    pub(crate) fn mark(&mut self, text: &[u8]) {
        self.append(&entry(Effect::Nothing, false, Some(text)), &[]);
    }

    /// The whole log, with a mark at its end as the kernel sets one.
    pub fn finish(mut self) -> Vec<u8> {
        for write in mem::take(&mut self.unflushed) {
            self.write(&write);
        }
        self.mark(b"end");
        let super_block = SuperBlock {
            entries: self.entries,
            sector_size: 512,
        };
        self.log[..SUPER_LEN].copy_from_slice(&encode_super(super_block));
        self.log
    }

    fn flush(&mut self, covered: Vec<Unflushed>) {
        for write in covered {
            self.write(&write);
        }
        self.append(&entry(Effect::Nothing, true, None), &[]);
    }

    fn write(&mut self, write: &Unflushed) {
        let offset = write.offset;
        let data = 0..write.data.len() as u64;
        self.append(
            &entry(Effect::Write { offset, data }, false, None),
            &write.data,
        );
    }

    fn append(&mut self, entry: &Entry, data: &[u8]) {
        self.log.extend_from_slice(&encode_entry::<SECTOR>(entry));
        self.log.extend_from_slice(data);
        self.entries += 1;
    }
}

fn entry(effect: Effect, flush: bool, mark: Option<&[u8]>) -> Entry {
    Entry {
        effect,
        flush,
        fua: false,
        mark: mark.map(<[u8]>::to_vec),
    }
}

/// The file that an operation is for.
pub(crate) fn file_of(op: &Op) -> FileSlot {
    match op {
        Op::Read { file, .. }
        | Op::Write { file, .. }
        | Op::Sync { file }
        | Op::ZeroRange { file, .. }
        | Op::Reserve { file, .. } => *file,
    }
}

/// What is recorded when an operation is done.
enum UnderWay {
    Write(Unflushed),
    Sync(Vec<Unflushed>),
}

/// An executor that records what happens to the file that is registered first, which is the image's own.
pub struct Recorder {
    inner: Box<dyn Executor>,
    recording: Rc<RefCell<Recording>>,
    image: Option<FileSlot>,
    under_way: FxHashMap<u64, UnderWay>,
}

impl Recorder {
    /// Records into `recording` what `inner` does.
    pub fn new(inner: Box<dyn Executor>, recording: Rc<RefCell<Recording>>) -> Self {
        Self {
            inner,
            recording,
            image: None,
            under_way: FxHashMap::default(),
        }
    }

    fn note(&mut self, key: u64, op: &Op) {
        if Some(file_of(op)) != self.image {
            return;
        }
        let noted = match op {
            // To reserve storage changes nothing that can be read.
            Op::Read { .. } | Op::Reserve { .. } => return,
            Op::Write { offset, buffer, .. } => UnderWay::Write(Unflushed {
                offset: *offset,
                data: buffer.to_vec(),
            }),
            Op::ZeroRange { offset, len, .. } => UnderWay::Write(Unflushed {
                offset: *offset,
                data: vec![0; usize::try_from(*len).expect("it is held in memory")],
            }),
            Op::Sync { .. } => {
                UnderWay::Sync(mem::take(&mut self.recording.borrow_mut().unflushed))
            }
        };
        self.under_way.insert(key, noted);
    }

    fn done(&mut self, events: &[Event]) {
        let mut recording = self.recording.borrow_mut();
        for event in events {
            let Event::Done {
                key,
                result: Ok(()),
            } = event
            else {
                continue;
            };
            match self.under_way.remove(key) {
                Some(UnderWay::Write(write)) => recording.unflushed.push(write),
                Some(UnderWay::Sync(covered)) => recording.flush(covered),
                None => {}
            }
        }
    }
}

impl Executor for Recorder {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn register(&mut self, file: Arc<BlockFile>) -> FileSlot {
        let slot = self.inner.register(file);
        self.image.get_or_insert(slot);
        slot
    }

    fn unregister(&mut self, slot: FileSlot) {
        self.inner.unregister(slot);
    }

    fn submit(&mut self, key: u64, op: Op) {
        self.note(key, &op);
        self.inner.submit(key, op);
    }

    fn watch(&mut self, key: u64, descriptor: BorrowedFd<'_>) -> io::Result<()> {
        self.inner.watch(key, descriptor)
    }

    fn watch_writable(&mut self, key: u64, descriptor: BorrowedFd<'_>) -> io::Result<()> {
        self.inner.watch_writable(key, descriptor)
    }

    fn unwatch(&mut self, key: u64) {
        self.inner.unwatch(key);
    }

    fn poll(&mut self, events: &mut Vec<Event>) -> io::Result<()> {
        let before = events.len();
        self.inner.poll(events)?;
        self.done(&events[before..]);
        Ok(())
    }

    fn wait(&mut self, timeout: Option<Duration>, events: &mut Vec<Event>) -> io::Result<()> {
        let before = events.len();
        self.inner.wait(timeout, events)?;
        self.done(&events[before..]);
        Ok(())
    }

    fn in_flight(&self) -> usize {
        self.inner.in_flight()
    }
}
