//! Sizes as people write and read them.

/// Parses a size such as `10G`, `512M`, `4K`, `1.5T` or `1048576`: bytes, or binary units with or without `iB`.
///
/// # Errors
///
/// What is wrong with it, for people.
pub fn parse(text: &str) -> Result<u64, String> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err(format!("unknown unit {unit:?}; use K, M, G or T")),
    };
    scaled(number, shift).ok_or_else(|| format!("{text:?} is not a size such as 10G or 1048576"))
}

/// `number`, which may have a fraction, times two to the power of `shift`, in whole bytes.
fn scaled(number: &str, shift: u32) -> Option<u64> {
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let whole = whole.parse::<u64>().ok()?.checked_mul(1 << shift)?;
    if fraction.is_empty() {
        return Some(whole);
    }
    if fraction.len() > 9 {
        return None;
    }
    let digits = u32::try_from(fraction.len()).ok()?;
    let numerator = u128::from(fraction.parse::<u64>().ok()?) << shift;
    let part = u64::try_from(numerator / 10u128.pow(digits)).ok()?;
    whole.checked_add(part)
}

/// A size for people: `1.5 GiB`.
pub fn display(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    while unit + 1 < UNITS.len() && bytes >> (10 * (unit + 1)) > 0 {
        unit += 1;
    }
    if unit == 0 {
        return format!("{bytes} B");
    }
    let tenths = (u128::from(bytes) * 10) >> (10 * unit);
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        for (text, bytes) in [
            ("512", 512),
            ("4K", 4096),
            ("1.5GiB", 1_610_612_736),
            ("10g", 10 << 30),
            ("64T", 64 << 40),
            ("0.5 M", 524_288),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
        for text in [
            "",
            "G",
            "-1",
            "1X",
            "1..5G",
            "99999999999T",
            "1.0000000001G",
            ".",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_written() {
        assert_eq!(display(0), "0 B");
        assert_eq!(display(1023), "1023 B");
        assert_eq!(display(1536), "1.5 KiB");
        assert_eq!(display(10 << 30), "10.0 GiB");
        assert_eq!(display(u64::MAX), "16777215.9 TiB");
    }
}
