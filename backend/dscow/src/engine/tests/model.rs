//! The engine against a plain model, with random chains, block sizes, partial writes and completions in
//! any order.
//!
//! Every write stamps each of its sectors with a number of its own. A read may return, for each sector,
//! the stamp of any write that was under way while the read was, or the last one finished before it
//! began; nothing else. The disk's content after everything is done obeys the same rule.

use proptest::prelude::*;

use super::super::{Options, Request, Token};
use super::driver::{Below, Driver, OPEN};
use crate::units::DiskRange;

const SECTOR: u64 = 512;

#[derive(Clone, Debug)]
enum Step {
    Write {
        sector: u64,
        sectors: u64,
    },
    Barrier {
        sector: u64,
        sectors: u64,
    },
    /// A write in which the whole blocks of these thirds of it are zeros and known to be.
    SparseWrite {
        sector: u64,
        sectors: u64,
        thirds: [bool; 3],
    },
    Zeros {
        sector: u64,
        sectors: u64,
    },
    Discard {
        sector: u64,
        sectors: u64,
    },
    Read {
        sector: u64,
        sectors: u64,
    },
    Flush,
    /// Complete one of the waiting actions, chosen by this number.
    Complete(usize),
}

#[derive(Clone, Debug)]
enum BelowSpec {
    Raw {
        sectors: u64,
    },
    Dscow {
        shift: u32,
        sectors: u64,
        allocated: Vec<bool>,
    },
}

#[derive(Clone, Debug)]
struct Case {
    shift: u32,
    io_alignment: u32,
    sectors: u64,
    below: Vec<BelowSpec>,
    steps: Vec<Step>,
    /// The driver uses every freedom that it has with what holds nothing.
    scribbles: bool,
}

/// A write as the model remembers it; times count steps.
struct Write {
    stamp: u64,
    sector: u64,
    sectors: u64,
    /// It puts zeros there.
    zero: bool,
    begin: usize,
    end: Option<usize>,
}

struct Model {
    disk: Driver,
    initial: Vec<u8>,
    writes: Vec<Write>,
    reads: Vec<(u64, u64, u64, usize)>,
    now: usize,
    next_token: u64,
}

impl Model {
    fn new(case: &Case) -> Self {
        let below = || case.below.iter().enumerate().map(build_below).collect();
        let initial = initial_content(case);
        let mut disk = Driver::new_with(
            case.sectors * SECTOR,
            1 << case.shift,
            below(),
            options(case),
        );
        disk.scribbles = case.scribbles;
        Self {
            disk,
            initial,
            writes: Vec::new(),
            reads: Vec::new(),
            now: 0,
            next_token: 1,
        }
    }

    fn step(&mut self, step: &Step) {
        self.now += 1;
        let token = self.next_token;
        self.next_token += 1;
        match *step {
            Step::Write { sector, sectors } => {
                let data = stamped(token, sector, sectors);
                self.note(token, sector, sectors, false);
                self.disk.submit_write(token, sector * SECTOR, &data);
            }
            Step::Barrier { sector, sectors } => {
                let data = stamped(token, sector, sectors);
                self.note(token, sector, sectors, false);
                self.disk.submit_barrier(token, sector * SECTOR, &data);
            }
            Step::SparseWrite {
                sector,
                sectors,
                thirds,
            } => self.sparse_write(token, sector, sectors, thirds),
            Step::Zeros { sector, sectors } => {
                self.note(token, sector, sectors, true);
                let range = DiskRange::new(sector * SECTOR, sectors * SECTOR);
                self.disk.submit(token, Request::WriteZeroes(range));
            }
            Step::Discard { sector, sectors } => {
                let (first, end) = self.whole_blocks(sector, sector + sectors);
                self.note(token, first, end.saturating_sub(first), true);
                let range = DiskRange::new(sector * SECTOR, sectors * SECTOR);
                self.disk.submit(token, Request::Discard(range));
            }
            Step::Read { sector, sectors } => {
                self.reads.push((token, sector, sectors, self.now));
                let len = usize::try_from(sectors * SECTOR).unwrap();
                self.disk.submit_read(token, sector * SECTOR, len);
            }
            Step::Flush => self.disk.submit_flush(token),
            Step::Complete(choice) => {
                if !self.disk.waiting.is_empty() {
                    let index = choice % self.disk.waiting.len();
                    self.disk.complete(index, Ok(()));
                }
            }
        }
        self.settle();
    }

    fn note(&mut self, stamp: u64, sector: u64, sectors: u64, zero: bool) {
        self.writes.push(Write {
            stamp,
            sector,
            sectors,
            zero,
            begin: self.now,
            end: None,
        });
    }

    /// The sectors of the whole blocks in `first..end`; none if the start is not before the end.
    fn whole_blocks(&self, first: u64, end: u64) -> (u64, u64) {
        let layout = self.disk.engine.layout();
        let block = layout.block_size().bytes() / SECTOR;
        let end = match end {
            end if end * SECTOR == layout.virtual_size() => end,
            end => end - end % block,
        };
        (first.next_multiple_of(block), end)
    }

    fn sparse_write(&mut self, token: u64, sector: u64, sectors: u64, thirds: [bool; 3]) {
        let mut data = stamped(token, sector, sectors);
        let mut zeros = Vec::new();
        let mut at = sector;
        for (i, zero) in (1..).zip(thirds) {
            let to = sector + sectors * i / 3;
            let (first, end) = self.whole_blocks(at, to);
            if zero && first < end {
                let byte = |s: u64| usize::try_from((s - sector) * SECTOR).unwrap();
                data[byte(first)..byte(end)].fill(0);
                zeros.push((first, end));
            }
            at = to;
        }
        let mut at = sector;
        for (first, end) in &zeros {
            self.note(token, at, first - at, false);
            self.note(token, *first, end - first, true);
            at = *end;
        }
        self.note(token, at, sector + sectors - at, false);
        let zeros: Vec<_> = zeros
            .iter()
            .map(|(first, end)| (first * SECTOR, (end - first) * SECTOR))
            .collect();
        self.disk
            .submit_sparse_write(token, sector * SECTOR, &data, &zeros);
    }

    /// Notes which requests finished in this step, and checks the reads among them.
    fn settle(&mut self) {
        let waiting = self.writes.iter().filter(|w| w.end.is_none());
        let stamps: std::collections::BTreeSet<u64> = waiting.map(|w| w.stamp).collect();
        for stamp in stamps {
            if let Some(result) = self.disk.take_result(Token(stamp)) {
                assert_eq!(result, Ok(()));
                let parts = self.writes.iter_mut().filter(|w| w.stamp == stamp);
                parts.for_each(|part| part.end = Some(self.now));
            }
        }
        let mut reads = std::mem::take(&mut self.reads);
        reads.retain(|&(token, sector, _, begin)| {
            let Some(result) = self.disk.take_result(Token(token)) else {
                return true;
            };
            assert_eq!(result, Ok(()));
            self.check(self.disk.buffer(token), sector, begin);
            false
        });
        self.reads = reads;
    }

    fn check(&self, content: &[u8], first_sector: u64, begin: usize) {
        for (i, bytes) in content.chunks(512).enumerate() {
            let sector = first_sector + i as u64;
            let allowed = self.allowed(sector, begin);
            assert!(
                allowed.iter().any(|expected| expected == bytes),
                "sector {sector}: none of {} allowed contents; it begins {:?}",
                allowed.len(),
                &bytes[..16]
            );
        }
    }

    /// What a read of `sector` that ends now and began at `begin` may return.
    fn allowed(&self, sector: u64, begin: usize) -> Vec<Vec<u8>> {
        let touching: Vec<&Write> = self
            .writes
            .iter()
            .filter(|w| (w.sector..w.sector + w.sectors).contains(&sector))
            .collect();
        let superseded = |end: usize| {
            touching
                .iter()
                .any(|w| w.begin > end && w.end.is_some_and(|e| e < begin))
        };
        let mut allowed = Vec::new();
        if !superseded(0) {
            let at = usize::try_from(sector * SECTOR).unwrap();
            allowed.push(self.initial[at..at + 512].to_vec());
        }
        for write in &touching {
            if !write.end.is_some_and(superseded) {
                allowed.push(match write.zero {
                    true => vec![0; 512],
                    false => stamped(write.stamp, sector, 1),
                });
            }
        }
        allowed
    }

    fn finish(mut self, case: &Case) {
        self.now += 1;
        self.disk.run();
        self.settle();
        assert!(self.writes.iter().all(|w| w.end.is_some()));
        assert!(self.reads.is_empty());
        assert!(self.disk.engine.is_idle());
        assert_eq!(self.disk.bounces_in_use(), 0);
        self.now += 1;
        let begin = self.now;
        let len = self.initial.len();
        let content = self.disk.read(0, len);
        self.check(&content, 0, begin);
        self.disk.engine.close(Token(0));
        self.disk.run();
        let below = case.below.iter().enumerate().map(build_below).collect();
        let file = self.disk.files.swap_remove(0);
        let mut reopened = Driver::reopen_with(file, below, options(case));
        reopened.engine.open(OPEN);
        reopened.run();
        assert_eq!(reopened.read(0, len), content);
    }
}

fn options(case: &Case) -> Options {
    Options {
        io_alignment: case.io_alignment,
        ..Options::default()
    }
}

/// `sectors` sectors, each filled with the stamp and its own number.
fn stamped(stamp: u64, sector: u64, sectors: u64) -> Vec<u8> {
    (sector..sector + sectors)
        .flat_map(|s| {
            let word = (stamp << 32 | s).to_le_bytes();
            word.repeat(64)
        })
        .collect()
}

fn layer_fill(index: usize) -> u8 {
    0x10 + u8::try_from(index).unwrap()
}

fn build_below((index, spec): (usize, &BelowSpec)) -> Below {
    let fill = layer_fill(index);
    match spec {
        BelowSpec::Raw { sectors } => {
            Below::Raw(vec![fill; usize::try_from(sectors * SECTOR).unwrap()])
        }
        BelowSpec::Dscow {
            shift,
            sectors,
            allocated,
        } => {
            let blocks = (sectors * SECTOR).div_ceil(1 << shift);
            let held = (0..blocks)
                .filter(|b| allocated[usize::try_from(*b).unwrap() % allocated.len()])
                .map(|b| (b, fill))
                .collect();
            Below::Dscow(1 << shift, sectors * SECTOR, held)
        }
    }
}

/// The content of the disk before any write, sector by sector, from the definition of a chain.
fn initial_content(case: &Case) -> Vec<u8> {
    (0..case.sectors)
        .flat_map(|sector| vec![initial_fill(&case.below, sector); 512])
        .collect()
}

fn initial_fill(below: &[BelowSpec], sector: u64) -> u8 {
    for (index, spec) in below.iter().enumerate() {
        match spec {
            BelowSpec::Raw { sectors } if sector < *sectors => return layer_fill(index),
            BelowSpec::Dscow {
                shift,
                sectors,
                allocated,
            } if sector < *sectors => {
                let block = usize::try_from((sector * SECTOR) >> shift).unwrap();
                if allocated[block % allocated.len()] {
                    return layer_fill(index);
                }
            }
            _ => return 0,
        }
    }
    0
}

fn below_strategy() -> impl Strategy<Value = BelowSpec> {
    prop_oneof![
        (1..200u64).prop_map(|sectors| BelowSpec::Raw { sectors }),
        (
            12..16u32,
            1..200u64,
            proptest::collection::vec(any::<bool>(), 1..20)
        )
            .prop_map(|(shift, sectors, allocated)| BelowSpec::Dscow {
                shift,
                sectors,
                allocated
            }),
    ]
}

fn case_strategy() -> impl Strategy<Value = Case> {
    (12..16u32, 1..160u64).prop_flat_map(|(shift, sectors)| {
        let range = (0..sectors)
            .prop_flat_map(move |sector| (Just(sector), 1..=(sectors - sector).min(40)));
        let step = prop_oneof![
            4 => range.clone().prop_map(|(sector, sectors)| Step::Write { sector, sectors }),
            1 => range.clone().prop_map(|(sector, sectors)| Step::Barrier { sector, sectors }),
            1 => (range.clone(), any::<[bool; 3]>()).prop_map(|((sector, sectors), thirds)| {
                Step::SparseWrite { sector, sectors, thirds }
            }),
            1 => range.clone().prop_map(|(sector, sectors)| Step::Zeros { sector, sectors }),
            1 => range.clone().prop_map(|(sector, sectors)| Step::Discard { sector, sectors }),
            2 => range.prop_map(|(sector, sectors)| Step::Read { sector, sectors }),
            1 => Just(Step::Flush),
            6 => any::<usize>().prop_map(Step::Complete),
        ];
        (
            proptest::collection::vec(below_strategy(), 0..4),
            proptest::collection::vec(step, 0..80),
            prop_oneof![Just(512), Just(4096)],
            any::<bool>(),
        )
            .prop_map(move |(below, steps, io_alignment, scribbles)| Case {
                shift,
                io_alignment,
                sectors,
                below,
                steps,
                scribbles,
            })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_engine_behaves_like_a_plain_disk(case in case_strategy()) {
        let mut model = Model::new(&case);
        for step in &case.steps {
            model.step(step);
        }
        model.finish(&case);
    }
}
