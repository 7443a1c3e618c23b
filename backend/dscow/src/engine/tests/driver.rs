//! A driver in memory: layers are vectors of bytes, and the test decides when which action completes.

use std::collections::HashMap;

use uuid::Uuid;

use super::super::{Action, BounceId, Engine, Errno, Memory, Mode, OpId, Options, Request, Token};
use crate::bitmap::Bitmap;
use crate::header::{self, Header, Slot, State};
use crate::layout::{Headroom, Layout};
use crate::parent::Parent;
use crate::parents::{LayerIndex, ParentLayer, Parents};
use crate::units::{BlockIndex, BlockSize, DiskRange};

pub(super) const OPEN: Token = Token(u64::MAX);

/// An image in memory, with the layers below it.
pub(super) struct Driver {
    pub(super) engine: Engine,
    /// Bytes of each layer's file, the image first.
    pub(super) files: Vec<Vec<u8>>,
    buffers: HashMap<Token, Vec<u8>>,
    bounces: HashMap<BounceId, Vec<u8>>,
    /// I/O that was asked for and not done yet.
    pub(super) waiting: Vec<Action>,
    finished: HashMap<Token, Result<(), Errno>>,
    /// The data area is not kept.
    is_sparse: bool,
    /// Where nobody minds, garbage is written all the time.
    pub(super) scribbles: bool,
}

/// A layer below the image.
pub(super) enum Below {
    Raw(Vec<u8>),
    /// Of this size, and never read.
    RawOfSize(u64),
    /// Block size, size, and the allocated blocks with the byte that fills each.
    Dscow(u64, u64, Vec<(u64, u8)>),
}

pub(super) fn new_header(size: u64, block_size: u64) -> Header {
    let block_size = BlockSize::from_bytes(block_size).unwrap();
    Header {
        sequence: 1,
        compatible_features: 0,
        uuid: Uuid::from_u128(1),
        layout: Layout::for_new(size, block_size, Headroom::Exact).unwrap(),
        generation: 0,
        created: 0,
        state: State::Clean { bitmap_crc: 0 },
        parent: None::<Parent>,
        commit_under_way: false,
        parent_limit: None,
    }
}

impl Driver {
    /// A fresh image of `size` bytes over `below` (nearest first), open for writing.
    pub(super) fn new(size: u64, block_size: u64, below: Vec<Below>) -> Self {
        Self::new_with(size, block_size, below, Options::default())
    }

    pub(super) fn new_with(
        size: u64,
        block_size: u64,
        below: Vec<Below>,
        options: Options,
    ) -> Self {
        let header = new_header(size, block_size);
        let mut file = vec![0; usize::try_from(header.layout.file_len()).unwrap()];
        file[..4096].copy_from_slice(&header.encode()[..]);
        let mut driver = Self::reopen_with(file, below, options);
        driver.engine.open(OPEN);
        driver.run();
        assert_eq!(driver.take_result(OPEN), Some(Ok(())));
        driver
    }

    /// A fresh image of `size` bytes, open for writing, whose data area is not there: nothing can be read or written.
    pub(super) fn sparse(size: u64, block_size: u64) -> Self {
        let header = new_header(size, block_size);
        let mut file = vec![0; 1 << 20];
        file[..4096].copy_from_slice(&header.encode()[..]);
        let mut driver = Self::reopen(file, vec![Below::RawOfSize(size)]);
        driver.is_sparse = true;
        driver.engine.open(OPEN);
        driver.run();
        driver
    }

    /// The image that the bytes hold, not opened yet.
    pub(super) fn reopen(file: Vec<u8>, below: Vec<Below>) -> Self {
        Self::reopen_with(file, below, Options::default())
    }

    pub(super) fn reopen_with(file: Vec<u8>, below: Vec<Below>, options: Options) -> Self {
        let slot = |at: usize| <&header::SlotBytes>::try_from(&file[at..at + 4096]).unwrap();
        let (header, slot) = header::select(slot(0), slot(4096)).unwrap();
        let bitmap = load_bitmap(&header, &file);
        let mut files = vec![file];
        let mut layers = Vec::new();
        for layer in below {
            let (file, layer) = layer.build();
            files.push(file);
            layers.push(layer);
        }
        let mode = Mode::Writable {
            owner: Uuid::from_u128(2),
        };
        Self {
            engine: Engine::new(header, slot, bitmap, Parents::new(layers), mode, options),
            files,
            buffers: HashMap::new(),
            bounces: HashMap::new(),
            waiting: Vec::new(),
            finished: HashMap::new(),
            is_sparse: false,
            scribbles: false,
        }
    }

    pub(super) fn slot(&self) -> Slot {
        self.engine.slot
    }

    pub(super) fn submit_write(&mut self, token: u64, start: u64, data: &[u8]) {
        self.buffers.insert(Token(token), data.to_vec());
        let range = DiskRange::new(start, data.len() as u64);
        self.engine.submit(Token(token), Request::Write(range));
        self.collect();
    }

    pub(super) fn submit_read(&mut self, token: u64, start: u64, len: usize) {
        self.buffers.insert(Token(token), vec![0xee; len]);
        let range = DiskRange::new(start, len as u64);
        self.engine.submit(Token(token), Request::Read(range));
        self.collect();
    }

    pub(super) fn submit(&mut self, token: u64, request: Request) {
        self.engine.submit(Token(token), request);
        self.collect();
    }

    pub(super) fn submit_barrier(&mut self, token: u64, start: u64, data: &[u8]) {
        self.buffers.insert(Token(token), data.to_vec());
        let range = DiskRange::new(start, data.len() as u64);
        self.submit(token, Request::Barrier(range));
    }

    /// A write of which `zeros` (start and length) are given as zeros.
    pub(super) fn submit_sparse_write(
        &mut self,
        token: u64,
        start: u64,
        data: &[u8],
        zeros: &[(u64, u64)],
    ) {
        self.buffers.insert(Token(token), data.to_vec());
        let range = DiskRange::new(start, data.len() as u64);
        let zeros: Vec<_> = zeros
            .iter()
            .map(|(at, len)| DiskRange::new(*at, *len))
            .collect();
        self.engine.submit_write(Token(token), range, &zeros);
        self.collect();
    }

    pub(super) fn submit_flush(&mut self, token: u64) {
        self.engine.submit(Token(token), Request::Flush);
        self.collect();
    }

    pub(super) fn buffer(&self, token: u64) -> &[u8] {
        &self.buffers[&Token(token)]
    }

    pub(super) fn take_result(&mut self, token: Token) -> Option<Result<(), Errno>> {
        self.finished.remove(&token)
    }

    pub(super) fn is_finished(&self, token: u64) -> bool {
        self.finished.contains_key(&Token(token))
    }

    /// Performs what needs no completion, and puts I/O on the waiting list.
    pub(super) fn collect(&mut self) {
        while let Some(action) = self.engine.next_action() {
            match action {
                Action::FillZero { memory, len } => {
                    self.bytes(memory, len).fill(0);
                }
                Action::AllocBounce { bounce, len } => {
                    let garbage = vec![0xbb; usize::try_from(len).unwrap()];
                    assert!(self.bounces.insert(bounce, garbage).is_none());
                }
                Action::FreeBounce { bounce } => {
                    self.bounces.remove(&bounce).expect("freed once");
                }
                Action::Copy { from, to, len } => {
                    let bytes = self.bytes(from, len).to_vec();
                    self.bytes(to, len).copy_from_slice(&bytes);
                }
                Action::Finish { token, result } => {
                    assert!(
                        self.finished.insert(token, result).is_none(),
                        "finished once"
                    );
                }
                io => {
                    self.scribble_around(&io);
                    self.waiting.push(io);
                }
            }
        }
        self.scribble_where_unused();
    }

    fn whole_disk(&self) -> DiskRange {
        let layout = self.engine.layout();
        DiskRange::new(0, layout.file_len() - layout.data_offset().0)
    }

    /// Does what a driver may do that makes writes larger.
    fn scribble_around(&mut self, action: &Action) {
        let Action::WriteData { offset, len, .. } = action else {
            return;
        };
        if !self.scribbles {
            return;
        }
        let start = offset.0 - self.engine.layout().data_offset().0;
        let write = DiskRange::new(start, *len);
        if let Some(room) = self.engine.room_around(write, self.whole_disk()) {
            assert!(room.start <= write.start && write.end() <= room.end());
            self.scribble(room.start.0, write.start.0);
            self.scribble(write.end(), room.end());
        }
    }

    fn scribble_where_unused(&mut self) {
        if self.scribbles {
            for unused in self.engine.unused_within(self.whole_disk()) {
                self.scribble(unused.start.0, unused.end());
            }
        }
    }

    fn scribble(&mut self, start: u64, end: u64) {
        let garbage = vec![0xdd; usize::try_from(end - start).unwrap()];
        let offset = self.engine.layout().data_offset().0 + start;
        self.write_file(offset, &garbage, Ok(()));
    }

    /// Performs and completes the waiting action at `index`.
    pub(super) fn complete(&mut self, index: usize, result: Result<(), Errno>) {
        let action = self.waiting.remove(index);
        self.check_alignment(&action);
        let op = match action {
            Action::Read {
                op,
                layer,
                offset,
                memory,
                len,
            } => {
                let at = usize::try_from(offset.0).unwrap();
                let end = at + usize::try_from(len).unwrap();
                let bytes = self.files[layer.0][at..end].to_vec();
                self.bytes(memory, len).copy_from_slice(&bytes);
                op
            }
            Action::WriteData {
                op,
                offset,
                memory,
                len,
            } => {
                assert!(offset >= self.engine.layout().data_offset());
                let bytes = self.bytes(memory, len).to_vec();
                self.write_file(offset.0, &bytes, result);
                op
            }
            Action::WriteBitmap { op, offset, bytes } => {
                assert_eq!(bytes.len() % 4096, 0);
                self.write_file(offset.0, &bytes, result);
                op
            }
            Action::WriteHeader { op, slot, bytes } => {
                self.write_file(slot.offset().0, &bytes[..], result);
                op
            }
            Action::ZeroData { op, offset, len } => {
                assert!(offset >= self.engine.layout().data_offset());
                if !self.is_sparse {
                    self.write_file(offset.0, &vec![0; usize::try_from(len).unwrap()], result);
                }
                op
            }
            Action::SetLen { op, len } => {
                if result.is_ok() {
                    let file = &mut self.files[LayerIndex::TOP.0];
                    let len = usize::try_from(len).unwrap().max(file.len());
                    file.resize(len, 0);
                }
                op
            }
            Action::Sync { op } => op,
            other => panic!("{other:?} does not wait"),
        };
        self.engine.complete(op, result);
        self.collect();
    }

    /// Whatever is done to the image's own file is aligned as it wants it.
    fn check_alignment(&self, action: &Action) {
        let (offset, len) = match action {
            Action::Read {
                layer, offset, len, ..
            } if *layer == LayerIndex::TOP => (offset.0, *len),
            Action::WriteData { offset, len, .. } | Action::ZeroData { offset, len, .. } => {
                (offset.0, *len)
            }
            _ => return,
        };
        let alignment = u64::from(self.engine.options.io_alignment);
        let aligned = offset.is_multiple_of(alignment) && len.is_multiple_of(alignment);
        assert!(aligned, "{action:?}");
    }

    fn write_file(&mut self, offset: u64, bytes: &[u8], result: Result<(), Errno>) {
        if result.is_ok() {
            let at = usize::try_from(offset).unwrap();
            self.files[LayerIndex::TOP.0][at..at + bytes.len()].copy_from_slice(bytes);
        }
    }

    /// Completes everything in order until nothing is left to do.
    pub(super) fn run(&mut self) {
        self.collect();
        while !self.waiting.is_empty() {
            self.complete(0, Ok(()));
        }
    }

    pub(super) fn write(&mut self, token: u64, start: u64, data: &[u8]) {
        self.submit_write(token, start, data);
        self.run();
        assert_eq!(self.take_result(Token(token)), Some(Ok(())));
    }

    pub(super) fn read(&mut self, start: u64, len: usize) -> Vec<u8> {
        let token = u64::MAX - 1;
        self.submit_read(token, start, len);
        self.run();
        assert_eq!(self.take_result(Token(token)), Some(Ok(())));
        self.buffer(token).to_vec()
    }

    pub(super) fn bounces_in_use(&self) -> usize {
        self.bounces.len()
    }

    fn bytes(&mut self, memory: Memory, len: u64) -> &mut [u8] {
        let (buffer, offset) = match memory {
            Memory::Request { token, offset } => (self.buffers.get_mut(&token).unwrap(), offset),
            Memory::Bounce { bounce, offset } => (self.bounces.get_mut(&bounce).unwrap(), offset),
        };
        let at = usize::try_from(offset).unwrap();
        &mut buffer[at..at + usize::try_from(len).unwrap()]
    }
}

impl Below {
    fn build(self) -> (Vec<u8>, ParentLayer) {
        match self {
            Self::Raw(bytes) => {
                let size = bytes.len() as u64;
                (bytes, ParentLayer::Raw { size })
            }
            Self::RawOfSize(size) => (Vec::new(), ParentLayer::Raw { size }),
            Self::Dscow(block_size, size, blocks) => {
                let layout = new_header(size, block_size).layout;
                let mut bitmap = Bitmap::empty(&layout).unwrap();
                let mut file = vec![0xdd; usize::try_from(layout.file_len()).unwrap()];
                for (block, fill) in blocks {
                    bitmap.set(BlockIndex(block));
                    let start = layout.block_size().start_of(BlockIndex(block));
                    let at = usize::try_from(layout.data_position(start).0).unwrap();
                    file[at..at + usize::try_from(block_size).unwrap()].fill(fill);
                }
                (
                    file,
                    ParentLayer::Dscow {
                        layout,
                        bitmap,
                        parent_limit: u64::MAX,
                    },
                )
            }
        }
    }
}

fn load_bitmap(header: &Header, file: &[u8]) -> Bitmap {
    let mut bitmap = Bitmap::empty(&header.layout).unwrap();
    let at = usize::try_from(header.layout.bitmap_offset().0).unwrap();
    let len = usize::try_from(header.layout.bitmap_used_len()).unwrap();
    bitmap.load(0, &file[at..at + len]);
    bitmap
}

/// The operation of an action that waits.
pub(super) fn op_of(action: &Action) -> OpId {
    match action {
        Action::Read { op, .. }
        | Action::WriteData { op, .. }
        | Action::ZeroData { op, .. }
        | Action::SetLen { op, .. }
        | Action::WriteBitmap { op, .. }
        | Action::WriteHeader { op, .. }
        | Action::Sync { op } => *op,
        other => panic!("{other:?} does not wait"),
    }
}
