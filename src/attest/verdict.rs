//! Evidence against expectation and policy: the verdict, with every comparison that led to it.
//!
//! Rule: all comparisons are made and kept; the first that fails gives the reason. Signatures are not among them yet
//! (Attestation issue), so a quote under any other root than an allowed simulator's is refused, Intel's included.

use crate::{
    event_log::{self, Identity, LogRefused},
    quote::{self, QuoteRefused, QuoteV4},
};
use sha2::{Digest, Sha256};
use std::fmt;

/// What the public simulator of dstack serves: a real quote with overwritten report data, the same for everybody.
const DSTACK_FIXTURE: [u8; 32] = [
    0x0c, 0x69, 0x9d, 0xd4, 0x53, 0x3f, 0x61, 0xdf, 0xee, 0x82, 0x16, 0x34, 0xcf, 0x1b, 0xcd, 0x00,
    0xf0, 0x6b, 0x4d, 0xba, 0xab, 0x72, 0x0c, 0x5d, 0x61, 0x74, 0x34, 0x1d, 0x90, 0xf7, 0x6b, 0x92,
];
/// What a root certificate of our simulator says about itself.
const NOT_INTEL: &[u8] = b"NOT INTEL";
/// Longest compose text that is hashed.
const COMPOSE_MAX: usize = 1024 * 1024;

/// What a peer shows.
#[derive(Clone, Copy)]
pub struct Evidence<'a> {
    /// The quote's bytes.
    pub quote: &'a [u8],
    /// JSON array of events.
    pub event_log: &'a str,
    /// The compose text, to the byte.
    pub compose: &'a str,
}

/// What it should show. `None` is allowed and leaves a line "not checked" in the verdict.
#[derive(Clone, Debug)]
pub struct Expected {
    /// All 64 bytes, from [`crate::report_data::bind`].
    pub report_data: [u8; 64],
    /// Hashes of the compose texts that are allowed; an empty list allows none.
    pub compose_hashes: Vec<[u8; 32]>,
    /// The app.
    pub app_id: Option<[u8; 20]>,
    /// The instance that was enrolled.
    pub instance_id: Option<[u8; 20]>,
    /// The key provider's JSON, to the byte.
    pub key_provider: Option<String>,
}

/// Which evidence that proves no hardware is let through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Simulator {
    /// None: what production says.
    Refused,
    /// Only under the root certificate with this SHA-256.
    Root([u8; 32]),
    /// Under every root that calls itself NOT INTEL.
    AnyRoot,
}

/// What the relying side tolerates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Simulated evidence.
    pub simulator: Simulator,
}

/// How a comparison came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// As expected.
    Passed,
    /// Not as expected.
    Failed,
    /// Nothing was expected, or the check does not exist yet.
    NotChecked,
}

/// One comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// What was compared.
    pub name: &'static str,
    /// The value that was expected.
    pub expected: String,
    /// The value that was there.
    pub found: String,
    /// How it came out.
    pub outcome: Outcome,
}

/// Why evidence is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// No quote.
    #[error("quote: {0}")]
    Quote(#[from] QuoteRefused),
    /// No event log.
    #[error("event log: {0}")]
    Log(#[from] LogRefused),
    /// The public simulator of dstack.
    #[error("dstack simulator fixture: simulated for everybody alike, not verified")]
    DstackFixture,
    /// Our simulator's root, where it is not allowed.
    #[error("the quote is signed under a simulator's root, which this policy does not allow")]
    SimulatorNotAllowed,
    /// Another root.
    #[error(
        "signatures under other roots than the simulator's cannot be verified yet (Attestation issue)"
    )]
    CannotVerify,
    /// A comparison failed; it is in the list under this name.
    #[error("{0} is not as expected")]
    Check(&'static str),
}

/// The result. There is no `Verified` as long as no signature is checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Consistent evidence of an allowed simulator: proves no hardware and no signature.
    Simulated {
        /// SHA-256 of the root certificate.
        root: [u8; 32],
        /// All comparisons.
        checks: Vec<Check>,
    },
    /// Not let through.
    Refused {
        /// The first thing that was wrong.
        reason: Reason,
        /// All comparisons that could be made.
        checks: Vec<Check>,
    },
}

impl Verdict {
    /// All comparisons.
    pub fn checks(&self) -> &[Check] {
        match self {
            Self::Simulated { checks, .. } | Self::Refused { checks, .. } => checks,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Simulated { root, .. } => {
                let [a, b, c, d, ..] = root;
                write!(
                    f,
                    "SIMULATED under root {a:02x}{b:02x}{c:02x}{d:02x}…: consistent, no hardware, signatures not checked"
                )
            }
            Self::Refused { reason, checks } => {
                write!(f, "UNATTESTED: {reason}")?;
                match checks
                    .iter()
                    .find(|check| matches!(reason, Reason::Check(name) if *name == check.name))
                {
                    Some(check) => {
                        write!(f, " (expected {}, found {})", check.expected, check.found)
                    }
                    None => Ok(()),
                }
            }
        }
    }
}

/// Judges evidence.
pub fn appraise(evidence: &Evidence<'_>, expected: &Expected, policy: &Policy) -> Verdict {
    let mut bench = Bench {
        checks: Vec::new(),
        reason: None,
    };
    let quote = match quote::parse(evidence.quote) {
        Ok(quote) => quote,
        Err(refused) => {
            return Verdict::Refused {
                reason: refused.into(),
                checks: bench.checks,
            };
        }
    };
    bench.root(&quote, policy);
    bench.compare(
        "report data",
        &hex::encode(expected.report_data),
        &hex::encode(quote.report_data),
    );
    bench.compare(
        "debug attribute",
        "off",
        if quote.is_debug() { "on" } else { "off" },
    );
    match event_log::replay_rtmr3(evidence.event_log) {
        Ok(rtmr3) => {
            let [_, _, _, register] = quote.rtmr;
            bench.compare("RTMR3", &hex::encode(register), &hex::encode(rtmr3.digest));
            match rtmr3.identity() {
                Ok(identity) => bench.identity(&identity, &quote, evidence.compose, expected),
                Err(refused) => bench.fail(refused.into()),
            }
        }
        Err(refused) => bench.fail(refused.into()),
    }
    bench.not_checked(
        "signatures, revocation and platform state",
        "comes with the Attestation issue",
    );
    bench.not_checked(
        "firmware and image (MRTD, RTMR0 to RTMR2)",
        "comes with the Attestation issue",
    );
    match bench.reason {
        Some(reason) => Verdict::Refused {
            reason,
            checks: bench.checks,
        },
        None => Verdict::Simulated {
            root: quote.root_hash(),
            checks: bench.checks,
        },
    }
}

/// What a node says about its own evidence: whether it fits together, under whatever simulator's root. Nobody is
/// admitted by it.
pub fn own_verdict(
    quote: &[u8],
    event_log: &str,
    compose: &str,
    report_data: &[u8; 64],
) -> Verdict {
    let expected = Expected {
        report_data: *report_data,
        compose_hashes: vec![Sha256::digest(compose).into()],
        app_id: None,
        instance_id: None,
        key_provider: None,
    };
    appraise(
        &Evidence {
            quote,
            event_log,
            compose,
        },
        &expected,
        &Policy {
            simulator: Simulator::AnyRoot,
        },
    )
}

struct Bench {
    checks: Vec<Check>,
    reason: Option<Reason>,
}

impl Bench {
    /// Which class of evidence this is. First, because nothing else in it counts if the class is not allowed.
    fn root(&mut self, quote: &QuoteV4, policy: &Policy) {
        let found = quote.root_hash();
        let [_, _, certificate] = &quote.certificates;
        let calls_itself_simulated = certificate
            .windows(NOT_INTEL.len())
            .any(|window| window == NOT_INTEL);
        let (expected, allowed) = match policy.simulator {
            Simulator::Refused => ("no simulator".to_owned(), false),
            Simulator::Root(root) => (hex::encode(root), root == found && calls_itself_simulated),
            Simulator::AnyRoot => ("any simulator's root".to_owned(), calls_itself_simulated),
        };
        let reason = if quote.shape == DSTACK_FIXTURE {
            Reason::DstackFixture
        } else if calls_itself_simulated {
            Reason::SimulatorNotAllowed
        } else {
            Reason::CannotVerify
        };
        self.record("root certificate", expected, hex::encode(found), allowed);
        if !allowed {
            self.fail(reason);
        }
    }

    fn identity(
        &mut self,
        identity: &Identity,
        quote: &QuoteV4,
        compose: &str,
        expected: &Expected,
    ) {
        let measured = hex::encode(identity.compose_hash);
        if compose.len() > COMPOSE_MAX {
            self.compare(
                "size of the compose text",
                &format!("at most {COMPOSE_MAX}"),
                &compose.len().to_string(),
            );
        } else {
            self.compare(
                "compose text",
                &measured,
                &hex::encode(Sha256::digest(compose)),
            );
        }
        let allowed = expected.compose_hashes.contains(&identity.compose_hash);
        let list: Vec<String> = expected.compose_hashes.iter().map(hex::encode).collect();
        if !self.record(
            "compose hash",
            format!("one of [{}]", list.join(", ")),
            measured,
            allowed,
        ) {
            self.fail(Reason::Check("compose hash"));
        }
        self.compare(
            "MRCONFIGID",
            &hex::encode(config_id(&identity.compose_hash)),
            &hex::encode(quote.mr_config_id),
        );
        self.optional(
            "app id",
            expected.app_id.map(hex::encode),
            hex::encode(identity.app_id),
        );
        let instance = identity
            .instance_id
            .map_or_else(|| "none".to_owned(), hex::encode);
        self.optional(
            "instance id",
            expected.instance_id.map(hex::encode),
            instance,
        );
        self.optional(
            "key provider",
            expected.key_provider.clone(),
            identity.key_provider.clone(),
        );
    }

    fn optional(&mut self, name: &'static str, expected: Option<String>, found: String) {
        match expected {
            Some(expected) => self.compare(name, &expected, &found),
            None => self.not_checked(name, &found),
        }
    }

    fn compare(&mut self, name: &'static str, expected: &str, found: &str) {
        // both sides are public, but an early end would still tell how much of a report data was right
        let differ = expected
            .bytes()
            .zip(found.bytes())
            .fold(0, |all, (a, b)| all | (a ^ b));
        let equal = differ == 0 && expected.len() == found.len();
        if !self.record(name, expected.to_owned(), found.to_owned(), equal) {
            self.fail(Reason::Check(name));
        }
    }

    fn record(
        &mut self,
        name: &'static str,
        expected: String,
        found: String,
        passed: bool,
    ) -> bool {
        let outcome = if passed {
            Outcome::Passed
        } else {
            Outcome::Failed
        };
        self.checks.push(Check {
            name,
            expected,
            found,
            outcome,
        });
        passed
    }

    fn not_checked(&mut self, name: &'static str, found: &str) {
        let (expected, found) = ("nothing".to_owned(), found.to_owned());
        self.checks.push(Check {
            name,
            expected,
            found,
            outcome: Outcome::NotChecked,
        });
    }

    fn fail(&mut self, reason: Reason) {
        self.reason.get_or_insert(reason);
    }
}

/// Version 1 of what dstack writes at launch: 01 ‖ compose hash ‖ zeros.
fn config_id(compose_hash: &[u8; 32]) -> [u8; 48] {
    let mut id = [0; 48];
    if let ([version], rest) = id.split_at_mut(1) {
        *version = 1;
        rest.split_at_mut(32).0.copy_from_slice(compose_hash);
    }
    id
}
