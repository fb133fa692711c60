//! What the contract says at one block: the office and every member. The one thing that
//! `chain` reads and `cluster`, `counter` and `seal` rely on.

use crate::ballot::Anchor;
use crate::ids::{Address, Hash, Incarnation, Term, Token};
use crate::key::SessionPublic;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// One block of the chain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockRef {
    /// Height.
    pub number: u64,
    /// Its hash.
    pub hash: Hash,
    /// Its time, unix seconds.
    pub time: u64,
}

/// One registered member as the contract holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Token id.
    pub token: Token,
    /// Registrations of this token so far.
    pub incarnation: Incarnation,
    /// Registered and not deactivated.
    pub active: bool,
    /// Counts in on-chain quorums.
    pub seated: bool,
    /// Cold wallet that holds the token.
    pub owner: Address,
    /// The wallet inside the TEE.
    pub wallet: Address,
    /// dstack instance id.
    pub instance_id: Address,
    /// Signs this incarnation's frames and ballots.
    pub session: SessionPublic,
    /// Unix seconds.
    pub expires_at: u64,
    /// Block of the newest registration.
    pub registered_block: u64,
    /// SHA-256 of the evidence document.
    pub evidence_hash: Hash,
    /// Given at minting.
    pub name: String,
    /// Where its link listens, `host:port`.
    pub endpoint: String,
}

/// The contract at one block, read consistently.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChainView {
    /// The block that all of this was read at.
    pub block: BlockRef,
    /// Election counter.
    pub term: Term,
    /// Who holds the office; none = vacant.
    pub leader: Option<Token>,
    /// The incarnation that was elected.
    pub leader_incarnation: Incarnation,
    /// Block of the newest election; 0 = there never was one.
    pub elected_block: u64,
    /// How many members count in on-chain quorums.
    pub seated_count: u64,
    /// Members that must be seated before the first election.
    pub founders: u64,
    /// Newest checkpoint that an election recorded.
    pub anchor: Anchor,
    /// All tokens that ever registered and are active, ascending.
    pub members: Vec<Member>,
}

impl ChainView {
    /// The member that holds this token, if it is active.
    pub fn member(&self, token: Token) -> Option<&Member> {
        self.members.iter().find(|m| m.token == token && m.active)
    }

    /// Ballots that an election takes: more than half of the seated.
    pub fn quorum(&self) -> u64 {
        self.seated_count / 2 + 1
    }

    /// Identifies who is a member with which session; the same on every node that reads the same
    /// state, whatever the block. SHA-256("synod/roster/v1" ‖ 0 ‖ per active member: token, incarnation,
    /// seated, session key), numbers big-endian.
    pub fn roster_hash(&self) -> Hash {
        let active = self.members.iter().filter(|m| m.active);
        roster_hash(active.map(|m| (m.token, m.incarnation, m.seated, m.session)))
    }
}

/// As [`ChainView::roster_hash`], from the log's list: what ties a `Members` entry's list to its hash.
pub fn roster_hash(
    members: impl Iterator<Item = (Token, Incarnation, bool, SessionPublic)>,
) -> Hash {
    let mut digest = Sha256::new().chain_update(b"synod/roster/v1\0");
    for (token, incarnation, seated, session) in members {
        digest.update(token.0.to_be_bytes());
        digest.update(incarnation.0.to_be_bytes());
        digest.update([u8::from(seated)]);
        digest.update(session.0);
    }
    Hash(digest.finalize().into())
}
