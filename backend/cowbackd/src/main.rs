//! The cowback daemon: serves dscow images to Xen guests.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    cowbackd::main(
        &cowbackd::Options::parse(),
        blockio::executor::open_executor,
    )
}
