//! Clients that do not keep to the protocol, beside one that does and whose data is checked all the while.

use std::io::{ErrorKind, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use super::client::*;
use super::rig::*;

/// A good client that writes and reads back until told to stop.
struct Bystander {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<u64>,
}

impl Bystander {
    fn new(rig: &Rig) -> Self {
        let mut client = rig.client();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut rounds: u64 = 0;
            while !stopped.load(Ordering::Relaxed) || rounds < 10 {
                let offset = 8 * (1 << 20) + rounds % 64 * 12_288;
                let data = [u8::try_from(rounds % 251).unwrap(); 12_288 - 512];
                assert_eq!(client.write(0, offset, &data), 0);
                assert_eq!(client.read(offset, data.len()), data);
                if rounds.is_multiple_of(8) {
                    assert_eq!(client.command(0, FLUSH, 0, 0), 0);
                }
                rounds += 1;
            }
            rounds
        });
        Self { stop, thread }
    }

    /// It was served all the while.
    fn must_be_content(self) {
        self.stop.store(true, Ordering::Relaxed);
        assert!(self.thread.join().unwrap() >= 10);
    }
}

/// Lets `attack` loose beside a good client; the server must outlive it, with a clean image.
fn beside_a_good_client(attack: impl FnOnce(&Rig)) {
    let rig = Rig::new();
    let bystander = Bystander::new(&rig);
    attack(&rig);
    bystander.must_be_content();
    assert_eq!(rig.client().read(0, 4096), [0x55; 4096]);
    rig.stop().check();
}

#[test]
fn wrong_beginnings_are_refused() {
    beside_a_good_client(|rig| {
        // An old client that waits for another greeting says nothing that makes sense here.
        for bytes in [
            &b"\xff\xff\xff\xff"[..],
            b"\0\0\0\x04",
            b"GET / HTTP/1.1\r\n\r\n",
        ] {
            let mut client = rig.connect();
            client.receive(18);
            client.send(bytes);
            assert_eq!(client.until_closed(), []);
        }
        let mut client = rig.connect();
        client.greet();
        client.send(b"IHAVEOPS\0\0\0\x01\0\0\0\0");
        assert_eq!(client.until_closed(), []);
        let mut client = rig.connect();
        client.greet();
        client.option(1, b"another disk");
        assert_eq!(client.until_closed(), []);
    });
}

#[test]
fn oversized_and_endless_options_are_refused() {
    beside_a_good_client(|rig| {
        let mut client = rig.connect();
        client.greet();
        client.option(10, &vec![0x41; 1 << 20]);
        assert_eq!(client.option_reply(10).0, 0x8000_0009);
        client.option(8, &[]);
        assert_eq!(client.option_reply(8).0, 1);

        let mut client = rig.connect();
        client.greet();
        client.send(b"IHAVEOPT\0\0\0\x0a\xff\xff\xff\xff");
        assert_eq!(client.until_closed(), []);

        let mut client = rig.connect();
        client.greet();
        // All at once, without waiting for an answer. The server may end the connection at any point of this.
        let _ = client
            .socket
            .write_all(&b"IHAVEOPT\0\0\0\x03\0\0\0\0".repeat(100_000));
        let answers = client.until_closed();
        let each = b"\0\x03\xe8\x89\x04\x55\x65\xa9\0\0\0\x03".len() + 8;
        assert_eq!(
            answers.len(),
            128 * ((each + 4 + "disk".len() + "a disk".len()) + each)
        );
    });
}

#[test]
fn wrong_requests_end_the_connection() {
    beside_a_good_client(|rig| {
        let mut client = rig.client();
        client.send(&[0; 28]);
        assert_eq!(client.until_closed(), []);

        let mut client = rig.client();
        client.request(0, WRITE, 0, (32 << 20) + 1);
        assert_eq!(client.until_closed(), []);

        let mut client = rig.client();
        client.request(0, WRITE, 0, u32::MAX);
        assert_eq!(client.until_closed(), []);

        // The data of a write that nobody announced is not a request.
        let mut client = rig.client();
        client.request(0, 99, 0, 512);
        client.send(&[0x41; 512]);
        let answer = client.until_closed();
        assert_eq!(answer[4..8], [0, 1, 0x80, 1]);
    });
}

#[test]
fn half_a_request_and_silence_harm_nobody() {
    beside_a_good_client(|rig| {
        let mut silent: Vec<Client> = Vec::new();
        for kept in [0, 10, 27] {
            let mut client = rig.client();
            client.send(&header(0, READ, 1, 0, 512)[..kept]);
            silent.push(client);
        }
        let mut client = rig.client();
        client.request(0, WRITE, 0, 1 << 20);
        client.send(&[0x77; 1000]);
        silent.push(client);
        silent.push(rig.connect());
        assert_eq!(rig.client().read(0, 4096), [0x55; 4096]);
    });
}

#[test]
fn a_disconnection_at_any_byte_harms_nobody() {
    beside_a_good_client(|rig| {
        let mut stream = header(0, WRITE, 1, 0, 4096);
        stream.extend([0x55; 4096]);
        stream.extend(header(0, READ, 2, 0, 65536));
        for cut in (0..60).chain((60..stream.len()).step_by(499)) {
            let mut client = rig.client();
            client.send(&stream[..cut]);
        }
        let mut client = rig.client();
        client.request(0, WRITE, 0, 32 << 20);
        client.send(&vec![0x55; 10 << 20]);
        drop(client);
    });
}

#[test]
fn descriptors_sent_along_are_not_kept() {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
    use std::io::IoSlice;
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixStream;

    beside_a_good_client(|rig| {
        let mut client = rig.client();
        let (near, far) = UnixStream::pair().unwrap();
        let passed = [far.as_fd()];
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&passed)));
        let bytes = header(0, FLUSH, 77, 0, 0);
        sendmsg(
            &client.socket,
            &[IoSlice::new(&bytes)],
            &mut control,
            SendFlags::empty(),
        )
        .unwrap();
        assert_eq!(client.outcome(77), 0);
        drop(far);
        // Ours was the only one left.
        near.set_read_timeout(Some(std::time::Duration::from_secs(60)))
            .unwrap();
        assert_eq!(std::io::Read::read(&mut &near, &mut [0]).unwrap(), 0);
    });
}

/// Sends requests that ask for much until the server takes no more; returns how many were sent whole, and what is
/// left of the one that was not.
fn ask_until_full(client: &mut Client, count: u64, len: u32) -> (u64, Vec<u8>) {
    client.socket.set_nonblocking(true).unwrap();
    let mut left = Vec::new();
    for number in 0..count {
        let bytes = header(0, READ, number, 0, len);
        let mut at = 0;
        while at < bytes.len() {
            match client.socket.write(&bytes[at..]) {
                Ok(sent) => at += sent,
                Err(cause) if cause.kind() == ErrorKind::WouldBlock => {
                    left = bytes[at..].to_vec();
                    client.socket.set_nonblocking(false).unwrap();
                    return (number, left);
                }
                Err(cause) => panic!("{cause}"),
            }
        }
    }
    client.socket.set_nonblocking(false).unwrap();
    (count, left)
}

#[test]
fn a_client_that_does_not_read_is_not_read_from_and_gets_everything_later() {
    beside_a_good_client(|rig| {
        let mut client = rig.client();
        const ENOUGH: u64 = 1 << 20;
        let (sent, left) = ask_until_full(&mut client, ENOUGH, 1 << 20);
        assert!(
            sent < ENOUGH,
            "the server has read {ENOUGH} requests without being read from"
        );
        // Somebody else gets through.
        assert_eq!(rig.client().read(0, 4096), [0x55; 4096]);
        let mut writer = client.socket.try_clone().unwrap();
        let rest = thread::spawn(move || writer.write_all(&left).unwrap());
        let mut answered: Vec<u64> = (0..=sent)
            .map(|_| {
                let chunk = client.chunk();
                assert_eq!((chunk.kind, chunk.payload.len()), (1, 8 + (1 << 20)));
                assert!(chunk.payload[8..].iter().all(|byte| *byte == 0x55));
                chunk.cookie
            })
            .collect();
        rest.join().unwrap();
        answered.sort_unstable();
        assert_eq!(answered, (0..=sent).collect::<Vec<_>>());
    });
}

#[test]
fn a_client_that_never_reads_does_not_keep_the_server_from_stopping() {
    let rig = Rig::new();
    let mut client = rig.client();
    let (sent, _) = ask_until_full(&mut client, 1 << 20, 1 << 20);
    assert!(sent > 0);
    rig.stop().check();
}
