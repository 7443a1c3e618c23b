//! What an image may hold at one moment: what a state is compared with.

use std::ops::Range;

use crate::content::mix;
use crate::geometry::{ABSENT, ANYTHING, Value, ZERO};
use crate::reopen::Found;

/// Values, a bit for each.
pub(crate) type Values = u32;

/// What was promised up to a moment.
pub(crate) struct Promise {
    /// For each data sector the values that it may hold.
    pub(crate) allowed: Vec<Values>,
    /// Which values are zeros there.
    pub(crate) zeros: Vec<Values>,
    pub(crate) barriers: Vec<BarrierPromise>,
    /// How large the disk may be.
    pub(crate) sizes: Vec<u64>,
    /// The image as it was when it was last closed: whoever sees this generation must see these values. An overlay on
    /// this image relies on that.
    pub(crate) closed: Found,
    /// The image is closed, so it must be clean.
    pub(crate) is_closed: bool,
}

/// What a barrier that is not answered well promises. One that is, is in what is allowed.
pub(crate) struct BarrierPromise {
    /// The barrier's own value and sectors, if it writes.
    pub(crate) own: Option<(Value, Range<usize>)>,
    /// What was submitted after it.
    pub(crate) later: Values,
    /// What no sector may hold if any holds the barrier's value.
    pub(crate) gone_if_own: Vec<Values>,
    /// What no sector may hold if any holds a later value.
    pub(crate) gone_if_later: Vec<Values>,
}

impl Promise {
    /// What is wrong with what was found, if anything is.
    pub(crate) fn check(&self, found: &Found) -> Result<(), String> {
        if !self.sizes.contains(&found.size) {
            return Err(format!(
                "the disk has {} bytes, allowed are {:?}",
                found.size, self.sizes
            ));
        }
        self.check_values(found, "", |sector| self.allowed[sector])?;
        for barrier in &self.barriers {
            self.check_barrier(barrier, found)?;
        }
        if found.generation <= self.closed.generation && !self.is_as_closed(found) {
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

    fn is_as_closed(&self, found: &Found) -> bool {
        let mut values = found.values.iter().zip(&self.closed.values);
        values.all(|(found, closed)| found == closed || *closed == ANYTHING)
    }

    fn check_values(
        &self,
        found: &Found,
        why: &str,
        allowed: impl Fn(usize) -> Values,
    ) -> Result<(), String> {
        for (sector, value) in found.values.iter().enumerate() {
            let allowed = allowed(sector);
            let (fits, what) = match *value {
                ABSENT => (allowed & 1, "nothing".into()),
                ZERO => (allowed & self.zeros[sector], "zeros".into()),
                value => (allowed & 1 << value, format!("write {value}")),
            };
            if fits == 0 {
                let allowed: Vec<u32> = (0..32).filter(|bit| allowed & 1 << bit != 0).collect();
                return Err(format!(
                    "data sector {sector} holds {what}{why}, allowed are {allowed:?} (0 is the base)"
                ));
            }
        }
        Ok(())
    }

    fn check_barrier(&self, barrier: &BarrierPromise, found: &Found) -> Result<(), String> {
        let own = barrier.own.as_ref().is_some_and(|(value, sectors)| {
            let mut held = found.values[sectors.clone()].iter();
            held.any(|held| held == value)
        });
        if own {
            let gone = |sector: usize| self.allowed[sector] & !barrier.gone_if_own[sector];
            self.check_values(found, " although a barrier after it is there", gone)?;
        }
        let mut values = found.values.iter().enumerate();
        if values.any(|(sector, value)| self.is_surely(barrier.later, sector, *value)) {
            let gone = |sector: usize| self.allowed[sector] & !barrier.gone_if_later[sector];
            self.check_values(found, " although a write after a barrier is there", gone)?;
        }
        Ok(())
    }

    /// Whether what a sector holds can come only from one of some values.
    fn is_surely(&self, values: Values, sector: usize, held: Value) -> bool {
        match held {
            ABSENT => false,
            ZERO => {
                let candidates = self.allowed[sector] & self.zeros[sector];
                candidates != 0 && candidates & !values == 0
            }
            value => values & 1 << value != 0,
        }
    }

    /// A hash of everything that [`Promise::check`] depends on.
    pub(crate) fn hash(&self) -> u64 {
        let mut hash = mix(self.closed.generation ^ u64::from(self.is_closed) << 63);
        let mut add = |number: u64| hash = mix(hash ^ number);
        self.sizes.iter().for_each(|size| add(*size));
        let values = self.closed.values.iter();
        values.for_each(|value| add(u64::from(*value)));
        let values = self.allowed.iter().chain(&self.zeros);
        values.for_each(|values| add(u64::from(*values)));
        for barrier in &self.barriers {
            add(u64::from(barrier.later));
            let gone = barrier.gone_if_own.iter().chain(&barrier.gone_if_later);
            gone.for_each(|values| add(u64::from(*values)));
            if let Some((value, sectors)) = &barrier.own {
                add(u64::from(*value));
                add((sectors.start << 32 | sectors.end) as u64);
            }
        }
        hash
    }
}
