//! What a sector may hold after a crash.
//!
//! The value of its last write that a completed flush covers, or any value that was written later or was under way
//! at that time. A flush covers what was finished when it was submitted. Of two writes that overlapped in time
//! either may be the last.

use dscow::units::DiskRange;

use crate::content::mix;
use crate::geometry::{Geometry, Value};
use crate::reopen::Found;

/// A write of the workload.
struct Write {
    range: DiskRange,
    submitted: u32,
    finished: Option<u32>,
}

/// Everything that was promised so far.
pub(crate) struct Oracle {
    /// For each data sector the values that it may hold, a bit for each.
    allowed: Vec<u32>,
    /// By value. What is there before the first write counts as one.
    writes: Vec<Write>,
    clock: u32,
    /// The image as it was when it was last closed: whoever sees this generation must see these values. An overlay on
    /// this image relies on that.
    closed: Found,
    /// The image is closed, so it must be clean.
    is_closed: bool,
}

impl Oracle {
    pub(crate) fn new(geometry: &Geometry) -> Self {
        let sectors = geometry.data_sectors();
        Self {
            allowed: vec![1; sectors],
            writes: vec![Write {
                range: DiskRange::new(0, 0),
                submitted: 0,
                finished: Some(0),
            }],
            clock: 0,
            closed: Found {
                clean: true,
                generation: 0,
                values: vec![0; sectors],
            },
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

    pub(crate) fn write_submitted(&mut self, geometry: &Geometry, range: DiskRange) -> Value {
        let submitted = self.tick();
        let value = self.writes.len();
        self.writes.push(Write {
            range,
            submitted,
            finished: None,
        });
        for sector in geometry.data_sectors_of(range) {
            self.allowed[sector] |= 1 << value;
        }
        Value::try_from(value).expect("workloads are short")
    }

    pub(crate) fn write_finished(&mut self, value: Value) {
        let now = self.tick();
        self.writes[usize::from(value)].finished = Some(now);
    }

    /// A flush that was submitted at `submitted` is finished.
    pub(crate) fn flush_finished(&mut self, geometry: &Geometry, submitted: u32) {
        let before = |time: Option<u32>, limit: u32| time.is_some_and(|time| time < limit);
        for covered in &self.writes[1..] {
            if !before(covered.finished, submitted) {
                continue;
            }
            for sector in geometry.data_sectors_of(covered.range) {
                for (value, write) in self.writes.iter().enumerate() {
                    if before(write.finished, covered.submitted) {
                        self.allowed[sector] &= !(1 << value);
                    }
                }
            }
        }
    }

    pub(crate) fn closed(&mut self, closed: Found) {
        self.closed = closed;
        self.is_closed = true;
    }

    pub(crate) fn opening(&mut self) {
        self.is_closed = false;
    }

    /// The power failed, and these values were found after that: nothing else may ever come back.
    pub(crate) fn power_lost(&mut self, found: &[Value]) {
        let now = self.tick();
        for write in &mut self.writes {
            write.finished = Some(now);
        }
        for (allowed, value) in self.allowed.iter_mut().zip(found) {
            *allowed = 1 << value;
        }
    }

    /// What is wrong with what was found, if anything is.
    pub(crate) fn check(&self, found: &Found) -> Result<(), String> {
        for (sector, (value, allowed)) in found.values.iter().zip(&self.allowed).enumerate() {
            if allowed & 1 << value == 0 {
                let allowed: Vec<u32> = (0..32).filter(|bit| allowed & 1 << bit != 0).collect();
                return Err(format!(
                    "data sector {sector} holds write {value}, allowed are {allowed:?} (0 is the base)"
                ));
            }
        }
        if found.generation <= self.closed.generation && found.values != self.closed.values {
            return Err(format!(
                "generation {} is that of the last close, but the content is another",
                found.generation
            ));
        }
        if self.is_closed && !found.clean {
            return Err("the image was closed and is not clean".into());
        }
        Ok(())
    }

    /// A hash of everything that [`Oracle::check`] depends on.
    pub(crate) fn hash(&self) -> u64 {
        let allowed = self.allowed.iter().map(|allowed| u64::from(*allowed));
        let closed = self.closed.values.iter().map(|value| u64::from(*value));
        [self.closed.generation, u64::from(self.is_closed)]
            .into_iter()
            .chain(allowed)
            .chain(closed)
            .fold(0, |hash, number| mix(hash ^ number))
    }
}
