//! Grants of one frontend that are kept mapped.

use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::page::{MappedPages, Page};
use crate::{Access, DomId, Error, Gnttab, GrantRef, Mapping};

#[cfg(test)]
pub(crate) mod mock;
#[cfg(test)]
mod tests;

/// What maps grants: [`Gnttab`], or a simulation of it.
pub trait Mapper {
    /// Mapped pages; dropping it unmaps them.
    type Mapping: MappedPages;

    /// Maps all of `grefs` or none, in order.
    ///
    /// # Errors
    /// As for [`Gnttab::map`].
    fn map(&self, domid: DomId, grefs: &[GrantRef], access: Access)
    -> Result<Self::Mapping, Error>;
}

impl Mapper for Gnttab {
    type Mapping = Mapping;

    fn map(&self, domid: DomId, grefs: &[GrantRef], access: Access) -> Result<Mapping, Error> {
        self.map(domid, grefs, access)
    }
}

/// How much a cache keeps mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Most pages.
    pub pages: usize,
    /// Most batches, each of which is a mapping of the process: the kernel bounds those of all disks together
    /// (`vm.max_map_count`).
    pub batches: usize,
}

/// Whether grants were resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolved {
    /// Each to its page.
    Mapped,
    /// Not: too much is in use.
    NoRoom,
}

/// What a cache did so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Grants that were mapped already.
    pub hits: u64,
    /// Grants that had to be mapped.
    pub misses: u64,
    /// Requests that there was no room for.
    pub overflows: u64,
    /// Pages unmapped to make room.
    pub evictions: u64,
}

/// Pages that were mapped by one call and are unmapped together.
struct Batch<T> {
    mapping: Arc<T>,
    grefs: Vec<GrantRef>,
    last_used: u64,
}

impl<T> Batch<T> {
    /// Whether nobody else holds a page of it. As only the cache can make new handles, and it is borrowed
    /// mutably, this cannot change from idle to busy meanwhile.
    fn is_idle(&self) -> bool {
        Arc::strong_count(&self.mapping) == 1
    }
}

/// Where a cached page is.
#[derive(Clone, Copy)]
struct Place {
    batch: usize,
    page: usize,
}

/// The pages of a frontend that uses its grants again (`feature-persistent` of `blkif.h`), kept mapped.
///
/// Pages are always mapped for reading and writing, as Linux's blkback does, since a later request may
/// use the same grant the other way around; `blkif.h` (note 8) obliges such frontends to allow it.
///
/// Grants that are not mapped yet are mapped in one call per request, and unmapped together: what is
/// evicted is the batch that was used the longest time ago and of which no page is in use. If there is no room
/// because all of them are in use, nothing is mapped: the caller copies instead.
///
/// The frontend may take back a grant at any time: a page that is cached stays mapped nevertheless, and
/// what becomes of its content is the frontend's business.
pub struct PersistentGrants<M: Mapper> {
    mapper: M,
    domid: DomId,
    bounds: Bounds,
    places: FxHashMap<GrantRef, Place>,
    batches: Vec<Option<Batch<M::Mapping>>>,
    free_batches: Vec<usize>,
    clock: u64,
    /// The clock when unused pages were last released.
    released_at: u64,
    stats: CacheStats,
}

impl<M: Mapper> PersistentGrants<M> {
    /// An empty cache for the grants of `domid`.
    #[must_use]
    pub fn new(mapper: M, domid: DomId, bounds: Bounds) -> Self {
        Self {
            mapper,
            domid,
            bounds,
            places: FxHashMap::default(),
            batches: Vec::new(),
            free_batches: Vec::new(),
            clock: 0,
            released_at: 0,
            stats: CacheStats::default(),
        }
    }

    /// Appends to `pages` the page of each of `grefs`, in order, mapping those that are not mapped yet; or nothing, if
    /// there is no room for them.
    ///
    /// # Errors
    /// They cannot be mapped: one of the grants is bad, or the host is short of something. Nothing is appended.
    pub fn resolve(
        &mut self,
        grefs: &[GrantRef],
        pages: &mut Vec<Page<M::Mapping>>,
    ) -> Result<Resolved, Error> {
        self.clock += 1;
        let start = pages.len();
        for gref in grefs {
            match self.lookup(*gref) {
                Some(page) => pages.push(page),
                None => break,
            }
        }
        if pages.len() - start == grefs.len() {
            self.stats.hits += grefs.len() as u64;
            return Ok(Resolved::Mapped);
        }
        let result = self.resolve_misses(grefs, pages, start);
        if !matches!(result, Ok(Resolved::Mapped)) {
            pages.truncate(start);
        }
        result
    }

    /// Pages that are kept mapped.
    #[must_use]
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Whether nothing is kept mapped.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// What the cache did so far.
    #[must_use]
    pub const fn stats(&self) -> CacheStats {
        self.stats
    }

    /// Unmaps what was not used since the last call and is not in use.
    pub fn release_unused(&mut self) {
        let since = std::mem::replace(&mut self.released_at, self.clock);
        self.evict_where(|batch| batch.last_used <= since);
    }

    /// The cached page of a grant, which is thereby used.
    fn lookup(&mut self, gref: GrantRef) -> Option<Page<M::Mapping>> {
        let place = *self.places.get(&gref)?;
        let batch = self.batches[place.batch].as_mut()?;
        batch.last_used = self.clock;
        Some(Page::new(Arc::clone(&batch.mapping), place.page))
    }

    /// Appends the pages of `grefs` from the first that is not cached on; those before it are already in
    /// `pages` from `start` on.
    fn resolve_misses(
        &mut self,
        grefs: &[GrantRef],
        pages: &mut Vec<Page<M::Mapping>>,
        start: usize,
    ) -> Result<Resolved, Error> {
        let rest = &grefs[pages.len() - start..];
        let mut missing: Vec<GrantRef> = Vec::with_capacity(rest.len());
        for gref in rest {
            if let Some(place) = self.places.get(gref) {
                // Not to be evicted for the missing ones, though nobody holds it yet.
                if let Some(batch) = &mut self.batches[place.batch] {
                    batch.last_used = self.clock;
                }
            } else if !missing.contains(gref) {
                missing.push(*gref);
            }
        }
        self.stats.hits += (grefs.len() - missing.len()) as u64;
        self.stats.misses += missing.len() as u64;

        if !self.make_room(missing.len()) {
            self.stats.overflows += 1;
            return Ok(Resolved::NoRoom);
        }
        let mapping = self.map(&missing)?;
        self.insert(&missing, Arc::new(mapping));
        for gref in rest {
            let page = self
                .lookup(*gref)
                // Not reached: each is cached now, and nothing that this request uses is evicted. But the frontend must
                // not be able to disprove that.
                .ok_or(Error::NoGrants { domid: self.domid })?;
            pages.push(page);
        }
        Ok(Resolved::Mapped)
    }

    /// Maps `missing` in one call. One bad grant among them fails it: to find out which, each would have to be tried
    /// alone, and a guest could have that done for every request.
    fn map(&mut self, missing: &[GrantRef]) -> Result<M::Mapping, Error> {
        let mapped = self.mapper.map(self.domid, missing, Access::ReadWrite);
        if mapped.as_ref().is_err_and(Error::is_shortage) {
            // What is only kept for later is the first thing to give up.
            let now = self.clock;
            self.evict_where(|batch| batch.last_used < now);
            return self.mapper.map(self.domid, missing, Access::ReadWrite);
        }
        mapped
    }

    /// Evicts idle batches, the least recently used first, until a batch of `count` more pages fits. Returns whether
    /// it does; if it cannot, nothing is evicted.
    fn make_room(&mut self, count: usize) -> bool {
        let batches = self.batches.len() - self.free_batches.len();
        let (Some(pages_max), Some(batches_max)) = (
            self.bounds.pages.checked_sub(count),
            self.bounds.batches.checked_sub(1),
        ) else {
            return false;
        };
        let mut pages_over = self.len().saturating_sub(pages_max);
        let mut batches_over = batches.saturating_sub(batches_max);
        if pages_over == 0 && batches_over == 0 {
            return true;
        }
        let mut idle: Vec<(u64, usize, usize)> = self
            .evictable()
            .map(|(index, batch)| (batch.last_used, index, batch.grefs.len()))
            .collect();
        let idle_pages = idle.iter().map(|(.., pages)| pages).sum::<usize>();
        if idle_pages < pages_over || idle.len() < batches_over {
            return false;
        }
        idle.sort_unstable();
        for (_, index, pages) in idle {
            if pages_over == 0 && batches_over == 0 {
                break;
            }
            self.evict(index);
            pages_over = pages_over.saturating_sub(pages);
            batches_over = batches_over.saturating_sub(1);
        }
        true
    }

    fn evict_where(&mut self, unwanted: impl Fn(&Batch<M::Mapping>) -> bool) {
        for index in 0..self.batches.len() {
            let batch = self.batches[index].as_ref();
            if batch.is_some_and(|batch| batch.is_idle() && unwanted(batch)) {
                self.evict(index);
            }
        }
    }

    /// Batches that are idle and not part of the request at hand.
    fn evictable(&self) -> impl Iterator<Item = (usize, &Batch<M::Mapping>)> {
        self.batches
            .iter()
            .enumerate()
            .filter_map(|(index, batch)| Some((index, batch.as_ref()?)))
            .filter(|(_, batch)| batch.is_idle() && batch.last_used < self.clock)
    }

    fn evict(&mut self, index: usize) {
        if let Some(batch) = self.batches[index].take() {
            for gref in &batch.grefs {
                self.places.remove(gref);
            }
            self.stats.evictions += batch.grefs.len() as u64;
            self.free_batches.push(index);
        }
    }

    fn insert(&mut self, grefs: &[GrantRef], mapping: Arc<M::Mapping>) {
        let batch = self.free_batches.pop().unwrap_or_else(|| {
            self.batches.push(None);
            self.batches.len() - 1
        });
        for (page, gref) in grefs.iter().enumerate() {
            self.places.insert(*gref, Place { batch, page });
        }
        self.batches[batch] = Some(Batch {
            mapping,
            grefs: grefs.to_vec(),
            last_used: self.clock,
        });
    }
}
