//! Wrong chain, wrong contract, silent or babbling endpoints, empty purses: each has its own message.
#![allow(clippy::unwrap_used)] // a test that cannot go on stops where it stands

mod common;

use alloy::consensus::{SignableTransaction as _, TxEip1559, TxEnvelope};
use alloy::eips::Encodable2718 as _;
use alloy::primitives::{Bytes, TxKind, hex};
use alloy::providers::{Provider as _, RootProvider};
use alloy::signers::SignerSync as _;
use alloy::signers::local::PrivateKeySigner;
use common::{
    Kms, Node, adopted, deploy, dev, devchain, key, registered, settings, uncompressed, url,
};
use std::sync::Arc;
use std::time::{Duration, Instant};
use synod_chain::{Chain, ChainError, ChainSettings, Wallet, operator};
use synod_devchain::{DEV_CHAIN_ID, DEV_KEYS};
use synod_wire::{Address, Anchor, Ballot, Hash, SessionKey, Term, Token};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

#[tokio::test]
async fn a_wrong_chain_id_names_both() {
    let running = devchain(None).await;
    let wrong = ChainSettings {
        chain_id: 1,
        ..settings(&url(&running), Address([1; 20]))
    };
    let error = Chain::connect(&wrong).await.err().unwrap();
    assert!(
        matches!(
            error,
            ChainError::WrongChain {
                expected: 1,
                found: 31_337,
                ..
            }
        ),
        "{error}"
    );
}

#[tokio::test]
async fn an_address_without_code_is_named() {
    let running = devchain(None).await;
    let error = Chain::connect(&settings(&url(&running), Address([1; 20])))
        .await
        .err()
        .unwrap();
    assert!(
        matches!(
            error,
            ChainError::NoCode {
                contract: Address([1, ..]),
                ..
            }
        ),
        "{error}"
    );
}

/// Puts code on the chain that is not ours.
async fn stranger(rpc: &str, init: &[u8]) -> Address {
    let tx = TxEip1559 {
        chain_id: DEV_CHAIN_ID,
        nonce: 0,
        gas_limit: 200_000,
        max_fee_per_gas: 2_000_000_000,
        to: TxKind::Create,
        input: Bytes::copy_from_slice(init),
        ..TxEip1559::default()
    };
    let signer = PrivateKeySigner::from_slice(&DEV_KEYS[9]).unwrap();
    let signature = signer.sign_hash_sync(&tx.signature_hash()).unwrap();
    let raw = TxEnvelope::from(tx.into_signed(signature)).encoded_2718();
    let client: RootProvider = RootProvider::new_http(rpc.parse().unwrap());
    let hash = *client.send_raw_transaction(&raw).await.unwrap().tx_hash();
    let receipt = client.get_transaction_receipt(hash).await.unwrap().unwrap();
    Address(receipt.contract_address.unwrap().into_array())
}

#[tokio::test]
async fn another_contract_at_the_address_is_recognised() {
    let running = devchain(None).await;
    // run time: one byte, STOP; it answers everything with nothing
    let silent = stranger(&url(&running), &hex!("6001600c60003960016000f300")).await;
    let error = Chain::connect(&settings(&url(&running), silent))
        .await
        .err()
        .unwrap();
    assert!(
        matches!(error, ChainError::NotOurContract { .. }),
        "{error}"
    );
}

#[tokio::test]
async fn an_endpoint_that_is_down_is_unavailable_and_says_so_at_once() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let error = Chain::connect(&settings(&format!("http://{address}"), Address([1; 20])))
        .await
        .err()
        .unwrap();
    assert!(matches!(error, ChainError::Unavailable { .. }), "{error}");
    assert!(error.to_string().contains(&address.to_string()), "{error}");
}

/// An endpoint that answers every request with these bytes, or never.
async fn parrot(answer: Option<Vec<u8>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let answer = answer.clone();
            tokio::spawn(async move {
                let mut request = [0; 4_096];
                let _ = stream.read(&mut request).await;
                match answer {
                    Some(bytes) => drop(stream.write_all(&bytes).await),
                    None => std::future::pending().await,
                }
            });
        }
    });
    format!("http://{address}")
}

fn http(body: &str) -> Option<Vec<u8>> {
    Some(
        format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        )
        .into_bytes(),
    )
}

#[tokio::test]
async fn an_endpoint_that_hangs_is_given_up_in_time() {
    let silent = ChainSettings {
        timeout: Duration::from_millis(300),
        ..settings(&parrot(None).await, Address([1; 20]))
    };
    let begun = Instant::now();
    let error = Chain::connect(&silent).await.err().unwrap();
    assert!(matches!(error, ChainError::Unavailable { .. }), "{error}");
    assert!(begun.elapsed() < Duration::from_secs(3));
}

#[tokio::test]
async fn an_endpoint_that_babbles_is_refused_without_a_panic() {
    let long = format!("{{\"result\":\"0x{}\"}}", "00".repeat(3 << 20));
    let bodies = [
        "",
        "<html>",
        "[]",
        "{}",
        "{\"result\":null}",
        "{\"result\":\"0x\"}",
        "{\"result\":\"0xffffffffffffffffffff\"}",
        "{\"result\":[]}",
        &long,
    ];
    for body in bodies {
        let error = Chain::connect(&settings(&parrot(http(body)).await, Address([1; 20])))
            .await
            .err()
            .unwrap();
        let shown = error.to_string();
        assert!(
            matches!(
                error,
                ChainError::BadAnswer { .. } | ChainError::WrongChain { .. }
            ),
            "{shown}"
        );
        assert!(shown.len() < 800);
    }
}

#[tokio::test]
async fn credentials_in_the_address_are_never_shown() {
    let error = Chain::connect(&settings(
        "http://user:hunter2@127.0.0.1:1/v1/apikey",
        Address([1; 20]),
    ))
    .await
    .err()
    .unwrap();
    let shown = format!("{error} {error:?}");
    assert!(
        !shown.contains("hunter2") && !shown.contains("apikey"),
        "{shown}"
    );
    let error = Chain::connect(&settings("https://127.0.0.1:1/apikey", Address([1; 20])))
        .await
        .err()
        .unwrap();
    assert!(
        matches!(error, ChainError::RpcAddress { .. }) && !format!("{error:?}").contains("apikey")
    );
}

#[tokio::test]
async fn each_false_link_of_a_registration_is_refused_with_the_contracts_own_words() {
    let running = devchain(None).await;
    let kms = Kms::new();
    let chain = deploy(&url(&running), &kms).await;
    let nodes = adopted(&chain).await;
    let node = &nodes[0];
    let now = chain.head().await.unwrap().time;
    let good = kms.registration(&chain, node, now + 3_600);
    let other = kms.registration(&chain, &nodes[1], now + 3_600);
    let mut cases = Vec::new();
    let mut case = |expected: &'static str, spoil: &dyn Fn(&mut synod_chain::Registration)| {
        let mut registration = good.clone();
        spoil(&mut registration);
        cases.push((expected, registration));
    };
    case("AppKeyNotLinked", &|r| {
        r.app_public = uncompressed(&key(0x66))
    });
    case("AppKeyNotLinked", &|r| {
        r.app_signature = other.app_signature
    });
    case("KmsRootForeign", &|r| r.kms_signature = r.app_signature);
    case("AppNotAllowed", &|r| r.app_id = Address([0x55; 20]));
    case("SenderNotDerivedKey", &|r| {
        r.derived_public = other.derived_public
    });
    case("NotTokenOwner|NotAdopted", &|r| r.token = Token(2));
    case("ERC721NonexistentToken", &|r| r.token = Token(9));
    case("ExpiryOutOfRange", &|r| r.expires_at = now - 1);
    case("ExpiryOutOfRange", &|r| r.expires_at = now + 90_000);
    case("EndpointTooLong { max: 256, found: 257 }", &|r| {
        r.endpoint = "e".repeat(257)
    });
    case("KeyNotOnCurve", &|r| r.session_public = [1; 64]);
    for (expected, registration) in cases {
        let error = chain
            .register(&node.wallet, &registration)
            .await
            .err()
            .unwrap();
        let ChainError::Reverted {
            function: "register",
            reason,
        } = &error
        else {
            panic!("{expected}: {error}")
        };
        assert!(
            expected.split('|').any(|name| reason.starts_with(name)),
            "expected {expected}, found {reason}"
        );
    }
    assert!(chain.view().await.unwrap().members.is_empty());
    chain.register(&node.wallet, &good).await.unwrap();
}

#[tokio::test]
async fn a_wallet_without_gas_is_told_so() {
    let running = devchain(None).await;
    let kms = Kms::new();
    let chain = deploy(&url(&running), &kms).await;
    let token = operator::mint(&chain, &dev(0), dev(1).address(), "node1")
        .await
        .unwrap();
    let node = Node::new(token.0);
    operator::adopt(
        &chain,
        &dev(1),
        token,
        node.wallet.address(),
        node.instance_id,
        0,
    )
    .await
    .unwrap();
    let expires_at = chain.head().await.unwrap().time + 3_600;
    let error = chain
        .register(&node.wallet, &kms.registration(&chain, &node, expires_at))
        .await
        .err()
        .unwrap();
    assert!(matches!(error, ChainError::NoGas { .. }), "{error}");
    assert!(
        error
            .to_string()
            .contains(&node.wallet.address().to_string()),
        "{error}"
    );
    assert!(Wallet::from_secret(&[0; 32]).is_err());
}

#[tokio::test]
async fn the_contract_hashes_ballots_and_adoptions_as_we_do() {
    let running = devchain(None).await;
    let chain = deploy(&url(&running), &Kms::new()).await;
    let domain = chain.domain();
    for term in [0, 1, u64::MAX] {
        let anchor = Anchor {
            index: term / 2,
            root: Hash([3; 32]),
        };
        let ballot = Ballot {
            term: Term(term),
            candidate: Token(term / 3),
            anchor,
            deadline: term / 5,
        };
        assert_eq!(
            chain.ballot_digest(&ballot).await.unwrap().0,
            domain.ballot_digest(&ballot)
        );
        let (wallet, instance) = (Address([4; 20]), Address([5; 20]));
        let found = chain
            .adoption_digest(Token(term), wallet, instance, term)
            .await
            .unwrap();
        assert_eq!(
            found.0,
            domain.adoption_digest(Token(term), wallet, instance, term)
        );
    }
}

#[tokio::test]
async fn the_vectors_that_solidity_tests_hold_here_too() {
    let vectors: serde_json::Value =
        serde_json::from_str(include_str!("../../../contracts/vectors/eip712.json")).unwrap();
    let running = devchain(None).await;
    // the first contract of the first development account is at the vectors' address
    let chain = deploy(&url(&running), &Kms::new()).await;
    let text = |pointer: &str| {
        vectors
            .pointer(pointer)
            .unwrap()
            .as_str()
            .unwrap()
            .to_owned()
    };
    let number = |pointer: &str| vectors.pointer(pointer).unwrap().as_u64().unwrap();
    let hash = |pointer: &str| text(pointer).parse::<Hash>().unwrap();
    let address = |pointer: &str| text(pointer).parse::<Address>().unwrap();
    let domain = chain.domain();
    assert_eq!(domain.contract, address("/domain/verifying_contract"));
    assert_eq!(domain.chain_id, number("/domain/chain_id"));
    let ballot = Ballot {
        term: Term(number("/ballot/term")),
        candidate: Token(number("/ballot/candidate")),
        anchor: Anchor {
            index: number("/ballot/anchor_index"),
            root: hash("/ballot/anchor_root"),
        },
        deadline: number("/ballot/deadline"),
    };
    assert_eq!(Hash(domain.ballot_digest(&ballot)), hash("/ballot/digest"));
    assert_eq!(
        chain.ballot_digest(&ballot).await.unwrap(),
        hash("/ballot/digest")
    );
    let session = SessionKey::from_bytes(&hash("/ballot/session_private").0).unwrap();
    assert_eq!(
        session.public().address().unwrap(),
        address("/ballot/session_address")
    );
    let signed = domain.sign(&session, Token(1), &ballot);
    assert_eq!(
        signed.signature,
        [hash("/ballot/r").0, hash("/ballot/vs").0].concat()[..]
    );
    let (token, wallet) = (
        Token(number("/adoption/token_id")),
        address("/adoption/wallet"),
    );
    let (instance, adoption) = (
        address("/adoption/instance_id"),
        number("/adoption/adoption_number"),
    );
    assert_eq!(
        Hash(domain.adoption_digest(token, wallet, instance, adoption)),
        hash("/adoption/digest")
    );
    assert_eq!(
        chain
            .adoption_digest(token, wallet, instance, adoption)
            .await
            .unwrap(),
        hash("/adoption/digest")
    );
    assert_eq!(
        chain
            .purpose(address("/purpose/instance_id"))
            .await
            .unwrap(),
        text("/purpose/text")
    );
}

/// Passes requests on; before the first one that contains `word` it does `deed`.
async fn meddler(
    to: String,
    word: &'static str,
    deed: impl Future<Output = ()> + Send + 'static,
) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let deed = Arc::new(tokio::sync::Mutex::new(Some(Box::pin(deed))));
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let (to, deed) = (to.clone(), Arc::clone(&deed));
            tokio::spawn(async move {
                let mut request = Vec::new();
                let body = loop {
                    assert_ne!(stream.read_buf(&mut request).await.unwrap(), 0);
                    let text = String::from_utf8_lossy(&request);
                    let Some((head, body)) = text.split_once("\r\n\r\n") else {
                        continue;
                    };
                    let head = head.to_lowercase();
                    let len = head
                        .split("content-length: ")
                        .nth(1)
                        .unwrap()
                        .lines()
                        .next()
                        .unwrap();
                    if body.len() == len.parse::<usize>().unwrap() {
                        break body.to_owned();
                    }
                };
                let mut deed = deed.lock().await;
                if body.contains(word)
                    && let Some(deed) = deed.take()
                {
                    deed.await;
                }
                drop(deed);
                let client = reqwest::Client::builder().no_proxy().build().unwrap();
                let answer = client
                    .post(to)
                    .body(body)
                    .send()
                    .await
                    .unwrap()
                    .text()
                    .await
                    .unwrap();
                stream.write_all(&http(&answer).unwrap()).await.unwrap();
            });
        }
    });
    format!("http://{address}")
}

#[tokio::test]
async fn a_view_is_of_the_block_that_it_names_even_when_the_chain_moves_meanwhile() {
    let running = devchain(None).await;
    let kms = Kms::new();
    let chain = deploy(&url(&running), &kms).await;
    let nodes = registered(&chain, &kms).await;
    let direct = chain.clone();
    let leave = async move {
        direct
            .deactivate(&nodes[0].wallet, nodes[0].token)
            .await
            .unwrap();
    };
    // the word of `members(from, limit)`; nothing before the view asks for it
    let through = meddler(url(&running), "0x01fc20e2", leave).await;
    let through = Chain::connect(&settings(&through, chain.domain().contract))
        .await
        .unwrap();
    let view = through.view().await.unwrap();
    assert_eq!(
        (view.seated_count, view.members.len()),
        (3, 3),
        "as it was at block {}",
        view.block.number
    );
    let later = through.view().await.unwrap();
    assert_eq!((later.seated_count, later.members.len()), (2, 2));
    assert!(later.block.number > view.block.number);
}
