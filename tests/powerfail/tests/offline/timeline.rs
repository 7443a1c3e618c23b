//! What processes did to files, one after the other, and what a loss of power can leave of it.
//!
//! A change is durable when a sync of its file has returned that was entered after the change was done. Of all others a
//! loss of power keeps any, and of a write also a part. Who dies without a loss of power loses nothing: all changes are in
//! the host's cache, and the next process reads them there.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use powerfail::states::Kept;

use crate::content::{Content, Effect};
use crate::strace::{Call, Line};

/// A change of one of the files.
#[derive(Clone, Debug)]
struct Change {
    file: usize,
    effect: Effect,
}

/// Something that happened.
#[derive(Clone, Debug)]
enum Step {
    /// A change was begun.
    Begun(Change),
    /// Changes, by the numbers of their steps, became durable.
    Durable { changes: Vec<usize> },
}

/// Everything that happened, in its order.
#[derive(Clone, Debug)]
pub(crate) struct Timeline {
    files: Vec<PathBuf>,
    before: Vec<Content>,
    steps: Vec<Step>,
}

/// A state that a loss of power can leave.
pub(crate) struct State {
    pub(crate) contents: Vec<Content>,
    /// Whether the last process had ended, and said that all went well.
    pub(crate) done: bool,
    /// How it came about.
    pub(crate) story: String,
}

/// Up to so many changes that are not durable, all their subsets are looked at.
const ALL_SUBSETS_MAX: usize = 5;

impl Timeline {
    /// Nothing happened yet.
    pub(crate) fn new(files: Vec<PathBuf>) -> Self {
        let before = files.iter().map(|file| Content::of(file)).collect();
        let steps = Vec::new();
        Self {
            files,
            before,
            steps,
        }
    }

    /// The places at which a process that is killed leaves something that the next finds in the host's cache only.
    pub(crate) fn kill_points(&self) -> Vec<usize> {
        // With each change goes its time, which is the step after it.
        let is_change = |at: &usize| self.is_time(at - 1);
        (1..=self.steps.len()).filter(is_change).collect()
    }

    /// What happened up to a place.
    pub(crate) fn until(&self, len: usize) -> Self {
        Self {
            steps: self.steps[..len].to_vec(),
            ..self.clone()
        }
    }

    /// What a process did goes on the record, and what it left is compared with that.
    pub(crate) fn add(&mut self, lines: &[Line]) {
        let start = self.steps.len();
        self.add_steps(lines);
        self.stamp(start);
        let found: Vec<Content> = self.files.iter().map(|file| Content::of(file)).collect();
        assert!(
            self.cached() == found,
            "not all that was done is on the record"
        );
    }

    fn add_steps(&mut self, lines: &[Line]) {
        enum Entered {
            Change(usize),
            Sync { covered: Vec<usize> },
        }
        let mut entered: HashMap<u32, Entered> = HashMap::new();
        let is_change = |at: &usize| matches!(self.steps[*at], Step::Begun(_));
        let mut ended: Vec<usize> = (0..self.steps.len()).filter(is_change).collect();
        for line in lines {
            match line {
                Line::Enters(thread, path, call) => {
                    let Some(file) = self.files.iter().position(|file| file == path) else {
                        continue;
                    };
                    let what = match call {
                        Call::Change(effect) => {
                            let effect = effect.clone();
                            self.steps.push(Step::Begun(Change { file, effect }));
                            // Its place is filled by `stamp`.
                            let effect = Effect::Modified(SystemTime::UNIX_EPOCH);
                            self.steps.push(Step::Begun(Change { file, effect }));
                            Entered::Change(self.steps.len() - 2)
                        }
                        Call::Sync { all } => {
                            let covered = ended.iter().copied();
                            let covered = covered
                                .filter(|step| self.is_covered(*step, file, *all))
                                .collect();
                            Entered::Sync { covered }
                        }
                    };
                    entered.insert(*thread, what);
                }
                Line::Returns(thread, succeeded) => match entered.remove(thread) {
                    Some(Entered::Change(step)) if *succeeded => ended.extend([step, step + 1]),
                    Some(Entered::Change(step)) => self.undo(step),
                    Some(Entered::Sync { covered }) => {
                        assert!(*succeeded, "a sync failed");
                        let changes = covered;
                        self.steps.push(Step::Durable { changes });
                    }
                    None => {}
                },
            }
        }
        assert!(entered.is_empty(), "a call has not returned");
    }
    fn is_time(&self, at: usize) -> bool {
        matches!(&self.steps[at], Step::Begun(change) if matches!(change.effect, Effect::Modified(_)))
    }

    fn is_covered(&self, step: usize, file: usize, all: bool) -> bool {
        match &self.steps[step] {
            Step::Begun(change) => {
                let is_data = !matches!(change.effect, Effect::Modified(_));
                change.file == file && (is_data || all)
            }
            Step::Durable { .. } => false,
        }
    }

    /// The call failed, and nothing was done.
    fn undo(&mut self, step: usize) {
        for step in [step, step + 1] {
            let Step::Begun(change) = &mut self.steps[step] else {
                unreachable!("it was begun")
            };
            change.effect = Effect::Zero { offset: 0, len: 0 };
        }
    }

    /// Gives each change a time of its own, and the last of a file the one that the file has.
    fn stamp(&mut self, start: usize) {
        let mut times: Vec<SystemTime> = Vec::new();
        for (file, before) in self.files.iter().zip(&self.before) {
            times.push(file.metadata().unwrap().modified().unwrap());
            assert!(times.last() >= Some(&before.modified));
        }
        for (at, step) in self.steps.iter_mut().enumerate().skip(start).rev() {
            let Step::Begun(change) = step else { continue };
            if let Effect::Modified(time) = &mut change.effect {
                *time = times[change.file];
                times[change.file] =
                    self.before[change.file].modified + Duration::from_nanos(1 + at as u64);
            }
        }
    }

    /// What is in the host's cache.
    pub(crate) fn cached(&self) -> Vec<Content> {
        self.with(|_| Kept::All)
    }

    fn with(&self, kept: impl Fn(usize) -> Kept) -> Vec<Content> {
        let mut contents = self.before.clone();
        for (at, step) in self.steps.iter().enumerate() {
            if let Step::Begun(Change { file, effect }) = step {
                contents[*file].apply(effect, kept(at));
            }
        }
        contents
    }

    /// Gives the files what is in the host's cache.
    pub(crate) fn put(&self) {
        put(&self.files, &self.cached());
    }

    /// No sync of this file from step `start` on is one, until another is changed: what that would be.
    pub(crate) fn forget_syncs(&mut self, file: usize, start: usize) {
        let is_other = |step: &Step| matches!(step, Step::Begun(change) if change.file != file);
        let rest = self.steps[start..].iter();
        let end = start + rest.take_while(|step| !is_other(step)).count();
        for step in &mut self.steps[start..end] {
            if let Step::Durable { changes } = step {
                changes.clear();
            }
        }
    }

    /// No sync makes a time of modification durable.
    pub(crate) fn forget_times(&mut self) {
        let times: Vec<bool> = (0..self.steps.len()).map(|at| self.is_time(at)).collect();
        for step in &mut self.steps {
            if let Step::Durable { changes } = step {
                changes.retain(|change| !times[*change]);
            }
        }
    }

    /// Calls `look` with what can be left if the power fails after step `start`: just before each time that something
    /// becomes durable, and at the end. Only if it is to be `thorough` are all subsets looked at, and writes torn.
    pub(crate) fn states(&self, start: usize, thorough: bool, look: &mut dyn FnMut(State)) {
        let mut durable = vec![false; self.steps.len()];
        for at in 0..=self.steps.len() {
            let done = at == self.steps.len();
            let is_moment = done || matches!(self.steps[at], Step::Durable { .. });
            if is_moment && at >= start {
                self.until(at).states_now(&durable, done, thorough, look);
            }
            if let Some(Step::Durable { changes }) = self.steps.get(at) {
                changes.iter().for_each(|change| durable[*change] = true);
            }
        }
    }

    fn states_now(
        &self,
        durable: &[bool],
        done: bool,
        thorough: bool,
        look: &mut dyn FnMut(State),
    ) {
        let pending: Vec<usize> = (0..self.steps.len())
            .filter(|at| !durable[*at] && self.can_be_lost(*at))
            .collect();
        for kept in self.choices(&pending, thorough) {
            let contents = self.with(|at| {
                let chosen = pending.iter().position(|change| *change == at);
                chosen.map_or(Kept::All, |index| kept[index])
            });
            let story = format!(
                "after {} steps, of which {pending:?} were not durable and left: {kept:?}",
                self.steps.len()
            );
            look(State {
                contents,
                done,
                story,
            });
        }
    }

    /// Times of modification but for the last of each file make no difference.
    fn can_be_lost(&self, at: usize) -> bool {
        let Step::Begun(change) = &self.steps[at] else {
            return false;
        };
        let is_later = |step: &Step| {
            matches!(step, Step::Begun(later)
                if later.file == change.file && matches!(later.effect, Effect::Modified(_)))
        };
        let is_time = matches!(change.effect, Effect::Modified(_));
        change.effect != (Effect::Zero { offset: 0, len: 0 })
            && !(is_time && self.steps[at + 1..].iter().any(is_later))
    }

    /// What can be kept of these changes: all subsets if they are few, else the ones with hardly any and with nearly all,
    /// and some others; and each write torn.
    fn choices(&self, pending: &[usize], thorough: bool) -> Vec<Vec<Kept>> {
        let count = pending.len();
        let of_bits = |bits: u64| -> Vec<Kept> {
            let kept = |index| [Kept::Nothing, Kept::All][usize::from(bits >> index & 1 == 1)];
            (0..count).map(kept).collect()
        };
        let all = u64::MAX;
        let mut choices: Vec<Vec<Kept>> = if thorough && count <= ALL_SUBSETS_MAX {
            (0..1 << count).map(of_bits).collect()
        } else {
            let alone = (0..count).flat_map(|index| [1 << index, all ^ 1 << index]);
            // Bits as if by chance, the same each time.
            let others = (1..if thorough { 8 } else { 2_u64 })
                .map(|n| n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            [0, all]
                .into_iter()
                .chain(alone)
                .chain(others)
                .map(of_bits)
                .collect()
        };
        for (index, change) in pending.iter().enumerate().filter(|_| thorough) {
            let Step::Begun(change) = &self.steps[*change] else {
                continue;
            };
            let half = change.effect.sectors() / 2;
            if half == 0 {
                continue;
            }
            for others in [0, all] {
                for kept in [Kept::First(1), Kept::First(half), Kept::After(half)] {
                    let mut choice = of_bits(others);
                    choice[index] = kept;
                    choices.push(choice);
                }
            }
        }
        choices
    }
}

/// Gives files these contents.
pub(crate) fn put(files: &[PathBuf], contents: &[Content]) {
    for (file, content) in files.iter().zip(contents) {
        content.put(file);
    }
}
