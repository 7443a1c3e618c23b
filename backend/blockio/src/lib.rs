//! Executes the I/O that the dscow engine asks for.
