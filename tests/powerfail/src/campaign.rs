//! Goes through a log, and looks at the image in every state that a loss of power can leave.

use std::fmt;
use std::path::Path;

use blockio::executor::{Executor, open_executor};
use blockio::image::ImageAccess;

use crate::error::Error;
use crate::log::{Effect, Entry};
use crate::oracle::{Moment, Oracle};
use crate::place::Place;
use crate::random::Random;
use crate::replay::{Log, Target};
use crate::states::{Kept, Position, Section, Stop, lose, sections, stops};

/// A broken promise.
#[derive(Clone, Debug)]
pub struct Violation {
    /// The entries that the device held, all of them.
    pub position: Position,
    /// Which choice of what was lost after these; `None` if nothing was.
    pub choice: Option<u64>,
    /// What is wrong.
    pub problem: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "after {} entries", self.position)?;
        if let Some(choice) = self.choice {
            write!(
                f,
                ", and part of those up to the next flush (choice {choice})"
            )?;
        }
        write!(f, ": {}", self.problem)
    }
}

/// What was looked at, and what was found.
#[derive(Debug, Default)]
pub struct Report {
    /// States with everything up to a flush, a FUA write or a mark.
    pub whole_states: usize,
    /// States in which some of the writes that no flush covers are missing or torn.
    pub partial_states: usize,
    /// Sectors looked at that had been flushed, so that the base must not show.
    pub promised_sectors: usize,
    /// States with something wrong.
    pub bad_states: usize,
    /// What is wrong, the first few of each state.
    pub violations: Vec<Violation>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "crash states: {} (all up to a flush, FUA or mark: {}; writes lost or torn: {}), flushed sectors: {}, \
             violations: {}",
            self.whole_states + self.partial_states,
            self.whole_states,
            self.partial_states,
            self.promised_sectors,
            self.bad_states
        )
    }
}

/// Most problems that are kept of one state: one that shows the wrong base has thousands.
const PROBLEMS_MAX: usize = 3;

/// How the states are chosen.
#[derive(Clone, Copy, Debug)]
pub struct Choices {
    /// What everything random follows from.
    pub seed: u64,
    /// How many choices of what is lost are made between each two flushes.
    pub losses: u64,
    /// So many sectors, if they lie at a multiple of that, are written whole or not at all.
    pub untorn_sectors: u64,
    /// Ends with the first state that has something wrong.
    pub stop_at_first: bool,
}

/// A log, the promises made while it was written, and the files that stand for the device.
pub struct Campaign<'a> {
    log: &'a Log,
    oracle: &'a Oracle,
    place: &'a Place,
    choices: Choices,
    /// Holds the state before the log, and then all entries up to where we are.
    replay: Target,
    /// Holds the state that is looked at.
    crashed: Target,
    crashed_path: &'a Path,
    executor: Box<dyn Executor>,
    report: Report,
}

/// Something to do at a place in the log.
enum Visit<'a> {
    Stop(&'a Stop),
    Section(&'a Section),
}

impl<'a> Campaign<'a> {
    /// Goes through `log` with `replay`, a file with what the device held before, and `crashed`, a file for the states.
    ///
    /// # Errors
    /// If a file, or no executor, can be used.
    pub fn new(
        log: &'a Log,
        oracle: &'a Oracle,
        place: &'a Place,
        choices: Choices,
        replay: &Path,
        crashed: &'a Path,
    ) -> Result<Self, Error> {
        Ok(Self {
            log,
            oracle,
            place,
            choices,
            replay: Target::open(replay)?,
            crashed: Target::open(crashed)?,
            crashed_path: crashed,
            executor: open_executor().map_err(Error::Executor)?,
            report: Report::default(),
        })
    }

    /// Looks at all states.
    ///
    /// # Errors
    /// If a file, a device or a file system cannot be used. What is wrong with an image is in the report.
    pub fn run(mut self) -> Result<Report, Error> {
        let all = Moment {
            happened: self.oracle.prepared(),
            not_yet: self.oracle.events(),
        };
        let entries = &self.log.entries;
        let (stops, sections) = (stops(entries, all), sections(entries, all));
        let mut visits: Vec<(Position, Visit<'_>)> = Vec::new();
        visits.extend(stops.iter().map(|stop| (stop.position, Visit::Stop(stop))));
        visits.extend(
            sections
                .iter()
                .map(|section| (section.start, Visit::Section(section))),
        );
        visits.sort_by_key(|(position, _)| *position);
        let mut applied = 0;
        for (position, visit) in visits {
            for entry in &entries[applied..position] {
                self.log.apply(entry, Kept::All, &self.replay)?;
            }
            applied = position;
            match visit {
                Visit::Stop(stop) => self.stop(stop)?,
                Visit::Section(section) => self.section(section)?,
            }
            if self.choices.stop_at_first && self.report.bad_states > 0 {
                break;
            }
        }
        Ok(self.report)
    }

    fn stop(&mut self, stop: &Stop) -> Result<(), Error> {
        self.report.whole_states += 1;
        self.crashed.become_like(&self.replay)?;
        let last = self.log.entries[..stop.position].iter().rev();
        self.look(last, stop.position, None, stop.moment)
    }

    fn section(&mut self, section: &Section) -> Result<(), Error> {
        let entries = &self.log.entries[section.start..section.end];
        for choice in 0..self.choices.losses {
            let seed = self.choices.seed ^ (section.start as u64) << 20 ^ choice << 56;
            let kept = lose(&mut Random::new(seed), entries, self.choices.untorn_sectors);
            self.report.partial_states += 1;
            self.crashed.become_like(&self.replay)?;
            for (entry, kept) in entries.iter().zip(kept) {
                self.log.apply(entry, kept, &self.crashed)?;
            }
            self.look(entries.iter(), section.start, Some(choice), section.moment)?;
        }
        Ok(())
    }

    /// Looks at the state in `crashed`; one of `recent` was changed last.
    fn look(
        &mut self,
        mut recent: impl Iterator<Item = &'a Entry>,
        position: Position,
        choice: Option<u64>,
        moment: Moment,
    ) -> Result<(), Error> {
        let changed = recent.find_map(|entry| match &entry.effect {
            Effect::Write { offset, .. } | Effect::Discard { offset, .. } => Some(*offset),
            Effect::Nothing => None,
        });
        self.place.refresh(&self.crashed, changed.unwrap_or(0))?;
        // Opening for writing, as the daemon does, takes eight writes and syncs. The others are read only.
        let access = match choice {
            None => ImageAccess::Writable,
            Some(_) => ImageAccess::ReadOnly,
        };
        let found = self
            .place
            .look(self.crashed_path, access, &mut self.executor)?;
        self.report.promised_sectors += self.oracle.promised_sectors(moment);
        let problems = self.oracle.check(moment, &found);
        self.report.bad_states += usize::from(!problems.is_empty());
        let problems = problems.into_iter().take(PROBLEMS_MAX);
        self.report
            .violations
            .extend(problems.map(|problem| Violation {
                position,
                choice,
                problem,
            }));
        Ok(())
    }
}
