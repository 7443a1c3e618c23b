//! Rendering a report of samples that are made up.

use super::*;
use crate::xen::counts;
use crate::xen::report::tests::samples;
use crate::xen::report::{self, Dom0, Machine, OpenFile, Settings};

fn fixture() -> XenReport {
    let samples = samples();
    let file = |who: &str, file: &str, direct| OpenFile {
        who: who.to_owned(),
        file: file.to_owned(),
        direct,
    };
    XenReport {
        machine: Machine {
            date: "2026-01-02".to_owned(),
            commit: "abc123".to_owned(),
            cpu: "Some CPU".to_owned(),
            cpus: 2,
            emulator: "QEMU 7.2".to_owned(),
            others: 0.034,
            dom0: Dom0 {
                xen: "4.20.2".to_owned(),
                kernel: "6.12".to_owned(),
                qemu: "10.0".to_owned(),
                fio: "fio-3.39".to_owned(),
            },
        },
        settings: Settings {
            quick: false,
            rounds: report::rounds(&samples),
        },
        files: vec![
            file("cowbackd", "cowback.cow", true),
            file("cowbackd", "base.img", false),
        ],
        rows: report::rows(&samples).unwrap(),
        counts: counts::counts(&counts::tests::samples()).unwrap(),
    }
}

#[test]
fn each_work_is_a_line_with_all_contenders() {
    let text = tables(&fixture());
    let line = |begin: &str| {
        let found = text.lines().find(|line| line.starts_with(begin));
        let words: Vec<&str> = found
            .unwrap_or_else(|| panic!("{text}"))
            .split_whitespace()
            .collect();
        words.join(" ")
    };
    assert_eq!(
        line("| work "),
        "| work | ours | blkback raw | qdisk raw | qdisk qcow2 | blkback dm-snapshot |"
    );
    assert_eq!(
        line("| 4 KiB random reads, depth 1 "),
        "| 4 KiB random reads, depth 1 | 100/s | 100/s · 1.00 (1.00 to 1.00) | 100/s · 1.00 (1.00 to 1.00) \
         | 100/s · 1.00 (1.00 to 1.00) | 100/s · 1.00 (1.00 to 1.00) |"
    );
    assert_eq!(
        line("| speed          | 4 KiB random first writes, depth 1 "),
        "| speed | 4 KiB random first writes, depth 1 | 1 vcpu | blkback raw | 1.00 (1.00 to 1.00) | ≥ 0.9 | met |"
    );
    assert!(
        text.contains("## Processor time of dom0 for 1,000 requests, 1 vcpu\n"),
        "{text}"
    );
    assert!(text.contains("| 10.00 s "), "{text}");
    assert!(text.contains("\ntargets met: 20 of 22\n"), "{text}");
    assert_eq!(
        line("| 1 vcpu | qdisk qcow2 "),
        "| 1 vcpu | qdisk qcow2 | 100/s | ≥ 3 | 1.00 | 1.00 | 1.00 | 1.00 |"
    );
    assert_eq!(
        line("| 4 KiB random reads, depth 1 | cowback "),
        "| 4 KiB random reads, depth 1 | cowback | 2.0: (to-kernel-worker) 2.0, io_uring_enter 2.0 | 4.0: iret 4.0 |"
    );
}

#[test]
fn what_others_took_is_never_less_than_nothing() {
    let mut report = fixture();
    report.machine.others = -0.031;
    let text = document(&report);
    assert!(text.contains("took less of its processors meanwhile than could be measured"));
    assert!(!text.contains("-3 %"));
}

#[test]
fn the_document_says_where_and_how_it_was_measured() {
    let mut report = fixture();
    let text = document(&report);
    for part in [
        "Measured on 2026-01-02 at commit abc123: Xen 4.20.2 with Linux 6.12 in dom0",
        "that QEMU 7.2 emulates in software on 2 × Some CPU; qdisk is QEMU 10.0, the guest's client is fio 3.39.",
        "Everything else on the host took 3 % of its processors meanwhile.",
        "the median of the rounds (2 with 1 vcpu);",
        "Open past dom0's page cache: `cowback.cow` by cowbackd. Through it: `base.img` by cowbackd.",
    ] {
        assert!(text.contains(part), "{part:?} is missing in:\n{text}");
    }
    assert!(!text.contains("smoke test"), "{text}");
    report.settings.quick = true;
    assert!(document(&report).contains("its figures mean nothing"));
}

#[test]
fn a_report_survives_json() {
    let report = fixture();
    let json = serde_json::to_string(&report).unwrap();
    assert_eq!(serde_json::from_str::<XenReport>(&json).unwrap(), report);
}
