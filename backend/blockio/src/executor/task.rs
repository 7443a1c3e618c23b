//! The life of one operation, as a state machine without I/O: which system call comes next, and what its result
//! means. Both executors drive it, so that short transfers, interruptions and missing features are handled once.

use libc::{c_int, iovec};

use super::error::{Action, IoError};
use super::{FileSlot, Op};
use crate::buffer::Buffer;
use crate::file::{BlockFile, ZEROS, ZeroMethod};

/// Most segments in one system call (`IOV_MAX`).
pub(super) const SEGMENTS_MAX: usize = 1024;

/// Most bytes of zeros written by one system call, so that one large discard does not hold a thread for long.
const ZEROS_PER_STEP: u64 = 4 << 20;

/// How often in a row a system call is tried again when it says that it was interrupted or should be repeated.
const RETRIES_MAX: u32 = 1000;

/// An operation under way.
pub(super) struct Task {
    pub(super) key: u64,
    /// Place of the file in [`super::files::Files`].
    pub(super) file: usize,
    kind: Kind,
    offset: u64,
    len: u64,
    /// Bytes done so far.
    done: u64,
    retries: u32,
    /// How this task zeroes, once it has begun; it may give up more than the file as a whole does.
    zero_method: Option<ZeroMethod>,
}

enum Kind {
    Read(Buffer),
    Write { buffer: Buffer, takes_storage: bool },
    Sync,
    Zero,
    Reserve,
}

/// The next system call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Read into the segments.
    Read { offset: u64 },
    /// Write the segments.
    Write { offset: u64 },
    /// `fdatasync`.
    Sync,
    /// `fallocate`.
    Fallocate { mode: c_int, offset: u64, len: u64 },
}

/// An operation that io_uring is expected to hand over to a thread of the kernel, since it is not done without perhaps
/// waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HandedOver {
    /// A write that takes storage.
    Write,
    /// A sync.
    Sync,
    /// Storage is taken or given back without a write.
    Fallocate,
}

/// What a result means for the task.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Another step is needed.
    Continue,
    /// The operation is done.
    Done(Result<(), IoError>),
}

impl Op {
    pub(super) fn file(&self) -> FileSlot {
        match self {
            Op::Read { file, .. }
            | Op::Write { file, .. }
            | Op::Sync { file }
            | Op::ZeroRange { file, .. }
            | Op::Reserve { file, .. } => *file,
        }
    }

    pub(super) fn action(&self) -> Action {
        match self {
            Op::Read { .. } => Action::Read,
            Op::Write { .. } => Action::Write,
            Op::Sync { .. } => Action::Sync,
            Op::ZeroRange { .. } => Action::Zero,
            Op::Reserve { .. } => Action::Reserve,
        }
    }
}

impl Task {
    /// Begins an operation on the file at place `file`.
    pub(super) fn new(key: u64, file: usize, op: Op) -> Self {
        let (kind, offset, len) = match op {
            Op::Read { offset, buffer, .. } => {
                let len = buffer.len() as u64;
                (Kind::Read(buffer), offset, len)
            }
            Op::Write {
                offset,
                buffer,
                takes_storage,
                ..
            } => {
                let len = buffer.len() as u64;
                let kind = Kind::Write {
                    buffer,
                    takes_storage,
                };
                (kind, offset, len)
            }
            Op::Sync { .. } => (Kind::Sync, 0, 0),
            Op::ZeroRange { offset, len, .. } => (Kind::Zero, offset, len),
            Op::Reserve { offset, len, .. } => (Kind::Reserve, offset, len),
        };
        Self {
            key,
            file,
            kind,
            offset,
            len,
            done: 0,
            retries: 0,
            zero_method: None,
        }
    }

    /// The result if there is nothing to ask of the kernel: no bytes, or a range that no file can have. The latter
    /// must not get there, since an offset of all ones means "the current position" to it.
    pub(super) fn settled_at_once(&self, file: &BlockFile) -> Option<Result<(), IoError>> {
        let in_reach = self
            .offset
            .checked_add(self.len)
            .is_some_and(|end| i64::try_from(end).is_ok());
        if !in_reach {
            return Some(Err(self.error(file, libc::EINVAL)));
        }
        (self.len == 0 && !matches!(self.kind, Kind::Sync)).then_some(Ok(()))
    }

    /// Whether and as what the operation is handed over.
    pub(super) fn handed_over(&self) -> Option<HandedOver> {
        match self.kind {
            Kind::Write {
                takes_storage: true,
                ..
            } => Some(HandedOver::Write),
            Kind::Sync => Some(HandedOver::Sync),
            Kind::Zero | Kind::Reserve => Some(HandedOver::Fallocate),
            Kind::Read(_) | Kind::Write { .. } => None,
        }
    }

    /// Whether the step must not be tried without blocking first: the last try said `EAGAIN`.
    pub(super) fn must_block(&self) -> bool {
        self.retries > 0
    }

    /// The next system call. Its segments, at most [`SEGMENTS_MAX`], are left in `segments`; they point into memory
    /// that the task keeps alive (or that is static), so the task must outlive the call.
    pub(super) fn step(&mut self, file: &BlockFile, segments: &mut Vec<iovec>) -> Step {
        segments.clear();
        let offset = self.offset + self.done;
        match &self.kind {
            Kind::Read(buffer) => {
                push_rest(segments, buffer, self.done);
                Step::Read { offset }
            }
            Kind::Write { buffer, .. } => {
                push_rest(segments, buffer, self.done);
                Step::Write { offset }
            }
            Kind::Sync => Step::Sync,
            Kind::Reserve => Step::Fallocate {
                mode: libc::FALLOC_FL_KEEP_SIZE,
                offset,
                len: self.len,
            },
            Kind::Zero => {
                let method = *self.zero_method.get_or_insert_with(|| file.zero_method());
                let len = self.len - self.done;
                match method.fallocate_mode() {
                    Some(mode) => Step::Fallocate { mode, offset, len },
                    None => {
                        push_zeros(segments, len.min(ZEROS_PER_STEP));
                        Step::Write { offset }
                    }
                }
            }
        }
    }

    /// Takes the result of the step: a count of bytes, or a negative errno.
    pub(super) fn advance(&mut self, file: &BlockFile, result: i32) -> Outcome {
        match u64::try_from(result) {
            Ok(count) => {
                self.retries = 0;
                self.advance_by(file, count)
            }
            Err(_) => self.advance_after_error(file, result.saturating_neg()),
        }
    }

    fn advance_by(&mut self, file: &BlockFile, count: u64) -> Outcome {
        let by_fallocate = self
            .zero_method
            .is_some_and(|method| method.fallocate_mode().is_some());
        if by_fallocate || matches!(self.kind, Kind::Sync | Kind::Reserve) {
            return Outcome::Done(Ok(()));
        }
        self.done = self.len.min(self.done + count);
        if self.done == self.len {
            return Outcome::Done(Ok(()));
        }
        match &self.kind {
            // The end of the file. Ranges to read are within files by their sizes when they were opened, so the
            // file was truncated since: zeros in its place would become part of an overlay by the next copy-up.
            Kind::Read(_) if count == 0 || ends_inside_a_block(file, self.done) => {
                Outcome::Done(Err(self.error(file, libc::EIO)))
            }
            // A write of nothing that is not an error would be tried for ever.
            Kind::Write { .. } | Kind::Zero if count == 0 => {
                Outcome::Done(Err(self.error(file, libc::EIO)))
            }
            _ => Outcome::Continue,
        }
    }

    fn advance_after_error(&mut self, file: &BlockFile, errno: i32) -> Outcome {
        if matches!(errno, libc::EINTR | libc::EAGAIN) && self.retries < RETRIES_MAX {
            self.retries += 1;
            return Outcome::Continue;
        }
        if let Some(next) = self.zero_method.and_then(|method| method.next_after(errno)) {
            self.zero_method = Some(next);
            // EINVAL is about this range (it is not aligned to the device's blocks), the others about the file.
            if errno != libc::EINVAL {
                file.give_up_zero_methods_before(next);
            }
            return Outcome::Continue;
        }
        Outcome::Done(Err(self.error(file, errno)))
    }

    fn error(&self, file: &BlockFile, errno: i32) -> IoError {
        IoError::failed(self.action(), file.path(), self.offset, self.len, errno)
    }

    fn action(&self) -> Action {
        match self.kind {
            Kind::Read(_) => Action::Read,
            Kind::Write { .. } => Action::Write,
            Kind::Sync => Action::Sync,
            Kind::Zero => Action::Zero,
            Kind::Reserve => Action::Reserve,
        }
    }
}

/// A direct read that stops where no further direct read could start has met the end of the file.
fn ends_inside_a_block(file: &BlockFile, done: u64) -> bool {
    file.dio_alignment()
        .is_some_and(|alignment| !done.is_multiple_of(u64::from(alignment.offset)))
}

fn push_rest(segments: &mut Vec<iovec>, buffer: &Buffer, done: u64) {
    let done = usize::try_from(done).expect("progress is inside a buffer");
    for piece in buffer.pieces(done, buffer.len() - done).take(SEGMENTS_MAX) {
        segments.push(iovec {
            iov_base: piece.address.as_ptr().cast(),
            iov_len: piece.len,
        });
    }
}

fn push_zeros(segments: &mut Vec<iovec>, len: u64) {
    let mut left = usize::try_from(len).expect("a step is a few megabytes at most");
    while left > 0 {
        let now = left.min(ZEROS.0.len());
        segments.push(iovec {
            iov_base: ZEROS.0.as_ptr().cast_mut().cast(),
            iov_len: now,
        });
        left -= now;
    }
}

#[cfg(test)]
mod tests;
