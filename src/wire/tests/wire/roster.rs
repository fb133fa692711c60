//! The view of the contract: who counts, how many it takes.

use crate::support::{ALICE, BOB, key};
use synod_wire::{Address, Anchor, BlockRef, ChainView, Hash, Incarnation, Member, Term, Token};

fn member(token: Token) -> Member {
    Member {
        token,
        incarnation: Incarnation(1),
        active: true,
        seated: true,
        owner: Address::ZERO,
        wallet: Address::ZERO,
        instance_id: Address::ZERO,
        session: key(token).public(),
        expires_at: 10,
        registered_block: 1,
        evidence_hash: Hash::ZERO,
        name: String::new(),
        endpoint: String::new(),
    }
}

fn view() -> ChainView {
    ChainView {
        block: BlockRef::default(),
        term: Term(0),
        leader: None,
        leader_incarnation: Incarnation(0),
        elected_block: 0,
        seated_count: 2,
        founders: 2,
        anchor: Anchor::default(),
        members: vec![member(ALICE), member(BOB)],
    }
}

#[test]
fn a_quorum_is_more_than_half() {
    let quorum = |seated_count| {
        ChainView {
            seated_count,
            ..view()
        }
        .quorum()
    };
    assert_eq!([1, 2, 3, 4, 5].map(quorum), [1, 2, 2, 3, 3]);
}

#[test]
fn the_roster_hash_sees_who_speaks_and_not_where_or_when() {
    let golden = view().roster_hash();
    assert_eq!(
        golden.to_string(),
        "0x9cfe211869fa5950bf450f34c859d334b5276c734e669d81ea6bd8579518ad8b"
    );
    let same: [fn(&mut ChainView); 3] = [
        |v| v.block.number = 99,
        |v| v.members[0].endpoint = "127.0.0.1:1".to_owned(),
        |v| {
            let mut gone = member(Token(3));
            gone.active = false;
            v.members.push(gone);
        },
    ];
    let other: [fn(&mut ChainView); 4] = [
        |v| v.members[0].incarnation.0 += 1,
        |v| v.members[0].seated = false,
        |v| v.members[0].session = key(Token(3)).public(),
        |v| v.members[1].active = false,
    ];
    let hash = |change: fn(&mut ChainView)| {
        let mut changed = view();
        change(&mut changed);
        changed.roster_hash()
    };
    assert!(same.into_iter().all(|change| hash(change) == golden));
    assert!(other.into_iter().all(|change| hash(change) != golden));
}

#[test]
fn an_inactive_member_is_none() {
    let mut changed = view();
    changed.members[0].active = false;
    assert_eq!(changed.member(ALICE), None);
    assert_eq!(changed.member(BOB).map(|m| m.token), Some(BOB));
}
