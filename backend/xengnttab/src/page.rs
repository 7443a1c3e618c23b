//! Handles of single pages.
#![allow(unsafe_code)]

use std::ptr::NonNull;
use std::sync::Arc;

use crate::{Access, PAGE_SIZE};

/// Pages that are mapped as long as the value lives.
///
/// # Safety
/// As long as the value lives, [`MappedPages::page_ptr`] returns for each index below
/// [`MappedPages::page_count`] the page-aligned start of [`PAGE_SIZE`] mapped bytes, always the same; they
/// are readable, and if [`MappedPages::access`] says so, writable. For other indices it panics.
pub unsafe trait MappedPages {
    /// How many pages there are.
    fn page_count(&self) -> usize;
    /// How they are mapped.
    fn access(&self) -> Access;
    /// The first byte of the page at `index`.
    fn page_ptr(&self, index: usize) -> NonNull<u8>;
}

/// A mapped page, and what keeps it mapped: hold it for as long as I/O on the page is in flight.
///
/// Cheap to clone.
#[derive(Debug)]
pub struct Page<M> {
    mapping: Arc<M>,
    index: usize,
}

impl<M> Clone for Page<M> {
    fn clone(&self) -> Self {
        Self {
            mapping: Arc::clone(&self.mapping),
            index: self.index,
        }
    }
}

impl<M: MappedPages> Page<M> {
    /// The page at `index` of a mapping.
    ///
    /// # Panics
    /// There is no such page.
    #[must_use]
    pub fn new(mapping: Arc<M>, index: usize) -> Self {
        assert!(index < mapping.page_count(), "page {index} does not exist");
        Self { mapping, index }
    }

    /// A handle for each page of a mapping, in order.
    pub(crate) fn all_of(mapping: Arc<M>) -> impl Iterator<Item = Self> {
        (0..mapping.page_count()).map(move |index| Self::new(Arc::clone(&mapping), index))
    }

    /// The first byte of the page: valid as long as this handle or a clone of it lives.
    ///
    /// The granting domain may write to the page at any time: never make a reference of it.
    #[must_use]
    pub fn as_ptr(&self) -> NonNull<u8> {
        self.mapping.page_ptr(self.index)
    }

    /// How the page is mapped.
    #[must_use]
    pub fn access(&self) -> Access {
        self.mapping.access()
    }

    /// Copies the bytes of the page from `offset` on into `buffer`, each of them once.
    ///
    /// # Panics
    /// The range is not within the page.
    pub fn copy_out(&self, offset: usize, buffer: &mut [u8]) {
        let start = self.range(offset, buffer.len());
        // Eight bytes at a time where they are aligned; the rest is for odd ranges.
        let mut at = 0;
        while at < buffer.len() {
            if (offset + at).is_multiple_of(8) && buffer.len() - at >= 8 {
                // SAFETY: `range` has checked that `at` and the 7 bytes after it are in the page.
                let word = unsafe { start.add(at) }.cast::<u64>();
                // SAFETY: the word is mapped as long as `self.mapping` lives, and aligned: pages are,
                // and so is `offset + at`. Volatile, as the other domain may be writing to it.
                let value = unsafe { word.read_volatile() };
                buffer[at..at + 8].copy_from_slice(&value.to_ne_bytes());
                at += 8;
            } else {
                // SAFETY: `range` has checked that `at` is in the page.
                let byte = unsafe { start.add(at) };
                // SAFETY: mapped as long as `self.mapping` lives; volatile as above.
                buffer[at] = unsafe { byte.read_volatile() };
                at += 1;
            }
        }
    }

    /// Copies `bytes` into the page from `offset` on.
    ///
    /// # Panics
    /// The range is not within the page, or the page is mapped read-only.
    pub fn copy_in(&self, offset: usize, bytes: &[u8]) {
        assert_eq!(
            self.access(),
            Access::ReadWrite,
            "a page mapped read-only cannot be written"
        );
        let start = self.range(offset, bytes.len());
        let mut at = 0;
        while at < bytes.len() {
            let word = bytes[at..].first_chunk::<8>();
            if let (Some(&word), true) = (word, (offset + at).is_multiple_of(8)) {
                // SAFETY: `range` has checked that `at` and the 7 bytes after it are in the page.
                let target = unsafe { start.add(at) }.cast::<u64>();
                // SAFETY: the word is mapped writable as long as `self.mapping` lives, and aligned: pages
                // are, and so is `offset + at`. Volatile, as the other domain may be using it.
                unsafe { target.write_volatile(u64::from_ne_bytes(word)) };
                at += 8;
            } else {
                // SAFETY: `range` has checked that `at` is in the page.
                let target = unsafe { start.add(at) };
                // SAFETY: mapped writable as long as `self.mapping` lives; volatile as above.
                unsafe { target.write_volatile(bytes[at]) };
                at += 1;
            }
        }
    }

    /// The byte at `offset`, from which `len` bytes are in the page.
    fn range(&self, offset: usize, len: usize) -> NonNull<u8> {
        assert!(
            offset <= PAGE_SIZE && len <= PAGE_SIZE - offset,
            "{len} bytes at {offset} are not in a page"
        );
        // SAFETY: the assertion keeps the offset within the page, at most one past its end.
        unsafe { self.as_ptr().add(offset) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::mock::MockMapping;

    fn page(access: Access) -> Page<MockMapping> {
        Page::new(Arc::new(MockMapping::new(2, access)), 1)
    }

    #[test]
    fn copies_of_any_range() {
        let page = page(Access::ReadWrite);
        let bytes: Vec<u8> = (0..=250).cycle().take(PAGE_SIZE).collect();
        page.copy_in(0, &bytes);
        for (offset, len) in [
            (0, 4096),
            (0, 0),
            (4096, 0),
            (1, 6),
            (3, 30),
            (8, 8),
            (4090, 6),
        ] {
            let mut out = vec![0xff; len];
            page.copy_out(offset, &mut out);
            assert_eq!(out, bytes[offset..offset + len], "{len} bytes at {offset}");
        }
        page.copy_in(5, &[0xee; 20]);
        let mut out = [0; 32];
        page.copy_out(0, &mut out);
        assert_eq!(out[..5], bytes[..5]);
        assert_eq!(out[5..25], [0xee; 20]);
        assert_eq!(out[25..], bytes[25..32]);
    }

    #[test]
    #[should_panic(expected = "2 bytes at 4095 are not in a page")]
    fn reading_beyond_the_page() {
        page(Access::ReadOnly).copy_out(4095, &mut [0; 2]);
    }

    #[test]
    #[should_panic(expected = "18446744073709551615 are not in a page")]
    fn reading_far_beyond_the_page() {
        page(Access::ReadOnly).copy_out(usize::MAX, &mut [0; 2]);
    }

    #[test]
    #[should_panic(expected = "cannot be written")]
    fn writing_to_a_read_only_page() {
        page(Access::ReadOnly).copy_in(0, &[0]);
    }

    #[test]
    #[should_panic(expected = "page 2 does not exist")]
    fn a_page_that_does_not_exist() {
        let _ = Page::new(Arc::new(MockMapping::new(2, Access::ReadOnly)), 2);
    }
}
