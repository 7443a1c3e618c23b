//! What a guest asks for: requests with odd values in them, byte by byte, and the pages of descriptors.

use super::offer::Offer;
use crate::script::Script;

pub(super) type Slot = [u8; 112];

/// A request as it lies in a slot of the 8-byte aligned ABIs.
pub(super) fn request(script: &mut Script<'_>, offer: &Offer) -> Slot {
    let mut slot = [0; 112];
    // What a guest does not mean to say: what was in the slot before.
    slot[24..].fill(script.byte());
    let code = match script.byte() % 16 {
        0..=3 => 0,
        4..=7 => 1,
        8 => 2,
        9 => 3,
        10 => 5,
        11..=13 => 6,
        14 => 4,
        _ => script.byte(),
    };
    slot[0] = code;
    put(&mut slot, 16, &start(script, offer).to_le_bytes());
    match code {
        5 => discard(script, offer, &mut slot),
        6 => indirect(script, offer, &mut slot),
        _ => direct(script, offer, &mut slot),
    }
    slot
}

fn direct(script: &mut Script<'_>, offer: &Offer, slot: &mut Slot) {
    slot[1] = match script.byte() {
        decision @ 0..=223 => decision % 12,
        224..=239 => 12,
        _ => script.byte(),
    };
    let segments = usize::from(slot[1]);
    for segment in slot[24..].chunks_exact_mut(8).take(segments) {
        descriptor(script, offer, segment);
    }
}

fn discard(script: &mut Script<'_>, offer: &Offer, slot: &mut Slot) {
    slot[1] = script.byte() % 4;
    let sectors = match script.byte() % 4 {
        0 => script.u64(),
        1 => offer.sectors,
        _ => u64::from(script.byte()) * offer.block_sectors,
    };
    put(slot, 24, &sectors.to_le_bytes());
}

fn indirect(script: &mut Script<'_>, offer: &Offer, slot: &mut Slot) {
    slot[1] = match script.byte() {
        decision @ 0..=239 => decision % 2,
        _ => script.byte(),
    };
    let most = offer.indirect_segments;
    let segments = match script.byte() {
        0..=7 => script.u16(),
        8..=11 => most,
        12..=15 => most.wrapping_add(1),
        few => u16::from(few % 20),
    };
    put(slot, 2, &segments.to_le_bytes());
    for page in slot[28..60].chunks_exact_mut(4) {
        page[0] = script.byte();
    }
}

/// Mostly somewhere on the disk, in whole blocks.
fn start(script: &mut Script<'_>, offer: &Offer) -> u64 {
    match script.byte() % 8 {
        0 => script.u64(),
        1 => offer
            .sectors
            .wrapping_sub(u64::from(script.byte()) * offer.block_sectors),
        2 => u64::from(script.u16()),
        3 => u64::MAX - u64::from(script.byte()),
        _ => u64::from(script.byte()) * offer.block_sectors,
    }
}

/// Grant, first and last sector; mostly whole blocks within the page.
fn descriptor(script: &mut Script<'_>, offer: &Offer, bytes: &mut [u8]) {
    bytes[..4].copy_from_slice(&u32::from(script.byte()).to_le_bytes());
    let shape = script.byte();
    let (first, last) = match shape {
        0..=127 => (0, 7),
        128..=239 => {
            // At most 8 sectors, so this fits.
            let block = u8::try_from(offer.block_sectors).unwrap_or(8);
            let blocks = 8 / block;
            let first = shape % blocks;
            let end = first + 1 + shape / 16 % (blocks - first);
            (first * block, end * block - 1)
        }
        _ => (script.byte() % 10, script.byte()),
    };
    bytes[4] = first;
    bytes[5] = last;
}

/// What is in the pages of descriptors when they are looked at: mostly as many as there should be, of one shape, and some
/// of another.
pub(super) fn descriptors(script: &mut Script<'_>, offer: &Offer, count: usize) -> Vec<u8> {
    let there = match script.byte() {
        0..=7 => script.index(count + 1),
        8..=15 => count + 1,
        _ => count,
    };
    let mut usual = [0; 8];
    descriptor(script, offer, &mut usual);
    let mut bytes = usual.repeat(there);
    for _ in 0..script.byte() % 4 {
        let at = usize::from(script.u16()) % there.max(1);
        if let Some(bytes) = bytes.get_mut(8 * at..8 * at + 8) {
            descriptor(script, offer, bytes);
        }
    }
    bytes
}

fn put(slot: &mut Slot, at: usize, bytes: &[u8]) {
    slot[at..at + bytes.len()].copy_from_slice(bytes);
}
