//! The frontend's half of a shared ring (`io/ring.h` of Xen), with everything open to tests that misuse it.

use std::sync::atomic::{Ordering, fence};

use super::abi::{Abi, RING_HEADER_BYTES, Response};
use crate::error::{Error, Result};
use crate::hypervisor::{Access, Domain, EventChannel};
use crate::ids::{GrantRef, PAGE_SIZE, PageIndex};

const REQUEST_PRODUCER: usize = 0;
const REQUEST_EVENT: usize = 4;
const RESPONSE_PRODUCER: usize = 8;
const RESPONSE_EVENT: usize = 12;

/// One ring with its event channel.
#[derive(Debug)]
pub struct FrontRing {
    domain: Domain,
    abi: Abi,
    first_page: PageIndex,
    grants: Vec<GrantRef>,
    entry_count: u32,
    channel: EventChannel,
    /// How many requests were put into the ring, published or not.
    request_producer_private: u32,
    response_consumer: u32,
}

impl FrontRing {
    /// Makes an empty ring of `1 << order` pages, granted to domain 0.
    ///
    /// # Errors
    /// [`Error::Exhausted`] if the domain has no room for it.
    pub fn new(domain: &Domain, abi: Abi, order: u32) -> Result<Self> {
        let page_count = 1 << order;
        let first_page = domain.allocate_pages(page_count)?;
        domain.fill_pages(first_page, page_count, 0);
        let grants = (0..page_count)
            .map(|page| domain.grant(first_page.offset_by(page), Access::ReadWrite))
            .collect::<Result<Vec<_>>>()?;
        let ring = Self {
            domain: domain.clone(),
            abi,
            first_page,
            grants,
            entry_count: abi.ring_entries(PAGE_SIZE << order),
            channel: domain.allocate_channel()?,
            request_producer_private: 0,
            response_consumer: 0,
        };
        ring.set_header(REQUEST_EVENT, 1);
        ring.set_header(RESPONSE_EVENT, 1);
        Ok(ring)
    }

    /// The grants of the ring's pages, in order.
    #[must_use]
    pub fn grants(&self) -> &[GrantRef] {
        &self.grants
    }

    /// The first of the ring's pages, which lie side by side in the domain's memory: for a second thread that changes
    /// what is on the ring.
    #[must_use]
    pub fn first_page(&self) -> PageIndex {
        self.first_page
    }

    /// Where the entry at an index is, in bytes from the start of the first page.
    #[must_use]
    pub fn entry_position(&self, index: u32) -> usize {
        self.entry_offset(index)
    }

    /// The ring's event channel.
    #[must_use]
    pub fn channel(&self) -> &EventChannel {
        &self.channel
    }

    /// How many requests the ring holds.
    #[must_use]
    pub fn entry_count(&self) -> u32 {
        self.entry_count
    }

    /// How many more requests can be put in.
    #[must_use]
    pub fn free_entries(&self) -> u32 {
        let outstanding = self
            .request_producer_private
            .wrapping_sub(self.response_consumer);
        self.entry_count.saturating_sub(outstanding)
    }

    fn header(&self, offset: usize) -> u32 {
        self.domain
            .word(self.first_page, offset)
            .load(Ordering::Acquire)
    }

    fn set_header(&self, offset: usize, value: u32) {
        self.domain
            .word(self.first_page, offset)
            .store(value, Ordering::Release);
    }

    /// The shared index up to which requests are published.
    #[must_use]
    pub fn request_producer(&self) -> u32 {
        self.header(REQUEST_PRODUCER)
    }

    /// Sets the shared request index to anything, without regard for what is in the ring.
    pub fn set_request_producer(&self, value: u32) {
        self.set_header(REQUEST_PRODUCER, value);
    }

    /// The shared index at which the backend wants to be notified.
    #[must_use]
    pub fn request_event(&self) -> u32 {
        self.header(REQUEST_EVENT)
    }

    /// The shared index up to which responses are published.
    #[must_use]
    pub fn response_producer(&self) -> u32 {
        self.header(RESPONSE_PRODUCER)
    }

    /// Sets the shared response index, which only the backend has any business to do.
    pub fn set_response_producer(&self, value: u32) {
        self.set_header(RESPONSE_PRODUCER, value);
    }

    /// The shared index at which the frontend wants to be notified.
    #[must_use]
    pub fn response_event(&self) -> u32 {
        self.header(RESPONSE_EVENT)
    }

    /// Sets the index at which the frontend wants to be notified.
    pub fn set_response_event(&self, value: u32) {
        self.set_header(RESPONSE_EVENT, value);
    }

    fn entry_offset(&self, index: u32) -> usize {
        let slot = (index & (self.entry_count - 1)) as usize;
        RING_HEADER_BYTES + slot * self.abi.entry_bytes()
    }

    /// The bytes of the entry at an index, which wraps around.
    #[must_use]
    pub fn read_entry(&self, index: u32) -> Vec<u8> {
        let mut entry = vec![0; self.abi.entry_bytes()];
        self.domain
            .read_memory(self.first_page, self.entry_offset(index), &mut entry);
        entry
    }

    /// Overwrites the entry at an index, which wraps around; the bytes may be fewer than an entry.
    pub fn write_entry(&self, index: u32, bytes: &[u8]) {
        let fits = &bytes[..bytes.len().min(self.abi.entry_bytes())];
        self.domain
            .write_memory(self.first_page, self.entry_offset(index), fits);
    }

    /// Puts a request into the next entry without publishing it.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if the ring is full.
    pub fn put_request(&mut self, entry: &[u8]) -> Result<()> {
        if self.free_entries() == 0 {
            return Err(Error::Unsupported("the ring is full".to_owned()));
        }
        self.write_entry(self.request_producer_private, entry);
        self.request_producer_private = self.request_producer_private.wrapping_add(1);
        Ok(())
    }

    /// Publishes the requests that were put in, and notifies the backend if it asked for that.
    pub fn push_requests(&self) {
        let old = self.request_producer();
        let new = self.request_producer_private;
        self.set_request_producer(new);
        // The backend sets its event index and looks again at the requests; here the requests are published and then
        // the event index is read. With a full barrier on both sides at least one of the two sees the other.
        fence(Ordering::SeqCst);
        let event = self.request_event();
        if new.wrapping_sub(event) < new.wrapping_sub(old) {
            self.channel.notify();
        }
    }

    /// Takes the next response, if there is one.
    ///
    /// # Errors
    /// [`Error::Protocol`] if the backend has published more responses than there were requests.
    pub fn take_response(&mut self) -> Result<Option<Response>> {
        let producer = self.response_producer();
        let available = producer.wrapping_sub(self.response_consumer);
        if available == 0 {
            return Ok(None);
        }
        let outstanding = self
            .request_producer_private
            .wrapping_sub(self.response_consumer);
        if available > outstanding {
            return Err(Error::Protocol(format!(
                "{available} responses to {outstanding} requests"
            )));
        }
        let entry = self.read_entry(self.response_consumer);
        self.response_consumer = self.response_consumer.wrapping_add(1);
        Ok(Some(self.abi.decode_response(&entry)))
    }

    /// Asks to be notified of the next response. Returns whether one has come already.
    pub fn arm_notification(&self) -> bool {
        self.set_response_event(self.response_consumer.wrapping_add(1));
        // The counterpart of the barrier in `push_requests`, for the other direction.
        fence(Ordering::SeqCst);
        self.response_producer() != self.response_consumer
    }

    /// Takes the ring down: its grants, pages and channel.
    ///
    /// # Errors
    /// [`Error::GrantStillMapped`] if the backend has not let go of it.
    pub fn release(self) -> Result<()> {
        let page_count = u32::try_from(self.grants.len()).expect("rings are a few pages");
        for grant in &self.grants {
            self.domain.end_access(*grant)?;
        }
        self.domain.free_pages(self.first_page, page_count)?;
        self.channel.close();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::Host;

    fn ring() -> (Host, FrontRing) {
        let host = Host::start().unwrap();
        let domain = host.new_domain(1).unwrap();
        let ring = FrontRing::new(&domain, Abi::X86_64, 0).unwrap();
        (host, ring)
    }

    #[test]
    fn a_fresh_ring_has_this_header() {
        let (_host, ring) = ring();
        let mut header = [0xff; 64];
        ring.domain.read_memory(ring.first_page, 0, &mut header);
        let mut expected = [0; 64];
        expected[4] = 1;
        expected[12] = 1;
        assert_eq!(header, expected);
        assert_eq!(ring.entry_count(), 32);
    }

    #[test]
    fn requests_fill_the_ring_and_responses_make_room() {
        let (_host, mut ring) = ring();
        for request in 0..32 {
            ring.put_request(&[request; 112]).unwrap();
        }
        assert_eq!(ring.free_entries(), 0);
        assert!(ring.put_request(&[0; 112]).is_err());
        assert_eq!(ring.request_producer(), 0);
        ring.push_requests();
        assert_eq!(ring.request_producer(), 32);
        assert_eq!(ring.read_entry(31), vec![31; 112]);
        assert_eq!(ring.take_response().unwrap(), None);
        ring.write_entry(0, &[9, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0]);
        ring.set_response_producer(1);
        let response = ring.take_response().unwrap().unwrap();
        assert_eq!(
            (response.id, response.operation, response.status),
            (9, 1, 0)
        );
        assert_eq!(ring.free_entries(), 1);
    }

    #[test]
    fn more_responses_than_requests_are_an_error() {
        let (_host, mut ring) = ring();
        ring.put_request(&[0; 112]).unwrap();
        ring.set_response_producer(2);
        assert_eq!(
            ring.take_response().unwrap_err().to_string(),
            "the backend broke the protocol: 2 responses to 1 requests"
        );
    }

    #[test]
    fn arming_sees_a_response_that_has_come_already() {
        let (_host, mut ring) = ring();
        ring.put_request(&[0; 112]).unwrap();
        assert!(!ring.arm_notification());
        assert_eq!(ring.response_event(), 1);
        ring.set_response_producer(1);
        assert!(ring.arm_notification());
    }
}
