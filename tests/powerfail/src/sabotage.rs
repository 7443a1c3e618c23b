//! Breaks a rule of order between the engine and the file, to show that it would be noticed. Production code has no
//! switches for this.

use std::io;
use std::mem;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use blockio::buffer::Buffer;
use blockio::executor::{Event, Executor, FileSlot, Op};
use blockio::file::BlockFile;
use blockio::image::Image;
use clap::ValueEnum;
use dscow::layout::Layout;
use dscow::units::BlockIndex;
use rustc_hash::FxHashSet;

use crate::recorder::file_of;

/// The key of the saboteur's own operations. No disk has this number.
const OWN_KEY: u64 = u64::MAX;

/// A rule that is broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Sabotage {
    /// No sync does anything.
    NoSync,
    /// The sync between new blocks and their bits does nothing: after a loss of power bits may be there without data.
    /// Neither does that of a flush while new blocks are being written, which looks the same from here.
    NoDataSync,
    /// New blocks are written after their bits, and are durable only then. When a flush is answered all is well.
    BitmapFirst,
}

/// A write that was reported as done and was not begun.
struct Held {
    offset: u64,
    buffer: Buffer,
}

/// How far the sync that makes up for the writes held back has come.
enum MakeUp {
    /// The engine's sync is under way.
    Sync,
    /// One of the writes is.
    Write,
    /// A second sync is.
    SecondSync,
}

/// An executor that breaks a rule for the file that is registered first, which is the image's own.
pub struct Saboteur {
    inner: Box<dyn Executor>,
    sabotage: Sabotage,
    layout: Layout,
    image: Option<FileSlot>,
    /// What is reported without the inner executor having done it.
    reported: Vec<Event>,
    /// Blocks whose bits and data were written.
    allocated: FxHashSet<BlockIndex>,
    /// Blocks whose bits were written since the last sync.
    announced: Vec<BlockIndex>,
    /// Blocks without a bit were written, so the next sync is one that the bitmap waits for.
    new_blocks: bool,
    held: Vec<Held>,
    make_up: Option<(u64, MakeUp)>,
}

impl Saboteur {
    /// Breaks `sabotage` for this image.
    pub fn new(inner: Box<dyn Executor>, sabotage: Sabotage, image: &Image) -> Self {
        let layout = image.header().layout;
        let blocks = (0..layout.block_count()).map(BlockIndex);
        Self {
            inner,
            sabotage,
            layout,
            image: None,
            reported: Vec::new(),
            allocated: blocks
                .filter(|block| image.bitmap().is_set(*block))
                .collect(),
            announced: Vec::new(),
            new_blocks: false,
            held: Vec::new(),
            make_up: None,
        }
    }

    fn write(&mut self, key: u64, file: FileSlot, offset: u64, buffer: Buffer) {
        let data = self.layout.data_offset().0;
        let bitmap = self.layout.bitmap_offset().0;
        if offset >= data {
            let (start, end) = (offset - data, offset - data + buffer.len() as u64);
            let (first, end) = self.layout.blocks_touched(start, end);
            let new = (first.0..end.0).any(|block| !self.allocated.contains(&BlockIndex(block)));
            self.new_blocks |= new;
            if new && self.sabotage == Sabotage::BitmapFirst {
                self.held.push(Held { offset, buffer });
                return self.report(key);
            }
        } else if offset >= bitmap {
            let first_block = (offset - bitmap) * 8;
            for (byte, bits) in (0..).zip(buffer.to_vec()) {
                let set = (0..8).filter(|bit| bits & 1 << bit != 0);
                self.announced
                    .extend(set.map(|bit| BlockIndex(first_block + byte * 8 + bit)));
            }
            self.new_blocks = false;
        }
        self.inner.submit(
            key,
            Op::Write {
                file,
                offset,
                buffer,
                takes_storage: false,
            },
        );
    }

    fn sync(&mut self, key: u64, file: FileSlot) {
        let before_the_bitmap = mem::take(&mut self.new_blocks) && self.announced.is_empty();
        match self.sabotage {
            Sabotage::NoSync => return self.report(key),
            Sabotage::NoDataSync if before_the_bitmap => return self.report(key),
            Sabotage::BitmapFirst if !self.announced.is_empty() => {
                self.make_up = Some((key, MakeUp::Sync));
            }
            _ => self.settle(),
        }
        self.inner.submit(key, Op::Sync { file });
    }

    fn report(&mut self, key: u64) {
        self.reported.push(Event::Done {
            key,
            result: Ok(()),
        });
    }

    /// The blocks whose bits were written are allocated.
    fn settle(&mut self) {
        self.allocated.extend(mem::take(&mut self.announced));
    }

    /// Takes what the inner executor reported, and goes on with the writes held back when it is their turn.
    fn filter(&mut self, event: Event) -> Option<Event> {
        let (Event::Done { key, .. }, Some((sync, step))) = (&event, &self.make_up) else {
            return Some(event);
        };
        let (done, sync) = (*key, *sync);
        match step {
            MakeUp::Sync if done == sync => self.write_next(sync),
            MakeUp::Write if done == OWN_KEY => self.write_next(sync),
            MakeUp::SecondSync if done == OWN_KEY => {
                self.settle();
                self.make_up = None;
                self.report(sync);
            }
            _ => return Some(event),
        }
        None
    }

    /// One at a time, so that those which overlap keep their order.
    fn write_next(&mut self, sync: u64) {
        let file = self.image.expect("it was registered before it was used");
        if self.held.is_empty() {
            self.make_up = Some((sync, MakeUp::SecondSync));
            return self.inner.submit(OWN_KEY, Op::Sync { file });
        }
        let Held { offset, buffer } = self.held.remove(0);
        self.make_up = Some((sync, MakeUp::Write));
        self.inner.submit(
            OWN_KEY,
            Op::Write {
                file,
                offset,
                buffer,
                takes_storage: false,
            },
        );
    }
}

impl Executor for Saboteur {
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
        if Some(file_of(&op)) != self.image {
            return self.inner.submit(key, op);
        }
        match op {
            Op::Write {
                file,
                offset,
                buffer,
                ..
            } => self.write(key, file, offset, buffer),
            Op::Sync { file } => self.sync(key, file),
            other => self.inner.submit(key, other),
        }
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
        let mut inner = Vec::new();
        self.inner.poll(&mut inner)?;
        for event in inner {
            events.extend(self.filter(event));
        }
        events.append(&mut self.reported);
        Ok(())
    }

    fn wait(&mut self, timeout: Option<Duration>, events: &mut Vec<Event>) -> io::Result<()> {
        let before = events.len();
        loop {
            self.poll(events)?;
            if events.len() > before {
                return Ok(());
            }
            let mut inner = Vec::new();
            self.inner.wait(timeout, &mut inner)?;
            let timed_out = inner.is_empty();
            for event in inner {
                events.extend(self.filter(event));
            }
            if timed_out {
                return Ok(());
            }
        }
    }

    fn in_flight(&self) -> usize {
        self.inner.in_flight() + self.reported.len()
    }
}
