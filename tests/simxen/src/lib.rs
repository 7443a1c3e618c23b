//! A simulated Xen host for tests: xenstore, grants, event channels, a blkif frontend.
