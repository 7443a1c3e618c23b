//! Guests that try whatever they can: each file is one thing that a guest controls, each test one row of
//! docs/threat-model.md. Beside each of them another guest's disk, on the same worker, is looked at before, meanwhile and
//! afterwards; see [`scene`].
#![forbid(unsafe_code)]

mod attacker;
mod channel;
mod grants;
mod memory;
mod nodes;
mod pages;
mod requests;
mod ring;
mod scene;
mod states;
