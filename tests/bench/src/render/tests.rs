//! Rendering a fixture.

use super::*;

#[test]
fn the_table_shows_each_row_and_counts_the_targets() {
    let text = table(&fixture::report());
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines.contains(
        &"random reads  ext4   ours: 1,095/s  raw by fio: 1,000/s    1.09 (0.99 to 1.20)  ≥ 0.98     met"
    ), "{text}");
    assert!(lines.contains(
        &"random reads  XFS    ours: 500/s    qemu-nbd raw: 1,000/s  0.50 (0.50 to 0.50)  ≥ 1        missed"
    ), "{text}");
    assert!(lines.contains(&"opening: mostly reading"), "{text}");
    assert!(lines.contains(&"NOT MEASURED: space: no network"), "{text}");
    assert_eq!(lines.last(), Some(&"targets met: 2 of 3"));
}

#[test]
fn the_document_has_all_figures_of_the_report() {
    let text = document(&fixture::report());
    for part in [
        "Measured on 2026-01-02 at commit abc123: 2 × Some CPU, 8 GiB of memory, Linux 6.12, fio-3.33, qemu-nbd 7.2 \
         (io_uring, cache none).",
        "There are 2 rounds;",
        "In all, targets met: 2 of 3.",
        "Not measured: space: no network",
        "## Over NBD\n\n| work | where |",
        "| random reads | ext4 | ours: 1,095/s | raw by fio: 1,000/s | 1.09 (0.99 to 1.20) | ≥ 0.98 | met |",
        "| random reads | XFS | ours: 500/s | qemu-nbd raw: 1,000/s | 0.50 (0.50 to 0.50) | ≥ 1 | **missed** |",
        "| opening |  | ours: 1.5 ms |  |  | ≤ 20.0 ms | met |",
        "* opening: mostly reading",
    ] {
        assert!(text.contains(part), "{part:?} is missing in:\n{text}");
    }
    assert!(!text.contains("smoke test"), "{text}");
}

#[test]
fn a_row_is_in_the_section_that_fits_its_name_best() {
    let section = |id: &str| {
        let figure = crate::report::Figure::new("ours", vec![1.0]);
        section_of(&Row::of(id, "work", crate::report::Unit::Percent, figure))
    };
    assert_eq!(section("ring-cached-read"), "From ring to ring");
    assert_eq!(
        section("ring-profile-cached-read"),
        "The worker's time, from ring to ring"
    );
    assert_eq!(section("something"), "Others");
}

#[test]
fn a_smoke_test_cannot_be_taken_for_a_measurement() {
    let mut report = fixture::report();
    report.settings.quick = true;
    assert!(document(&report).contains("its figures mean nothing"));
}
