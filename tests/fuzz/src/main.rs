//! Runs a target over files, without libFuzzer: to reproduce what was found, and to look at it in a debugger.
//!
//! `cargo run -p fuzz -- TARGET FILE...`

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let name = arguments.next().unwrap_or_default();
    let Some(target) = fuzz::target(&name) else {
        let names: Vec<&str> = fuzz::TARGETS.iter().map(|(name, _)| *name).collect();
        eprintln!("usage: fuzz {} FILE...", names.join("|"));
        return ExitCode::from(2);
    };
    for path in arguments {
        let data = match std::fs::read(&path) {
            Ok(data) => data,
            Err(cause) => {
                eprintln!("{path}: cannot be read: {cause}");
                return ExitCode::FAILURE;
            }
        };
        target(&data);
        println!("{path}: {name} finds nothing wrong");
    }
    ExitCode::SUCCESS
}
