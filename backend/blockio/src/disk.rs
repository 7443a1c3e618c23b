//! A disk: an engine with its files, driven through an executor.
//!
//! One worker thread drives many disks through one executor. The key of each operation says whose it is: the
//! upper half is the disk's number, the lower half the engine's operation.

mod changes;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;

use dscow::engine::{Action, BounceId, Engine, Errno, Memory, OnNoSpace, OpId, Request, Token};
use dscow::layout::Layout;
use dscow::parents::LayerIndex;
use dscow::units::{BlockIndex, DiskRange, FileOffset};
use rustc_hash::{FxHashMap, FxHashSet};
use tracing::Span;

use self::changes::{Change, Changes};
use crate::buffer::{AlignedBuf, Buffer};
use crate::executor::{Executor, FileSlot, IoError, Op};
use crate::extents::DiskMap;
use crate::file::{BlockFile, FileSystem};
use crate::space::{Method, STRIDE, Space, SpaceStrategy};

/// Number of a disk on its worker, chosen by the caller; the upper half of its operations' keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DiskNumber(pub u32);

impl DiskNumber {
    /// The disk and the engine's operation that an executor's key names.
    pub fn of_key(key: u64) -> (Self, OpId) {
        let disk = u32::try_from(key >> 32).expect("32 bits are left");
        let op = usize::try_from(key & u64::from(u32::MAX)).expect("a usize has at least 32 bits");
        (Self(disk), OpId::from_usize(op))
    }

    /// The executor's key of an operation.
    pub(crate) fn key(self, op: OpId) -> u64 {
        let op = u32::try_from(op.as_usize()).expect("a disk has far fewer operations in flight");
        u64::from(self.0) << 32 | u64::from(op)
    }
}

/// A request that has ended: which, its buffer, and how it went.
pub struct Finished {
    /// The token it was submitted with.
    pub token: Token,
    /// Its buffer, not used by anybody any more; empty for requests without data.
    pub buffer: Buffer,
    /// How it went.
    pub result: Result<(), Errno>,
}

/// An engine with its files.
pub struct Disk {
    number: DiskNumber,
    engine: Engine,
    /// One for each layer, the image's own first.
    slots: Vec<FileSlot>,
    /// The same files.
    files: Vec<Arc<BlockFile>>,
    buffers: FxHashMap<Token, Buffer>,
    bounces: FxHashMap<BounceId, Buffer>,
    finished: Vec<Finished>,
    /// Told of blocks that were allocated, before the requests that allocated them finish.
    keeper: Option<Keeper>,
    /// The kinds of errors that were logged already: a guest can cause any number of some of them.
    logged_errnos: FxHashSet<i32>,
    options: DiskOptions,
    /// Reads into memory that the file cannot be read into directly: where the bytes go in the end, and from where.
    unaligned_reads: FxHashMap<OpId, (Buffer, Buffer)>,
    changes: Changes,
    /// What its log lines are about, in the words of who made it.
    span: Span,
}

/// Keeps what was allocated, beyond the life of the process. Called with a first block, and the one after the last.
pub type Keeper = Box<dyn FnMut(BlockIndex, BlockIndex)>;

/// How a disk is driven.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskOptions {
    /// Whether writes are searched for whole blocks of zeros, which become holes.
    pub detect_zeroes: bool,
    /// How storage is taken for blocks that are written for the first time.
    pub space: SpaceStrategy,
}

impl Disk {
    /// The disk of an engine whose layers are in `files`, the image's own first. What it logs is logged within the span that is
    /// current now.
    ///
    /// # Panics
    /// If there is no file.
    pub fn new(
        number: DiskNumber,
        engine: Engine,
        files: Vec<Arc<BlockFile>>,
        options: DiskOptions,
        executor: &mut dyn Executor,
    ) -> Self {
        let space = space_of(&engine, &files[0], files[0].file_system(), options.space);
        Self {
            changes: Changes::new(space),
            options,
            unaligned_reads: FxHashMap::default(),
            number,
            engine,
            slots: files
                .iter()
                .map(|file| executor.register(Arc::clone(file)))
                .collect(),
            files,
            buffers: FxHashMap::default(),
            bounces: FxHashMap::default(),
            finished: Vec::new(),
            keeper: None,
            logged_errnos: FxHashSet::default(),
            span: Span::current(),
        }
    }

    /// Takes storage as if the image were in such a file system, so that a test does not depend on what there is. To be
    /// called before the image is opened.
    #[cfg(feature = "faults")]
    pub fn assume_file_system(&mut self, file_system: FileSystem) {
        let space = space_of(
            &self.engine,
            &self.files[0],
            file_system,
            self.options.space,
        );
        self.changes = Changes::new(space);
    }

    /// Has everything that is allocated from now on told to `keeper`, before anybody else is told.
    pub fn keep_allocations(&mut self, keeper: Keeper) {
        self.engine.tell_allocations();
        self.keeper = Some(keeper);
    }

    /// The engine, to ask about its state.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Which layer holds what of the disk, as of now.
    pub fn map(&self) -> DiskMap<'_> {
        DiskMap::of_engine(&self.engine, &self.files)
    }

    /// Whether zeroing a range of the image's own file is left to the file system or the device, as far as is known.
    pub fn zeroes_fast(&self) -> bool {
        self.files[0].zeroes_fast()
    }

    /// The image's own file; whoever keeps it keeps its lock.
    pub fn shared_file(&self) -> Arc<BlockFile> {
        Arc::clone(&self.files[0])
    }

    /// The path that the image was opened by.
    pub fn path(&self) -> &Path {
        self.files[0].path()
    }

    /// Opens the image; ends in a [`Finished`] with `token`.
    pub fn open(&mut self, executor: &mut dyn Executor, token: Token) {
        self.engine.open(token);
        self.drive(executor);
    }

    /// Commits and closes the image; ends in a [`Finished`] with `token`.
    ///
    /// # Panics
    /// If requests are under way.
    pub fn close(&mut self, executor: &mut dyn Executor, token: Token) {
        self.close_when_given_back(executor, token);
        self.drive(executor);
    }

    /// Whether the data of a request in this memory is copied for the image's file, which does not take it from there.
    pub fn copies(&self, buffer: &Buffer) -> bool {
        !self.is_aligned(buffer)
    }

    /// Whether the kernel may go on reading or writing a request's memory after this process was killed. It does where
    /// it reads and writes past the page cache: operations of io_uring are not waited for.
    pub fn io_outlives_process(&self) -> bool {
        self.files.iter().any(|file| file.direct())
    }

    /// Takes a request; ends in a [`Finished`] with `token`, perhaps at once. The buffer is as long as the
    /// request's range, and empty for requests without data. A token names one request at a time.
    pub fn submit(
        &mut self,
        executor: &mut dyn Executor,
        token: Token,
        request: Request,
        buffer: Buffer,
    ) {
        match request {
            Request::Write(range) if self.options.detect_zeroes => {
                let zeros = zero_blocks(range, &buffer, self.engine.layout());
                self.buffers.insert(token, buffer);
                self.engine.submit_write(token, range, &zeros);
            }
            _ => {
                self.buffers.insert(token, buffer);
                self.engine.submit(token, request);
            }
        }
        self.drive(executor);
    }

    /// Makes the disk larger, see [`Engine::grow`]; ends in a [`Finished`] with `token`.
    pub fn grow(&mut self, executor: &mut dyn Executor, token: Token, virtual_size: u64) {
        self.engine.grow(token, virtual_size);
        self.drive(executor);
    }

    /// Tries again what waits for space, see [`Engine::stalled`].
    pub fn retry_stalled(&mut self, executor: &mut dyn Executor) {
        self.engine.retry_stalled();
        self.drive(executor);
    }

    /// Changes what is done when the host has run out of space, see [`Engine::set_on_no_space`].
    pub fn set_on_no_space(&mut self, on_no_space: OnNoSpace, executor: &mut dyn Executor) {
        self.engine.set_on_no_space(on_no_space);
        self.drive(executor);
    }

    /// Whether writes are searched for whole blocks of zeros.
    pub fn detects_zeroes(&self) -> bool {
        self.options.detect_zeroes
    }

    /// Has writes from now on searched for whole blocks of zeros, which become holes, or not any more.
    pub fn set_detect_zeroes(&mut self, detect_zeroes: bool) {
        self.options.detect_zeroes = detect_zeroes;
    }

    /// Gives up what waits for space, see [`Engine::fail_stalled`].
    pub fn fail_stalled(&mut self, executor: &mut dyn Executor) {
        self.engine.fail_stalled();
        self.drive(executor);
    }

    /// An operation of this disk is done.
    pub fn complete(&mut self, executor: &mut dyn Executor, op: OpId, result: Result<(), IoError>) {
        if let Some((aligned, memory)) = self.unaligned_reads.remove(&op) {
            memory.copy_from(0, &aligned, 0, memory.len());
        }
        if let Some(result) = self.after_change(executor, op, result) {
            if let Err(error) = &result
                && self.logged_errnos.insert(error.errno())
            {
                tracing::error!(
                    parent: &self.span,
                    "{error} (more errors of this kind on this disk are only counted)"
                );
            }
            self.engine
                .complete(op, result.map_err(|error| Errno(error.errno())));
        }
        self.drive(executor);
    }

    /// Commits new blocks although no flush asked for it; call it about once a second.
    pub fn commit_idle(&mut self, executor: &mut dyn Executor) {
        self.engine.commit_idle();
        self.drive(executor);
    }

    /// The requests that have ended since the last call.
    pub fn take_finished(&mut self) -> Vec<Finished> {
        std::mem::take(&mut self.finished)
    }

    /// Lets go of the files. Their locks end with the last operation in flight on them.
    pub fn release(self, executor: &mut dyn Executor) {
        for slot in self.slots {
            executor.unregister(slot);
        }
    }

    fn drive(&mut self, executor: &mut dyn Executor) {
        while let Some(action) = self.engine.next_action() {
            self.perform(executor, action);
        }
    }

    fn perform(&mut self, executor: &mut dyn Executor, action: Action) {
        let file = self.slots[0];
        let (op, io) = match action {
            Action::Read {
                op,
                layer,
                offset,
                memory,
                len,
            } => {
                let mut buffer = self.slice(memory, len);
                if layer == LayerIndex::TOP && !self.is_aligned(&buffer) {
                    let aligned = AlignedBuf::zeroed(in_memory(len)).into_buffer();
                    self.unaligned_reads.insert(op, (aligned.clone(), buffer));
                    buffer = aligned;
                }
                let (file, offset) = (self.slots[layer.0], offset.0);
                (
                    op,
                    Op::Read {
                        file,
                        offset,
                        buffer,
                    },
                )
            }
            Action::WriteData {
                op,
                offset,
                memory,
                len,
            } => {
                let mut buffer = self.slice(memory, len);
                if !self.is_aligned(&buffer) {
                    let aligned = AlignedBuf::zeroed(in_memory(len)).into_buffer();
                    aligned.copy_from(0, &buffer, 0, in_memory(len));
                    buffer = aligned;
                }
                let range = self.disk_range(offset, len);
                let io = write(file, offset.0, buffer);
                return self.start_change(executor, Change { op, range, io });
            }
            Action::ZeroData { op, offset, len } => {
                let range = self.disk_range(offset, len);
                let offset = offset.0;
                let io = Op::ZeroRange { file, offset, len };
                return self.start_change(executor, Change { op, range, io });
            }
            Action::WriteBitmap { op, offset, bytes } => (op, write(file, offset.0, copy(&bytes))),
            Action::WriteHeader { op, slot, bytes } => {
                (op, write(file, slot.offset().0, copy(&bytes[..])))
            }
            Action::Sync { op } => (op, Op::Sync { file }),
            immediate => return self.perform_now(immediate),
        };
        executor.submit(self.number.key(op), io);
    }

    /// Performs an action that is not I/O.
    fn perform_now(&mut self, action: Action) {
        match action {
            Action::FillZero { memory, len } => {
                let buffer = self.slice(memory, len);
                buffer.fill_zero(0, buffer.len());
            }
            Action::AllocBounce { bounce, len } => {
                let buffer = AlignedBuf::zeroed(in_memory(len)).into_buffer();
                self.bounces.insert(bounce, buffer);
            }
            Action::Copy { from, to, len } => {
                let (from, to) = (self.slice(from, len), self.slice(to, len));
                to.copy_from(0, &from, 0, in_memory(len));
            }
            Action::FreeBounce { bounce } => {
                self.bounces.remove(&bounce);
            }
            // Rare, and a matter of microseconds: not worth an operation of the executor, which older kernels lack.
            Action::SetLen { op, len } => {
                let result = self.files[0].ensure_len(len).map_err(|cause| {
                    tracing::error!(
                        parent: &self.span,
                        "{}: cannot be made {len} bytes long: {cause}",
                        self.files[0].path().display()
                    );
                    Errno(cause.raw_os_error().unwrap_or(Errno::EIO.0))
                });
                self.engine.complete(op, result);
            }
            Action::Finish { token, result } => {
                self.tell_keeper();
                let buffer = self.buffers.remove(&token).unwrap_or_else(Buffer::empty);
                self.finished.push(Finished {
                    token,
                    buffer,
                    result,
                });
            }
            io => unreachable!("{io:?} is I/O"),
        }
    }

    fn tell_keeper(&mut self) {
        if let Some(keeper) = &mut self.keeper {
            for (first, end) in self.engine.take_allocations() {
                keeper(first, end);
            }
        }
    }

    /// The range of the disk that is at `offset` in the image's data.
    fn disk_range(&self, offset: FileOffset, len: u64) -> DiskRange {
        DiskRange::new(offset.0 - self.engine.layout().data_offset().0, len)
    }

    /// Whether the image's file can be read into and written from this memory.
    fn is_aligned(&self, buffer: &Buffer) -> bool {
        self.files[0].dio_alignment().is_none_or(|alignment| {
            let segments = alignment.memory.max(alignment.offset);
            buffer.is_aligned_to(segments as usize)
        })
    }

    fn slice(&self, memory: Memory, len: u64) -> Buffer {
        let (buffer, offset) = match memory {
            Memory::Request { token, offset } => (self.buffers.get(&token), offset),
            Memory::Bounce { bounce, offset } => (self.bounces.get(&bounce), offset),
        };
        buffer
            .expect("the engine names memory between its first and last use")
            .slice(in_memory(offset), in_memory(len))
    }
}

/// The decisions about space for an image in `file`.
fn space_of(
    engine: &Engine,
    file: &BlockFile,
    file_system: FileSystem,
    strategy: SpaceStrategy,
) -> Space<Change> {
    // A file system without such hints says so, with an error.
    let hint = file.extent_size().ok().flatten();
    let method = Method::of(strategy, file_system, hint.is_some());
    let stride = hint.unwrap_or(STRIDE);
    let block_len = engine.layout().block_size().bytes();
    Space::new(method, stride.into(), block_len)
}

/// The runs of whole blocks in a write that are all zeros.
fn zero_blocks(range: DiskRange, buffer: &Buffer, layout: &Layout) -> Vec<DiskRange> {
    let block = layout.block_size().bytes();
    let mut zeros: Vec<DiskRange> = Vec::new();
    let mut at = range.start.0.next_multiple_of(block);
    while at < range.end() {
        let end = (at + block).min(layout.virtual_size());
        if end > range.end() {
            break;
        }
        let (offset, len) = (in_memory(at - range.start.0), in_memory(end - at));
        if buffer.is_zero(offset, len) {
            match zeros.last_mut() {
                Some(last) if last.end() == at => last.len += end - at,
                _ => zeros.push(DiskRange::new(at, end - at)),
            }
        }
        at = end;
    }
    zeros
}

fn write(file: FileSlot, offset: u64, buffer: Buffer) -> Op {
    Op::Write {
        file,
        offset,
        buffer,
        takes_storage: false,
    }
}

fn copy(bytes: &[u8]) -> Buffer {
    AlignedBuf::from_slice(bytes).into_buffer()
}

/// A length or position in a buffer, which is held in memory.
fn in_memory(len: u64) -> usize {
    usize::try_from(len).expect("buffers are held in memory")
}
