//! A report as a table for the terminal and as a document.

#[cfg(test)]
pub(crate) mod fixture;
mod markdown;
pub(crate) mod numbers;
mod table;
#[cfg(test)]
mod tests;

pub use markdown::document;
pub use table::table;

use crate::report::{Report, Row, Target};
use numbers::{figure, ratio};

/// The parts of a report, by what the names of their rows begin with.
const SECTIONS: [(&str, &str); 10] = [
    ("direct-", "Through the executor, without a protocol"),
    ("nbd-", "Over NBD"),
    ("synced-", "What reaches the device"),
    ("space-", "Ways of taking storage"),
    ("engine-", "The engine alone"),
    ("ring-", "From ring to ring"),
    ("ring-profile-", "The worker's time, from ring to ring"),
    ("disks-", "Many disks"),
    ("chain-", "Chains"),
    ("open-", "Opening, and space"),
];

/// The cells of a row that come after what is done, and where.
pub(crate) struct Cells {
    pub(crate) ours: String,
    pub(crate) peer: String,
    pub(crate) ratio: String,
    pub(crate) target: String,
    pub(crate) result: &'static str,
}

impl Cells {
    pub(crate) fn of(row: &Row) -> Self {
        let peer = row
            .peer
            .as_ref()
            .map(|peer| format!("{}: {}", peer.who, figure(row.unit, peer.median)));
        Self {
            ours: format!("{}: {}", row.ours.who, figure(row.unit, row.ours.median)),
            peer: peer.unwrap_or_default(),
            ratio: row.ratio.map(ratio).unwrap_or_default(),
            target: row
                .target
                .map(|target| wanted(row, target))
                .unwrap_or_default(),
            result: match row.is_met() {
                None => "",
                Some(true) => "met",
                Some(false) => "missed",
            },
        }
    }
}

pub(crate) fn wanted(row: &Row, target: Target) -> String {
    match target {
        Target::RatioAtLeast(bound) => format!("≥ {bound}"),
        Target::RatioAtMost(bound) => format!("≤ {bound}"),
        Target::FigureAtMost(bound) => format!("≤ {}", figure(row.unit, bound)),
        Target::FigureAtLeast(bound) => format!("≥ {}", figure(row.unit, bound)),
    }
}

fn section_of(row: &Row) -> &'static str {
    let named = SECTIONS
        .iter()
        .filter(|(prefix, _)| row.id.starts_with(prefix))
        .max_by_key(|(prefix, _)| prefix.len());
    named.map_or("Others", |(_, section)| section)
}

/// The rows of a section, in their order.
fn rows_of<'a>(report: &'a Report, section: &str) -> impl Iterator<Item = &'a Row> {
    report
        .rows
        .iter()
        .filter(move |row| section_of(row) == section)
}
