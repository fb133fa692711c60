//! What a signature chain of `GetKey` proves: KMS root → app root key → derived key. Pure.
//!
//! ```text
//! chain[1]  KMS root signs  "dstack-kms-issued:" ‖ app id (20) ‖ app root key (33)
//! chain[0]  app root signs  purpose ‖ ":" ‖ lower hex of the derived public key (66)
//! ```
//!
//! Rule: both links are recovered and the upper one must end at the anchor that the caller brings from elsewhere. It
//! proves that code of the app asked for this key with this purpose; never which instance, which version, or when.

use k256::ecdsa::{RecoveryId, Signature, VerifyingKey};
use sha3::{Digest, Keccak256};

/// The anchor: a KMS root key that is known from the contract or the configuration, never from the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KmsRoot {
    /// Ethereum address of the root key, as a contract stores it.
    Address([u8; 20]),
    /// SEC1 compressed root key.
    Public([u8; 33]),
}

/// A chain that holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chain {
    /// The app root key, compressed; a contract needs it to rebuild the upper message.
    pub app_public: [u8; 33],
}

/// The link of which something is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// App root over the derived key.
    Derived,
    /// KMS root over the app root key.
    App,
}

/// Why a chain proves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChainRefused {
    /// A chain has two links.
    #[error("expected a signature chain of 2 links, found {found}")]
    Links {
        /// How many there are.
        found: usize,
    },
    /// The app runs without a KMS.
    #[error(
        "expected a KMS signature over the app root key, found none: this app runs without a KMS, so its keys belong \
         to one machine; deploy it with key_provider kms, or use a contract that is configured for development"
    )]
    NoKmsLink,
    /// r ‖ s ‖ v.
    #[error("expected 65 bytes in link {link:?}, found {found}")]
    Length {
        /// The link.
        link: Link,
        /// Its length.
        found: usize,
    },
    /// The last byte is 0 or 1 here, not 27 or 28.
    #[error("expected recovery id 0 or 1 in link {link:?}, found {found}")]
    RecoveryByte {
        /// The link.
        link: Link,
        /// The byte.
        found: u8,
    },
    /// A second form of a good signature.
    #[error("expected the low s in link {link:?}, found the high one")]
    HighS {
        /// The link.
        link: Link,
    },
    /// No key fits.
    #[error("expected a signature in link {link:?}, found one from which no key can be recovered")]
    Unrecoverable {
        /// The link.
        link: Link,
    },
    /// The upper link ends elsewhere: another KMS, another app, another app root key, or a changed purpose.
    #[error(
        "expected the chain to end at KMS root {expected}, found {found}: another KMS, another app id, or a key or \
         purpose that was changed",
        expected = hex::encode(expected), found = hex::encode(found)
    )]
    OtherRoot {
        /// Address of the anchor.
        expected: [u8; 20],
        /// Address of the signer.
        found: [u8; 20],
    },
    /// The anchor is no point on the curve.
    #[error("expected a compressed secp256k1 key as KMS root, found {found}", found = hex::encode(found))]
    BadAnchor {
        /// What was given.
        found: [u8; 33],
    },
}

/// Verifies both links; `purpose` and `app_id` are what the caller expects, not what the agent said.
pub fn verify(
    derived_public: &[u8; 33],
    purpose: &str,
    app_id: &[u8; 20],
    chain: &[Vec<u8>],
    kms_root: &KmsRoot,
) -> Result<Chain, ChainRefused> {
    let (signer, verified) = signer(derived_public, purpose, app_id, chain)?;
    let expected = match kms_root {
        KmsRoot::Address(address) => *address,
        KmsRoot::Public(public) => address(&anchor(public)?),
    };
    let found = address(&signer);
    if found == expected {
        Ok(verified)
    } else {
        Err(ChainRefused::OtherRoot { expected, found })
    }
}

/// Whose signature stands at the upper end, whoever that is. This proves nothing: it is for those who configure a
/// development contract from an agent.
pub fn signer(
    derived_public: &[u8; 33],
    purpose: &str,
    app_id: &[u8; 20],
    chain: &[Vec<u8>],
) -> Result<(VerifyingKey, Chain), ChainRefused> {
    let [derived_link, app_link] = chain else {
        return Err(ChainRefused::Links { found: chain.len() });
    };
    if app_link.is_empty() {
        return Err(ChainRefused::NoKmsLink);
    }
    let claim = [
        purpose.as_bytes(),
        b":",
        hex::encode(derived_public).as_bytes(),
    ]
    .concat();
    let app = recover(Link::Derived, &claim, derived_link)?;
    let app_public = compressed(&app);
    let claim = [&b"dstack-kms-issued:"[..], app_id, &app_public].concat();
    let root = recover(Link::App, &claim, app_link)?;
    Ok((root, Chain { app_public }))
}

/// One text for one key: SEC1 has a second compressed form (tag 5), which stands for the even point as well.
fn anchor(public: &[u8; 33]) -> Result<VerifyingKey, ChainRefused> {
    let compressed = matches!(public, [2 | 3, ..]);
    VerifyingKey::from_sec1_bytes(public)
        .ok()
        .filter(|_| compressed)
        .ok_or(ChainRefused::BadAnchor { found: *public })
}

/// Ethereum address of a public key.
pub fn address(key: &VerifyingKey) -> [u8; 20] {
    let hash: [u8; 32] = Keccak256::digest(uncompressed(key)).into();
    let mut address = [0; 20];
    address.copy_from_slice(hash.split_at(12).1);
    address
}

/// x ‖ y of a public key.
pub fn uncompressed(key: &VerifyingKey) -> [u8; 64] {
    let mut xy = [0; 64];
    xy.copy_from_slice(key.to_encoded_point(false).as_bytes().split_at(1).1);
    xy
}

fn compressed(key: &VerifyingKey) -> [u8; 33] {
    let mut public = [0; 33];
    public.copy_from_slice(key.to_encoded_point(true).as_bytes());
    public
}

fn recover(link: Link, message: &[u8], signature: &[u8]) -> Result<VerifyingKey, ChainRefused> {
    let length = ChainRefused::Length {
        link,
        found: signature.len(),
    };
    let (rs, v) = signature.split_at_checked(64).ok_or(length)?;
    let &[v] = v else { return Err(length) };
    let recovery = match v {
        0 => RecoveryId::new(false, false),
        1 => RecoveryId::new(true, false),
        found => return Err(ChainRefused::RecoveryByte { link, found }),
    };
    let signature = Signature::from_slice(rs).map_err(|_| ChainRefused::Unrecoverable { link })?;
    if signature.normalize_s().is_some() {
        return Err(ChainRefused::HighS { link });
    }
    VerifyingKey::recover_from_prehash(&Keccak256::digest(message), &signature, recovery)
        .map_err(|_| ChainRefused::Unrecoverable { link })
}

#[cfg(test)]
mod tests {
    use super::*;
    use k256::ecdsa::SigningKey;

    const APP_ID: [u8; 20] = [0x22; 20];
    const PURPOSE: &str = "synod-v1:31337:00:11";

    fn sign(key: &SigningKey, message: &[u8]) -> Vec<u8> {
        let (signature, recovery) = key
            .sign_prehash_recoverable(&Keccak256::digest(message))
            .unwrap();
        [&signature.to_bytes()[..], &[recovery.to_byte()]].concat()
    }

    fn key(byte: u8) -> SigningKey {
        SigningKey::from_slice(&[byte; 32]).unwrap()
    }

    /// A good chain: KMS 1, app 2, derived 3.
    fn good() -> ([u8; 33], Vec<Vec<u8>>, KmsRoot) {
        let public = compressed(key(3).verifying_key());
        let lower = sign(
            &key(2),
            format!("{PURPOSE}:{}", hex::encode(public)).as_bytes(),
        );
        let app = compressed(key(2).verifying_key());
        let upper = sign(
            &key(1),
            &[&b"dstack-kms-issued:"[..], &APP_ID, &app].concat(),
        );
        (
            public,
            vec![lower, upper],
            KmsRoot::Address(address(key(1).verifying_key())),
        )
    }

    fn check(
        change: impl FnOnce(&mut [u8; 33], &mut Vec<Vec<u8>>, &mut KmsRoot),
    ) -> Result<Chain, ChainRefused> {
        let (mut public, mut chain, mut root) = good();
        change(&mut public, &mut chain, &mut root);
        verify(&public, PURPOSE, &APP_ID, &chain, &root)
    }

    #[test]
    fn a_good_chain_holds_against_the_address_and_against_the_key_and_names_the_app_key() {
        let app_public = compressed(key(2).verifying_key());
        assert_eq!(check(|_, _, _| ()), Ok(Chain { app_public }));
        let root = compressed(key(1).verifying_key());
        assert_eq!(
            check(|_, _, anchor| *anchor = KmsRoot::Public(root)),
            Ok(Chain { app_public })
        );
    }

    #[test]
    fn each_changed_thing_breaks_the_chain() {
        let other = |result| {
            matches!(
                result,
                Err(ChainRefused::OtherRoot { .. } | ChainRefused::Unrecoverable { .. })
            )
        };
        assert!(other(check(
            |public, _, _| *public = compressed(key(4).verifying_key())
        )));
        assert!(other(check(|_, chain, _| chain[0][5] ^= 1)));
        assert!(other(check(|_, chain, _| chain[1][5] ^= 1)));
        assert!(other(check(|_, chain, _| chain.swap(0, 1))));
        assert!(other(check(|_, _, root| *root = KmsRoot::Address([9; 20]))));
        let (public, chain, root) = good();
        assert!(other(verify(
            &public,
            "synod-v1:1:00:11",
            &APP_ID,
            &chain,
            &root
        )));
        assert!(other(verify(&public, PURPOSE, &[0x23; 20], &chain, &root)));
    }

    #[test]
    fn an_app_root_key_that_the_kms_did_not_sign_is_refused() {
        let result = check(|public, chain, _| {
            chain[0] = sign(
                &key(5),
                format!("{PURPOSE}:{}", hex::encode(public)).as_bytes(),
            );
        });
        assert!(
            matches!(result, Err(ChainRefused::OtherRoot { .. })),
            "{result:?}"
        );
    }

    #[test]
    fn malformed_links_are_refused_by_name() {
        use Link::{App, Derived};
        assert_eq!(
            check(|_, chain, _| drop(chain.pop())),
            Err(ChainRefused::Links { found: 1 })
        );
        assert_eq!(
            check(|_, chain, _| chain.push(vec![])),
            Err(ChainRefused::Links { found: 3 })
        );
        assert_eq!(
            check(|_, chain, _| chain[1].clear()),
            Err(ChainRefused::NoKmsLink)
        );
        assert_eq!(
            check(|_, chain, _| chain[0].clear()),
            Err(ChainRefused::Length {
                link: Derived,
                found: 0
            })
        );
        assert_eq!(
            check(|_, chain, _| chain[1].truncate(64)),
            Err(ChainRefused::Length {
                link: App,
                found: 64
            })
        );
        assert_eq!(
            check(|_, chain, _| chain[1].push(0)),
            Err(ChainRefused::Length {
                link: App,
                found: 66
            })
        );
        assert_eq!(check(|_, chain, _| chain[0][64] += 27), {
            let found = good().1[0][64] + 27;
            Err(ChainRefused::RecoveryByte {
                link: Derived,
                found,
            })
        });
        assert_eq!(
            check(|_, chain, _| chain[0][..64].fill(0)),
            Err(ChainRefused::Unrecoverable { link: Derived })
        );
        assert_eq!(
            check(|_, _, root| *root = KmsRoot::Public([0; 33])),
            Err(ChainRefused::BadAnchor { found: [0; 33] })
        );
    }

    #[test]
    fn an_anchor_has_one_form_only() {
        // an even root, which SEC1's compact form would name too
        let even = (1..=99)
            .map(key)
            .find(|key| compressed(key.verifying_key())[0] == 2);
        let root = even.unwrap();
        let app = compressed(key(2).verifying_key());
        let upper = sign(&root, &[&b"dstack-kms-issued:"[..], &APP_ID, &app].concat());
        let with_tag = |tag| {
            check(|_, chain, anchor| {
                let mut public = compressed(root.verifying_key());
                public[0] = tag;
                *anchor = KmsRoot::Public(public);
                chain[1] = upper.clone();
            })
        };
        assert_eq!(with_tag(2), Ok(Chain { app_public: app }));
        assert!(matches!(with_tag(3), Err(ChainRefused::OtherRoot { .. })));
        for tag in [0, 1, 4, 5, 6, 7] {
            let result = with_tag(tag);
            assert!(
                matches!(result, Err(ChainRefused::BadAnchor { .. })),
                "{tag}: {result:?}"
            );
        }
    }

    #[test]
    fn the_second_form_of_a_signature_is_refused() {
        for (at, link) in [(0, Link::Derived), (1, Link::App)] {
            let result = check(|_, chain, _| {
                let signature = Signature::from_slice(&chain[at][..64]).unwrap();
                let high = Signature::from_scalars(*signature.r(), -*signature.s()).unwrap();
                let v = chain[at][64] ^ 1;
                chain[at] = [&high.to_bytes()[..], &[v]].concat();
            });
            assert_eq!(result, Err(ChainRefused::HighS { link }));
        }
    }
}
