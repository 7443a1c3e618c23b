//! Which unallocated blocks a write in flight is about to allocate.
//!
//! A block whose bit is not set has no contents of its own yet, so two writes that touch it must not run
//! at the same time: a copy-up that read the block before the other write landed would write stale bytes
//! over it. Allocated blocks need no claim.

use std::collections::BTreeMap;

use crate::units::BlockIndex;

/// Disjoint runs of claimed blocks, by first block.
#[derive(Default)]
pub(super) struct Claims {
    by_start: BTreeMap<BlockIndex, Claim>,
}

struct Claim {
    end: BlockIndex,
    /// Jobs to try again when this claim is released, in the order in which they came.
    waiters: Vec<usize>,
}

/// A run of blocks from the first up to and without the second.
pub(super) type BlockRun = (BlockIndex, BlockIndex);

impl Claims {
    /// Registers `job` as waiting if any block of `first..end` is claimed, and tells whether it is.
    pub(super) fn wait_if_claimed(&mut self, (first, end): BlockRun, job: usize) -> bool {
        // Claims are disjoint: if one overlaps, the last that starts before `end` does.
        match self.by_start.range_mut(..end).next_back() {
            Some((_, claim)) if claim.end > first => {
                claim.waiters.push(job);
                true
            }
            _ => false,
        }
    }

    /// Claims a run of which no block is claimed.
    pub(super) fn claim(&mut self, (first, end): BlockRun) {
        let waiters = Vec::new();
        self.by_start.insert(first, Claim { end, waiters });
    }

    /// Releases a claim; returns the jobs that waited for it.
    pub(super) fn release(&mut self, (first, _): BlockRun) -> Vec<usize> {
        self.by_start
            .remove(&first)
            .expect("a claim is released once, by the job that made it")
            .waiters
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(first: u64, end: u64) -> BlockRun {
        (BlockIndex(first), BlockIndex(end))
    }

    #[test]
    fn an_overlap_waits_and_a_neighbour_does_not() {
        let mut claims = Claims::default();
        claims.claim(run(10, 20));
        claims.claim(run(30, 31));
        for (candidate, overlaps) in [
            (run(0, 10), false),
            (run(0, 11), true),
            (run(15, 16), true),
            (run(19, 40), true),
            (run(20, 30), false),
            (run(30, 31), true),
            (run(31, 99), false),
        ] {
            assert_eq!(
                claims.wait_if_claimed(candidate, 7),
                overlaps,
                "{candidate:?}"
            );
        }
        assert_eq!(claims.release(run(10, 20)), [7, 7]);
        assert_eq!(claims.release(run(30, 31)), [7, 7]);
        assert!(!claims.wait_if_claimed(run(0, 99), 7));
    }
}
