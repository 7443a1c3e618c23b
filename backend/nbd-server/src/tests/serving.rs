//! What one good client gets.

use std::fs;
use std::thread;

use blockio::image::{Image, ImageAccess};

use super::client::*;
use super::rig::*;
use crate::{Socket, Status, Until};

const MIB: u64 = 1 << 20;

/// `len` bytes that tell where they belong.
fn pattern(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut word = || {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        (state >> 33).to_le_bytes()
    };
    let mut bytes: Vec<u8> = std::iter::from_fn(|| Some(word()))
        .take(len / 8 + 1)
        .flatten()
        .collect();
    bytes.truncate(len);
    bytes
}

fn what_is_written_is_read_and_stays(threads: bool) {
    let setup = Setup {
        threads,
        ..Setup::default()
    };
    let rig = Rig::with(setup);
    let mut client = rig.client();
    let data = pattern(1, 5 * 512);
    assert_eq!(client.write(0, 4096 - 512, &data), 0);
    let mut expected = vec![0x55; 16384];
    expected[4096 - 512..4096 + 4 * 512].copy_from_slice(&data);
    assert_eq!(client.read(0, 16384), expected);
    assert_eq!(client.command(0, FLUSH, 0, 0), 0);
    let stopped = rig.stop();
    assert_eq!(stopped.check().allocated_blocks, 2);

    let rig = Rig::over(stopped.folder, setup);
    let mut client = rig.connect();
    // Flags, flush, FUA, trim, zeroes, several connections, fast zeroes; no DF, since replies are simple.
    assert_eq!(client.negotiate_simple(), 0x096d);
    assert_eq!(client.read_simple(0, 16384), expected);
    let cookie = client.request(0, READ, SIZE, 512);
    assert_eq!(client.simple_reply(), (cookie, 22));
    let cookie = client.request(0, WRITE, 512, 512);
    client.send(&[7; 512]);
    assert_eq!(client.simple_reply(), (cookie, 0));
    assert_eq!(client.read_simple(512, 512), [7; 512]);
    rig.stop().check();
}

#[test]
fn what_is_written_is_read_and_stays_with_io_uring() {
    what_is_written_is_read_and_stays(false);
}

#[test]
fn what_is_written_is_read_and_stays_with_threads() {
    what_is_written_is_read_and_stays(true);
}

#[test]
fn the_largest_requests_are_served() {
    let rig = Rig::new();
    let mut client = rig.client();
    let data = pattern(2, 32 << 20);
    assert_eq!(client.write(FUA, MIB + 512, &data), 0);
    assert!(client.read(MIB + 512, 32 << 20) == data);
    let error = client.command(0, READ, 0, (32 << 20) + 512);
    assert_eq!(error, 75);
    rig.stop().check();
}

#[test]
fn requests_may_come_in_any_pieces() {
    let rig = Rig::new();
    let mut client = rig.client();
    // Sizes around the limits of what is received in one go.
    for (seed, len) in [512, 4096, 65536, 256 << 10, (256 << 10) + 512, 3 << 20]
        .into_iter()
        .enumerate()
    {
        let data = pattern(seed as u64, len);
        let mut stream = header(0, WRITE, 1, MIB, u32::try_from(len).unwrap());
        stream.extend(&data);
        stream.extend(header(0, FLUSH, 2, 0, 0));
        let (first, rest) = stream.split_at(100);
        for byte in first {
            client.send(&[*byte]);
        }
        for piece in rest.chunks(100_003) {
            client.send(piece);
        }
        let mut cookies = [client.chunk().cookie, client.chunk().cookie];
        cookies.sort_unstable();
        assert_eq!(cookies, [1, 2]);
        assert!(client.read(MIB, len) == data, "{len}");
    }
    rig.stop().check();
}

#[test]
fn many_requests_at_once_are_all_answered() {
    let rig = Rig::new();
    let mut client = rig.client();
    // More than a client may have under way, and more bytes than are received at once.
    const COUNT: u64 = 2000;
    let mut writer = rig_writer(&client);
    let sender = thread::spawn(move || {
        for number in 0..COUNT {
            let mut bytes = header(0, WRITE, number, 2 * MIB + number * 4096, 4096);
            bytes.extend(pattern(number, 4096));
            std::io::Write::write_all(&mut writer, &bytes).unwrap();
        }
    });
    let mut answered: Vec<u64> = (0..COUNT).map(|_| client.chunk().cookie).collect();
    sender.join().unwrap();
    answered.sort_unstable();
    assert_eq!(answered, (0..COUNT).collect::<Vec<_>>());
    for number in 0..COUNT {
        assert_eq!(
            client.read(2 * MIB + number * 4096, 4096),
            pattern(number, 4096)
        );
    }
    assert_eq!(rig.stop().check().allocated_blocks, COUNT);
}

fn rig_writer(client: &Client) -> std::os::unix::net::UnixStream {
    client.socket.try_clone().unwrap()
}

#[test]
fn holes_are_not_sent_unless_asked_for_in_one_piece() {
    let rig = Rig::new();
    let mut client = rig.client();
    // Across the end of the base; nobody holds what follows it.
    let chunks = client.read_chunks(0, MIB - 4096, 12288);
    let shapes: Vec<_> = chunks.iter().map(|c| (c.kind, c.payload.len())).collect();
    assert_eq!(shapes, [(1, 8 + 4096), (2, 12)]);
    let mut data = vec![0xee; 12288];
    for chunk in &chunks {
        place(chunk, MIB - 4096, &mut data);
    }
    assert!(data[..4096].iter().all(|b| *b == 0x55) && data[4096..].iter().all(|b| *b == 0));

    let chunks = client.read_chunks(DF, MIB - 4096, 12288);
    assert_eq!(chunks.len(), 1);
    assert_eq!((chunks[0].kind, chunks[0].payload.len()), (1, 8 + 12288));
    assert_eq!(chunks[0].payload[8..], data);

    // A hole alone.
    let chunks = client.read_chunks(0, 8 * MIB, 32 << 20);
    assert_eq!(chunks.len(), 1);
    assert_eq!(
        chunks[0].payload,
        [&(8 * MIB).to_be_bytes()[..], &(32_u32 << 20).to_be_bytes()].concat()
    );

    // Many runs: every other block of 64.
    for block in 0..32 {
        assert_eq!(client.write(0, 2 * MIB + block * 8192, &[9; 4096]), 0);
    }
    let data = client.read(2 * MIB, 64 * 4096);
    for (block, bytes) in data.chunks(4096).enumerate() {
        let expected = if block % 2 == 0 { 9 } else { 0 };
        assert!(bytes.iter().all(|b| *b == expected), "{block}");
    }
    rig.stop();
}

#[test]
fn status_tells_who_holds_what() {
    let rig = Rig::new();
    let mut client = rig.client();
    assert_eq!(client.write(0, 8192, &[1; 4096]), 0);
    assert_eq!(client.write(0, MIB + 8192, &[1; 4096]), 0);
    let base = 1 << 20;
    let [allocation, depth] = client.status(0, 0, 4 << 20);
    let hole = 3;
    assert_eq!(
        allocation,
        [
            (base, 0),
            (8192, hole),
            (4096, 0),
            ((4 << 20) - base - 12288, hole)
        ]
    );
    assert_eq!(
        depth,
        [
            (8192, 2),
            (4096, 1),
            (base - 12288, 2),
            (8192, 0),
            (4096, 1),
            ((4 << 20) - base - 12288, 0)
        ]
    );
    let [allocation, depth] = client.status(REQ_ONE, 4096, 4 << 20);
    assert_eq!(
        (allocation, depth),
        (vec![(base - 4096, 0)], vec![(4096, 2)])
    );
    let [allocation, depth] = client.status(REQ_ONE, 8192, 512);
    assert_eq!((allocation, depth), (vec![(512, 0)], vec![(512, 1)]));
    rig.stop();
}

#[test]
fn a_long_status_is_cut_and_can_be_gone_on_with() {
    let rig = Rig::new();
    let mut client = rig.client();
    let blocks = 1500;
    for block in 0..blocks {
        assert_eq!(client.write(0, 2 * MIB + block * 8192, &[1; 4096]), 0);
    }
    let (mut at, end) = (2 * MIB, 2 * MIB + blocks * 8192);
    let mut found = Vec::new();
    while at < end {
        let [allocation, depth] = client.status(0, at, u32::try_from(end - at).unwrap());
        assert!(allocation.len() <= 1024 && allocation.len() == depth.len());
        at += allocation
            .iter()
            .map(|(len, _)| u64::from(*len))
            .sum::<u64>();
        found.extend(allocation);
    }
    assert_eq!(at, end);
    assert_eq!(found, [(4096, 0), (4096, 3)].repeat(1500));
    rig.stop();
}

#[test]
fn zeroing_and_trimming_read_as_zeros() {
    let rig = Rig::new();
    let mut client = rig.client();
    let mut expected = vec![0x55; 65536];
    // Ragged zeroes; the blocks at the ends keep the rest of their bytes.
    assert_eq!(client.command(FUA, WRITE_ZEROES, 512, 12288), 0);
    expected[512..512 + 12288].fill(0);
    // Zeroes that take room.
    assert_eq!(client.command(NO_HOLE, WRITE_ZEROES, 20480, 8192), 0);
    expected[20480..28672].fill(0);
    // Trimming leaves what it covers in part.
    assert_eq!(client.command(FUA, TRIM, 32768 + 512, 8192), 0);
    expected[32768 + 4096..32768 + 8192].fill(0);
    assert_eq!(client.read(0, 65536), expected);
    let [allocation, depth] = client.status(REQ_ONE, 20480, 8192);
    assert_eq!((allocation, depth), (vec![(8192, 0)], vec![(8192, 1)]));
    let stopped = rig.stop();
    assert_eq!(stopped.check().allocated_blocks, 4 + 2 + 1);
}

#[test]
fn fast_zeroing_is_refused_where_zeros_would_be_written() {
    let rig = Rig::new();
    let mut client = rig.client();
    assert_eq!(client.command(FAST_ZERO, WRITE_ZEROES, 0, 65536), 0);
    assert_eq!(client.read(0, 65536), vec![0; 65536]);
    for (flags, len) in [(FAST_ZERO, 4096), (FAST_ZERO | NO_HOLE, 65536)] {
        assert_eq!(client.command(flags, WRITE_ZEROES, 65536, len), 95);
    }
    assert_eq!(client.read(65536, 65536), vec![0x55; 65536]);
    rig.stop();
}

#[test]
fn zeros_that_take_room_are_written_in_pieces_that_cover_the_range() {
    let rig = Rig::new();
    let mut client = rig.client();
    let len = (5 << 20) + 512;
    assert_eq!(client.write(0, 4 * MIB, &vec![7; len + 1024]), 0);
    let count = u32::try_from(len).unwrap();
    assert_eq!(
        client.command(NO_HOLE | FUA, WRITE_ZEROES, 4 * MIB + 512, count),
        0
    );
    let mut expected = vec![0; len + 1024];
    expected[..512].fill(7);
    expected[512 + len..].fill(7);
    assert!(client.read(4 * MIB, len + 1024) == expected);
    rig.stop().check();
}

#[test]
fn a_read_only_export_refuses_writes_and_goes_on() {
    let rig = Rig::with(Setup {
        read_only: true,
        ..Setup::default()
    });
    let mut simple = rig.connect();
    assert_eq!(simple.negotiate_simple(), 0x010f);
    let mut client = rig.client();
    assert_eq!(client.write(0, 0, &[7; 65536]), 1);
    for kind in [TRIM, WRITE_ZEROES] {
        assert_eq!(client.command(0, kind, 0, 4096), 1);
    }
    assert_eq!(client.command(0, FLUSH, 0, 0), 0);
    assert_eq!(client.read(0, 65536), [0x55; 65536]);
    assert_eq!(rig.stop().check().allocated_blocks, 0);
}

#[test]
fn refused_requests_leave_the_connection_as_it_was() {
    let rig = Rig::new();
    let mut client = rig.client();
    for (flags, kind, offset, len, error) in [
        (0, READ, SIZE, 512, 22),
        (0, READ, 0, 0, 22),
        (0, READ, 1, 512, 22),
        (0, READ, u64::MAX - 511, 512, 22),
        (0x8000, READ, 0, 512, 22),
        (0, TRIM, SIZE - 512, 1024, 22),
        (0, WRITE_ZEROES, SIZE - 512, 1024, 28),
        (0, FLUSH, 512, 0, 22),
        (0, 5, 0, 512, 22),
        (0, 99, 0, 512, 22),
    ] {
        assert_eq!(
            client.command(flags, kind, offset, len),
            error,
            "{kind} at {offset}"
        );
    }
    // The data of a write that is refused is passed over, however long it is.
    for len in [512, 65536, 1 << 20] {
        assert_eq!(client.write(0, SIZE - 512 + 512, &vec![0x25; len]), 28);
        assert_eq!(client.write(0, 1, &vec![0x25; len]), 22);
    }
    assert_eq!(client.read(0, 512), [0x55; 512]);
    assert_eq!(rig.stop().check().allocated_blocks, 0);
}

/// What a crash at this moment would leave, as far as the file system keeps what it was told.
fn holds_after_a_crash(rig: &Rig, offset: u64) -> bool {
    let copy = rig.path("copy.cow");
    fs::copy(rig.path("vm.cow"), &copy).unwrap();
    let image = Image::open(&copy, ImageAccess::ReadOnly).unwrap();
    let held = image
        .bitmap()
        .is_set(dscow::units::BlockIndex(offset / 4096));
    drop(image);
    fs::remove_file(copy).unwrap();
    held
}

#[test]
fn what_is_answered_with_fua_is_in_the_image() {
    let rig = Rig::new();
    let mut client = rig.client();
    assert_eq!(client.write(FUA, 8192, &[1; 4096]), 0);
    assert!(holds_after_a_crash(&rig, 8192));
    assert_eq!(client.command(FUA, WRITE_ZEROES, 16384, 4096), 0);
    assert!(holds_after_a_crash(&rig, 16384));
    assert_eq!(client.command(FUA, TRIM, 20480, 4096), 0);
    assert!(holds_after_a_crash(&rig, 20480));
    assert_eq!(client.command(FUA | NO_HOLE, WRITE_ZEROES, 24576, 4096), 0);
    assert!(holds_after_a_crash(&rig, 24576));
    rig.stop().check();
}

#[test]
fn a_flush_covers_what_other_connections_were_answered() {
    let rig = Rig::new();
    let (mut one, mut other) = (rig.client(), rig.client());
    assert_eq!(one.write(0, 8192, &[1; 4096]), 0);
    assert_eq!(other.command(0, FLUSH, 0, 0), 0);
    assert!(holds_after_a_crash(&rig, 8192));
    assert_eq!(other.read(8192, 4096), [1; 4096]);
    rig.stop().check();
}

#[test]
fn a_client_that_says_goodbye_is_answered_first() {
    let rig = Rig::new();
    let mut client = rig.client();
    let write = client.request(0, WRITE, 0, 4096);
    client.send(&[3; 4096]);
    client.request(0, DISC, 0, 0);
    assert_eq!(client.outcome(write), 0);
    assert_eq!(client.until_closed(), []);
    assert_eq!(rig.client().read(0, 4096), [3; 4096]);
    rig.stop();
}

#[test]
fn the_server_may_end_with_its_last_client() {
    let rig = Rig::with(Setup {
        until: Until::LastClientGone,
        ..Setup::default()
    });
    let mut first = rig.client();
    let mut second = rig.client();
    first.request(0, DISC, 0, 0);
    assert_eq!(first.until_closed(), []);
    assert_eq!(second.write(0, 0, &[3; 4096]), 0);
    drop(second);
    assert_eq!(rig.wait().check().allocated_blocks, 1);
}

#[test]
fn a_header_may_begin_behind_another_request() {
    let rig = Rig::new();
    let mut client = rig.client();
    for kept in 1..28 {
        let second = header(0, READ, 2, 4096, 512);
        client.send(&[&header(0, READ, 1, 0, 512)[..], &second[..kept]].concat());
        // Answered, so all of that has been received.
        assert_eq!(client.chunk().cookie, 1);
        client.send(&second[kept..]);
        assert_eq!(client.chunk().cookie, 2);
    }
    rig.stop();
}

#[test]
fn what_was_taken_is_answered_when_the_server_stops() {
    let folder = new_folder();
    let image = folder.path().join("vm.cow");
    let socket = Socket::listen(&folder.path().join("sock")).unwrap();
    let (mut export, mut executor) = open(&image, socket, Setup::default());
    let executor = executor.as_mut();
    let mut client = Client::connect(&folder.path().join("sock"));
    // All that it will ever say; the server has no thread of its own here.
    client.send(b"\0\0\0\x03IHAVEOPT\0\0\0\x01\0\0\0\0");
    client.send(&header(0, WRITE, 1, 0, 4096));
    client.send(&[3; 4096]);
    let mut events = Vec::new();
    let mut asked = false;
    while !matches!(export.status(), Status::Closed(_)) {
        export.settle(executor);
        export.tick(executor);
        executor.wait(None, &mut events).unwrap();
        for event in events.drain(..) {
            export.handle(event, executor);
            if export.statistics().requests == 1 && !asked {
                // It is on the disk, and nobody has heard of its end yet.
                export.stop(executor);
                asked = true;
            }
        }
        export.settle(executor);
    }
    assert_eq!(export.status(), Status::Closed(Ok(())));
    export.release(executor);
    client.receive(18 + 10);
    assert_eq!(client.simple_reply(), (1, 0));
    assert_eq!(client.until_closed(), []);
    let report = blockio::image::check(&image).unwrap();
    assert!(report.closed_cleanly);
    assert_eq!(report.allocated_blocks, 1);
}
