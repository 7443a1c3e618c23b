//! Checks that the crates import each other only as docs/architecture.md allows.
