//! The cowback command line: dscow images offline, the daemon online.

fn main() {}
