//! A ring and the requests on it.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU32, Ordering, fence};

use crate::Machine;
use crate::xen::{Channel, Mapping, PAGE_BYTES};

const HEADER_BYTES: usize = 64;
const SECTOR_BYTES: usize = 512;
/// The most segments of an indirect request that this backend takes.
pub(crate) const INDIRECT_SEGMENTS_MAX: usize = 256;

/// How the guest's pages are reached.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum PageAccess {
    Map,
    Persistent,
    Copy,
    /// As persistent, without having agreed on that with the guest.
    Leak,
}

/// Whether 64-bit numbers are aligned to 8 bytes, as on all ABIs but 32-bit x86.
#[derive(Clone, Copy)]
pub(crate) struct Layout {
    pub(crate) aligned_to_8: bool,
}

impl Layout {
    fn entry_bytes(self) -> usize {
        if self.aligned_to_8 { 112 } else { 108 }
    }

    fn id(self) -> usize {
        if self.aligned_to_8 { 8 } else { 4 }
    }
}

pub(crate) struct Ring {
    pages: Mapping,
    entry_count: u32,
    layout: Layout,
    pub(crate) channel: Channel,
    domain: u32,
    /// Both the next request to take and the next response to give: requests are served in order.
    next: u32,
    /// Pages that stay mapped.
    persistent: HashMap<u32, Mapping>,
}

struct Segment {
    grant: u32,
    offset: usize,
    bytes: usize,
}

impl Ring {
    pub(crate) fn new(
        machine: &Machine,
        domain: u32,
        grants: &[u32],
        port: u32,
        layout: Layout,
    ) -> io::Result<Self> {
        let pages = machine.grants.map(domain, grants, true)?;
        let fit = (grants.len() * PAGE_BYTES - HEADER_BYTES) / layout.entry_bytes();
        let mut ring = Self {
            pages,
            entry_count: 1 << fit.ilog2(),
            layout,
            channel: Channel::bind(machine.events, domain, port)?,
            domain,
            next: 0,
            persistent: HashMap::new(),
        };
        // All that an earlier process took it has answered, up to where the shared index says.
        ring.next = ring.word(8).load(Ordering::Acquire);
        Ok(ring)
    }

    fn word(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: the words are in the first page of the mapping, and aligned.
        let at = unsafe { self.pages.at().add(offset) }.cast();
        // SAFETY: as above; the mapping lives as long as the ring.
        unsafe { AtomicU32::from_ptr(at) }
    }

    /// Serves all requests that are there, and asks to be notified of the next.
    pub(crate) fn serve(&mut self, machine: &Machine) -> io::Result<()> {
        self.channel.take_event()?;
        loop {
            while self.next != self.word(0).load(Ordering::Acquire) {
                self.serve_next(machine)?;
            }
            self.word(4)
                .store(self.next.wrapping_add(1), Ordering::Release);
            fence(Ordering::SeqCst);
            if self.next == self.word(0).load(Ordering::Acquire) {
                return Ok(());
            }
        }
    }

    fn serve_next(&mut self, machine: &Machine) -> io::Result<()> {
        let slot = (self.next & (self.entry_count - 1)) as usize;
        let at = HEADER_BYTES + slot * self.layout.entry_bytes();
        let mut request = vec![0; self.layout.entry_bytes()];
        self.pages.read(at, &mut request);
        let id_at = self.layout.id();
        let id = request[id_at..id_at + 8].to_vec();
        let (operation, done) = self.execute(machine, &request);
        let status: i16 = match done {
            Ok(()) => 0,
            Err(error) => {
                println!("request failed: {error}");
                -1
            }
        };
        let mut response = id;
        response.extend([operation, 0]);
        response.extend(status.to_le_bytes());
        self.pages.write(at, &response);
        self.publish()
    }

    fn publish(&mut self) -> io::Result<()> {
        let old = self.next;
        self.next = old.wrapping_add(1);
        self.word(8).store(self.next, Ordering::Release);
        fence(Ordering::SeqCst);
        let event = self.word(12).load(Ordering::Acquire);
        if self.next.wrapping_sub(event) < 1 {
            self.channel.notify()?;
        }
        Ok(())
    }

    /// Executes a request; returns the operation for the response, and how it went.
    fn execute(&mut self, machine: &Machine, request: &[u8]) -> (u8, io::Result<()>) {
        let sector_at = self.layout.id() + 8;
        let sector = number(&request[sector_at..sector_at + 8]);
        match request[0] {
            operation @ 0..=2 => {
                let segments = segments(&request[sector_at + 8..], usize::from(request[1]));
                let done = self.transfer(machine, operation != 0, sector, &segments);
                (operation, done)
            }
            3 => (3, machine.image.sync_data()),
            5 => {
                let count = number(&request[sector_at + 8..sector_at + 16]);
                (5, zero(&machine.image, sector, count))
            }
            6 => {
                let done = self
                    .indirect_segments(machine, request)
                    .and_then(|segments| {
                        self.transfer(machine, request[1] != 0, sector, &segments)
                    });
                (request[1], done)
            }
            other => (other, Err(io::Error::other("unknown operation"))),
        }
    }

    fn indirect_segments(&mut self, machine: &Machine, request: &[u8]) -> io::Result<Vec<Segment>> {
        let count = usize::from(u16::from_le_bytes([request[2], request[3]]));
        if count > INDIRECT_SEGMENTS_MAX {
            return Err(io::Error::other("too many segments"));
        }
        // After the sector: the handle, and from the next multiple of four on the pages.
        let grants_at = self.layout.id() + 16 + 4;
        let grant = number(&request[grants_at..grants_at + 4]);
        let grant = u32::try_from(grant).map_err(io::Error::other)?;
        let mut table = vec![0; count * 8];
        let whole = Segment {
            grant,
            offset: 0,
            bytes: table.len(),
        };
        self.guest_page(machine, &whole, &mut table, false)?;
        Ok(segments(&table, count))
    }

    fn transfer(
        &mut self,
        machine: &Machine,
        is_write: bool,
        sector: u64,
        segments: &[Segment],
    ) -> io::Result<()> {
        let mut position = sector * SECTOR_BYTES as u64;
        for segment in segments {
            let mut buffer = vec![0; segment.bytes];
            if is_write {
                self.guest_page(machine, segment, &mut buffer, false)?;
                machine.image.write_all_at(&buffer, position)?;
            } else {
                machine.image.read_exact_at(&mut buffer, position)?;
                self.guest_page(machine, segment, &mut buffer, true)?;
            }
            position += segment.bytes as u64;
        }
        Ok(())
    }

    /// Copies between a part of a guest's page and a buffer.
    fn guest_page(
        &mut self,
        machine: &Machine,
        segment: &Segment,
        buffer: &mut [u8],
        into_guest: bool,
    ) -> io::Result<()> {
        let grants = &machine.grants;
        let fresh;
        let mapping = match machine.access {
            PageAccess::Copy => {
                let (grant, offset) = (segment.grant, segment.offset);
                return grants.copy(self.domain, grant, offset, buffer, into_guest);
            }
            PageAccess::Map => {
                fresh = grants.map(self.domain, &[segment.grant], into_guest)?;
                &fresh
            }
            PageAccess::Persistent | PageAccess::Leak => {
                if !self.persistent.contains_key(&segment.grant) {
                    let mapping = grants.map(self.domain, &[segment.grant], true)?;
                    self.persistent.insert(segment.grant, mapping);
                }
                &self.persistent[&segment.grant]
            }
        };
        if into_guest {
            mapping.write(segment.offset, buffer);
        } else {
            mapping.read(segment.offset, buffer);
        }
        Ok(())
    }
}

fn number(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .rev()
        .fold(0, |number, &byte| number << 8 | u64::from(byte))
}

fn segments(bytes: &[u8], count: usize) -> Vec<Segment> {
    bytes
        .chunks_exact(8)
        .take(count)
        .map(|one| Segment {
            grant: u32::from_le_bytes([one[0], one[1], one[2], one[3]]),
            offset: usize::from(one[4]) * SECTOR_BYTES,
            bytes: (usize::from(one[5]) + 1).saturating_sub(usize::from(one[4])) * SECTOR_BYTES,
        })
        .collect()
}

fn zero(image: &File, sector: u64, count: u64) -> io::Result<()> {
    let zeros = [0; SECTOR_BYTES];
    for index in sector..sector + count {
        image.write_all_at(&zeros, index * SECTOR_BYTES as u64)?;
    }
    Ok(())
}
