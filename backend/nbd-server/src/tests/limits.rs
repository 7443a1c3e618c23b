//! How much one client may have in flight.

use std::io::Write;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::time::Instant;

use blockio::buffer::{Buffer, BufferPool};
use nbd::{BlockSizes, Command, Export, Features};

use super::client::{DISC, READ, TRIM, WRITE, header};
use crate::connection::{Connection, Next, charge_of};

/// A connection in transmission, without anybody who serves it.
struct Alone {
    connection: Connection,
    client: UnixStream,
    export: Export,
    pool: BufferPool,
}

impl Alone {
    fn new() -> Self {
        let (server, client) = UnixStream::pair().unwrap();
        let sizes = BlockSizes {
            minimum: 512,
            preferred: 4096,
        };
        let features = Features {
            trim: true,
            ..Features::default()
        };
        let export = Export::new(String::new(), String::new(), 1 << 40, sizes, features).unwrap();
        let mut alone = Self {
            connection: Connection::new(server, Instant::now()),
            client,
            export,
            pool: BufferPool::new(0),
        };
        alone.connection.send().unwrap();
        alone.say(b"\0\0\0\x03IHAVEOPT\0\0\0\x01\0\0\0\0");
        assert!(alone.taken().is_empty());
        alone.connection.send().unwrap();
        alone
    }

    fn say(&mut self, bytes: &[u8]) {
        self.client.write_all(bytes).unwrap();
    }

    /// The requests that are taken now.
    fn taken(&mut self) -> Vec<(nbd::Session, nbd::Request)> {
        let mut taken = Vec::new();
        let (export, pool) = (&self.export, &self.pool);
        let mut serve = |connection: &mut Connection| {
            loop {
                match connection.next(export, pool)? {
                    Next::Wait => return Ok(()),
                    Next::Welcome => {}
                    Next::Refused(refusal) => panic!("{refusal:?}"),
                    Next::Serve(session, request, _) => taken.push((session, request)),
                }
            }
        };
        serve(&mut self.connection).unwrap();
        self.connection.receive(serve).unwrap();
        taken
    }

    fn answer(&mut self, (session, request): (nbd::Session, nbd::Request)) {
        let charge = charge_of(&request.command);
        let reply = session.done(request.cookie);
        self.connection.answer(reply, Buffer::empty(), charge);
        assert!(!self.connection.is_over());
        self.connection.send().unwrap();
    }
}

/// Sends many requests at once; so many are taken, and each answer lets in one more.
fn takes(kind: u16, len: u32, first: usize) {
    let mut alone = Alone::new();
    // Together: the socket has little room for many small pieces.
    let all: Vec<u8> = (0..2000)
        .flat_map(|number| header(0, kind, number, 0, len))
        .collect();
    alone.say(&all);
    let mut taken = alone.taken();
    assert_eq!(taken.len(), first);
    assert!(!alone.connection.interests().read);
    for _ in 0..3 {
        alone.answer(taken.pop().unwrap());
        let next = alone.taken();
        assert_eq!(next.len(), 1);
        taken.extend(next);
    }
}

#[test]
fn no_more_than_512_requests_are_taken() {
    takes(TRIM, 1 << 30, 512);
    takes(READ, 512, 512);
}

#[test]
fn no_more_than_64_mib_are_held() {
    takes(READ, 1 << 20, 64);
    takes(READ, 32 << 20, 2);
    // Buffers come in powers of two.
    takes(READ, (1 << 20) + 512, 32);
}

#[test]
fn a_write_is_counted_from_its_first_byte_on_and_forgotten_with_its_client() {
    let mut alone = Alone::new();
    for number in 0..63 {
        alone.say(&header(0, READ, number, 0, 1 << 20));
    }
    alone.say(&header(0, WRITE, 64, 0, 1 << 20));
    alone.say(&[7; 1000]);
    let taken = alone.taken();
    assert_eq!(taken.len(), 63);
    // It has all that it may have, and is received from all the same, for the rest of the write.
    assert!(alone.connection.interests().read);
    for request in taken {
        assert!(matches!(request.1.command, Command::Read { .. }));
        alone.answer(request);
    }
    alone.client.shutdown(Shutdown::Write).unwrap();
    assert!(alone.taken().is_empty());
    assert!(alone.connection.is_over());
}

#[test]
fn nothing_is_taken_after_a_goodbye() {
    let mut alone = Alone::new();
    alone.say(&header(0, READ, 1, 0, 512));
    alone.say(&header(0, DISC, 2, 0, 0));
    alone.say(&header(0, READ, 3, 0, 512));
    let taken = alone.taken();
    assert_eq!(taken.len(), 1);
    assert!(!alone.connection.interests().read && !alone.connection.is_over());
    let (session, request) = taken[0];
    let charge = charge_of(&request.command);
    let reply = session.done(request.cookie);
    alone.connection.answer(reply, Buffer::empty(), charge);
    assert!(!alone.connection.is_over());
    alone.connection.send().unwrap();
    assert!(alone.connection.is_over());
}
