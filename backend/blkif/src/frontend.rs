//! The frontend's half of a ring, for simulated guests.
//!
//! It does what a well-behaved guest does. A guest that is not writes to the shared memory itself, or
//! pushes slots that no encoder makes ([`FrontRing::push`] takes any bytes).

use crate::response::Response;
use crate::ring::{RingError, must_notify};
use crate::shared::{SharedMemory, SharedRing};
use crate::wire::{Abi, RawSlot};

/// What a frontend can meet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrontError {
    /// The memory cannot hold a ring.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// Every slot holds a request without a response.
    #[error("the ring is full")]
    Full,
    /// The backend claims more responses than there are requests.
    #[error(
        "the backend claims responses up to {rsp_prod}, and {rsp_cons} of {req_prod} are taken"
    )]
    ResponseOverflow {
        /// The backend's response producer index.
        rsp_prod: u32,
        /// Responses taken so far.
        rsp_cons: u32,
        /// Requests pushed so far.
        req_prod: u32,
    },
    /// A response with a status that is none of the protocol's.
    #[error("response {0} has an unknown status")]
    UnknownStatus(u32),
}

/// The frontend's half of a ring.
#[derive(Debug)]
pub struct FrontRing<M> {
    shared: SharedRing<M>,
    req_prod: u32,
    req_published: u32,
    rsp_cons: u32,
}

impl<M: SharedMemory> FrontRing<M> {
    /// Makes an empty ring in `memory`.
    ///
    /// # Errors
    /// `memory` is not 1, 2, 4, 8 or 16 pages.
    pub fn create(memory: M, abi: Abi) -> Result<Self, FrontError> {
        Self::create_at(memory, abi, 0)
    }

    /// Makes an empty ring whose indices stand at `index`, as after that many requests.
    ///
    /// # Errors
    /// As for [`create`](Self::create).
    pub fn create_at(memory: M, abi: Abi, index: u32) -> Result<Self, FrontError> {
        let shared = SharedRing::new(memory, abi)?;
        shared.initialise(index);
        Ok(Self {
            shared,
            req_prod: index,
            req_published: index,
            rsp_cons: index,
        })
    }

    /// Slots without a request that waits for its response.
    #[must_use]
    pub const fn free(&self) -> u32 {
        self.shared.slots() - self.req_prod.wrapping_sub(self.rsp_cons)
    }

    /// Puts a request on the ring. The backend sees it after [`publish`](Self::publish).
    ///
    /// # Errors
    /// The ring is full.
    pub fn push(&mut self, request: &RawSlot) -> Result<(), FrontError> {
        if self.free() == 0 {
            return Err(FrontError::Full);
        }
        let slot = self.req_prod & (self.shared.slots() - 1);
        self.shared.write_request(slot, request);
        self.req_prod = self.req_prod.wrapping_add(1);
        Ok(())
    }

    /// Shows the backend the requests so far. Returns whether it must be notified.
    #[must_use = "the backend sleeps until it is notified"]
    pub fn publish(&mut self) -> bool {
        let old = std::mem::replace(&mut self.req_published, self.req_prod);
        let req_event = self.shared.publish_requests(self.req_prod);
        must_notify(old, self.req_prod, req_event)
    }

    /// Responses that can be taken.
    ///
    /// # Errors
    /// There are more than requests.
    pub fn pending(&self) -> Result<u32, FrontError> {
        let rsp_prod = self.shared.rsp_prod();
        let pending = rsp_prod.wrapping_sub(self.rsp_cons);
        if pending > self.req_published.wrapping_sub(self.rsp_cons) {
            return Err(FrontError::ResponseOverflow {
                rsp_prod,
                rsp_cons: self.rsp_cons,
                req_prod: self.req_published,
            });
        }
        Ok(pending)
    }

    /// Takes the next response, `None` if there is none.
    ///
    /// # Errors
    /// The backend's index or the response's status cannot be.
    pub fn take(&mut self) -> Result<Option<Response>, FrontError> {
        if self.pending()? == 0 {
            return Ok(None);
        }
        let index = self.rsp_cons;
        let words = self.shared.read_response(index & (self.shared.slots() - 1));
        self.rsp_cons = index.wrapping_add(1);
        Response::from_words(words)
            .map(Some)
            .ok_or(FrontError::UnknownStatus(index))
    }

    /// Asks the backend to notify with its next response, and looks once more. Returns whether there are
    /// responses: only if not may the caller wait for the event channel.
    ///
    /// # Errors
    /// As for [`pending`](Self::pending).
    pub fn final_check_for_responses(&mut self) -> Result<bool, FrontError> {
        if self.pending()? > 0 {
            return Ok(true);
        }
        self.shared.set_rsp_event(self.rsp_cons.wrapping_add(1));
        Ok(self.pending()? > 0)
    }

    /// Slots in the ring, a power of two.
    #[must_use]
    pub const fn size(&self) -> u32 {
        self.shared.slots()
    }
}
