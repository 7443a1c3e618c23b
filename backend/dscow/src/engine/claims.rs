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

    /// Where the claim that holds `block` ends, if one does.
    pub(super) fn end_of_claim_at(&self, block: BlockIndex) -> Option<BlockIndex> {
        let (_, claim) = self.by_start.range(..=block).next_back()?;
        (claim.end > block).then_some(claim.end)
    }

    /// How far one can go from `inner` in both directions without meeting a claim that reaches outside of it or lies
    /// there, at most to the ends of `outer`.
    pub(super) fn free_around(&self, inner: BlockRun, outer: BlockRun) -> BlockRun {
        let (first, end) = inner;
        let below = self.by_start.range(..first).next_back();
        let low = below.map_or(outer.0, |(_, claim)| claim.end.clamp(outer.0, first));
        // The claim that holds the last block of `inner`, if one does, may reach beyond it.
        let last = self.by_start.range(..end).next_back();
        if last.is_some_and(|(_, claim)| claim.end > end) {
            return (low, end);
        }
        let above = self.by_start.range(end..).next();
        let high = above.map_or(outer.1, |(start, _)| (*start).min(outer.1));
        (low, high)
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

    #[test]
    fn room_ends_where_a_claim_does() {
        let mut claims = Claims::default();
        claims.claim(run(10, 20));
        claims.claim(run(30, 40));
        for (inner, outer, expected) in [
            (run(25, 26), run(0, 100), run(20, 30)),
            (run(25, 26), run(22, 28), run(22, 28)),
            (run(20, 30), run(0, 100), run(20, 30)),
            (run(5, 6), run(0, 100), run(0, 10)),
            (run(50, 51), run(0, 100), run(40, 100)),
            // Pieces of a claim: the rest of it is somebody else's business.
            (run(30, 40), run(0, 100), run(20, 100)),
            (run(30, 35), run(0, 100), run(20, 35)),
            (run(35, 40), run(0, 100), run(35, 100)),
            (run(33, 34), run(0, 100), run(33, 34)),
        ] {
            assert_eq!(claims.free_around(inner, outer), expected, "{inner:?}");
        }
    }
}
