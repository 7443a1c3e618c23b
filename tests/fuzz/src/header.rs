//! Headers, layouts and bitmaps of any bytes; and an engine over them, which must not look outside of the file.

use dscow::bitmap::Bitmap;
use dscow::engine::{Action, Engine, Mode, Options, Request, Token};
use dscow::header::{self, Header, Slot, SlotBytes};
use dscow::layout::{HEADER_SLOT_BYTES, Layout};
use dscow::parent::Parent;
use dscow::parents::{LayerIndex, Parents};
use dscow::units::{BlockIndex, DiskRange};
use uuid::Uuid;

use crate::chain::Chain;
use crate::script::Script;
use crate::slots;

const TIB: u64 = 1 << 40;

/// Longest range that is read.
const READ_MAX: u64 = 1 << 30;

/// Bitmaps up to so many bytes are looked at as a whole.
const LOOKED_AT: usize = 1 << 16;

/// Reads what may be the headers and the bitmap of an image.
///
/// # Panics
/// If something is let through that breaks the format, or contradicts itself.
pub fn header(data: &[u8]) {
    let mut script = Script::new(data);
    let [a, b] = match script.byte() {
        0 => [raw_slot(&mut script), raw_slot(&mut script)],
        _ => {
            let header = valid_header(&mut script);
            slots::of_script(&mut script, &header)
        }
    };
    let Some((header, slot)) = select(&a, &b) else {
        return;
    };
    check_header(&header);
    check_layout(&header.layout);
    let bitmap = check_bitmap(&mut script, &header.layout);
    if bitmap.bit_past_end().is_none() {
        check_engine(&mut script, header, slot, bitmap);
    }
}

fn raw_slot(script: &mut Script<'_>) -> SlotBytes {
    let mut slot = [0; HEADER_SLOT_BYTES];
    let bytes = script.take(slot.len());
    slot[..bytes.len()].copy_from_slice(bytes);
    slot
}

fn valid_header(script: &mut Script<'_>) -> Header {
    let mut header = Chain::of_script(script).header;
    header.sequence = 7;
    header.parent = match script.byte() % 3 {
        0 => None,
        1 => Some(Parent::Raw {
            path: "/images/base.img".into(),
            size: 1 << 30,
            fingerprint: [7; 32],
            modified: None,
        }),
        _ => Some(Parent::Dscow {
            path: "base.cow".into(),
            size: 1 << 30,
            uuid: Uuid::from_u128(9),
            generation: 3,
        }),
    };
    header
}

/// Which of the slots counts; checked against the rule that says which.
fn select(a: &SlotBytes, b: &SlotBytes) -> Option<(Header, Slot)> {
    let whole = [a, b].map(|slot| Header::check_whole(slot).is_ok());
    let decoded = [a, b].map(|slot| Header::decode(slot).ok());
    let selected = header::select(a, b).ok();
    match (&selected, whole) {
        (Some(_), [false, false]) => panic!("a header of two slots that are not whole"),
        (None, [true, false]) => assert!(decoded[0].is_none(), "slot A was passed over"),
        (None, [false, true]) => assert!(decoded[1].is_none(), "slot B was passed over"),
        (None, _) => {}
        (Some((header, slot)), _) => {
            let [chosen, other] = match slot {
                Slot::A => &decoded,
                Slot::B => &[decoded[1].clone(), decoded[0].clone()],
            };
            assert_eq!(
                chosen.as_ref(),
                Some(header),
                "the header is not that of its slot"
            );
            let newer = other
                .as_ref()
                .is_some_and(|other| other.sequence > header.sequence);
            assert!(!newer, "the older slot was taken");
        }
    }
    selected
}

fn check_header(header: &Header) {
    assert!(header.sequence <= 1 << 62 && header.generation <= 1 << 62);
    let path = header.parent.as_ref().map(Parent::path);
    assert!(
        path.is_none_or(Header::parent_path_fits),
        "a path that does not fit"
    );
    let limit = header.parent_limit.unwrap_or(512);
    assert!(limit > 0 && limit.is_multiple_of(512) && limit <= header.layout.virtual_size());
    let again = Header::decode(&header.encode()).expect("what was understood can be written");
    assert_eq!(again, *header, "written again it says something else");
}

/// Every rule of docs/image-format.md about sizes and positions.
fn check_layout(layout: &Layout) {
    let (size, block) = (layout.virtual_size(), layout.block_size().bytes());
    assert!((512..=64 * TIB).contains(&size) && size.is_multiple_of(512));
    assert!((4096..=2 << 20).contains(&block) && block.is_power_of_two());
    let bitmap = layout.bitmap_offset().0;
    assert!(bitmap >= 8192 && bitmap.is_multiple_of(4096));
    let blocks = size.div_ceil(block);
    assert_eq!(layout.block_count(), blocks);
    assert!(
        layout
            .bitmap_reserved_len()
            .checked_mul(8)
            .expect("in bounds")
            >= blocks
    );
    let data = layout.data_offset().0;
    assert!(data >= bitmap + layout.bitmap_reserved_len());
    assert!(data.is_multiple_of(1 << 20) && data.is_multiple_of(block));
    assert_eq!(layout.file_len(), data + blocks * block);
    assert!(
        i64::try_from(layout.file_len()).is_ok(),
        "no file is that long"
    );
}

/// A bitmap with some bytes in it, compared with those bytes.
fn check_bitmap(script: &mut Script<'_>, layout: &Layout) -> Bitmap {
    let mut bitmap = Bitmap::empty(layout).unwrap();
    let used = usize::try_from(layout.bitmap_used_len()).expect("in memory");
    // The first, the last, and what is where the script says.
    let mut bytes = vec![0_u8; used.min(LOOKED_AT)];
    for _ in 0..script.byte() % 6 {
        let piece = script.byte() % 70;
        let piece = script.take(piece.into());
        let at = usize::from(script.u16()) % bytes.len();
        let end = bytes.len().min(at + piece.len());
        bytes[at..end].copy_from_slice(&piece[..end - at]);
        bitmap.load(at as u64, &bytes[at..end]);
    }
    let count: u32 = bytes.iter().map(|byte| byte.count_ones()).sum();
    assert_eq!(bitmap.count_set(), u64::from(count));
    assert_eq!(&bitmap.used_bytes()[..bytes.len()], bytes);
    let is_set = |block: u64| {
        let at = usize::try_from(block / 8).expect("in memory");
        bytes
            .get(at)
            .is_some_and(|byte| byte >> (block % 8) & 1 == 1)
    };
    if used == bytes.len() {
        assert_eq!(bitmap.crc(), crc32c::crc32c(&bytes), "the checksum");
        let past_end = (layout.block_count()..used as u64 * 8).find(|block| is_set(*block));
        assert_eq!(bitmap.bit_past_end(), past_end);
    }
    for _ in 0..4 {
        let from = u64::from(script.u16()) % layout.block_count();
        let end = (from + u64::from(script.u16())).min(layout.block_count());
        for value in [false, true] {
            let expected = (from..end).find(|block| is_set(*block) == value);
            let found = bitmap.find(value, BlockIndex(from), BlockIndex(end));
            assert_eq!(
                found,
                expected.map(BlockIndex),
                "the first {value} in {from}..{end}"
            );
        }
    }
    bitmap
}

/// Reads through an engine: everything that is asked for comes from somewhere within the file, or is zero.
fn check_engine(script: &mut Script<'_>, header: Header, slot: Slot, bitmap: Bitmap) {
    let layout = header.layout;
    let (mode, options) = (Mode::ReadOnly, Options::default());
    let mut engine = Engine::new(header, slot, bitmap, Parents::default(), mode, options);
    engine.open(Token(0));
    assert!(matches!(
        engine.next_action(),
        Some(Action::Finish { result: Ok(()), .. })
    ));
    for token in 1..4 {
        let start = match script.byte() % 3 {
            0 => script.u64(),
            1 => {
                layout.virtual_size()
                    - 512 * u64::from(script.byte()).min(layout.virtual_size() / 512)
            }
            _ => 512 * u64::from(script.u16()),
        };
        let len = match script.byte() % 3 {
            0 => u64::from(script.u32()),
            1 => 512 * u64::from(script.byte()),
            _ => (u64::from(script.u32()) << 9) % READ_MAX,
        };
        engine.submit(Token(token), Request::Read(DiskRange::new(start, len)));
        check_actions(&mut engine, &layout, len);
    }
}

fn check_actions(engine: &mut Engine, layout: &Layout, len: u64) {
    let mut found = 0;
    let mut refused = false;
    while let Some(action) = engine.next_action() {
        match action {
            Action::Read {
                layer, offset, len, ..
            } => {
                assert_eq!(layer, LayerIndex::TOP, "there are no parents");
                let (start, end) = (offset.0, offset.0 + len);
                assert!(layout.data_offset().0 <= start && end <= layout.file_len());
                found += len;
            }
            Action::FillZero { len, .. } => found += len,
            Action::Finish { result, .. } => refused = result.is_err(),
            other => panic!("{other:?} for a read"),
        }
    }
    assert!(
        refused || found == len,
        "{found} of {len} bytes come from somewhere"
    );
}
