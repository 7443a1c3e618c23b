//! Copying to and from granted pages without mapping them.
#![allow(unsafe_code)]

use std::fmt;
use std::ptr::NonNull;

use crate::abi::{COPY_DEST_GREF, COPY_SOURCE_GREF, GrantCopySegment, foreign};
use crate::device::Gnttab;
use crate::{DomId, Error, GrantRef, PAGE_SIZE};

/// One copy between local memory and a part of a granted page.
#[derive(Debug)]
pub enum CopySegment<'a> {
    /// From the page into `to`.
    FromGrant {
        /// The page.
        gref: GrantRef,
        /// Where in the page, in bytes.
        offset: usize,
        /// Where to; its length is that of the copy. May be changed even if the copy fails.
        to: &'a mut [u8],
    },
    /// From `from` into the page.
    ToGrant {
        /// The page.
        gref: GrantRef,
        /// Where in the page, in bytes.
        offset: usize,
        /// Where from; its length is that of the copy.
        from: &'a [u8],
    },
}

/// Why the hypervisor did not do one copy: a negative `GNTST_*` of Xen's `grant_table.h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GrantStatus(pub i16);

impl fmt::Display for GrantStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.0 {
            -2 => "bad domain",
            -3 => "bad grant reference",
            -8 => "permission denied",
            -9 => "bad page",
            -10 => "copy crosses a page",
            -12 => "try again",
            _ => "error",
        };
        write!(f, "{name} (grant status {})", self.0)
    }
}

impl std::error::Error for GrantStatus {}

/// One copy between memory that is known by its address and a part of a granted page.
#[derive(Clone, Copy, Debug)]
pub struct RawCopy {
    /// The page.
    pub gref: GrantRef,
    /// Where in the page, in bytes.
    pub offset: usize,
    /// The memory.
    pub local: NonNull<u8>,
    /// How many bytes; the range must be within the page.
    pub len: usize,
    /// Which way.
    pub direction: CopyDirection,
}

/// Which way a copy goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyDirection {
    /// Out of the granted page.
    FromGrant,
    /// Into the granted page.
    ToGrant,
}

impl Gnttab {
    /// Copies `segments` to and from pages of domain `domid`, in one batch. The result has one entry per
    /// segment: a segment that fails does not keep the others from being copied.
    ///
    /// # Errors
    /// A segment is not within its page (then nothing is copied), or the batch failed as a whole.
    pub fn copy(
        &self,
        domid: DomId,
        segments: &mut [CopySegment<'_>],
    ) -> Result<Vec<Result<(), GrantStatus>>, Error> {
        let copies: Vec<RawCopy> = segments.iter_mut().map(RawCopy::of).collect();
        // SAFETY: the addresses are those of the slices in `segments`, borrowed until the call returns, mutably where
        // they are destinations, and the lengths are theirs.
        unsafe { self.copy_raw(domid, &copies) }
    }

    /// As [`copy`](Self::copy), for memory that is not in slices.
    ///
    /// # Safety
    /// The memory of each of `copies` must be mapped, and writable where it is the destination, until the call returns,
    /// and no Rust reference to what is written may be alive.
    ///
    /// # Errors
    /// As for [`copy`](Self::copy).
    pub unsafe fn copy_raw(
        &self,
        domid: DomId,
        copies: &[RawCopy],
    ) -> Result<Vec<Result<(), GrantStatus>>, Error> {
        if copies.is_empty() {
            return Ok(Vec::new());
        }
        let mut wire = copies
            .iter()
            .map(|copy| encode(domid, copy))
            .collect::<Result<Vec<_>, _>>()?;
        // SAFETY: the caller vouches for the addresses, and `encode` took them and the lengths over as they are.
        unsafe { self.grant_copy(&mut wire) }.map_err(|source| Error::Copy {
            domid,
            count: copies.len(),
            source,
        })?;
        Ok(wire
            .iter()
            .map(|segment| match segment.status {
                0 => Ok(()),
                status => Err(GrantStatus(status)),
            })
            .collect())
    }
}

impl RawCopy {
    fn of(segment: &mut CopySegment<'_>) -> Self {
        match segment {
            CopySegment::FromGrant { gref, offset, to } => Self {
                gref: *gref,
                offset: *offset,
                len: to.len(),
                local: NonNull::from(&mut **to).cast(),
                direction: CopyDirection::FromGrant,
            },
            CopySegment::ToGrant { gref, offset, from } => Self {
                gref: *gref,
                offset: *offset,
                len: from.len(),
                local: NonNull::from(*from).cast(),
                direction: CopyDirection::ToGrant,
            },
        }
    }
}

fn encode(domid: DomId, copy: &RawCopy) -> Result<GrantCopySegment, Error> {
    let RawCopy {
        gref, offset, len, ..
    } = *copy;
    let beyond = Error::CopyBeyondPage {
        domid,
        gref,
        offset,
        len,
    };
    if offset > PAGE_SIZE || len > PAGE_SIZE - offset {
        return Err(beyond);
    }
    let (Ok(in_page), Ok(len)) = (u16::try_from(offset), u16::try_from(len)) else {
        return Err(beyond);
    };
    let granted = foreign(gref, in_page, domid);
    let local = copy.local.as_ptr().expose_provenance() as u64;
    let (source, dest, flags) = match copy.direction {
        CopyDirection::FromGrant => (granted, local, COPY_SOURCE_GREF),
        CopyDirection::ToGrant => (local, granted, COPY_DEST_GREF),
    };
    Ok(GrantCopySegment {
        source,
        dest,
        len,
        flags,
        status: 0,
        pad: 0,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_of_a_copy() {
        let mut buffer = [0_u8; 4096];
        let address = buffer.as_ptr().addr() as u64;
        let granted = foreign(GrantRef(7), 0, DomId(2));
        let from = encode(
            DomId(2),
            &RawCopy::of(&mut CopySegment::FromGrant {
                gref: GrantRef(7),
                offset: 0,
                to: &mut buffer,
            }),
        )
        .expect("a whole page");
        assert_eq!((from.source, from.dest), (granted, address));
        assert_eq!((from.len, from.flags, from.status), (4096, 1, 0));
        let to = encode(
            DomId(2),
            &RawCopy::of(&mut CopySegment::ToGrant {
                gref: GrantRef(7),
                offset: 0,
                from: &buffer[..100],
            }),
        )
        .expect("a part of a page");
        assert_eq!((to.source, to.dest), (address, granted));
        assert_eq!((to.len, to.flags), (100, 2));
    }

    #[test]
    fn statuses_are_named() {
        assert_eq!(
            GrantStatus(-3).to_string(),
            "bad grant reference (grant status -3)"
        );
        assert_eq!(GrantStatus(-1).to_string(), "error (grant status -1)");
    }
}
