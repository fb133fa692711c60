//! What is said, and by whom: ids, roster, canonical bytes, frames, ballots.
//!
//! Pure: no clock, socket, environment or randomness. Only [`seal::Opener::open`] makes an
//! [`seal::Authentic`], so whoever holds one knows the author.

pub mod ballot;
pub mod bytes;
pub mod clock;
mod codec;
pub mod hello;
pub mod ids;
pub mod key;
pub mod message;
pub mod roster;
pub mod seal;
pub mod trade;

pub use ballot::{Anchor, Ballot, Certificate, SignedBallot};
pub use clock::{Clock, Tick};
pub use ids::{Address, ClusterId, Hash, Incarnation, LogPosition, Term, Token};
pub use key::{SessionKey, SessionPublic};
pub use message::Message;
pub use roster::{BlockRef, ChainView, Member};
pub use seal::Authentic;
pub use trade::{Offer, TradeId, Wh};
