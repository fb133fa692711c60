//! The frame: one authenticated datagram. `seal` makes one, `open` is the only way to an
//! [`Authentic`] message. The order of checks is the order of their cost, so a stranger is cheap to refuse:
//! length, magic, version, cluster, known sender, addressee, replay window *consulted*, signature,
//! content, window *moved*.
//!
//! ```text
//! 0     4        5      6     7    8        40      48           56  64        72        74
//! magic version  seal   kind  0    cluster  sender  incarnation  to  sequence  body len  body … signature(64)
//! ```
//! Byte 5 says how the body is sealed. Today only 0 (signed, readable) is spoken and anything else is
//! refused; the Election issue seals with ChaCha20-Poly1305 under the same header as associated data.

use crate::bytes::{BadBytes, Writer};
use crate::ids::{ClusterId, Hash, Incarnation, Token};
use crate::key::{SessionKey, SessionPublic};
use crate::message::{Kind, Message};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// The first four bytes.
pub const MAGIC: [u8; 4] = *b"SYND";
/// The only version spoken.
pub const VERSION: u8 = 1;
/// Longer datagrams are refused unread; larger things travel over the link.
pub const FRAME_LEN_MAX: usize = 1_200;
const HEADER_LEN: usize = 74;
const SIGNATURE_LEN: usize = 64;
/// How far back a late frame may lie behind the newest of its sender and channel.
pub const WINDOW_LEN: u64 = 128;

/// Something whose author is known. Only this crate makes one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authentic<T> {
    from: Token,
    incarnation: Incarnation,
    sequence: u64,
    value: T,
}

impl<T> Authentic<T> {
    pub(crate) fn vouch(from: Token, incarnation: Incarnation, sequence: u64, value: T) -> Self {
        Self {
            from,
            incarnation,
            sequence,
            value,
        }
    }

    /// Who said it.
    pub fn from(&self) -> Token {
        self.from
    }

    /// In which incarnation.
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// Its number on its channel in this incarnation; a hello has 0.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// What was said.
    pub fn value(&self) -> &T {
        &self.value
    }

    /// What was said.
    pub fn into_value(self) -> T {
        self.value
    }
}

/// Registered sessions: whose frames are read at all.
pub trait Sessions {
    /// The current incarnation and session key of an active member.
    fn session(&self, token: Token) -> Option<(Incarnation, SessionPublic)>;
}

/// Why a datagram was not read. Counted by [`Refused::label`]; nothing is answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Longer than any frame or shorter than a header.
    #[error("{len} bytes; a frame has {} to {FRAME_LEN_MAX}", HEADER_LEN + SIGNATURE_LEN)]
    Length {
        /// Its length.
        len: usize,
    },
    /// No magic: noise, or a JSON datagram of the Python prototype.
    #[error("not a frame")]
    NotAFrame,
    /// A version, seal or reserved byte that we do not speak.
    #[error("{field} {found} is not spoken here (expected {expected})")]
    Unspoken {
        /// Which header field.
        field: &'static str,
        /// What we speak.
        expected: u8,
        /// What stood there.
        found: u8,
    },
    /// A frame of another cluster.
    #[error("frame of another cluster: expected {expected}, found {found}")]
    OtherCluster {
        /// Ours.
        expected: Hash,
        /// Theirs.
        found: Hash,
    },
    /// The token has no active registration (that we know of).
    #[error("token {token} is not a registered member")]
    UnknownSender {
        /// Who it claims to be.
        token: Token,
    },
    /// A session that was fenced, or one we have not read from the chain yet.
    #[error("token {token}: expected incarnation {expected}, found {found}")]
    OtherIncarnation {
        /// Who it claims to be.
        token: Token,
        /// What the contract says.
        expected: Incarnation,
        /// What the frame says.
        found: Incarnation,
    },
    /// For another member.
    #[error("frame of token {token} is for token {to}")]
    NotForMe {
        /// Sender.
        token: Token,
        /// Addressee.
        to: Token,
    },
    /// Seen before, or too old to know.
    #[error("frame {sequence} of token {token} is a replay or too old")]
    Replayed {
        /// Who it claims to be.
        token: Token,
        /// Its number.
        sequence: u64,
    },
    /// Not signed by the registered session key.
    #[error("bad signature on a frame of token {token}")]
    Signature {
        /// Who it claims to be.
        token: Token,
    },
    /// Signed nonsense: a fault of that member.
    #[error("frame of token {token}: {why}")]
    Body {
        /// Who signed it.
        token: Token,
        /// What is wrong.
        why: BadBytes,
    },
}

impl Refused {
    /// For counters.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Length { .. } => "length",
            Self::NotAFrame => "not a frame",
            Self::Unspoken { .. } => "version",
            Self::OtherCluster { .. } => "other cluster",
            Self::UnknownSender { .. } => "unknown sender",
            Self::OtherIncarnation { .. } => "other incarnation",
            Self::NotForMe { .. } => "not for me",
            Self::Replayed { .. } => "replayed",
            Self::Signature { .. } => "signature",
            Self::Body { .. } => "body",
        }
    }
}

/// Heartbeats and control frames count separately, so that a flood of one does not push the other
/// out of its window. Causal frames are ordered by their clocks and may come at any time, from anybody who holds
/// them: they have no window, and saying one twice is no offence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Channel {
    Heartbeat,
    Control,
    Causal,
}

fn channel(kind: Kind) -> Channel {
    match kind {
        Kind::Heartbeat => Channel::Heartbeat,
        Kind::Join
        | Kind::JoinResponse
        | Kind::Leave
        | Kind::Election
        | Kind::Ok
        | Kind::Coordinator
        | Kind::BallotRequest
        | Kind::Ballot
        | Kind::BallotRefused
        | Kind::CausalAsk
        | Kind::CallElection
        | Kind::HandOver => Channel::Control,
        Kind::TradeRequest | Kind::TradeConfirm => Channel::Causal,
    }
}

/// Makes this session's frames: every frame has a number of its own, from 0 at boot.
pub struct Sealer {
    cluster: ClusterId,
    me: Token,
    incarnation: Incarnation,
    heartbeats: u64,
    controls: u64,
}

impl Sealer {
    /// For one session of one member.
    pub fn new(cluster: ClusterId, me: Token, incarnation: Incarnation) -> Self {
        Self {
            cluster,
            me,
            incarnation,
            heartbeats: 0,
            controls: 0,
        }
    }

    /// One frame, for `to` or for all.
    ///
    /// A causal message is numbered by its clock and always for all, whatever `to` says.
    pub fn seal(&mut self, key: &SessionKey, to: Option<Token>, message: &Message) -> Vec<u8> {
        let counter = match channel(message.kind()) {
            Channel::Heartbeat => &mut self.heartbeats,
            Channel::Control => &mut self.controls,
            Channel::Causal => {
                let sequence = message.clock().map_or(0, |c| c.tick(self.me).sequence);
                return self.frame(key, None, sequence, message);
            }
        };
        let sequence = *counter;
        *counter += 1;
        self.frame(key, to, sequence, message)
    }

    fn frame(
        &self,
        key: &SessionKey,
        to: Option<Token>,
        sequence: u64,
        message: &Message,
    ) -> Vec<u8> {
        let body = message.encode();
        let frame = Writer::new()
            .fixed(&MAGIC)
            .u8(VERSION)
            .u8(0)
            .u8(message.kind() as u8)
            .u8(0)
            .fixed(&self.cluster.0.0)
            .u64(self.me.0)
            .u64(self.incarnation.0)
            .u64(to.map_or(0, |token| token.0))
            .u64(sequence)
            .u16(
                u16::try_from(body.len())
                    .expect("messages are shorter than 1,200 bytes by their types"),
            )
            .fixed(&body)
            .done();
        let signature = key.sign(&digest(&frame));
        [frame.as_slice(), &signature].concat()
    }
}

fn digest(signed: &[u8]) -> [u8; 32] {
    Sha256::new()
        .chain_update(b"synod/frame/v1\0")
        .chain_update(signed)
        .finalize()
        .into()
}

/// What has been seen of each sender's current incarnation.
#[derive(Default)]
pub struct Windows(BTreeMap<(Token, Channel), Window>);

#[derive(Clone, Copy)]
struct Window {
    incarnation: Incarnation,
    newest: u64,
    /// Bit k: newest - k was seen.
    seen: u128,
}

impl Windows {
    fn is_fresh(
        &self,
        token: Token,
        channel: Channel,
        incarnation: Incarnation,
        sequence: u64,
    ) -> bool {
        let Some(w) = self
            .0
            .get(&(token, channel))
            .filter(|w| w.incarnation == incarnation)
        else {
            return true;
        };
        if sequence > w.newest {
            return true;
        }
        let age = w.newest - sequence;
        age < WINDOW_LEN && w.seen & (1 << age) == 0
    }

    fn mark(&mut self, token: Token, channel: Channel, incarnation: Incarnation, sequence: u64) {
        let fresh = Window {
            incarnation,
            newest: sequence,
            seen: 1,
        };
        let w = self.0.entry((token, channel)).or_insert(fresh);
        if w.incarnation != incarnation {
            *w = fresh;
        } else if sequence > w.newest {
            let step = sequence - w.newest;
            w.seen = if step < WINDOW_LEN { w.seen << step } else { 0 } | 1;
            w.newest = sequence;
        } else if w.newest - sequence < WINDOW_LEN {
            w.seen |= 1 << (w.newest - sequence);
        }
    }
}

/// Who is reading.
#[derive(Clone, Copy)]
pub struct Opener {
    /// Frames of other clusters are refused.
    pub cluster: ClusterId,
    /// Frames for other members are refused.
    pub me: Token,
}

impl Opener {
    /// A datagram from anywhere: whose message is it? The list of checks is at the top of this file.
    pub fn open(
        &self,
        datagram: &[u8],
        sessions: &dyn Sessions,
        windows: &mut Windows,
    ) -> Result<Authentic<Message>, Refused> {
        let frame = Frame::parse(datagram)?;
        if frame.cluster != self.cluster.0 {
            return Err(Refused::OtherCluster {
                expected: self.cluster.0,
                found: frame.cluster,
            });
        }
        let token = frame.sender;
        let (expected, key) = sessions
            .session(token)
            .ok_or(Refused::UnknownSender { token })?;
        if expected != frame.incarnation {
            return Err(Refused::OtherIncarnation {
                token,
                expected,
                found: frame.incarnation,
            });
        }
        if token == self.me || frame.to.0 != 0 && frame.to != self.me {
            return Err(Refused::NotForMe {
                token,
                to: frame.to,
            });
        }
        let channel = channel(frame.kind);
        let windowed = channel != Channel::Causal;
        if windowed && !windows.is_fresh(token, channel, expected, frame.sequence) {
            return Err(Refused::Replayed {
                token,
                sequence: frame.sequence,
            });
        }
        if !key.verify(&digest(frame.signed), &frame.signature) {
            return Err(Refused::Signature { token });
        }
        let message =
            Message::decode(frame.kind, frame.body).map_err(|why| Refused::Body { token, why })?;
        if windowed {
            windows.mark(token, channel, expected, frame.sequence);
        } else {
            frame.check_causal(&message)?;
        }
        Ok(Authentic::vouch(token, expected, frame.sequence, message))
    }
}

/// A datagram taken apart, nothing believed yet.
struct Frame<'a> {
    kind: Kind,
    cluster: Hash,
    sender: Token,
    incarnation: Incarnation,
    to: Token,
    sequence: u64,
    body: &'a [u8],
    signed: &'a [u8],
    signature: [u8; 64],
}

impl<'a> Frame<'a> {
    /// A causal message is for all, and its clock names itself: else two clocks could stand under one number.
    fn check_causal(&self, message: &Message) -> Result<(), Refused> {
        let own = message.clock().map(|clock| clock.tick(self.sender));
        let named = Some(crate::clock::Tick {
            incarnation: self.incarnation,
            sequence: self.sequence,
        });
        if self.to.0 == 0 && own == named {
            return Ok(());
        }
        let why = BadBytes::Value {
            field: "own clock entry",
            found: own.map_or(0, |tick| tick.sequence),
        };
        let token = self.sender;
        Err(Refused::Body { token, why })
    }

    fn parse(datagram: &'a [u8]) -> Result<Self, Refused> {
        let length = Refused::Length {
            len: datagram.len(),
        };
        if datagram.get(..4).is_none_or(|magic| magic != MAGIC) {
            return Err(if datagram.len() > FRAME_LEN_MAX {
                length
            } else {
                Refused::NotAFrame
            });
        }
        if !(HEADER_LEN + SIGNATURE_LEN..=FRAME_LEN_MAX).contains(&datagram.len()) {
            return Err(length);
        }
        let (signed, signature) = datagram.split_at(datagram.len() - SIGNATURE_LEN);
        Self::fields(signed, signature).map_err(|fault| fault.unwrap_or(length))
    }

    /// `Err(None)`: the lengths do not fit together.
    fn fields(signed: &'a [u8], signature: &[u8]) -> Result<Self, Option<Refused>> {
        let mut r = crate::bytes::Reader::new(signed);
        let short = |_: BadBytes| None;
        r.take("magic", 4).map_err(short)?;
        for (field, expected) in [("version", VERSION), ("seal", 0)] {
            let found = r.u8(field).map_err(short)?;
            if found != expected {
                return Err(Some(Refused::Unspoken {
                    field,
                    expected,
                    found,
                }));
            }
        }
        let number = r.u8("kind").map_err(short)?;
        let kind = Kind::from_number(number).ok_or(Some(Refused::Unspoken {
            field: "kind",
            expected: Kind::HandOver as u8,
            found: number,
        }))?;
        let reserved = r.u8("reserved").map_err(short)?;
        if reserved != 0 {
            return Err(Some(Refused::Unspoken {
                field: "reserved byte",
                expected: 0,
                found: reserved,
            }));
        }
        let frame = Self {
            kind,
            cluster: r.hash("cluster").map_err(short)?,
            sender: Token(r.u64("sender").map_err(short)?),
            incarnation: Incarnation(r.u64("incarnation").map_err(short)?),
            to: Token(r.u64("to").map_err(short)?),
            sequence: r.u64("sequence").map_err(short)?,
            body: {
                let len = r.u16("body length").map_err(short)?;
                r.take("body", len.into()).map_err(short)?
            },
            signed,
            signature: signature.try_into().map_err(|_| None)?,
        };
        r.end().map_err(short)?;
        Ok(frame)
    }
}
