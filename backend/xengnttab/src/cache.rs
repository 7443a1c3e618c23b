//! Grants of one frontend, resolved to pages: kept mapped, or mapped per request.

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

/// What a cache did so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CacheStats {
    /// Grants that were mapped already.
    pub hits: u64,
    /// Grants that had to be mapped.
    pub misses: u64,
    /// Of those, the ones that there was no room to keep.
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
/// evicted is the batch that was used the longest time ago and of which no page is in use. At most
/// `capacity` pages are kept. If there is no room because all of them are in use, the new ones are mapped
/// for this request only.
///
/// The frontend may take back a grant at any time: a page that is cached stays mapped nevertheless, and
/// what becomes of its content is the frontend's business.
pub struct PersistentGrants<M: Mapper> {
    mapper: M,
    domid: DomId,
    capacity: usize,
    places: FxHashMap<GrantRef, Place>,
    batches: Vec<Option<Batch<M::Mapping>>>,
    free_batches: Vec<usize>,
    clock: u64,
    stats: CacheStats,
}

impl<M: Mapper> PersistentGrants<M> {
    /// An empty cache for the grants of `domid`, of at most `capacity` pages.
    #[must_use]
    pub fn new(mapper: M, domid: DomId, capacity: usize) -> Self {
        Self {
            mapper,
            domid,
            capacity,
            places: FxHashMap::default(),
            batches: Vec::new(),
            free_batches: Vec::new(),
            clock: 0,
            stats: CacheStats::default(),
        }
    }

    /// Appends to `pages` the page of each of `grefs`, in order, mapping those that are not mapped yet.
    ///
    /// # Errors
    /// A grant cannot be mapped: if it is the grant's fault, the error is about this one alone. Nothing is
    /// appended; pages that were mapped before and others of `grefs` that could be stay cached.
    pub fn resolve(
        &mut self,
        grefs: &[GrantRef],
        pages: &mut Vec<Page<M::Mapping>>,
    ) -> Result<(), Error> {
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
            return Ok(());
        }
        let result = self.resolve_misses(grefs, pages, start);
        if result.is_err() {
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

    /// Unmaps every batch of which no page is in use.
    pub fn evict_idle(&mut self) {
        for batch in 0..self.batches.len() {
            if self.batches[batch].as_ref().is_some_and(Batch::is_idle) {
                self.evict(batch);
            }
        }
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
    ) -> Result<(), Error> {
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

        let unkept = self.map_missing(&missing)?;
        for gref in rest {
            let page = self
                .lookup(*gref)
                .or_else(|| find_unkept(&unkept, *gref))
                // Not reached: every missing grant is one or the other now, and nothing that this
                // request uses is evicted. But the frontend must not be able to disprove that.
                .ok_or(Error::NoGrants { domid: self.domid })?;
            pages.push(page);
        }
        Ok(())
    }

    /// Maps `missing`, together if that works, else one by one. Returns what there was no room to keep.
    fn map_missing(&mut self, missing: &[GrantRef]) -> Result<Unkept<M::Mapping>, Error> {
        let mut unkept = Vec::new();
        match self.map_batch(missing, &mut unkept) {
            Ok(()) => Ok(unkept),
            // gntdev does not tell which of them is bad. Those that are good are of use later.
            Err(error) if error.is_bad_grant() && missing.len() > 1 => {
                let mut first_error = None;
                for gref in missing {
                    if let Err(error) = self.map_batch(&[*gref], &mut unkept) {
                        first_error.get_or_insert(error);
                    }
                }
                first_error.map_or(Ok(unkept), Err)
            }
            Err(error) => Err(error),
        }
    }

    /// Maps `grefs` in one call and keeps them, or puts them into `unkept` if there is no room.
    fn map_batch(
        &mut self,
        grefs: &[GrantRef],
        unkept: &mut Unkept<M::Mapping>,
    ) -> Result<(), Error> {
        let room = self.make_room(grefs.len());
        let mut mapped = self.mapper.map(self.domid, grefs, Access::ReadWrite);
        if mapped.as_ref().is_err_and(Error::is_shortage) {
            // What is only kept for later is the first thing to give up.
            self.evict_unused_now();
            mapped = self.mapper.map(self.domid, grefs, Access::ReadWrite);
        }
        let mapping = Arc::new(mapped?);
        if room {
            self.insert(grefs, mapping);
        } else {
            self.stats.overflows += grefs.len() as u64;
            unkept.push((grefs.to_vec(), mapping));
        }
        Ok(())
    }

    /// Evicts idle batches, the least recently used first, until `count` more pages fit. Returns whether
    /// they do; if they cannot, nothing is evicted.
    fn make_room(&mut self, count: usize) -> bool {
        let Some(kept_max) = self.capacity.checked_sub(count) else {
            return false;
        };
        let Some(excess) = self.len().checked_sub(kept_max).filter(|e| *e > 0) else {
            return true;
        };
        let mut idle: Vec<(u64, usize, usize)> = self
            .evictable()
            .map(|(index, batch)| (batch.last_used, index, batch.grefs.len()))
            .collect();
        if idle.iter().map(|(.., pages)| pages).sum::<usize>() < excess {
            return false;
        }
        idle.sort_unstable();
        let mut freed = 0;
        for (_, index, pages) in idle {
            if freed >= excess {
                break;
            }
            self.evict(index);
            freed += pages;
        }
        true
    }

    /// Evicts all that this request does not use and nobody holds.
    fn evict_unused_now(&mut self) {
        let unused: Vec<usize> = self.evictable().map(|(index, _)| index).collect();
        for index in unused {
            self.evict(index);
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

/// Pages mapped for one request only.
type Unkept<T> = Vec<(Vec<GrantRef>, Arc<T>)>;

fn find_unkept<T: MappedPages>(unkept: &Unkept<T>, gref: GrantRef) -> Option<Page<T>> {
    unkept.iter().find_map(|(grefs, mapping)| {
        let page = grefs.iter().position(|g| *g == gref)?;
        Some(Page::new(Arc::clone(mapping), page))
    })
}

/// The pages of a frontend that makes new grants for each request: mapped in one call per request,
/// unmapped when the last page of the request is dropped.
///
/// Drop them before the request is answered: the frontend takes back its grants when it sees the answer,
/// and cannot while they are mapped.
pub struct TransientGrants<M> {
    mapper: M,
    domid: DomId,
}

impl<M: Mapper> TransientGrants<M> {
    /// For the grants of `domid`.
    #[must_use]
    pub const fn new(mapper: M, domid: DomId) -> Self {
        Self { mapper, domid }
    }

    /// Appends to `pages` the page of each of `grefs`, in order. A frontend may grant the pages of a
    /// write read-only: map them so.
    ///
    /// # Errors
    /// The grants cannot be mapped; nothing is appended. If one grant is to blame, the error does not say
    /// which.
    pub fn resolve(
        &mut self,
        grefs: &[GrantRef],
        access: Access,
        pages: &mut Vec<Page<M::Mapping>>,
    ) -> Result<(), Error> {
        if !grefs.is_empty() {
            let mapping = Arc::new(self.mapper.map(self.domid, grefs, access)?);
            pages.extend(Page::all_of(mapping));
        }
        Ok(())
    }
}

/// The pages of a frontend, whichever way it uses its grants.
pub enum Grants<M: Mapper> {
    /// The frontend has `feature-persistent`.
    Persistent(PersistentGrants<M>),
    /// It has not.
    Transient(TransientGrants<M>),
}

impl<M: Mapper> Grants<M> {
    /// Appends to `pages` the page of each of `grefs`, in order, mapped for at least `access`.
    ///
    /// # Errors
    /// As for [`PersistentGrants::resolve`] and [`TransientGrants::resolve`].
    pub fn resolve(
        &mut self,
        grefs: &[GrantRef],
        access: Access,
        pages: &mut Vec<Page<M::Mapping>>,
    ) -> Result<(), Error> {
        match self {
            Self::Persistent(grants) => grants.resolve(grefs, pages),
            Self::Transient(grants) => grants.resolve(grefs, access, pages),
        }
    }
}
