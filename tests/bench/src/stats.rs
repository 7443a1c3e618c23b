//! The arithmetic of the report.

use serde::{Deserialize, Serialize};

/// The median; of an even number of samples the mean of the two in the middle.
///
/// # Panics
/// If there are no samples.
pub fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let upper = sorted[sorted.len() / 2];
    let lower = sorted[(sorted.len() - 1) / 2];
    f64::midpoint(lower, upper)
}

/// How two contenders compare over some rounds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ratio {
    /// The median of the rounds' ratios.
    pub median: f64,
    /// The lowest of them.
    pub lowest: f64,
    /// The highest of them.
    pub highest: f64,
}

impl Ratio {
    /// Ours against a peer's, round by round. Each round's two measurements were made one after the other, so what
    /// slows the machine down for a while weighs on both sides of a ratio.
    ///
    /// # Panics
    /// If there are no rounds, or not as many on both sides.
    pub fn of(ours: &[f64], peer: &[f64]) -> Self {
        assert_eq!(ours.len(), peer.len(), "rounds of both sides");
        let ratios: Vec<f64> = ours
            .iter()
            .zip(peer)
            .map(|(ours, peer)| ours / peer)
            .collect();
        Self {
            median: median(&ratios),
            lowest: ratios.iter().copied().fold(f64::INFINITY, f64::min),
            highest: ratios.iter().copied().fold(f64::NEG_INFINITY, f64::max),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(median(&[3.0]), 3.0);
        assert_eq!(median(&[9.0, 1.0, 5.0]), 5.0);
        assert_eq!(median(&[9.0, 1.0, 5.0, 6.0]), 5.5);
    }

    #[test]
    fn ratios_are_taken_round_by_round() {
        // The machine was half as fast in the second round; the ratio of the medians would be 1.5.
        let ratio = Ratio::of(&[200.0, 110.0, 300.0], &[100.0, 50.0, 200.0]);
        let expected = Ratio {
            median: 2.0,
            lowest: 1.5,
            highest: 2.2,
        };
        assert_eq!(ratio, expected);
    }
}
