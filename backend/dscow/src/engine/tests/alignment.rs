//! Files that are read and written in units of 4096 bytes; the driver checks that they are.

use super::super::{Options, Token};
use super::driver::{Below, Driver};

fn coarse(block_size: u64) -> Driver {
    let options = Options {
        io_alignment: 4096,
        ..Options::default()
    };
    let below = vec![Below::Raw(vec![1; 64 << 10])];
    Driver::new_with(64 << 10, block_size, below, options)
}

#[test]
fn a_write_to_part_of_a_unit_of_an_allocated_block_is_merged() {
    let mut disk = coarse(8192);
    disk.write(1, 0, &[7; 16384]);
    disk.submit_write(2, 3584, &[9; 5632]);
    disk.run();
    let mut expected = vec![7; 16384];
    expected[3584..9216].fill(9);
    assert_eq!(disk.read(0, 16384), expected);
    assert_eq!(disk.engine.stats().copy_ups, 0);
    assert_eq!(disk.bounces_in_use(), 0);
}

#[test]
fn two_writes_to_one_unit_follow_each_other() {
    let mut disk = coarse(4096);
    disk.write(1, 0, &[7; 4096]);
    disk.submit_write(2, 0, &[8; 512]);
    disk.submit_write(3, 512, &[9; 512]);
    disk.submit_write(4, 0, &[6; 4096]);
    assert_eq!(disk.waiting.len(), 1, "one read of the unit");
    disk.run();
    assert!((2..=4).all(|token| disk.take_result(Token(token)).is_some()));
    assert_eq!(disk.read(0, 4096), [6; 4096]);
}

#[test]
fn a_read_of_part_of_a_unit_takes_the_unit() {
    let mut disk = coarse(4096);
    let data: Vec<u8> = (0..8192_u32).map(|i| (i / 512).to_le_bytes()[0]).collect();
    disk.write(1, 4096, &data);
    disk.submit_read(2, 3584, 5120);
    disk.run();
    let mut expected = vec![1; 512];
    expected.extend(&data[..4608]);
    assert_eq!(disk.buffer(2), expected);
    assert_eq!(disk.bounces_in_use(), 0);
}

#[test]
fn a_disk_that_ends_inside_a_unit_is_written_in_whole_units() {
    let options = Options {
        io_alignment: 4096,
        ..Options::default()
    };
    let mut disk = Driver::new_with(4096 + 512, 4096, vec![], options);
    disk.submit_write(1, 4096, &[5; 512]);
    disk.run();
    disk.submit_write(2, 4096, &[6; 512]);
    disk.run();
    disk.submit_read(3, 4096, 512);
    disk.run();
    assert_eq!(disk.buffer(3), [6; 512]);
    let at = (1 << 20) + 4096 + 512;
    assert_eq!(disk.files[0][at..at + 3584], [0; 3584]);
}
