//! Compares this implementation of the image format with `dscow_read.py`, which was written from
//! docs/image-format.md alone: what the document does not say, one of the two has guessed.
#![forbid(unsafe_code)]

#[cfg(test)]
mod guest;
#[cfg(test)]
mod other;
#[cfg(test)]
mod tests;
