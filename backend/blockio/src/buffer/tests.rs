//! Slicing and copying, with literals and against a model that is a plain vector.

use std::ptr::NonNull;
use std::rc::Rc;

use proptest::prelude::*;

use super::{AlignedBuf, Buffer, BufferPool, IoMemory};
use crate::testing::Scattered;

/// "abcdefghij" in segments of 3, 1, 4 and 2 bytes.
fn letters() -> Buffer {
    Buffer::from_memory(Scattered::new(&[3, 1, 4, 2], 5, b"abcdefghij"))
}

#[test]
fn a_buffer_has_the_bytes_of_its_segments_in_order() {
    let buffer = letters();
    assert_eq!((buffer.len(), buffer.segment_count()), (10, 4));
    assert_eq!(buffer.to_vec(), b"abcdefghij");
}

#[test]
fn a_slice_takes_parts_of_segments_and_whole_ones() {
    let buffer = letters();
    let cases: [(usize, usize, &[u8], usize); 8] = [
        (0, 10, b"abcdefghij", 4),
        (0, 3, b"abc", 1),
        (2, 3, b"cde", 3),
        (3, 1, b"d", 1),
        (4, 4, b"efgh", 1),
        (5, 2, b"fg", 1),
        (7, 3, b"hij", 2),
        (10, 0, b"", 0),
    ];
    for (offset, len, bytes, segments) in cases {
        let slice = buffer.slice(offset, len);
        assert_eq!(slice.to_vec(), bytes, "slice of {len} at {offset}");
        assert_eq!(
            (slice.len(), slice.segment_count()),
            (len, segments),
            "slice of {len} at {offset}"
        );
    }
}

#[test]
fn a_slice_of_a_slice_counts_from_the_slice() {
    assert_eq!(letters().slice(2, 7).slice(1, 4).to_vec(), b"defg");
}

#[test]
fn a_slice_shares_the_memory() {
    let buffer = letters();
    buffer.slice(2, 3).copy_from_slice(0, b"XYZ");
    assert_eq!(buffer.to_vec(), b"abXYZfghij");
}

#[test]
fn copies_cross_segments_on_both_sides() {
    let target = Buffer::from_memory(Scattered::new(&[2, 5, 3], 1, b"..........."));
    target.copy_from(1, &letters(), 2, 7);
    assert_eq!(target.to_vec(), b".cdefghi..");
    letters().copy_to(8, &target, 0, 2);
    assert_eq!(target.to_vec(), b"ijdefghi..");
}

#[test]
fn a_copy_within_one_segment_may_overlap() {
    let buffer = AlignedBuf::from_slice(b"0123456789").into_buffer();
    buffer.copy_from(2, &buffer, 0, 6);
    assert_eq!(buffer.to_vec(), b"0101234589");
}

#[test]
fn zeros_stay_inside_their_range() {
    let buffer = letters();
    buffer.fill_zero(2, 3);
    assert_eq!(buffer.to_vec(), b"ab\0\0\0fghij");
}

#[test]
fn part_of_a_buffer_is_copied_out() {
    let mut bytes = [0; 4];
    letters().copy_to_slice(6, &mut bytes);
    assert_eq!(&bytes, b"ghij");
}

#[test]
fn segments_that_touch_become_one_and_empty_ones_vanish() {
    let buffer = Buffer::from_memory(Scattered::new(&[2, 0, 3, 1], 0, b"abcdef"));
    assert_eq!((buffer.segment_count(), buffer.len()), (1, 6));
    assert_eq!(buffer.to_vec(), b"abcdef");
}

#[test]
fn a_concatenation_shares_all_parts_and_keeps_their_owners() {
    let joined = {
        let (head, tail) = (
            AlignedBuf::from_slice(b"head"),
            AlignedBuf::from_slice(b"tail"),
        );
        Buffer::concat([
            head.into_buffer(),
            letters().slice(1, 2),
            Buffer::empty(),
            tail.into_buffer(),
        ])
    };
    assert_eq!(joined.to_vec(), b"headbctail");
    assert_eq!(joined.slice(3, 5).to_vec(), b"dbcta");
}

#[test]
fn the_owner_lives_as_long_as_the_last_slice() {
    struct Observed(AlignedBuf, #[expect(dead_code, reason = "counted")] Rc<()>);
    // SAFETY: the allocation lives and stays until the drop, and no reference to its bytes is made.
    unsafe impl IoMemory for Observed {
        fn for_each_segment(&self, visit: &mut dyn FnMut(NonNull<u8>, usize)) {
            visit(self.0.address(), self.0.len());
        }
    }
    let alive = Rc::new(());
    let buffer = Buffer::from_memory(Rc::new(Observed(AlignedBuf::zeroed(8), alive.clone())));
    let slice = buffer.slice(4, 2);
    let joined = Buffer::concat([slice.clone(), letters()]);
    drop((buffer, slice));
    assert_eq!(Rc::strong_count(&alive), 2);
    drop(joined);
    assert_eq!(Rc::strong_count(&alive), 1);
}

#[test]
fn ranges_beyond_the_end_are_refused() {
    let refused = |act: &dyn Fn(&Buffer)| {
        let buffer = letters();
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| act(&buffer))).is_err()
    };
    assert!(refused(&|buffer| drop(buffer.slice(0, 11))));
    assert!(refused(&|buffer| drop(buffer.slice(10, 1))));
    assert!(refused(&|buffer| drop(buffer.slice(usize::MAX, 2))));
    assert!(refused(&|buffer| buffer.fill_zero(9, 2)));
    assert!(refused(&|buffer| buffer.copy_from_slice(8, b"abc")));
    assert!(refused(&|buffer| buffer.copy_to_slice(8, &mut [0; 3])));
    assert!(refused(&|buffer| buffer.copy_from(0, &letters(), 8, 3)));
    assert!(refused(&|buffer| buffer.copy_from(8, &letters(), 0, 3)));
}

#[test]
fn alignment_is_that_of_addresses_and_lengths() {
    let buffer = AlignedBuf::zeroed(8192).into_buffer();
    assert!(buffer.is_aligned_to(4096));
    assert!(buffer.slice(512, 1024).is_aligned_to(512));
    assert!(!buffer.slice(512, 1024).is_aligned_to(1024));
    assert!(!buffer.slice(0, 100).is_aligned_to(512));
}

#[test]
fn aligned_memory_is_zeroed_and_can_be_empty() {
    assert_eq!(AlignedBuf::zeroed(5).as_slice(), [0; 5]);
    assert!(AlignedBuf::zeroed(0).is_empty());
    assert!(AlignedBuf::zeroed(0).into_buffer().is_empty());
}

#[test]
fn a_debug_print_shows_no_contents() {
    assert_eq!(format!("{:?}", letters()), "Buffer(10 bytes in 4 segments)");
}

#[test]
fn a_pool_reuses_memory_of_the_same_class() {
    let pool = BufferPool::new(1 << 20);
    let first = pool.take(5000);
    first.fill_zero(0, 5000);
    first.copy_from_slice(4990, b"remembered");
    let slice = first.slice(10, 10);
    drop(first);
    assert_eq!(pool.kept_bytes(), 0, "a slice still uses it");
    drop(slice);
    assert_eq!(pool.kept_bytes(), 8192);
    let second = pool.take(8192);
    assert_eq!(pool.kept_bytes(), 0);
    assert_eq!(second.slice(4990, 10).to_vec(), b"remembered");
    assert!(second.is_aligned_to(4096));
}

#[test]
fn a_pool_keeps_no_more_than_its_limit() {
    let pool = BufferPool::new(8192);
    let taken: Vec<_> = (0..3).map(|_| pool.take(4096)).collect();
    drop(taken);
    assert_eq!(pool.kept_bytes(), 8192);
    drop(pool.take((32 << 20) + 1));
    assert_eq!(pool.kept_bytes(), 8192, "larger than any class: never kept");
}

#[test]
fn a_buffer_outlives_its_pool() {
    let pool = BufferPool::new(1 << 20);
    let buffer = pool.take(4);
    drop(pool);
    buffer.copy_from_slice(0, b"fine");
    assert_eq!(buffer.to_vec(), b"fine");
}

/// A layout of segments (some empty) and contents for it.
fn layout() -> impl Strategy<Value = (Vec<usize>, usize, Vec<u8>)> {
    (prop::collection::vec(0usize..20, 0..8), 0usize..3).prop_flat_map(|(lengths, gap)| {
        let total: usize = lengths.iter().sum();
        (
            Just(lengths),
            Just(gap),
            prop::collection::vec(any::<u8>(), total),
        )
    })
}

/// A range inside of `len` bytes, from two arbitrary numbers.
fn range_in(len: usize, at: usize, count: usize) -> (usize, usize) {
    let offset = at % (len + 1);
    (offset, count % (len - offset + 1))
}

proptest! {
    #[test]
    fn slices_are_slices((lengths, gap, bytes) in layout(), a in any::<[usize; 4]>()) {
        let buffer = Buffer::from_memory(Scattered::new(&lengths, gap, &bytes));
        let (offset, len) = range_in(bytes.len(), a[0], a[1]);
        let slice = buffer.slice(offset, len);
        prop_assert_eq!(slice.to_vec(), &bytes[offset..offset + len]);
        let (inner, inner_len) = range_in(len, a[2], a[3]);
        prop_assert_eq!(slice.slice(inner, inner_len).to_vec(), &bytes[offset + inner..][..inner_len]);
    }

    #[test]
    fn copies_change_what_they_should_and_nothing_else(
        (lengths, gap, mut model) in layout(),
        (from_lengths, from_gap, from_bytes) in layout(),
        a in any::<[usize; 4]>(),
    ) {
        let memory = Scattered::new(&lengths, gap, &model);
        let buffer = Buffer::from_memory(memory.clone());
        let source = Buffer::from_memory(Scattered::new(&from_lengths, from_gap, &from_bytes));
        let (from, available) = range_in(from_bytes.len(), a[0], a[1]);
        let to = a[2] % (model.len() + 1);
        let len = available.min(model.len() - to);
        buffer.copy_from(to, &source, from, len);
        model[to..to + len].copy_from_slice(&from_bytes[from..from + len]);
        prop_assert_eq!(buffer.to_vec(), &model[..]);

        let (offset, len) = range_in(model.len(), a[3], a[0]);
        buffer.fill_zero(offset, len);
        model[offset..offset + len].fill(0);
        prop_assert_eq!(buffer.to_vec(), &model[..]);

        let (offset, len) = range_in(model.len(), a[1], a[2]);
        buffer.copy_from_slice(offset, &vec![7; len]);
        model[offset..offset + len].fill(7);
        prop_assert_eq!(buffer.to_vec(), &model[..]);
        prop_assert!(memory.gaps_are_intact());
    }
}
