//! Requests: from what a client claims to what a server may act upon.

use std::fmt;

use thiserror::Error;

use crate::errno::ErrorCode;
use crate::export::{Export, PAYLOAD_BYTES_MAX};
use crate::read::Fields;
use crate::session::Session;
use crate::wire::{REQUEST_MAGIC, command, command_flag as flag};

/// Length of the header of each request in bytes.
pub const HEADER_BYTES: usize = 28;

/// What a client calls a request; its replies carry it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cookie(pub u64);

/// A range of the export, in bytes. Never empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteRange {
    /// First byte.
    pub offset: u64,
    /// Length.
    pub len: u32,
}

/// What a client wants, checked: ranges are within the export and in whole blocks, what writes is for an export
/// that takes it, and flags belong to their command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Answer with the bytes; at most [`PAYLOAD_BYTES_MAX`].
    Read {
        /// Which bytes.
        range: ByteRange,
        /// In one chunk.
        whole: bool,
    },
    /// Write the `range.len` bytes, at most [`PAYLOAD_BYTES_MAX`], that follow the header.
    Write {
        /// Where to.
        range: ByteRange,
        /// Answer only when it is durable.
        fua: bool,
    },
    /// Answer what is under way, then close the connection. Has no answer itself.
    Disconnect,
    /// Make durable what was answered before, on all connections.
    Flush,
    /// The range is no longer needed.
    Trim {
        /// Which bytes.
        range: ByteRange,
        /// Answer only when it is durable.
        fua: bool,
    },
    /// Make the range read as zeros.
    WriteZeroes {
        /// Which bytes.
        range: ByteRange,
        /// Answer only when it is durable.
        fua: bool,
        /// Keep room for later writes.
        no_hole: bool,
        /// Fail with [`ErrorCode::NotSupported`] if writing would be as fast.
        fast: bool,
    },
    /// Describe the range in each negotiated context, of which there is at least one.
    BlockStatus {
        /// Which bytes.
        range: ByteRange,
        /// With exactly one descriptor.
        one: bool,
    },
}

/// A request that is fit to act upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// What replies carry.
    pub cookie: Cookie,
    /// What is wanted.
    pub command: Command,
}

impl Request {
    /// How many bytes of data follow the header.
    #[must_use]
    pub fn payload_len(&self) -> u32 {
        match self.command {
            Command::Write { range, .. } => range.len,
            _ => 0,
        }
    }
}

/// A request that must be answered with an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What the reply carries.
    pub cookie: Cookie,
    /// Why.
    pub reason: Reason,
    /// How many bytes of data follow the header, to be passed over.
    pub payload_len: u32,
    code: ErrorCode,
}

impl Refusal {
    /// The error of the reply.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        self.code
    }
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// A command that is unknown, or was not offered.
    UnknownCommand,
    /// A flag that is unknown, or does not belong to the command, or was not offered.
    UnknownFlag,
    /// A range of no bytes.
    Empty,
    /// A range that is not in whole blocks.
    Misaligned,
    /// A range that reaches past the end of the export.
    OutOfRange,
    /// A change of an export that is read-only.
    ReadOnly,
    /// More data than fits into a reply.
    TooLong,
    /// A status request without a negotiated context.
    NoContext,
    /// A flush with a range.
    FlushWithRange,
}

impl Reason {
    /// For people; also travels in structured replies.
    #[must_use]
    pub const fn message(self) -> &'static str {
        match self {
            Self::UnknownCommand => "the command is unknown or was not offered",
            Self::UnknownFlag => "a flag does not belong to this command or was not offered",
            Self::Empty => "the range is empty",
            Self::Misaligned => "the range is not in whole blocks of the minimum size",
            Self::OutOfRange => "the range reaches past the end of the export",
            Self::ReadOnly => "the export is read-only",
            Self::TooLong => "the range is longer than the maximum payload",
            Self::NoContext => "no metadata context was negotiated",
            Self::FlushWithRange => "offset and length of a flush must be 0",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.message())
    }
}

/// What a header turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// To be served.
    Request(Request),
    /// To be refused.
    Refused(Refusal),
}

/// What a connection cannot go on after: where the next request begins is not known, or too far away.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum RequestError {
    /// Not a request.
    #[error("expected a request, which begins with {REQUEST_MAGIC:#010x}, found {0:#010x}")]
    Magic(u32),
    /// More data than anybody is willing to take or to pass over.
    #[error("a write of {0} bytes is longer than the {PAYLOAD_BYTES_MAX} that a request may carry")]
    Payload(u32),
}

impl Session {
    /// Looks at the header of a request.
    ///
    /// # Errors
    ///
    /// If the connection cannot go on.
    pub fn decode(
        &self,
        export: &Export,
        header: &[u8; HEADER_BYTES],
    ) -> Result<Decoded, RequestError> {
        let raw = Raw::from_bytes(header)?;
        let payload_len = match raw.command {
            command::WRITE if raw.len > PAYLOAD_BYTES_MAX => {
                return Err(RequestError::Payload(raw.len));
            }
            command::WRITE => raw.len,
            _ => 0,
        };
        let cookie = raw.cookie;
        Ok(match self.check(export, &raw) {
            Ok(command) => Decoded::Request(Request { cookie, command }),
            Err(reason) => Decoded::Refused(Refusal {
                cookie,
                reason,
                payload_len,
                code: self.code_for(reason, raw.command),
            }),
        })
    }

    fn check(&self, export: &Export, raw: &Raw) -> Result<Command, Reason> {
        let features = export.features();
        match raw.command {
            command::READ => {
                raw.allow(if self.structured { flag::DF } else { 0 })?;
                let range = raw.range(export)?;
                if range.len > PAYLOAD_BYTES_MAX {
                    return Err(Reason::TooLong);
                }
                let whole = raw.has(flag::DF);
                Ok(Command::Read { range, whole })
            }
            command::WRITE => {
                let (range, fua) = raw.change(export, 0)?;
                Ok(Command::Write { range, fua })
            }
            command::DISC => Ok(Command::Disconnect),
            command::FLUSH => {
                raw.allow(0)?;
                if raw.offset != 0 || raw.len != 0 {
                    return Err(Reason::FlushWithRange);
                }
                Ok(Command::Flush)
            }
            command::TRIM if features.trim => {
                let (range, fua) = raw.change(export, 0)?;
                Ok(Command::Trim { range, fua })
            }
            command::WRITE_ZEROES if features.write_zeroes => {
                let fast = if features.fast_zero {
                    flag::FAST_ZERO
                } else {
                    0
                };
                let (range, fua) = raw.change(export, flag::NO_HOLE | fast)?;
                Ok(Command::WriteZeroes {
                    range,
                    fua,
                    no_hole: raw.has(flag::NO_HOLE),
                    fast: raw.has(flag::FAST_ZERO),
                })
            }
            command::BLOCK_STATUS => {
                if self.contexts.is_empty() {
                    return Err(Reason::NoContext);
                }
                raw.allow(flag::REQ_ONE)?;
                let range = raw.range(export)?;
                let one = raw.has(flag::REQ_ONE);
                Ok(Command::BlockStatus { range, one })
            }
            _ => Err(Reason::UnknownCommand),
        }
    }

    fn code_for(&self, reason: Reason, command: u16) -> ErrorCode {
        match reason {
            Reason::ReadOnly => ErrorCode::NotPermitted,
            // As past the end of any disk that cannot grow.
            Reason::OutOfRange if matches!(command, command::WRITE | command::WRITE_ZEROES) => {
                ErrorCode::NoSpace
            }
            // Only a client that knows of structured replies knows this code.
            Reason::TooLong if self.structured => ErrorCode::Overflow,
            _ => ErrorCode::Invalid,
        }
    }
}

/// A header as the client sent it.
struct Raw {
    flags: u16,
    command: u16,
    cookie: Cookie,
    offset: u64,
    len: u32,
}

impl Raw {
    fn from_bytes(header: &[u8; HEADER_BYTES]) -> Result<Self, RequestError> {
        const FITS: &str = "the fields make up the header";
        let mut fields = Fields(header);
        let magic = fields.u32().expect(FITS);
        if magic != REQUEST_MAGIC {
            return Err(RequestError::Magic(magic));
        }
        Ok(Self {
            flags: fields.u16().expect(FITS),
            command: fields.u16().expect(FITS),
            cookie: Cookie(fields.u64().expect(FITS)),
            offset: fields.u64().expect(FITS),
            len: fields.u32().expect(FITS),
        })
    }

    fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    /// FUA is allowed with every command: clients are known to send it with those that write nothing.
    fn allow(&self, flags: u16) -> Result<(), Reason> {
        if self.flags & !(flags | flag::FUA) == 0 {
            Ok(())
        } else {
            Err(Reason::UnknownFlag)
        }
    }

    fn range(&self, export: &Export) -> Result<ByteRange, Reason> {
        let minimum = export.sizes().minimum;
        let end = self.offset.checked_add(self.len.into());
        if self.len == 0 {
            Err(Reason::Empty)
        } else if end.is_none_or(|end| end > export.size()) {
            Err(Reason::OutOfRange)
        } else if !self.offset.is_multiple_of(minimum.into()) || !self.len.is_multiple_of(minimum) {
            Err(Reason::Misaligned)
        } else {
            Ok(ByteRange {
                offset: self.offset,
                len: self.len,
            })
        }
    }

    /// Range and FUA of a command that changes the export.
    fn change(&self, export: &Export, flags: u16) -> Result<(ByteRange, bool), Reason> {
        if export.features().read_only {
            return Err(Reason::ReadOnly);
        }
        self.allow(flags)?;
        Ok((self.range(export)?, self.has(flag::FUA)))
    }
}
