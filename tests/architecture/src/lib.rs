//! Checks that the crates import each other only as docs/architecture.md allows.
//!
//! The rules are part of the design: the edge crates do not know each other, and the pure crates do not know the
//! edges. The table below and the one in the document are compared, so neither can change alone.
#![forbid(unsafe_code)]

#[cfg(test)]
mod tests;
