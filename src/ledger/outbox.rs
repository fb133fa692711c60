//! What people want, and what is durably remembered of it until the log has decided.

use serde::{Deserialize, Serialize};
use synod_wire::trade::Side;
use synod_wire::{Offer, Token, Wh};

/// A person's wish: not yet an offer, which needs an id and a signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wish {
    /// Which way the credits go, seen from us.
    pub side: Side,
    /// The other side.
    pub with: Token,
    /// How much.
    pub amount: Wh,
}

/// A line of the durable outbox: a wish, and the last offer that was made of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// What is wanted.
    pub wish: Wish,
    /// Under which id it went out last; none = it never did.
    pub offered: Option<Offer>,
}
