//! Tests of the crate, by subject.

mod arithmetic;
mod rings;
mod validation;
mod wire;
