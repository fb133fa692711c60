//! A trade as two members sign it: the proposer signs the offer, the other side countersigns its answer.
//! Amounts are whole watt-hours in every signed, stored and summed form; one credit is 1 kWh = 1,000 Wh.

use crate::bytes::{BadBytes, Reader, Writer};
use crate::ids::{ClusterId, Incarnation, Token};
use crate::key::{SessionKey, SessionPublic};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use sha2::{Digest, Sha256};
use std::fmt;
use std::str::FromStr;

/// Watt-hours. Shown and typed as credits with at most three decimals.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Wh(pub u64);

/// Watt-hours in one credit.
pub const WH_PER_CREDIT: u64 = 1_000;

impl Wh {
    /// None when the sum does not fit.
    pub fn checked_add(self, other: Self) -> Option<Self> {
        self.0.checked_add(other.0).map(Self)
    }

    /// None when it would be negative.
    pub fn checked_sub(self, other: Self) -> Option<Self> {
        self.0.checked_sub(other.0).map(Self)
    }

    /// For JSON: credits as a number. Up to 10^15 Wh it reads as [`Self`] does as text (a double keeps 15 digits);
    /// beyond that two amounts may look alike, so the integer stands beside it.
    pub fn credits(self) -> f64 {
        self.0 as f64 / WH_PER_CREDIT as f64
    }
}

/// Credits: `30`, `2.5`, `0.001`.
impl fmt::Display for Wh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, rest) = (self.0 / WH_PER_CREDIT, self.0 % WH_PER_CREDIT);
        if rest == 0 {
            return write!(f, "{whole}");
        }
        let decimals = format!("{rest:03}");
        write!(f, "{whole}.{}", decimals.trim_end_matches('0'))
    }
}

/// Not an amount of credits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected credits as a number with at most three decimals, found {found:?}")]
pub struct BadAmount {
    /// What stood there (cut after 40 characters).
    pub found: String,
}

impl FromStr for Wh {
    type Err = BadAmount;

    /// ASCII digits, then perhaps a point and one to three more. As in a JSON number `.5` and `1.` are refused; so are
    /// signs, exponents and spaces, and what does not fit. Zeros in front count nothing. Zero is an amount here; an
    /// offer refuses it.
    fn from_str(text: &str) -> Result<Self, BadAmount> {
        let bad = || BadAmount {
            found: text.chars().take(40).collect(),
        };
        let (whole, decimals) = match text.split_once('.') {
            Some((whole, decimals)) if (1..=3).contains(&decimals.len()) => (whole, decimals),
            Some(_) => return Err(bad()),
            None => (text, ""),
        };
        let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
        if whole.is_empty() || !digits(whole) || !digits(decimals) {
            return Err(bad());
        }
        let whole: u64 = whole.parse().map_err(|_| bad())?;
        let rest: u64 = format!("{decimals:0<3}").parse().map_err(|_| bad())?;
        let wh = whole
            .checked_mul(WH_PER_CREDIT)
            .and_then(|wh| wh.checked_add(rest));
        wh.map(Self).ok_or_else(bad)
    }
}

/// Which trade, for ever: the causal message that first offered it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct TradeId {
    /// Who offered it.
    pub proposer: Token,
    /// In which incarnation.
    pub incarnation: Incarnation,
    /// Sequence of its TRADE_REQUEST.
    pub sequence: u64,
}

/// `proposer-incarnation-sequence`.
impl fmt::Display for TradeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            proposer,
            incarnation,
            sequence,
        } = self;
        write!(f, "{proposer}-{incarnation}-{sequence}")
    }
}

/// Which way the credits go, seen from the proposer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Side {
    /// From the proposer to the other.
    Sell = 0,
    /// From the other to the proposer.
    Buy = 1,
}

impl Side {
    /// As at the prompt: `SELL`, `BUY`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Sell => "SELL",
            Self::Buy => "BUY",
        }
    }
}

/// What the proposer signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// Its id.
    pub id: TradeId,
    /// Which way.
    pub side: Side,
    /// The other side.
    pub with: Token,
    /// How much.
    pub amount: Wh,
    /// Log time, unix milliseconds; an entry of a later log time decides "expired".
    pub expires_ms: u64,
}

/// An offer that nobody may make.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadOffer {
    /// With oneself.
    #[error("Cannot trade with yourself")]
    SelfTrade,
    /// Of nothing.
    #[error("the amount must be positive")]
    Zero,
}

impl Offer {
    /// Who gives.
    pub fn payer(&self) -> Token {
        match self.side {
            Side::Sell => self.id.proposer,
            Side::Buy => self.with,
        }
    }

    /// Who gets.
    pub fn payee(&self) -> Token {
        match self.side {
            Side::Sell => self.with,
            Side::Buy => self.id.proposer,
        }
    }

    /// Rules that need no account.
    pub fn check(&self) -> Result<(), BadOffer> {
        if self.id.proposer == self.with {
            return Err(BadOffer::SelfTrade);
        }
        if self.amount == Wh(0) {
            return Err(BadOffer::Zero);
        }
        Ok(())
    }

    /// By the proposer's session key.
    pub fn sign(&self, cluster: ClusterId, key: &SessionKey) -> Signature {
        Signature(key.sign(&self.digest(cluster)))
    }

    /// Did this key sign this offer in this cluster?
    pub fn verify(&self, cluster: ClusterId, key: &SessionPublic, signature: &Signature) -> bool {
        key.verify(&self.digest(cluster), &signature.0)
    }

    fn digest(&self, cluster: ClusterId) -> [u8; 32] {
        let text = self.write(Writer::new().fixed(&cluster.0.0)).done();
        Sha256::new()
            .chain_update(b"synod/offer/v1\0")
            .chain_update(text)
            .finalize()
            .into()
    }

    pub(crate) fn write(&self, w: Writer) -> Writer {
        w.u64(self.id.proposer.0)
            .u64(self.id.incarnation.0)
            .u64(self.id.sequence)
            .u8(self.side as u8)
            .u64(self.with.0)
            .u64(self.amount.0)
            .u64(self.expires_ms)
    }

    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, BadBytes> {
        let id = TradeId {
            proposer: Token(r.u64("proposer")?),
            incarnation: Incarnation(r.u64("proposer's incarnation")?),
            sequence: r.u64("trade sequence")?,
        };
        let side = match r.u8("side")? {
            0 => Side::Sell,
            1 => Side::Buy,
            found => {
                return Err(BadBytes::Value {
                    field: "side",
                    found: found.into(),
                });
            }
        };
        Ok(Self {
            id,
            side,
            with: Token(r.u64("with")?),
            amount: Wh(r.u64("amount")?),
            expires_ms: r.u64("expiry")?,
        })
    }
}

/// Why the other side does not want, or cannot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum TradeRefusal {
    /// The payer's balance, less what it has reserved, does not cover it.
    InsufficientCredits = 0,
    /// The payee's balance would not fit.
    TooMuch = 1,
    /// Too many trades are open at the other side.
    Busy = 2,
}

impl TradeRefusal {
    /// The prototype's words where it had some.
    pub fn reason(self) -> &'static str {
        match self {
            Self::InsufficientCredits => "Insufficient credits",
            Self::TooMuch => "Balance too large",
            Self::Busy => "Too many open trades",
        }
    }
}

/// What the other side says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// Agreed.
    Accepted,
    /// Not agreed.
    Refused(TradeRefusal),
}

/// The other side's countersigned answer to one offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Its incarnation when it answered.
    pub incarnation: Incarnation,
    /// Yes or no.
    pub reply: Reply,
    /// Over offer, incarnation and reply.
    pub signature: Signature,
}

impl Answer {
    /// By the session key of `offer.with`.
    pub fn sign(
        cluster: ClusterId,
        key: &SessionKey,
        offer: &Offer,
        incarnation: Incarnation,
        reply: Reply,
    ) -> Self {
        let digest = answer_digest(cluster, offer, incarnation, reply);
        Self {
            incarnation,
            reply,
            signature: Signature(key.sign(&digest)),
        }
    }

    /// Did this key answer this offer so?
    pub fn verify(&self, cluster: ClusterId, key: &SessionPublic, offer: &Offer) -> bool {
        let digest = answer_digest(cluster, offer, self.incarnation, self.reply);
        key.verify(&digest, &self.signature.0)
    }

    pub(crate) fn write(&self, w: Writer) -> Writer {
        w.u64(self.incarnation.0)
            .u8(reply_number(self.reply))
            .fixed(&self.signature.0)
    }

    pub(crate) fn read(r: &mut Reader<'_>) -> Result<Self, BadBytes> {
        Ok(Self {
            incarnation: Incarnation(r.u64("answering incarnation")?),
            reply: match r.u8("reply")? {
                0 => Reply::Accepted,
                1 => Reply::Refused(TradeRefusal::InsufficientCredits),
                2 => Reply::Refused(TradeRefusal::TooMuch),
                3 => Reply::Refused(TradeRefusal::Busy),
                found => {
                    return Err(BadBytes::Value {
                        field: "reply",
                        found: found.into(),
                    });
                }
            },
            signature: Signature(r.fixed("answer signature")?),
        })
    }
}

fn reply_number(reply: Reply) -> u8 {
    match reply {
        Reply::Accepted => 0,
        Reply::Refused(why) => 1 + why as u8,
    }
}

fn answer_digest(
    cluster: ClusterId,
    offer: &Offer,
    incarnation: Incarnation,
    reply: Reply,
) -> [u8; 32] {
    let text = offer
        .write(Writer::new().fixed(&cluster.0.0))
        .u64(incarnation.0)
        .u8(reply_number(reply))
        .done();
    Sha256::new()
        .chain_update(b"synod/answer/v1\0")
        .chain_update(text)
        .finalize()
        .into()
}

/// ECDSA by a session key: r ‖ s, low s.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signature(pub [u8; 64]);

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl Serialize for Signature {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Signature {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = <Vec<u8>>::deserialize(deserializer)?;
        bytes
            .try_into()
            .map(Self)
            .map_err(|_| D::Error::custom("a signature has 64 bytes"))
    }
}
