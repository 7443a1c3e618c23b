//! A served disk and clients that speak to it byte by byte, good ones and others.

mod client;
mod hostile;
mod limits;
mod listening;
mod rig;
mod serving;
mod sharing;
