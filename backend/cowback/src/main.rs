//! The cowback command line: dscow images offline, the daemon online.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    cowback::main()
}
