//! Where what is in the file of a run state.
//!
//! | bytes | what |
//! |---|---|
//! | 0 to 4095 | the head: see the constants below |
//! | from 4096, 68 KiB for each of 8 queues | the journals |
//! | from 1 MiB | the bits that were set since the image was opened, as in the image's bitmap |
//!
//! Numbers are in the host's byte order: the file never leaves the host, nor survives it.

use crate::journal::{Journal, RING_SLOTS_MAX};

/// The first two words: `COWRUNST`.
pub(crate) const MAGIC: [u32; 2] = [u32::from_ne_bytes(*b"COWR"), u32::from_ne_bytes(*b"UNST")];
/// The version of everything but magic, version, owner and device, which stay where they are.
pub(crate) const VERSION: u32 = 1;

// Words of the head.
pub(crate) const WORD_MAGIC: usize = 0;
pub(crate) const WORD_VERSION: usize = 2;
/// Not 0: something was not noted, or a sync failed.
pub(crate) const WORD_BROKEN: usize = 3;
/// Connected queues; 0 if no frontend is connected.
pub(crate) const WORD_QUEUES: usize = 4;
/// Slots of each of their rings.
pub(crate) const WORD_SLOTS: usize = 5;
/// Bytes of the bits, low half first.
pub(crate) const WORD_BITS_LEN: usize = 6;
pub(crate) const WORD_OWNER: usize = 8;
/// The image's generation, low half first.
pub(crate) const WORD_GENERATION: usize = 12;
/// Not 0: the image is about to be closed, or is.
pub(crate) const WORD_CLOSING: usize = 14;
/// Not 0: a frontend was connected at some time.
pub(crate) const WORD_USED: usize = 15;
pub(crate) const WORD_DEVICE: usize = 16;

/// Most bytes of a device's name.
pub(crate) const DEVICE_BYTES: usize = 128;

/// Most queues.
pub const QUEUES_MAX: usize = 8;

const PAGE: usize = 4096;
pub(crate) const HEAD_BYTES: usize = PAGE;
const JOURNAL_BYTES: usize = (Journal::words(RING_SLOTS_MAX) * 4).next_multiple_of(PAGE);

/// Where the bits begin.
pub(crate) const BITS_START: u64 = 1 << 20;

const _: () = assert!((HEAD_BYTES + QUEUES_MAX * JOURNAL_BYTES) as u64 <= BITS_START);

/// The words of the head that tell which ring a queue has: the grant of its first page, and its event channel.
pub(crate) const fn ring_word(queue: usize) -> usize {
    WORD_DEVICE + DEVICE_BYTES / 4 + queue * 2
}

/// The first word of the journal of a queue.
pub(crate) const fn journal_word(queue: usize) -> usize {
    (HEAD_BYTES + queue * JOURNAL_BYTES) / 4
}
