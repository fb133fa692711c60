//! The chain as a client sees it: over HTTP, with alloy where alloy helps and by hand where it hides things.

#![allow(clippy::unwrap_used)] // a test that cannot go on should stop where it stands

use alloy::consensus::{SignableTransaction as _, TxEip1559, TxEnvelope};
use alloy::eips::Encodable2718 as _;
use alloy::primitives::{Address, B256, Bytes, TxKind, U256, hex};
use alloy::providers::{Provider, ProviderBuilder, RootProvider};
use alloy::rpc::types::{BlockId, Filter, TransactionRequest};
use alloy::signers::SignerSync as _;
use alloy::signers::local::PrivateKeySigner;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};
use synod_devchain::{
    DEV_ADDRESSES, DEV_CHAIN_ID, DEV_KEYS, JournalError, Running, ServeError, Settings, serve,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const ETHER: u128 = 1_000_000_000_000_000_000;

/// Init code of a contract that logs its call data with topic 42 and counts calls in slot 0;
/// a call with empty data reverts with the bytes 0xdead.
/// run time: CALLDATASIZE PUSH1 0d JUMPI, PUSH2 dead PUSH1 0 MSTORE PUSH1 2 PUSH1 1e REVERT, …
const TEACHER: [u8; 53] = hex!(
    "6029600c60003960296000f3" // copy 41 bytes of run time, return them
    "36601057" // if calldatasize jump to 0x10
    "61dead6000526002601efd" // revert(0x1e, 2)
    "00" // padding, never reached
    "5b" // 0x10
    "366000600037" // calldatacopy(0, 0, size)
    "602a366000a1" // log1(0, size, 42)
    "600054600101600055" // slot 0 += 1
    "00" // stop
    "0000" // padding
);

async fn start(journal: Option<&Path>) -> Running {
    let settings = Settings {
        bind: ([127, 0, 0, 1], 0).into(),
        journal: journal.map(Path::to_owned),
        chain_id: DEV_CHAIN_ID,
    };
    serve(settings).await.unwrap()
}

fn client(chain: &Running) -> RootProvider {
    RootProvider::new_http(format!("http://{}", chain.address()).parse().unwrap())
}

fn dev(index: usize) -> Address {
    Address::from(DEV_ADDRESSES[index])
}

fn signed(account: usize, nonce: u64, to: TxKind, value: u128, input: &[u8]) -> Vec<u8> {
    let tx = TxEip1559 {
        chain_id: DEV_CHAIN_ID,
        nonce,
        gas_limit: 200_000,
        max_fee_per_gas: 2_000_000_000,
        to,
        value: U256::from(value),
        input: input.to_vec().into(),
        ..TxEip1559::default()
    };
    let signer = PrivateKeySigner::from_slice(&DEV_KEYS[account]).unwrap();
    let signature = signer.sign_hash_sync(&tx.signature_hash()).unwrap();
    TxEnvelope::from(tx.into_signed(signature)).encoded_2718()
}

async fn post(address: SocketAddr, headers: &str, body: &str) -> (u16, Value) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!(
        "POST / HTTP/1.1\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    let _ = stream.write_all(request.as_bytes()).await;
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer).await;
    let status = answer
        .split(' ')
        .nth(1)
        .and_then(|status| status.parse().ok())
        .unwrap_or(0);
    let json = answer
        .split_once("\r\n\r\n")
        .and_then(|(_, body)| serde_json::from_str(body).ok());
    (status, json.unwrap_or(Value::Null))
}

async fn call(chain: &Running, body: &Value) -> Value {
    post(chain.address(), "Host: localhost\r\n", &body.to_string())
        .await
        .1
}

async fn ask(chain: &Running, method: &str, params: Value) -> Value {
    call(
        chain,
        &json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params }),
    )
    .await
}

#[tokio::test]
async fn a_transfer_is_mined_in_its_own_block_and_paid_for() {
    let chain = start(None).await;
    let client = client(&chain);
    assert_eq!(client.get_chain_id().await.unwrap(), 31_337);
    let to = Address::repeat_byte(9);
    let hash = *client
        .send_raw_transaction(&signed(0, 0, to.into(), ETHER, &[]))
        .await
        .unwrap()
        .tx_hash();
    let receipt = client.get_transaction_receipt(hash).await.unwrap().unwrap();
    assert!(receipt.status());
    assert_eq!(receipt.gas_used, 21_000);
    assert_eq!(client.get_balance(to).await.unwrap(), U256::from(ETHER));
    let paid = U256::from(9_999 * ETHER) - U256::from(21_000_u128 * receipt.effective_gas_price);
    assert_eq!(client.get_balance(dev(0)).await.unwrap(), paid);
    let block = client
        .get_block(receipt.block_number.unwrap().into())
        .full()
        .await
        .unwrap()
        .unwrap();
    assert_eq!(block.header.hash, block.header.inner.hash_slow());
    assert_eq!(block.transactions.len(), 1);
    assert_eq!(
        client
            .get_transaction_count(dev(0))
            .pending()
            .await
            .unwrap(),
        1
    );
}

#[tokio::test]
async fn a_contract_runs_logs_reverts_and_is_read_at_an_earlier_block() {
    let chain = start(None).await;
    let client = client(&chain);
    let made = *client
        .send_raw_transaction(&signed(0, 0, TxKind::Create, 0, &TEACHER))
        .await
        .unwrap()
        .tx_hash();
    let made = client.get_transaction_receipt(made).await.unwrap().unwrap();
    let contract = made.contract_address.unwrap();
    assert_eq!(client.get_code_at(contract).await.unwrap().len(), 41);
    let mut blocks = Vec::new();
    for nonce in 1..=3_u8 {
        let hash = *client
            .send_raw_transaction(&signed(0, nonce.into(), contract.into(), 0, &[nonce]))
            .await
            .unwrap()
            .tx_hash();
        blocks.push(
            client
                .get_transaction_receipt(hash)
                .await
                .unwrap()
                .unwrap()
                .block_number
                .unwrap(),
        );
    }
    let filter = Filter::new()
        .address(contract)
        .from_block(0)
        .event_signature(B256::from(U256::from(42)));
    let logs = client.get_logs(&filter).await.unwrap();
    assert_eq!(
        logs.iter()
            .map(|log| log.data().data.to_vec())
            .collect::<Vec<_>>(),
        [[1], [2], [3]]
    );
    assert!(
        client
            .get_logs(&filter.clone().from_block(blocks[1]).to_block(blocks[1]))
            .await
            .unwrap()
            .len()
            == 1
    );
    assert!(
        client
            .get_logs(&filter.event_signature(B256::ZERO))
            .await
            .unwrap()
            .is_empty()
    );
    revert_and_estimate(&chain, contract).await;
}

async fn revert_and_estimate(chain: &Running, contract: Address) {
    let client = client(chain);
    let request = json!({ "to": contract, "data": "0x" });
    let answer = ask(chain, "eth_call", json!([request, "latest"])).await;
    assert_eq!(
        (&answer["error"]["code"], &answer["error"]["data"]),
        (&json!(3), &json!("0xdead"))
    );
    // counts before the contract existed, and after
    let before = client
        .get_code_at(contract)
        .block_id(BlockId::number(0))
        .await
        .unwrap();
    assert_eq!(before, Bytes::new());
    let gas = TransactionRequest::default()
        .from(dev(0))
        .to(contract)
        .input(vec![7].into());
    let estimated = client.estimate_gas(gas).await.unwrap();
    assert!(
        (26_000..32_000).contains(&estimated),
        "estimated {estimated}"
    );
}

#[tokio::test]
async fn what_cannot_be_mined_is_refused_with_the_reason_and_changes_nothing() {
    let chain = start(None).await;
    let to = TxKind::Call(Address::repeat_byte(9));
    let send = |raw: Vec<u8>| ask(&chain, "eth_sendRawTransaction", json!([Bytes::from(raw)]));
    let text = |answer: Value| {
        answer["error"]["message"]
            .as_str()
            .unwrap_or_default()
            .to_owned()
    };
    assert!(text(send(signed(0, 5, to, 1, &[])).await).starts_with("nonce too high: "));
    assert!(
        text(send(signed(0, 0, to, 20_000 * ETHER, &[])).await).starts_with("insufficient funds")
    );
    assert!(text(send(vec![2, 0xc0]).await).starts_with("not a transaction"));
    assert!(text(send(Vec::new()).await).starts_with("not a transaction"));
    assert!(send(signed(0, 0, to, 1, &[])).await["result"].is_string());
    assert_eq!(text(send(signed(0, 0, to, 1, &[])).await), "already known");
    assert!(text(send(signed(0, 0, to, 2, &[])).await).starts_with("nonce too low: "));
    let mut foreign = signed(0, 1, to, 1, &[]);
    foreign[30] ^= 1; // signed by nobody we know
    assert!(send(foreign).await["error"].is_object());
    assert!(text(ask(&chain, "eth_mine", json!([])).await).contains("eth_mine"));
    assert!(text(ask(&chain, "eth_getBalance", json!([])).await).contains("missing"));
    assert!(
        text(ask(&chain, "eth_getBalance", json!([dev(0), "0xffffff"])).await)
            .contains("no such block")
    );
}

#[tokio::test]
async fn the_newest_block_is_never_older_than_a_second_and_no_two_are_made_in_one() {
    let chain = start(None).await;
    let client = client(&chain);
    let first = client.get_block_number().await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut asked = 0;
    while client.get_block_number().await.unwrap() < first + 2 {
        asked += 1;
        assert!(
            Instant::now() < deadline,
            "no new block after {asked} questions"
        );
    }
    let head = client
        .get_block_by_number((first + 2).into())
        .await
        .unwrap()
        .unwrap()
        .header;
    let before = client
        .get_block_by_number((first + 1).into())
        .await
        .unwrap()
        .unwrap()
        .header;
    assert_eq!(head.parent_hash, before.hash);
    assert_eq!(head.timestamp, before.timestamp + 1);
    assert!(asked > 3);
}

#[tokio::test]
async fn hostile_parameters_are_answered_with_an_error_and_break_nothing() {
    let chain = start(None).await;
    let methods = [
        "eth_getBalance",
        "eth_getTransactionCount",
        "eth_getCode",
        "eth_feeHistory",
        "eth_getBlockByNumber",
        "eth_getBlockByHash",
        "eth_getTransactionReceipt",
        "eth_getTransactionByHash",
        "eth_getLogs",
        "eth_call",
        "eth_estimateGas",
        "eth_sendRawTransaction",
    ];
    let top = "0xffffffffffffffff";
    let word = format!("0x{}", "ff".repeat(32));
    let deep = (0..100).fold(json!(1), |inner, _| json!([inner]));
    let everything = json!({ "to": dev(1), "value": word, "gas": top, "data": "0xff", "accessList": [{ "address": dev(1), "storageKeys": [] }] });
    let values = [
        json!([]),
        json!([null]),
        json!([top, top, top]),
        json!([word, word]),
        json!(["0x", "0x"]),
        json!([dev(1), top]),
        json!([deep]),
        json!([{}]),
        json!([everything, top]),
        json!([everything]),
        json!([{ "fromBlock": top, "toBlock": "0x0" }]),
        json!([{ "fromBlock": "0x0", "toBlock": top, "topics": [[], null, [], null, []] }]),
        json!([top, "latest", [1e308, -1.0]]),
        json!({ "a": 1 }),
    ];
    for method in methods {
        for value in &values {
            let answer = ask(&chain, method, value.clone()).await;
            let answered = answer["error"]["message"].is_string() || answer.get("result").is_some();
            assert!(answered, "{method} {value}: {answer}");
        }
    }
    assert_eq!(
        ask(&chain, "eth_chainId", json!([])).await["result"],
        "0x7a69"
    );
}

#[tokio::test]
async fn batches_are_answered_in_order_and_too_long_ones_refused() {
    let chain = start(None).await;
    let one =
        |id: u64| json!({ "jsonrpc": "2.0", "id": id, "method": "eth_chainId", "params": [] });
    let answers = call(
        &chain,
        &json!([one(7), one(8), { "jsonrpc": "2.0", "method": "eth_chainId" }, 5]),
    )
    .await;
    let ids: Vec<&Value> = answers
        .as_array()
        .unwrap()
        .iter()
        .map(|answer| &answer["id"])
        .collect();
    assert_eq!(ids, [&json!(7), &json!(8), &Value::Null]);
    assert_eq!(answers[0]["result"], "0x7a69");
    let long: Vec<Value> = (0..101).map(one).collect();
    assert_eq!(call(&chain, &json!(long)).await["error"]["code"], -32_600);
    assert_eq!(call(&chain, &json!([])).await["error"]["code"], -32_600);
    assert_eq!(
        post(chain.address(), "Host: localhost\r\n", "{nonsense")
            .await
            .1["error"]["code"],
        -32_700
    );
}

#[tokio::test]
async fn web_pages_other_host_names_and_endless_bodies_are_turned_away() {
    let chain = start(None).await;
    let body = json!({ "jsonrpc": "2.0", "id": 1, "method": "eth_chainId" }).to_string();
    let status = async |headers: &str, body: &str| post(chain.address(), headers, body).await.0;
    assert_eq!(status("Host: localhost:8545\r\n", &body).await, 200);
    assert_eq!(status("Host: [::1]:8545\r\n", &body).await, 200);
    assert_eq!(status("Host: evil.example\r\n", &body).await, 403);
    assert_eq!(
        status("Host: localhost\r\nOrigin: http://evil.example\r\n", &body).await,
        403
    );
    assert_eq!(
        status("Host: localhost\r\n", &" ".repeat((1 << 20) + 1)).await,
        413
    );
}

#[tokio::test]
async fn a_restart_brings_the_same_chain_back_hash_by_hash() {
    let folder = tempfile::tempdir().unwrap();
    let journal = folder.path().join("chain.journal");
    let chain = start(Some(&journal)).await;
    let first = client(&chain);
    let made = *first
        .send_raw_transaction(&signed(0, 0, TxKind::Create, 0, &TEACHER))
        .await
        .unwrap()
        .tx_hash();
    let _ = first
        .send_raw_transaction(&signed(1, 0, Address::repeat_byte(9).into(), ETHER, &[]))
        .await
        .unwrap();
    let before = first.get_block_number().await.unwrap();
    let mut hashes = Vec::new();
    for number in 0..=before {
        hashes.push(
            first
                .get_block_by_number(number.into())
                .await
                .unwrap()
                .unwrap()
                .header
                .hash,
        );
    }
    let receipt = first.get_transaction_receipt(made).await.unwrap();
    chain.stop().await;

    let chain = start(Some(&journal)).await;
    let second = client(&chain);
    for (number, hash) in (0..).zip(&hashes) {
        assert_eq!(
            second
                .get_block_by_number(number.into())
                .await
                .unwrap()
                .unwrap()
                .header
                .hash,
            *hash,
            "block {number}"
        );
    }
    assert_eq!(second.get_transaction_receipt(made).await.unwrap(), receipt);
    assert_eq!(second.get_transaction_count(dev(1)).await.unwrap(), 1);
    let settings = Settings {
        bind: ([127, 0, 0, 1], 0).into(),
        journal: Some(journal),
        chain_id: DEV_CHAIN_ID,
    };
    assert!(matches!(
        serve(settings.clone()).await,
        Err(ServeError::Journal(JournalError::InUse { .. }))
    ));
    chain.stop().await;
    let other = Settings {
        chain_id: 1,
        ..settings
    };
    assert!(matches!(
        serve(other).await,
        Err(ServeError::Journal(JournalError::OtherChain { .. }))
    ));
}

#[tokio::test]
async fn a_taken_port_and_an_open_address_are_clear_errors() {
    let chain = start(None).await;
    let taken = Settings {
        bind: chain.address(),
        journal: None,
        chain_id: DEV_CHAIN_ID,
    };
    let error = serve(taken.clone()).await.err().unwrap().to_string();
    assert!(
        error.contains(&format!("port {}", chain.address().port())),
        "{error}"
    );
    let open = Settings {
        bind: ([0, 0, 0, 0], 0).into(),
        ..taken.clone()
    };
    assert!(matches!(
        serve(open).await,
        Err(ServeError::NotLoopback { .. })
    ));
    chain.stop().await;
    assert!(serve(taken).await.is_ok(), "the port is free after stop");
}

#[tokio::test]
async fn state_behind_the_undo_list_is_refused_and_never_guessed() {
    let chain = start(None).await;
    let client = ProviderBuilder::new()
        .disable_recommended_fillers()
        .connect_http(format!("http://{}", chain.address()).parse().unwrap());
    for nonce in 0..260 {
        let _ = client
            .send_raw_transaction(&signed(2, nonce, Address::repeat_byte(9).into(), 1, &[]))
            .await
            .unwrap();
    }
    let head = client.get_block_number().await.unwrap();
    let answer = ask(
        &chain,
        "eth_getBalance",
        json!([Address::repeat_byte(9), "0x1"]),
    )
    .await;
    assert!(
        answer["error"]["message"]
            .as_str()
            .unwrap()
            .contains("is gone"),
        "{answer}"
    );
    // every transaction sent 1 wei, and empty blocks change nothing
    let mut sum = U256::from(260);
    for number in (head - 200..=head).rev() {
        let block = client
            .get_block_by_number(number.into())
            .await
            .unwrap()
            .unwrap();
        let found = client
            .get_balance(Address::repeat_byte(9))
            .block_id(BlockId::number(number))
            .await
            .unwrap();
        assert_eq!(found, sum, "block {number} of {head}");
        sum -= U256::from(block.transactions.len());
    }
}
