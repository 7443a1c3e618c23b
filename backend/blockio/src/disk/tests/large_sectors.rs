//! Requests in sectors of 512 bytes to an image on a device that has sectors of 4096 bytes.

use dscow::units::BlockSize;

use super::*;
use crate::testing::{LoopDevice, pattern};

const DISK: usize = 4 << 20;

/// What a guest does in sectors of 512 bytes, from memory that is aligned to no more, ends up where it belongs.
fn small_requests_end_up_where_they_belong(
    block_size: BlockSize,
    executor: impl Fn() -> Box<dyn Executor>,
) {
    let folder = TempDir::new().unwrap();
    let (base, backing) = (
        folder.path().join("base.img"),
        folder.path().join("backing"),
    );
    fs::File::create(&backing)
        .unwrap()
        .set_len(16 << 20)
        .unwrap();
    let Some(device) = LoopDevice::attach(&backing, &["--sector-size", "4096"]) else {
        return;
    };
    let mut expected = pattern(DISK, 3);
    fs::write(&base, &expected).unwrap();
    let options = CreateOptions {
        base: Some(base),
        block_size,
        ..CreateOptions::default()
    };
    create(&device.path, &options).unwrap();
    let mut disk = Bench::open(&device.path, executor());
    let alignment = disk.disk.files[0]
        .dio_alignment()
        .expect("it is open for direct I/O");
    assert_eq!(alignment.offset, 4096);
    let mut random = 12_345_u64;
    let mut next = |below: usize| {
        random = random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        usize::try_from(random >> 33).unwrap() % below
    };
    for round in 0..300 {
        let start = next(DISK / 512) * 512;
        let len = ((1 + next(40)) * 512).min(DISK - start);
        let memory = AlignedBuf::zeroed(len + 512).into_buffer();
        let memory = memory.slice(next(2) * 512, len);
        let range = DiskRange::new(start as u64, len as u64);
        if next(3) == 0 {
            let finished = disk.request(Request::Read(range), memory);
            assert_eq!(finished.result, Ok(()));
            let found = finished.buffer.to_vec();
            assert!(
                found == expected[start..start + len],
                "round {round}: {len} at {start}"
            );
        } else {
            let data = vec![u8::try_from(round % 256).unwrap(); len];
            memory.copy_from_slice(0, &data);
            assert_eq!(disk.request(Request::Write(range), memory).result, Ok(()));
            expected[start..start + len].copy_from_slice(&data);
        }
        if next(20) == 0 {
            let flushed = disk.request(Request::Flush, Buffer::empty());
            assert_eq!(flushed.result, Ok(()));
        }
    }
    disk.close();
    assert!(check(&device.path).unwrap().problems.is_empty());
    let mut disk = Bench::open(&device.path, executor());
    assert!(disk.read(0, DISK) == expected);
    disk.close();
}

#[test]
fn small_requests_end_up_where_they_belong_with_io_uring() {
    let executor = || -> Box<dyn Executor> { Box::new(UringExecutor::new().unwrap()) };
    small_requests_end_up_where_they_belong(BlockSize::MIN, executor);
    small_requests_end_up_where_they_belong(BlockSize::from_bytes(65536).unwrap(), executor);
}

#[test]
fn small_requests_end_up_where_they_belong_with_threads() {
    let executor = || -> Box<dyn Executor> { Box::new(PoolExecutor::new(2).unwrap()) };
    small_requests_end_up_where_they_belong(BlockSize::MIN, executor);
    small_requests_end_up_where_they_belong(BlockSize::from_bytes(65536).unwrap(), executor);
}
