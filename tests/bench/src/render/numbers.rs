//! Figures as people read them.

use crate::report::Unit;
use crate::stats::Ratio;

/// A figure with its unit.
pub(crate) fn figure(unit: Unit, value: f64) -> String {
    match unit {
        Unit::RequestsPerSecond => format!("{}/s", grouped(value)),
        Unit::MebibytesPerSecond => format!("{} MiB/s", grouped(value)),
        Unit::BytesPerRequest => format!("{} B", grouped(value)),
        Unit::Bytes => format!("{:.2} MiB", value / f64::from(1 << 20)),
        Unit::CpuNanosecondsPerRequest => format!("{value:.0} ns of CPU"),
        Unit::CpuSecondsPerThousandRequests => format!("{value:.2} s"),
        Unit::InstructionsPerRequest => format!("{} instructions", grouped(value)),
        Unit::NanosecondsPerRequest => format!("{} ns", grouped(value)),
        Unit::Nanoseconds => format!("{:.1} ms", value / 1e6),
        Unit::Percent => format!("{value:.1} %"),
    }
}

/// A ratio with its spread.
pub(crate) fn ratio(ratio: Ratio) -> String {
    format!(
        "{:.2} ({:.2} to {:.2})",
        ratio.median, ratio.lowest, ratio.highest
    )
}

/// A whole number with its thousands set apart.
fn grouped(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_set_apart() {
        assert_eq!(grouped(7.0), "7");
        assert_eq!(grouped(999.4), "999");
        assert_eq!(grouped(1000.0), "1,000");
        assert_eq!(grouped(1_234_567.0), "1,234,567");
    }

    #[test]
    fn figures_have_their_units() {
        assert_eq!(figure(Unit::RequestsPerSecond, 98_123.4), "98,123/s");
        assert_eq!(figure(Unit::Bytes, 1_572_864.0), "1.50 MiB");
        assert_eq!(figure(Unit::Nanoseconds, 12_340_000.0), "12.3 ms");
        assert_eq!(figure(Unit::Percent, 25.04), "25.0 %");
    }
}
