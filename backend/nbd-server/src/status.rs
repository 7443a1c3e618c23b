//! What is known of ranges, in the terms of the protocol.

use std::io;

use blockio::extents::{DiskExtent, DiskMap};
use dscow::units::DiskRange;
use nbd::reply::{Bytes, Descriptor, Part, block_status};
use nbd::{ByteRange, Context, Contexts, Cookie, STATE_HOLE, STATE_ZERO};
use smallvec::SmallVec;

/// Most descriptors for one context in one reply. Clients ask again for what was left out.
const DESCRIPTORS_MAX: usize = 1024;

/// Most extents that are looked at for one reply: neighbours may say the same in the only context that was asked for.
const EXTENTS_MAX: usize = 4096;

/// Most bytes that a reply takes, for accounting.
pub(crate) const REPLY_BYTES_MAX: usize = Context::ALL.len() * (32 + 8 * DESCRIPTORS_MAX);

/// The descriptors of one context.
struct Description {
    context: Context,
    descriptors: Vec<Descriptor>,
    len_max: usize,
    complete: bool,
}

/// The chunks of the reply that describes `range` in these contexts, of which there is at least one.
///
/// # Errors
///
/// If a file does not tell where its holes are.
pub(crate) fn describe(
    map: DiskMap<'_>,
    contexts: Contexts,
    cookie: Cookie,
    range: ByteRange,
    one: bool,
) -> io::Result<SmallVec<[Bytes; 2]>> {
    let len_max = if one { 1 } else { DESCRIPTORS_MAX };
    let mut descriptions: SmallVec<[Description; 2]> = contexts
        .iter()
        .map(|context| Description::new(context, len_max))
        .collect();
    let range = DiskRange::new(range.offset, range.len.into());
    for extent in map.extents(range).take(EXTENTS_MAX) {
        let extent = extent?;
        for description in &mut descriptions {
            description.add(&extent);
        }
        if descriptions.iter().all(|description| description.complete) {
            break;
        }
    }
    let last = descriptions.len() - 1;
    let chunk = |(place, description): (usize, &Description)| {
        let part = if place == last {
            Part::Last
        } else {
            Part::More
        };
        block_status(cookie, part, description.context, &description.descriptors)
    };
    Ok(descriptions.iter().enumerate().map(chunk).collect())
}

impl Description {
    fn new(context: Context, len_max: usize) -> Self {
        Self {
            context,
            descriptors: Vec::new(),
            len_max,
            complete: false,
        }
    }

    fn add(&mut self, extent: &DiskExtent) {
        if self.complete {
            return;
        }
        let len = u32::try_from(extent.range.len).expect("an extent is inside the range asked for");
        let status = status(self.context, extent);
        let full = self.descriptors.len() == self.len_max;
        match self.descriptors.last_mut() {
            Some(last) if last.status == status => last.len += len,
            _ if full => self.complete = true,
            _ => self.descriptors.push(Descriptor { len, status }),
        }
    }
}

fn status(context: Context, extent: &DiskExtent) -> u32 {
    match context {
        // What reads as zeros without being held, here or in the file of who holds it, takes no room.
        Context::Allocation if extent.zero => STATE_HOLE | STATE_ZERO,
        Context::Allocation => 0,
        Context::AllocationDepth => extent.depth().map_or(0, |depth| {
            u32::try_from(depth + 1).expect("chains are short")
        }),
    }
}
