//! Comparing samples that are made up.

use super::*;
use crate::report::Target;
use crate::xen::sample::tests::fio_line;

/// Everything once in each of two rounds, a second for 100 requests; dom0 takes 0.1 s beside it, and 1 s for them.
pub(in crate::xen) fn samples() -> Vec<Sample> {
    let mut samples = Vec::new();
    for round in [2, 1] {
        for contender in [Contender::Ours].into_iter().chain(Contender::PEERS) {
            let sample = |work: &str, kibibytes: u64, dom0_ns| Sample {
                vcpus: 1,
                round,
                work: work.to_owned(),
                contender: contender.id().to_owned(),
                dom0_ns,
                guest_ns: 0,
                fio: fio_line(&[(46, &kibibytes.to_string()), (49, "1000")]),
            };
            samples.push(sample(NOTHING, 4, 100_000_000));
            for work in WORKS {
                samples.push(sample(work.id, 100 * work.block_kib, 1_100_000_000));
            }
        }
    }
    samples
}

fn find<'a>(rows: &'a [Row], id: &str, peer: Contender) -> &'a Row {
    let is_it = |row: &&Row| {
        row.id == id
            && row
                .peer
                .as_ref()
                .is_some_and(|figure| figure.who == peer.title())
    };
    rows.iter().find(is_it).unwrap()
}

/// The sample of ours for this work in round 1.
fn ours<'a>(samples: &'a mut [Sample], work: &str) -> &'a mut Sample {
    let is_it = |sample: &&mut Sample| {
        sample.work == work && sample.contender == "cowback" && sample.round == 1
    };
    samples.iter_mut().find(is_it).unwrap()
}

#[test]
fn rates_are_of_requests_or_of_bytes() {
    let rows = rows(&samples()).unwrap();
    assert_eq!(rows.len(), WORKS.len() * 4 * 2);
    let shallow = find(&rows, "speed-read-1", Contender::Blkback);
    assert_eq!(
        (shallow.ours.median, shallow.unit),
        (100.0, Unit::RequestsPerSecond)
    );
    let sequential = find(&rows, "speed-sequential-read", Contender::Blkback);
    assert_eq!(
        (sequential.ours.median, sequential.unit),
        (25.0, Unit::MebibytesPerSecond)
    );
    assert_eq!(sequential.site.as_deref(), Some("1 vcpu"));
}

#[test]
fn ratios_are_those_of_the_rounds() {
    let mut samples = samples();
    ours(&mut samples, "first-write-1").fio = fio_line(&[(46, "400"), (49, "250")]);
    let rows = rows(&samples).unwrap();
    let row = find(&rows, "speed-first-write-1", Contender::Qcow2);
    assert_eq!(row.ours.samples, [400.0, 100.0]);
    assert_eq!(row.ratio.unwrap().highest, 4.0);
    assert_eq!(row.target, Some(Target::RatioAtLeast(3.0)));
    assert_eq!(row.is_met(), Some(false));
}

#[test]
fn processor_time_is_without_what_is_beside_the_requests() {
    let mut samples = samples();
    ours(&mut samples, "read-32").dom0_ns = 1_400_000_000;
    let rows = rows(&samples).unwrap();
    let row = find(&rows, "cpu-read-32", Contender::Blkback);
    assert_eq!(row.peer.as_ref().unwrap().samples, [10.0, 10.0]);
    // 1.4 s less 0.1 s, for 100 requests.
    assert!((row.ours.samples[0] - 13.0).abs() < 1e-9);
    assert_eq!(row.is_met(), Some(true));
    assert_eq!(find(&rows, "cpu-read-32", Contender::Qcow2).target, None);
}

#[test]
fn a_measurement_that_is_missing_or_failed_is_named() {
    let mut samples = samples();
    let missing: Vec<Sample> = samples
        .iter()
        .filter(|sample| {
            sample.work != "read-1" || sample.contender != "qdisk" || sample.round != 2
        })
        .cloned()
        .collect();
    assert_eq!(
        rows(&missing).unwrap_err().to_string(),
        "read-1 by qdisk, 1 vcpus: measured 1 times in 2 rounds"
    );
    ours(&mut samples, "rewrite-1").fio = fio_line(&[(4, "28")]);
    assert_eq!(
        rows(&samples).unwrap_err().to_string(),
        "rewrite-1 by cowback, 1 vcpus, round 1: fio met the error 28"
    );
}
