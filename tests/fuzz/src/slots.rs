//! Header slots: those of a valid image, with fields changed, and their checksums mostly made right again.

use dscow::header::{Header, SlotBytes};
use dscow::layout::HEADER_SLOT_BYTES;

use crate::script::Script;

/// Position and length of each field that is a number, from docs/image-format.md.
const FIELDS: &[(usize, usize)] = &[
    (8, 4),   // version
    (16, 8),  // sequence
    (24, 8),  // incompatible
    (32, 8),  // compatible
    (40, 8),  // autoclear
    (64, 8),  // virtual size
    (72, 4),  // block shift
    (76, 4),  // state
    (80, 8),  // bitmap offset
    (88, 8),  // bitmap length
    (96, 8),  // data offset
    (104, 8), // generation
    (112, 8), // created
    (120, 4), // bitmap checksum
    (124, 4), // parent format
    (144, 8), // parent size
    (152, 8), // parent generation
    (192, 8), // parent's seconds
    (200, 4), // parent's nanoseconds
    (204, 4), // parent flags
    (224, 4), // parent path length
    (232, 8), // parent limit
];

const SEQUENCE: usize = 16;
const GENERATION: usize = 104;
const CHECKSUM: std::ops::Range<usize> = 12..16;

/// Both slots of an image with this header, changed as the script says.
pub(crate) fn of_script(script: &mut Script<'_>, header: &Header) -> [SlotBytes; 2] {
    let older = Header {
        sequence: header.sequence.saturating_sub(1),
        ..header.clone()
    };
    let mut slots = [*header.encode(), *older.encode()];
    let changes = script.byte() % 8;
    for _ in 0..changes {
        let which = script.byte();
        change(script, &mut slots[usize::from(which >> 7)]);
    }
    let right = script.byte();
    for (i, slot) in slots.iter_mut().enumerate() {
        if right >> i & 1 == 0 {
            correct(slot);
        }
    }
    slots
}

fn change(script: &mut Script<'_>, slot: &mut SlotBytes) {
    let kind = script.byte();
    if kind >= 240 {
        let at = usize::from(script.u16()) % HEADER_SLOT_BYTES;
        slot[at] = script.byte();
        return;
    }
    if kind >= 232 {
        // No change of a field above meets the end of a counter often.
        let at = [SEQUENCE, GENERATION][usize::from(kind % 2)];
        let value = (1_u64 << 62) - (u64::from(script.byte()) << (script.byte() % 33));
        slot[at..at + 8].copy_from_slice(&value.to_le_bytes());
        return;
    }
    let (at, len) = FIELDS[script.index(FIELDS.len())];
    let before = u64::from_le_bytes(*slot[at..].first_chunk().expect("inside the slot"));
    let value = match kind % 6 {
        0 => script.u64(),
        1 => u64::from(script.byte()),
        2 => (u64::from(script.byte()) << (script.byte() % 64)).wrapping_add(before),
        3 => before.wrapping_sub(1 << (script.byte() % 64)),
        4 => (1 << (script.byte() % 64)) - u64::from(script.byte() % 2),
        _ => before ^ 1 << (script.byte() % 64),
    };
    slot[at..at + len].copy_from_slice(&value.to_le_bytes()[..len]);
}

fn correct(slot: &mut SlotBytes) {
    slot[CHECKSUM].fill(0);
    let checksum = crc32c::crc32c(&slot[..]);
    slot[CHECKSUM].copy_from_slice(&checksum.to_le_bytes());
}
