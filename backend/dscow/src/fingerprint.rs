//! Fingerprint of a raw parent: enough to notice that a base is not the one the overlay was made on,
//! cheap enough to take at every open. See docs/image-format.md.

use sha2::{Digest, Sha256};

use crate::units::FileOffset;

/// Size of one sample in bytes.
pub const SAMPLE_SIZE: u64 = 4096;
/// Samples spread evenly over the content.
const SPREAD_SAMPLES: u64 = 64;
/// Bytes taken whole at the start, where partition tables and superblocks are.
const HEAD_SIZE: u64 = 64 * 1024;

/// A piece of the content that goes into the fingerprint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Where it starts; a multiple of 4096.
    pub offset: FileOffset,
    /// Its length in bytes.
    pub len: u64,
}

/// The pieces to read of content of `size` bytes, in the order in which they are digested: the first
/// 64 KiB, 64 pages spread evenly over the rest, and the last (perhaps partial) page.
pub fn samples(size: u64) -> Vec<Sample> {
    let head = size.min(HEAD_SIZE);
    let mut samples = vec![Sample {
        offset: FileOffset(0),
        len: head,
    }];
    let rest_pages = (size - head).div_ceil(SAMPLE_SIZE);
    if rest_pages == 0 {
        return samples;
    }
    let count = rest_pages.min(SPREAD_SAMPLES);
    for i in 0..=count {
        let page = if i == count {
            rest_pages - 1
        } else {
            i * rest_pages / count
        };
        let offset = head + page * SAMPLE_SIZE;
        samples.push(Sample {
            offset: FileOffset(offset),
            len: SAMPLE_SIZE.min(size - offset),
        });
    }
    samples
}

/// Digests the samples into a fingerprint; feed them in the order of [`samples`].
pub struct Fingerprinter(Sha256);

impl Fingerprinter {
    /// Starts the fingerprint of content of `size` bytes.
    pub fn new(size: u64) -> Self {
        Self(Sha256::new().chain_update(size.to_le_bytes()))
    }

    /// Adds the bytes of the next sample.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The fingerprint.
    pub fn finish(self) -> [u8; 32] {
        self.0.finalize().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(offset: u64, len: u64) -> Sample {
        Sample {
            offset: FileOffset(offset),
            len,
        }
    }

    #[test]
    fn small_content_is_taken_whole() {
        assert_eq!(samples(512), [sample(0, 512)]);
        assert_eq!(samples(65536), [sample(0, 65536)]);
        assert_eq!(
            samples(65536 + 4096 + 512),
            [
                sample(0, 65536),
                sample(65536, 4096),
                sample(65536 + 4096, 512),
                sample(65536 + 4096, 512)
            ]
        );
    }

    #[test]
    fn large_content_is_sampled_to_its_end() {
        let size = 10 << 30;
        let samples = samples(size);
        assert_eq!(samples.len(), 66);
        assert_eq!(samples[1], sample(65536, 4096));
        assert_eq!(samples[65], sample(size - 4096, 4096));
        assert!(samples.windows(2).all(|w| w[0].offset < w[1].offset));
    }

    #[test]
    fn the_digest_covers_size_and_samples() {
        let mut fingerprint = Fingerprinter::new(3);
        fingerprint.update(b"abc");
        // printf '\x03\0\0\0\0\0\0\0abc' | sha256sum
        let hex: String = fingerprint
            .finish()
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        assert_eq!(hex, HEX);
    }

    const HEX: &str = "ce91dc5eec0139adf091900d225971d6ad246a845bad791b5693a9d0d55dd391";
}
