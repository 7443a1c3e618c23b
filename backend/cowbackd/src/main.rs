//! The cowback daemon: serves dscow images to Xen guests.

fn main() {}
