//! Performs what the engine asks for, on the simulated disk, when it is told to.

use dscow::engine::{Action, BounceId, Engine, Memory, OpId, Request, Token};
use dscow::header::{Header, Slot, SlotBytes};
use dscow::parents::LayerIndex;
use dscow::units::{BlockIndex, DiskRange, FileOffset};
use rustc_hash::FxHashMap;

use crate::content::{Pool, SECTOR, index};
use crate::disk::{Disk, WriteId};
use crate::geometry::Geometry;
use crate::mutation::Mutation;
use crate::reopen::read_layer;

/// What the last metadata write was that no sync was submitted after.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Metadata {
    None,
    Bitmap,
    Header,
}

struct Bounce {
    bytes: Vec<u8>,
    /// For each sector, whether the guest's was copied over it.
    overlaid: Vec<bool>,
}

/// I/O that was asked for and not completed.
enum Waiting {
    Read {
        op: OpId,
        from: (LayerIndex, FileOffset),
        memory: Memory,
        len: u64,
    },
    /// Completing it may mean something to the disk, to the engine, or to both.
    Write {
        op: Option<OpId>,
        device: Option<WriteId>,
    },
    Sync {
        op: OpId,
        covered: Vec<WriteId>,
        of: Metadata,
    },
}

/// An engine with its disk and buffers.
pub(crate) struct Driver<'a> {
    geometry: &'a Geometry,
    pub(crate) engine: Engine,
    pub(crate) disk: Disk,
    pub(crate) closing: bool,
    /// Of the image before it is opened.
    generation: u64,
    /// Headers written since then. Each is written to one slot and then to the other.
    headers: u32,
    mutation: Option<Mutation>,
    buffers: FxHashMap<Token, (DiskRange, Vec<u8>)>,
    bounces: FxHashMap<BounceId, Bounce>,
    waiting: Vec<Waiting>,
    pub(crate) finished: Vec<Token>,
    metadata: Metadata,
    /// Blocks of writes that are finished, for mutations that write a bitmap of their own.
    live: Vec<BlockIndex>,
}

impl<'a> Driver<'a> {
    pub(crate) fn new(
        geometry: &'a Geometry,
        engine: Engine,
        disk: Disk,
        mutation: Option<Mutation>,
    ) -> Self {
        Self {
            geometry,
            generation: engine.header().generation,
            engine,
            disk,
            closing: false,
            headers: 0,
            mutation,
            buffers: FxHashMap::default(),
            bounces: FxHashMap::default(),
            waiting: Vec::new(),
            finished: Vec::new(),
            metadata: Metadata::None,
            live: Vec::new(),
        }
    }

    /// The process starts again on the same host; the cache stays, and so does what is in flight.
    pub(crate) fn restart(&mut self, engine: Engine) {
        self.generation = engine.header().generation;
        self.engine = engine;
        self.closing = false;
        self.headers = 0;
        self.metadata = Metadata::None;
    }

    /// For each action under way, oldest first, whether it is a sync.
    pub(crate) fn syncs(&self) -> Vec<bool> {
        let is_sync = |waiting: &Waiting| matches!(waiting, Waiting::Sync { .. });
        self.waiting.iter().map(is_sync).collect()
    }

    /// Whether the sync that makes the bitmap durable is under way.
    pub(crate) fn is_syncing_bitmap(&self) -> bool {
        let of_bitmap = |waiting: &Waiting| matches!(waiting, Waiting::Sync { of, .. } if *of == Metadata::Bitmap);
        self.waiting.iter().any(of_bitmap)
    }

    pub(crate) fn write(&mut self, token: Token, range: DiskRange, bytes: Vec<u8>) {
        self.buffers.insert(token, (range, bytes));
        self.engine.submit(token, Request::Write(range));
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
                } => self.waiting.push(Waiting::Read {
                    op,
                    from: (layer, offset),
                    memory,
                    len,
                }),
                Action::WriteData {
                    op,
                    offset,
                    memory,
                    len,
                } => self.write_data(pool, op, offset, memory, len),
                Action::WriteBitmap { op, offset, bytes } => {
                    self.write_bitmap(pool, op, offset, bytes);
                }
                Action::WriteHeader { op, slot, bytes } => {
                    self.write_header(pool, op, slot, &bytes);
                }
                Action::Sync { op } => self.sync(pool, op),
                other @ (Action::ZeroData { .. } | Action::SetLen { .. }) => {
                    unreachable!("no workload asks for {other:?}")
                }
                Action::FillZero { memory, len } => {
                    if !self.is(Mutation::CopyUpWithoutZeros) {
                        self.memory(memory, len).fill(0);
                    }
                }
                Action::AllocBounce { bounce, len } => self.alloc_bounce(bounce, index(len)),
                Action::Copy { from, to, len } => self.copy(from, to, len),
                Action::FreeBounce { bounce } => {
                    self.bounces.remove(&bounce).expect("freed once");
                }
                Action::Finish { token, result } => {
                    result.expect("nothing fails on this disk");
                    self.finish(token);
                }
            }
        }
    }

    /// Performs and completes the action at `at` on the waiting list.
    pub(crate) fn complete(&mut self, pool: &mut Pool, at: usize) {
        let op = match self.waiting.remove(at) {
            Waiting::Read {
                op,
                from,
                memory,
                len,
            } => {
                if !self.is(Mutation::CopyUpWithoutRead) {
                    let mut bytes = vec![0; index(len)];
                    read_layer(self.geometry, pool, self.disk.view(), from, &mut bytes);
                    self.memory(memory, len).copy_from_slice(&bytes);
                }
                Some(op)
            }
            Waiting::Write { op, device } => {
                if let Some(device) = device {
                    self.disk.complete(device);
                }
                op
            }
            Waiting::Sync { op, covered, .. } => {
                self.disk.make_durable(&covered);
                Some(op)
            }
        };
        if let Some(op) = op {
            self.engine.complete(op, Ok(()));
            self.collect(pool);
        }
    }

    fn is(&self, mutation: Mutation) -> bool {
        self.mutation == Some(mutation)
    }

    fn write_data(
        &mut self,
        pool: &mut Pool,
        op: OpId,
        offset: FileOffset,
        memory: Memory,
        len: u64,
    ) {
        let bytes = self.memory(memory, len).to_vec();
        let mut keep = vec![true; bytes.len() / SECTOR];
        if let Memory::Bounce { bounce, .. } = memory
            && self.is(Mutation::CopyUpWritesGuestSectorsOnly)
        {
            keep.clone_from(&self.bounces[&bounce].overlaid);
        }
        let mut device = self.issue(pool, offset, &bytes, &keep);
        if self.is(Mutation::WriteReportedEarly) {
            self.waiting.push(Waiting::Write { op: None, device });
            device = None;
        }
        let op = Some(op);
        self.waiting.push(Waiting::Write { op, device });
    }

    fn write_bitmap(&mut self, pool: &mut Pool, op: OpId, offset: FileOffset, mut bytes: Vec<u8>) {
        self.metadata = Metadata::Bitmap;
        if self.is(Mutation::NoPageCopy) {
            self.set_live_bits(offset, &mut bytes);
        }
        let lost = self.is(Mutation::NoBitmapWrite)
            || self.closing && self.is(Mutation::NoBitmapWriteAtClose);
        let keep = vec![!lost; bytes.len() / SECTOR];
        let device = self.issue(pool, offset, &bytes, &keep);
        let op = Some(op);
        self.waiting.push(Waiting::Write { op, device });
    }

    fn write_header(&mut self, pool: &mut Pool, op: OpId, slot: Slot, bytes: &SlotBytes) {
        self.metadata = Metadata::Header;
        self.headers += 1;
        let mut header = Header::decode(bytes).expect("the engine writes good headers");
        if self.is(Mutation::GenerationNotRaised) && !self.closing {
            header.generation = self.generation;
        }
        let slot = if self.is(Mutation::HeaderInOneSlot) {
            Slot::A
        } else {
            slot
        };
        let keep = [true; 8];
        let device = self.issue(pool, slot.offset(), &header.encode()[..], &keep);
        let op = Some(op);
        self.waiting.push(Waiting::Write { op, device });
    }

    fn sync(&mut self, pool: &mut Pool, op: OpId) {
        let of = std::mem::replace(&mut self.metadata, Metadata::None);
        let skipped = match self.mutation {
            Some(Mutation::NoSync) => true,
            Some(Mutation::NoDataSync) => of == Metadata::None,
            Some(Mutation::NoBitmapSync) => of == Metadata::Bitmap,
            Some(Mutation::NoBitmapSyncAtClose) => of == Metadata::Bitmap && self.closing,
            Some(Mutation::NoSyncBetweenSlots) => of == Metadata::Header && self.headers % 2 == 1,
            Some(Mutation::NoOpenHeaderSync) => of == Metadata::Header && !self.closing,
            Some(Mutation::NoCloseHeaderSync) => of == Metadata::Header && self.closing,
            _ => false,
        };
        let covered = if skipped {
            Vec::new()
        } else {
            self.disk.cached()
        };
        if of == Metadata::None && self.is(Mutation::BitmapBeforeDataSync) {
            self.write_live_bitmap(pool);
        }
        self.waiting.push(Waiting::Sync { op, covered, of });
    }

    fn alloc_bounce(&mut self, bounce: BounceId, len: usize) {
        let garbage = Bounce {
            bytes: vec![0xbb; len],
            overlaid: vec![false; len / SECTOR],
        };
        assert!(self.bounces.insert(bounce, garbage).is_none());
    }

    fn copy(&mut self, from: Memory, to: Memory, len: u64) {
        if let Memory::Bounce { bounce, offset } = to {
            let first = index(offset) / SECTOR;
            let bounce = self.bounces.get_mut(&bounce).expect("allocated");
            bounce.overlaid[first..first + index(len) / SECTOR].fill(true);
        }
        if !self.is(Mutation::CopyUpWithoutOverlay) {
            let bytes = self.memory(from, len).to_vec();
            self.memory(to, len).copy_from_slice(&bytes);
        }
    }

    fn finish(&mut self, token: Token) {
        self.finished.push(token);
        if let Some((range, _)) = self.buffers.remove(&token) {
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
    ) -> Option<WriteId> {
        let first = self.geometry.sector_at(offset);
        let data = offset >= self.geometry.layout().data_offset();
        let shift = usize::from(data && self.is(Mutation::DataMisplaced));
        let contents = bytes.as_chunks::<SECTOR>().0.iter().zip(keep);
        let sectors = contents
            .enumerate()
            .filter(|(_, (_, keep))| **keep)
            .map(|(i, (content, _))| (first + i + shift, pool.id(content)))
            .filter(|(sector, _)| *sector < self.geometry.sectors())
            .collect();
        Some(self.disk.issue(sectors))
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
        let pages = self.geometry.layout().bitmap_used_len().div_ceil(4096);
        let mut bytes = vec![0; index(pages * 4096)];
        let top = (LayerIndex::TOP, offset);
        read_layer(self.geometry, pool, self.disk.view(), top, &mut bytes);
        self.set_live_bits(offset, &mut bytes);
        let keep = vec![true; bytes.len() / SECTOR];
        if let Some(device) = self.issue(pool, offset, &bytes, &keep) {
            self.disk.complete(device);
        }
    }

    fn memory(&mut self, memory: Memory, len: u64) -> &mut [u8] {
        let (bytes, offset) = match memory {
            Memory::Request { token, offset } => {
                let (_, bytes) = self.buffers.get_mut(&token).expect("under way");
                (bytes, offset)
            }
            Memory::Bounce { bounce, offset } => {
                let bounce = self.bounces.get_mut(&bounce).expect("allocated");
                (&mut bounce.bytes, offset)
            }
        };
        &mut bytes[index(offset)..index(offset + len)]
    }
}
