//! What the script asks of the disk, and what is expected of it.

use dscow::engine::{Errno, Mode, Request};
use dscow::units::DiskRange;

use super::{Kind, Placed, Run};
use crate::model::{ChangeId, Sectors};
use crate::stamp::{self, SECTOR, in_bytes};
use crate::world::{Nudge, Order, World};

/// Most sectors of a disk that has grown.
const SECTORS_MAX: u64 = 256;

impl<W: World> Run<'_, W> {
    pub(super) fn write(&mut self) {
        let range = self.range();
        let data = stamp::sectors(self.next_stamp(), range.start, range.end - range.start);
        let kind = self.change(&[(range, Some(self.next_stamp()))], false);
        self.order(kind, Order::Request(Request::Write(bytes_of(range)), data));
    }

    pub(super) fn barrier(&mut self) {
        if self.script.one_in(4) {
            let kind = self.change(&[], true);
            let request = Request::Barrier(DiskRange::new(0, 0));
            self.order(kind, Order::Request(request, Vec::new()));
            return;
        }
        let range = self.range();
        let data = stamp::sectors(self.next_stamp(), range.start, range.end - range.start);
        let kind = self.change(&[(range, Some(self.next_stamp()))], true);
        self.order(
            kind,
            Order::Request(Request::Barrier(bytes_of(range)), data),
        );
    }

    fn change(&mut self, parts: &[(Sectors, Option<u64>)], barrier: bool) -> Kind {
        if self.setting.mode == Mode::ReadOnly && !parts.is_empty() {
            return Kind::Invalid(Errno::EROFS);
        }
        Kind::Change {
            changes: self.begin(parts),
            perhaps: Vec::new(),
            barrier,
        }
    }

    fn begin(&mut self, parts: &[(Sectors, Option<u64>)]) -> Vec<ChangeId> {
        let begin =
            |(range, stamp): &(Sectors, Option<u64>)| self.model.begin(*range, *stamp, self.now);
        parts.iter().map(begin).collect()
    }

    /// Three parts, of each of which the whole blocks may be zeros.
    pub(super) fn sparse_write(&mut self) {
        let range = self.range();
        let stamp = self.next_stamp();
        let mut data = stamp::sectors(stamp, range.start, range.end - range.start);
        let zero_parts = self.script.byte();
        let (mut parts, mut zeros) = (Vec::new(), Vec::new());
        let (mut at, mut written_to) = (range.start, range.start);
        for part in 0..3 {
            let end = range.start + (range.end - range.start) * (part + 1) / 3;
            let blocks = self.whole_blocks(Sectors { start: at, end });
            if zero_parts >> part & 1 == 1
                && let Some(blocks) = blocks
            {
                let place = |sector| in_bytes(sector - range.start);
                data[place(blocks.start)..place(blocks.end)].fill(0);
                let start = written_to;
                parts.push((
                    Sectors {
                        start,
                        end: blocks.start,
                    },
                    Some(stamp),
                ));
                parts.push((blocks, None));
                zeros.push(bytes_of(blocks));
                written_to = blocks.end;
            }
            at = end;
        }
        parts.push((
            Sectors {
                start: written_to,
                end: range.end,
            },
            Some(stamp),
        ));
        let kind = self.change(&parts, false);
        let range = bytes_of(range);
        self.order(kind, Order::SparseWrite { range, zeros, data });
    }

    /// The sectors of the whole blocks in a range; the last block is whole up to the end of the disk.
    fn whole_blocks(&self, range: Sectors) -> Option<Sectors> {
        let block = self.sectors_per_block();
        let start = range.start.next_multiple_of(block);
        let end = match range.end {
            // Growing may be in force before it is answered.
            end if end * SECTOR as u64 == self.world.engine().layout().virtual_size() => end,
            end => end - end % block,
        };
        (start < end).then_some(Sectors { start, end })
    }

    fn sectors_per_block(&self) -> u64 {
        self.world.engine().layout().block_size().bytes() / SECTOR as u64
    }

    pub(super) fn write_zeroes(&mut self) {
        let range = self.range();
        let kind = self.change(&[(range, None)], false);
        let request = Request::WriteZeroes(bytes_of(range));
        self.order(kind, Order::Request(request, Vec::new()));
    }

    pub(super) fn discard(&mut self) {
        let range = self.range();
        let block = self.sectors_per_block();
        let (mut surely, mut perhaps) = (Vec::new(), Vec::new());
        if let Some(whole) = self.whole_blocks(range) {
            // A last block that the end of the disk cuts off is not whole any more when the disk has grown before the
            // discard begins.
            let split = whole.end - whole.end % block;
            let tail = Sectors {
                start: split.max(whole.start),
                end: whole.end,
            };
            let end = tail.start;
            surely.push((Sectors { end, ..whole }, None));
            match self.may_grow_first() {
                true => perhaps.push((tail, None)),
                false => surely.push((tail, None)),
            }
        }
        let kind = match self.change(&surely, false) {
            _ if self.setting.mode == Mode::ReadOnly => Kind::Invalid(Errno::EROFS),
            Kind::Change { changes, .. } => {
                let perhaps = self.begin(&perhaps);
                Kind::Change {
                    changes,
                    perhaps,
                    barrier: false,
                }
            }
            other => other,
        };
        let request = Request::Discard(bytes_of(range));
        self.order(kind, Order::Request(request, Vec::new()));
    }

    /// Whether the disk may grow before an order that is placed now begins.
    fn may_grow_first(&self) -> bool {
        self.orders.values().any(|placed| match placed.kind {
            Kind::Grow { .. } => true,
            Kind::Change { barrier, .. } => barrier,
            _ => false,
        })
    }

    pub(super) fn read(&mut self) {
        if self.script.one_in(8) {
            return self.read_outside();
        }
        let range = self.range();
        // What the memory holds before must not matter.
        let data = vec![0xee; in_bytes(range.end - range.start)];
        let kind = Kind::Read { first: range.start };
        self.order(kind, Order::Request(Request::Read(bytes_of(range)), data));
    }

    /// Ranges that are not of the disk, or not in sectors.
    fn read_outside(&mut self) {
        let size = self.world.engine().layout().virtual_size();
        let range = match self.script.byte() % 5 {
            0 => DiskRange::new(0, size + 512),
            1 => DiskRange::new(size, 512),
            2 => DiskRange::new(u64::MAX - 511, 512),
            3 => DiskRange::new(256, 512),
            _ => DiskRange::new(0, 0),
        };
        let kind = Kind::Invalid(Errno::EINVAL);
        self.order(kind, Order::Request(Request::Read(range), Vec::new()));
    }

    pub(super) fn flush(&mut self) {
        self.order(Kind::Flush, Order::Request(Request::Flush, Vec::new()));
    }

    pub(super) fn nudge(&mut self) {
        let nudge = match self.script.byte() % 4 {
            0 | 1 => Nudge::CommitIdle,
            2 => Nudge::RetryStalled,
            _ => Nudge::FailStalled,
        };
        self.apply_nudge(nudge);
    }

    pub(super) fn grow(&mut self) {
        let size = self.model.size();
        let sectors = match self.script.byte() {
            0 => size.saturating_sub(1),
            1 => 1 << 40,
            more => (size + u64::from(more) % 64).min(SECTORS_MAX),
        };
        let possible = self
            .world
            .engine()
            .layout()
            .grown(sectors * SECTOR as u64)
            .is_ok();
        let growing = |placed: &Placed| matches!(placed.kind, Kind::Grow { .. });
        let kind = if self.setting.mode == Mode::ReadOnly {
            Kind::Invalid(Errno::EROFS)
        } else if self.orders.values().any(growing) {
            Kind::Invalid(Errno::EBUSY)
        } else if sectors < size {
            Kind::Invalid(Errno::EINVAL)
        } else if !possible {
            Kind::Invalid(Errno::EFBIG)
        } else {
            Kind::Grow { sectors }
        };
        self.order(kind, Order::Grow(sectors * SECTOR as u64));
    }
}

fn bytes_of(range: Sectors) -> DiskRange {
    let sector = SECTOR as u64;
    DiskRange::new(range.start * sector, (range.end - range.start) * sector)
}
