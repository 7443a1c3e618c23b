//! A small report to render.

use crate::report::{Figure, Host, Report, Row, Settings, Target, Unit};
use crate::scale::Scale;

pub(crate) fn report() -> Report {
    let direct = Row::of(
        "direct-read",
        "random reads",
        Unit::RequestsPerSecond,
        Figure::new("ours", vec![990.0, 1200.0]),
    )
    .against(Figure::new("raw by fio", vec![1000.0, 1000.0]))
    .wanting(Target::RatioAtLeast(0.98))
    .at("ext4");
    let missed = Row::of(
        "nbd-read",
        "random reads",
        Unit::RequestsPerSecond,
        Figure::new("ours", vec![500.0]),
    )
    .against(Figure::new("qemu-nbd raw", vec![1000.0]))
    .wanting(Target::RatioAtLeast(1.0))
    .at("XFS");
    let opening = Row::of(
        "open-time",
        "opening",
        Unit::Nanoseconds,
        Figure::new("ours", vec![1.5e6]),
    )
    .wanting(Target::FigureAtMost(2e7))
    .noting("mostly reading");
    Report {
        host: Host {
            date: "2026-01-02".to_owned(),
            commit: "abc123".to_owned(),
            kernel: "6.12".to_owned(),
            cpu: "Some CPU".to_owned(),
            cpus: 2,
            memory: 8 << 30,
            fio: "fio-3.33".to_owned(),
            qemu: "qemu-nbd 7.2".to_owned(),
            qemu_aio: "io_uring".to_owned(),
        },
        settings: Settings {
            rounds: 2,
            quick: false,
            scale: Scale::QUICK,
        },
        rows: vec![direct, missed, opening],
        failures: vec!["space: no network".to_owned()],
    }
}
