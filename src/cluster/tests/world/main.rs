//! A deterministic world for the cluster machine: real machines, real signatures, a contract that checks them, a
//! network that loses, an engine that obeys the gate of design section 8, disks that are kept, wiped or older.
//! One seed, one history. It finds out what nobody may break; `stories` and `seeds` say what must happen.
#![allow(clippy::unwrap_used)] // tests: a panic is the report

mod contract;
mod dice;
mod engine;
mod handover;
mod judge;
mod known_bugs;
mod late;
mod network;
mod said;
mod seeds;
mod settings;
mod stories;
mod story;
mod world;
