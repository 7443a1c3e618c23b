//! Who holds what below an overlay.

use proptest::prelude::*;

use super::*;
use crate::layout::Headroom;
use crate::units::BlockSize;

const KIB: u64 = 1024;

fn dscow(size: u64, block: u64, allocated: &[u64]) -> ParentLayer {
    let block = BlockSize::from_bytes(block).unwrap();
    let layout = Layout::for_new(size, block, Headroom::Exact).unwrap();
    let mut bitmap = Bitmap::empty(&layout).unwrap();
    for b in allocated {
        bitmap.set(BlockIndex(*b));
    }
    ParentLayer::Dscow {
        layout,
        bitmap,
        parent_limit: u64::MAX,
    }
}

fn runs(parents: &Parents, start: u64, end: u64) -> Vec<(Option<(usize, u64)>, u64)> {
    let mut at = start;
    let mut found = Vec::new();
    while at < end {
        let run = parents.run_at(at, end);
        let from = match run.source {
            Source::Layer(layer, position) => Some((layer.0, position.0)),
            Source::Zero => None,
        };
        found.push((from, run.len));
        at += run.len;
    }
    found
}

#[test]
fn without_parents_all_is_zero() {
    assert_eq!(runs(&Parents::default(), 512, 8192), [(None, 7680)]);
}

#[test]
fn a_raw_base_ends_in_zeros() {
    let parents = Parents::new(vec![ParentLayer::Raw { size: 6 * KIB }]);
    assert_eq!(
        runs(&parents, 4 * KIB, 12 * KIB),
        [(Some((1, 4 * KIB)), 2 * KIB), (None, 6 * KIB)]
    );
}

#[test]
fn the_nearest_layer_that_holds_a_block_wins() {
    let parents = Parents::new(vec![
        dscow(64 * KIB, 4 * KIB, &[1, 2]),
        dscow(64 * KIB, 8 * KIB, &[1, 3]),
        ParentLayer::Raw { size: 1024 * KIB },
    ]);
    let data = 1024 * KIB;
    assert_eq!(
        runs(&parents, 0, 40 * KIB),
        [
            (Some((3, 0)), 4 * KIB),
            (Some((1, data + 4 * KIB)), 8 * KIB),
            (Some((2, data + 12 * KIB)), 4 * KIB),
            (Some((3, 16 * KIB)), 8 * KIB),
            (Some((2, data + 24 * KIB)), 8 * KIB),
            (Some((3, 32 * KIB)), 8 * KIB),
        ]
    );
}

#[test]
fn a_short_parent_hides_what_lies_below_its_end() {
    let parents = Parents::new(vec![
        dscow(8 * KIB, 4 * KIB, &[]),
        ParentLayer::Raw { size: 1024 * KIB },
    ]);
    assert_eq!(
        runs(&parents, 0, 16 * KIB),
        [(Some((2, 0)), 8 * KIB), (None, 8 * KIB)]
    );
}

#[test]
fn what_a_grown_layer_hides_of_its_parent_stays_hidden() {
    let mut grown = dscow(32 * KIB, 4 * KIB, &[5]);
    if let ParentLayer::Dscow { parent_limit, .. } = &mut grown {
        *parent_limit = 9 * KIB;
    }
    let parents = Parents::new(vec![grown, ParentLayer::Raw { size: 1024 * KIB }]);
    assert_eq!(
        runs(&parents, 4 * KIB, 32 * KIB),
        [
            (Some((2, 4 * KIB)), 4 * KIB),
            (Some((2, 8 * KIB)), KIB),
            (None, 3 * KIB),
            (None, 8 * KIB),
            (Some((1, 1024 * KIB + 20 * KIB)), 4 * KIB),
            (None, 8 * KIB),
        ]
    );
}

#[test]
fn a_stretch_that_was_forgotten_is_worked_out_again() {
    let layer = dscow(1 << 40, 4 * KIB, &[0, 4096, 4097]);
    let parents = Parents::new(vec![layer, ParentLayer::Raw { size: 1 << 40 }]);
    let stretch = 16 << 20;
    let expected = [(Some((1, (33 << 20) + stretch)), 8 * KIB)];
    let at_second = |parents: &Parents| {
        assert_eq!(runs(parents, stretch, stretch + 8 * KIB), expected);
    };
    at_second(&parents);
    for number in 0..5000 {
        parents.run_at(number * stretch, number * stretch + 512);
    }
    assert!(parents.owners.borrow().stretches() <= 4096);
    at_second(&parents);
}

proptest! {
    /// The map of owners against asking one layer after the other.
    #[test]
    fn the_owners_are_those_that_the_layers_name(
        layers in proptest::collection::vec(layer_strategy(), 1..8),
        ranges in proptest::collection::vec((0..SPAN, 1..SPAN / 2), 1..10),
    ) {
        let build = || layers.iter().map(LayerSpec::build).collect::<Vec<_>>();
        let (parents, walked) = (Parents::new(build()), build());
        for (start, len) in ranges {
            let (mut at, end) = (start * 512, (start + len) * 512);
            while at < end {
                let run = parents.run_at(at, end);
                let mut inside = at;
                while inside < at + run.len {
                    let expected = walk(&walked, inside, at + run.len);
                    prop_assert_eq!(advanced(run.source, inside - at), expected.source);
                    inside += expected.len;
                }
                at += run.len;
            }
        }
    }
}

/// Sectors of the disks in the test: some more than one stretch of 4 KiB granules.
const SPAN: u64 = 40_000;

#[derive(Clone, Debug)]
enum LayerSpec {
    Raw(u64),
    Dscow {
        sectors: u64,
        shift: u32,
        runs: Vec<(u64, u64)>,
        parent_limit: u64,
    },
}

impl LayerSpec {
    fn build(&self) -> ParentLayer {
        match self {
            Self::Raw(sectors) => ParentLayer::Raw {
                size: sectors * 512,
            },
            Self::Dscow {
                sectors,
                shift,
                runs,
                parent_limit,
            } => {
                let block_size = BlockSize::from_shift(*shift).unwrap();
                let layout = Layout::for_new(sectors * 512, block_size, Headroom::Exact).unwrap();
                let mut bitmap = Bitmap::empty(&layout).unwrap();
                for (first, len) in runs {
                    for block in *first..(*first + len).min(layout.block_count()) {
                        bitmap.set(BlockIndex(block));
                    }
                }
                ParentLayer::Dscow {
                    layout,
                    bitmap,
                    parent_limit: parent_limit * 512,
                }
            }
        }
    }
}

fn layer_strategy() -> impl Strategy<Value = LayerSpec> {
    prop_oneof![
        1 => (1..SPAN).prop_map(LayerSpec::Raw),
        4 => (
            1..SPAN,
            12..16u32,
            proptest::collection::vec((0..SPAN / 8, 1..400_u64), 0..12),
            prop_oneof![Just(u64::MAX / 512), 0..SPAN],
        )
            .prop_map(|(sectors, shift, runs, parent_limit)| LayerSpec::Dscow {
                sectors,
                shift,
                runs,
                parent_limit,
            }),
    ]
}

fn advanced(source: Source, by: u64) -> Source {
    match source {
        Source::Layer(layer, position) => Source::Layer(layer, FileOffset(position.0 + by)),
        Source::Zero => Source::Zero,
    }
}
