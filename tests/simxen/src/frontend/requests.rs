//! Requests and their completion.

use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;

use super::Frontend;
use super::abi::{
    DIRECT_SEGMENTS_MAX, INDIRECT_PAGES_MAX, Operation, Response, SECTOR_BYTES,
    SEGMENTS_PER_INDIRECT_PAGE, Segment,
};
use super::pages::DataPage;
use crate::error::{Error, Result};
use crate::hypervisor::Access;
use crate::ids::{GrantRef, PAGE_SIZE};

const SECTORS_PER_PAGE: usize = PAGE_SIZE / SECTOR_BYTES;

/// Names a request of a frontend; it goes over the ring as the blkif `id`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RequestId(pub u64);

/// A request. Sectors have 512 bytes, and lengths are multiples of that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request<'d> {
    /// Reads `bytes` bytes.
    Read {
        /// First sector.
        sector: u64,
        /// Length in bytes.
        bytes: usize,
    },
    /// Writes.
    Write {
        /// First sector.
        sector: u64,
        /// What to write.
        data: &'d [u8],
    },
    /// Writes as a barrier.
    WriteBarrier {
        /// First sector.
        sector: u64,
        /// What to write.
        data: &'d [u8],
    },
    /// Makes all that is written durable.
    Flush,
    /// Discards sectors.
    Discard {
        /// First sector.
        sector: u64,
        /// How many.
        sectors: u64,
        /// Whether nothing of them may be left readable.
        secure: bool,
    },
}

impl Request<'_> {
    fn operation(&self) -> Operation {
        match self {
            Self::Read { .. } => Operation::Read,
            Self::Write { .. } => Operation::Write,
            Self::WriteBarrier { .. } => Operation::WriteBarrier,
            Self::Flush => Operation::Flush,
            Self::Discard { .. } => Operation::Discard,
        }
    }

    fn sector(&self) -> u64 {
        match self {
            Self::Read { sector, .. }
            | Self::Write { sector, .. }
            | Self::WriteBarrier { sector, .. }
            | Self::Discard { sector, .. } => *sector,
            Self::Flush => 0,
        }
    }

    fn transfer_bytes(&self) -> usize {
        match self {
            Self::Read { bytes, .. } => *bytes,
            Self::Write { data, .. } | Self::WriteBarrier { data, .. } => data.len(),
            Self::Flush | Self::Discard { .. } => 0,
        }
    }
}

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Completion {
    /// Which one.
    pub id: RequestId,
    /// 0 fine, -1 error, -2 not supported.
    pub status: i16,
    /// What a successful read has read.
    pub data: Option<Vec<u8>>,
}

/// A request that is on the ring.
#[derive(Debug)]
pub(super) struct InFlight {
    operation: Operation,
    /// How a failure is described.
    description: String,
    /// Bytes to be taken out of the pages at the end.
    read_bytes: usize,
    data_pages: Vec<DataPage>,
    indirect_pages: Vec<DataPage>,
}

impl Frontend {
    /// Puts a request on the ring, on each queue in turn. If the ring is full, waits for others to complete first.
    ///
    /// # Errors
    /// [`Error::Unsupported`] if it has more segments than the options and the backend allow; as [`Self::wait`].
    pub fn submit(&mut self, request: &Request<'_>) -> Result<RequestId> {
        let queue = self.next_queue;
        self.next_queue = (queue + 1) % self.rings.len();
        self.submit_to(queue, request)
    }

    /// Puts a request on the ring of one queue, as [`Self::submit`].
    ///
    /// # Errors
    /// As [`Self::submit`].
    ///
    /// # Panics
    /// If there are not that many queues, or the length is not a multiple of a sector.
    pub fn submit_to(&mut self, queue: usize, request: &Request<'_>) -> Result<RequestId> {
        let deadline = Instant::now() + self.options.timeout;
        while self.rings[queue].free_entries() == 0 {
            self.wait_for_responses(deadline, "room on the ring")?;
        }
        let id = RequestId(self.next_id);
        self.next_id += 1;
        let (entry, in_flight) = self.prepare(id, request)?;
        self.rings[queue].put_request(&entry)?;
        self.in_flight.insert(id, in_flight);
        self.rings[queue].push_requests();
        Ok(id)
    }

    fn prepare(&mut self, id: RequestId, request: &Request<'_>) -> Result<(Vec<u8>, InFlight)> {
        let bytes = request.transfer_bytes();
        assert_eq!(
            bytes % SECTOR_BYTES,
            0,
            "{bytes} bytes are no whole sectors"
        );
        let page_count = bytes.div_ceil(PAGE_SIZE);
        if page_count > self.segments_max() {
            return Err(Error::Unsupported(format!(
                "a request of {page_count} segments, of {} that are allowed",
                self.segments_max()
            )));
        }
        let (access, data): (Access, &[u8]) = match request {
            Request::Write { data, .. } | Request::WriteBarrier { data, .. } => {
                (Access::ReadOnly, data)
            }
            _ => (Access::ReadWrite, &[]),
        };
        let data_pages = (0..page_count)
            .map(|_| self.pages.take(access))
            .collect::<Result<Vec<_>>>()?;
        for (page, chunk) in data_pages.iter().zip(data.chunks(PAGE_SIZE)) {
            self.disk.domain().write_memory(page.page, 0, chunk);
        }
        let segments = segments_of(&data_pages, bytes);
        let mut in_flight = InFlight {
            operation: request.operation(),
            description: describe(request),
            read_bytes: match request {
                Request::Read { bytes, .. } => *bytes,
                _ => 0,
            },
            data_pages,
            indirect_pages: Vec::new(),
        };
        let entry = self.encode(id, request, &segments, &mut in_flight.indirect_pages)?;
        Ok((entry, in_flight))
    }

    fn encode(
        &mut self,
        id: RequestId,
        request: &Request<'_>,
        segments: &[Segment],
        indirect_pages: &mut Vec<DataPage>,
    ) -> Result<Vec<u8>> {
        let abi = self.options.abi;
        let operation = request.operation().code();
        let sector = request.sector();
        let handle = self.handle();
        if let Request::Discard {
            sectors, secure, ..
        } = request
        {
            return Ok(abi.encode_discard(u8::from(*secure), handle, id.0, sector, *sectors));
        }
        if segments.len() <= DIRECT_SEGMENTS_MAX {
            return Ok(abi.encode_transfer(operation, handle, id.0, sector, segments));
        }
        for page_of_segments in segments.chunks(SEGMENTS_PER_INDIRECT_PAGE) {
            let page = self.pages.take(Access::ReadOnly)?;
            let bytes: Vec<u8> = page_of_segments
                .iter()
                .flat_map(|segment| segment.to_bytes())
                .collect();
            self.disk.domain().write_memory(page.page, 0, &bytes);
            indirect_pages.push(page);
        }
        let grants: Vec<GrantRef> = indirect_pages.iter().map(|page| page.grant).collect();
        let count = u16::try_from(segments.len()).expect("limited by `segments_max`");
        Ok(abi.encode_indirect(operation, count, handle, id.0, sector, &grants))
    }

    /// The virtual device's number as the `handle` of a request: its low 16 bits.
    #[must_use]
    pub fn handle(&self) -> u16 {
        let low_bits = self.disk.device_number() & 0xffff;
        u16::try_from(low_bits).expect("masked to 16 bits")
    }

    /// Most segments, and so pages, of one request.
    #[must_use]
    pub fn segments_max(&self) -> usize {
        let indirect = self
            .options
            .segments_max
            .min(self.info.indirect_segments_max) as usize;
        let direct = DIRECT_SEGMENTS_MAX.min(self.options.segments_max as usize);
        let format_limit = INDIRECT_PAGES_MAX * SEGMENTS_PER_INDIRECT_PAGE;
        direct.max(indirect).min(format_limit)
    }

    /// How many requests are not answered yet, the raw ones among them.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        let raw: u32 = self.raw_in_flight.values().sum();
        self.in_flight.len() + raw as usize
    }

    /// Waits for a request to complete.
    ///
    /// # Errors
    /// [`Error::Timeout`]; [`Error::Protocol`] or [`Error::GrantStillMapped`] if the backend does what makes Linux's
    /// blkfront give up the disk.
    pub fn wait(&mut self, id: RequestId) -> Result<Completion> {
        let deadline = Instant::now() + self.options.timeout;
        loop {
            if let Some(completion) = self.completed.remove(&id) {
                return Ok(completion);
            }
            self.wait_for_responses(deadline, &format!("the answer to request {:#x}", id.0))?;
        }
    }

    /// Waits for any request to complete that was not asked for yet.
    ///
    /// # Errors
    /// As [`Self::wait`].
    pub fn next_completion(&mut self) -> Result<Completion> {
        let deadline = Instant::now() + self.options.timeout;
        loop {
            if let Some((_, completion)) = self.completed.pop_first() {
                return Ok(completion);
            }
            self.wait_for_responses(deadline, "any answer")?;
        }
    }

    /// Takes the answers that have come, without waiting; returns the completions that were not asked for yet.
    ///
    /// # Errors
    /// As [`Self::wait`], without the timeout.
    pub fn poll_completions(&mut self) -> Result<Vec<Completion>> {
        self.take_responses()?;
        Ok(std::mem::take(&mut self.completed).into_values().collect())
    }

    /// Waits until nothing is in flight; completions stay to be asked for.
    ///
    /// # Errors
    /// As [`Self::wait`].
    pub fn complete_all(&mut self) -> Result<()> {
        let deadline = Instant::now() + self.options.timeout;
        while self.in_flight() > 0 {
            self.wait_for_responses(deadline, "the answers to all requests")?;
        }
        Ok(())
    }

    /// Reads `bytes` bytes from a sector on, in as many requests as it takes, all at once.
    ///
    /// # Errors
    /// [`Error::RequestFailed`]; as [`Self::wait`].
    pub fn read(&mut self, sector: u64, bytes: usize) -> Result<Vec<u8>> {
        let chunk_bytes = self.segments_max() * PAGE_SIZE;
        let mut ids = Vec::new();
        for start in (0..bytes).step_by(chunk_bytes) {
            ids.push(self.submit(&Request::Read {
                sector: sector + (start / SECTOR_BYTES) as u64,
                bytes: chunk_bytes.min(bytes - start),
            })?);
        }
        let mut data = Vec::with_capacity(bytes);
        for id in ids {
            data.extend(self.expect_success(id)?.data.unwrap_or_default());
        }
        Ok(data)
    }

    /// Writes from a sector on, in as many requests as it takes, all at once.
    ///
    /// # Errors
    /// [`Error::RequestFailed`]; as [`Self::wait`].
    pub fn write(&mut self, sector: u64, data: &[u8]) -> Result<()> {
        let chunk_bytes = self.segments_max() * PAGE_SIZE;
        let mut ids = Vec::new();
        for (index, chunk) in data.chunks(chunk_bytes).enumerate() {
            ids.push(self.submit(&Request::Write {
                sector: sector + (index * chunk_bytes / SECTOR_BYTES) as u64,
                data: chunk,
            })?);
        }
        for id in ids {
            self.expect_success(id)?;
        }
        Ok(())
    }

    /// Flushes, and waits for it.
    ///
    /// # Errors
    /// [`Error::RequestFailed`]; as [`Self::wait`].
    pub fn flush(&mut self) -> Result<()> {
        let id = self.submit(&Request::Flush)?;
        self.expect_success(id).map(drop)
    }

    /// Discards sectors, and waits for it.
    ///
    /// # Errors
    /// [`Error::RequestFailed`]; as [`Self::wait`].
    pub fn discard(&mut self, sector: u64, sectors: u64) -> Result<()> {
        let id = self.submit(&Request::Discard {
            sector,
            sectors,
            secure: false,
        })?;
        self.expect_success(id).map(drop)
    }

    fn expect_success(&mut self, id: RequestId) -> Result<Completion> {
        let description = match self.in_flight.get(&id) {
            Some(in_flight) => in_flight.description.clone(),
            None => format!("request {:#x}", id.0),
        };
        let completion = self.wait(id)?;
        if completion.status == 0 {
            return Ok(completion);
        }
        Err(Error::RequestFailed {
            request: description,
            status: completion.status,
        })
    }

    /// Puts any bytes on a ring as the next request, and publishes them. A response to `id` is then expected, and given
    /// out by [`Self::next_raw_response`].
    ///
    /// # Errors
    /// [`Error::Unsupported`] if the ring is full.
    ///
    /// # Panics
    /// If there are not that many queues.
    pub fn submit_raw(&mut self, queue: usize, id: u64, entry: &[u8]) -> Result<()> {
        self.rings[queue].put_request(entry)?;
        *self.raw_in_flight.entry(id).or_insert(0) += 1;
        self.rings[queue].push_requests();
        Ok(())
    }

    /// Waits for the next response to a raw request.
    ///
    /// # Errors
    /// As [`Self::wait`].
    pub fn next_raw_response(&mut self) -> Result<Response> {
        let deadline = Instant::now() + self.options.timeout;
        loop {
            if !self.raw_responses.is_empty() {
                return Ok(self.raw_responses.remove(0));
            }
            self.wait_for_responses(deadline, "the answer to a raw request")?;
        }
    }

    /// Takes at least one response from the rings, waiting for it if need be.
    fn wait_for_responses(&mut self, deadline: Instant, what: &str) -> Result<()> {
        loop {
            if self.take_responses()? > 0 {
                return Ok(());
            }
            let any_came = self
                .rings
                .iter()
                .map(super::ring::FrontRing::arm_notification)
                .fold(false, |any, came| any | came);
            if any_came {
                continue;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(self.timeout(what));
            }
            self.wait_for_notification(left)?;
        }
    }

    fn wait_for_notification(&self, limit: Duration) -> Result<()> {
        let limit = Timespec::try_from(limit).unwrap_or(Timespec {
            tv_sec: i64::MAX,
            tv_nsec: 0,
        });
        let descriptors: Vec<_> = self.rings.iter().map(|ring| ring.channel().fd()).collect();
        let mut polled: Vec<PollFd<'_>> = descriptors
            .iter()
            .map(|fd| PollFd::new(fd, PollFlags::IN))
            .collect();
        match rustix::event::poll(&mut polled, Some(&limit)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(Error::os("wait for the backend")(errno)),
        }
        for ring in &self.rings {
            ring.channel().take_pending();
        }
        Ok(())
    }

    fn timeout(&self, what: &str) -> Error {
        let rings: Vec<String> = self
            .rings
            .iter()
            .map(|ring| {
                format!(
                    "requests published {}, responses published {}",
                    ring.request_producer(),
                    ring.response_producer()
                )
            })
            .collect();
        let waiting = self.in_flight.values().map(|one| one.description.as_str());
        let waiting: Vec<&str> = waiting.collect();
        Error::Timeout {
            what: what.to_owned(),
            waited: self.options.timeout,
            last: format!("{}; in flight: {}", rings.join("; "), waiting.join(", ")),
        }
    }

    fn take_responses(&mut self) -> Result<usize> {
        let mut taken = 0;
        for queue in 0..self.rings.len() {
            while let Some(response) = self.rings[queue].take_response()? {
                self.complete(response)?;
                taken += 1;
            }
        }
        Ok(taken)
    }

    fn complete(&mut self, response: Response) -> Result<()> {
        let id = RequestId(response.id);
        let Some(in_flight) = self.in_flight.remove(&id) else {
            return self.complete_raw(response);
        };
        if response.operation != in_flight.operation.code() {
            return Err(Error::Protocol(format!(
                "{} was answered as operation {}",
                in_flight.description, response.operation
            )));
        }
        let is_read = in_flight.operation == Operation::Read;
        let data = (is_read && response.status == 0).then(|| self.gather(&in_flight));
        for page in in_flight
            .data_pages
            .into_iter()
            .chain(in_flight.indirect_pages)
        {
            self.pages.give_back(page)?;
        }
        let completion = Completion {
            id,
            status: response.status,
            data,
        };
        self.completed.insert(id, completion);
        Ok(())
    }

    fn gather(&self, in_flight: &InFlight) -> Vec<u8> {
        let mut data = vec![0; in_flight.read_bytes];
        for (page, chunk) in in_flight.data_pages.iter().zip(data.chunks_mut(PAGE_SIZE)) {
            self.disk.domain().read_memory(page.page, 0, chunk);
        }
        data
    }

    fn complete_raw(&mut self, response: Response) -> Result<()> {
        match self.raw_in_flight.get_mut(&response.id) {
            Some(count) if *count > 0 => {
                *count -= 1;
                self.raw_responses.push(response);
                Ok(())
            }
            _ => Err(Error::Protocol(format!(
                "an answer to request {:#x}, which is not in flight",
                response.id
            ))),
        }
    }
}

/// Data from the beginning of each page, the last one perhaps in part.
fn segments_of(pages: &[DataPage], bytes: usize) -> Vec<Segment> {
    let sectors = bytes / SECTOR_BYTES;
    pages
        .iter()
        .enumerate()
        .map(|(index, page)| {
            let left = sectors - index * SECTORS_PER_PAGE;
            let in_page = left.min(SECTORS_PER_PAGE);
            Segment {
                grant: page.grant,
                first_sector: 0,
                last_sector: u8::try_from(in_page - 1).expect("a page has eight sectors"),
            }
        })
        .collect()
}

fn describe(request: &Request<'_>) -> String {
    match request {
        Request::Read { sector, bytes } => format!("read of {bytes} bytes at sector {sector}"),
        Request::Write { sector, data } => {
            format!("write of {} bytes at sector {sector}", data.len())
        }
        Request::WriteBarrier { sector, data } => {
            format!("barrier of {} bytes at sector {sector}", data.len())
        }
        Request::Flush => "flush".to_owned(),
        Request::Discard {
            sector, sectors, ..
        } => {
            format!("discard of {sectors} sectors at sector {sector}")
        }
    }
}
