//! What was taken and what was answered on one ring, as it was.

use blkif::Response;

use super::guest::Slot;

/// Numbers count from the ring's beginning, and do not wrap.
#[derive(Clone, Debug)]
pub(super) struct Ledger {
    /// The index at which requests and responses begin.
    pub(super) start: u32,
    /// Each request that the backend took, as it was in its slot, and the index at which it was taken: another than its
    /// number says after the frontend has moved the indices while nobody watched.
    pub(super) taken: Vec<(u32, Slot)>,
    /// Each response in the order of the ring, with the number of its request.
    pub(super) responses: Vec<(usize, Response)>,
    /// How many of them the frontend was shown.
    pub(super) published: usize,
    /// It is being shown this many.
    pub(super) publishing: usize,
}

/// A producer index that no honest frontend writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    Overflow,
    WentBack,
}

impl Ledger {
    pub(super) fn new(start: u32) -> Self {
        Self {
            start,
            taken: Vec::new(),
            responses: Vec::new(),
            published: 0,
            publishing: 0,
        }
    }

    /// The index of the entry with this number.
    pub(super) fn index(&self, number: usize) -> u32 {
        let number = u64::try_from(number).expect("few");
        u32::try_from((u64::from(self.start) + number) % (1 << 32)).expect("modulo 2^32")
    }

    pub(super) fn req_cons(&self) -> u32 {
        self.index(self.taken.len())
    }

    pub(super) fn rsp_prod(&self) -> u32 {
        self.index(self.responses.len())
    }

    pub(super) fn in_flight(&self) -> usize {
        self.taken.len() - self.responses.len()
    }

    /// How many requests a producer index announces on a ring of `size` slots.
    pub(super) fn judge(&self, req_prod: u32, size: u32) -> Result<usize, Fault> {
        let ahead = distance(self.rsp_prod(), req_prod);
        if ahead > size as usize {
            return Err(Fault::Overflow);
        }
        ahead.checked_sub(self.in_flight()).ok_or(Fault::WentBack)
    }

    /// The numbers of the requests without a response, in their order.
    pub(super) fn unanswered(&self) -> Vec<usize> {
        let mut is_answered = vec![false; self.taken.len()];
        for (number, _) in &self.responses {
            assert!(
                !std::mem::replace(&mut is_answered[*number], true),
                "answered twice"
            );
        }
        let numbers = 0..self.taken.len();
        numbers.filter(|number| !is_answered[*number]).collect()
    }
}

/// How far `to` is ahead of `from`.
pub(super) fn distance(from: u32, to: u32) -> usize {
    let ahead = (u64::from(to) + (1 << 32) - u64::from(from)) % (1 << 32);
    usize::try_from(ahead).expect("less than 2^32")
}
