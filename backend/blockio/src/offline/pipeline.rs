//! Reads ranges of one or two disks, looks at them, and writes what is to be written, several ranges at a time.

use dscow::engine::Token;
use dscow::units::DiskRange;

use super::session::{Member, Session};
use crate::buffer::{AlignedBuf, Buffer};
use crate::image::ImageError;

/// Most bytes in one range: large enough for the speed of a disk, small enough to have several in memory.
pub(super) const CHUNK: u64 = 1 << 20;

/// Most bytes that one request makes zeros.
const ZEROS_CHUNK: u64 = 64 << 20;

/// Ranges under way at the same time.
const DEPTH: usize = 8;

/// What to write, of what was read from the first disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Put {
    /// These bytes.
    Data(DiskRange),
    /// Zeros, whatever was read.
    Zeros(DiskRange),
}

/// A range to work on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Piece {
    /// To be read and looked at.
    Read(DiskRange),
    /// To be made zeros, without reading.
    Zeros(DiskRange),
}

/// From where to where.
pub(super) struct Route {
    /// What is read.
    pub(super) from: Member,
    /// What is read with it, to be compared; no disk has zeros everywhere.
    pub(super) beside: Option<Member>,
    /// What is written, if anything is.
    pub(super) to: Option<Member>,
}

/// What was read of a range, from the one disk and from the other.
pub(super) struct Seen<'a> {
    pub(super) range: DiskRange,
    pub(super) bytes: &'a [u8],
    /// Zeros if nothing is read beside.
    pub(super) beside: &'a [u8],
}

/// Carries all pieces through, in chunks of at most `chunk` bytes, and waits for their end. `look` says for each, in any
/// order, what to write; `done` hears of each how many bytes it had.
///
/// # Errors
/// The first failure, after what was under way has ended.
pub(super) fn carry(
    session: &mut Session,
    route: &Route,
    chunk: u64,
    pieces: impl IntoIterator<Item = Piece>,
    look: &mut dyn FnMut(Seen<'_>) -> Vec<Put>,
    done: &mut dyn FnMut(u64),
) -> Result<(), ImageError> {
    let mut chunks = pieces.into_iter().flat_map(|piece| split(piece, chunk));
    let mut pipeline = Pipeline::new(session, route, chunk);
    loop {
        while pipeline.failure.is_none()
            && let Some(place) = pipeline.vacant()
            && let Some(piece) = chunks.next()
        {
            pipeline.start(place, piece);
        }
        if pipeline.advance(look, done) {
            continue;
        }
        if pipeline.is_empty() {
            return pipeline.failure.map_or(Ok(()), Err);
        }
        pipeline.wait()?;
    }
}

struct Pipeline<'a> {
    session: &'a mut Session,
    route: &'a Route,
    jobs: [Option<Job>; DEPTH],
    /// For each job what is read, and what is read beside it.
    buffers: Vec<[Buffer; 2]>,
    scratch: [Vec<u8>; 2],
    failure: Option<ImageError>,
}

struct Job {
    piece: Piece,
    /// Requests that have not ended.
    pending: usize,
    /// Nothing more is to be begun: it writes, or has failed.
    last: bool,
}

impl<'a> Pipeline<'a> {
    fn new(session: &'a mut Session, route: &'a Route, chunk: u64) -> Self {
        let chunk = usize::try_from(chunk).expect("a chunk fits into memory");
        let buffer = || AlignedBuf::zeroed(chunk).into_buffer();
        Self {
            session,
            route,
            jobs: [const { None }; DEPTH],
            // Memory that is not touched costs nothing.
            buffers: (0..DEPTH).map(|_| [buffer(), buffer()]).collect(),
            scratch: [vec![0; chunk], vec![0; chunk]],
            failure: None,
        }
    }

    fn vacant(&self) -> Option<usize> {
        self.jobs.iter().position(Option::is_none)
    }

    fn is_empty(&self) -> bool {
        self.jobs.iter().all(Option::is_none)
    }

    fn start(&mut self, place: usize, piece: Piece) {
        let mut pending = 0;
        if let Piece::Read(range) = piece {
            let [buffer, beside] = &self.buffers[place];
            pending +=
                usize::from(
                    self.session
                        .read(self.route.from, token(place, 0), range, buffer),
                );
            if let Some(member) = self.route.beside {
                let reads = self.session.read(member, token(place, 1), range, beside);
                pending += usize::from(reads);
            }
        }
        self.jobs[place] = Some(Job {
            piece,
            pending,
            last: false,
        });
    }

    /// Moves on every job that waits for nothing; tells whether there was one.
    fn advance(
        &mut self,
        look: &mut dyn FnMut(Seen<'_>) -> Vec<Put>,
        done: &mut dyn FnMut(u64),
    ) -> bool {
        let mut any = false;
        for place in 0..DEPTH {
            let Some(job) = self.jobs[place].take_if(|job| job.pending == 0) else {
                continue;
            };
            any = true;
            if job.last {
                done(job.piece.range().len);
                continue;
            }
            let puts = match job.piece {
                Piece::Zeros(range) => vec![Put::Zeros(range)],
                Piece::Read(range) => look(self.seen(place, range)),
            };
            let pending = self.put(place, job.piece.range(), &puts);
            self.jobs[place] = Some(Job {
                pending,
                last: true,
                ..job
            });
        }
        any
    }

    /// Copies out what was read, since nothing may refer to memory that the kernel writes.
    fn seen(&mut self, place: usize, range: DiskRange) -> Seen<'_> {
        let len = in_memory(range.len);
        let [buffer, buffer_beside] = &self.buffers[place];
        let [bytes, beside] = &mut self.scratch;
        buffer.copy_to_slice(0, &mut bytes[..len]);
        // Zeros, if nothing is ever copied there.
        if self.route.beside.is_some() {
            buffer_beside.copy_to_slice(0, &mut beside[..len]);
        }
        Seen {
            range,
            bytes: &bytes[..len],
            beside: &beside[..len],
        }
    }

    /// Starts the writes; returns how many there are.
    fn put(&mut self, place: usize, whole: DiskRange, puts: &[Put]) -> usize {
        let Some(to) = self.route.to else {
            return 0;
        };
        for (i, put) in puts.iter().enumerate() {
            let token = token(place, i);
            match *put {
                Put::Zeros(range) => self.session.zero(to, token, range),
                Put::Data(range) => {
                    let offset = in_memory(range.start.0 - whole.start.0);
                    let bytes = self.buffers[place][0].slice(offset, in_memory(range.len));
                    self.session.write(to, token, range, &bytes);
                }
            }
        }
        puts.len()
    }

    fn wait(&mut self) -> Result<(), ImageError> {
        for ended in self.session.wait()? {
            let job = self.jobs[place_of(ended.token)].as_mut();
            let job = job.expect("what has ended was under way");
            job.pending -= 1;
            if let Err(error) = ended.result {
                job.last = true;
                self.failure.get_or_insert(error);
            }
        }
        Ok(())
    }
}

/// Bits of a token that number the requests of one job; a chunk has fewer sectors.
const REQUEST_BITS: u32 = 16;

fn token(place: usize, request: usize) -> Token {
    Token((place as u64) << REQUEST_BITS | request as u64)
}

fn place_of(token: Token) -> usize {
    usize::try_from(token.0 >> REQUEST_BITS).expect("there are few jobs")
}

fn in_memory(len: u64) -> usize {
    usize::try_from(len).expect("a chunk fits into memory")
}

impl Put {
    pub(super) fn range(self) -> DiskRange {
        match self {
            Self::Data(range) | Self::Zeros(range) => range,
        }
    }
}

impl Piece {
    pub(super) fn range(self) -> DiskRange {
        match self {
            Self::Read(range) | Self::Zeros(range) => range,
        }
    }
}

fn split(piece: Piece, chunk: u64) -> impl Iterator<Item = Piece> {
    let (range, chunk, make): (_, _, fn(DiskRange) -> Piece) = match piece {
        Piece::Read(range) => (range, chunk, Piece::Read),
        Piece::Zeros(range) => (range, ZEROS_CHUNK, Piece::Zeros),
    };
    let mut at = range.start.0;
    std::iter::from_fn(move || {
        // Ends on multiples of the chunk, so that all but the first begin on one.
        let until = (at / chunk + 1).saturating_mul(chunk).min(range.end());
        (at < range.end()).then(|| {
            let part = make(DiskRange::new(at, until - at));
            at = until;
            part
        })
    })
}
