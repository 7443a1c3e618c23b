//! Fills, reservations and giving back, on real files, with operations in any order and some that find no room.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::io;
use std::os::fd::BorrowedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::super::changes::Changes;
use super::*;
use crate::space::{Method, Space};

const BLOCK: u64 = 4096;
const DISK_BLOCKS: u64 = 64;
const STRIDE_BYTES: u64 = 16 << 10;

/// Chooses what happens next.
struct Choices {
    numbers: Vec<u16>,
    next: usize,
}

impl Choices {
    fn below(&mut self, end: usize) -> usize {
        let number = self.numbers[self.next % self.numbers.len()];
        self.next += 1;
        usize::from(number) % end
    }
}

/// A real executor that gets the operations one at a time, in an order that is chosen. A write of more than two blocks
/// may find no room, and so may any while `full` is set and nothing was given back.
struct Reordering {
    inner: Box<dyn Executor>,
    choices: Rc<RefCell<Choices>>,
    waiting: Vec<(u64, Op)>,
    full: Rc<RefCell<bool>>,
    /// Where the image's data begins. What lies before it has its room.
    data_offset: u64,
}

fn no_space(key: u64) -> Event {
    let result = Err(IoError::Failed {
        action: crate::executor::Action::Write,
        path: PathBuf::from("image"),
        offset: 0,
        len: 0,
        errno: Errno::ENOSPC.0,
    });
    Event::Done { key, result }
}

impl Executor for Reordering {
    fn name(&self) -> &'static str {
        "reordering"
    }

    fn register(&mut self, file: Arc<BlockFile>) -> FileSlot {
        self.inner.register(file)
    }

    fn unregister(&mut self, slot: FileSlot) {
        self.inner.unregister(slot);
    }

    fn submit(&mut self, key: u64, op: Op) {
        self.waiting.push((key, op));
    }

    fn watch(&mut self, _: u64, _: BorrowedFd<'_>) -> io::Result<()> {
        unreachable!("a disk watches nothing")
    }

    fn watch_writable(&mut self, _: u64, _: BorrowedFd<'_>) -> io::Result<()> {
        unreachable!("a disk watches nothing")
    }

    fn unwatch(&mut self, _: u64) {}

    fn poll(&mut self, _: &mut Vec<Event>) -> io::Result<()> {
        unreachable!("the tests wait")
    }

    fn wait(&mut self, timeout: Option<Duration>, events: &mut Vec<Event>) -> io::Result<()> {
        let chosen = self.choices.borrow_mut().below(self.waiting.len());
        let (key, op) = self.waiting.swap_remove(chosen);
        let mut full = self.full.borrow_mut();
        match &op {
            Op::Write { buffer, offset, .. } if *full && *offset >= self.data_offset => {
                let is_large = buffer.len() as u64 > 2 * BLOCK;
                if is_large || self.choices.borrow_mut().below(2) == 0 {
                    events.push(no_space(key));
                    return Ok(());
                }
            }
            Op::ZeroRange { .. } => *full = false,
            _ => {}
        }
        self.inner.submit(key, op);
        self.inner.wait(timeout, events)
    }

    fn in_flight(&self) -> usize {
        self.waiting.len() + self.inner.in_flight()
    }
}

#[derive(Clone, Copy, Debug)]
enum Deed {
    /// Blocks from the first on.
    Write {
        block: u64,
        count: u64,
    },
    /// Half a block, so that it is copied up.
    WriteHalf {
        block: u64,
    },
    Discard {
        block: u64,
        count: u64,
    },
    Flush,
    /// Let so many operations happen.
    Progress {
        operations: usize,
    },
    /// From now on there is no room.
    FillUp,
}

#[derive(Clone, Debug)]
struct Case {
    method: Method,
    deeds: Vec<Deed>,
    numbers: Vec<u16>,
    dies: bool,
}

/// What may be found in a half of a block: `durable` or anything later.
#[derive(Clone, Debug, Default)]
struct History {
    /// The values it had, the present one last; each with the request that wrote it.
    values: Vec<(u8, Token)>,
    /// The place in `values` of the one that a finished flush covers.
    durable: usize,
}

struct Rig {
    executor: Reordering,
    disk: Disk,
    /// Of each half of each block. The first value is the base's.
    history: Vec<History>,
    /// Requests under way, with the halves of blocks that they change.
    under_way: BTreeMap<Token, Vec<usize>>,
    /// Flushes under way, with what they cover.
    flushes: BTreeMap<Token, Vec<usize>>,
    next: u64,
}

const BASE: u8 = 0x55;

impl Rig {
    fn new(path: &Path, case: &Case) -> Self {
        let choices = Choices {
            numbers: case.numbers.clone(),
            next: 0,
        };
        let image = Image::open(path, ImageAccess::Writable).unwrap();
        let mut executor = Reordering {
            data_offset: image.header().layout.data_offset().0,
            inner: Box::new(PoolExecutor::new(1).unwrap()),
            choices: Rc::new(RefCell::new(choices)),
            waiting: Vec::new(),
            full: Rc::default(),
        };
        let (engine, files) = image.into_engine(OnNoSpace::Report);
        let options = DiskOptions::default();
        let mut disk = Disk::new(DiskNumber(7), engine, files, options, &mut executor);
        // Whatever file system the test runs on.
        disk.changes = Changes::new(Space::new(case.method, STRIDE_BYTES, BLOCK));
        disk.open(&mut executor, OPEN);
        let halves = usize::try_from(DISK_BLOCKS * 2).unwrap();
        let history = History {
            values: vec![(BASE, OPEN)],
            durable: 0,
        };
        let mut rig = Self {
            executor,
            disk,
            history: vec![history; halves],
            under_way: BTreeMap::new(),
            flushes: BTreeMap::new(),
            next: 1,
        };
        rig.settle();
        while rig.executor.in_flight() > 0 {
            rig.progress();
        }
        rig
    }

    fn deed(&mut self, deed: Deed) {
        let token = Token(self.next);
        self.next += 1;
        let value = u8::try_from(self.next % 200).unwrap() + 1;
        let whole = |block: u64, count: u64| {
            let end = (block + count).min(DISK_BLOCKS);
            DiskRange::new(block * BLOCK, (end - block) * BLOCK)
        };
        match deed {
            Deed::Write { block, count } => self.write(token, whole(block, count), value),
            Deed::WriteHalf { block } => {
                let range = DiskRange::new(block * BLOCK + BLOCK / 2, BLOCK / 2);
                self.write(token, range, value);
            }
            Deed::Discard { block, count } => {
                let range = whole(block, count);
                if self.begin(token, range, 0) {
                    let request = Request::Discard(range);
                    self.submit(token, request, Buffer::empty());
                }
            }
            Deed::Flush => {
                // What is under way may be covered, and what is done is.
                let settled = |(half, history): (usize, &History)| {
                    let last = history.values.len() - 1;
                    let changing = self.under_way.values().any(|halves| halves.contains(&half));
                    if changing { last - 1 } else { last }
                };
                let covered = self.history.iter().enumerate().map(settled).collect();
                self.flushes.insert(token, covered);
                self.submit(token, Request::Flush, Buffer::empty());
            }
            Deed::Progress { operations } => (0..operations).for_each(|_| self.progress()),
            Deed::FillUp => *self.executor.full.borrow_mut() = true,
        }
        self.settle();
    }

    fn write(&mut self, token: Token, range: DiskRange, value: u8) {
        if self.begin(token, range, value) {
            let mut buffer = AlignedBuf::zeroed(in_memory(range.len));
            buffer.as_mut_slice().fill(value);
            self.submit(token, Request::Write(range), buffer.into_buffer());
        }
    }

    /// Notes a change, unless one is under way there: the order of both would be anybody's guess.
    fn begin(&mut self, token: Token, range: DiskRange, value: u8) -> bool {
        let half = |at: u64| in_memory(at / (BLOCK / 2));
        let halves: Vec<usize> = (half(range.start.0)..half(range.end())).collect();
        let taken =
            |halves_of_other: &Vec<usize>| halves.iter().any(|h| halves_of_other.contains(h));
        if self.under_way.values().any(taken) {
            return false;
        }
        for half in &halves {
            self.history[*half].values.push((value, token));
        }
        self.under_way.insert(token, halves);
        true
    }

    fn submit(&mut self, token: Token, request: Request, buffer: Buffer) {
        self.disk.submit(&mut self.executor, token, request, buffer);
    }

    fn progress(&mut self) {
        if self.executor.in_flight() == 0 {
            return;
        }
        let mut events = Vec::new();
        self.executor.wait(None, &mut events).unwrap();
        for event in events {
            let Event::Done { key, result } = event else {
                panic!("{event:?}")
            };
            let (_, op) = DiskNumber::of_key(key);
            self.disk.complete(&mut self.executor, op, result);
        }
        self.settle();
    }

    fn settle(&mut self) {
        for Finished { token, result, .. } in self.disk.take_finished() {
            if let Some(halves) = self.under_way.remove(&token) {
                match result {
                    Ok(()) => {}
                    // What a write that failed has left is one or the other, and the next one settles it.
                    Err(errno) => {
                        assert_eq!(errno, Errno::ENOSPC);
                        halves.into_iter().for_each(|half| self.doubt(half));
                    }
                }
            } else if let Some(covered) = self.flushes.remove(&token)
                && result.is_ok()
            {
                for (history, place) in self.history.iter_mut().zip(covered) {
                    history.durable = history.durable.max(place);
                }
            }
        }
    }

    /// The last change may or may not have happened: the value before it counts again.
    fn doubt(&mut self, half: usize) {
        let values = &mut self.history[half].values;
        let before = values[values.len() - 2];
        values.push(before);
    }

    fn finish(&mut self) {
        while self.executor.in_flight() > 0 {
            self.progress();
        }
        assert!(self.under_way.is_empty() && self.flushes.is_empty());
    }
}

/// What the image at `path` holds, half a block at a time.
fn content(path: &Path) -> Vec<Vec<u8>> {
    let mut bench = Bench::open(path, Box::new(PoolExecutor::new(1).unwrap()));
    let bytes = bench.read(0, in_memory(DISK_BLOCKS * BLOCK));
    bench.close();
    bytes
        .chunks(in_memory(BLOCK / 2))
        .map(<[u8]>::to_vec)
        .collect()
}

fn run(case: &Case) {
    let folder = TempDir::new().unwrap();
    let base = folder.path().join("base");
    fs::write(&base, vec![BASE; in_memory(DISK_BLOCKS * BLOCK)]).unwrap();
    let path = folder.path().join("image");
    let options = CreateOptions {
        base: Some(base),
        ..CreateOptions::default()
    };
    create(&path, &options).unwrap();
    let mut rig = Rig::new(&path, case);
    for deed in &case.deeds {
        rig.deed(*deed);
    }
    if case.dies {
        // What was not begun never happens.
        rig.executor.waiting.clear();
    } else {
        rig.finish();
        *rig.executor.full.borrow_mut() = false;
        rig.disk.close(&mut rig.executor, CLOSE);
        rig.finish();
    }
    let history = std::mem::take(&mut rig.history);
    drop(rig);

    for (half, (bytes, history)) in content(&path).iter().zip(&history).enumerate() {
        let from = if case.dies {
            history.durable
        } else {
            history.values.len() - 1
        };
        let failed = history.values.windows(3).any(|w| w[0] == w[2]);
        let from = if failed { 0 } else { from };
        let allowed = history.values[from..].iter();
        assert!(
            allowed
                .clone()
                .any(|(value, _)| bytes.iter().all(|byte| byte == value)),
            "half {half} has {} and may have {allowed:?}",
            bytes[0],
        );
    }
    if !case.dies {
        let image = Image::open(&path, ImageAccess::ReadOnly).unwrap();
        let used = image.bitmap().count_set() * BLOCK;
        let taken = image.file().allocated_bytes().unwrap();
        // Headers, a page of the bitmap, and what the file system keeps about the file.
        let most = used + (64 << 10);
        assert!(taken <= most, "{taken} bytes are taken for {used}");
    }
}

fn cases() -> impl Strategy<Value = Case> {
    let place = || (0..DISK_BLOCKS, 1..6u64);
    let deed = prop_oneof![
        8 => (0..DISK_BLOCKS).prop_map(|block| Deed::Write { block, count: 1 }),
        2 => place().prop_map(|(block, count)| Deed::Write { block, count }),
        2 => (0..DISK_BLOCKS).prop_map(|block| Deed::WriteHalf { block }),
        1 => place().prop_map(|(block, count)| Deed::Discard { block, count }),
        2 => Just(Deed::Flush),
        6 => (1..8usize).prop_map(|operations| Deed::Progress { operations }),
        1 => Just(Deed::FillUp),
    ];
    let method = prop_oneof![
        4 => Just(Method::Fill),
        1 => Just(Method::Reserve),
        1 => Just(Method::Leave),
    ];
    (
        method,
        proptest::collection::vec(deed, 1..100),
        proptest::collection::vec(any::<u16>(), 1..64),
        any::<bool>(),
    )
        .prop_map(|(method, deeds, numbers, dies)| Case {
            method,
            deeds,
            numbers,
            dies,
        })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn larger_writes_and_giving_back_change_nothing_that_is_read(case in cases()) {
        run(&case);
    }
}

/// There is no room any more while a write that was made larger is under way: what was taken around it is given back
/// later.
#[test]
fn a_loan_that_cannot_be_given_back_yet_is_not_forgotten() {
    let w = |block| Deed::Write { block, count: 1 };
    let case = Case {
        method: Method::Fill,
        deeds: vec![
            w(19),
            w(20),
            Deed::Flush,
            Deed::Progress { operations: 2 },
            Deed::Discard {
                block: 24,
                count: 3,
            },
            w(1),
            w(12),
            Deed::Progress { operations: 4 },
            w(12),
            w(14),
            Deed::Progress { operations: 2 },
            w(28),
            Deed::WriteHalf { block: 12 },
            Deed::Flush,
            w(59),
            w(16),
            Deed::FillUp,
            w(8),
            w(5),
            w(13),
            w(32),
        ],
        numbers: vec![
            0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 60946, 47582, 10122,
        ],
        dies: false,
    };
    for _ in 0..20 {
        run(&case);
    }
}
