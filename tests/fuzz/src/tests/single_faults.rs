//! One fault, of every kind, at every step of fixed workloads: enumerated, not sampled.

use crate::files;
use crate::in_memory;
use crate::run::Plan;
use crate::world::Fate;

/// A disk of 40 sectors in blocks of 4096 bytes, over an image of 48 with its first and third block, over 100 raw ones.
const CHAIN: [u8; 12] = [2, 0, 0, 47, 0, 0b101, 0, 1, 99, 0, 39, 0];

/// How the image is opened: what to do without space, and to how many bytes I/O is aligned.
const REPORT_512: u8 = 0;
const PAUSE_512: u8 = 1;
const REPORT_4096: u8 = 2;

/// An engine whose driver writes where it may, and one whose does not.
const SCRIBBLES: u8 = 1;
const SILENT: u8 = 0;

/// Storage is taken block by block, by reserving it, or by filling.
const SPARSE: u8 = 0;
const STRIDES: u8 = 1 << 2;
const FILL: u8 = 2 << 2;
/// Requests' memory is not aligned.
const MISALIGNED: u8 = 2;

/// Nothing fails by itself while the image is opened.
const OPEN: [u8; 2] = [0, 0];

/// Everything at once: whole and partial writes that overlap, zeros, a discard, reads, a flush, a barrier and growing.
const AT_ONCE: &[&[u8]] = &[
    &[0, 8, 7],
    &[0, 3, 2],
    &[0, 19, 20],
    &[7, 0, 39, 0b101],
    &[9, 5, 10],
    &[11, 0, 0, 39],
    &[14],
    &[10, 8, 23],
    &[29, 8],
    &[6, 0, 16, 3],
    &[0, 1, 0],
    &[11, 0, 0, 39],
];

/// One after the other, closed and opened anew in between.
const IN_TURN: &[&[u8]] = &[
    &[0, 3, 2],
    &[30, 0, 0, REPORT_512, 0, 0],
    &[0, 0, 20],
    &[14],
    &[29, 9],
    &[30, 0, 0, PAUSE_512, 0, 0],
    &[9, 1, 25],
    &[28, 0],
];

fn fates() -> Vec<Fate> {
    let mut fates = vec![
        Fate::Part(0),
        Fate::Part(1),
        Fate::Part(100),
        Fate::Again(4),
        Fate::Again(11),
    ];
    // EIO, ENOSPC, EDQUOT, EINVAL, EOPNOTSUPP
    for errno in [5, 28, 122, 22, 95] {
        for landed in [0, 0b0101_0101, 0xff] {
            fates.push(Fate::Fails { errno, landed });
        }
    }
    fates
}

/// Returns how many runs it took.
fn every_single_fault(run: impl Fn(&[u8], Plan) -> u32, script: &[u8]) -> u32 {
    let mut runs = 0;
    for last_first in [false, true] {
        let fault = None;
        let steps = run(script, Plan { fault, last_first });
        for step in 0..steps {
            for fate in fates() {
                // Shown if the run panics.
                println!("{script:?}, {fate:?} at step {step}, last first: {last_first}");
                let fault = Some((step, fate));
                run(script, Plan { fault, last_first });
                runs += 1;
            }
        }
    }
    runs
}

fn script(setting: &[u8], workload: &[&[u8]]) -> Vec<u8> {
    [&CHAIN, setting, &OPEN, &workload.concat()].concat()
}

#[test]
fn an_engine_with_one_fault_is_a_plain_disk() {
    let mut runs = 0;
    for setting in [REPORT_512, PAUSE_512, REPORT_4096] {
        for (workload, driver) in [(AT_ONCE, SCRIBBLES), (IN_TURN, SILENT)] {
            runs += every_single_fault(in_memory::run, &script(&[setting, driver], workload));
        }
    }
    assert!(runs > 8000, "only {runs} runs");
}

/// Tests of their own, since each takes a while.
fn a_disk_with_one_faulty_system_call_is_a_plain_disk(options: u8) {
    let mut runs = 0;
    for (setting, workload) in [(REPORT_512, AT_ONCE), (PAUSE_512, IN_TURN)] {
        runs += every_single_fault(files::run, &script(&[setting, options], workload));
    }
    assert!(runs > 1000, "only {runs} runs");
}

#[test]
fn a_sparse_disk_with_one_faulty_system_call_is_a_plain_disk() {
    a_disk_with_one_faulty_system_call_is_a_plain_disk(SPARSE | MISALIGNED);
}

#[test]
fn a_disk_that_reserves_with_one_faulty_system_call_is_a_plain_disk() {
    a_disk_with_one_faulty_system_call_is_a_plain_disk(STRIDES);
}

#[test]
fn a_disk_that_fills_with_one_faulty_system_call_is_a_plain_disk() {
    a_disk_with_one_faulty_system_call_is_a_plain_disk(FILL);
}
