//! The 64 bytes that tie a quote to one member, one boot and one moment.

use sha2::{Digest, Sha256};

/// Everything that must belong together: who the wallet is, where it registers, and the keys of this boot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Binding {
    /// Chain that holds the contract.
    pub chain_id: u64,
    /// The contract.
    pub contract: [u8; 20],
    /// The member's token.
    pub token: u64,
    /// The instance that runs.
    pub instance_id: [u8; 20],
    /// The wallet's address.
    pub wallet: [u8; 20],
    /// Session key of this boot, SEC1 compressed.
    pub session_public: [u8; 33],
    /// SHA-256 of the SubjectPublicKeyInfo of this boot's TLS key.
    pub tls_spki: [u8; 32],
}

/// What makes a quote fresh. One kind is never the other: a quote made for a registration answers no challenge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nonce {
    /// A recent block, for registration.
    Block {
        /// Its number.
        number: u64,
        /// Its hash.
        hash: [u8; 32],
    },
    /// Bytes that a verifier chose.
    Challenge([u8; 32]),
}

/// The report data of a quote.
///
/// ```text
/// bytes  0..32  SHA-256( "synod/attest/v1" ‖ 00 ‖ field ‖ field ‖ ... )     field = length (u32 big-endian) ‖ bytes
///               fields: chain id (u64 BE), contract (20), token (u64 BE), instance id (20), wallet (20),
///                       session public key (33), SHA-256 of the TLS SubjectPublicKeyInfo (32)
/// bytes 32..64  SHA-256( "synod/nonce/v1" ‖ 00 ‖ kind ‖ value )
///               kind 01, value = block number (u64 BE) ‖ block hash (32)
///               kind 02, value = challenge (32)
/// ```
pub fn bind(binding: &Binding, nonce: &Nonce) -> [u8; 64] {
    let mut report_data = [0; 64];
    let (who, when) = report_data.split_at_mut(32);
    who.copy_from_slice(&subject(binding));
    when.copy_from_slice(&freshness(nonce));
    report_data
}

fn subject(binding: &Binding) -> [u8; 32] {
    let Binding {
        chain_id,
        contract,
        token,
        instance_id,
        wallet,
        session_public,
        tls_spki,
    } = binding;
    let fields: [&[u8]; 7] = [
        &chain_id.to_be_bytes(),
        contract,
        &token.to_be_bytes(),
        instance_id,
        wallet,
        session_public,
        tls_spki,
    ];
    let mut hash = Sha256::new_with_prefix(b"synod/attest/v1\0");
    for field in fields {
        let length = u32::try_from(field.len()).expect("fields have at most 33 bytes");
        hash.update(length.to_be_bytes());
        hash.update(field);
    }
    hash.finalize().into()
}

fn freshness(nonce: &Nonce) -> [u8; 32] {
    let hash = Sha256::new_with_prefix(b"synod/nonce/v1\0");
    match nonce {
        Nonce::Block {
            number,
            hash: block,
        } => hash
            .chain_update([1])
            .chain_update(number.to_be_bytes())
            .chain_update(block),
        Nonce::Challenge(challenge) => hash.chain_update([2]).chain_update(challenge),
    }
    .finalize()
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binding() -> Binding {
        Binding {
            chain_id: 31337,
            contract: [1; 20],
            token: 7,
            instance_id: [2; 20],
            wallet: [3; 20],
            session_public: [4; 33],
            tls_spki: [5; 32],
        }
    }

    const BLOCK: Nonce = Nonce::Block {
        number: 12,
        hash: [6; 32],
    };

    #[test]
    fn the_layout_is_the_one_that_other_code_computes_from_the_description() {
        // worked out with Python's hashlib from the picture above
        assert_eq!(
            hex::encode(bind(&binding(), &BLOCK)),
            concat!(
                "f96351e2b5b6e8f54b9466a98267302bfac52b187198e75b42ef2774e1f6850d",
                "e6be8c4d7b44e8f23e0e1e8abe892e91d22e4a1c0235c56e7d08607fe6c5b344"
            )
        );
        assert_eq!(
            hex::encode(freshness(&Nonce::Challenge([6; 32]))),
            "db9067a17e92d8aee1a52ed2545a079a06ab2d667d7dbe29af046ad71d3eb85f"
        );
    }

    #[test]
    fn every_field_changes_the_report_data() {
        let changed = [
            Binding {
                chain_id: 1,
                ..binding()
            },
            Binding {
                contract: [9; 20],
                ..binding()
            },
            Binding {
                token: 8,
                ..binding()
            },
            Binding {
                instance_id: [9; 20],
                ..binding()
            },
            Binding {
                wallet: [9; 20],
                ..binding()
            },
            Binding {
                session_public: [9; 33],
                ..binding()
            },
            Binding {
                tls_spki: [9; 32],
                ..binding()
            },
        ];
        let mut all: Vec<_> = changed.iter().map(|b| bind(b, &BLOCK)).collect();
        for nonce in [
            BLOCK,
            Nonce::Block {
                number: 13,
                hash: [6; 32],
            },
            Nonce::Block {
                number: 12,
                hash: [7; 32],
            },
            Nonce::Challenge([6; 32]),
        ] {
            all.push(bind(&binding(), &nonce));
        }
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
    }
}
