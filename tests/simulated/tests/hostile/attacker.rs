//! A frontend that puts anything at all on its ring.

use simxen::frontend::{Response, Segment};
use simxen::{Abi, Access, Domain, Frontend, GrantRef, PageIndex};

/// Answers, as on the ring.
pub(crate) const OKAY: i16 = 0;
pub(crate) const ERROR: i16 = -1;
pub(crate) const NOT_SUPPORTED: i16 = -2;

/// Operations, as on the ring.
pub(crate) const READ: u8 = 0;
pub(crate) const WRITE: u8 = 1;
pub(crate) const BARRIER: u8 = 2;
pub(crate) const FLUSH: u8 = 3;

/// What all segments here are unless it matters: a whole page.
pub(crate) fn whole(grant: GrantRef) -> Segment {
    part(grant, 0, 7)
}

pub(crate) fn part(grant: GrantRef, first_sector: u8, last_sector: u8) -> Segment {
    Segment {
        grant,
        first_sector,
        last_sector,
    }
}

/// A connected frontend.
pub(crate) struct Attacker {
    pub(crate) frontend: Frontend,
    next_id: u64,
}

/// A page that is granted to the backend.
#[derive(Clone, Copy)]
pub(crate) struct GrantedPage {
    pub(crate) page: PageIndex,
    pub(crate) grant: GrantRef,
}

impl Attacker {
    pub(crate) fn new(frontend: Frontend) -> Self {
        Self {
            frontend,
            next_id: 1,
        }
    }

    pub(crate) fn domain(&self) -> Domain {
        self.frontend.domain().clone()
    }

    pub(crate) fn abi(&self) -> Abi {
        self.frontend.abi()
    }

    /// Grants a page of bytes.
    pub(crate) fn page(&self, fill: u8) -> GrantedPage {
        self.page_for(fill, Access::ReadWrite)
    }

    pub(crate) fn page_for(&self, fill: u8, access: Access) -> GrantedPage {
        let domain = self.frontend.domain();
        let page = domain.allocate_pages(1).unwrap();
        domain.fill_pages(page, 1, fill);
        let grant = domain.grant(page, access).unwrap();
        GrantedPage { page, grant }
    }

    /// A read, write, barrier or flush.
    pub(crate) fn transfer(&self, operation: u8, sector: u64, segments: &[Segment]) -> Vec<u8> {
        let handle = self.frontend.handle();
        self.abi()
            .encode_transfer(operation, handle, 0, sector, segments)
    }

    /// An indirect request whose descriptors are in a page of their own.
    pub(crate) fn indirect(&self, operation: u8, sector: u64, segments: &[Segment]) -> Vec<u8> {
        let pages: Vec<GrantRef> = segments
            .chunks(512)
            .map(|segments| self.descriptors(segments).grant)
            .collect();
        let count = u16::try_from(segments.len()).unwrap();
        self.indirect_in(operation, count, sector, &pages)
    }

    pub(crate) fn indirect_in(
        &self,
        operation: u8,
        count: u16,
        sector: u64,
        pages: &[GrantRef],
    ) -> Vec<u8> {
        let handle = self.frontend.handle();
        self.abi()
            .encode_indirect(operation, count, handle, 0, sector, pages)
    }

    /// A page of segments' descriptors.
    pub(crate) fn descriptors(&self, segments: &[Segment]) -> GrantedPage {
        let page = self.page(0);
        let bytes: Vec<u8> = segments.iter().flat_map(|one| one.to_bytes()).collect();
        self.frontend.domain().write_memory(page.page, 0, &bytes);
        page
    }

    pub(crate) fn discard(&self, flag: u8, sector: u64, count: u64) -> Vec<u8> {
        let handle = self.frontend.handle();
        self.abi().encode_discard(flag, handle, 0, sector, count)
    }

    /// Puts a request on a ring without waiting; gives the identifier that it was given.
    pub(crate) fn send(&mut self, queue: usize, mut entry: Vec<u8>) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        let at = if self.abi() == Abi::X86_32 { 4 } else { 8 };
        entry[at..at + 8].copy_from_slice(&id.to_le_bytes());
        self.frontend.submit_raw(queue, id, &entry).unwrap();
        id
    }

    /// Puts a request on the ring and waits for its answer.
    pub(crate) fn ask(&mut self, entry: Vec<u8>) -> i16 {
        let id = self.send(0, entry);
        let answer = self.frontend.next_raw_response().unwrap();
        assert_eq!(answer.id, id);
        answer.status
    }

    /// The next answer to any of the requests.
    pub(crate) fn answer(&mut self) -> Response {
        self.frontend.next_raw_response().unwrap()
    }
}
