//! Tests of the engine against a driver in memory.

mod commit;
mod driver;
mod lifecycle;
mod model;
mod read_write;
