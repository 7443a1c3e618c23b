//! Copying to and from granted pages without mapping them.
#![allow(unsafe_code)]

use std::fmt;

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
        if segments.is_empty() {
            return Ok(Vec::new());
        }
        let mut wire = segments
            .iter_mut()
            .map(|segment| encode(domid, segment))
            .collect::<Result<Vec<_>, _>>()?;
        // SAFETY: the local addresses are those of the slices in `segments`, borrowed until the call
        // returns, mutably where they are destinations, and `encode` took the lengths from them.
        unsafe { self.grant_copy(&mut wire) }.map_err(|source| Error::Copy {
            domid,
            count: segments.len(),
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

fn encode(domid: DomId, segment: &mut CopySegment<'_>) -> Result<GrantCopySegment, Error> {
    let (gref, offset, local, len, flags) = match segment {
        CopySegment::FromGrant { gref, offset, to } => (
            *gref,
            *offset,
            to.as_mut_ptr().expose_provenance(),
            to.len(),
            COPY_SOURCE_GREF,
        ),
        CopySegment::ToGrant { gref, offset, from } => (
            *gref,
            *offset,
            from.as_ptr().expose_provenance(),
            from.len(),
            COPY_DEST_GREF,
        ),
    };
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
    let local = local as u64;
    let (source, dest) = if flags == COPY_SOURCE_GREF {
        (granted, local)
    } else {
        (local, granted)
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
            &mut CopySegment::FromGrant {
                gref: GrantRef(7),
                offset: 0,
                to: &mut buffer,
            },
        )
        .expect("a whole page");
        assert_eq!((from.source, from.dest), (granted, address));
        assert_eq!((from.len, from.flags, from.status), (4096, 1, 0));
        let to = encode(
            DomId(2),
            &mut CopySegment::ToGrant {
                gref: GrantRef(7),
                offset: 0,
                from: &buffer[..100],
            },
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
