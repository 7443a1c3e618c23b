//! The interface of gntdev as numbers and bytes (`include/uapi/xen/gntdev.h`).

use std::mem::{offset_of, size_of};

use crate::{DomId, GrantRef};

/// `_IOC(_IOC_NONE, 'G', number, bytes)` as the architectures that Xen runs on define it.
const fn ioctl_number(number: u32, bytes: usize) -> u32 {
    assert!(bytes < 1 << 14);
    #[allow(clippy::cast_possible_truncation, reason = "asserted to fit 14 bits")]
    let bytes = bytes as u32;
    bytes << 16 | (b'G' as u32) << 8 | number
}

/// `IOCTL_GNTDEV_MAP_GRANT_REF`; the size is that of the structure with one reference.
pub(crate) const MAP_GRANT_REF: u32 = ioctl_number(0, 24);
/// `IOCTL_GNTDEV_UNMAP_GRANT_REF`.
pub(crate) const UNMAP_GRANT_REF: u32 = ioctl_number(1, size_of::<UnmapGrantRef>());
/// `IOCTL_GNTDEV_GRANT_COPY`.
pub(crate) const GRANT_COPY: u32 = ioctl_number(8, size_of::<GrantCopy>());

/// Two 32-bit fields that are neighbours in a C structure.
const fn pair(first: u32, second: u32) -> u64 {
    let (first, second) = (first.to_ne_bytes(), second.to_ne_bytes());
    u64::from_ne_bytes([
        first[0], first[1], first[2], first[3], second[0], second[1], second[2], second[3],
    ])
}

/// `struct ioctl_gntdev_map_grant_ref`, whose array of references is as long as needed: a word of
/// `count` and padding, a word that the kernel fills with `index`, then a word of `domid` and `ref` per
/// grant.
pub(crate) struct MapGrantRef(Vec<u64>);

impl MapGrantRef {
    /// The request to map `grefs`, of which there must be at most [`u32::MAX`].
    pub(crate) fn new(domid: DomId, grefs: &[GrantRef]) -> Self {
        let count = u32::try_from(grefs.len()).unwrap_or(u32::MAX);
        let header = [pair(count, 0), 0];
        let refs = grefs.iter().map(|gref| pair(u32::from(domid.0), gref.0));
        Self(header.into_iter().chain(refs).collect())
    }

    pub(crate) fn as_mut_ptr(&mut self) -> *mut u64 {
        self.0.as_mut_ptr()
    }

    /// Where the kernel put the mapping: the offset for mmap, and its name for unmapping.
    pub(crate) fn index(&self) -> u64 {
        self.0[1]
    }

    #[cfg(test)]
    fn bytes(&self) -> Vec<u8> {
        self.0.iter().flat_map(|word| word.to_ne_bytes()).collect()
    }
}

/// `struct ioctl_gntdev_unmap_grant_ref`.
#[repr(C)]
pub(crate) struct UnmapGrantRef {
    pub(crate) index: u64,
    pub(crate) count: u32,
    pub(crate) pad: u32,
}

/// `GNTCOPY_source_gref`: the source is a grant, the destination is local.
pub(crate) const COPY_SOURCE_GREF: u16 = 1;
/// `GNTCOPY_dest_gref`: the destination is a grant, the source is local.
pub(crate) const COPY_DEST_GREF: u16 = 2;

/// `struct gntdev_grant_copy_segment`. Its unions of a local address and a place in a grant are words.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct GrantCopySegment {
    pub(crate) source: u64,
    pub(crate) dest: u64,
    pub(crate) len: u16,
    pub(crate) flags: u16,
    pub(crate) status: i16,
    pub(crate) pad: u16,
}

/// The `foreign` variant of a side of a copy: `ref`, `offset`, `domid`.
pub(crate) const fn foreign(gref: GrantRef, offset: u16, domid: DomId) -> u64 {
    let gref = gref.0.to_ne_bytes();
    let (offset, domid) = (offset.to_ne_bytes(), domid.0.to_ne_bytes());
    u64::from_ne_bytes([
        gref[0], gref[1], gref[2], gref[3], offset[0], offset[1], domid[0], domid[1],
    ])
}

/// `struct ioctl_gntdev_grant_copy`.
#[repr(C)]
pub(crate) struct GrantCopy {
    pub(crate) count: u32,
    pub(crate) segments: *mut GrantCopySegment,
}

const _: () = {
    assert!(size_of::<UnmapGrantRef>() == 16);
    assert!(offset_of!(UnmapGrantRef, count) == 8);
    assert!(size_of::<GrantCopySegment>() == 24);
    assert!(offset_of!(GrantCopySegment, dest) == 8);
    assert!(offset_of!(GrantCopySegment, len) == 16);
    assert!(offset_of!(GrantCopySegment, flags) == 18);
    assert!(offset_of!(GrantCopySegment, status) == 20);
};

#[cfg(all(test, target_endian = "little", target_pointer_width = "64"))]
mod tests {
    use super::*;

    #[test]
    fn ioctl_numbers() {
        assert_eq!(MAP_GRANT_REF, 0x0018_4700);
        assert_eq!(UNMAP_GRANT_REF, 0x0010_4701);
        assert_eq!(GRANT_COPY, 0x0010_4708);
    }

    #[test]
    fn map_request() {
        let mut map = MapGrantRef::new(DomId(0x0102), &[GrantRef(0x1122_3344), GrantRef(8)]);
        assert_eq!(
            map.bytes(),
            [
                2, 0, 0, 0, 0, 0, 0, 0, // count, pad
                0, 0, 0, 0, 0, 0, 0, 0, // index
                2, 1, 0, 0, 0x44, 0x33, 0x22, 0x11, // domid, ref
                2, 1, 0, 0, 8, 0, 0, 0,
            ]
        );
        map.0[1] = 0x5000;
        assert_eq!(map.index(), 0x5000);
    }

    #[test]
    fn copy_layouts() {
        assert_eq!(
            foreign(GrantRef(0x1122_3344), 0x0506, DomId(0x0708)).to_ne_bytes(),
            [0x44, 0x33, 0x22, 0x11, 0x06, 0x05, 0x08, 0x07]
        );
        assert_eq!(size_of::<GrantCopy>(), 16);
        assert_eq!(offset_of!(GrantCopy, segments), 8);
    }
}
