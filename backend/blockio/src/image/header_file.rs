//! Header slots in an open file.

use dscow::header::{self, Header, NoHeader, Slot, SlotBytes};
use dscow::layout::{HEADER_SLOT_BYTES, HEADER_SLOT_SIZE};

use super::error::ImageError;
use super::open::size_of_file;
use crate::file::BlockFile;

/// The bytes of both slots.
pub(super) struct Slots {
    pub(super) a: Box<SlotBytes>,
    pub(super) b: Box<SlotBytes>,
}

impl Slots {
    /// Reads both slots of an open file.
    pub(super) fn read(file: &BlockFile) -> Result<Self, ImageError> {
        if size_of_file(file)? < 2 * HEADER_SLOT_SIZE {
            return Err(ImageError::NotAnImage(file.path().to_owned()));
        }
        let (a, b) = (read_slot(file, Slot::A)?, read_slot(file, Slot::B)?);
        Ok(Self { a, b })
    }

    /// The header in force.
    pub(super) fn current(&self, file: &BlockFile) -> Result<(Header, Slot), ImageError> {
        header::select(&self.a, &self.b).map_err(|cause| {
            let path = file.path().to_owned();
            match cause {
                NoHeader::Current { .. } => ImageError::UnusableHeader { path, cause },
                NoHeader::NeitherWhole { .. } if cause.is_foreign() => ImageError::NotAnImage(path),
                NoHeader::NeitherWhole { .. } => ImageError::CorruptHeader { path, cause },
            }
        })
    }

    pub(super) fn bytes(&self, slot: Slot) -> &SlotBytes {
        match slot {
            Slot::A => &self.a,
            Slot::B => &self.b,
        }
    }
}

fn read_slot(file: &BlockFile, slot: Slot) -> Result<Box<SlotBytes>, ImageError> {
    let mut bytes = Box::new([0; HEADER_SLOT_BYTES]);
    file.read_exact_at(&mut bytes[..], slot.offset().0)
        .map_err(ImageError::io(file.path(), "read its header"))?;
    Ok(bytes)
}

/// Reads the current header of an open file.
pub(super) fn read_header(file: &BlockFile) -> Result<(Header, Slot), ImageError> {
    Slots::read(file)?.current(file)
}

/// Refuses an image whose counters leave no room for the headers that a writer writes.
pub(super) fn check_counters(file: &BlockFile, header: &Header) -> Result<(), ImageError> {
    let Some(counter) = header.exhausted_counter() else {
        return Ok(());
    };
    let path = file.path().to_owned();
    Err(ImageError::CounterExhausted { path, counter })
}

/// What to write to which slot, in this order and each made durable before the next, so that `header` is in force after
/// the first and in both slots after the second. `current` is the slot in force before; its sequence number is in
/// `header`.
///
/// The first goes to the other slot: if it is torn, the old header holds. The second is there so that later damage to one
/// slot takes nothing with it: the other says the same.
pub(super) fn pair(header: &Header, current: Slot) -> [(Slot, Box<SlotBytes>); 2] {
    let numbered = |after: u64| Header {
        sequence: header.sequence + after,
        ..header.clone()
    };
    [
        (current.other(), numbered(1).encode()),
        (current, numbered(2).encode()),
    ]
}

/// Writes the slot in force again, as it is, and makes it durable. What was read may be in the host's cache only, after a
/// process that was killed or whose sync failed; then the other slot, which is written next, is all that the disk has.
pub(super) fn make_current_durable(file: &BlockFile, current: Slot) -> Result<(), ImageError> {
    write_durably(file, current, &*read_slot(file, current)?)
}

/// Puts `header` in force, durably, and in both slots. See [`pair`]. Returns it as it is in force then.
pub(super) fn write_pair(
    file: &BlockFile,
    header: &Header,
    current: Slot,
) -> Result<Header, ImageError> {
    make_current_durable(file, current)?;
    for (slot, bytes) in pair(header, current) {
        write_durably(file, slot, &bytes)?;
    }
    Ok(after_pair(header))
}

/// As [`write_pair`] for a file that nobody can have opened yet, so that nothing has to be durable.
pub(super) fn write_new_pair(file: &BlockFile, header: &Header) -> Result<Header, ImageError> {
    for (slot, bytes) in pair(header, Slot::A) {
        write_slot(file, slot, &bytes)?;
    }
    Ok(after_pair(header))
}

fn after_pair(header: &Header) -> Header {
    let sequence = header.sequence + 2;
    Header {
        sequence,
        ..header.clone()
    }
}

/// Writes a slot and makes it durable.
pub(super) fn write_durably(
    file: &BlockFile,
    slot: Slot,
    bytes: &SlotBytes,
) -> Result<(), ImageError> {
    write_slot(file, slot, bytes)?;
    file.sync_data()
        .map_err(ImageError::io(file.path(), "sync its header"))
}

fn write_slot(file: &BlockFile, slot: Slot, bytes: &SlotBytes) -> Result<(), ImageError> {
    file.write_all_at(&bytes[..], slot.offset().0)
        .map_err(ImageError::io(file.path(), "write its header"))
}
