//! A dstack guest agent for machines without TDX: the same sockets, the same wire, consistent with itself.
//!
//! Rule: everything it says fits together (the compose hash is the hash of the compose text, the key chain ends at
//! the KMS root it prints, the event log replays to RTMR3 of the quote), and nothing it says can be taken for
//! hardware: quotes are signed under its own root, which is named NOT INTEL, and every `app_name` ends in SIMULATED.
//!
//! It is never kinder than the world: event logs come stripped, and [`Traits`] has the habits of real agents that a
//! client must survive. The collateral of the own root (TCB info, QE identity, CRLs) is not made yet (issue
//! "Attestation"), so no verifier can reach more than the signatures.

mod api;
mod authority;
mod compose;
mod events;
mod guest;
mod http;
mod instance;
mod keys;
mod patience;
mod pki;
mod quote;
mod server;
mod shared;
mod spec;
mod world;

pub use authority::AuthorityError;
pub use compose::DEVELOPMENT_COMPOSE;
pub use guest::Guest;
pub use http::Surface;
pub use server::{InstanceConfig, Running, ServeError, Served, serve};
pub use shared::SharedSecret;
pub use spec::{AppCa, AppKeys, EventLog, KeyProvider, MrConfigId, Traits, WorldSpec};
pub use world::{World, WorldError};

/// Version that `Version` answers: the guest agent surface that is imitated.
pub const AGENT_VERSION: &str = "0.5.11";

/// A seed for the n-th instance of a world, so that one seed is enough to describe a whole simulated fleet.
pub fn instance_seed(world_seed: &[u8; 32], number: u32) -> [u8; 32] {
    keys::from_seed(world_seed, "instance", number)
}
