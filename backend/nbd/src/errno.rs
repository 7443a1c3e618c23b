//! The errors that a reply can carry.

/// An error as the protocol counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum ErrorCode {
    /// The export is read-only.
    NotPermitted = 1,
    /// The disk failed.
    Io = 5,
    /// The server has no memory for it.
    NoMemory = 12,
    /// The request makes no sense.
    Invalid = 22,
    /// The host has no room, or the write is past the end of the export.
    NoSpace = 28,
    /// The request is longer than the server handles.
    Overflow = 75,
    /// Zeroing would not be faster than writing.
    NotSupported = 95,
    /// The server is stopping.
    Shutdown = 108,
}

impl ErrorCode {
    /// The code for an errno value of the host. What the protocol has no code for is an I/O error.
    #[must_use]
    pub fn from_errno(errno: i32) -> Self {
        // Numbers of Linux, which the protocol took most of its codes from.
        match errno {
            1 | 13 | 30 => Self::NotPermitted, // EPERM, EACCES, EROFS
            12 => Self::NoMemory,
            22 => Self::Invalid,
            27 | 28 | 122 => Self::NoSpace, // EFBIG, ENOSPC, EDQUOT
            108 => Self::Shutdown,
            _ => Self::Io,
        }
    }

    /// As on the wire.
    #[must_use]
    pub const fn code(self) -> u32 {
        self as u32
    }
}
