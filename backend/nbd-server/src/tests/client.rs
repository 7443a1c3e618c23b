//! A client that shares no code with the server, and can be as wrong as a test wants.

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// How long to wait for what must come. Only a test that fails waits that long.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) const READ: u16 = 0;
pub(super) const WRITE: u16 = 1;
pub(super) const DISC: u16 = 2;
pub(super) const FLUSH: u16 = 3;
pub(super) const TRIM: u16 = 4;
pub(super) const WRITE_ZEROES: u16 = 6;
pub(super) const BLOCK_STATUS: u16 = 7;

pub(super) const FUA: u16 = 1;
pub(super) const NO_HOLE: u16 = 2;
pub(super) const DF: u16 = 4;
pub(super) const REQ_ONE: u16 = 8;
pub(super) const FAST_ZERO: u16 = 16;

pub(super) struct Client {
    pub(super) socket: UnixStream,
    cookie: u64,
}

/// A chunk of a structured reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Chunk {
    pub(super) last: bool,
    pub(super) kind: u16,
    pub(super) cookie: u64,
    pub(super) payload: Vec<u8>,
}

impl Client {
    /// Connects, and takes the greeting.
    pub(super) fn connect(path: &Path) -> Self {
        let socket = UnixStream::connect(path).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket.set_write_timeout(Some(PATIENCE)).unwrap();
        Self { socket, cookie: 0 }
    }

    pub(super) fn send(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).unwrap();
    }

    pub(super) fn receive(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.socket.read_exact(&mut bytes).unwrap();
        bytes
    }

    fn u16(&mut self) -> u16 {
        u16::from_be_bytes(self.receive(2).try_into().unwrap())
    }

    fn u32(&mut self) -> u32 {
        u32::from_be_bytes(self.receive(4).try_into().unwrap())
    }

    fn u64(&mut self) -> u64 {
        u64::from_be_bytes(self.receive(8).try_into().unwrap())
    }

    /// Takes what is left until the server closes the connection, and returns it.
    #[track_caller]
    pub(super) fn until_closed(mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        match self.socket.read_to_end(&mut rest) {
            Ok(_) => rest,
            // What we sent was not read: on a unix socket that resets the connection.
            Err(cause) if cause.kind() == ErrorKind::ConnectionReset => rest,
            Err(cause) => panic!("the connection is not closed: {cause}"),
        }
    }

    pub(super) fn greet(&mut self) {
        assert_eq!(self.receive(18), b"NBDMAGICIHAVEOPT\0\x03");
        self.send(&3_u32.to_be_bytes());
    }

    pub(super) fn option(&mut self, option: u32, data: &[u8]) {
        let len = u32::try_from(data.len()).unwrap();
        let mut bytes = b"IHAVEOPT".to_vec();
        bytes.extend(option.to_be_bytes());
        bytes.extend(len.to_be_bytes());
        bytes.extend(data);
        self.send(&bytes);
    }

    /// Type and data of a reply to an option.
    pub(super) fn option_reply(&mut self, option: u32) -> (u32, Vec<u8>) {
        assert_eq!(self.u64(), 0x0003_e889_0455_65a9);
        assert_eq!(self.u32(), option);
        let kind = self.u32();
        let len = self.u32();
        (kind, self.receive(len as usize))
    }

    /// Into transmission by the old way, with simple replies; returns the transmission flags.
    pub(super) fn negotiate_simple(&mut self) -> u16 {
        self.greet();
        self.option(1, b"disk");
        assert_eq!(self.u64(), super::rig::SIZE);
        self.u16()
    }

    /// Into transmission with structured replies and both contexts.
    pub(super) fn negotiate(&mut self) {
        self.greet();
        self.option(8, &[]);
        assert_eq!(self.option_reply(8), (1, vec![]));
        let mut query = vec![0, 0, 0, 0, 0, 0, 0, 2];
        for name in ["base:allocation", "qemu:allocation-depth"] {
            query.extend(u32::try_from(name.len()).unwrap().to_be_bytes());
            query.extend(name.as_bytes());
        }
        self.option(10, &query);
        assert_eq!(self.option_reply(10).0, 4);
        assert_eq!(self.option_reply(10).0, 4);
        assert_eq!(self.option_reply(10), (1, vec![]));
        self.option(7, &[0; 6]);
        assert_eq!(self.option_reply(7).0, 3);
        assert_eq!(self.option_reply(7), (1, vec![]));
    }

    /// Sends the header of a request; returns its cookie.
    pub(super) fn request(&mut self, flags: u16, kind: u16, offset: u64, len: u32) -> u64 {
        self.cookie += 1;
        let cookie = self.cookie;
        self.send(&header(flags, kind, cookie, offset, len));
        cookie
    }

    pub(super) fn chunk(&mut self) -> Chunk {
        assert_eq!(self.u32(), 0x668e_33ef);
        let flags = self.u16();
        assert!(flags < 2);
        let kind = self.u16();
        let cookie = self.u64();
        let len = self.u32();
        Chunk {
            last: flags == 1,
            kind,
            cookie,
            payload: self.receive(len as usize),
        }
    }

    /// Cookie and error of a simple reply.
    pub(super) fn simple_reply(&mut self) -> (u64, u32) {
        assert_eq!(self.u32(), 0x6744_6698);
        let error = self.u32();
        (self.u64(), error)
    }

    /// The reply to the only request under way, which has no data: 0, or the error.
    #[track_caller]
    pub(super) fn outcome(&mut self, cookie: u64) -> u32 {
        let chunk = self.chunk();
        assert_eq!((chunk.cookie, chunk.last), (cookie, true));
        match chunk.kind {
            0 => {
                assert_eq!(chunk.payload, []);
                0
            }
            0x8001 | 0x8002 => u32::from_be_bytes(chunk.payload[..4].try_into().unwrap()),
            kind => panic!("a chunk of type {kind}"),
        }
    }

    /// Does a request that sends and is sent no data.
    #[track_caller]
    pub(super) fn command(&mut self, flags: u16, kind: u16, offset: u64, len: u32) -> u32 {
        let cookie = self.request(flags, kind, offset, len);
        self.outcome(cookie)
    }

    #[track_caller]
    pub(super) fn write(&mut self, flags: u16, offset: u64, data: &[u8]) -> u32 {
        let len = u32::try_from(data.len()).unwrap();
        let cookie = self.request(flags, WRITE, offset, len);
        self.send(data);
        self.outcome(cookie)
    }

    /// The runs of a successful read, in any form.
    #[track_caller]
    pub(super) fn read_chunks(&mut self, flags: u16, offset: u64, len: u32) -> Vec<Chunk> {
        let cookie = self.request(flags, READ, offset, len);
        let mut chunks = Vec::new();
        loop {
            let chunk = self.chunk();
            assert_eq!(chunk.cookie, cookie);
            chunks.push(chunk);
            if chunks.last().unwrap().last {
                return chunks;
            }
        }
    }

    #[track_caller]
    pub(super) fn read(&mut self, offset: u64, len: usize) -> Vec<u8> {
        let mut data = vec![0xee; len];
        let mut covered = 0;
        for chunk in self.read_chunks(0, offset, u32::try_from(len).unwrap()) {
            covered += place(&chunk, offset, &mut data);
        }
        assert_eq!(covered, len);
        data
    }

    #[track_caller]
    pub(super) fn read_simple(&mut self, offset: u64, len: u32) -> Vec<u8> {
        let cookie = self.request(0, READ, offset, len);
        assert_eq!(self.simple_reply(), (cookie, 0));
        self.receive(len as usize)
    }

    /// Lengths and statuses of each context for a range.
    #[track_caller]
    pub(super) fn status(&mut self, flags: u16, offset: u64, len: u32) -> [Vec<(u32, u32)>; 2] {
        let cookie = self.request(flags, BLOCK_STATUS, offset, len);
        [1_u32, 2].map(|context| {
            let chunk = self.chunk();
            assert_eq!(
                (chunk.cookie, chunk.kind, chunk.last),
                (cookie, 5, context == 2)
            );
            let number = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().unwrap());
            assert_eq!(number(&chunk.payload[..4]), context);
            chunk.payload[4..]
                .chunks(8)
                .map(|pair| (number(&pair[..4]), number(&pair[4..])))
                .collect()
        })
    }
}

/// Puts what a chunk of a read brings into `data`, which begins at `start` of the disk; returns how much that was.
#[track_caller]
pub(super) fn place(chunk: &Chunk, start: u64, data: &mut [u8]) -> usize {
    let at = u64::from_be_bytes(chunk.payload[..8].try_into().unwrap()) - start;
    let at = usize::try_from(at).unwrap();
    match chunk.kind {
        1 => {
            let bytes = &chunk.payload[8..];
            data[at..at + bytes.len()].copy_from_slice(bytes);
            bytes.len()
        }
        2 => {
            let len = u32::from_be_bytes(chunk.payload[8..].try_into().unwrap()) as usize;
            data[at..at + len].fill(0);
            len
        }
        kind => panic!("a chunk of type {kind:#x} in the reply to a read"),
    }
}

pub(super) fn header(flags: u16, kind: u16, cookie: u64, offset: u64, len: u32) -> Vec<u8> {
    let mut bytes = 0x2560_9513_u32.to_be_bytes().to_vec();
    bytes.extend(flags.to_be_bytes());
    bytes.extend(kind.to_be_bytes());
    bytes.extend(cookie.to_be_bytes());
    bytes.extend(offset.to_be_bytes());
    bytes.extend(len.to_be_bytes());
    bytes
}
