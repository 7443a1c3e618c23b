//! The backend's half of a ring.

use crate::response::Response;
use crate::ring::{BackIndices, RingError, must_notify};
use crate::shared::{SharedMemory, SharedRing};
use crate::wire::{Abi, RawSlot};

/// The backend's half of a ring, over memory that it owns and shares with a hostile frontend.
///
/// Of the shared page it trusts nothing: its own indices are private, the frontend's producer index is
/// checked each time it is read, and slots are copied out once.
///
/// The way to serve it: [`take`](Self::take) until there is nothing more, answer with
/// [`push_response`](Self::push_response) and [`publish`](Self::publish) as requests complete, and before
/// going to sleep ask [`final_check_for_requests`](Self::final_check_for_requests).
#[derive(Debug)]
pub struct BackRing<M> {
    shared: SharedRing<M>,
    indices: BackIndices,
    /// The last producer index that was read and found good; saves reading the shared page per request.
    seen_prod: u32,
}

impl<M: SharedMemory> BackRing<M> {
    /// Attaches to the ring in `memory` where its responses stand: everything that the frontend has
    /// produced and that has no response counts as not yet taken. A ring that the frontend just made
    /// stands at 0.
    ///
    /// # Errors
    /// `memory` is not 1, 2, 4, 8 or 16 pages, or the frontend's indices cannot be.
    pub fn attach(memory: M, abi: Abi) -> Result<Self, RingError> {
        let shared = SharedRing::new(memory, abi)?;
        let rsp_prod = shared.rsp_prod();
        let indices = BackIndices::resume(shared.slots(), rsp_prod, rsp_prod)?;
        indices.pending(shared.req_prod())?;
        Ok(Self {
            shared,
            indices,
            seen_prod: rsp_prod,
        })
    }

    /// Goes on at `req_cons`, up to where an earlier process has taken the requests, from a ring that was just
    /// [attached to](Self::attach). Those that have no response are [`in_flight`](Self::in_flight).
    ///
    /// # Errors
    /// If `req_cons` does not fit the shared page's indices, which the frontend can have changed.
    pub fn resume_at(&mut self, req_cons: u32) -> Result<(), RingError> {
        let rsp_prod = self.indices.rsp_prod();
        let indices = BackIndices::resume(self.shared.slots(), rsp_prod, req_cons)?;
        indices.pending(self.shared.req_prod())?;
        self.indices = indices;
        self.seen_prod = req_cons;
        Ok(())
    }

    /// Requests that are on the ring and can be taken.
    ///
    /// # Errors
    /// The frontend's producer index is beyond the ring, or went back. Nothing on the ring can be trusted
    /// any more: stop serving it.
    pub fn pending(&mut self) -> Result<u32, RingError> {
        let req_prod = self.shared.req_prod();
        let pending = self.indices.pending(req_prod)?;
        self.seen_prod = req_prod;
        Ok(pending)
    }

    /// Takes the next request, `None` if there is none. The slot is copied out once and never looked at
    /// again.
    ///
    /// # Errors
    /// As for [`pending`](Self::pending).
    pub fn take(&mut self) -> Result<Option<RawSlot>, RingError> {
        if self.seen_prod == self.indices.req_cons() && self.pending()? == 0 {
            return Ok(None);
        }
        Ok(Some(self.shared.read_request(self.indices.take())))
    }

    /// Puts a response on the ring. The frontend sees it after [`publish`](Self::publish).
    ///
    /// # Errors
    /// All requests that were taken have been answered; nothing is written.
    pub fn push_response(&mut self, response: Response) -> Result<(), RingError> {
        let slot = self.indices.respond()?;
        self.shared.write_response(slot, response.to_words());
        Ok(())
    }

    /// Shows the frontend the responses so far. Returns whether it must be notified over the event
    /// channel.
    #[must_use = "the frontend sleeps until it is notified"]
    pub fn publish(&mut self) -> bool {
        self.indices.publish().is_some_and(|(old, new)| {
            let rsp_event = self.shared.publish_responses(new);
            must_notify(old, new, rsp_event)
        })
    }

    /// Asks the frontend to notify with its next request, and looks once more. Returns whether there are
    /// requests: only if not may the caller wait for the event channel.
    ///
    /// # Errors
    /// As for [`pending`](Self::pending).
    pub fn final_check_for_requests(&mut self) -> Result<bool, RingError> {
        if self.pending()? > 0 {
            return Ok(true);
        }
        self.shared.set_req_event(self.indices.req_event());
        Ok(self.pending()? > 0)
    }

    /// Requests taken and not yet answered with [`push_response`](Self::push_response).
    #[must_use]
    pub const fn in_flight(&self) -> u32 {
        self.indices.in_flight()
    }

    /// Index of the next request to be taken.
    #[must_use]
    pub const fn req_cons(&self) -> u32 {
        self.indices.req_cons()
    }

    /// The index that the next [`push_response`](Self::push_response) uses.
    #[must_use]
    pub const fn next_response_index(&self) -> u32 {
        self.indices.rsp_prod()
    }

    /// The response producer index in the shared page. The frontend can write it too.
    #[must_use]
    pub fn published_rsp_prod(&self) -> u32 {
        self.shared.rsp_prod()
    }

    /// The request producer index in the shared page, unchecked.
    #[must_use]
    pub fn published_req_prod(&self) -> u32 {
        self.shared.req_prod()
    }

    /// Slots in the ring, a power of two.
    #[must_use]
    pub const fn size(&self) -> u32 {
        self.indices.size()
    }

    /// The layout of the ring.
    #[must_use]
    pub const fn abi(&self) -> Abi {
        self.shared.abi()
    }
}
