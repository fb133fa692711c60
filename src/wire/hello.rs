//! The first words on a link (attack F17): nothing but `Hello` passes until both sides have checked the
//! other's. It ties the TLS certificate and this very TLS session (its exporter value) to a registered
//! session key, so a relay, another certificate or another session is refused.

use crate::bytes::{Reader, Writer};
use crate::ids::{ClusterId, Hash, Incarnation, Token};
use crate::key::SessionKey;
use crate::seal::{Authentic, Sessions};
use sha2::{Digest, Sha256};

/// Encoded length: 1 + 32 + 1 + 32 + 8 + 8 + 32 + 8 + 32 + 64.
pub const HELLO_LEN: usize = 218;
const VERSION: u8 = 1;

/// Who I am, on which TLS session, and whom I mean.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// Which cluster.
    pub cluster: ClusterId,
    /// Hash of the log's first entry, once known.
    pub log_id: Option<Hash>,
    /// The sender.
    pub token: Token,
    /// Its incarnation.
    pub incarnation: Incarnation,
    /// SHA-256 of the sender's own TLS SubjectPublicKeyInfo.
    pub spki: Hash,
    /// Whom the sender believes to talk to.
    pub peer: Token,
    /// RFC 8446 section 7.5 exporter, label `EXPORTER-synod-hello-v1`, 32 bytes.
    pub exporter: [u8; 32],
}

/// What the receiver knows by itself and compares.
#[derive(Clone, Copy, Debug)]
pub struct Expected {
    /// Ours.
    pub cluster: ClusterId,
    /// Ours, once known.
    pub log_id: Option<Hash>,
    /// Whom we dialled; none at the listening side.
    pub token: Option<Token>,
    /// Us.
    pub me: Token,
    /// SHA-256 of the SubjectPublicKeyInfo that the other side showed in TLS.
    pub spki: Hash,
    /// This session's exporter value.
    pub exporter: [u8; 32],
}

/// Why a link was closed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HelloRefused {
    /// Not a hello.
    #[error("not a hello of version {VERSION}")]
    NotAHello,
    /// The registered session key did not sign it.
    #[error("hello of token {token} is not signed by its registered session key")]
    Signature {
        /// Who it claims to be.
        token: Token,
    },
    /// No active registration.
    #[error("token {token} is not a registered member")]
    UnknownSender {
        /// Who it claims to be.
        token: Token,
    },
    /// One field is not what this side knows.
    #[error("hello of token {token}: {field}: expected {expected}, found {found}")]
    Differs {
        /// Who it claims to be.
        token: Token,
        /// Which field.
        field: &'static str,
        /// What we know.
        expected: String,
        /// What it says.
        found: String,
    },
}

impl Hello {
    /// Signed bytes, [`HELLO_LEN`] long.
    pub fn seal(&self, key: &SessionKey) -> Vec<u8> {
        let said = self.said();
        let signature = key.sign(&digest(&said));
        [said.as_slice(), &signature].concat()
    }

    fn said(&self) -> Vec<u8> {
        Writer::new()
            .u8(VERSION)
            .fixed(&self.cluster.0.0)
            .u8(self.log_id.is_some().into())
            .fixed(&self.log_id.unwrap_or_default().0)
            .u64(self.token.0)
            .u64(self.incarnation.0)
            .fixed(&self.spki.0)
            .u64(self.peer.0)
            .fixed(&self.exporter)
            .done()
    }

    /// Check everything; the author is then known for the life of the link.
    pub fn open(
        bytes: &[u8],
        expected: &Expected,
        sessions: &dyn Sessions,
    ) -> Result<Authentic<Self>, HelloRefused> {
        let (said, signature) = bytes
            .split_at_checked(HELLO_LEN - 64)
            .ok_or(HelloRefused::NotAHello)?;
        let signature: [u8; 64] = signature.try_into().map_err(|_| HelloRefused::NotAHello)?;
        let hello = Self::read(said).ok_or(HelloRefused::NotAHello)?;
        let token = hello.token;
        let (incarnation, key) = sessions
            .session(token)
            .ok_or(HelloRefused::UnknownSender { token })?;
        hello.compare(expected, incarnation)?;
        if !key.verify(&digest(said), &signature) {
            return Err(HelloRefused::Signature { token });
        }
        Ok(Authentic::vouch(token, incarnation, 0, hello))
    }

    fn read(said: &[u8]) -> Option<Self> {
        let mut r = Reader::new(said);
        (r.u8("version").ok()? == VERSION).then_some(())?;
        let cluster = ClusterId(r.hash("cluster").ok()?);
        let known = r.flag("log id known").ok()?;
        let log_id = r.hash("log id").ok()?;
        let hello = Self {
            cluster,
            log_id: known.then_some(log_id),
            token: Token(r.u64("token").ok()?),
            incarnation: Incarnation(r.u64("incarnation").ok()?),
            spki: r.hash("spki").ok()?,
            peer: Token(r.u64("peer").ok()?),
            exporter: r.fixed("exporter").ok()?,
        };
        r.end().ok()?;
        (known || log_id == Hash::ZERO).then_some(hello)
    }

    fn compare(&self, expected: &Expected, incarnation: Incarnation) -> Result<(), HelloRefused> {
        let token = self.token;
        let same = |field, expected: String, found: String| {
            if expected == found {
                Ok(())
            } else {
                Err(HelloRefused::Differs {
                    token,
                    field,
                    expected,
                    found,
                })
            }
        };
        same(
            "cluster",
            expected.cluster.to_string(),
            self.cluster.to_string(),
        )?;
        if let (Some(ours), Some(theirs)) = (expected.log_id, self.log_id) {
            same("log id", ours.to_string(), theirs.to_string())?;
        }
        if let Some(dialled) = expected.token {
            same("token", dialled.to_string(), token.to_string())?;
        }
        same(
            "incarnation",
            incarnation.to_string(),
            self.incarnation.to_string(),
        )?;
        same(
            "certificate key",
            expected.spki.to_string(),
            self.spki.to_string(),
        )?;
        same("peer", expected.me.to_string(), self.peer.to_string())?;
        same(
            "TLS session",
            hex::encode(expected.exporter),
            hex::encode(self.exporter),
        )
    }
}

fn digest(said: &[u8]) -> [u8; 32] {
    Sha256::new()
        .chain_update(b"synod/hello/v1\0")
        .chain_update(said)
        .finalize()
        .into()
}
