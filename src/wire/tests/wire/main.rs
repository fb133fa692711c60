//! Everything that `wire` promises to strangers: one text has one encoding, only its author can make a frame,
//! and hostile bytes are refused by name. Golden constants are the format: a change of one is a new version.
#![allow(clippy::unwrap_used)] // tests: a panic is the report

mod ballots;
mod bytes;
mod causal;
mod clocks;
mod frames;
mod hellos;
mod hostile;
mod messages;
mod roster;
mod support;
mod trades;
