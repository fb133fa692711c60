//! Three engines in one process over real files, with links made of memory. The test is the contract: it says
//! who is elected and which incarnations are current.
#![allow(clippy::unwrap_used)] // helpers of tests

use futures_util::future::BoxFuture;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use synod_counter::*;
use synod_wire::{Address, BlockRef, ClusterId, Hash, Incarnation, SessionPublic, Term, Token, Wh};
use tempfile::TempDir;

const CLUSTER: ClusterId = ClusterId(Hash([1; 32]));
const PATIENCE: Duration = Duration::from_secs(15);

/// All links: who is where with which incarnation, and which links are cut.
#[derive(Default)]
struct Links {
    engines: Mutex<BTreeMap<u64, Engine>>,
    incarnations: Mutex<BTreeMap<u64, u64>>,
    cut: Mutex<BTreeSet<u64>>,
}

struct Post {
    from: u64,
    links: Arc<Links>,
}

impl Courier for Post {
    fn call(
        &self,
        to: Token,
        request: Vec<u8>,
        deadline: Duration,
    ) -> BoxFuture<'static, Result<Vec<u8>, CourierError>> {
        let (links, from) = (Arc::clone(&self.links), self.from);
        Box::pin(async move {
            let gone = |why: &str| CourierError::new(why.to_owned());
            if [from, to.0]
                .iter()
                .any(|n| links.cut.lock().unwrap().contains(n))
            {
                tokio::time::sleep(deadline).await;
                return Err(gone("the link is cut"));
            }
            let engine = links
                .engines
                .lock()
                .unwrap()
                .get(&to.0)
                .cloned()
                .ok_or_else(|| gone("nobody there"))?;
            let incarnation = links
                .incarnations
                .lock()
                .unwrap()
                .get(&from)
                .copied()
                .unwrap_or(0);
            let peer = Peer {
                token: Token(from),
                incarnation: Incarnation(incarnation),
            };
            let answer = tokio::time::timeout(deadline, engine.answer(peer, &request));
            answer.await.map_err(|_| gone("no answer in time"))
        })
    }
}

struct Node {
    dir: TempDir,
    gate: Arc<Gate>,
    engine: Engine,
}

struct World {
    links: Arc<Links>,
    nodes: BTreeMap<u64, Node>,
    term: u64,
    leader: u64,
}

fn settings(token: u64, dir: &Path) -> Settings {
    Settings {
        token: Token(token),
        cluster: CLUSTER,
        dir: dir.to_owned(),
        heartbeat: Duration::from_millis(50),
        election_min: Duration::from_millis(150),
        election_max: Duration::from_millis(300),
    }
}

/// Waits for something, never for a time.
async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

impl World {
    /// Three nodes that are members and know of no election.
    async fn new() -> Self {
        let mut world = Self {
            links: Arc::default(),
            nodes: BTreeMap::new(),
            term: 0,
            leader: 0,
        };
        for token in 1..=3 {
            world.links.incarnations.lock().unwrap().insert(token, 1);
            world
                .start(token, TempDir::new().unwrap(), Mute::Unmuted)
                .await;
        }
        world
    }

    /// A born log with Genesis, TermStart and Members under leader 1.
    async fn born() -> Self {
        let mut world = Self::new().await;
        world.name(1);
        let members = [Token(1), Token(2), Token(3)];
        world.engine(1).birth(&members).await.unwrap();
        world.win().await;
        let block = BlockRef {
            number: 1,
            ..BlockRef::default()
        };
        let genesis = Body::Genesis {
            cluster: CLUSTER,
            block,
            members: members.to_vec(),
            initial_credit: Wh(100_000),
        };
        assert_eq!(
            world.propose(1, genesis).await.unwrap().outcome,
            Outcome::Genesis
        );
        assert_eq!(world.term_start().await, Outcome::TermStarted(true));
        for node in world.nodes.values() {
            node.gate
                .update(|s| s.confirmed_rosters.push_back(roster(1).1));
        }
        assert_eq!(
            world.propose(1, roster(1).0).await.unwrap().outcome,
            Outcome::Members
        );
        world
    }

    async fn start(&mut self, token: u64, dir: TempDir, mute: Mute) {
        let gate = Arc::new(Gate::new(Token(token)));
        gate.update(|s| s.mute = mute);
        let post = Arc::new(Post {
            from: token,
            links: Arc::clone(&self.links),
        });
        let engine = Engine::open(settings(token, dir.path()), Arc::clone(&gate), post)
            .await
            .unwrap();
        self.links
            .engines
            .lock()
            .unwrap()
            .insert(token, engine.clone());
        self.nodes.insert(token, Node { dir, gate, engine });
        self.announce();
    }

    async fn stop(&mut self, token: u64) -> TempDir {
        let node = self.nodes.remove(&token).unwrap();
        self.links.engines.lock().unwrap().remove(&token);
        assert_eq!(node.engine.unasked_elections(), 0);
        node.engine.close().await;
        node.dir
    }

    /// A restart as the contract sees it: a new incarnation, muted.
    async fn restart(&mut self, token: u64, dir: TempDir) {
        *self
            .links
            .incarnations
            .lock()
            .unwrap()
            .get_mut(&token)
            .unwrap() += 1;
        self.start(token, dir, Mute::Muted).await;
    }

    /// Tells all gates what the contract says.
    fn announce(&self) {
        let incarnations: BTreeMap<Token, Incarnation> = self
            .links
            .incarnations
            .lock()
            .unwrap()
            .iter()
            .map(|(t, i)| (Token(*t), Incarnation(*i)))
            .collect();
        for (token, node) in &self.nodes {
            node.gate.update(|s| {
                s.term = Term(self.term);
                s.leader = (self.leader != 0).then_some(Token(self.leader));
                s.block = self.term;
                s.incarnations = incarnations.clone();
            });
            node.engine
                .claim((*token == self.leader).then_some((Term(self.term), self.term)));
        }
    }

    /// The contract elects.
    fn name(&mut self, leader: u64) {
        self.term += 1;
        self.leader = leader;
        self.announce();
    }

    fn engine(&self, token: u64) -> &Engine {
        &self.nodes[&token].engine
    }

    /// The elected one seeks until its engine leads.
    async fn win(&self) {
        let deadline = Instant::now() + PATIENCE;
        let mut first = true;
        while self.engine(self.leader).view().role != Role::Leader {
            assert!(
                Instant::now() < deadline,
                "{} never won: {:?}",
                self.leader,
                self.engine(self.leader).view()
            );
            if !std::mem::take(&mut first) {
                self.engine(self.leader).seek().await.unwrap();
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
    }

    async fn term_start(&self) -> Outcome {
        let body = start_of(self.term, self.leader);
        let done = self.propose(self.leader, body).await;
        let said = || {
            self.nodes
                .iter()
                .map(|(t, n)| (*t, n.gate.refusals(), n.engine.view()))
                .collect::<Vec<_>>()
        };
        done.unwrap_or_else(|why| panic!("{why}: {:#?}", said()))
            .outcome
    }

    async fn elect(&mut self, leader: u64) {
        self.name(leader);
        self.win().await;
        assert_eq!(self.term_start().await, Outcome::TermStarted(true));
    }

    async fn propose(&self, at: u64, body: Body) -> Result<Committed, ProposeError> {
        self.engine(at).propose(body, PATIENCE).await
    }

    async fn count(&self, times: u64) {
        for _ in 0..times {
            let done = self.propose(self.leader, up(self.leader)).await.unwrap();
            assert!(
                matches!(done.outcome, Outcome::Incremented { .. }),
                "{done:?}"
            );
        }
    }

    /// Every node that runs comes to the leader's state, all of it.
    async fn agree(&self, value: u64) {
        let leader = self.engine(self.leader).with_state(State::clone);
        assert_eq!(leader.value, value);
        for (token, node) in &self.nodes {
            eventually(
                &format!("node {token} has the state of node {}", self.leader),
                || node.engine.with_state(|s| *s == leader),
            )
            .await;
        }
    }

    async fn end(mut self) {
        for token in self.nodes.keys().copied().collect::<Vec<_>>() {
            self.stop(token).await;
        }
    }
}

fn up(token: u64) -> Body {
    Body::Increment {
        leader: Address([u8::try_from(token).unwrap(); 20]),
    }
}

fn start_of(term: u64, leader: u64) -> Body {
    Body::TermStart {
        term: Term(term),
        leader: Token(leader),
        incarnation: Incarnation(1),
        tx: Hash([9; 32]),
        block: term,
        voted_muted: vec![],
    }
}

/// Who is a member, each in this incarnation; and its hash.
fn roster(incarnation: u64) -> (Body, Hash) {
    let member = |t| MemberKey {
        token: Token(t),
        incarnation: Incarnation(incarnation),
        seated: true,
        session: SessionPublic([2; 33]),
    };
    let members: Vec<MemberKey> = (1..=3).map(member).collect();
    let roster_hash = MemberKey::roster_hash(&members);
    let body = Body::Members {
        block: BlockRef {
            number: 1,
            ..BlockRef::default()
        },
        roster_hash,
        members,
    };
    (body, roster_hash)
}

fn copy(from: &Path) -> TempDir {
    let to = TempDir::new().unwrap();
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), to.path().join(file.file_name())).unwrap();
    }
    to
}

#[tokio::test(flavor = "multi_thread")]
async fn three_nodes_are_born_and_count_to_a_hundred_alike() {
    let world = World::born().await;
    world.count(100).await;
    world.agree(100).await;
    let state = world.engine(2).with_state(State::clone);
    assert_eq!(state.operations.len(), 100);
    assert!(
        state
            .operations
            .iter()
            .zip(1..)
            .all(|(o, value)| o.new_value == value)
    );
    assert!(state.alarms.is_empty());
    let read = world.engine(1).read_index(PATIENCE).await.unwrap();
    assert_eq!(read, state.applied_index);
    assert!(matches!(
        world.engine(2).read_index(PATIENCE).await,
        Err(ProposeError::NotLeader { .. })
    ));
    assert!(matches!(
        world.propose(2, up(2)).await,
        Err(ProposeError::NotLeader { .. })
    ));
    // the followers' majority may commit before the leader's own disk has answered
    eventually("the leader's disk has all of it", || {
        world.engine(1).view().position.index == state.applied_index
    })
    .await;
    let view = world.engine(1).view();
    assert_eq!(view.applied, state.applied_index);
    assert!(view.born && view.quorum_ack_age_ms.is_some_and(|age| age < 1_000));
    let members = [Token(1), Token(2), Token(3)];
    assert!(matches!(
        world.engine(1).birth(&members).await,
        Err(EngineError::AlreadyBorn(_))
    ));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_dies_another_is_elected_and_the_restarted_one_replays_and_does_not_lead() {
    let mut world = World::born().await;
    world.count(50).await;
    let dir = world.stop(1).await;
    world.elect(3).await;
    world.count(50).await;
    world.agree(100).await;
    // F1: back with its own committed vote on disk
    world.restart(1, dir).await;
    assert_ne!(world.engine(1).view().role, Role::Leader);
    assert!(
        world.engine(1).with_state(|s| s.value >= 40),
        "rebuilt from its own disk before anybody spoke to it"
    );
    world.agree(100).await;
    assert_eq!(world.engine(1).view().role, Role::Follower);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_restarts_at_once_leads_again_only_by_a_new_term() {
    let mut world = World::born().await;
    world.count(5).await;
    let dir = world.stop(1).await;
    world.restart(1, dir).await;
    let quiet = Instant::now() + Duration::from_millis(900); // three leases: the engine had its chances
    while Instant::now() < quiet {
        assert_ne!(world.engine(1).view().role, Role::Leader);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    world.nodes[&1].gate.update(|s| s.mute = Mute::Unmuted);
    world.elect(1).await;
    world.count(5).await;
    world.agree(10).await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_muted_node_takes_appends_and_does_not_vote() {
    let mut world = World::born().await;
    let dir = world.stop(2).await;
    world.count(10).await;
    world.restart(2, dir).await;
    world.agree(10).await; // it takes appends
    world.stop(1).await;
    world.name(3);
    let refused = || {
        world.nodes[&2]
            .gate
            .refusals()
            .get("muted")
            .copied()
            .unwrap_or(0)
    };
    let deadline = Instant::now() + PATIENCE;
    while refused() < 5 {
        assert!(Instant::now() < deadline);
        world.engine(3).seek().await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_ne!(world.engine(3).view().role, Role::Leader);
    world.nodes[&2].gate.update(|s| s.mute = Mute::ColdStart);
    world.win().await;
    assert_eq!(world.term_start().await, Outcome::TermStarted(true));
    world.agree(10).await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_node_asks_that_the_contract_did_not_elect_is_refused_counted_and_without_effect() {
    let world = World::born().await;
    world.count(3).await;
    let raft_term = world.engine(2).view().raft_term;
    // node 3 believes (or pretends) that it is elected
    world.nodes[&3].gate.update(|s| s.leader = Some(Token(3)));
    world.engine(3).claim(Some((Term(1), 1)));
    let refused = |token| {
        world.nodes[&token]
            .gate
            .refusals()
            .get("not_elected")
            .copied()
            .unwrap_or(0)
    };
    let deadline = Instant::now() + PATIENCE;
    while refused(1) < 3 || refused(2) < 3 {
        assert!(Instant::now() < deadline, "{} {}", refused(1), refused(2));
        world.engine(3).seek().await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(world.engine(2).view().raft_term, raft_term);
    world.count(3).await;
    assert_eq!(world.engine(1).with_state(|s| s.value), 6);
    // without the office in its own gate it does not even ask
    world.nodes[&3].gate.update(|s| s.leader = Some(Token(1)));
    assert_eq!(world.engine(3).seek().await, Err(EngineError::NotInOffice));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lease_of_a_deposed_leader_that_hears_no_news_runs_out() {
    let mut world = World::born().await;
    world.count(3).await;
    let behind = world.nodes[&1].gate.behind();
    // n2 and n3 know term 2 and its leader 3; the chain is hidden from n1
    world.term = 2;
    for token in [2, 3] {
        world.nodes[&token]
            .gate
            .update(|s| (s.term, s.leader, s.block) = (Term(2), Some(Token(3)), 2));
    }
    world.engine(3).claim(Some((Term(2), 2)));
    tokio::time::timeout(PATIENCE, behind.notified())
        .await
        .expect("n1 is told that a later term began");
    eventually("the lease of n1 ran out", || {
        world
            .engine(1)
            .view()
            .quorum_ack_age_ms
            .is_none_or(|age| age > 500)
    })
    .await;
    assert!(world.nodes[&2].gate.refusals().contains_key("deposed"));
    let late = world
        .engine(1)
        .propose(up(1), Duration::from_millis(300))
        .await;
    assert!(
        matches!(
            late,
            Err(ProposeError::Unavailable { .. } | ProposeError::Unknown { .. })
        ),
        "{late:?}"
    );
    world.leader = 3;
    world.win().await;
    assert_eq!(world.term_start().await, Outcome::TermStarted(true));
    world.count(3).await;
    assert_eq!(world.engine(3).with_state(|s| s.value), 6);
    world.announce(); // the news reaches n1
    world.agree(6).await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_disk_is_repaired_after_readmission() {
    let mut world = World::born().await;
    world.count(40).await;
    world.agree(40).await;
    let dir = world.stop(2).await;
    let older = copy(dir.path());
    world.start(2, dir, Mute::Unmuted).await;
    world.count(20).await;
    world.agree(60).await;
    world.stop(2).await;
    world.engine(1).readmit(Token(2));
    world.restart(2, older).await;
    world.engine(1).readmit(Token(2));
    world.count(5).await;
    world.agree(65).await;
    assert_eq!(world.engine(1).view().fault, None);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_disk_is_repaired_after_readmission() {
    let mut world = World::born().await;
    world.count(20).await;
    world.agree(20).await;
    world.stop(2).await;
    world.restart(2, TempDir::new().unwrap()).await;
    world.engine(1).readmit(Token(2));
    world.count(5).await;
    world.agree(25).await;
    assert_eq!(world.engine(1).view().fault, None);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_roster_that_the_followers_chains_do_not_show_rests_until_they_do() {
    let world = World::born().await;
    let (body, lie) = roster(66);
    let refused = world.engine(1).propose(body, Duration::from_secs(1)).await;
    assert!(
        matches!(refused, Err(ProposeError::Unknown { .. })),
        "{refused:?}"
    );
    assert!(world.nodes[&2].gate.refusals().contains_key("unconfirmed"));
    for node in world.nodes.values() {
        assert_eq!(
            node.engine
                .with_state(|s| s.members.as_ref().map(|m| m.roster_hash)),
            Some(roster(1).1)
        );
    }
    world.nodes[&2]
        .gate
        .update(|s| s.confirmed_rosters.push_back(lie)); // one honest view makes a quorum
    eventually("the roster is in force", || {
        world
            .engine(1)
            .with_state(|s| s.members.as_ref().map(|m| m.roster_hash) == Some(lie))
    })
    .await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_term_start_of_a_term_is_a_no_op_on_every_node() {
    let world = World::born().await;
    assert_eq!(
        world.propose(1, start_of(1, 2)).await.unwrap().outcome,
        Outcome::TermStarted(false)
    );
    world.count(1).await;
    world.agree(1).await;
    for node in world.nodes.values() {
        assert_eq!(
            node.engine
                .with_state(|s| s.term.as_ref().map(|t| t.leader)),
            Some(Token(1))
        );
        assert_eq!(
            node.engine.with_state(|s| s.alarms.back().map(|a| a.kind)),
            Some(AlarmKind::SecondLeader)
        );
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_three_restart_and_go_on_where_they_were() {
    let mut world = World::born().await;
    world.count(30).await;
    world.agree(30).await;
    let mut dirs = Vec::new();
    for token in 1..=3 {
        dirs.push((token, world.stop(token).await));
    }
    for (token, dir) in dirs {
        world.restart(token, dir).await;
        assert_eq!(
            world.engine(token).with_state(|s| s.value),
            30,
            "closing wrote the commit index"
        );
        world.nodes[&token]
            .gate
            .update(|s| s.mute = Mute::ColdStart);
    }
    world.elect(2).await;
    world.count(3).await;
    world.agree(33).await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_cut_off_says_unknown_or_unavailable_and_never_success() {
    let mut world = World::born().await;
    world.count(3).await;
    world.links.cut.lock().unwrap().insert(1);
    let lost = world
        .engine(1)
        .propose(up(1), Duration::from_millis(700))
        .await;
    assert!(
        matches!(
            lost,
            Err(ProposeError::Unknown { .. } | ProposeError::Unavailable { .. })
        ),
        "{lost:?}"
    );
    assert!(matches!(
        world.engine(1).read_index(Duration::from_millis(300)).await,
        Err(ProposeError::Unavailable { .. })
    ));
    world.elect(2).await;
    world.count(3).await;
    world.links.cut.lock().unwrap().clear();
    world.agree(6).await; // what the old leader wrote alone is gone, on its own disk too
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_of_another_token_is_refused_by_the_engine() {
    let mut world = World::new().await;
    let dir = world.stop(3).await;
    let post = Arc::new(Post {
        from: 2,
        links: Arc::clone(&world.links),
    });
    let foreign = Engine::open(settings(2, dir.path()), Arc::new(Gate::new(Token(2))), post).await;
    assert!(matches!(
        foreign.err(),
        Some(OpenError::Foreign {
            found_token: Token(3),
            token: Token(2),
            ..
        })
    ));
    world.end().await;
}
