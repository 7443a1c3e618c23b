//! The arithmetic of a ring: free-running 32-bit indices that wrap, and what a peer may make of them.
//!
//! An index counts requests or responses since the ring was made, modulo 2^32; the slot is the index
//! modulo the size of the ring, a power of two. Requests and responses share the slots: a response
//! overwrites the slot of some request that has been taken, so at any time
//!
//! ```text
//! rsp_prod <= req_cons <= req_prod <= rsp_prod + size        (as distances from rsp_prod)
//! ```
//!
//! `rsp_prod` and `req_cons` are ours; `req_prod` is what the peer says, and anything that breaks the
//! chain is hostile.

mod index;

pub(crate) use index::Index;

/// A ring that cannot be worked with, or an index that no honest peer writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RingError {
    /// The shared memory is none that a ring can be in.
    #[error("a ring cannot be in {0} bytes: it takes 1, 2, 4, 8 or 16 pages of 4096")]
    MemorySize(usize),
    /// The shared memory does not start at a page.
    #[error("the shared memory of a ring must start at a multiple of 4096")]
    MemoryAlignment,
    /// More requests than slots: the producer index is too far ahead.
    #[error(
        "the frontend claims requests up to {req_prod} with responses up to {rsp_prod} in a ring of {size}"
    )]
    RequestOverflow {
        /// The peer's request producer index.
        req_prod: u32,
        /// Our response producer index.
        rsp_prod: u32,
        /// Slots in the ring.
        size: u32,
    },
    /// The producer index is behind requests that have already been taken.
    #[error("the frontend takes back requests: producer {req_prod} is behind consumer {req_cons}")]
    ProducerWentBack {
        /// The peer's request producer index.
        req_prod: u32,
        /// Our request consumer index.
        req_cons: u32,
    },
    /// A consumer index to resume at that is not between the responses and a full ring.
    #[error(
        "cannot resume at request {req_cons} with responses up to {rsp_prod} in a ring of {size}"
    )]
    ResumeOutOfRange {
        /// The consumer index given.
        req_cons: u32,
        /// The published response producer index.
        rsp_prod: u32,
        /// Slots in the ring.
        size: u32,
    },
    /// A response with no request that waits for one: a mistake of the backend.
    #[error("a response to no request: all requests up to {0} are answered")]
    NothingToAnswer(u32),
}

/// The backend's private indices. They have 32 bits; only a proof that tries all of them makes do with fewer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BackIndices<const BITS: u32 = 32> {
    size: u32,
    req_cons: Index<BITS>,
    rsp_prod: Index<BITS>,
    published: Index<BITS>,
}

impl<const BITS: u32> BackIndices<BITS> {
    /// Indices of a ring with `size` slots, a power of two, whose responses up to `rsp_prod` are
    /// published and whose requests up to `req_cons` have been taken.
    pub(crate) fn resume(size: u32, rsp_prod: u32, req_cons: u32) -> Result<Self, RingError> {
        debug_assert!(size.is_power_of_two());
        let (responses, requests) = (Index::new(rsp_prod), Index::new(req_cons));
        if requests.since(responses) > size {
            return Err(RingError::ResumeOutOfRange {
                req_cons,
                rsp_prod,
                size,
            });
        }
        Ok(Self {
            size,
            req_cons: requests,
            rsp_prod: responses,
            published: responses,
        })
    }

    pub(crate) const fn size(&self) -> u32 {
        self.size
    }

    pub(crate) const fn req_cons(&self) -> u32 {
        self.req_cons.get()
    }

    pub(crate) const fn rsp_prod(&self) -> u32 {
        self.rsp_prod.get()
    }

    /// The event index with which the peer tells of the next request.
    pub(crate) const fn req_event(&self) -> u32 {
        self.req_cons.next().get()
    }

    /// Requests taken and not answered.
    pub(crate) const fn in_flight(&self) -> u32 {
        self.req_cons.since(self.rsp_prod)
    }

    /// Requests that can be taken if the peer's producer index is `req_prod`.
    ///
    /// The first check is `RING_REQUEST_PROD_OVERFLOW` of `ring.h`. The second one goes beyond it: a
    /// producer that went back would have us take slots that hold responses.
    pub(crate) fn pending(&self, req_prod: u32) -> Result<u32, RingError> {
        let outstanding = Index::new(req_prod).since(self.rsp_prod);
        if outstanding > self.size {
            return Err(RingError::RequestOverflow {
                req_prod,
                rsp_prod: self.rsp_prod.get(),
                size: self.size,
            });
        }
        outstanding
            .checked_sub(self.in_flight())
            .ok_or(RingError::ProducerWentBack {
                req_prod,
                req_cons: self.req_cons.get(),
            })
    }

    /// Takes a request that [`BackIndices::pending`] has counted; the slot it is in.
    pub(crate) fn take(&mut self) -> u32 {
        let slot = self.req_cons.slot(self.size);
        self.req_cons = self.req_cons.next();
        slot
    }

    /// Claims the slot for a response.
    pub(crate) fn respond(&mut self) -> Result<u32, RingError> {
        if self.in_flight() == 0 {
            return Err(RingError::NothingToAnswer(self.rsp_prod.get()));
        }
        let slot = self.rsp_prod.slot(self.size);
        self.rsp_prod = self.rsp_prod.next();
        Ok(slot)
    }

    /// Notes that the responses so far are published: the indices before and after, `None` if there was
    /// nothing new. (Or exactly 2^32 new ones; nobody waits that long.)
    pub(crate) fn publish(&mut self) -> Option<(u32, u32)> {
        let old = std::mem::replace(&mut self.published, self.rsp_prod);
        (old != self.rsp_prod).then_some((old.get(), self.rsp_prod.get()))
    }
}

/// Whether a peer that asked to be told at index `event` must be, now that the index moved from `old` to
/// `new`: it must if it moved past the entry before `event` (`RING_PUSH_*_AND_CHECK_NOTIFY`).
pub(crate) const fn must_notify(old: u32, new: u32, event: u32) -> bool {
    moved_past::<32>(Index::new(old), Index::new(new), Index::new(event))
}

pub(crate) const fn moved_past<const BITS: u32>(
    old: Index<BITS>,
    new: Index<BITS>,
    event: Index<BITS>,
) -> bool {
    new.since(event) < new.since(old)
}
