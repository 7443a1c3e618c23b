//! Every single bit that matters, flipped, one at a time.

use super::*;

/// What a header says, apart from which of the two it is.
fn meaning(header: &Header) -> Header {
    Header {
        sequence: 0,
        ..header.clone()
    }
}

/// Few blocks, which makes no difference to its header, and much to the time it takes to look at it so often.
fn small() -> Fixture {
    Fixture::with_size(8 * 4096)
}

fn every_flipped_header_bit_is_found_and_loses_nothing(fixture: &Fixture) {
    let meant = meaning(&fixture.header());
    for bit in 0..2 * 4096 * 8 {
        fixture.flip(bit);
        let damaged = if bit < 4096 * 8 { Slot::A } else { Slot::B };
        let problems = fixture.problems();
        assert!(
            matches!(problems[..], [Problem::HeaderSlot { slot, .. }] if slot == damaged),
            "bit {bit}: {problems:?}"
        );
        let image = fixture.open().expect("the other slot says the same");
        assert_eq!(meaning(image.header()), meant, "bit {bit}");
        fixture.flip(bit);
    }
    assert!(fixture.problems().is_empty());
}

#[test]
fn every_flipped_header_bit_of_a_clean_image_is_found_and_loses_nothing() {
    every_flipped_header_bit_is_found_and_loses_nothing(&small());
}

#[test]
fn every_flipped_header_bit_of_an_image_in_use_is_found_and_loses_nothing() {
    let fixture = small();
    fixture.in_use();
    every_flipped_header_bit_is_found_and_loses_nothing(&fixture);
}

#[test]
fn every_flipped_bit_of_a_clean_bitmap_is_found_and_keeps_the_image_from_opening() {
    let fixture = Fixture::new();
    for bit in BITMAP * 8..BITMAP * 8 + BLOCKS {
        fixture.flip(bit);
        let problems = fixture.problems();
        assert!(
            matches!(problems[0], Problem::BitmapChecksum { .. }),
            "bit {bit}: {problems:?}"
        );
        assert!(
            matches!(fixture.open(), Err(ImageError::BitmapChecksum { .. })),
            "bit {bit}"
        );
        fixture.flip(bit);
    }
    assert!(fixture.problems().is_empty());
}

#[test]
fn flipped_bits_of_the_headroom_are_found() {
    let fixture = Fixture::new();
    let (first, end) = (BITMAP * 8 + BLOCKS, (BITMAP + 3 * 4096) * 8);
    for bit in (first..end).step_by(31).chain([first, end - 1]) {
        fixture.flip(bit);
        let problems = fixture.problems();
        assert!(
            matches!(problems[..], [Problem::Headroom { .. }]),
            "bit {bit}: {problems:?}"
        );
        fixture.flip(bit);
    }
}
