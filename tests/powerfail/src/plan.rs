//! What a workload does: it follows from a seed.

use crate::random::Random;

/// Sectors of the virtual disk: not a whole number of blocks of any size.
pub const DISK_SECTORS: u64 = 2048 + 3;
/// Sectors of the raw base: the disk goes on behind it, in the middle of a block.
pub const BASE_SECTORS: u64 = 1536 + 5;

/// A range of sectors of the virtual disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sectors {
    /// The first.
    pub first: u64,
    /// How many.
    pub count: u64,
}

/// Something to do with an open image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Write these sectors.
    Write(Sectors),
    /// Write zeros there, as data.
    WriteZeroData(Sectors),
    /// Make them read as zeros.
    WriteZeroes(Sectors),
    /// Discard them.
    Discard(Sectors),
    /// Write these sectors, ordered against everything else.
    Barrier(Sectors),
    /// Flush, while writes may be under way.
    Flush,
    /// Commit without being asked, as the daemon does about once a second.
    CommitIdle,
    /// Wait until nothing is under way.
    Drain,
}

/// Which executor does the I/O.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExecutorKind {
    /// What production chooses: io_uring where there is one.
    Chosen,
    /// The thread pool.
    Threads,
}

/// What is done between opening the image and closing it.
#[derive(Clone, Debug)]
pub struct Session {
    /// Which executor does the I/O.
    pub executor: ExecutorKind,
    /// How many requests are under way at most.
    pub depth: usize,
    /// Whether zeros in writes are searched for.
    pub detect_zeroes: bool,
    /// What is done, in this order.
    pub steps: Vec<Step>,
}

/// Three sessions with together about `operations` writes and flushes. `block_sectors` is the size of the image's blocks.
pub fn sessions(seed: u64, operations: u64, block_sectors: u64) -> Vec<Session> {
    let mut random = Random::new(seed);
    let kinds = [
        ExecutorKind::Chosen,
        ExecutorKind::Threads,
        ExecutorKind::Chosen,
    ];
    kinds
        .into_iter()
        .map(|executor| Session {
            executor,
            depth: usize::try_from(1 + random.below(8)).expect("a small number"),
            detect_zeroes: random.chance(50),
            steps: (0..operations.div_ceil(3))
                .map(|_| step(&mut random, block_sectors))
                .collect(),
        })
        .collect()
}

/// What is written to the image between the raw base and the disk, when there is one.
pub fn middle_writes(seed: u64, block_sectors: u64) -> Vec<Sectors> {
    let mut random = Random::new(!seed);
    (0..24)
        .map(|_| sectors(&mut random, block_sectors))
        .collect()
}

fn step(random: &mut Random, block_sectors: u64) -> Step {
    match random.below(100) {
        0..55 => Step::Write(sectors(random, block_sectors)),
        55..61 => Step::WriteZeroData(sectors(random, block_sectors)),
        61..66 => Step::WriteZeroes(sectors(random, block_sectors)),
        66..72 => Step::Discard(sectors(random, block_sectors)),
        72..76 => Step::Barrier(sectors(random, block_sectors)),
        76..92 => Step::Flush,
        92..95 => Step::CommitIdle,
        _ => Step::Drain,
    }
}

/// Whole blocks, parts of one, and ranges that end anywhere; half of them near the front, so that they meet.
fn sectors(random: &mut Random, block_sectors: u64) -> Sectors {
    let reach = if random.chance(50) {
        DISK_SECTORS / 8
    } else {
        DISK_SECTORS
    };
    let (first, count) = match random.below(3) {
        0 => {
            let block = random.below(reach / block_sectors);
            let most = (128 / block_sectors).max(1);
            (
                block * block_sectors,
                (1 + random.below(most)) * block_sectors,
            )
        }
        1 => (random.below(reach), 1 + random.below(block_sectors.min(8))),
        _ => (random.below(reach), 1 + random.below(3 * block_sectors)),
    };
    let count = count.min(DISK_SECTORS - first);
    Sectors { first, count }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_stay_on_the_disk_and_meet() {
        for block_sectors in [8, 128] {
            let steps: Vec<Step> = sessions(5, 600, block_sectors)
                .into_iter()
                .flat_map(|session| session.steps)
                .collect();
            assert_eq!(steps.len(), 600);
            let writes: Vec<Sectors> = steps
                .iter()
                .filter_map(|step| match step {
                    Step::Write(sectors) => Some(*sectors),
                    _ => None,
                })
                .collect();
            assert!(
                writes
                    .iter()
                    .all(|w| w.count > 0 && w.first + w.count <= DISK_SECTORS)
            );
            let touched: u64 = writes.iter().map(|write| write.count).sum();
            assert!(touched > DISK_SECTORS, "only {touched} sectors");
            assert!(
                writes
                    .iter()
                    .any(|write| write.first + write.count > BASE_SECTORS)
            );
        }
    }

    #[test]
    fn a_seed_says_it_all() {
        assert_eq!(sessions(9, 30, 8)[1].steps, sessions(9, 30, 8)[1].steps);
        assert_ne!(sessions(9, 30, 8)[1].steps, sessions(8, 30, 8)[1].steps);
    }
}
