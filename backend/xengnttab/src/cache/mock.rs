//! A mapper over heap memory that keeps account of what is mapped.
#![allow(unsafe_code)]

use std::collections::BTreeSet;
use std::io;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU8;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::{Access, DomId, Error, GrantRef, MappedPages, Mapper, PAGE_SIZE};

#[repr(C, align(4096))]
struct PageMemory([AtomicU8; PAGE_SIZE]);

/// Heap pages that note when they are "unmapped".
pub(crate) struct MockMapping {
    pages: Box<[PageMemory]>,
    access: Access,
    grefs: Vec<GrantRef>,
    account: Option<Arc<Mutex<Account>>>,
}

impl MockMapping {
    pub(crate) fn new(pages: usize, access: Access) -> Self {
        Self {
            pages: std::iter::repeat_with(|| PageMemory([const { AtomicU8::new(0) }; PAGE_SIZE]))
                .take(pages)
                .collect(),
            access,
            grefs: Vec::new(),
            account: None,
        }
    }
}

// SAFETY: the pages are on the heap until the value is dropped, and made of atomics, so that they may be
// written through the pointers; the slice checks the index.
unsafe impl MappedPages for MockMapping {
    fn page_count(&self) -> usize {
        self.pages.len()
    }

    fn access(&self) -> Access {
        self.access
    }

    fn page_ptr(&self, index: usize) -> NonNull<u8> {
        NonNull::from(&self.pages[index]).cast()
    }
}

impl Drop for MockMapping {
    fn drop(&mut self) {
        if let Some(account) = &self.account {
            let mut account = account.lock().expect("no panic while locked");
            account.mapped_pages -= self.grefs.len();
            account.unmapped.push(self.grefs.clone());
        }
    }
}

/// What a [`MockMapper`] has done, and what it is to refuse.
#[derive(Default)]
pub(crate) struct Account {
    /// Every call to map, in order, failed ones too.
    pub(crate) calls: Vec<(Vec<GrantRef>, Access)>,
    /// The batches unmapped, in order.
    pub(crate) unmapped: Vec<Vec<GrantRef>>,
    /// Pages mapped at the moment.
    pub(crate) mapped_pages: usize,
    /// Grants that are none.
    pub(crate) bad: BTreeSet<u32>,
    /// More pages than this are a shortage.
    pub(crate) host_pages_max: Option<usize>,
}

#[derive(Clone, Default)]
pub(crate) struct MockMapper(Arc<Mutex<Account>>);

impl MockMapper {
    pub(crate) fn account(&self) -> MutexGuard<'_, Account> {
        self.0.lock().expect("no panic while locked")
    }
}

impl Mapper for MockMapper {
    type Mapping = MockMapping;

    fn map(&self, domid: DomId, grefs: &[GrantRef], access: Access) -> Result<MockMapping, Error> {
        let mut account = self.account();
        account.calls.push((grefs.to_vec(), access));
        let is_bad = grefs.iter().any(|gref| account.bad.contains(&gref.0));
        let pages = account.mapped_pages + grefs.len();
        let errno = if is_bad {
            libc::EINVAL
        } else if account.host_pages_max.is_some_and(|max| pages > max) {
            libc::ENOMEM
        } else {
            account.mapped_pages = pages;
            let mut mapping = MockMapping::new(grefs.len(), access);
            mapping.grefs = grefs.to_vec();
            mapping.account = Some(Arc::clone(&self.0));
            return Ok(mapping);
        };
        Err(Error::Map {
            domid,
            first: grefs[0],
            count: grefs.len(),
            access,
            source: io::Error::from_raw_os_error(errno),
        })
    }
}
