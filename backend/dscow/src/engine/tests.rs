//! Tests of the engine, each with a driver in memory.

mod alignment;
mod barrier;
mod commit;
mod driver;
mod grow;
mod lifecycle;
mod model;
mod read_write;
mod room;
mod stall;
mod zeros;
