//! A candidate is killed after its ballots were given and before its host sends them; it comes back with an older disk
//! and a new session, and only then the certificate is mined. The contract names it, but it must not lead: its engine
//! would vote for itself by that disk, and what others acknowledged would be gone.

use std::sync::Arc;
use synod_cluster::{Cluster, Effect, EngineFacts, Event, Identity, Settings};
use synod_wire::ballot::Domain;
use synod_wire::{
    Address, Anchor, BlockRef, ChainView, Hash, Incarnation, LogPosition, Member, SessionKey, Term,
    Token,
};

const ME: Token = Token(3);

fn member(token: u64, incarnation: u64, session: &SessionKey) -> Member {
    Member {
        token: Token(token),
        incarnation: Incarnation(incarnation),
        active: true,
        seated: true,
        owner: Address::ZERO,
        wallet: Address::ZERO,
        instance_id: Address::ZERO,
        session: session.public(),
        expires_at: u64::MAX,
        registered_block: 1,
        evidence_hash: Hash::ZERO,
        name: String::new(),
        endpoint: String::new(),
    }
}

/// The contract elected us, in the incarnation that runs now.
fn elected(term: u64, session: &SessionKey) -> ChainView {
    ChainView {
        block: BlockRef {
            number: 10 + term,
            hash: Hash::ZERO,
            time: 1_000,
        },
        term: Term(term),
        leader: Some(ME),
        leader_incarnation: Incarnation(2),
        elected_block: 9,
        seated_count: 3,
        founders: 3,
        anchor: Anchor::default(),
        members: vec![
            member(1, 1, session),
            member(2, 1, session),
            member(3, 2, session),
        ],
    }
}

/// What a node asks of its engine within a second of being named.
fn asked_of_the_engine(restarted: bool) -> bool {
    let session = Arc::new(SessionKey::from_bytes(&[7; 32]).expect("a key"));
    let me = Identity {
        token: ME,
        incarnation: Incarnation(2),
        registered_term: Term(1),
        restarted,
        session: Arc::clone(&session),
        domain: Domain {
            chain_id: 31_337,
            contract: Address::ZERO,
        },
        nonce: [0; 16],
        http: String::new(),
    };
    let mut cluster = Cluster::new(Settings::lan(), me, 0);
    cluster.handle(0, Event::Chain(elected(2, &session)));
    let facts = EngineFacts {
        position: LogPosition {
            raft_term: 1,
            index: 5,
        },
        born: true,
        ..EngineFacts::default()
    };
    let mut asked = false;
    for now in (0..1_000).step_by(20) {
        cluster.handle(now, Event::Tick(facts.clone()));
        while let Some(effect) = cluster.poll() {
            asked |= matches!(
                effect,
                Effect::Seek | Effect::Birth(_) | Effect::StartTerm { .. }
            );
        }
    }
    asked
}

#[test]
fn whoever_is_elected_while_muted_does_not_take_the_office() {
    assert!(asked_of_the_engine(false), "an unmuted winner does");
    assert!(!asked_of_the_engine(true));
}
