//! The run state of one disk, in a file.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, SeekFrom};
use rustix::io::Errno;
use thiserror::Error;
use uuid::Uuid;

use crate::fail_point;
use crate::journal::{Journal, Left, Mismatch, Place, REQUEST_BYTES};
use crate::layout::{
    BITS_START, DEVICE_BYTES, HEAD_BYTES, MAGIC, QUEUES_MAX, VERSION, WORD_BITS_LEN, WORD_BROKEN,
    WORD_CLOSING, WORD_DEVICE, WORD_GENERATION, WORD_MAGIC, WORD_OWNER, WORD_QUEUES, WORD_SLOTS,
    WORD_USED, WORD_VERSION, journal_word, ring_word,
};
use crate::mapping::Mapping;
use crate::words::Words;

/// Bytes that bits are reserved and read in.
const PAGE: u64 = 4096;

/// Why a run state cannot be used.
#[derive(Debug, Error)]
pub enum RunStateError {
    /// The operating system said so.
    #[error("{}: cannot {action}: {cause}", path.display())]
    System {
        /// The file.
        path: PathBuf,
        /// What was tried.
        action: &'static str,
        /// Why not.
        cause: io::Error,
    },
    /// It is something else.
    #[error("{}: is not a run state", .0.display())]
    Foreign(PathBuf),
    /// Another version of the daemon has left it.
    #[error(
        "{}: was left by a cowbackd whose run state is of version {version}; this one knows version {VERSION} only",
        path.display()
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u32,
        /// Whose it is.
        identity: Identity,
    },
    /// The rings are not those that it tells of.
    #[error("{}: does not fit the ring of queue {queue}: {cause}", path.display())]
    Ring {
        /// The file.
        path: PathBuf,
        /// Which.
        queue: usize,
        /// Why.
        cause: Mismatch,
    },
    /// Not what the frontend describes now.
    #[error("{}: tells of other rings ({found}) than these ({wanted})", path.display())]
    Queues {
        /// The file.
        path: PathBuf,
        /// Rings that it tells of.
        found: usize,
        /// Rings that there are.
        wanted: usize,
    },
}

/// Whose run state it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Who the image's header says uses it.
    pub owner: Uuid,
    /// The device, as xenstore names it; at most 128 bytes.
    pub device: String,
    /// Length of the image's bitmap in bytes, with what it may grow to.
    pub bits_len: u64,
}

/// A ring, as far as a run state knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ring {
    /// The grant of its first page.
    pub reference: u32,
    /// The frontend's event channel.
    pub channel: u32,
    /// The published response producer index. All before it is answered.
    pub index: u32,
}

/// The run state of one disk.
#[derive(Debug)]
pub struct RunState {
    path: PathBuf,
    file: File,
    memory: Mapping,
    identity: Identity,
    journals: Vec<Journal>,
    /// Pages of the bits that have storage, one bit for each.
    reserved: Vec<u64>,
}

/// The file in a folder of run states for an owner.
pub fn path_of(folder: &Path, owner: Uuid) -> PathBuf {
    folder.join(owner.to_string())
}

impl RunState {
    /// Makes an empty one. It is there completely or not at all.
    ///
    /// # Errors
    /// If the file system does not allow it.
    ///
    /// # Panics
    /// If the name of the device is too long.
    pub fn create(folder: &Path, identity: Identity) -> Result<Self, RunStateError> {
        assert!(identity.device.len() <= DEVICE_BYTES, "a device's name");
        let path = path_of(folder, identity.owner);
        let temporary = path.with_extension("new");
        let made = Self::make(&temporary, &path, identity);
        if made.is_err() {
            // If there is none there is none.
            let _ = fs::remove_file(&temporary);
        }
        made
    }

    fn make(temporary: &Path, path: &Path, identity: Identity) -> Result<Self, RunStateError> {
        let failed = |action| system(temporary, action);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(temporary)
            .map_err(failed("create it"))?;
        let len = BITS_START + identity.bits_len.next_multiple_of(PAGE);
        file.set_len(len).map_err(failed("set its length"))?;
        reserve(&file, 0, PAGE).map_err(failed("reserve memory for it"))?;
        let memory = Mapping::of(&file, len).map_err(failed("map it"))?;
        write_head(&memory, &identity);
        fs::rename(temporary, path).map_err(failed("name it"))?;
        Ok(Self {
            reserved: reserved_for(identity.bits_len),
            path: path.to_owned(),
            file,
            memory,
            identity,
            journals: Vec::new(),
        })
    }

    /// Whose run state is in a file. Looks at nothing but its head.
    ///
    /// # Errors
    /// If it is not a run state, or of another version.
    pub fn identify(path: &Path) -> Result<Identity, RunStateError> {
        let file = File::open(path).map_err(system(path, "open it"))?;
        Ok(read_head(&file, path)?.0)
    }

    /// Opens what another process left.
    ///
    /// # Errors
    /// If it is not a run state, or of another version.
    pub fn open(path: &Path) -> Result<Self, RunStateError> {
        let failed = |action| system(path, action);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .map_err(failed("open it"))?;
        let (identity, len) = read_head(&file, path)?;
        let memory = Mapping::of(&file, len).map_err(failed("map it"))?;
        Ok(Self {
            path: path.to_owned(),
            file,
            memory,
            reserved: reserved_for(identity.bits_len),
            identity,
            journals: Vec::new(),
        })
    }

    /// Stores a word of the head or of the bits.
    fn store(&self, word: usize, value: u32) {
        fail_point::pass();
        self.memory.store(word, value);
    }

    /// Whose it is.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives it to another device, whose image it is now.
    ///
    /// # Panics
    /// If the name is too long.
    pub fn give_to(&mut self, device: &str) {
        self.disconnect();
        store_device(&self.memory, device);
        device.clone_into(&mut self.identity.device);
    }

    /// Begins anew with a frontend that was just connected: rings of `slots` slots each.
    ///
    /// # Errors
    /// If there is no memory for it.
    ///
    /// # Panics
    /// If a frontend cannot have such rings.
    pub fn connect(&mut self, slots: u32, rings: &[Ring]) -> Result<(), RunStateError> {
        assert!(rings.len() <= QUEUES_MAX, "{} queues", rings.len());
        self.store(WORD_USED, 1);
        self.store(WORD_QUEUES, 0);
        for queue in 0..rings.len() {
            let (start, len) = (journal_word(queue) * 4, Journal::words(slots) * 4);
            reserve(&self.file, start as u64, len as u64)
                .map_err(system(&self.path, "reserve memory for a ring"))?;
        }
        let begin = |(queue, ring): (usize, &Ring)| {
            self.store(ring_word(queue), ring.reference);
            self.store(ring_word(queue) + 1, ring.channel);
            Journal::begin(&self.memory, journal_word(queue), slots, ring.index)
        };
        self.journals = rings.iter().enumerate().map(begin).collect();
        self.store(WORD_SLOTS, slots);
        let count = u32::try_from(rings.len()).expect("at most QUEUES_MAX");
        self.store(WORD_QUEUES, count);
        Ok(())
    }

    /// Whether a frontend was connected when it was left.
    pub fn was_connected(&self) -> bool {
        self.memory.load(WORD_QUEUES) > 0
    }

    /// Whether a frontend was connected at any time since it was made.
    pub fn was_ever_connected(&self) -> bool {
        self.memory.load(WORD_USED) != 0
    }

    /// Goes on with the frontend of the process that left it, with rings of `slots` slots.
    ///
    /// # Errors
    /// If these rings are not what it tells of.
    pub fn resume(&mut self, slots: u32, rings: &[Ring]) -> Result<Vec<Left>, RunStateError> {
        let found = self.memory.load(WORD_QUEUES) as usize;
        let is_same = |(queue, ring): (usize, &Ring)| {
            let [reference, channel] = [0, 1].map(|word| self.memory.load(ring_word(queue) + word));
            ring.reference == reference && ring.channel == channel
        };
        if found != rings.len()
            || slots != self.memory.load(WORD_SLOTS)
            || !rings.iter().enumerate().all(is_same)
        {
            return Err(RunStateError::Queues {
                path: self.path.clone(),
                found,
                wanted: rings.len(),
            });
        }
        let mut lefts = Vec::new();
        let mut journals = Vec::new();
        for (queue, ring) in rings.iter().enumerate() {
            let (journal, left) =
                Journal::resume(&self.memory, journal_word(queue), slots, ring.index).map_err(
                    |cause| RunStateError::Ring {
                        path: self.path.clone(),
                        queue,
                        cause,
                    },
                )?;
            journals.push(journal);
            lefts.push(left);
        }
        self.journals = journals;
        Ok(lefts)
    }

    /// The frontend is not connected any more, and all of its requests are answered.
    pub fn disconnect(&mut self) {
        self.store(WORD_QUEUES, 0);
        self.journals.clear();
    }

    /// See [`Journal::has_room`].
    ///
    /// # Panics
    /// If there is no such queue.
    pub fn has_room(&self, queue: usize) -> bool {
        self.journals[queue].has_room()
    }

    /// See [`Journal::take`].
    ///
    /// # Panics
    /// If there is no such queue.
    pub fn take(&mut self, queue: usize, request: &[u8; REQUEST_BYTES]) -> Place {
        self.journals[queue].take(&self.memory, request)
    }

    /// See [`Journal::answer`].
    ///
    /// # Panics
    /// If there is no such queue.
    pub fn answer(&mut self, queue: usize, place: Place, response_index: u32) {
        self.journals[queue].answer(&self.memory, place, response_index);
    }

    /// See [`Journal::published`].
    ///
    /// # Panics
    /// If there is no such queue.
    pub fn published(&mut self, queue: usize) {
        self.journals[queue].published(&self.memory);
    }

    /// Notes that the blocks from `first` up to and without `end` are allocated. To be called before anybody is told.
    ///
    /// # Errors
    /// If there is no memory for it. The run state is of no use any more then, and says so.
    pub fn note_allocated(&mut self, first: u64, end: u64) -> Result<(), RunStateError> {
        let pages = first / (PAGE * 8)..=(end - 1) / (PAGE * 8);
        for page in pages {
            if let Err(cause) = self.reserve_bits(page) {
                self.note_broken();
                return Err(system(&self.path, "reserve memory for bits")(cause));
            }
        }
        let mut at = first;
        while at < end {
            let stop = end.min((at / 32 + 1) * 32);
            let mask = (u64::MAX >> (64 - (stop - at))) << (at % 32);
            let word = in_memory(BITS_START / 4 + at / 32);
            let mask = u32::try_from(mask).expect("bits of one word");
            self.store(word, self.memory.load(word) | mask);
            at = stop;
        }
        Ok(())
    }

    fn reserve_bits(&mut self, page: u64) -> io::Result<()> {
        let (word, bit) = (in_memory(page / 64), 1 << (page % 64));
        if self.reserved[word] & bit == 0 {
            reserve(&self.file, BITS_START + page * PAGE, PAGE)?;
            self.reserved[word] |= bit;
        }
        Ok(())
    }

    /// The bits that were noted: pieces of the bitmap with their positions in it.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn allocated(&self) -> Result<Vec<(u64, Vec<u8>)>, RunStateError> {
        let read = || -> io::Result<Vec<(u64, Vec<u8>)>> {
            let mut pieces = Vec::new();
            let mut at = BITS_START;
            loop {
                let start = match rustix::fs::seek(&self.file, SeekFrom::Data(at)) {
                    Ok(start) => start,
                    Err(Errno::NXIO) => return Ok(pieces),
                    Err(errno) => return Err(errno.into()),
                };
                let start = start / PAGE * PAGE;
                let mut bytes = vec![0; in_memory(PAGE)];
                self.file.read_exact_at(&mut bytes, start)?;
                pieces.push((start - BITS_START, bytes));
                at = start + PAGE;
            }
        };
        read().map_err(system(&self.path, "read the bits in it"))
    }

    /// Notes that the image is open, and its generation, which it keeps when it is closed.
    pub fn note_opened(&mut self, generation: u64) {
        store_u64(&self.memory, WORD_GENERATION, generation);
        self.store(WORD_CLOSING, 0);
    }

    /// Notes that the image is about to be closed, with everything that was noted of it.
    pub fn note_closing(&mut self) {
        self.store(WORD_CLOSING, 1);
    }

    /// The generation that the image has if the process that left this has closed it; nothing if it had not even begun to.
    pub fn closed_generation(&self) -> Option<u64> {
        let is_closing = self.memory.load(WORD_CLOSING) != 0;
        is_closing.then(|| load_u64(&self.memory, WORD_GENERATION))
    }

    /// The generation that the image had when it was opened.
    pub fn opened_generation(&self) -> u64 {
        load_u64(&self.memory, WORD_GENERATION)
    }

    /// Forgets what was allocated: all of it is in the image, which was closed.
    ///
    /// # Errors
    /// If the file system does not allow it.
    pub fn forget_allocated(&mut self) -> Result<(), RunStateError> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let len = self.identity.bits_len.next_multiple_of(PAGE);
        rustix::fs::fallocate(&self.file, flags, BITS_START, len)
            .map_err(|errno| system(&self.path, "give memory back")(errno.into()))
    }

    /// Notes that nobody can go on from this: a sync failed, or something could not be noted.
    pub fn note_broken(&mut self) {
        self.store(WORD_BROKEN, 1);
    }

    /// Whether somebody can go on from this.
    pub fn is_broken(&self) -> bool {
        self.memory.load(WORD_BROKEN) != 0
    }

    /// Removes it: everything that it tells is in the image, and no frontend is connected.
    ///
    /// # Errors
    /// If the file cannot be removed.
    pub fn remove(&self) -> Result<(), RunStateError> {
        fs::remove_file(&self.path).map_err(system(&self.path, "remove it"))
    }
}

fn write_head(memory: &Mapping, identity: &Identity) {
    let bits_len = identity.bits_len;
    store_u64(memory, WORD_BITS_LEN, bits_len);
    store_bytes(memory, WORD_OWNER, identity.owner.as_bytes());
    store_device(memory, &identity.device);
    memory.store(WORD_VERSION, VERSION);
    memory.store(WORD_MAGIC, MAGIC[0]);
    memory.store(WORD_MAGIC + 1, MAGIC[1]);
}

fn store_device(memory: &Mapping, device: &str) {
    let mut bytes = [0; DEVICE_BYTES];
    bytes[..device.len()].copy_from_slice(device.as_bytes());
    store_bytes(memory, WORD_DEVICE, &bytes);
}

/// Whose a run state is, and how long its file. Read and not mapped: a file without storage, on a file system that is full,
/// would kill who touches it.
fn read_head(file: &File, path: &Path) -> Result<(Identity, u64), RunStateError> {
    let foreign = || RunStateError::Foreign(path.to_owned());
    let len = file
        .metadata()
        .map_err(system(path, "ask for its length"))?
        .len();
    let mut head = [0; HEAD_BYTES];
    match file.read_exact_at(&mut head, 0) {
        Err(cause) if cause.kind() == io::ErrorKind::UnexpectedEof => return Err(foreign()),
        read => read.map_err(system(path, "read it"))?,
    }
    let word = |index: usize| {
        let bytes = &head[index * 4..index * 4 + 4];
        u32::from_ne_bytes(bytes.try_into().expect("four bytes"))
    };
    if [word(WORD_MAGIC), word(WORD_MAGIC + 1)] != MAGIC {
        return Err(foreign());
    }
    let owner = &head[WORD_OWNER * 4..WORD_OWNER * 4 + 16];
    let device = &head[WORD_DEVICE * 4..WORD_DEVICE * 4 + DEVICE_BYTES];
    let device_len = device.iter().position(|byte| *byte == 0);
    let identity = Identity {
        owner: Uuid::from_slice(owner).expect("sixteen bytes"),
        device: String::from_utf8_lossy(&device[..device_len.unwrap_or(DEVICE_BYTES)]).into_owned(),
        bits_len: u64::from(word(WORD_BITS_LEN)) | u64::from(word(WORD_BITS_LEN + 1)) << 32,
    };
    let version = word(WORD_VERSION);
    if version != VERSION {
        return Err(RunStateError::Version {
            path: path.to_owned(),
            version,
            identity,
        });
    }
    let expected = identity.bits_len.checked_next_multiple_of(PAGE);
    if expected.and_then(|bits| bits.checked_add(BITS_START)) != Some(len) {
        return Err(foreign());
    }
    Ok((identity, len))
}

fn store_u64(memory: &Mapping, word: usize, value: u64) {
    store_bytes(memory, word, &value.to_ne_bytes());
}

fn load_u64(memory: &Mapping, word: usize) -> u64 {
    u64::from_ne_bytes(load_bytes(memory, word))
}

fn store_bytes(memory: &Mapping, word: usize, bytes: &[u8]) {
    for (i, four) in bytes.chunks_exact(4).enumerate() {
        let value = u32::from_ne_bytes(four.try_into().expect("four bytes"));
        memory.store(word + i, value);
    }
}

fn load_bytes<const N: usize>(memory: &Mapping, word: usize) -> [u8; N] {
    let mut bytes = [0; N];
    for (i, four) in bytes.chunks_exact_mut(4).enumerate() {
        four.copy_from_slice(&memory.load(word + i).to_ne_bytes());
    }
    bytes
}

/// Gives a range of the file storage: memory that is touched without any on a full file system kills the process.
fn reserve(file: &File, start: u64, len: u64) -> io::Result<()> {
    Ok(rustix::fs::fallocate(
        file,
        FallocateFlags::KEEP_SIZE,
        start,
        len,
    )?)
}

fn reserved_for(bits_len: u64) -> Vec<u64> {
    vec![0; in_memory(bits_len.div_ceil(PAGE).div_ceil(64))]
}

fn system(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> RunStateError {
    let path = path.to_owned();
    move |cause| RunStateError::System {
        path,
        action,
        cause,
    }
}

fn in_memory(value: u64) -> usize {
    usize::try_from(value).expect("64-bit hosts")
}

#[cfg(test)]
mod tests;
