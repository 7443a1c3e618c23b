//! Opening, growing and closing: what the header says about an image in use.
//!
//! Before the first write the header says *in use* and by whom, with a new generation; it says *clean*,
//! with the checksum of the bitmap, only after everything was committed. Each header is written twice. First to the slot
//! that is not current, and synced: if that is torn, the old header holds. Then to the other slot, and synced, before
//! anything relies on it: so later damage to one slot, whichever it is, brings no older header back. An older one may
//! be of another generation, size or parent, or have the checksum of another bitmap.

use uuid::Uuid;

use super::action::{Action, Errno, Token};
use super::commit::Waiter;
use super::grow::Growing;
use super::{Engine, Mode, Part};
use crate::header::{Header, State};

/// Refusal of a request while the image is not open.
const ESHUTDOWN: Errno = Errno(108);

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) enum Lifecycle {
    /// Not opened yet.
    #[default]
    New,
    /// The header is being written.
    Opening(HeaderWrite),
    /// Requests are served.
    Open,
    /// Requests are served; the file is being made longer.
    Growing(Growing),
    /// Requests are served; the header with the new size is being written.
    Resizing(HeaderWrite),
    /// No new requests; a last commit is under way.
    Committing { token: Token },
    /// The header is being written.
    Closing(HeaderWrite),
    /// Nothing more.
    Closed,
}

/// The header on its way to disk: written, then synced.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct HeaderWrite {
    token: Token,
    header: Box<Header>,
    pass: Pass,
}

/// Which of the two slots is being written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pass {
    /// The current one, which is written as it was read, at opening.
    Again,
    /// The one that is not current: it puts the header in force.
    First,
    /// The one that was current until then.
    Second,
}

/// A later generation. By how much is random, as the owner is: were it always one, then an image that was restored from
/// a backup and opened again would have the generation that it had before it was restored.
fn next_generation(generation: u64, owner: Uuid) -> u64 {
    let random = u64::from(owner.as_fields().0 >> 12);
    generation + 1 + random
}

impl Lifecycle {
    pub(super) fn admit(&self) -> Result<(), Errno> {
        match self {
            Self::Open | Self::Growing(_) | Self::Resizing(_) => Ok(()),
            _ => Err(ESHUTDOWN),
        }
    }
}

impl Engine {
    /// Opens the image; ends in [`Action::Finish`] with `token`. Requests may follow then.
    ///
    /// # Panics
    /// If called twice.
    pub fn open(&mut self, token: Token) {
        assert_eq!(self.lifecycle, Lifecycle::New, "an image is opened once");
        match self.mode {
            Mode::ReadOnly => {
                self.lifecycle = Lifecycle::Open;
                self.finish(token, Ok(()));
            }
            Mode::Writable { .. } => {
                self.mark_bits_of_others();
                let header = self.header.clone();
                self.lifecycle = Lifecycle::Opening(self.write_copy(token, header, Pass::Again));
            }
        }
    }

    /// The bits of an image that was not closed may be in the host's cache only, like its header: they are written
    /// again with the next commit. Else a flush of data that needs no new bits would not make them durable.
    fn mark_bits_of_others(&mut self) {
        if matches!(self.header.state, State::InUse { .. }) {
            for page in self.bitmap.pages_with_bits() {
                self.commit.mark_dirty(page);
            }
        }
    }

    fn header_in_use(&self) -> Header {
        let Mode::Writable { owner } = self.mode else {
            unreachable!("an image that is read-only is not marked")
        };
        Header {
            generation: next_generation(self.header.generation, owner),
            ..self.next_header(State::InUse { owner })
        }
    }

    /// Closes the image: commits, marks it clean, and ends in [`Action::Finish`] with `token`. An image
    /// that cannot be committed stays marked as in use, and the result says why.
    ///
    /// # Panics
    /// If requests are under way, or the image is not open: the caller drains first.
    pub fn close(&mut self, token: Token) {
        assert_eq!(self.lifecycle, Lifecycle::Open, "an open image is closed");
        let drained = self.jobs.is_empty() && !self.barriers.is_active();
        assert!(drained, "requests are drained before closing");
        if self.mode == Mode::ReadOnly {
            self.lifecycle = Lifecycle::Closed;
            self.finish(token, Ok(()));
            return;
        }
        self.lifecycle = Lifecycle::Committing { token };
        if self.commit.is_idle() {
            self.start_commit();
        }
    }

    /// A commit ended and no flush waits. If the image is closing, this was its last commit, unless it
    /// began before the last bits were set.
    pub(super) fn close_after_commit(&mut self) {
        let Lifecycle::Committing { token } = self.lifecycle else {
            return;
        };
        if let Some(errno) = self.commit.failure() {
            self.lifecycle = Lifecycle::Closed;
            self.finish(token, Err(errno));
        } else if self.commit.has_uncommitted_bits() {
            self.start_commit();
        } else {
            let bitmap_crc = self.bitmap.crc();
            let header = self.next_header(State::Clean { bitmap_crc });
            self.lifecycle = Lifecycle::Closing(self.write_header(token, header));
        }
    }

    pub(super) fn next_header(&self, state: State) -> Header {
        Header {
            sequence: self.header.sequence + 1,
            state,
            ..self.header.clone()
        }
    }

    /// Starts to write a header, to one slot and then to the other.
    pub(super) fn write_header(&mut self, token: Token, header: Header) -> HeaderWrite {
        self.write_copy(token, header, Pass::First)
    }

    fn write_copy(&mut self, token: Token, header: Header, pass: Pass) -> HeaderWrite {
        let op = self.new_op(Part::Header);
        let slot = match pass {
            Pass::Again => self.slot,
            Pass::First | Pass::Second => self.slot.other(),
        };
        self.push(Action::WriteHeader {
            op,
            slot,
            bytes: header.encode(),
        });
        HeaderWrite {
            token,
            header: Box::new(header),
            pass,
        }
    }

    pub(super) fn header_written(&mut self, result: Result<(), Errno>) {
        if result.is_err() {
            return self.header_synced(result);
        }
        if matches!(self.lifecycle, Lifecycle::Resizing(_)) {
            return self.commit_for(Waiter::Resizing);
        }
        let op = self.new_op(Part::HeaderSync);
        self.push(Action::Sync { op });
    }

    /// The header is durable, or could not be made so.
    pub(super) fn header_synced(&mut self, result: Result<(), Errno>) {
        // An image that could not be opened or closed is not used any more; one that could not be grown stays open.
        // Its other slot may hold the new header or not; the next header is written there again.
        type Step = fn(HeaderWrite) -> Lifecycle;
        let (write, step, after, after_failure) =
            match std::mem::replace(&mut self.lifecycle, Lifecycle::Closed) {
                Lifecycle::Opening(write) => {
                    let step: Step = Lifecycle::Opening;
                    (write, step, Lifecycle::Open, Lifecycle::Closed)
                }
                Lifecycle::Resizing(write) => {
                    let step: Step = Lifecycle::Resizing;
                    (write, step, Lifecycle::Open, Lifecycle::Open)
                }
                Lifecycle::Closing(write) => {
                    let step: Step = Lifecycle::Closing;
                    (write, step, Lifecycle::Closed, Lifecycle::Closed)
                }
                other => unreachable!("no header is being written in {other:?}"),
            };
        if result.is_err() {
            // The disk has had its new size since the first copy was durable; that the second is missing does not
            // take it back.
            let has_grown = write.pass == Pass::Second && after_failure == Lifecycle::Open;
            self.lifecycle = after_failure;
            return self.finish(write.token, if has_grown { Ok(()) } else { result });
        }
        let HeaderWrite {
            token,
            header,
            pass,
        } = write;
        self.lifecycle = match pass {
            Pass::Again => step(self.write_header(token, self.header_in_use())),
            Pass::First => {
                self.header_in_force(*header);
                let copy = self.next_header(self.header.state);
                step(self.write_copy(token, copy, Pass::Second))
            }
            Pass::Second => {
                self.header_in_force(*header);
                self.finish(token, Ok(()));
                after
            }
        };
    }

    fn header_in_force(&mut self, header: Header) {
        let layout = header.layout;
        self.header = header;
        self.slot = self.slot.other();
        if layout != self.layout {
            self.grown(layout);
        }
    }
}
