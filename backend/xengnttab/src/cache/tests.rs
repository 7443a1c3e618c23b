//! The cache's rules, against a mapper that keeps account.

use super::mock::{MockMapper, MockMapping};
use super::{Bounds, CacheStats, PersistentGrants, Resolved};
use crate::{Access, DomId, GrantRef, Page};

const DOMID: DomId = DomId(3);

fn grefs(numbers: &[u32]) -> Vec<GrantRef> {
    numbers.iter().copied().map(GrantRef).collect()
}

fn cache(pages: usize) -> (MockMapper, PersistentGrants<MockMapper>) {
    let batches = usize::MAX;
    bounded(Bounds { pages, batches })
}

fn bounded(bounds: Bounds) -> (MockMapper, PersistentGrants<MockMapper>) {
    let mapper = MockMapper::default();
    (mapper.clone(), PersistentGrants::new(mapper, DOMID, bounds))
}

type Pages = Vec<Page<MockMapping>>;

#[track_caller]
fn resolve(cache: &mut PersistentGrants<MockMapper>, numbers: &[u32]) -> Pages {
    try_resolve(cache, numbers).expect("there is room")
}

/// `None` if there is no room.
#[track_caller]
fn try_resolve(cache: &mut PersistentGrants<MockMapper>, numbers: &[u32]) -> Option<Pages> {
    let mut pages = Vec::new();
    let resolved = cache
        .resolve(&grefs(numbers), &mut pages)
        .expect("good grants");
    match resolved {
        Resolved::Mapped => assert_eq!(pages.len(), numbers.len()),
        Resolved::NoRoom => assert!(pages.is_empty()),
    }
    (resolved == Resolved::Mapped).then_some(pages)
}

/// The numbers of the grants in each call to map so far; forgets them.
fn calls(mapper: &MockMapper) -> Vec<Vec<u32>> {
    std::mem::take(&mut mapper.account().calls)
        .into_iter()
        .map(|(grefs, _)| grefs.into_iter().map(|gref| gref.0).collect())
        .collect()
}

/// The same for what was unmapped.
fn unmapped(mapper: &MockMapper) -> Vec<Vec<u32>> {
    std::mem::take(&mut mapper.account().unmapped)
        .into_iter()
        .map(|grefs| grefs.into_iter().map(|gref| gref.0).collect())
        .collect()
}

#[test]
fn misses_are_mapped_in_one_call_and_found_again() {
    let (mapper, mut cache) = cache(16);
    let first = resolve(&mut cache, &[10, 11, 12]);
    assert_eq!(calls(&mapper), [[10, 11, 12]]);
    let again = resolve(&mut cache, &[12, 10]);
    assert_eq!(calls(&mapper).len(), 0);
    assert_eq!(again[0].as_ptr(), first[2].as_ptr());
    assert_eq!(again[1].as_ptr(), first[0].as_ptr());
    assert_ne!(first[0].as_ptr(), first[1].as_ptr());
    assert_eq!(
        cache.stats(),
        CacheStats {
            hits: 2,
            misses: 3,
            ..CacheStats::default()
        }
    );
}

#[test]
fn hits_and_misses_mix_in_order() {
    let (mapper, mut cache) = cache(16);
    let old = resolve(&mut cache, &[1, 2]);
    let mixed = resolve(&mut cache, &[2, 7, 1, 8]);
    assert_eq!(calls(&mapper), [vec![1, 2], vec![7, 8]]);
    assert_eq!(mixed[0].as_ptr(), old[1].as_ptr());
    assert_eq!(mixed[2].as_ptr(), old[0].as_ptr());
    let new = resolve(&mut cache, &[8, 7]);
    assert_eq!(new[0].as_ptr(), mixed[3].as_ptr());
    assert_eq!(new[1].as_ptr(), mixed[1].as_ptr());
    assert_eq!((cache.stats().hits, cache.stats().misses), (4, 4));
}

#[test]
fn a_grant_that_is_used_twice_is_mapped_once() {
    let (mapper, mut cache) = cache(16);
    let pages = resolve(&mut cache, &[5, 5, 6, 5]);
    assert_eq!(calls(&mapper), [[5, 6]]);
    assert_eq!(pages[0].as_ptr(), pages[1].as_ptr());
    assert_eq!(pages[0].as_ptr(), pages[3].as_ptr());
}

#[test]
fn nothing_to_resolve() {
    let (mapper, mut cache) = cache(16);
    assert!(resolve(&mut cache, &[]).is_empty());
    assert!(calls(&mapper).is_empty());
}

#[test]
fn pages_are_always_mapped_writable() {
    let (mapper, mut cache) = cache(16);
    let pages = resolve(&mut cache, &[1]);
    assert_eq!(mapper.account().calls[0].1, Access::ReadWrite);
    pages[0].copy_in(0, b"x");
}

#[test]
fn the_least_recently_used_batch_goes_first() {
    let (mapper, mut cache) = cache(4);
    resolve(&mut cache, &[1, 2]);
    resolve(&mut cache, &[3]);
    resolve(&mut cache, &[4]);
    // Using one page of a batch keeps all of it.
    resolve(&mut cache, &[2]);
    assert!(
        unmapped(&mapper).is_empty(),
        "kept though nobody holds them"
    );
    resolve(&mut cache, &[5]);
    assert_eq!(unmapped(&mapper), [[3]]);
    resolve(&mut cache, &[6, 7]);
    assert_eq!(unmapped(&mapper), [vec![4], vec![1, 2]]);
    assert_eq!(cache.len(), 3);
    assert_eq!(cache.stats().evictions, 4);
    assert_eq!(mapper.account().mapped_pages, 3);
    // What was evicted is mapped anew.
    calls(&mapper);
    resolve(&mut cache, &[1]);
    assert_eq!(calls(&mapper), [[1]]);
}

#[test]
fn pages_in_use_are_never_unmapped() {
    let (mapper, mut cache) = cache(3);
    let in_flight = resolve(&mut cache, &[1, 2]);
    let kept: Pages = in_flight[1..].to_vec();
    drop(in_flight);
    resolve(&mut cache, &[3]);
    resolve(&mut cache, &[4]);
    assert_eq!(unmapped(&mapper), [[3]], "1 is older, but 2 is in use");
    drop(kept);
    resolve(&mut cache, &[5]);
    assert_eq!(unmapped(&mapper), [[1, 2]]);
}

#[test]
fn hits_of_a_request_are_not_evicted_for_its_misses() {
    let (mapper, mut cache) = cache(2);
    resolve(&mut cache, &[1]);
    resolve(&mut cache, &[2]);
    // 1 comes behind the first miss: nobody holds it when room is made.
    let pages = resolve(&mut cache, &[9, 1]);
    assert_eq!(unmapped(&mapper), [[2]]);
    assert_eq!(calls(&mapper), [[1], [2], [9]]);
    drop(pages);
}

#[test]
fn what_there_is_no_room_for_is_not_mapped() {
    let (mapper, mut cache) = cache(2);
    let busy = resolve(&mut cache, &[1, 2]);
    assert!(try_resolve(&mut cache, &[3, 2, 4]).is_none());
    assert_eq!(calls(&mapper), [[1, 2]]);
    assert_eq!((cache.len(), cache.stats().overflows), (2, 1));
    drop(busy);
    resolve(&mut cache, &[3]);
    assert_eq!(mapper.account().mapped_pages, 1);
}

#[test]
fn a_request_larger_than_the_cache() {
    let (mapper, mut cache) = cache(2);
    resolve(&mut cache, &[1]);
    assert!(try_resolve(&mut cache, &[2, 3, 4]).is_none());
    assert!(unmapped(&mapper).is_empty(), "1 is not given up in vain");
}

#[test]
fn a_cache_of_nothing_maps_nothing() {
    let (mapper, mut cache) = cache(0);
    assert!(try_resolve(&mut cache, &[1]).is_none());
    assert!(calls(&mapper).is_empty());
}

#[test]
fn batches_are_bounded_too() {
    let (mapper, mut cache) = bounded(Bounds {
        pages: 16,
        batches: 2,
    });
    resolve(&mut cache, &[1, 2]);
    let busy = resolve(&mut cache, &[3]);
    resolve(&mut cache, &[4]);
    assert_eq!(unmapped(&mapper), [[1, 2]]);
    let also_busy = resolve(&mut cache, &[4]);
    assert!(try_resolve(&mut cache, &[5]).is_none());
    drop((busy, also_busy));
    resolve(&mut cache, &[5]);
    assert_eq!(unmapped(&mapper), [[3]]);
}

#[test]
fn a_bad_grant_fails_its_request_alone() {
    let (mapper, mut cache) = cache(16);
    mapper.account().bad.extend([66, 67]);
    let mut pages = resolve(&mut cache, &[1]);
    calls(&mapper);
    let error = cache
        .resolve(&grefs(&[1, 2, 66, 3, 67]), &mut pages)
        .expect_err("66 and 67 are bad");
    assert!(error.is_bad_grant(), "{error}");
    assert_eq!(pages.len(), 1, "nothing appended");
    // One call whatever the guest asks for.
    assert_eq!(calls(&mapper), [[2, 66, 3, 67]]);
    resolve(&mut cache, &[1, 3, 2]);
    assert_eq!(calls(&mapper), [[3, 2]]);
}

#[test]
fn one_bad_grant_is_tried_once() {
    let (mapper, mut cache) = cache(16);
    mapper.account().bad.insert(66);
    cache
        .resolve(&grefs(&[66]), &mut Vec::new())
        .expect_err("66 is bad");
    assert_eq!(calls(&mapper), [[66]]);
    assert!(cache.is_empty());
}

#[test]
fn a_grant_that_was_bad_can_become_good() {
    let (mapper, mut cache) = cache(16);
    mapper.account().bad.insert(66);
    cache
        .resolve(&grefs(&[66]), &mut Vec::new())
        .expect_err("66 is bad");
    mapper.account().bad.clear();
    resolve(&mut cache, &[66]);
}

#[test]
fn a_shortage_costs_what_is_only_kept() {
    let (mapper, mut cache) = cache(16);
    mapper.account().host_pages_max = Some(3);
    resolve(&mut cache, &[1]);
    let busy = resolve(&mut cache, &[2]);
    resolve(&mut cache, &[3]);
    calls(&mapper);
    let pages = resolve(&mut cache, &[4, 5]);
    assert_eq!(calls(&mapper), [[4, 5], [4, 5]]);
    assert_eq!(unmapped(&mapper), [[1], [3]]);
    // Now all is in use, and nothing can be given up; nor is it tried grant by grant.
    let error = cache
        .resolve(&grefs(&[6, 7]), &mut Vec::new())
        .expect_err("no memory");
    assert!(error.is_shortage() && !error.is_bad_grant());
    assert_eq!(calls(&mapper), [[6, 7], [6, 7]]);
    drop((busy, pages));
}

#[test]
fn pages_outlive_the_cache() {
    let (mapper, mut cache) = cache(16);
    let pages = resolve(&mut cache, &[1, 2]);
    resolve(&mut cache, &[3]);
    drop(cache);
    assert_eq!(unmapped(&mapper), [[3]]);
    pages[0].copy_in(4095, &[1]);
    drop(pages);
    assert_eq!(unmapped(&mapper), [[1, 2]]);
}

#[test]
fn what_was_not_used_for_a_while_is_released() {
    let (mapper, mut cache) = cache(16);
    let busy = resolve(&mut cache, &[1]);
    resolve(&mut cache, &[2, 3]);
    resolve(&mut cache, &[4]);
    cache.release_unused();
    assert!(unmapped(&mapper).is_empty(), "all were used just now");
    resolve(&mut cache, &[4]);
    cache.release_unused();
    assert_eq!(unmapped(&mapper), [[2, 3]]);
    cache.release_unused();
    assert_eq!(unmapped(&mapper), [[4]]);
    drop(busy);
    cache.release_unused();
    assert_eq!(unmapped(&mapper), [[1]]);
    assert!(cache.is_empty());
}

#[test]
fn the_bound_holds_whatever_is_asked() {
    // A linear congruential generator: the same requests on every run.
    let mut state = 1_u32;
    let mut next = move |below: u32| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 16) % below
    };
    let (mapper, mut cache) = cache(20);
    let mut in_flight: Vec<Pages> = Vec::new();
    for _ in 0..20_000 {
        let numbers: Vec<u32> = (0..next(12)).map(|_| next(60)).collect();
        let Some(pages) = try_resolve(&mut cache, &numbers) else {
            continue;
        };
        // Each grant is one page, and distinct grants are distinct pages.
        for (i, a) in numbers.iter().enumerate() {
            for (j, b) in numbers.iter().enumerate() {
                assert_eq!(a == b, pages[i].as_ptr() == pages[j].as_ptr());
            }
        }
        in_flight.push(pages);
        while in_flight.len() > 3 {
            in_flight.swap_remove(next(4) as usize);
        }
        assert!(cache.len() <= 20);
        let held: usize = in_flight.iter().map(Vec::len).sum();
        // A page in use can keep its batch of up to 11 mapped.
        assert!(mapper.account().mapped_pages <= 20 + 11 * held);
    }
    in_flight.clear();
    assert_eq!(mapper.account().mapped_pages, cache.len());
    let stats = cache.stats();
    assert!(
        stats.hits > 0 && stats.evictions > 0 && stats.overflows > 0,
        "{stats:?}"
    );
}
