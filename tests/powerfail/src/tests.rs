//! The whole of it on files: a workload over a recorded log, and every state of it looked at.

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use blockio::executor::Executor;
use blockio::image::Image;
use tempfile::TempDir;

use crate::campaign::{Campaign, Choices, Report};
use crate::journal;
use crate::mark::Marks;
use crate::oracle::Oracle;
use crate::place::Place;
use crate::recorder::{Recorder, Recording};
use crate::replay::{Log, Target};
use crate::sabotage::{Sabotage, Saboteur};
use crate::workload::{self, Chain, Setting};

fn setting(dir: &Path, seed: u64, chain: Chain) -> Setting {
    Setting {
        dir: dir.to_owned(),
        device: None,
        existing: true,
        chain,
        block_size: match chain {
            Chain::Raw => 4 << 10,
            Chain::Dscow => 64 << 10,
        },
        seed,
        journal: dir.join("journal"),
    }
}

/// Runs a workload whose image's file is recorded, and looks at what a loss of power can leave of it.
fn campaign(seed: u64, chain: Chain, losses: u64, sabotage: Option<Sabotage>) -> Report {
    let dir = TempDir::new().unwrap();
    let setting = setting(dir.path(), seed, chain);
    workload::prepare(&setting).unwrap();
    let file = |name: &str| -> PathBuf { dir.path().join(name) };
    for name in ["replay", "crashed"] {
        fs::write(file(name), b"").unwrap();
    }
    let image = Target::open(&setting.image()).unwrap();
    let mut before = Target::open(&file("replay")).unwrap();
    before.become_like(&image).unwrap();

    let recording = Rc::new(RefCell::new(Recording::default()));
    let wrap = |executor: Box<dyn Executor>, image: &Image| -> Box<dyn Executor> {
        let recorder = Box::new(Recorder::new(executor, Rc::clone(&recording)));
        match sabotage {
            Some(sabotage) => Box::new(Saboteur::new(recorder, sabotage, image)),
            None => recorder,
        }
    };
    let marks = Marks::Recorded(Rc::clone(&recording));
    workload::run(&setting, 60, &marks, &wrap).unwrap();
    fs::write(file("log"), recording.take().finish()).unwrap();

    let log = Log::open(&file("log")).unwrap();
    let oracle = Oracle::new(&journal::load(&setting.journal).unwrap());
    let choices = Choices {
        seed,
        losses,
        untorn_sectors: 1,
        stop_at_first: sabotage.is_some(),
    };
    let (replay, crashed) = (file("replay"), file("crashed"));
    Campaign::new(&log, &oracle, &Place::File, choices, &replay, &crashed)
        .unwrap()
        .run()
        .unwrap()
}

#[test]
fn no_promise_is_broken() {
    for (seed, chain) in [(1, Chain::Raw), (2, Chain::Dscow)] {
        let report = campaign(seed, chain, 2, None);
        assert_eq!(report.bad_states, 0, "{chain:?}: {:#?}", report.violations);
        assert!(report.whole_states > 15, "{report}");
        assert!(report.partial_states > 20, "{report}");
        assert!(report.promised_sectors > 10_000, "{report}");
    }
}

/// What a flush covers is missing right after it.
#[test]
fn syncs_that_do_nothing_are_noticed() {
    let report = campaign(3, Chain::Raw, 0, Some(Sabotage::NoSync));
    assert_ne!(report.bad_states, 0, "{report}");
}

/// A state with some of the writes shows it: when the flush is done everything is there.
#[test]
fn a_missing_sync_between_data_and_bitmap_is_noticed() {
    let report = campaign(4, Chain::Raw, 3, Some(Sabotage::NoDataSync));
    assert_ne!(report.bad_states, 0, "{report}");
}

/// A state that has all writes up to one of the flushes shows it.
#[test]
fn a_bitmap_before_its_data_is_noticed() {
    let report = campaign(5, Chain::Raw, 0, Some(Sabotage::BitmapFirst));
    assert_ne!(report.bad_states, 0, "{report}");
    assert!(
        report.violations[0].problem.contains("holds zeros"),
        "{report:#?}"
    );
}
