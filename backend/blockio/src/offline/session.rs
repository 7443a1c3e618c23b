//! Open disks and the executor that serves them, on one thread.

use std::io;
use std::path::Path;
use std::sync::Arc;

use dscow::engine::{OpId, Request, Token};
use dscow::units::DiskRange;

use super::volume::{Kind, Volume};
use crate::buffer::Buffer;
use crate::disk::{Disk, DiskNumber, DiskOptions};
use crate::executor::{Event, Executor, FileSlot, IoError, Op, open_executor};
use crate::extents::{DiskExtent, DiskMap};
use crate::file::{BlockFile, FileIdentity};
use crate::image::ImageError;

/// Names a disk of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Member(usize);

/// A request that has ended.
pub(super) struct Done {
    pub(super) token: Token,
    pub(super) result: Result<(), ImageError>,
}

/// Open disks and their executor.
pub(super) struct Session {
    executor: Box<dyn Executor>,
    members: Vec<Joined>,
    events: Vec<Event>,
    done: Vec<Done>,
}

struct Joined {
    kind: JoinedKind,
    files: Vec<Arc<BlockFile>>,
    size: u64,
    /// What went wrong last in an image's files: its engine tells the errno only, and this names the file.
    last_error: Option<IoError>,
}

enum JoinedKind {
    Image(Box<Disk>),
    Raw(FileSlot),
}

/// The token of requests that are waited for one at a time. Others use 32 bits.
const ALONE: Token = Token(u32::MAX as u64);

impl Session {
    pub(super) fn new() -> Result<Self, ImageError> {
        let executor = open_executor()
            .map_err(|cause| ImageError::io(Path::new("io_uring"), "be set up")(cause))?;
        Ok(Self {
            executor,
            members: Vec::new(),
            events: Vec::new(),
            done: Vec::new(),
        })
    }

    /// Takes a disk in, and opens it: if it is open for writing, its header says so from now on.
    pub(super) fn join(&mut self, volume: Volume) -> Result<Member, ImageError> {
        let member = Member(self.members.len());
        let (files, size) = (volume.files.clone(), volume.size());
        let executor = self.executor.as_mut();
        let kind = match volume.kind {
            Kind::Image(engine) => {
                let mut disk = Disk::new(
                    member.number(),
                    *engine,
                    volume.files,
                    DiskOptions::default(),
                    executor,
                );
                disk.open(executor, ALONE);
                JoinedKind::Image(Box::new(disk))
            }
            Kind::Raw => JoinedKind::Raw(executor.register(Arc::clone(&files[0]))),
        };
        let opens = matches!(kind, JoinedKind::Image(_));
        self.members.push(Joined {
            kind,
            files,
            size,
            last_error: None,
        });
        if opens {
            self.wait_alone()?;
        }
        Ok(member)
    }

    /// Size of a disk in bytes.
    pub(super) fn size(&self, member: Member) -> u64 {
        self.members[member.0].size
    }

    /// Which file holds a range of a disk, and where; by what the file is, not by how it was opened.
    pub(super) fn place(&self, member: Member, extent: &DiskExtent) -> Option<(FileIdentity, u64)> {
        let (layer, offset) = extent.holder?;
        let file = &self.members[member.0].files[layer.0];
        Some((file.identity(), offset.0))
    }

    /// Which layer holds what of a disk.
    pub(super) fn map(&self, member: Member) -> DiskMap<'_> {
        let joined = &self.members[member.0];
        match &joined.kind {
            JoinedKind::Image(disk) => disk.map(),
            JoinedKind::Raw(_) => DiskMap::of_raw(&joined.files[0]),
        }
    }

    /// Makes a failure to find out about a disk's extents an error.
    pub(super) fn map_error(&self, member: Member) -> impl FnOnce(io::Error) -> ImageError {
        ImageError::io(self.path(member), "find out where it has data")
    }

    pub(super) fn path(&self, member: Member) -> &Path {
        self.members[member.0].files[0].path()
    }

    /// Starts to read a range of a disk into the start of `buffer`; past the end of the disk there are zeros. Tells
    /// whether anything will be reported as done.
    pub(super) fn read(
        &mut self,
        member: Member,
        token: Token,
        range: DiskRange,
        buffer: &Buffer,
    ) -> bool {
        let size = self.size(member);
        let inside = size.saturating_sub(range.start.0).min(range.len);
        let (head, tail) = (in_memory(inside), in_memory(range.len - inside));
        buffer.fill_zero(head, tail);
        if inside == 0 {
            return false;
        }
        let range = DiskRange::new(range.start.0, inside);
        let buffer = buffer.slice(0, head);
        self.start(member, token, Request::Read(range), buffer);
        true
    }

    /// Starts to write the start of `buffer` to a range of a disk.
    pub(super) fn write(
        &mut self,
        member: Member,
        token: Token,
        range: DiskRange,
        buffer: &Buffer,
    ) {
        let buffer = buffer.slice(0, in_memory(range.len));
        self.start(member, token, Request::Write(range), buffer);
    }

    /// Starts to make a range of a disk read as zeros.
    pub(super) fn zero(&mut self, member: Member, token: Token, range: DiskRange) {
        self.start(member, token, Request::WriteZeroes(range), Buffer::empty());
    }

    fn start(&mut self, member: Member, token: Token, request: Request, buffer: Buffer) {
        let executor = self.executor.as_mut();
        match &mut self.members[member.0].kind {
            JoinedKind::Image(disk) => disk.submit(executor, token, request, buffer),
            JoinedKind::Raw(slot) => {
                let file = *slot;
                let op = match request {
                    Request::Read(DiskRange { start, .. }) => Op::Read {
                        file,
                        offset: start.0,
                        buffer,
                    },
                    Request::Write(DiskRange { start, .. }) => Op::Write {
                        file,
                        offset: start.0,
                        buffer,
                        takes_storage: false,
                    },
                    Request::WriteZeroes(DiskRange { start, len }) => Op::ZeroRange {
                        file,
                        offset: start.0,
                        len,
                    },
                    Request::Flush => Op::Sync { file },
                    Request::Barrier(_) | Request::Discard(_) => {
                        unreachable!("a session copies, and has no use for {request:?}")
                    }
                };
                executor.submit(member.key(token), op);
            }
        }
    }

    /// Waits until at least one request has ended, and returns those that have.
    pub(super) fn wait(&mut self) -> Result<Vec<Done>, ImageError> {
        loop {
            for joined in &mut self.members {
                joined.take_finished(&mut self.done);
            }
            if !self.done.is_empty() {
                return Ok(std::mem::take(&mut self.done));
            }
            self.executor
                .wait(None, &mut self.events)
                .map_err(|cause| ImageError::io(Path::new("io_uring"), "be waited for")(cause))?;
            for event in std::mem::take(&mut self.events) {
                if let Event::Done { key, result } = event {
                    self.complete(key, result);
                }
            }
        }
    }

    fn complete(&mut self, key: u64, result: Result<(), IoError>) {
        let (DiskNumber(number), op) = DiskNumber::of_key(key);
        let joined = &mut self.members[number as usize];
        match &mut joined.kind {
            JoinedKind::Image(disk) => {
                if let Err(error) = &result {
                    joined.last_error = Some(error.clone());
                }
                disk.complete(self.executor.as_mut(), op, result);
            }
            JoinedKind::Raw(_) => self.done.push(Done {
                token: Token(op.as_usize() as u64),
                result: result.map_err(ImageError::from),
            }),
        }
    }

    /// Makes everything durable that was written to a disk, and in an image also the bits that say so. Nothing else may
    /// be under way.
    pub(super) fn flush(&mut self, member: Member) -> Result<(), ImageError> {
        self.start(member, ALONE, Request::Flush, Buffer::empty());
        self.wait_alone()
    }

    /// Makes the disk of an image larger; what is new reads as zeros. Nothing else may be under way.
    pub(super) fn grow(&mut self, member: Member, size: u64) -> Result<(), ImageError> {
        let joined = &mut self.members[member.0];
        if let JoinedKind::Image(disk) = &mut joined.kind {
            disk.grow(self.executor.as_mut(), ALONE, size);
            joined.size = size;
            self.wait_alone()?;
        }
        Ok(())
    }

    /// Flushes, and marks an image as closed cleanly; no request may follow.
    pub(super) fn close(&mut self, member: Member) -> Result<(), ImageError> {
        let executor = self.executor.as_mut();
        match &mut self.members[member.0].kind {
            JoinedKind::Image(disk) => disk.close(executor, ALONE),
            JoinedKind::Raw(_) => return self.flush(member),
        }
        self.wait_alone()
    }

    /// Closes an image about which something has failed already, which is what is worth telling. What was under way
    /// comes to its end first. If this fails too, the image stays in use, as after a crash.
    pub(super) fn close_after_failure(&mut self, member: Member) {
        if let Err(cause) = self.close(member) {
            tracing::debug!("not closed after a failure: {cause}");
        }
    }

    /// Waits for the request that is not one of the sweep's; those may end meanwhile, after a failure.
    fn wait_alone(&mut self) -> Result<(), ImageError> {
        loop {
            let done = self.wait()?;
            if let Some(done) = done.into_iter().find(|done| done.token == ALONE) {
                return done.result;
            }
        }
    }
}

impl Joined {
    fn take_finished(&mut self, done: &mut Vec<Done>) {
        let JoinedKind::Image(disk) = &mut self.kind else {
            return;
        };
        for finished in disk.take_finished() {
            let path = self.files[0].path();
            let result = finished.result.map_err(|errno| match &self.last_error {
                Some(error) if error.errno() == errno.0 => ImageError::from(error.clone()),
                _ => {
                    let cause = io::Error::from_raw_os_error(errno.0);
                    ImageError::io(path, "read or write it")(cause)
                }
            });
            let token = finished.token;
            done.push(Done { token, result });
        }
    }
}

impl Member {
    fn number(self) -> DiskNumber {
        DiskNumber(u32::try_from(self.0).expect("a session has a few disks"))
    }

    /// The executor's key of a request to a raw file, which has no engine to give its operations numbers.
    fn key(self, token: Token) -> u64 {
        let token = usize::try_from(token.0).expect("tokens of a session have 32 bits");
        self.number().key(OpId::from_usize(token))
    }
}

/// A length in a buffer, which is held in memory.
fn in_memory(len: u64) -> usize {
    usize::try_from(len).expect("buffers are held in memory")
}
