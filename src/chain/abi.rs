//! The contract's interface, generated from the committed artifact so that the two cannot drift.
#![allow(missing_docs, clippy::all, clippy::pedantic)]

alloy::sol!(
    #[sol(extra_derives(Debug))]
    Contract,
    "../../contracts/artifact/DstackMembershipNFT.json"
);

pub use Contract::*;
pub use ISynodMembership::{Anchor, BallotSignature, Member, Office, Registration};
