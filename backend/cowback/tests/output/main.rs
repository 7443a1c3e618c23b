//! What the command prints, where that cannot be written or shown, and where the command fails.

mod doctor;
mod errors;
mod failures;
mod folder;
mod names;
mod picture;
mod tree;
mod xml;
