//! What is in reach here: how fast first writes could be at best.

use crate::render::numbers::figure;
use crate::report::{Row, Target};
use crate::xen::work::{Kind, WORKS};

/// What the columns mean.
const NOTE: &str = "
What a request takes beside its backend's work, in the guest, in Xen and until somebody wakes up, is the same for all. So first
writes can hardly get ahead of what is no more than one write to storage that is there (rewrites), of what has nothing to write
(reads), or of the fastest that anybody does at depth 1. Where even that is less than wanted, the target is out of reach on this
machine for whatever backend.
";

/// For each target of first writes, what the ratio would be if they were as fast as other requests.
pub(super) fn lines(rows: &[Row]) -> Vec<Vec<String>> {
    let header = [
        "where",
        "first writes against",
        "theirs",
        "wanted",
        "measured",
        "as our rewrites",
        "as our reads",
        "as the fastest of all",
    ];
    let mut lines = vec![header.map(str::to_owned).to_vec()];
    for row in rows {
        let (Some(peer), Some(Target::RatioAtLeast(wanted)), Some(ratio)) =
            (&row.peer, row.target, row.ratio)
        else {
            continue;
        };
        if row.id != "speed-first-write-1" {
            continue;
        }
        let at_depth_1 = || {
            let same_site = rows.iter().filter(|other| other.site == row.site);
            same_site.filter(|other| is_at_depth_1(&other.id))
        };
        let ours = |id: &str| {
            let found = at_depth_1().find(|other| other.id == id);
            found.map(|other| other.ours.median)
        };
        let fastest = at_depth_1()
            .flat_map(|other| {
                [
                    Some(other.ours.median),
                    other.peer.as_ref().map(|peer| peer.median),
                ]
            })
            .flatten()
            .max_by(f64::total_cmp);
        let over_theirs = |rate: Option<f64>| {
            rate.map_or_else(String::new, |rate| format!("{:.2}", rate / peer.median))
        };
        lines.push(vec![
            row.site.clone().unwrap_or_default(),
            peer.who.clone(),
            figure(row.unit, peer.median),
            format!("≥ {wanted}"),
            format!("{:.2}", ratio.median),
            over_theirs(ours("speed-rewrite-1")),
            over_theirs(ours("speed-read-1")),
            over_theirs(fastest),
        ]);
    }
    lines
}

/// As a section of the document.
pub(super) fn section(rows: &[Row], grid: impl Fn(&[Vec<String>]) -> String) -> String {
    format!("{}{NOTE}", grid(&lines(rows)))
}

/// Whether the rates of these rows are of single requests, one at a time, without flushes.
fn is_at_depth_1(id: &str) -> bool {
    WORKS.iter().any(|work| {
        matches!(work.kind, Kind::Shallow | Kind::ShallowFirstWrite)
            && id.strip_prefix("speed-") == Some(work.id)
    })
}
