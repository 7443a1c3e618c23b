//! The dscow image format and its copy-on-write engine, without any I/O.
