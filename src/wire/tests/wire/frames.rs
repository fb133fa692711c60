//! The frame: each refusal by its name, the order of checks, the replay window at its edges.

use crate::support::{
    ALICE, BOB, Pair, cluster, key, largest_clock, one_of_each, signed_anew, trade_confirm,
    trade_request,
};
use sha2::{Digest, Sha256};
use synod_wire::clock::SEQUENCE_MAX;
use synod_wire::message::{Heartbeat, Join, JoinResponse, MEMBERS_MAX, Role};
use synod_wire::seal::{FRAME_LEN_MAX, Refused, Sealer, WINDOW_LEN};
use synod_wire::{Address, ClusterId, Hash, Incarnation, LogPosition, Message, Term, Token};

const SEQUENCE_AT: usize = 64;

fn with_sequence(pair: &mut Pair, message: &Message, sequence: u64) -> Vec<u8> {
    let frame = pair.say(message);
    signed_anew(frame, |f| {
        f[SEQUENCE_AT..SEQUENCE_AT + 8].copy_from_slice(&sequence.to_be_bytes())
    })
}

#[test]
fn a_frame_names_its_author_and_says_what_was_said() {
    let mut pair = Pair::new();
    for message in one_of_each() {
        let frame = pair.say(&message);
        let opened = pair.open(&frame).unwrap();
        assert_eq!(
            (opened.from(), opened.incarnation(), opened.value()),
            (ALICE, Incarnation(1), &message)
        );
    }
}

/// SHA-256 of the first frame that Alice seals, one line per kind. LEAVE stands there whole. All were computed
/// apart from this code too, from the layouts in seal.rs and codec.rs and RFC 6979.
#[test]
fn the_bytes_of_one_frame_of_each_kind_are_the_format() {
    let lines: Vec<String> = one_of_each()
        .iter()
        .map(|message| {
            let frame = Pair::new().say(message);
            format!(
                "{} {} {}",
                message.kind().name(),
                frame.len(),
                hex::encode(Sha256::digest(&frame))
            )
        })
        .collect();
    assert_eq!(
        lines.join("\n"),
        include_str!("golden_frames.txt").trim_end()
    );
    assert_eq!(
        hex::encode(Pair::new().say(&Message::Leave)),
        include_str!("golden_leave.hex").trim_end()
    );
}

#[test]
fn whoever_changes_one_byte_of_any_frame_is_refused() {
    for message in one_of_each() {
        let frame = Pair::new().say(&message);
        for at in 0..frame.len() {
            for mask in [1 << (at % 8), 0xff] {
                let mut changed = frame.clone();
                changed[at] ^= mask;
                let verdict = Pair::new().open(&changed);
                assert!(
                    verdict.is_err(),
                    "{:?}, byte {at}, mask {mask:#x}",
                    message.kind()
                );
            }
        }
    }
}

#[test]
fn no_other_value_of_any_byte_of_a_frame_is_accepted() {
    let frame = Pair::new().say(&Message::Leave);
    for at in 0..frame.len() {
        for step in 1..=255_u8 {
            let mut changed = frame.clone();
            changed[at] = changed[at].wrapping_add(step);
            assert!(
                Pair::new().open(&changed).is_err(),
                "byte {at}, value {}",
                changed[at]
            );
        }
    }
}

#[test]
fn each_header_byte_that_we_do_not_speak_is_refused_by_its_name() {
    for (at, name) in [
        (4, "version"),
        (5, "seal"),
        (6, "kind"),
        (7, "reserved byte"),
    ] {
        let mut frame = Pair::new().say(&Message::Leave);
        frame[at] = 0x63;
        match Pair::new().open(&frame) {
            Err(Refused::Unspoken {
                field, found: 0x63, ..
            }) => assert_eq!(field, name),
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[test]
fn noise_is_not_a_frame_and_lengths_are_bounded() {
    let mut pair = Pair::new();
    assert_eq!(pair.verdict(b""), "not a frame");
    assert_eq!(pair.verdict(b"SYN"), "not a frame");
    assert_eq!(
        pair.verdict(br#"{"type": "HEARTBEAT", "node_id": 2, "vector_clock": {"1": 4}}"#),
        "not a frame"
    );
    assert_eq!(pair.verdict(&[b'{'; FRAME_LEN_MAX + 1]), "length");
    assert_eq!(pair.verdict(b"SYND"), "length");

    let frame = pair.say(&Message::Leave);
    for len in 4..frame.len() {
        assert_eq!(pair.verdict(&frame[..len]), "length", "{len} bytes");
    }
    let longer = [frame.as_slice(), &[0]].concat();
    assert_eq!(pair.verdict(&longer), "length");
    let mut oversized = frame.clone();
    oversized.resize(FRAME_LEN_MAX + 1, 0);
    assert_eq!(pair.verdict(&oversized), "length");
    assert_eq!(
        pair.verdict(&frame),
        "ok",
        "and none of it moved the window"
    );
}

#[test]
fn strangers_other_clusters_and_older_sessions_are_refused_by_name() {
    let leave = Message::Leave;
    let mut pair = Pair::new();
    let foreign = ClusterId::of(1, Address([0x5f; 20]));
    let elsewhere = Sealer::new(foreign, ALICE, Incarnation(1)).seal(&key(ALICE), None, &leave);
    assert_eq!(
        pair.open(&elsewhere),
        Err(Refused::OtherCluster {
            expected: cluster().0,
            found: foreign.0
        })
    );
    let stranger =
        Sealer::new(cluster(), Token(9), Incarnation(1)).seal(&key(Token(9)), None, &leave);
    assert_eq!(
        pair.open(&stranger),
        Err(Refused::UnknownSender { token: Token(9) })
    );
    for found in [0, 2].map(Incarnation) {
        let fenced = Sealer::new(cluster(), ALICE, found).seal(&key(ALICE), None, &leave);
        let expected = Incarnation(1);
        assert_eq!(
            pair.open(&fenced),
            Err(Refused::OtherIncarnation {
                token: ALICE,
                expected,
                found
            })
        );
    }
    let impostor = Sealer::new(cluster(), ALICE, Incarnation(1)).seal(&key(BOB), None, &leave);
    assert_eq!(
        pair.open(&impostor),
        Err(Refused::Signature { token: ALICE })
    );
}

#[test]
fn a_frame_for_another_member_or_from_myself_is_not_mine() {
    let mut pair = Pair::new();
    let to = |pair: &mut Pair, to| pair.sealer.seal(&key(ALICE), Some(to), &Message::Leave);
    let for_three = to(&mut pair, Token(3));
    assert_eq!(
        pair.open(&for_three),
        Err(Refused::NotForMe {
            token: ALICE,
            to: Token(3)
        })
    );
    let for_bob = to(&mut pair, BOB);
    assert_eq!(pair.verdict(&for_bob), "ok");
    let echo = Sealer::new(cluster(), BOB, Incarnation(1)).seal(&key(BOB), None, &Message::Leave);
    assert_eq!(
        pair.verdict(&echo),
        "not for me",
        "multicast comes back to its sender"
    );
}

#[test]
fn signed_nonsense_names_its_author_and_does_not_move_the_window() {
    let mut pair = Pair::new();
    let heartbeat = pair.say(&one_of_each()[0]);
    let nonsense = signed_anew(heartbeat.clone(), |f| f[74] = 9);
    match pair.open(&nonsense) {
        Err(Refused::Body { token, .. }) => assert_eq!(token, ALICE),
        other => panic!("{other:?}"),
    }
    assert_eq!(pair.verdict(&heartbeat), "ok");
}

#[test]
fn a_frame_is_heard_once() {
    let mut pair = Pair::new();
    let frame = pair.say(&Message::Leave);
    assert_eq!(pair.verdict(&frame), "ok");
    assert_eq!(
        pair.open(&frame),
        Err(Refused::Replayed {
            token: ALICE,
            sequence: 0
        })
    );
}

#[test]
fn late_frames_are_heard_within_the_window_and_not_behind_it() {
    let mut pair = Pair::new();
    let frames: Vec<_> = (0..=WINDOW_LEN)
        .map(|_| pair.say(&Message::Leave))
        .collect();
    assert_eq!(pair.verdict(&frames[128]), "ok");
    assert_eq!(pair.verdict(&frames[1]), "ok", "127 back");
    assert_eq!(
        pair.verdict(&frames[0]),
        "replayed",
        "128 back: nobody can know"
    );
    assert_eq!(pair.verdict(&frames[1]), "replayed");
    assert_eq!(pair.verdict(&frames[77]), "ok");
}

#[test]
fn a_jump_forgets_no_more_than_it_must() {
    for (jump, oldest) in [(127, "replayed"), (128, "replayed"), (1 << 40, "replayed")] {
        let mut pair = Pair::new();
        let first = pair.say(&Message::Leave);
        assert_eq!(pair.verdict(&first), "ok");
        let far = with_sequence(&mut pair, &Message::Leave, jump);
        assert_eq!(pair.verdict(&far), "ok");
        assert_eq!(pair.verdict(&first), oldest, "jump by {jump}");
        let before = with_sequence(&mut pair, &Message::Leave, jump - 1);
        assert_eq!(pair.verdict(&before), "ok");
        let next = with_sequence(&mut pair, &Message::Leave, jump + 1);
        assert_eq!(pair.verdict(&next), "ok");
    }
}

#[test]
fn the_last_sequence_of_all_is_a_sequence_like_any_other() {
    let mut pair = Pair::new();
    let last = with_sequence(&mut pair, &Message::Leave, u64::MAX);
    assert_eq!(pair.verdict(&last), "ok");
    assert_eq!(pair.verdict(&last), "replayed");
    let before = with_sequence(&mut pair, &Message::Leave, u64::MAX - 127);
    assert_eq!(pair.verdict(&before), "ok");
    let behind = with_sequence(&mut pair, &Message::Leave, u64::MAX - 128);
    assert_eq!(pair.verdict(&behind), "replayed");
}

#[test]
fn a_forged_frame_moves_no_window() {
    let mut pair = Pair::new();
    let mut forged = with_sequence(&mut pair, &Message::Leave, u64::MAX);
    let end = forged.len() - 1;
    forged[end] ^= 1;
    assert_eq!(pair.verdict(&forged), "signature");
    let honest = pair.say(&Message::Leave);
    assert_eq!(pair.verdict(&honest), "ok");
}

#[test]
fn a_flood_of_heartbeats_pushes_no_ballot_out_of_its_window() {
    let mut pair = Pair::new();
    let all = one_of_each();
    let early = pair.say(&all[8]);
    for _ in 0..1_000 {
        let beat = pair.say(&all[0]);
        assert_eq!(pair.verdict(&beat), "ok");
    }
    assert_eq!(pair.verdict(&early), "ok");
}

#[test]
fn a_new_incarnation_begins_at_zero_and_the_old_one_stays_outside() {
    let mut pair = Pair::new();
    let far = with_sequence(&mut pair, &Message::Leave, 1 << 50);
    assert_eq!(pair.verdict(&far), "ok");

    let reborn = key(Token(4));
    pair.roster
        .0
        .insert(ALICE, (Incarnation(2), reborn.public()));
    let mut sealer = Sealer::new(cluster(), ALICE, Incarnation(2));
    let first = sealer.seal(&reborn, None, &Message::Leave);
    assert_eq!(pair.verdict(&first), "ok");
    assert_eq!(pair.verdict(&first), "replayed");
    assert_eq!(pair.verdict(&far), "other incarnation");
}

#[test]
fn the_largest_messages_fit_into_a_frame() {
    let http = "x".repeat(255);
    let position = LogPosition::default();
    let term = Term(u64::MAX);
    let members: Vec<_> = (0..MEMBERS_MAX as u64).map(Token).collect();
    let clock = largest_clock(SEQUENCE_MAX);
    let largest = [
        Message::Heartbeat(Heartbeat {
            role: Role::Leader,
            muted: true,
            term,
            position,
            committed: 0,
            http: http.clone(),
            unheard: members.clone(),
        }),
        Message::Join(Join {
            nonce: [0; 16],
            http,
        }),
        Message::JoinResponse(JoinResponse {
            nonce: [0; 16],
            term,
            position,
            members,
            clock: clock.clone(),
        }),
        trade_request(clock.clone()),
        trade_confirm(clock),
    ];
    for message in largest.into_iter().chain(one_of_each()) {
        let mut pair = Pair::new();
        let frame = pair.say(&message);
        assert!(
            frame.len() < FRAME_LEN_MAX,
            "{:?}: {} bytes",
            message.kind(),
            frame.len()
        );
        assert_eq!(pair.open(&frame).unwrap().into_value(), message);
    }
}

#[test]
fn refusals_say_who_what_and_what_was_expected() {
    let expected = Hash([1; 32]);
    let refused = Refused::OtherCluster {
        expected,
        found: Hash([2; 32]),
    }
    .to_string();
    assert!(refused.contains(&expected.to_string()), "{refused}");
    assert_eq!(
        Refused::Length { len: 3 }.to_string(),
        "3 bytes; a frame has 138 to 1200"
    );
}
