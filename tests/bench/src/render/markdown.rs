//! The document.

use super::table::summary;
use super::{Cells, SECTIONS, rows_of};
use crate::report::{Report, Row};

/// What was found out about the rows that miss their targets; written by hand, without figures.
const ANALYSIS: &str = include_str!("analysis.md");

/// docs/performance.md.
pub fn document(report: &Report) -> String {
    let mut text = String::from(
        "<!-- Made by `make bench-report` from what `make bench` measured. Do not edit: run both again. -->\n\n\
         # Performance\n\n",
    );
    text.push_str(&introduction(report));
    for (_, section) in SECTIONS {
        let rows: Vec<&Row> = rows_of(report, section).collect();
        if !rows.is_empty() {
            text.push_str(&format!("\n## {section}\n\n"));
            text.push_str(&rows_as_table(&rows));
            text.push_str(&notes(&rows));
        }
    }
    text.push('\n');
    text.push_str(ANALYSIS);
    text
}

fn introduction(report: &Report) -> String {
    let (host, settings, scale) = (&report.host, report.settings, report.settings.scale);
    let mut text = String::new();
    if settings.quick {
        text.push_str("**This was a smoke test (`--quick`); its figures mean nothing.**\n\n");
    }
    text.push_str(&format!(
        "Measured on {} at commit {}: {} × {}, {} GiB of memory, Linux {}, {}, {} ({}, cache none).\n\n",
        host.date,
        host.commit,
        host.cpus,
        host.cpu,
        host.memory >> 30,
        host.kernel,
        host.fio,
        host.qemu,
        host.qemu_aio,
    ));
    text.push_str(&format!(
        "All images are on a loop device of {} GiB in memory, so what is compared is software. Every contender gets the \
         same list of requests, by the same client (fio; without a protocol, this project's own driver), on the same \
         file system, with the server on one processor and the client on the other. There are {} rounds; in each, all \
         contenders do the work one after the other, and each round begins with another one. A figure is the median of \
         the rounds. A ratio is the median of the rounds' ratios, with the lowest and the highest of them. Everything \
         goes past the page cache (`O_DIRECT`). Allocated blocks: a disk of {} MiB that was written from its start to its \
         end. First writes: {} of them on a disk of {} MiB, of which nothing is there before; overlays are over a base \
         full of data, raw files are sparse, and images are new for every round. docs/testing.md says more.\n\n",
        scale.device >> 30,
        settings.rounds,
        scale.disk >> 20,
        scale.first_writes,
        scale.sparse_disk >> 20,
    ));
    text.push_str(&format!("In all, {}.\n", summary(report)));
    for failure in &report.failures {
        text.push_str(&format!("\nNot measured: {failure}\n"));
    }
    text
}

fn rows_as_table(rows: &[&Row]) -> String {
    let mut text = String::from(
        "| work | where | ours | peer | ratio | target | |\n\
         |---|---|---|---|---|---|---|\n",
    );
    for row in rows {
        let Cells {
            ours,
            peer,
            ratio,
            target,
            result,
        } = Cells::of(row);
        let result = if result == "missed" {
            "**missed**"
        } else {
            result
        };
        let site = row.site.as_deref().unwrap_or_default();
        let cells = [
            row.work.as_str(),
            site,
            &ours,
            &peer,
            &ratio,
            &target,
            result,
        ];
        text.push_str(&format!("| {} |\n", cells.join(" | ")));
    }
    text
}

fn notes(rows: &[&Row]) -> String {
    let noted = rows
        .iter()
        .filter_map(|row| Some(format!("\n* {}: {}\n", row.work, row.note.as_ref()?)));
    noted.collect()
}
