//! The class door: how other machines reach this chain, and who may.
//!
//! A request through the door carries the class's key as the first part of its path, `/class/<64 hex digits>`. What
//! it protects against: people on the same network who are not of the class, and programs of another class that
//! hit the wrong address. What it does not protect against: a sniffer, because the path travels in clear. The key
//! is derived from the class code and opens nothing else; everything behind the door is a development chain, whose
//! account keys are public anyway.
//!
//! Rules: a key that is given must be right, also on loopback, where none is needed; the comparison takes the same
//! time for every wrong key; whoever is turned away is told so before its body is read.

use alloy::primitives::hex;
use alloy::signers::k256::elliptic_curve::subtle::ConstantTimeEq as _;
use alloy::signers::k256::elliptic_curve::zeroize::Zeroizing;
use serde_json::json;

const PREFIX: &str = "/class/";
const HEX_LEN: usize = 64;
/// JSON-RPC leaves -32000 to -32099 to servers.
const CODE: i64 = -32_001;

/// The path that opens the door of this key: `/class/<64 hex digits>`. As secret as the key.
pub fn door_path(key: &[u8; 32]) -> String {
    format!("{PREFIX}{}", hex::encode(key))
}

/// A key, and what is told to whoever has it. No `Debug`; the key is wiped on drop.
pub struct Door {
    key: Zeroizing<[u8; 32]>,
    world: String,
}

/// What a path says about its sender.
#[derive(PartialEq, Eq)]
pub enum Passage<'a> {
    /// No key; the path as it came.
    Keyless(&'a str),
    /// A key, or half of one, of somebody else.
    Wrong,
    /// The key, and the path behind it.
    Open(&'a str),
}

impl Door {
    /// Opened by `key`; `world` is the JSON text that `GET /world` answers.
    pub fn new(key: [u8; 32], world: String) -> Self {
        Self {
            key: Zeroizing::new(key),
            world,
        }
    }

    /// What is told.
    pub(crate) fn world(&self) -> &str {
        &self.world
    }

    /// Judge a path.
    pub(crate) fn passage<'a>(&self, path: &'a str) -> Passage<'a> {
        let Some(behind) = path.strip_prefix(PREFIX) else {
            return Passage::Keyless(path);
        };
        let end = behind.find('/').unwrap_or(behind.len());
        let (given, rest) = behind.split_at(end);
        let mut key = Zeroizing::new([0; 32]);
        // 64 digits: `0x` before them would be a second way to write the same key
        if given.len() != HEX_LEN || hex::decode_to_slice(given, &mut *key).is_err() {
            return Passage::Wrong;
        }
        if bool::from(key.ct_eq(&*self.key)) {
            Passage::Open(rest)
        } else {
            Passage::Wrong
        }
    }
}

/// Why somebody is turned away, as a JSON-RPC error, so that every client shows it.
pub(crate) fn turned_away(found: &str) -> String {
    let message = format!(
        "this development chain asks for the class code: expected the key of its class in the path, found {found}; \
         start with the line that synod devnet printed, which ends in --class <words>"
    );
    json!({ "jsonrpc": "2.0", "id": null, "error": { "code": CODE, "message": message } })
        .to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_key_opens() {
        let door = Door::new([0xab; 32], String::new());
        let path = door_path(&[0xab; 32]);
        assert!(door.passage(&path) == Passage::Open(""));
        assert!(door.passage(&path.to_uppercase().replace("CLASS", "class")) == Passage::Open(""));
        assert!(door.passage(&format!("{path}/world")) == Passage::Open("/world"));
        assert!(door.passage("/") == Passage::Keyless("/"));
        assert!(door.passage("/class") == Passage::Keyless("/class"));
        let wrong = [
            door_path(&[0xac; 32]),
            path[..path.len() - 1].to_owned(),
            format!("{path}0"),
            path.replace("/class/", "/class/0x"),
            path.replace("/class/ab", "/class/0x"),
            "/class/".to_owned(),
            "/class//".to_owned(),
            format!("/class/{}", "\u{20ac}".repeat(64)),
        ];
        for path in wrong {
            assert!(door.passage(&path) == Passage::Wrong, "{path}");
        }
        for bit in 0..256 {
            let mut key = [0xab; 32];
            key[bit / 8] ^= 1 << (bit % 8);
            assert!(
                door.passage(&door_path(&key)) == Passage::Wrong,
                "bit {bit}"
            );
        }
    }
}
