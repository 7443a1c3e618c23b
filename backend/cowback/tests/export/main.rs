//! `cowback export`, as it is, and the NBD clients that people use.

mod clients;
mod command;
mod server;
