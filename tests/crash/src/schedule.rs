//! In which order things happen: when the next operation is submitted, and which action completes next.

use std::fmt;
use std::str::FromStr;

/// Which of the actions under way completes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pick {
    /// The oldest.
    Oldest,
    /// The newest.
    Newest,
    /// A sync before anything else, else the newest.
    SyncFirst,
    /// A sync only if there is nothing else, else the oldest.
    SyncLast,
}

/// The order of events of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Schedule {
    /// Operations are submitted as soon as fewer than `window` are under way.
    Policy {
        /// How many operations overlap.
        window: usize,
        /// What completes.
        pick: Pick,
    },
    /// The number of the choice at each step, then always 0: the action of that age completes, or, with the numbers
    /// after the last action, the next operation is submitted, or what waits for space is tried again.
    Choices(Vec<usize>),
}

/// What happens next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Submit,
    Complete(usize),
    /// What waits for space is tried again.
    Retry,
}

/// What a schedule chooses from.
pub(crate) struct Options<'a> {
    /// Whether the next operation could be submitted.
    pub(crate) can_submit: bool,
    /// Whether something waits for space.
    pub(crate) can_retry: bool,
    /// Operations under way.
    pub(crate) outstanding: usize,
    /// For each action under way, oldest first, whether it is a sync.
    pub(crate) syncs: &'a [bool],
}

impl Options<'_> {
    fn count(&self) -> usize {
        self.syncs.len() + usize::from(self.can_submit) + usize::from(self.can_retry)
    }
}

impl Schedule {
    /// What happens at step `step`, or nothing if nothing is left to do. Notes how many choices there were.
    pub(crate) fn choose(
        &self,
        step: usize,
        options: &Options<'_>,
        counts: &mut Vec<usize>,
    ) -> Option<Step> {
        if options.count() == 0 {
            return None;
        }
        Some(match self {
            Self::Policy { window, pick } => {
                let idle = options.syncs.is_empty();
                if options.can_submit && (idle || options.outstanding < *window) {
                    Step::Submit
                } else if idle {
                    Step::Retry
                } else {
                    Step::Complete(pick.from(options.syncs))
                }
            }
            Self::Choices(choices) => {
                counts.push(options.count());
                let choice = choices.get(step).copied().unwrap_or(0);
                if choice < options.syncs.len() {
                    Step::Complete(choice)
                } else if choice == options.syncs.len() && options.can_submit {
                    Step::Submit
                } else {
                    Step::Retry
                }
            }
        })
    }

    /// The next list of choices after one that met `counts` choices, in the order of counting, if there is one.
    pub(crate) fn after(choices: &[usize], counts: &[usize]) -> Option<Vec<usize>> {
        let mut next = choices.to_vec();
        next.resize(counts.len(), 0);
        while let Some(last) = next.pop() {
            if last + 1 < counts[next.len()] {
                next.push(last + 1);
                return Some(next);
            }
        }
        None
    }
}

impl Pick {
    fn from(self, syncs: &[bool]) -> usize {
        let newest = syncs.len() - 1;
        match self {
            Self::Oldest => 0,
            Self::Newest => newest,
            Self::SyncFirst => syncs.iter().position(|sync| *sync).unwrap_or(newest),
            Self::SyncLast => syncs.iter().position(|sync| !*sync).unwrap_or(0),
        }
    }
}

impl fmt::Display for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Policy { window, pick } => {
                let pick = match pick {
                    Pick::Oldest => "oldest",
                    Pick::Newest => "newest",
                    Pick::SyncFirst => "sync-first",
                    Pick::SyncLast => "sync-last",
                };
                write!(f, "{window},{pick}")
            }
            Self::Choices(choices) => {
                f.write_str("choices")?;
                choices.iter().try_for_each(|choice| write!(f, ",{choice}"))
            }
        }
    }
}

impl FromStr for Schedule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text} is not a schedule");
        let mut parts = text.split(',');
        let first = parts.next().ok_or_else(bad)?;
        if first == "choices" {
            let choices: Result<_, _> = parts.map(str::parse).collect();
            return choices.map(Self::Choices).map_err(|_| bad());
        }
        let window = first.parse().map_err(|_| bad())?;
        let pick = match parts.next() {
            Some("oldest") => Pick::Oldest,
            Some("newest") => Pick::Newest,
            Some("sync-first") => Pick::SyncFirst,
            Some("sync-last") => Pick::SyncLast,
            _ => return Err(bad()),
        };
        Ok(Self::Policy { window, pick })
    }
}
