//! Virtual device names and their numbers (docs/man/xen-vbd-interface of Xen).

use crate::error::{Error, Result};

/// The number of a name like `xvda`, `xvdb3` or `xvdaa`: in the old form where that has room for it (16 disks of 15
/// partitions), else in the extended one.
///
/// # Errors
/// [`Error::BadVdev`] for any other name.
pub fn device_number(vdev: &str) -> Result<u32> {
    let bad = || Error::BadVdev(vdev.to_owned());
    let name = vdev.strip_prefix("xvd").ok_or_else(bad)?;
    let letters_end = name
        .find(|c: char| !c.is_ascii_lowercase())
        .unwrap_or(name.len());
    let (letters, digits) = name.split_at(letters_end);
    if letters.is_empty() || letters.len() > 4 {
        return Err(bad());
    }
    let disk = letters
        .bytes()
        .fold(0, |disk, letter| disk * 26 + u32::from(letter - b'a') + 1)
        - 1;
    let partition: u32 = match digits {
        "" => 0,
        digits => digits.parse().map_err(|_| bad())?,
    };
    if disk < 16 && partition < 16 {
        Ok(202 << 8 | disk << 4 | partition)
    } else if disk < 1 << 20 && partition < 256 {
        Ok(1 << 28 | disk << 8 | partition)
    } else {
        Err(bad())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_their_numbers() {
        for (vdev, number) in [
            ("xvda", 51712),
            ("xvda1", 51713),
            ("xvdb", 51728),
            ("xvdp15", 51967),
            ("xvdq", 268_439_552),
            ("xvdaa", 268_442_112),
            ("xvda16", 268_435_472),
        ] {
            assert_eq!(device_number(vdev).unwrap(), number, "{vdev}");
        }
        for vdev in ["", "xvd", "hda", "xvd1", "xvda1x", "xvda256"] {
            assert!(device_number(vdev).is_err(), "{vdev}");
        }
    }
}
