//! Performs what the engine asks for, on the simulated disk, when it is told to.

use dscow::engine::{Action, Engine, Errno, Memory, OpId, Request, Token};
use dscow::header::{Header, Slot, SlotBytes};
use dscow::parents::LayerIndex;
use dscow::units::{BlockIndex, DiskRange, FileOffset};

use crate::buffers::Buffers;
use crate::content::{Pool, SECTOR, index, word_sector};
use crate::disk::{Disk, WriteId};
use crate::fault::{Failure, Faults, Io};
use crate::geometry::{Geometry, PAGE_SECTORS};
use crate::mutation::Mutation;
use crate::reopen::{assert_aligned, file_len, read_layer};
use crate::workload::Change;

/// What the last metadata write was that no sync was submitted after.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Metadata {
    None,
    Bitmap,
    Header,
    Length,
}

/// I/O that was asked for and not completed.
struct Waiting {
    /// Completing it may mean something to the disk, to the engine, or to both.
    op: Option<OpId>,
    io: Io,
    what: What,
    fails: Option<Failure>,
}

enum What {
    Read {
        from: (LayerIndex, FileOffset),
        memory: Memory,
        len: u64,
    },
    Write(Option<WriteId>),
    Sync {
        covered: Vec<WriteId>,
        of: Metadata,
    },
}

/// An engine with its disk and buffers.
pub(crate) struct Driver<'a> {
    geometry: &'a Geometry,
    pub(crate) engine: Engine,
    pub(crate) disk: Disk,
    pub(crate) faults: Faults,
    pub(crate) stage: Stage,
    /// The header before the image is opened.
    loaded: Header,
    /// New headers since then. Each is written to one slot and then to the other.
    headers: u32,
    mutation: Option<Mutation>,
    buffers: Buffers,
    waiting: Vec<Waiting>,
    pub(crate) finished: Vec<(Token, Result<(), Errno>)>,
    metadata: Metadata,
    /// Changes under way, with their blocks; and the blocks of those that are finished. For mutations that write a
    /// bitmap of their own.
    changes: Vec<(Token, DiskRange)>,
    live: Vec<BlockIndex>,
    /// Actions that found no space.
    stalled: Vec<OpId>,
}

/// What the image is going through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Opening,
    Open,
    Growing,
    Closing,
}

impl<'a> Driver<'a> {
    pub(crate) fn new(
        geometry: &'a Geometry,
        engine: Engine,
        disk: Disk,
        faults: Faults,
        mutation: Option<Mutation>,
    ) -> Self {
        Self {
            geometry,
            loaded: engine.header().clone(),
            engine,
            disk,
            faults,
            stage: Stage::Opening,
            headers: 0,
            mutation,
            buffers: Buffers::default(),
            waiting: Vec::new(),
            finished: Vec::new(),
            metadata: Metadata::None,
            changes: Vec::new(),
            live: Vec::new(),
            stalled: Vec::new(),
        }
    }

    /// The host is gone, and this is what the disk has.
    pub(crate) fn power_lost(&mut self, disk: Disk) {
        self.disk = disk;
        self.live.clear();
    }

    /// A new process, on the same disk; its cache may hold something.
    pub(crate) fn restart(&mut self, engine: Engine) {
        self.loaded = engine.header().clone();
        self.engine = engine;
        self.stage = Stage::Opening;
        self.headers = 0;
        self.buffers = Buffers::default();
        self.waiting.clear();
        self.finished.clear();
        self.metadata = Metadata::None;
        self.changes.clear();
        self.stalled.clear();
    }

    /// For each action under way, oldest first, whether it is a sync.
    pub(crate) fn syncs(&self) -> Vec<bool> {
        let is_sync = |waiting: &Waiting| matches!(waiting.what, What::Sync { .. });
        self.waiting.iter().map(is_sync).collect()
    }

    /// Whether the sync that makes the bitmap durable is under way.
    pub(crate) fn is_syncing_bitmap(&self) -> bool {
        let of_bitmap = |waiting: &Waiting| matches!(waiting.what, What::Sync { of, .. } if of == Metadata::Bitmap);
        self.waiting.iter().any(of_bitmap)
    }

    pub(crate) fn submit(&mut self, token: Token, change: &Change, bytes: Vec<u8>) {
        let ranges = change.data.iter().chain(&change.zeros);
        self.changes.extend(ranges.map(|range| (token, *range)));
        self.buffers.insert(token, bytes);
        match change.request {
            Request::Write(range) => self.engine.submit_write(token, range, &change.detected),
            request => self.engine.submit(token, request),
        }
    }

    pub(crate) fn retry(&mut self, pool: &mut Pool) {
        self.engine.retry_stalled();
        self.collect(pool);
    }

    /// Performs at once what is not I/O, and puts I/O on the waiting list.
    pub(crate) fn collect(&mut self, pool: &mut Pool) {
        while let Some(action) = self.engine.next_action() {
            match action {
                Action::Read {
                    op,
                    layer,
                    offset,
                    memory,
                    len,
                } => self.read(op, (layer, offset), memory, len),
                Action::WriteData {
                    op,
                    offset,
                    memory,
                    len,
                } => self.write_data(pool, op, offset, memory, len),
                Action::ZeroData { op, offset, len } => self.zero_data(pool, op, offset, len),
                Action::SetLen { op, len } => self.set_len(pool, op, len),
                Action::WriteBitmap { op, offset, bytes } => {
                    self.write_bitmap(pool, op, offset, bytes);
                }
                Action::WriteHeader { op, slot, bytes } => {
                    self.write_header(pool, op, slot, &bytes);
                }
                Action::Sync { op } => self.sync(pool, op),
                Action::FillZero { memory, len } => {
                    if !self.is(Mutation::CopyUpWithoutZeros) {
                        self.buffers.get(memory, len).fill(0);
                    }
                }
                Action::AllocBounce { bounce, len } => self.buffers.alloc(bounce, len),
                Action::Copy { from, to, len } => {
                    let really = !self.is(Mutation::CopyUpWithoutOverlay);
                    self.buffers.copy(from, to, len, really);
                }
                Action::FreeBounce { bounce } => self.buffers.free(bounce),
                Action::Finish { token, result } => self.finish(token, result),
            }
        }
    }

    /// Performs and completes the action at `at` on the waiting list.
    pub(crate) fn complete(&mut self, pool: &mut Pool, at: usize) {
        let waiting = self.waiting.remove(at);
        match waiting.what {
            What::Read { from, memory, len } => {
                if waiting.fails.is_none() && !self.is(Mutation::CopyUpWithoutRead) {
                    let buffer = self.buffers.get(memory, len);
                    read_layer(self.geometry, pool, self.disk.view(), from, buffer);
                }
            }
            What::Write(None) => {}
            What::Write(Some(device)) => match waiting.fails {
                Some(failure) => self.disk.fail(device, failure),
                None => self.disk.complete(device),
            },
            What::Sync { covered, .. } => self.disk.make_durable(&covered),
        }
        if let Some(op) = waiting.op {
            let fails = waiting.fails;
            let told = fails.filter(|failure| !self.is_hidden(waiting.io, *failure));
            if told == Some(Failure::NoSpace) {
                self.stalled.push(op);
            }
            let result = told.map_or(Ok(()), |failure| Err(failure.errno()));
            self.engine.complete(op, result);
            self.collect(pool);
        }
    }

    fn is(&self, mutation: Mutation) -> bool {
        self.mutation == Some(mutation)
    }

    /// Whether the engine is not told that an action failed.
    fn is_hidden(&self, io: Io, failure: Failure) -> bool {
        match self.mutation {
            Some(Mutation::FailedWriteHidden) => io == Io::Data,
            Some(Mutation::FailedBitmapWriteHidden) => io == Io::Bitmap,
            Some(Mutation::FailedSyncHidden) => io == Io::Sync,
            Some(Mutation::FailedReadHidden) => io == Io::Read,
            Some(Mutation::NoSpaceHidden) => failure == Failure::NoSpace,
            _ => false,
        }
    }

    fn wait(&mut self, io: Io, op: OpId, what: What, fails: Option<Failure>) {
        let op = Some(op);
        self.waiting.push(Waiting {
            op,
            io,
            what,
            fails,
        });
    }

    fn read(&mut self, op: OpId, from: (LayerIndex, FileOffset), memory: Memory, len: u64) {
        let fails = self.faults.issue(Io::Read);
        self.wait(Io::Read, op, What::Read { from, memory, len }, fails);
    }

    fn write_data(
        &mut self,
        pool: &mut Pool,
        op: OpId,
        offset: FileOffset,
        memory: Memory,
        len: u64,
    ) {
        let bytes = self.buffers.get(memory, len).to_vec();
        let mut keep = vec![true; bytes.len() / SECTOR];
        if let Memory::Bounce { bounce, .. } = memory
            && self.is(Mutation::CopyUpWritesGuestSectorsOnly)
        {
            keep.copy_from_slice(self.buffers.overlaid(bounce));
        }
        if self.is_retried(op) && self.is(Mutation::RetryDropped) {
            keep.fill(false);
        }
        let early = self.is(Mutation::WriteReportedEarly);
        self.write(pool, op, (offset, &bytes), &keep, early);
    }

    fn zero_data(&mut self, pool: &mut Pool, op: OpId, offset: FileOffset, len: u64) {
        let skipped = self.is(Mutation::ZeroingSkipped)
            || self.is_retried(op) && self.is(Mutation::RetryDropped);
        let bytes = vec![0; index(len)];
        let keep = vec![!skipped; bytes.len() / SECTOR];
        let early = self.is(Mutation::ZeroingReportedEarly);
        self.write(pool, op, (offset, &bytes), &keep, early);
    }

    /// A write in the data area, which is told to the engine `early`, while it is in flight, or when it is done.
    fn write(
        &mut self,
        pool: &mut Pool,
        op: OpId,
        (offset, bytes): (FileOffset, &[u8]),
        keep: &[bool],
        early: bool,
    ) {
        let fails = self.faults.issue(Io::Data);
        let mut device = Some(self.issue(pool, offset, bytes, keep));
        if early {
            self.waiting.push(Waiting {
                op: None,
                io: Io::Data,
                what: What::Write(device.take()),
                fails: None,
            });
        }
        self.wait(Io::Data, op, What::Write(device), fails);
    }

    /// Whether an action is a repetition of one that found no space.
    fn is_retried(&mut self, op: OpId) -> bool {
        let at = self.stalled.iter().position(|stalled| *stalled == op);
        at.map(|at| self.stalled.swap_remove(at)).is_some()
    }

    fn set_len(&mut self, pool: &mut Pool, op: OpId, len: u64) {
        self.metadata = Metadata::Length;
        let fails = self.faults.issue(Io::Length);
        let len = len.max(file_len(self.geometry, pool, self.disk.view()));
        let content = pool.id(&word_sector(len));
        let mut sectors = vec![(self.geometry.length_sector(), content)];
        if self.is(Mutation::LengthNotSet) {
            sectors.clear();
        }
        let device = self.disk.issue(sectors);
        self.wait(Io::Length, op, What::Write(Some(device)), fails);
    }

    fn write_bitmap(&mut self, pool: &mut Pool, op: OpId, offset: FileOffset, mut bytes: Vec<u8>) {
        self.metadata = Metadata::Bitmap;
        let fails = self.faults.issue(Io::Bitmap);
        if self.is(Mutation::NoPageCopy) {
            self.set_live_bits(offset, &mut bytes);
        }
        let lost = self.is(Mutation::NoBitmapWrite)
            || self.stage == Stage::Closing && self.is(Mutation::NoBitmapWriteAtClose)
            || self.is_retried(op) && self.is(Mutation::RetryDropped);
        let keep = vec![!lost; bytes.len() / SECTOR];
        let device = self.issue(pool, offset, &bytes, &keep);
        self.wait(Io::Bitmap, op, What::Write(Some(device)), fails);
    }

    fn write_header(&mut self, pool: &mut Pool, op: OpId, slot: Slot, bytes: &SlotBytes) {
        self.metadata = Metadata::Header;
        let fails = self.faults.issue(Io::Header);
        let mut header = Header::decode(bytes).expect("the engine writes good headers");
        let is_new = header.sequence > self.loaded.sequence;
        self.headers += u32::from(is_new);
        if self.is(Mutation::GenerationNotRaised) && self.stage == Stage::Opening {
            header.generation = self.loaded.generation;
        }
        if self.is(Mutation::GrownWithoutParentLimit) {
            header.parent_limit = None;
        }
        let slot = if self.is(Mutation::HeaderInOneSlot) {
            Slot::A
        } else {
            slot
        };
        let skipped = !is_new && self.is(Mutation::HeaderNotWrittenAgain);
        let keep = [!skipped; PAGE_SECTORS];
        let device = self.issue(pool, slot.offset(), &header.encode()[..], &keep);
        self.wait(Io::Header, op, What::Write(Some(device)), fails);
    }

    fn sync(&mut self, pool: &mut Pool, op: OpId) {
        let fails = self.faults.issue(Io::Sync);
        let of = std::mem::replace(&mut self.metadata, Metadata::None);
        let mut covered = self.disk.cached();
        if self.is_sync_skipped(of) {
            covered.clear();
        }
        if fails.is_some() {
            self.disk.lose(&covered);
        }
        if of == Metadata::None && self.is(Mutation::BitmapBeforeDataSync) {
            self.write_live_bitmap(pool);
        }
        self.wait(Io::Sync, op, What::Sync { covered, of }, fails);
    }

    fn is_sync_skipped(&self, of: Metadata) -> bool {
        let header_at = |stage| of == Metadata::Header && self.stage == stage;
        match self.mutation {
            Some(Mutation::NoSync) => true,
            Some(Mutation::NoDataSync) => of == Metadata::None,
            Some(Mutation::NoBitmapSync) => of == Metadata::Bitmap,
            Some(Mutation::NoBitmapSyncAtClose) => {
                of == Metadata::Bitmap && self.stage == Stage::Closing
            }
            Some(Mutation::NoSyncBetweenSlots) => of == Metadata::Header && self.headers % 2 == 1,
            Some(Mutation::HeaderNotWrittenAgain) => header_at(Stage::Opening) && self.headers == 0,
            Some(Mutation::NoOpenHeaderSync) => header_at(Stage::Opening),
            Some(Mutation::NoGrowHeaderSync) => header_at(Stage::Growing),
            Some(Mutation::NoCloseHeaderSync) => header_at(Stage::Closing),
            Some(Mutation::NoLengthSync) => of == Metadata::Length,
            _ => false,
        }
    }

    fn finish(&mut self, token: Token, result: Result<(), Errno>) {
        self.finished.push((token, result));
        self.buffers.remove(token);
        let ended: Vec<_> = self.changes.extract_if(.., |(t, _)| *t == token).collect();
        if result.is_err() {
            return;
        }
        for (_, range) in ended {
            let layout = self.geometry.layout();
            let (first, end) = layout.blocks_touched(range.start.0, range.end());
            self.live.extend((first.0..end.0).map(BlockIndex));
        }
    }

    /// Issues a write of those sectors that `keep` says.
    fn issue(
        &mut self,
        pool: &mut Pool,
        offset: FileOffset,
        bytes: &[u8],
        keep: &[bool],
    ) -> WriteId {
        assert_aligned(self.geometry, offset, bytes.len());
        let first = self.geometry.sector_at(offset);
        let data = offset >= self.geometry.layout().data_offset();
        let shift = usize::from(data && self.is(Mutation::DataMisplaced));
        let contents = bytes.as_chunks::<SECTOR>().0.iter().zip(keep);
        let sectors = contents
            .enumerate()
            .filter(|(_, (_, keep))| **keep)
            .map(|(i, (content, _))| (first + i + shift, pool.id(content)))
            .filter(|(sector, _)| *sector < self.geometry.length_sector())
            .collect();
        self.disk.issue(sectors)
    }

    /// Sets the bits of all finished writes in bitmap pages that lie at `offset`.
    fn set_live_bits(&self, offset: FileOffset, bytes: &mut [u8]) {
        let start = (offset.0 - self.geometry.layout().bitmap_offset().0) * 8;
        for block in &self.live {
            if let Some(bit) = block.0.checked_sub(start)
                && let Some(byte) = bytes.get_mut(index(bit / 8))
            {
                *byte |= 1 << (bit % 8);
            }
        }
    }

    /// Writes the bits of all finished writes to the cache.
    fn write_live_bitmap(&mut self, pool: &mut Pool) {
        let offset = self.geometry.layout().bitmap_offset();
        let mut bytes = vec![0; self.geometry.bitmap_sectors() * SECTOR];
        let top = (LayerIndex::TOP, offset);
        read_layer(self.geometry, pool, self.disk.view(), top, &mut bytes);
        self.set_live_bits(offset, &mut bytes);
        let keep = vec![true; bytes.len() / SECTOR];
        let device = self.issue(pool, offset, &bytes, &keep);
        self.disk.complete(device);
    }
}
