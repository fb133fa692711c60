//! What others ask of our engine: first the gate, then the sanity checks, then the comparison of contents, then the
//! engine. Every way out is an answer; nothing that arrives can stop this node except proof of divergence.

use crate::engine::{Inner, wall_ms};
use crate::gate::{Before, Peer, Refusal, lock};
use crate::raft::{RaftEntry, Types, outside};
use crate::request::{Answer, Ask, Request, decode, encode, voter_sets};
use openraft::raft::AppendEntriesRequest;
use std::time::Instant;
use synod_wire::{Hash, Token};

/// Upon bytes from a peer, answer bytes.
pub async fn answer(engine: &Inner, from: Peer, bytes: &[u8]) -> Vec<u8> {
    let answer = match admit(engine, from, bytes).await {
        Ok(answer) => answer,
        Err(refusal) => {
            engine.out.gate.count(&refusal);
            tracing::debug!(from = %from.token, %refusal, "refused a request of the engine");
            Answer::refused(&refusal)
        }
    };
    encode(&answer)
}

async fn admit(engine: &Inner, from: Peer, bytes: &[u8]) -> Result<Answer, Refusal> {
    let request: Request = decode(bytes)?;
    let own_log_id = lock(&engine.out.state).log_id;
    let held = |entry: &RaftEntry| {
        engine
            .out
            .store
            .holds(entry)
            .is_ok_and(|found| found == Some((true, true)))
    };
    let before = before(engine, &request).await?;
    let head = request.head(held, before)?;
    engine.out.gate.check(wall_ms(), from, &head, own_log_id)?;
    request.check(from.token, engine.cluster)?;
    if let Some(why) = lock(&engine.out.fault).clone() {
        return Err(Refusal::Stopped(why));
    }
    let stopped = |why: String| Refusal::Stopped(why);
    match request.ask {
        Ask::PreVote(vote) => {
            let answer = engine
                .raft
                .pre_vote(vote)
                .await
                .map_err(|e| stopped(e.to_string()))?;
            Ok(Answer::Vote(answer))
        }
        Ask::Vote(vote) => {
            let answer = engine
                .raft
                .vote(vote)
                .await
                .map_err(|e| stopped(e.to_string()))?;
            Ok(Answer::Vote(answer))
        }
        Ask::Append(append) => {
            compare(engine, from.token, &append, request.prev_hash)?;
            *lock(&engine.last_append) = Some(Instant::now());
            let answer = engine
                .raft
                .append_entries(append)
                .await
                .map_err(|e| stopped(e.to_string()))?;
            Ok(Answer::Append(answer))
        }
        Ask::Snapshot => Err(Refusal::Unsupported(crate::gate::Kind::Snapshot)),
        Ask::Transfer => Err(Refusal::Unsupported(crate::gate::Kind::Transfer)),
    }
}

/// What our log says about voters and members, when the request is about to change the voters.
async fn before(engine: &Inner, request: &Request) -> Result<Before, Refusal> {
    let mut before = Before {
        known: [engine.token].into(),
        ..Before::default()
    };
    if !request.changes_voters() {
        return Ok(before);
    }
    before.listed = lock(&engine.out.state).members.as_ref().map(|record| {
        let tokens = record.members.iter().map(|m| m.token).collect();
        (record.block.number, tokens)
    });
    let effective = engine
        .raft
        .with_raft_state(|state| state.membership_state.effective().membership().clone())
        .await
        .map_err(|e| Refusal::Stopped(e.to_string()))?;
    let sets = voter_sets(&effective);
    if !sets.is_empty() {
        before.voted = Some(sets.into_iter().flatten().collect());
        let named = effective.nodes().map(|(id, _)| Token(*id));
        before.known.extend(named);
    }
    Ok(before)
}

/// The engine compares ids; we compare contents under equal ids, and let nothing cut what is committed.
fn compare(
    engine: &Inner,
    from: Token,
    append: &AppendEntriesRequest<Types>,
    prev_hash: Option<Hash>,
) -> Result<(), Refusal> {
    let disk = |e: std::io::Error| Refusal::Stopped(e.to_string());
    let store = &engine.out.store;
    let committed = store.committed();
    let cuts = |index: u64| committed.is_some_and(|c| index <= c.index);
    let below = |index: u64| Refusal::BelowCommit {
        index: index.saturating_add(1),
        committed: outside(committed),
        from,
    };
    if let Some(prev) = append.prev_log_id {
        let named = prev_hash.ok_or_else(|| {
            Refusal::Malformed("an append names no hash of the entry before".to_owned())
        })?;
        match store.at(prev.index).map_err(disk)? {
            Some((id, hash)) if id == prev && hash != named => {
                return Err(diverged(engine, prev.index, from));
            }
            Some((id, _)) if id != prev && cuts(prev.index) => return Err(below(prev.index)),
            _ => {}
        }
    }
    for entry in &append.entries {
        let index = entry.log_id.index;
        match store.holds(entry).map_err(disk)? {
            None => break, // the log ends here: nothing to compare behind it
            Some((true, false)) => return Err(diverged(engine, index, from)),
            Some((false, _)) if cuts(index) => return Err(below(index)),
            Some(_) => {}
        }
    }
    Ok(())
}

fn diverged(engine: &Inner, index: u64, from: Token) -> Refusal {
    let refusal = Refusal::Diverged {
        index: index.saturating_add(1),
        from,
    };
    tracing::error!(%refusal, "this node's engine stops; compare the disks before it is started again");
    engine.stop_taking_part(refusal.to_string());
    refusal
}

#[cfg(test)]
mod tests {
    #![allow(clippy::too_many_lines)] // a table of requests is a table
    use super::*;
    use crate::entry::{Body, Entry};
    use crate::gate::{Gate, Mute};
    use crate::network::{Courier, CourierError};
    use crate::raft::{LogId, Vote};
    use crate::{Engine, Role, Settings};
    use futures_util::future::BoxFuture;
    use openraft::entry::RaftEntry as _;
    use openraft::raft::VoteRequest;
    use openraft::{EmptyNode, Membership};
    use std::collections::{BTreeMap, BTreeSet};
    use std::sync::Arc;
    use std::time::Duration;
    use synod_wire::{Address, ClusterId, Incarnation, Term};

    struct Nobody;
    impl Courier for Nobody {
        fn call(
            &self,
            _: Token,
            _: Vec<u8>,
            _: Duration,
        ) -> BoxFuture<'static, Result<Vec<u8>, CourierError>> {
            Box::pin(async { Err(CourierError::new("nobody there")) })
        }
    }

    const LEADER: Peer = Peer {
        token: Token(1),
        incarnation: Incarnation(1),
    };

    /// Node 2, which knows that token 1 leads term 1.
    async fn follower() -> (Engine, Arc<Gate>, tempfile::TempDir) {
        let dir = tempfile::TempDir::new().unwrap();
        let gate = Arc::new(Gate::new(Token(2)));
        gate.update(|s| {
            (s.term, s.leader, s.mute) = (Term(1), Some(Token(1)), Mute::Unmuted);
            s.block = 1_000;
            s.incarnations = (1..=3).map(|t| (Token(t), Incarnation(1))).collect();
        });
        let settings = Settings {
            token: Token(2),
            cluster: ClusterId(Hash([1; 32])),
            dir: dir.path().into(),
            heartbeat: Duration::from_millis(50),
            election_min: Duration::from_millis(150),
            election_max: Duration::from_millis(300),
        };
        (
            Engine::open(settings, Arc::clone(&gate), Arc::new(Nobody))
                .await
                .unwrap(),
            gate,
            dir,
        )
    }

    fn id(term: u64, index: u64) -> LogId {
        LogId {
            leader_id: term.into(),
            index,
        }
    }

    fn vote(term: u64, node: u64, committed: bool) -> Vote {
        Vote {
            leader_id: openraft::impls::leader_id_std::LeaderId {
                term,
                voted_for: node,
            },
            committed,
        }
    }

    fn first(voters: &[u64]) -> RaftEntry {
        let nodes: BTreeMap<u64, EmptyNode> =
            voters.iter().map(|v| (*v, EmptyNode::new())).collect();
        RaftEntry::new_membership(
            id(0, 0),
            Membership::new(vec![voters.iter().copied().collect::<BTreeSet<_>>()], nodes).unwrap(),
        )
    }

    fn up(term: u64, index: u64, author: u8) -> RaftEntry {
        let body = Body::Increment {
            leader: Address([author; 20]),
        };
        RaftEntry::new_normal(id(term, index), Entry { time_ms: 1, body })
    }

    fn append(
        term: u64,
        prev: Option<LogId>,
        prev_hash: Option<Hash>,
        entries: Vec<RaftEntry>,
        commit: Option<LogId>,
    ) -> Request {
        let ask = Ask::Append(AppendEntriesRequest {
            vote: vote(term, 1, true),
            prev_log_id: prev,
            entries,
            leader_commit: commit,
        });
        Request {
            term: Term(1),
            block: 1,
            log_id: None,
            prev_hash,
            ask,
        }
    }

    async fn say(engine: &Engine, request: &Request) -> String {
        match decode(&engine.answer(LEADER, &encode(request)).await).unwrap() {
            Answer::Append(answer) => answer.to_string(),
            Answer::Vote(answer) => format!("vote {}", answer.vote_granted),
            Answer::Refused { reason, .. } => reason,
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn another_content_under_an_id_that_we_hold_stops_the_engine_and_is_reported() {
        for in_prev in [true, false] {
            let (engine, gate, _dir) = follower().await;
            let entries = vec![first(&[1, 2, 3]), up(1, 1, 7), up(1, 2, 7)];
            assert_eq!(
                say(&engine, &append(1, None, None, entries, None)).await,
                "Success"
            );
            let forged = if in_prev {
                append(
                    1,
                    Some(id(1, 2)),
                    Some(Hash([9; 32])),
                    vec![up(1, 3, 7)],
                    None,
                )
            } else {
                append(
                    1,
                    Some(id(0, 0)),
                    engine.0.out.store.at(0).unwrap().map(|(_, h)| h),
                    vec![up(1, 1, 8)],
                    None,
                )
            };
            assert_eq!(say(&engine, &forged).await, "diverged");
            let view = engine.view();
            assert_eq!(view.role, Role::Stopped);
            assert!(
                view.fault
                    .is_some_and(|why| why.contains("another content"))
            );
            assert_eq!(
                say(&engine, &append(1, None, None, vec![], None)).await,
                "stopped"
            );
            assert_eq!(gate.refusals().get("diverged"), Some(&1));
            engine.close().await;
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_leader_that_asks_to_cut_what_is_committed_is_refused_and_we_go_on() {
        let (engine, gate, _dir) = follower().await;
        let entries = vec![first(&[1, 2, 3]), up(1, 1, 7), up(1, 2, 7), up(1, 3, 7)];
        assert_eq!(
            say(&engine, &append(1, None, None, entries, Some(id(1, 2)))).await,
            "Success"
        );
        let hash = |i| engine.0.out.store.at(i).unwrap().map(|(_, h)| h);
        let deadline = Instant::now() + Duration::from_secs(5);
        while engine.0.out.store.committed() != Some(id(1, 2)) {
            assert!(Instant::now() < deadline, "never committed");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let cut = append(9, Some(id(1, 1)), hash(1), vec![up(9, 2, 7)], None);
        assert_eq!(say(&engine, &cut).await, "below_commit");
        let cut = append(9, Some(id(8, 2)), hash(2), vec![], None);
        assert_eq!(say(&engine, &cut).await, "below_commit");
        assert_eq!(gate.refusals().get("below_commit"), Some(&2));
        // what is not committed may be replaced
        let replaced = append(9, Some(id(1, 2)), hash(2), vec![up(9, 3, 7)], None);
        assert_eq!(say(&engine, &replaced).await, "Success");
        assert_eq!(engine.view().fault, None);
        engine.close().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_no_honest_engine_sends_is_refused_before_the_engine_sees_it() {
        let (engine, _gate, _dir) = follower().await;
        let ask = |vote: Vote, transfer: bool| {
            let mut request = VoteRequest::new(vote, None);
            request.leadership_transfer = transfer;
            Request {
                term: Term(1),
                block: 1,
                log_id: None,
                prev_hash: None,
                ask: Ask::Vote(request),
            }
        };
        let joint = {
            let nodes: BTreeMap<u64, EmptyNode> =
                [(1, EmptyNode::new()), (2, EmptyNode::new())].into();
            let members =
                Membership::new(vec![BTreeSet::from([1]), BTreeSet::from([2])], nodes).unwrap();
            RaftEntry::new_membership(id(0, 0), members)
        };
        let foreign = Entry {
            time_ms: 1,
            body: Body::Genesis {
                cluster: ClusterId(Hash([2; 32])),
                block: synod_wire::BlockRef::default(),
                members: vec![],
                initial_credit: synod_wire::Wh(1),
            },
        };
        let table = [
            ask(vote(2, 3, false), false),
            ask(vote(2, 1, true), false),
            ask(vote(u64::MAX, 1, false), false),
            ask(vote(2, 1, false), true),
            append(1, None, None, vec![up(1, 1, 1)], None),
            append(1, None, None, vec![first(&[1]), up(1, 2, 1)], None),
            append(1, None, None, vec![first(&[1]), up(2, 1, 1)], None),
            append(
                2,
                None,
                None,
                vec![first(&[1]), up(2, 1, 1), up(1, 2, 1)],
                None,
            ),
            append(1, None, None, vec![joint], None),
            append(
                1,
                None,
                None,
                vec![first(&(1..=65).collect::<Vec<_>>())],
                None,
            ),
            append(
                1,
                None,
                None,
                vec![
                    first(&[1]),
                    RaftEntry::new_membership(id(1, 1), Membership::default()),
                ],
                None,
            ),
            append(
                1,
                None,
                None,
                vec![first(&[1]), RaftEntry::new_normal(id(1, 1), foreign)],
                None,
            ),
            append(1, Some(id(1, u64::MAX)), Some(Hash::ZERO), vec![], None),
            append(1, Some(id(1, 5)), None, vec![], None),
            append(1, None, None, vec![], Some(id(1, u64::MAX))),
        ];
        for (row, request) in table.iter().enumerate() {
            assert_eq!(say(&engine, request).await, "malformed", "row {row}");
        }
        for ask in [Ask::Snapshot, Ask::Transfer] {
            let request = Request {
                term: Term(1),
                block: 1,
                log_id: None,
                prev_hash: None,
                ask,
            };
            assert_eq!(say(&engine, &request).await, "unsupported");
        }
        assert!(!engine.view().born, "nothing of it reached the log");
        assert_eq!(
            say(&engine, &ask(vote(2, 1, false), false)).await,
            "vote true"
        );
        engine.close().await;
    }

    /// A change of the voter set at this place: sets, and all that it names.
    fn voters(term: u64, index: u64, sets: &[&[u64]], named: &[u64]) -> RaftEntry {
        let sets = sets.iter().map(|set| set.iter().copied().collect());
        let nodes: BTreeMap<u64, EmptyNode> =
            named.iter().map(|id| (*id, EmptyNode::new())).collect();
        // as a liar would: no check of ours or theirs on the way out
        let members = Membership::new_with_defaults(sets.collect(), nodes.into_keys());
        RaftEntry::new_membership(id(term, index), members)
    }

    fn roster(index: u64, block: u64, tokens: &[u64]) -> RaftEntry {
        let member = |t: &u64| crate::MemberKey {
            token: Token(*t),
            incarnation: Incarnation(1),
            seated: true,
            session: synod_wire::SessionPublic([2; 33]),
        };
        let members: Vec<crate::MemberKey> = tokens.iter().map(member).collect();
        let body = Body::Members {
            block: synod_wire::BlockRef {
                number: block,
                ..synod_wire::BlockRef::default()
            },
            roster_hash: crate::MemberKey::roster_hash(&members),
            members,
        };
        RaftEntry::new_normal(id(1, index), Entry { time_ms: 1, body })
    }

    /// Node 2 with a born log of voters 1, 2, 3, all of them seated.
    async fn seated_follower() -> (Engine, Arc<Gate>, tempfile::TempDir) {
        let (engine, gate, dir) = follower().await;
        gate.update(|s| s.seated = (1..=3).map(Token).collect());
        let entries = vec![first(&[1, 2, 3]), up(1, 1, 7)];
        let born = append(1, None, None, entries, Some(id(1, 1)));
        assert_eq!(say(&engine, &born).await, "Success");
        (engine, gate, dir)
    }

    /// What node 2 says to entries behind its second one; `committed`: the leader calls them so.
    async fn offered(engine: &Engine, entries: Vec<RaftEntry>, commit: u64) -> String {
        let hash = engine.0.out.store.at(1).unwrap().map(|(_, h)| h);
        let commit = Some(id(1, commit));
        say(engine, &append(1, Some(id(1, 1)), hash, entries, commit)).await
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_voter_set_that_our_own_view_does_not_bear_out_is_refused_until_it_does() {
        let no = "unconfirmed_voters";
        let table: Vec<(&str, Vec<RaftEntry>)> = vec![
            // a quorum that shrinks: at once, half way, or in a second step
            (no, vec![voters(1, 2, &[&[1]], &[1])]),
            (no, vec![voters(1, 2, &[&[1, 2, 3], &[1]], &[1, 2, 3])]),
            (
                no,
                vec![
                    voters(1, 2, &[&[1, 2, 3]], &[1, 2, 3]),
                    voters(1, 3, &[&[1, 2]], &[1, 2, 3]),
                ],
            ),
            // a stranger, as a learner or a voter
            (no, vec![voters(1, 2, &[&[1, 2, 3]], &[1, 2, 3, 9])]),
            (
                no,
                vec![voters(1, 2, &[&[1, 2, 3], &[1, 2, 3, 9]], &[1, 2, 3, 9])],
            ),
            // a roster that nobody has confirmed proves nothing
            (
                "unconfirmed",
                vec![
                    roster(2, 1, &[1, 2, 3, 9]),
                    voters(1, 3, &[&[1, 2, 3]], &[1, 2, 3, 9]),
                ],
            ),
            // what no engine sends
            (
                "malformed",
                vec![voters(1, 2, &[&[1], &[1, 2], &[1, 2, 3]], &[1, 2, 3])],
            ),
            ("malformed", vec![voters(1, 2, &[], &[1, 2, 3])]),
            ("malformed", vec![voters(1, 2, &[&[1, 2, 3], &[]], &[])]),
            (
                "malformed",
                vec![voters(1, 2, &[&[1, 2, 3]], &(1..=65).collect::<Vec<_>>())],
            ),
            (
                "malformed",
                (2..=10)
                    .map(|index| voters(1, index, &[&[1, 2, 3]], &[1, 2, 3]))
                    .collect(),
            ),
        ];
        let (engine, gate, _dir) = seated_follower().await;
        for (row, (expected, entries)) in table.into_iter().enumerate() {
            assert_eq!(offered(&engine, entries, 1).await, expected, "row {row}");
        }
        assert_eq!(engine.view().position.index, 2, "nothing of it is held");
        // the chain shows token 9, and the very same entry is taken
        let learner = || vec![voters(1, 2, &[&[1, 2, 3]], &[1, 2, 3, 9])];
        let behind = gate.behind();
        tokio::time::timeout(Duration::from_secs(5), behind.notified())
            .await
            .expect("the node is told to look at the chain");
        gate.update(|s| {
            s.incarnations.insert(Token(9), Incarnation(1));
        });
        assert_eq!(offered(&engine, learner(), 1).await, "Success");
        // it is held now: whoever sends it again after the chain has moved on is not asked again
        gate.update(|s| {
            s.incarnations.remove(&Token(9));
        });
        assert_eq!(offered(&engine, learner(), 1).await, "Success");
        engine.close().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn changes_that_the_log_itself_bears_out_pass_whatever_the_chain_shows_by_now() {
        let joint = || voters(1, 2, &[&[1, 2, 3], &[1, 2]], &[1, 2, 3]);
        // the contract has ended token 3: the set on the way names it all the same
        let (engine, gate, _dir) = seated_follower().await;
        assert_eq!(
            offered(&engine, vec![joint()], 1).await,
            "unconfirmed_voters"
        );
        gate.update(|s| {
            s.seated.remove(&Token(3));
            s.incarnations.remove(&Token(3));
        });
        assert_eq!(offered(&engine, vec![joint()], 1).await, "Success");
        let alone = voters(1, 3, &[&[1, 2]], &[1, 2]);
        assert_eq!(offered(&engine, vec![joint(), alone], 1).await, "Success");
        engine.close().await;

        // token 4 came and went before we looked; the roster in the same append is committed and lists it
        let (engine, _gate, _dir) = seated_follower().await;
        let entries = vec![
            roster(2, 1, &[1, 2, 3, 4]),
            voters(1, 3, &[&[1, 2, 3]], &[1, 2, 3, 4]),
        ];
        assert_eq!(offered(&engine, entries, 2).await, "Success");
        engine.close().await;

        // token 3 went and came back: the log's roster between lists it not, so its removal blocks nothing
        let (engine, _gate, _dir) = seated_follower().await;
        let entries = |rosters: Vec<RaftEntry>| {
            let index = 2 + u64::try_from(rosters.len()).unwrap();
            let joint = voters(1, index, &[&[1, 2, 3], &[1, 2]], &[1, 2, 3]);
            rosters.into_iter().chain([joint]).collect::<Vec<_>>()
        };
        let newer = vec![roster(2, 2, &[1, 2])];
        let replayed = vec![roster(2, 2, &[1, 2, 3]), roster(3, 1, &[1, 2])];
        assert_eq!(
            offered(&engine, entries(replayed), 3).await,
            "unconfirmed_voters",
            "a roster of an older block counts for nothing"
        );
        assert_eq!(offered(&engine, entries(newer), 2).await, "Success");
        engine.close().await;

        // somebody seated who never voted here may come in step by step
        let (engine, gate, _dir) = seated_follower().await;
        gate.update(|s| {
            s.incarnations.insert(Token(4), Incarnation(1));
            s.seated.insert(Token(4));
        });
        let joint = voters(1, 2, &[&[1, 2, 3], &[1, 2, 3, 4]], &[1, 2, 3, 4]);
        let back = voters(1, 3, &[&[1, 2, 3]], &[1, 2, 3, 4]);
        assert_eq!(offered(&engine, vec![joint.clone()], 1).await, "Success");
        assert_eq!(
            offered(&engine, vec![joint, back], 1).await,
            "unconfirmed_voters",
            "who votes and is seated is not dropped again"
        );
        engine.close().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn random_cut_and_bent_bytes_get_an_answer_and_change_nothing() {
        let (engine, gate, _dir) = follower().await;
        let entries = vec![first(&[1, 2, 3]), up(1, 1, 7), up(1, 2, 7)];
        let good = encode(&append(1, None, None, entries, Some(id(1, 1))));
        let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
        let mut random = || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed
        };
        for cut in 0..good.len() {
            assert!(!engine.answer(LEADER, &good[..cut]).await.is_empty());
        }
        for _ in 0..3_000 {
            let mut bent = good.clone();
            for _ in 0..=random() % 4 {
                let at = usize::try_from(random()).unwrap() % bent.len();
                bent[at] = random().to_le_bytes()[0];
            }
            let noise: Vec<u8> = (0..random() % 200)
                .map(|_| random().to_le_bytes()[0])
                .collect();
            for bytes in [bent, noise, [&[1u8][..], &random().to_le_bytes()].concat()] {
                assert!(!engine.answer(LEADER, &bytes).await.is_empty());
                // bent content from the leader itself is divergence: that stops us rightly, here we go on
                let fault = lock(&engine.0.out.fault).take();
                assert!(fault.is_none_or(|why| why.contains("another content")));
            }
        }
        assert!(
            gate.refusals().get("malformed").is_some_and(|n| *n > 1_000),
            "{:?}",
            gate.refusals()
        );
        assert!(
            !engine
                .answer(LEADER, &vec![1; crate::REQUEST_LEN_MAX + 1])
                .await
                .is_empty()
        );
        assert_eq!(engine.view().fault, None, "the engine lives");
        engine.close().await;
    }
}
