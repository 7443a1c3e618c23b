//! Whether an operation that io_uring would hand over to a thread of the kernel is done in place: by a blocking system call
//! of the calling thread.
//!
//! To hand an operation over and to be woken when it is done costs two changes between threads, which on storage that answers
//! at once is more than the operation. But whoever blocks holds up all disks of its worker. So it is done only where the
//! call is expected to cost nothing but processor time, as it would cost elsewhere too: on storage that has shown
//! that it answers without having its caller sleep ([`BlockFile::answers_at_once`](crate::file::BlockFile::answers_at_once)).
//! Whether a call did sleep is known afterwards, from the kernel's count. Then operations of its kind are handed over for a
//! while, and for twice as long each time that it happens again.
//!
//! One kind does sleep even on such storage: a sync that has the file system commit its journal waits for the journal's thread.
//! While no other image of the worker is written, it is done in place as well, if that does not take long: what a worker has
//! beside it, disks that are only read and the control plane, can wait for so long.

use std::time::{Duration, Instant};

use crate::file::sleeps;

/// What is handed over otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A write for which the file system has to take storage.
    Write,
    /// A sync after such writes: the file system has to commit what it noted about them.
    Commit,
    /// Any other sync.
    Sync,
}

/// How many operations of a kind are handed over after one that slept, at first and at most.
const HANDED_OVER_MIN: u32 = 16;
const HANDED_OVER_MAX: u32 = 1 << 14;

/// How long a commit may take in place.
const COMMIT_MAX: Duration = Duration::from_millis(5);

/// What is known about one file.
#[derive(Debug)]
pub(super) struct InPlace {
    answers_at_once: bool,
    /// Storage was taken since the last sync.
    taken: bool,
    kinds: [Trust; 3],
}

/// How the operations of a kind have gone.
#[derive(Clone, Copy, Debug)]
struct Trust {
    /// So many are handed over yet.
    handed_over: u32,
    /// So many will be, if the next one in place holds the worker up.
    penalty: u32,
    /// So many in place have not.
    good: u32,
}

impl InPlace {
    /// For a file whose storage answers at once, or does not.
    pub(super) fn new(answers_at_once: bool) -> Self {
        let trust = Trust {
            handed_over: 0,
            penalty: HANDED_OVER_MIN,
            good: 0,
        };
        Self {
            answers_at_once,
            taken: false,
            kinds: [trust; 3],
        }
    }

    /// A write takes storage: what kind of operation it is.
    pub(super) fn write(&mut self) -> Kind {
        self.taken = true;
        Kind::Write
    }

    /// What kind of operation a sync is now.
    pub(super) fn sync(&mut self) -> Kind {
        if std::mem::take(&mut self.taken) {
            Kind::Commit
        } else {
            Kind::Sync
        }
    }

    /// Whether the next operation of this kind is to be done in place. `alone`: no other of the file is under way; one
    /// that was handed over may hold the file's lock.
    pub(super) fn admits(&mut self, kind: Kind, alone: bool) -> bool {
        if !self.answers_at_once {
            return false;
        }
        let trust = &mut self.kinds[kind as usize];
        if trust.handed_over > 0 {
            trust.handed_over -= 1;
            return false;
        }
        alone
    }

    /// Storage is taken, or given back, by something that is never done in place.
    pub(super) fn changes_storage(&mut self) {
        self.taken = true;
    }

    /// An operation was done in place, and held the worker up or did not.
    pub(super) fn was_done(&mut self, kind: Kind, held_up: bool) {
        let trust = &mut self.kinds[kind as usize];
        if held_up {
            trust.handed_over = trust.penalty;
            trust.penalty = (trust.penalty * 2).min(HANDED_OVER_MAX);
            trust.good = 0;
        } else {
            // As many good ones as there would be handed over, so that one that is good now and then does not help.
            trust.good += 1;
            if trust.good >= trust.penalty {
                trust.penalty = (trust.penalty / 2).max(HANDED_OVER_MIN);
                trust.good = 0;
            }
        }
    }
}

/// How it is seen whether an operation in place holds its worker up.
pub(super) enum Measure {
    /// It does if it sleeps: how often the thread had slept before.
    Sleeps(Option<i64>),
    /// It does if it takes long: when it began.
    Time(Instant),
}

impl Measure {
    /// Begins to measure an operation. `sole`: no other file of the executor is written.
    pub(super) fn begin(kind: Kind, sole: bool) -> Self {
        if sole && kind == Kind::Commit {
            Self::Time(Instant::now())
        } else {
            Self::Sleeps(sleeps())
        }
    }

    /// Whether it has held the worker up. If the kernel does not tell, it has.
    pub(super) fn is_held_up(&self) -> bool {
        match self {
            Self::Sleeps(before) => before.is_none() || sleeps() != *before,
            Self::Time(begun) => begun.elapsed() > COMMIT_MAX,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many operations are handed over before the next one is admitted.
    fn handed_over(in_place: &mut InPlace, kind: Kind) -> u32 {
        let mut count = 0;
        while !in_place.admits(kind, true) {
            count += 1;
            assert!(count <= HANDED_OVER_MAX, "it never ends");
        }
        count
    }

    #[test]
    fn nothing_is_done_in_place_on_storage_that_has_its_caller_sleep() {
        let mut in_place = InPlace::new(false);
        for kind in [Kind::Write, Kind::Commit, Kind::Sync] {
            assert!((0..100_000).all(|_| !in_place.admits(kind, true)));
        }
    }

    #[test]
    fn after_a_sleep_the_next_ones_are_handed_over_and_twice_as_many_after_another() {
        let mut in_place = InPlace::new(true);
        assert_eq!(handed_over(&mut in_place, Kind::Commit), 0);
        let counts = [16, 32, 64, 128].map(|_| {
            in_place.was_done(Kind::Commit, true);
            handed_over(&mut in_place, Kind::Commit)
        });
        assert_eq!(counts, [16, 32, 64, 128]);
        for _ in 0..20 {
            in_place.was_done(Kind::Commit, true);
        }
        assert_eq!(handed_over(&mut in_place, Kind::Commit), HANDED_OVER_MAX);
    }

    #[test]
    fn what_does_not_sleep_wins_trust_back() {
        let mut in_place = InPlace::new(true);
        for _ in 0..3 {
            in_place.was_done(Kind::Write, true);
        }
        assert_eq!(handed_over(&mut in_place, Kind::Write), 64);
        let mut after_good = |count| {
            for _ in 0..count {
                in_place.was_done(Kind::Write, false);
            }
            in_place.was_done(Kind::Write, true);
            handed_over(&mut in_place, Kind::Write)
        };
        // From 128: one too few, and then enough.
        assert_eq!(after_good(127), 128);
        assert_eq!(after_good(256 + 128 + 64), 32);
        assert_eq!(after_good(100_000), HANDED_OVER_MIN);
    }

    #[test]
    fn one_that_is_good_now_and_then_does_not_help() {
        let mut in_place = InPlace::new(true);
        for _ in 0..12 {
            in_place.was_done(Kind::Sync, false);
            in_place.was_done(Kind::Sync, true);
        }
        assert_eq!(handed_over(&mut in_place, Kind::Sync), HANDED_OVER_MAX);
    }

    #[test]
    fn a_sync_that_sleeps_says_nothing_about_writes_and_other_syncs() {
        let mut in_place = InPlace::new(true);
        in_place.was_done(Kind::Commit, true);
        assert!(in_place.admits(Kind::Write, true));
        assert!(in_place.admits(Kind::Sync, true));
        assert!(!in_place.admits(Kind::Commit, true));
    }

    #[test]
    fn the_first_sync_after_storage_was_taken_is_a_commit() {
        let mut in_place = InPlace::new(true);
        assert_eq!(in_place.sync(), Kind::Sync);
        in_place.write();
        assert_eq!(
            [in_place.sync(), in_place.sync()],
            [Kind::Commit, Kind::Sync]
        );
    }

    #[test]
    fn only_a_commit_may_sleep_for_a_moment_and_only_if_nobody_else_writes() {
        let holds_up = |kind, sole, millis| {
            let measure = Measure::begin(kind, sole);
            std::thread::sleep(Duration::from_millis(millis));
            measure.is_held_up()
        };
        let kinds = [Kind::Write, Kind::Commit, Kind::Sync];
        assert_eq!(kinds.map(|kind| holds_up(kind, false, 1)), [true; 3]);
        assert!(holds_up(Kind::Write, true, 1) && holds_up(Kind::Sync, true, 1));
        assert!(holds_up(Kind::Commit, true, 6));
        // However long this machine needs for nothing, no sleep is counted for it.
        assert!(matches!(
            Measure::begin(Kind::Commit, true),
            Measure::Time(_)
        ));
    }

    #[test]
    fn the_sync_after_storage_was_given_back_is_a_commit() {
        let mut in_place = InPlace::new(true);
        in_place.changes_storage();
        assert_eq!(in_place.sync(), Kind::Commit);
    }

    #[test]
    fn nothing_is_done_in_place_beside_something_that_was_handed_over() {
        let mut in_place = InPlace::new(true);
        assert!(!in_place.admits(Kind::Write, false));
        assert!(in_place.admits(Kind::Write, true));
    }
}
