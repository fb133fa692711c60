//! The life of a cluster in its contract, the same on every chain that we have.
#![allow(clippy::unwrap_used)] // a test that cannot go on stops where it stands

mod common;

use common::{
    FIRST_GAS, Kms, Node, adopted, certificate, deploy, dev, devchain, registered, session,
    settings, url,
};
use std::io::BufRead as _;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use synod_chain::{Chain, ChainError, ElectionRecord, operator};
use synod_wire::{Address, Incarnation, Term, Token};

fn refused<T: std::fmt::Debug>(result: Result<T, ChainError>) -> String {
    match result {
        Err(ChainError::Reverted { reason, .. }) => reason,
        other => panic!("expected the contract to refuse, found {other:?}"),
    }
}

/// Mint, adopt, register, elect, reboot, sell, leave.
async fn life_cycle(rpc: &str) {
    let kms = Kms::new();
    let chain = deploy(rpc, &kms).await;
    assert_eq!(chain.kms_root().await.unwrap(), kms.root());
    assert!(chain.allowed(kms.app_id).await.unwrap());
    assert!(!chain.allowed(Address([1; 20])).await.unwrap());
    assert_eq!(chain.max_lifetime_s().await.unwrap(), 86_400);
    let mut nodes = adopted(&chain).await;
    adopted_tokens_are_ready(&chain, &nodes).await;
    three_register(&chain, &kms, &nodes).await;
    one_is_elected(&chain, &nodes).await;
    a_reboot_of_the_leader_vacates_the_office(&chain, &kms, &mut nodes).await;
    a_sold_token_loses_its_vote(&chain, &nodes).await;
}

async fn adopted_tokens_are_ready(chain: &Chain, nodes: &[Node]) {
    for (index, node) in (1..).zip(nodes) {
        let state = chain
            .token(node.token, node.wallet.address())
            .await
            .unwrap();
        assert_eq!(state.owner, Some(dev(index).address()));
        assert_eq!(
            state.adoption,
            Some((node.wallet.address(), node.instance_id))
        );
        assert_eq!(
            (state.adoption_number, state.incarnation),
            (0, Incarnation(0))
        );
        assert_eq!(state.balance_wei, FIRST_GAS);
        assert!(state.balance_wei > chain.registration_cost_wei().await.unwrap());
    }
    let absent = chain.token(Token(9), Address([9; 20])).await.unwrap();
    assert_eq!((absent.owner, absent.balance_wei), (None, 0));
}

async fn three_register(chain: &Chain, kms: &Kms, nodes: &[Node]) {
    let empty = chain.view().await.unwrap();
    assert!(empty.members.is_empty() && empty.leader.is_none());
    let expires_at = chain.head().await.unwrap().time + 3_600;
    for node in nodes {
        let registered = chain
            .register(&node.wallet, &kms.registration(chain, node, expires_at))
            .await
            .unwrap();
        assert_eq!(registered.incarnation, Incarnation(1));
        let view = chain.view().await.unwrap();
        let member = view.member(node.token).unwrap();
        assert!(view.block.number >= registered.block);
        assert_eq!(member.registered_block, registered.block);
        assert_eq!(member.session, node.session.public());
        assert_eq!(member.wallet, node.wallet.address());
        assert_eq!(member.instance_id, node.instance_id);
        assert_eq!(member.expires_at, expires_at);
        assert_eq!(member.name, format!("node{}", node.token));
        assert_eq!(
            member.endpoint,
            format!("127.0.0.1:{}", 7000 + node.token.0)
        );
        assert!(member.active && member.seated);
    }
    let view = chain.view().await.unwrap();
    assert_eq!((view.seated_count, view.founders, view.quorum()), (3, 3, 2));
    assert_eq!(
        (view.term, view.leader, view.elected_block),
        (Term(0), None, 0)
    );
}

async fn one_is_elected(chain: &Chain, nodes: &[Node]) {
    let [one, two, three] = nodes else {
        panic!("three nodes")
    };
    let few = certificate(chain, 1, three.token, &[three]).await;
    assert!(
        refused(chain.elect(&three.wallet, &few).await)
            .starts_with("BallotsTooFew { expected: 2, found: 1 }")
    );
    let mut forged = certificate(chain, 1, three.token, &[one, two]).await;
    forged.signatures[1].signature = forged.signatures[0].signature;
    assert!(refused(chain.elect(&three.wallet, &forged).await).starts_with("BallotSignerWrong"));

    let enough = certificate(chain, 1, three.token, &[one, three]).await;
    let sent = chain.elect(&three.wallet, &enough).await.unwrap();
    let view = chain.view().await.unwrap();
    assert_eq!(
        (view.term, view.leader, view.elected_block),
        (Term(1), Some(three.token), sent.block)
    );
    assert_eq!(view.leader_incarnation, Incarnation(1));
    assert_eq!(view.anchor, enough.ballot.anchor);
    let record = chain
        .election(Term(1), view.elected_block)
        .await
        .unwrap()
        .unwrap();
    let ElectionRecord {
        tx,
        block,
        leader,
        ref voters,
        ..
    } = record;
    assert_eq!((tx, block, leader), (sent.tx, sent.block, three.token));
    assert_eq!(*voters, [one.token, three.token]);
    assert_eq!(
        chain.election(Term(2), view.elected_block).await.unwrap(),
        None
    );
    assert_eq!(
        chain
            .election(Term(1), view.elected_block - 1)
            .await
            .unwrap(),
        None
    );
    assert!(
        refused(chain.elect(&two.wallet, &enough).await)
            .starts_with("TermWrong { expected: 2, found: 1 }")
    );
}

async fn a_reboot_of_the_leader_vacates_the_office(chain: &Chain, kms: &Kms, nodes: &mut [Node]) {
    let [one, two, three] = nodes else {
        panic!("three nodes")
    };
    let expires_at = chain.head().await.unwrap().time + 3_600;
    let again = chain
        .register(&three.wallet, &kms.registration(chain, three, expires_at))
        .await;
    assert!(refused(again).starts_with("SessionUsedBefore"));
    three.session = session(0x30);
    let rebooted = chain
        .register(&three.wallet, &kms.registration(chain, three, expires_at))
        .await
        .unwrap();
    assert_eq!(rebooted.incarnation, Incarnation(2));
    let view = chain.view().await.unwrap();
    assert_eq!((view.term, view.leader), (Term(2), None));
    assert_eq!(
        view.member(three.token).unwrap().session,
        three.session.public()
    );
    let next = certificate(chain, 3, two.token, &[one, two, three]).await;
    chain.elect(&one.wallet, &next).await.unwrap();
    assert_eq!(chain.view().await.unwrap().leader, Some(two.token));
}

async fn a_sold_token_loses_its_vote(chain: &Chain, nodes: &[Node]) {
    let [one, two, three] = nodes else {
        panic!("three nodes")
    };
    operator::transfer(chain, &dev(1), one.token, dev(4).address())
        .await
        .unwrap();
    let view = chain.view().await.unwrap();
    assert!(view.member(one.token).is_none());
    assert_eq!((view.seated_count, view.leader), (2, Some(two.token)));
    assert_eq!(
        chain
            .token(one.token, one.wallet.address())
            .await
            .unwrap()
            .adoption_number,
        1
    );
    chain.deactivate(&two.wallet, two.token).await.unwrap();
    let view = chain.view().await.unwrap();
    assert_eq!(
        (view.term, view.leader, view.seated_count),
        (Term(4), None, 1)
    );
    let [member] = view.members.as_slice() else {
        panic!("one member is left")
    };
    assert_eq!(member.token, three.token);
}

#[tokio::test]
async fn a_cluster_lives_on_the_embedded_chain() {
    let running = devchain(None).await;
    life_cycle(&url(&running)).await;
}

#[tokio::test]
async fn an_owner_adopts_by_signature_without_a_transaction() {
    let running = devchain(None).await;
    let kms = Kms::new();
    let chain = deploy(&url(&running), &kms).await;
    let token = operator::mint(&chain, &dev(0), dev(1).address(), "node1")
        .await
        .unwrap();
    let mut node = Node::new(token.0);
    node.wallet = dev(5); // has gas, but the wrong key for this node's chain
    let expires_at = chain.head().await.unwrap().time + 3_600;
    let mut registration = kms.registration(&chain, &node, expires_at);
    assert!(
        refused(chain.register(&node.wallet, &registration).await)
            .starts_with("SenderNotDerivedKey")
    );
    let node = Node::new(token.0);
    // gas comes from an adoption of another instance, which must not count
    operator::adopt(
        &chain,
        &dev(1),
        token,
        node.wallet.address(),
        Address([0x77; 20]),
        FIRST_GAS,
    )
    .await
    .unwrap();
    assert!(refused(chain.register(&node.wallet, &registration).await).starts_with("NotAdopted"));
    let domain = chain.domain();
    registration.owner_signature = operator::sign_adoption(
        &dev(2),
        &domain,
        token,
        node.wallet.address(),
        node.instance_id,
        0,
    );
    assert!(refused(chain.register(&node.wallet, &registration).await).starts_with("NotAdopted"));
    registration.owner_signature = operator::sign_adoption(
        &dev(1),
        &domain,
        token,
        node.wallet.address(),
        node.instance_id,
        0,
    );
    assert_eq!(
        chain
            .register(&node.wallet, &registration)
            .await
            .unwrap()
            .incarnation,
        Incarnation(1)
    );
}

#[tokio::test]
async fn a_restarted_chain_shows_the_same_view_under_the_same_hashes() {
    let folder = tempfile::tempdir().unwrap();
    let journal = folder.path().join("journal");
    let running = devchain(Some(&journal)).await;
    let kms = Kms::new();
    let chain = deploy(&url(&running), &kms).await;
    let nodes = registered(&chain, &kms).await;
    let certificate = certificate(&chain, 1, Token(3), &[&nodes[0], &nodes[2]]).await;
    let sent = chain.elect(&nodes[2].wallet, &certificate).await.unwrap();
    let before = chain.view().await.unwrap();
    let record = chain.election(Term(1), sent.block).await.unwrap();
    running.stop().await;
    assert!(matches!(
        chain.view().await,
        Err(ChainError::Unavailable { .. })
    ));

    let running = devchain(Some(&journal)).await;
    let chain = Chain::connect(&settings(&url(&running), chain.domain().contract))
        .await
        .unwrap();
    let after = chain.view().await.unwrap();
    assert!(after.block.number >= before.block.number);
    assert_eq!(after.members, before.members);
    assert_eq!(
        (after.term, after.leader, after.elected_block),
        (before.term, before.leader, before.elected_block)
    );
    assert_eq!(chain.election(Term(1), sent.block).await.unwrap(), record);
    assert_eq!(record.unwrap().tx, sent.tx);
}

#[tokio::test]
async fn one_wallet_sends_many_transactions_at_once_and_none_is_lost() {
    let running = devchain(None).await;
    let chain = deploy(&url(&running), &Kms::new()).await;
    let owner = dev(0);
    let holder = dev(1).address();
    let (a, b, c, d) = tokio::join!(
        operator::mint(&chain, &owner, holder, "a"),
        operator::mint(&chain, &owner, holder, "b"),
        operator::mint(&chain, &owner, holder, "c"),
        operator::mint(&chain, &owner, holder, "d"),
    );
    let mut tokens = [a, b, c, d].map(|token| token.unwrap().0);
    tokens.sort_unstable();
    assert_eq!(tokens, [1, 2, 3, 4]);
}

#[tokio::test]
async fn the_dearest_registration_costs_less_than_the_bound() {
    let running = devchain(None).await;
    let kms = Kms::new();
    let chain = deploy(&url(&running), &kms).await;
    let node = &adopted(&chain).await[0];
    let expires_at = chain.head().await.unwrap().time + 3_600;
    let mut registration = kms.registration(&chain, node, expires_at);
    registration.endpoint = "e".repeat(256);
    let bound = chain.registration_cost_wei().await.unwrap();
    chain.register(&node.wallet, &registration).await.unwrap();
    let paid = FIRST_GAS - chain.balance_wei(node.wallet.address()).await.unwrap();
    // the wallet must hold limit x max fee: a quarter more gas at twice the base fee
    let needed = paid / 4 * 5 * 2;
    assert!(
        needed <= bound && needed * 2 > bound,
        "paid {paid}, needed {needed}, bound {bound}"
    );
}

// ---------------------------------------------------------------- the independent reference

struct Anvil {
    child: Child,
    url: String,
}

impl Drop for Anvil {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn anvil() -> Option<Anvil> {
    let installed = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../../contracts/node_modules/@foundry-rs/anvil-linux-amd64/bin/anvil");
    let binary = std::env::var_os("ANVIL").map_or(installed, PathBuf::from);
    if !binary.exists() {
        return None;
    }
    let mut child = Command::new(binary)
        .args(["--port", "0"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufReader::new(child.stdout.take().unwrap())
        .lines()
        .map_while(Result::ok);
    let listening = lines.find_map(|line| line.strip_prefix("Listening on ").map(str::to_owned));
    // It logs each call: somebody must read that, or it stops when the pipe is full.
    std::thread::spawn(move || lines.for_each(drop));
    let address = listening.expect("anvil prints where it listens");
    Some(Anvil {
        child,
        url: format!("http://{address}"),
    })
}

#[tokio::test]
async fn a_cluster_lives_on_anvil_too() {
    let Some(anvil) = anvil() else {
        writeln!(
            std::io::stderr(),
            "SKIPPED a_cluster_lives_on_anvil_too: anvil not installed"
        )
        .ok();
        assert_ne!(
            std::env::var("SYNOD_CI").as_deref(),
            Ok("1"),
            "CI must install anvil (npm ci in contracts/)"
        );
        return;
    };
    life_cycle(&anvil.url).await;
}

#[tokio::test]
async fn anvil_and_the_embedded_chain_take_the_same_gas() {
    let Some(anvil) = anvil() else {
        writeln!(
            std::io::stderr(),
            "SKIPPED anvil_and_the_embedded_chain_take_the_same_gas: anvil not installed"
        )
        .ok();
        assert_ne!(
            std::env::var("SYNOD_CI").as_deref(),
            Ok("1"),
            "CI must install anvil (npm ci in contracts/)"
        );
        return;
    };
    let running = devchain(None).await;
    let mut gas = Vec::new();
    for rpc in [url(&running), anvil.url.clone()] {
        let kms = Kms::new();
        let chain = deploy(&rpc, &kms).await;
        let nodes = registered(&chain, &kms).await;
        let elected = certificate(&chain, 1, Token(3), &[&nodes[0], &nodes[2]]).await;
        let sent = chain.elect(&nodes[2].wallet, &elected).await.unwrap();
        let left = chain
            .deactivate(&nodes[0].wallet, nodes[0].token)
            .await
            .unwrap();
        gas.push((sent.gas_used, left.gas_used));
    }
    // Calldata of signatures differs in zero bytes (deadlines differ): 12 gas each, seldom more than a few.
    let [(elect_here, leave_here), (elect_there, leave_there)] = gas[..] else {
        panic!("two chains")
    };
    assert_eq!(leave_here, leave_there);
    assert!(
        elect_here.abs_diff(elect_there) <= 12 * 20,
        "elect: {elect_here} here, {elect_there} on anvil"
    );
    println!("elect {elect_here} / {elect_there} gas, deactivate {leave_here} / {leave_there} gas");
}
