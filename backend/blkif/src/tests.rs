//! Tests of the crate, by subject.

mod arithmetic;
mod proof;
mod rings;
mod validation;
mod wire;
