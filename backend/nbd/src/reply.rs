//! Replies to requests, as bytes.
//!
//! Replies that carry data are encoded without it: the data follows the bytes given here, from wherever it is.

use smallvec::SmallVec;

use crate::context::Context;
use crate::errno::ErrorCode;
use crate::request::Cookie;
use crate::session::Session;
use crate::wire::{SIMPLE_REPLY_MAGIC, STRUCTURED_REPLY_MAGIC, chunk};

/// A reply, or what precedes the data of one. Those without text need no allocation.
pub type Bytes = SmallVec<[u8; 32]>;

/// Length of a chunk's header in bytes.
const CHUNK_HEADER_BYTES: u32 = 20;

/// Whether more chunks follow in a structured reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Another chunk follows.
    More,
    /// This is the last.
    Last,
}

/// A run of bytes with one status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// Length in bytes, at least 1.
    pub len: u32,
    /// As the context defines it.
    pub status: u32,
}

impl Session {
    /// Success, for a request without data in its reply.
    #[must_use]
    pub fn done(&self, cookie: Cookie) -> Bytes {
        if self.structured {
            chunk_head(Part::Last, chunk::NONE, cookie, 0)
        } else {
            simple(cookie, 0)
        }
    }

    /// Failure of any request. Clients with structured replies are told `message`, if it is of at most 4096 bytes.
    #[must_use]
    pub fn failed(&self, cookie: Cookie, code: ErrorCode, message: &str) -> Bytes {
        if self.structured {
            error(cookie, chunk::ERROR, code, message, None)
        } else {
            simple(cookie, code.code())
        }
    }

    /// Failure of a request at `offset` of the export, which lies within the request's range, or somewhere behind it.
    #[must_use]
    pub fn failed_at(&self, cookie: Cookie, code: ErrorCode, message: &str, offset: u64) -> Bytes {
        if self.structured {
            error(cookie, chunk::ERROR_OFFSET, code, message, Some(offset))
        } else {
            simple(cookie, code.code())
        }
    }

    /// What precedes the `len` bytes of data from `offset`. A simple reply has exactly one such part.
    #[must_use]
    pub fn data_head(&self, cookie: Cookie, part: Part, offset: u64, len: u32) -> Bytes {
        if !self.structured {
            return simple(cookie, 0);
        }
        let mut bytes = chunk_head(part, chunk::OFFSET_DATA, cookie, len + 8);
        bytes.extend_from_slice(&offset.to_be_bytes());
        bytes
    }
}

/// A part of the answer to a read: the `len` bytes from `offset`, at least one, are zeros. For structured replies only.
#[must_use]
pub fn hole(cookie: Cookie, part: Part, offset: u64, len: u32) -> Bytes {
    let mut bytes = chunk_head(part, chunk::OFFSET_HOLE, cookie, 12);
    bytes.extend_from_slice(&offset.to_be_bytes());
    bytes.extend_from_slice(&len.to_be_bytes());
    bytes
}

/// The answer of one context to a status request: consecutive runs from the request's offset, at least one. For
/// structured replies only.
#[must_use]
pub fn block_status(
    cookie: Cookie,
    part: Part,
    context: Context,
    descriptors: &[Descriptor],
) -> Bytes {
    let len = u32::try_from(4 + 8 * descriptors.len()).expect("far fewer than 2^29 descriptors");
    let mut bytes = chunk_head(part, chunk::BLOCK_STATUS, cookie, len);
    bytes.reserve(len as usize);
    bytes.extend_from_slice(&context.id().to_be_bytes());
    for descriptor in descriptors {
        bytes.extend_from_slice(&descriptor.len.to_be_bytes());
        bytes.extend_from_slice(&descriptor.status.to_be_bytes());
    }
    bytes
}

fn simple(cookie: Cookie, error: u32) -> Bytes {
    let mut bytes = Bytes::new();
    bytes.extend_from_slice(&SIMPLE_REPLY_MAGIC.to_be_bytes());
    bytes.extend_from_slice(&error.to_be_bytes());
    bytes.extend_from_slice(&cookie.0.to_be_bytes());
    bytes
}

fn chunk_head(part: Part, kind: u16, cookie: Cookie, len: u32) -> Bytes {
    let flags = match part {
        Part::More => 0,
        Part::Last => chunk::FLAG_DONE,
    };
    let mut bytes = Bytes::new();
    bytes.extend_from_slice(&STRUCTURED_REPLY_MAGIC.to_be_bytes());
    bytes.extend_from_slice(&flags.to_be_bytes());
    bytes.extend_from_slice(&kind.to_be_bytes());
    bytes.extend_from_slice(&cookie.0.to_be_bytes());
    bytes.extend_from_slice(&len.to_be_bytes());
    debug_assert_eq!(bytes.len(), CHUNK_HEADER_BYTES as usize);
    bytes
}

fn error(cookie: Cookie, kind: u16, code: ErrorCode, message: &str, offset: Option<u64>) -> Bytes {
    let message = if message.len() <= 4096 { message } else { "" };
    let text_len = u16::try_from(message.len()).expect("at most 4096");
    let len = 6 + u32::from(text_len) + if offset.is_some() { 8 } else { 0 };
    let mut bytes = chunk_head(Part::Last, kind, cookie, len);
    bytes.extend_from_slice(&code.code().to_be_bytes());
    bytes.extend_from_slice(&text_len.to_be_bytes());
    bytes.extend_from_slice(message.as_bytes());
    bytes.extend(offset.into_iter().flat_map(u64::to_be_bytes));
    bytes
}
