//! A deterministic world for the ledger machine: real machines, real signatures, one log that every node applies at
//! its own pace, a network that loses, doubles and turns around, processes that die and come back with a new session.
//! One seed, one history. `stories` and `seeds` say what must happen.
#![allow(clippy::unwrap_used)] // tests: a panic is the report

mod dice;
mod forger;
mod judge;
mod limits;
mod log;
mod seeds;
mod stories;
mod story;
mod world;
