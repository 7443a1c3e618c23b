//! Hands out pages of a domain's memory, in contiguous runs.

use std::collections::BTreeMap;

use crate::ids::PageIndex;

/// Which pages are free: runs by their first page, never adjacent to each other.
#[derive(Debug)]
pub(super) struct PageAllocator {
    free_runs: BTreeMap<u32, u32>,
}

impl PageAllocator {
    /// All of `page_count` pages free.
    pub(super) fn new(page_count: u32) -> Self {
        Self {
            free_runs: BTreeMap::from([(0, page_count)]),
        }
    }

    /// Takes `count` pages in a row, the first that fit; `None` if there are none.
    pub(super) fn allocate(&mut self, count: u32) -> Option<PageIndex> {
        let (&start, &free) = self.free_runs.iter().find(|&(_, &free)| free >= count)?;
        self.free_runs.remove(&start);
        if free > count {
            self.free_runs.insert(start + count, free - count);
        }
        Some(PageIndex(start))
    }

    /// Gives pages back.
    pub(super) fn free(&mut self, first: PageIndex, count: u32) {
        let mut start = first.0;
        let mut length = count;
        if let Some((&before, &before_length)) = self.free_runs.range(..start).next_back() {
            assert!(
                before + before_length <= start,
                "page {first} is given back twice"
            );
            if before + before_length == start {
                self.free_runs.remove(&before);
                start = before;
                length += before_length;
            }
        }
        if let Some(after_length) = self.free_runs.remove(&(start + length)) {
            length += after_length;
        }
        self.free_runs.insert(start, length);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_merge_when_given_back() {
        let mut pages = PageAllocator::new(4);
        assert_eq!(pages.allocate(2), Some(PageIndex(0)));
        assert_eq!(pages.allocate(1), Some(PageIndex(2)));
        assert_eq!(pages.allocate(2), None);
        pages.free(PageIndex(0), 2);
        assert_eq!(pages.allocate(3), None);
        pages.free(PageIndex(2), 1);
        assert_eq!(pages.allocate(4), Some(PageIndex(0)));
    }

    #[test]
    #[should_panic(expected = "page 1 is given back twice")]
    fn giving_back_twice_panics() {
        let mut pages = PageAllocator::new(4);
        pages.allocate(2);
        pages.free(PageIndex(0), 2);
        pages.free(PageIndex(1), 1);
    }
}
