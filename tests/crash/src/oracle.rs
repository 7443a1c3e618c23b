//! What a sector may hold after a crash.
//!
//! The value of its last write that a completed flush covers, or any value that was written later or was under way
//! at that time. A flush covers what was finished when it was submitted. Of two writes that overlapped in time
//! either may be the last. A write that failed may be there, and nothing covers it.
//!
//! A barrier covers everything that was submitted before it, as soon as any byte of it is there, and itself too as soon
//! as it is answered or any byte of a later write is there.

use dscow::units::DiskRange;

use crate::geometry::{ABSENT, ANYTHING, Geometry, Value, ZERO};
use crate::promise::{BarrierPromise, Promise, Values};
use crate::reopen::Found;
use crate::workload::Change;

/// A write of the workload, or zeros.
struct Write {
    data: DiskRange,
    zeros: DiskRange,
    submitted: u32,
    /// When it was answered or given up.
    ended: Option<u32>,
    /// Whether a flush may still cover it: it did not fail, and the process that wrote it lives.
    coverable: bool,
}

/// A barrier that is not answered well; one that is, has become a part of what is allowed.
struct Barrier {
    value: Value,
    /// It failed: what came later does not rely on it.
    is_void: bool,
}

/// Everything that was promised so far.
pub(crate) struct Oracle {
    /// For each data sector the values that it may hold.
    allowed: Vec<Values>,
    /// Which values are zeros there.
    zeros: Vec<Values>,
    /// By value. What is there before the first write counts as one.
    writes: Vec<Write>,
    barriers: Vec<Barrier>,
    sizes: Vec<u64>,
    clock: u32,
    closed: Found,
    is_closed: bool,
}

const NOTHING: DiskRange = DiskRange {
    start: dscow::units::DiskOffset(0),
    len: 0,
};

impl Oracle {
    pub(crate) fn new(geometry: &Geometry, fresh: Found) -> Self {
        let is_zero = |sector: usize| {
            let on_disk = geometry.on_disk(sector);
            geometry.value_of(on_disk, &geometry.content(on_disk, 0)) == Some(ZERO)
        };
        let sectors = geometry.data_sectors();
        Self {
            allowed: vec![1; sectors],
            zeros: (0..sectors).map(|s| Values::from(is_zero(s))).collect(),
            writes: vec![Write {
                data: NOTHING,
                zeros: NOTHING,
                submitted: 0,
                ended: Some(0),
                coverable: true,
            }],
            barriers: Vec::new(),
            sizes: vec![fresh.size],
            clock: 0,
            closed: fresh,
            is_closed: true,
        }
    }

    fn tick(&mut self) -> u32 {
        self.clock += 1;
        self.clock
    }

    /// The time from which on a flush is under way.
    pub(crate) fn flush_submitted(&mut self) -> u32 {
        self.tick()
    }

    pub(crate) fn change_submitted(&mut self, geometry: &Geometry, change: &Change) -> Value {
        let write = Write {
            data: change.data.unwrap_or(NOTHING),
            zeros: change.zeros.unwrap_or(NOTHING),
            submitted: self.tick(),
            ended: None,
            coverable: true,
        };
        let value = self.writes.len();
        for sector in write.sectors(geometry) {
            self.allowed[sector] |= 1 << value;
        }
        for sector in geometry.data_sectors_of(write.zeros) {
            self.zeros[sector] |= 1 << value;
        }
        self.writes.push(write);
        Value::try_from(value).expect("workloads are short")
    }

    /// The change of this value is a barrier.
    pub(crate) fn is_barrier(&mut self, value: Value) {
        let is_void = false;
        self.barriers.push(Barrier { value, is_void });
    }

    pub(crate) fn change_finished(&mut self, value: Value) {
        let now = self.tick();
        self.writes[usize::from(value)].ended = Some(now);
    }

    pub(crate) fn change_failed(&mut self, value: Value) {
        self.change_finished(value);
        self.writes[usize::from(value)].coverable = false;
    }

    /// A flush that was submitted at `submitted` is finished.
    pub(crate) fn flush_finished(&mut self, geometry: &Geometry, submitted: u32) {
        let is_covered =
            |write: &&Write| write.coverable && write.ended.is_some_and(|ended| ended < submitted);
        for write in self.writes[1..].iter().filter(is_covered) {
            for sector in write.sectors(geometry) {
                self.allowed[sector] &= !self.written_before(write);
            }
        }
    }

    pub(crate) fn barrier_finished(&mut self, geometry: &Geometry, value: Value) {
        let gone = self.gone(geometry, value, true);
        for (allowed, gone) in self.allowed.iter_mut().zip(gone) {
            *allowed &= !gone;
        }
        self.barriers.retain(|barrier| barrier.value != value);
        self.change_finished(value);
    }

    pub(crate) fn barrier_failed(&mut self, value: Value) {
        for barrier in self.barriers.iter_mut().filter(|b| b.value == value) {
            barrier.is_void = true;
        }
        self.change_failed(value);
    }

    /// The values that a change has replaced for good once it is durable itself.
    fn written_before(&self, write: &Write) -> Values {
        let ended_before = |other: &Write| other.ended.is_some_and(|at| at < write.submitted);
        let writes = self.writes.iter().enumerate();
        writes
            .filter(|(_, other)| ended_before(other))
            .fold(0, |values, (value, _)| values | 1 << value)
    }

    /// For each sector what it cannot hold when everything is durable that was submitted before this barrier, and the
    /// barrier too if `with_own`.
    fn gone(&self, geometry: &Geometry, barrier: Value, with_own: bool) -> Vec<Values> {
        let mut gone = vec![0; self.allowed.len()];
        let end = usize::from(barrier) + usize::from(with_own);
        for write in self.writes[1..end].iter().filter(|write| write.coverable) {
            for sector in write.sectors(geometry) {
                gone[sector] |= self.written_before(write);
            }
        }
        gone
    }

    /// The disk may be of this size from now on.
    pub(crate) fn growing(&mut self, size: u64) {
        if !self.sizes.contains(&size) {
            self.sizes.push(size);
        }
    }

    /// The disk is of this size and no other.
    pub(crate) fn grown(&mut self, size: u64) {
        self.sizes = vec![size];
    }

    /// The image was closed well, with this content. What was lost before, after a sync that failed, may still be read,
    /// and is no part of it.
    pub(crate) fn closed(&mut self, closed: Found, lost: impl Iterator<Item = usize>) {
        let mut closed = closed;
        for sector in lost {
            closed.values[sector] = ANYTHING;
        }
        self.sizes = vec![closed.size];
        self.closed = closed;
        self.is_closed = true;
    }

    pub(crate) fn opening(&mut self) {
        self.is_closed = false;
    }

    /// The process is gone; what it did not make durable, nobody will.
    pub(crate) fn abandoned(&mut self) {
        let now = self.tick();
        for write in &mut self.writes[1..] {
            write.ended.get_or_insert(now);
            write.coverable = false;
        }
        self.barriers.clear();
    }

    /// The power failed, and this was found after that: nothing else may ever come back.
    pub(crate) fn power_lost(&mut self, found: &Found) {
        self.abandoned();
        self.sizes = vec![found.size];
        for (sector, value) in found.values.iter().enumerate() {
            let allowed = &mut self.allowed[sector];
            *allowed = match *value {
                ZERO => *allowed & self.zeros[sector],
                ABSENT => 1,
                value => 1 << value,
            };
        }
    }

    /// What holds now.
    pub(crate) fn promise(&self, geometry: &Geometry) -> Promise {
        let barriers = self.barriers.iter();
        Promise {
            allowed: self.allowed.clone(),
            zeros: self.zeros.clone(),
            barriers: barriers
                .map(|b| self.barrier_promise(geometry, b))
                .collect(),
            sizes: self.sizes.clone(),
            closed: self.closed.clone(),
            is_closed: self.is_closed,
        }
    }

    fn barrier_promise(&self, geometry: &Geometry, barrier: &Barrier) -> BarrierPromise {
        let value = barrier.value;
        let write = &self.writes[usize::from(value)];
        let later = (usize::from(value) + 1..self.writes.len()).fold(0, |later, v| later | 1 << v);
        BarrierPromise {
            own: (write.data.len > 0).then(|| (value, geometry.data_sectors_of(write.data))),
            later: if barrier.is_void { 0 } else { later },
            gone_if_own: self.gone(geometry, value, false),
            gone_if_later: self.gone(geometry, value, true),
        }
    }
}

impl Write {
    fn sectors(&self, geometry: &Geometry) -> impl Iterator<Item = usize> + use<> {
        let data = geometry.data_sectors_of(self.data);
        data.chain(geometry.data_sectors_of(self.zeros))
    }
}
