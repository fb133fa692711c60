//! On dstack's official simulator everybody is the same instance, and the quote is a recording under which the report
//! data was overwritten: it never verifies.
//!
//! Rule: a node runs on it only if its operator says so, on a development chain; a node name then tells several nodes
//! on one socket apart. Whatever is shown about such a node says UNATTESTED.

use crate::config::Config;
use sha2::{Digest, Sha256};
use synod_attest::{Reason, Verdict};
use synod_wire::Address;

/// The only chain on which the exceptions of this module can be asked for.
pub const DEVELOPMENT_CHAIN: u64 = 31_337;
/// Longest node name.
const NAME_MAX: usize = 32;

/// Tells nodes apart that share one guest agent: 1 to 32 of `a-z`, `0-9` and `-`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeName(String);

impl std::str::FromStr for NodeName {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let allowed = |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
        let good = (1..=NAME_MAX).contains(&text.len()) && text.bytes().all(allowed);
        good.then(|| Self(text.to_owned())).ok_or(())
    }
}

/// The instance that a node is, for key path, purpose, quote and contract alike: the agent's own, or with a name the
/// first 20 bytes of SHA-256(instance id ‖ 0 ‖ name).
pub fn instance(of_agent: [u8; 20], name: Option<&NodeName>) -> Address {
    let Some(NodeName(name)) = name else {
        return Address(of_agent);
    };
    let hash = Sha256::new()
        .chain_update(of_agent)
        .chain_update([0])
        .chain_update(name)
        .finalize();
    let mut id = [0; 20];
    id.copy_from_slice(hash.split_at(20).0);
    Address(id)
}

/// What stands against running on this evidence, if anything: found, and the remedy.
pub fn objection(verdict: &Verdict, config: &Config) -> Option<(String, &'static str)> {
    let fixture = matches!(
        verdict,
        Verdict::Refused {
            reason: Reason::DstackFixture,
            ..
        }
    );
    (fixture && !config.insecure_unattested_peers).then(|| {
        let remedy = "use another agent (dstack-simulator, or a machine with TDX); for development only: give \
             --insecure-unattested-peers, and --node-name NAME to each node that shares this socket";
        (verdict.to_string(), remedy)
    })
}

/// What is shown of a verdict. A node that was let in by the options of this module is UNATTESTED, whatever its agent's
/// quote says: its instance may be made of a name, and then the quote is about another one.
pub fn shown(verdict: &Verdict, config: &Config) -> String {
    let verdict = verdict.to_string();
    let excepted = config.node_name.is_some() || config.insecure_unattested_peers;
    if excepted && !verdict.starts_with("UNATTESTED") {
        return format!(
            "UNATTESTED: this node shares its guest agent or was told to run unattested; {verdict}"
        );
    }
    verdict
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_makes_another_instance_and_no_name_leaves_the_agents() {
        let agent = [7; 20];
        let named = |name: &str| instance(agent, Some(&name.parse().expect("a name")));
        assert_eq!(instance(agent, None), Address(agent));
        assert_ne!(named("node1"), named("node2"));
        // python3: hashlib.sha256(bytes([7])*20 + b"\0" + b"node1").hexdigest()[:40]
        assert_eq!(named("node1").to_string(), NODE1);
    }

    const NODE1: &str = "0x1160c16d2e3d109d12923f17c03dfca8ad35e203";

    #[test]
    fn names_are_short_and_plain() {
        for name in ["node1", "a", "0-9", &"x".repeat(32)] {
            assert!(name.parse::<NodeName>().is_ok(), "{name}");
        }
        for name in ["", "Node1", "a b", "a/b", "ä", "a\0b", &"x".repeat(33)] {
            assert!(name.parse::<NodeName>().is_err(), "{name:?}");
        }
    }
}
