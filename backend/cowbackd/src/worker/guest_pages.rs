//! The pages of a frontend: how data gets from them to the disk and back.
//!
//! A frontend that uses its grants again (`feature-persistent`) has its pages mapped and kept so. For all others, and where
//! there is no room for more mappings, data is copied by the hypervisor, which costs a fraction of mapping and unmapping a
//! page (figures in `docs/blkif.md`), all requests that were taken together in one call.
//!
//! Storage works on mapped pages themselves only if it is done with them whenever this process ends. Otherwise they are
//! copied here: while the kernel still reads or writes a page, it cannot unmap it for a process that was killed, and page
//! and grant are lost to dom0 (`docs/recovery.md`).

use std::ops::Range;
use std::rc::Rc;

use blkif::{IndirectRequest, RawSegment, Segment, TransferDirection};
use blockio::buffer::{Buffer, BufferPool};
use smallvec::SmallVec;
use xengnttab::{
    Bounds, CopyDirection, CopySegment, DomId, Error, Gnttab, GrantRef, GrantStatus, Mapping, Page,
    PersistentGrants, Resolved,
};

use super::foreign::{GrantCopies, GuestMemory, PagePart};

/// Most pages of a frontend that stay mapped for each of its queues; what Linux's blkback keeps by default.
const KEPT_PAGES_PER_QUEUE: usize = 1056;

/// Most mappings of a disk: of 65530 for all disks together, where nothing else was set.
const KEPT_BATCHES: usize = 1056;

/// Bytes of a segment's descriptor in the pages of an indirect request.
const DESCRIPTOR_BYTES: usize = 8;

/// The memory for the data of a request.
pub(super) struct GuestData {
    /// As long as the request's segments together.
    pub(super) buffer: Buffer,
    pub(super) exchange: Exchange,
}

/// How the content of a request's buffer is exchanged with the guest's pages.
pub(super) enum Exchange {
    /// Not at all: the buffer is the pages.
    InPlace,
    /// It came from them already.
    Fetched,
    /// It comes from them by these of the copies that [`GuestPages::run_copies`] makes.
    ByGrant(Range<usize>),
    /// It goes there when it has been read.
    Later(Destination),
}

/// Where what was read for a guest is to be copied to.
pub(super) enum Destination {
    /// Its pages, which are mapped.
    Mapped(Buffer),
    /// Its pages, by their grants.
    Granted(SmallVec<[Segment; 11]>),
}

/// The pages of one frontend.
pub(super) struct GuestPages {
    gnttab: Gnttab,
    domid: DomId,
    /// For frontends that use their grants again.
    kept: Option<PersistentGrants<Gnttab>>,
    /// Storage works on mapped pages themselves.
    in_place: bool,
    pool: BufferPool,
    copies: GrantCopies,
    /// Scratch space, kept to save allocations.
    pages: Vec<Page<Mapping>>,
}

impl GuestPages {
    pub(super) fn new(
        gnttab: Gnttab,
        domid: DomId,
        persistent: bool,
        in_place: bool,
        queues: usize,
        pool: BufferPool,
    ) -> Self {
        let bounds = Bounds {
            pages: KEPT_PAGES_PER_QUEUE * queues,
            batches: KEPT_BATCHES,
        };
        let kept = persistent.then(|| PersistentGrants::new(gnttab.clone(), domid, bounds));
        Self {
            gnttab,
            domid,
            kept,
            in_place,
            pool,
            copies: GrantCopies::default(),
            pages: Vec::new(),
        }
    }

    /// Memory for the segments of a transfer. What is to be written, and is not mapped, is there after the next
    /// [`GuestPages::run_copies`].
    ///
    /// # Errors
    /// If a grant is not what it should be.
    pub(super) fn data(
        &mut self,
        direction: TransferDirection,
        segments: &[Segment],
    ) -> Result<GuestData, Error> {
        let pages = self.mapped(segments)?;
        if let Some(buffer) = pages.as_ref().filter(|_| self.in_place) {
            return Ok(GuestData {
                buffer: buffer.clone(),
                exchange: Exchange::InPlace,
            });
        }
        let buffer = self.pool.take(segments.iter().map(Segment::byte_len).sum());
        let exchange = match (direction, pages) {
            (TransferDirection::Write, Some(pages)) => {
                buffer.copy_from(0, &pages, 0, pages.len());
                Exchange::Fetched
            }
            (TransferDirection::Write, None) => {
                let copies = self.copies.add(CopyDirection::FromGrant, segments, &buffer);
                Exchange::ByGrant(copies)
            }
            (TransferDirection::Read, Some(pages)) => Exchange::Later(Destination::Mapped(pages)),
            (TransferDirection::Read, None) => {
                Exchange::Later(Destination::Granted(segments.into()))
            }
        };
        Ok(GuestData { buffer, exchange })
    }

    /// The guest's pages themselves, if they are kept mapped or can be from now on.
    fn mapped(&mut self, segments: &[Segment]) -> Result<Option<Buffer>, Error> {
        let grefs: SmallVec<[GrantRef; 11]> = segments
            .iter()
            .map(|segment| GrantRef(segment.gref().0))
            .collect();
        if !self.resolve(&grefs)? {
            return Ok(None);
        }
        let parts = segments.iter().map(|segment| PagePart {
            offset: segment.byte_offset(),
            len: segment.byte_len(),
        });
        let memory = GuestMemory::new(self.pages.drain(..).zip(parts));
        Ok(Some(Buffer::from_memory(Rc::new(memory))))
    }

    /// Puts the mapped pages of grants into `pages`, and says whether it could.
    fn resolve(&mut self, grefs: &[GrantRef]) -> Result<bool, Error> {
        self.pages.clear();
        let Some(kept) = &mut self.kept else {
            return Ok(false);
        };
        match kept.resolve(grefs, &mut self.pages) {
            Ok(resolved) => Ok(resolved == Resolved::Mapped),
            // The host is short of memory or mappings; copying needs neither.
            Err(error) if error.is_shortage() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The descriptors of an indirect request: private copies.
    ///
    /// # Errors
    /// If a grant is not what it should be.
    pub(super) fn descriptors(
        &mut self,
        request: &IndirectRequest,
    ) -> Result<Vec<RawSegment>, Error> {
        let grefs: SmallVec<[GrantRef; 8]> = request
            .pages()
            .iter()
            .map(|page| GrantRef(page.0))
            .collect();
        let mut bytes = vec![0; usize::from(request.segment_count()) * DESCRIPTOR_BYTES];
        let pieces = bytes.chunks_mut(xengnttab::PAGE_SIZE).zip(&grefs);
        if self.resolve(&grefs)? {
            for ((piece, _), page) in pieces.zip(&self.pages) {
                page.copy_out(0, piece);
            }
            self.pages.clear();
        } else {
            let mut copies: SmallVec<[CopySegment<'_>; 8]> = pieces
                .map(|(to, gref)| CopySegment::FromGrant {
                    gref: *gref,
                    offset: 0,
                    to,
                })
                .collect();
            let results = self.gnttab.copy(self.domid, &mut copies)?;
            let bad = grefs.iter().zip(&results).find_map(|(gref, result)| {
                let status = result.err()?;
                Some((*gref, status))
            });
            if let Some((gref, status)) = bad {
                let domid = self.domid;
                return Err(Error::CopyRefused {
                    domid,
                    gref,
                    status,
                });
            }
        }
        Ok(RawSegment::decode_page(&bytes).collect())
    }

    /// Copies what was read into the guest's pages: now, or with those of the copies that [`GuestPages::run_copies`] makes.
    pub(super) fn give(
        &mut self,
        destination: &Destination,
        buffer: &Buffer,
    ) -> Option<Range<usize>> {
        match destination {
            Destination::Mapped(pages) => {
                pages.copy_from(0, buffer, 0, buffer.len());
                None
            }
            Destination::Granted(segments) => {
                Some(self.copies.add(CopyDirection::ToGrant, segments, buffer))
            }
        }
    }

    /// Makes the copies that were asked for since the last call; gives how each of them went.
    pub(super) fn run_copies(&mut self) -> CopyResults {
        CopyResults(self.copies.run(&self.gnttab, self.domid))
    }

    /// Unmaps what has not been used since the last call.
    pub(super) fn release_unused(&mut self) {
        if let Some(kept) = &mut self.kept {
            kept.release_unused();
        }
    }

    /// Pages that are kept mapped.
    pub(super) fn kept_count(&self) -> usize {
        self.kept.as_ref().map_or(0, PersistentGrants::len)
    }
}

/// How copies went.
pub(super) struct CopyResults(Result<Vec<Result<(), GrantStatus>>, Error>);

impl CopyResults {
    /// How those of one request went.
    ///
    /// # Errors
    /// Why they did not, for people.
    pub(super) fn of(&self, places: Range<usize>) -> Result<(), String> {
        match &self.0 {
            Ok(results) => results[places]
                .iter()
                .try_for_each(|result| result.map_err(|status| status.to_string())),
            Err(error) => Err(error.to_string()),
        }
    }
}
