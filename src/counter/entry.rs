//! What can stand in the log, and its canonical bytes: a version byte, then postcard. One entry has one
//! encoding; bytes that decode but would encode differently are refused, so a hash names one text.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use sha2::{Digest, Sha256};
use std::fmt;
use synod_ledger::Settlement;
use synod_wire::{Address, BlockRef, ClusterId, Hash, Incarnation, SessionPublic, Term, Token, Wh};

/// No entry is longer.
pub const ENTRY_LEN_MAX: usize = 64 * 1024;

const VERSION: u8 = 2;

/// One member's key as the log knows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberKey {
    /// Whose.
    pub token: Token,
    /// Of which registration.
    pub incarnation: Incarnation,
    /// Counted in the contract's quorums.
    pub seated: bool,
    /// Signs in its name.
    pub session: SessionPublic,
}

impl MemberKey {
    /// What a `Members` entry's hash must be: the one that a view of the chain with these members has.
    pub fn roster_hash(members: &[Self]) -> Hash {
        synod_wire::roster::roster_hash(
            members
                .iter()
                .map(|m| (m.token, m.incarnation, m.seated, m.session)),
        )
    }
}

/// What an entry says. The place of a variant is its number on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Body {
    /// The birth of this log; its hash is the log id.
    Genesis {
        /// Chain and contract.
        cluster: ClusterId,
        /// Block at which the set was read.
        block: BlockRef,
        /// Tokens seated there.
        members: Vec<Token>,
        /// What every member is credited once, chosen by the winner of the birth; a rule of the cluster from here on.
        initial_credit: Wh,
    },
    /// A leader takes the office; the first committed one of a term fixes its leader for ever.
    TermStart {
        /// The contract's term.
        term: Term,
        /// Who leads.
        leader: Token,
        /// Which registration of it was elected.
        incarnation: Incarnation,
        /// The `elect` transaction.
        tx: Hash,
        /// Its block.
        block: u64,
        /// Who voted while muted (cold start); empty otherwise.
        voted_muted: Vec<Token>,
    },
    /// Who is a member with which key from here on.
    Members {
        /// Block at which the roster was read.
        block: BlockRef,
        /// `ChainView::roster_hash` there.
        roster_hash: Hash,
        /// Ascending by token.
        members: Vec<MemberKey>,
    },
    /// The counter goes up by one.
    Increment {
        /// Wallet of the leader that took it.
        leader: Address,
    },
    /// Decides a trade: settled, refused or expired (`synod_ledger::accounts`).
    Settle(Settlement),
    /// No message of this incarnation beyond `last` counts any more.
    Close {
        /// Whose.
        token: Token,
        /// Which registration's.
        incarnation: Incarnation,
        /// Its last message that stands.
        last: u64,
    },
}

impl Body {
    /// The variant's name, for people.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Genesis { .. } => "Genesis",
            Self::TermStart { .. } => "TermStart",
            Self::Members { .. } => "Members",
            Self::Increment { .. } => "Increment",
            Self::Settle(_) => "Settle",
            Self::Close { .. } => "Close",
        }
    }
}

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The leader's clock, unix milliseconds. Log time is the highest seen so far and never goes back.
    pub time_ms: u64,
    /// What it says.
    pub body: Body,
}

/// The bytes are no entry of this version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadEntry {
    /// Longer than any entry.
    #[error("an entry has at most {ENTRY_LEN_MAX} bytes, found {found}")]
    TooLong {
        /// Its length.
        found: usize,
    },
    /// Another format.
    #[error("entry format {VERSION} expected, found {found:?}")]
    Version {
        /// First byte, if there was one.
        found: Option<u8>,
    },
    /// Not what was expected behind the version.
    #[error("not an entry: {0}")]
    Postcard(String),
    /// Decodes, but is not the one encoding.
    #[error("not the canonical encoding of this entry")]
    NotCanonical,
}

impl Entry {
    /// Canonical bytes.
    pub fn encode(&self) -> Vec<u8> {
        let parts = (self.time_ms, &self.body);
        postcard::to_extend(&parts, vec![VERSION]).expect("writing to memory does not fail")
    }

    /// From bytes of anybody.
    pub fn decode(bytes: &[u8]) -> Result<Self, BadEntry> {
        if bytes.len() > ENTRY_LEN_MAX {
            return Err(BadEntry::TooLong { found: bytes.len() });
        }
        let Some((&VERSION, rest)) = bytes.split_first() else {
            return Err(BadEntry::Version {
                found: bytes.first().copied(),
            });
        };
        let (time_ms, body) = postcard::from_bytes::<(u64, Body)>(rest)
            .map_err(|e| BadEntry::Postcard(e.to_string()))?;
        let entry = Self { time_ms, body };
        if entry.encode() == bytes {
            Ok(entry)
        } else {
            Err(BadEntry::NotCanonical)
        }
    }

    /// SHA-256 of the canonical bytes. That of Genesis is the log id.
    pub fn hash(&self) -> Hash {
        Hash(Sha256::digest(self.encode()).into())
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.body.name())
    }
}

// Inside the engine's own records an entry is its canonical bytes, so the rules above hold there too.
impl Serialize for Entry {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.encode())
    }
}

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = <Vec<u8>>::deserialize(deserializer)?;
        Self::decode(&bytes).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use synod_wire::trade::{Answer, Reply, Side, Signature, TradeRefusal};
    use synod_wire::{Offer, TradeId};

    fn settlement(reply: Option<Reply>) -> Settlement {
        let id = TradeId {
            proposer: Token(1),
            incarnation: Incarnation(2),
            sequence: 3,
        };
        let offer = Offer {
            id,
            side: Side::Buy,
            with: Token(300),
            amount: Wh(2_500),
            expires_ms: 1_700_000_030_000,
        };
        Settlement {
            offer,
            offered: Signature([6; 64]),
            answer: reply.map(|reply| Answer {
                incarnation: Incarnation(1),
                reply,
                signature: Signature([7; 64]),
            }),
        }
    }

    fn all() -> Vec<Entry> {
        let block = BlockRef {
            number: 7,
            hash: Hash([1; 32]),
            time: 9,
        };
        let bodies = [
            Body::Genesis {
                cluster: ClusterId(Hash([2; 32])),
                block,
                members: vec![Token(1), Token(300)],
                initial_credit: Wh(100_000),
            },
            Body::TermStart {
                term: Term(4),
                leader: Token(2),
                incarnation: Incarnation(1),
                tx: Hash([3; 32]),
                block: 8,
                voted_muted: vec![Token(3)],
            },
            Body::Members {
                block,
                roster_hash: Hash([4; 32]),
                members: vec![MemberKey {
                    token: Token(1),
                    incarnation: Incarnation(2),
                    seated: true,
                    session: SessionPublic([2; 33]),
                }],
            },
            Body::Increment {
                leader: Address([5; 20]),
            },
            Body::Settle(settlement(Some(Reply::Refused(TradeRefusal::Busy)))),
            Body::Close {
                token: Token(300),
                incarnation: Incarnation(2),
                last: 17,
            },
            Body::Settle(settlement(Some(Reply::Accepted))),
            Body::Settle(settlement(None)),
        ];
        bodies
            .into_iter()
            .map(|body| Entry {
                time_ms: 1_700_000_000_000,
                body,
            })
            .collect()
    }

    #[test]
    fn what_was_written_is_what_is_read() {
        for entry in all() {
            assert_eq!(Entry::decode(&entry.encode()), Ok(entry));
        }
    }

    #[test]
    fn the_numbers_of_the_variants_on_disk_are_fixed() {
        let numbers: Vec<u8> = all()
            .iter()
            .map(|e| postcard::to_stdvec(&e.body).unwrap()[0])
            .collect();
        assert_eq!(numbers, [0, 1, 2, 3, 4, 5, 4, 4]);
        let unknown = [&[VERSION, 0][..], &[6], &[0; 40]].concat();
        assert!(matches!(
            Entry::decode(&unknown),
            Err(BadEntry::Postcard(_))
        ));
    }

    /// The bytes of one entry of each kind, hashed: a change of the format has to come here and say so.
    #[test]
    fn the_bytes_of_every_kind_of_entry_are_these() {
        let all: Vec<u8> = all().iter().flat_map(Entry::encode).collect();
        let hash = Hash(Sha256::digest(&all).into());
        let expected = "0x1c57fd86cca9604a21da98ab308b59891f33e9cdf2cbc20bfb5a63928d329e8d";
        assert_eq!((all.len(), hash.to_string().as_str()), (678, expected));
    }

    #[test]
    fn an_entry_of_the_format_before_is_refused_by_its_number() {
        for entry in all() {
            let mut bytes = entry.encode();
            bytes[0] = 1;
            let why = Entry::decode(&bytes).unwrap_err();
            assert_eq!(why, BadEntry::Version { found: Some(1) });
            assert_eq!(why.to_string(), "entry format 2 expected, found Some(1)");
        }
    }

    #[test]
    fn cut_or_longer_or_foreign_bytes_are_refused() {
        for entry in all() {
            let bytes = entry.encode();
            for cut in 0..bytes.len() {
                assert!(Entry::decode(&bytes[..cut]).is_err(), "cut at {cut}");
            }
            let longer = [&bytes[..], &[0]].concat();
            assert_eq!(Entry::decode(&longer), Err(BadEntry::NotCanonical));
            let mut other = bytes.clone();
            other[0] = 3;
            assert_eq!(
                Entry::decode(&other),
                Err(BadEntry::Version { found: Some(3) })
            );
        }
        assert_eq!(
            Entry::decode(&vec![VERSION; ENTRY_LEN_MAX + 1]),
            Err(BadEntry::TooLong {
                found: ENTRY_LEN_MAX + 1
            })
        );
    }

    #[test]
    fn a_number_said_in_a_longer_way_is_refused() {
        let entry = Entry {
            time_ms: 1,
            body: Body::Increment {
                leader: Address([5; 20]),
            },
        };
        let mut bytes = entry.encode();
        assert_eq!(bytes[1], 1);
        bytes.splice(1..2, [0x81, 0x00]); // the same number as a two-byte varint
        assert_eq!(Entry::decode(&bytes), Err(BadEntry::NotCanonical));
    }
}
