use super::*;

const BLOCK: u64 = 4096;
const STRIDE_BLOCKS: u64 = 16;

fn blocks(first: u64, end: u64) -> DiskRange {
    DiskRange::new(first * BLOCK, (end - first) * BLOCK)
}

/// A disk of 1000 blocks.
struct Disk {
    /// What the disk would say of the room around any write.
    room: Option<DiskRange>,
    used: u64,
}

impl Surroundings for Disk {
    fn disk_end(&self) -> u64 {
        1000 * BLOCK
    }

    fn room(&self, _: DiskRange, bounds: DiskRange) -> Option<DiskRange> {
        let inside = |room: DiskRange| bounds.start <= room.start && room.end() <= bounds.end();
        self.room
            .inspect(|room| assert!(inside(*room), "{bounds:?}"))
    }

    fn used(&self, _: DiskRange) -> u64 {
        self.used
    }
}

fn space(method: Method) -> Space<u32> {
    Space::new(method, STRIDE_BLOCKS * BLOCK, BLOCK)
}

/// As much of a MiB as makes it dense.
const DENSE_ENOUGH: u64 = 128 << 10;

fn dense(first: u64, end: u64) -> Disk {
    Disk {
        room: Some(blocks(first, end)),
        used: DENSE_ENOUGH,
    }
}

#[test]
fn a_small_first_write_is_filled_up_once() {
    let mut space = space(Method::Fill);
    let disk = dense(16, 32);
    let verdict = space.admit_write(blocks(20, 21), &disk);
    assert_eq!(verdict, Verdict::Fill(blocks(16, 32)));
    assert_eq!(space.over(blocks(16, 32)), []);
    assert_eq!(space.admit_write(blocks(21, 23), &disk), Verdict::Go);
}

#[test]
fn what_was_filled_up_is_prepared_until_it_is_written() {
    let mut space = space(Method::Fill);
    let disk = dense(16, 32);
    assert!(!space.is_prepared(blocks(21, 22)));
    space.admit_write(blocks(20, 21), &disk);
    space.over(blocks(16, 32));
    assert!(space.is_prepared(blocks(16, 20)) && space.is_prepared(blocks(21, 32)));
    // The write itself, and what is beyond.
    assert!(!space.is_prepared(blocks(19, 21)) && !space.is_prepared(blocks(31, 33)));
    space.admit_write(blocks(21, 23), &disk);
    assert!(!space.is_prepared(blocks(22, 24)) && space.is_prepared(blocks(23, 24)));
}

#[test]
fn nothing_is_filled_up_where_little_is_in_use() {
    let mut space = space(Method::Fill);
    let used = DENSE_ENOUGH - BLOCK;
    let disk = Disk {
        used,
        ..dense(16, 32)
    };
    assert_eq!(space.admit_write(blocks(20, 21), &disk), Verdict::Go);
    assert!(!space.has_loans());
}

#[test]
fn surroundings_at_the_end_of_the_disk_are_smaller() {
    let mut space = space(Method::Fill);
    // The last surroundings are the 232 blocks after the first three MiB, and the last stride has 8.
    let used = 232 * BLOCK / 8;
    let disk = Disk {
        used,
        ..dense(992, 1000)
    };
    let verdict = space.admit_write(blocks(999, 1000), &disk);
    assert_eq!(verdict, Verdict::Fill(blocks(992, 1000)));
    assert_eq!(space.take_loans(disk.disk_end()), [blocks(960, 1000)]);
}

#[test]
fn writes_that_are_large_or_not_the_first_or_without_room_stay_as_they_are() {
    let mut space = space(Method::Fill);
    for (write, room) in [
        (blocks(16, 32), Some(blocks(16, 32))),
        (blocks(20, 40), Some(blocks(20, 40))),
        (blocks(20, 21), None),
        (blocks(20, 21), Some(blocks(20, 21))),
    ] {
        let disk = Disk {
            room,
            used: DENSE_ENOUGH,
        };
        assert_eq!(space.admit_write(write, &disk), Verdict::Go, "{write:?}");
    }
    assert!(!space.has_loans());
}

#[test]
fn changes_of_what_is_being_filled_wait_for_it() {
    let mut space = space(Method::Fill);
    let disk = dense(16, 32);
    space.admit_write(blocks(20, 21), &disk);
    for (number, range) in [(1, blocks(0, 17)), (2, blocks(31, 40)), (3, blocks(20, 21))] {
        assert_eq!(space.admit_write(range, &disk), Verdict::Wait);
        assert_eq!(space.admit_other(range), Verdict::Wait);
        space.hold(range, number);
    }
    assert_eq!(space.admit_other(blocks(32, 40)), Verdict::Go);
    assert_eq!(space.admit_other(blocks(0, 16)), Verdict::Go);
    assert_eq!(space.over(blocks(16, 32)), [1, 2, 3]);
    assert_eq!(space.admit_other(blocks(20, 21)), Verdict::Go);
}

#[test]
fn a_stride_is_reserved_once() {
    for (method, first) in [
        (Method::Reserve, Verdict::Reserve(blocks(16, 32))),
        (Method::Leave, Verdict::Go),
    ] {
        let mut space = space(method);
        let disk = dense(17, 30);
        assert_eq!(space.admit_write(blocks(20, 21), &disk), first);
        assert_eq!(space.admit_write(blocks(22, 23), &disk), Verdict::Go);
        assert_eq!(space.take_loans(disk.disk_end()), [blocks(0, 64)]);
        assert!(!space.has_loans());
    }
}

#[test]
fn what_is_written_is_owed_no_more() {
    let mut space = space(Method::Fill);
    let disk = dense(60, 64);
    space.admit_write(blocks(62, 63), &disk);
    space.over(blocks(60, 64));
    let disk = dense(64, 66);
    space.admit_write(blocks(64, 65), &disk);
    space.over(blocks(64, 66));
    assert!(space.has_loans());
    // The rest of the first loan and all of the second, and nothing of the third word.
    assert_eq!(space.admit_write(blocks(63, 66), &disk), Verdict::Go);
    assert!(space.has_loans());
    assert_eq!(space.admit_write(blocks(60, 62), &disk), Verdict::Go);
    assert!(!space.has_loans());
}

#[test]
fn loans_are_returned_in_order_and_once() {
    let mut space = space(Method::Fill);
    for stride in [9, 3, 3, 62] {
        let room = blocks(stride * 16, (stride * 16 + 16).min(1000));
        let disk = dense(stride * 16, (stride * 16 + 16).min(1000));
        let first = blocks(stride * 16, stride * 16 + 1);
        if space.admit_write(first, &disk) == Verdict::Fill(room) {
            space.over(room);
        }
    }
    let loans = space.take_loans(1000 * BLOCK);
    let expected = [blocks(0, 64), blocks(128, 192), blocks(960, 1000)];
    assert_eq!(loans, expected);
    assert_eq!(space.take_loans(1000 * BLOCK), []);
}

#[test]
fn nothing_is_given_back_under_a_fill_and_nothing_changes_what_is_given_back() {
    let mut space = space(Method::Fill);
    space.admit_write(blocks(20, 21), &dense(16, 32));
    assert!(!space.begin_give_back(blocks(30, 40)));
    assert!(space.begin_give_back(blocks(32, 40)));
    assert_eq!(space.admit_other(blocks(39, 41)), Verdict::Wait);
    space.over(blocks(32, 40));
    assert_eq!(space.admit_other(blocks(39, 41)), Verdict::Go);
}

#[test]
fn when_there_is_no_more_nothing_is_taken() {
    let mut space = space(Method::Fill);
    space.take_no_more();
    let disk = dense(16, 32);
    assert_eq!(space.admit_write(blocks(20, 21), &disk), Verdict::Go);
}

#[test]
fn blocks_as_large_as_strides_need_no_help() {
    let mut space = Space::<u32>::new(Method::Fill, 64 << 10, 64 << 10);
    let disk = dense(16, 48);
    assert_eq!(space.admit_write(blocks(16, 32), &disk), Verdict::Go);
}

#[test]
fn the_method_depends_on_the_file_system() {
    use FileSystem::{Ext4, Other, Xfs};
    use SpaceStrategy::{Auto, ExtentHint, Fill, Sparse, Strides};
    for (strategy, file_system, has_hint, method) in [
        (Auto, Ext4, false, Method::Fill),
        (Auto, Xfs, false, Method::Fill),
        (Auto, Other, false, Method::Plain),
        (Fill, Xfs, false, Method::Fill),
        (Fill, Other, false, Method::Plain),
        (Sparse, Ext4, false, Method::Plain),
        (Strides, Ext4, false, Method::Reserve),
        (Strides, Other, false, Method::Plain),
        (ExtentHint, Xfs, true, Method::Leave),
        (ExtentHint, Ext4, false, Method::Plain),
    ] {
        assert_eq!(Method::of(strategy, file_system, has_hint), method);
    }
}

#[test]
fn strategies_have_names() {
    for (strategy, name) in SpaceStrategy::NAMED {
        assert_eq!(name.parse(), Ok(strategy));
        assert_eq!(strategy.to_string(), name);
    }
    assert!("dense".parse::<SpaceStrategy>().is_err());
}
