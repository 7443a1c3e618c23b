//! Responses, as the backend writes them and a frontend reads them.

use zerocopy::transmute;

use crate::wire::{RESPONSE_WORDS, WireResponse};

/// How a request ended (`BLKIF_RSP_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    /// Done.
    Okay,
    /// Failed.
    Error,
    /// The backend does not do this operation.
    NotSupported,
}

impl Status {
    /// The number on the wire.
    #[must_use]
    pub const fn code(self) -> i16 {
        match self {
            Self::Okay => 0,
            Self::Error => -1,
            Self::NotSupported => -2,
        }
    }

    /// The status of a number on the wire, `None` if `blkif.h` does not know it.
    #[must_use]
    pub const fn from_code(code: i16) -> Option<Self> {
        match code {
            0 => Some(Self::Okay),
            -1 => Some(Self::Error),
            -2 => Some(Self::NotSupported),
            _ => None,
        }
    }
}

/// A response (`struct blkif_response`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Response {
    /// The request's id, as the guest wrote it.
    pub id: u64,
    /// The request's operation; for an indirect request the operation inside it.
    pub operation: u8,
    /// How it ended.
    pub status: Status,
}

impl Response {
    /// The response as words in the memory order of the wire.
    pub(crate) fn to_words(self) -> [u32; RESPONSE_WORDS] {
        transmute!(WireResponse {
            id: self.id.into(),
            operation: self.operation,
            pad: 0,
            status: self.status.code().into(),
        })
    }

    /// The response in `words`, `None` if its status is none of the protocol's.
    pub(crate) fn from_words(words: [u32; RESPONSE_WORDS]) -> Option<Self> {
        let wire: WireResponse = transmute!(words);
        Some(Self {
            id: wire.id.get(),
            operation: wire.operation,
            status: Status::from_code(wire.status.get())?,
        })
    }
}
