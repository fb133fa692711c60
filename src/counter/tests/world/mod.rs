//! Engines in one process over real files, with links made of memory. The test is the contract: it says who is
//! elected, who is a member, and which incarnations are current.
#![allow(clippy::unwrap_used, dead_code, unreachable_pub)] // helpers of tests, not all of them in each suite

use futures_util::future::BoxFuture;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use synod_counter::*;
use synod_wire::{Address, BlockRef, ClusterId, Hash, Incarnation, SessionKey, Term, Token, Wh};
use tempfile::TempDir;

pub const CLUSTER: ClusterId = ClusterId(Hash([1; 32]));
pub const PATIENCE: Duration = Duration::from_secs(15);

/// All links: who is where with which incarnation, and which links are cut.
#[derive(Default)]
pub struct Links {
    pub engines: Mutex<BTreeMap<u64, Engine>>,
    pub incarnations: Mutex<BTreeMap<u64, u64>>,
    pub cut: Mutex<BTreeSet<u64>>,
}

pub struct Post {
    pub from: u64,
    pub links: Arc<Links>,
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

pub struct Node {
    pub dir: TempDir,
    pub gate: Arc<Gate>,
    pub engine: Engine,
}

pub struct World {
    pub links: Arc<Links>,
    pub nodes: BTreeMap<u64, Node>,
    pub term: u64,
    pub leader: u64,
    /// Whom the contract shows seated.
    pub seated: BTreeSet<Token>,
    /// Grows with each roster.
    pub block: u64,
}

pub fn settings(token: u64, dir: &Path) -> Settings {
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
pub async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

impl World {
    /// Three nodes that are members and know of no election.
    pub async fn new() -> Self {
        let mut world = Self {
            links: Arc::default(),
            nodes: BTreeMap::new(),
            term: 0,
            leader: 0,
            seated: (1..=3).map(Token).collect(),
            block: 1,
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
    pub async fn born() -> Self {
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

    pub async fn start(&mut self, token: u64, dir: TempDir, mute: Mute) {
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

    pub async fn stop(&mut self, token: u64) -> TempDir {
        let node = self.nodes.remove(&token).unwrap();
        self.links.engines.lock().unwrap().remove(&token);
        assert_eq!(node.engine.unasked_elections(), 0);
        node.engine.close().await;
        node.dir
    }

    /// A restart as the contract sees it: a new incarnation, muted.
    pub async fn restart(&mut self, token: u64, dir: TempDir) {
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
    pub fn announce(&self) {
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
                s.block = 1_000; // every roster of these stories is from an earlier one
                s.incarnations = incarnations.clone();
                s.seated = self.seated.clone();
            });
            node.engine
                .claim((*token == self.leader).then_some((Term(self.term), self.term)));
        }
    }

    /// The contract elects.
    pub fn name(&mut self, leader: u64) {
        self.term += 1;
        self.leader = leader;
        self.announce();
    }

    pub fn engine(&self, token: u64) -> &Engine {
        &self.nodes[&token].engine
    }

    /// The elected one seeks until its engine leads.
    pub async fn win(&self) {
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

    pub async fn term_start(&self) -> Outcome {
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

    pub async fn elect(&mut self, leader: u64) {
        self.name(leader);
        self.win().await;
        assert_eq!(self.term_start().await, Outcome::TermStarted(true));
    }

    pub async fn propose(&self, at: u64, body: Body) -> Result<Committed, ProposeError> {
        self.engine(at).propose(body, PATIENCE).await
    }

    pub async fn count(&self, times: u64) {
        for _ in 0..times {
            let done = self.propose(self.leader, up(self.leader)).await.unwrap();
            assert!(
                matches!(done.outcome, Outcome::Incremented { .. }),
                "{done:?}"
            );
        }
    }

    /// Every node that runs comes to the leader's state, all of it.
    pub async fn agree(&self, value: u64) {
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

    /// A token registers for the first time: muted, with an empty disk.
    pub async fn join(&mut self, token: u64) {
        self.links.incarnations.lock().unwrap().insert(token, 1);
        self.start(token, TempDir::new().unwrap(), Mute::Muted)
            .await;
    }

    /// The contract ends a token's registration and seat.
    pub fn leave(&mut self, token: u64) {
        self.links.incarnations.lock().unwrap().remove(&token);
        self.seated.remove(&Token(token));
        self.announce();
    }

    /// The log adopts what the chain shows to all.
    pub async fn adopt(&mut self, tokens: &[u64]) {
        self.block += 1;
        let (body, hash) = roster_of(self.block, tokens, 1);
        for node in self.nodes.values() {
            node.gate.update(|s| s.confirmed_rosters.push_back(hash));
        }
        let done = self.propose(self.leader, body).await.unwrap();
        assert_eq!(done.outcome, Outcome::Members);
    }

    /// The leader's loop, until it has made this step; all steps on the way.
    pub async fn follow(&self, until: MembersStep) -> Vec<MembersStep> {
        let deadline = Instant::now() + PATIENCE;
        let mut steps = Vec::new();
        while steps.last() != Some(&until) {
            let step = self.step().await;
            if steps.last() != Some(&step) {
                steps.push(step);
            }
            assert!(Instant::now() < deadline, "never {until:?}: {steps:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        steps
    }

    /// One step of the leader's loop.
    pub async fn step(&self) -> MembersStep {
        let engine = self.engine(self.leader);
        engine.follow_members(Duration::from_secs(1)).await.unwrap()
    }

    /// How often a node refused something by this name.
    pub fn refused(&self, token: u64, reason: &str) -> u64 {
        let refusals = self.nodes[&token].gate.refusals();
        refusals.get(reason).copied().unwrap_or(0)
    }

    /// Who votes in the log, as a node knows it to be committed.
    pub fn voters(&self, token: u64) -> Vec<u64> {
        let view = self.engine(token).view();
        view.voters.iter().map(|t| t.0).collect()
    }

    pub async fn end(mut self) {
        for token in self.nodes.keys().copied().collect::<Vec<_>>() {
            self.stop(token).await;
        }
    }
}

pub fn up(token: u64) -> Body {
    Body::Increment {
        leader: Address([u8::try_from(token).unwrap(); 20]),
    }
}

pub fn start_of(term: u64, leader: u64) -> Body {
    Body::TermStart {
        term: Term(term),
        leader: Token(leader),
        incarnation: Incarnation(1),
        tx: Hash([9; 32]),
        block: term,
        voted_muted: vec![],
    }
}

/// A member's session key, the same in each run.
pub fn key(token: u64) -> SessionKey {
    SessionKey::from_bytes(&[u8::try_from(token).unwrap(); 32]).unwrap()
}

/// Tokens 1 to 3 as members, each in this incarnation; and the roster's hash.
pub fn roster(incarnation: u64) -> (Body, Hash) {
    roster_of(1, &[1, 2, 3], incarnation)
}

/// These tokens, as a block shows them.
pub fn roster_of(block: u64, tokens: &[u64], incarnation: u64) -> (Body, Hash) {
    let member = |t: &u64| MemberKey {
        token: Token(*t),
        incarnation: Incarnation(incarnation),
        seated: true,
        session: key(*t).public(),
    };
    let members: Vec<MemberKey> = tokens.iter().map(member).collect();
    let roster_hash = MemberKey::roster_hash(&members);
    let body = Body::Members {
        block: BlockRef {
            number: block,
            ..BlockRef::default()
        },
        roster_hash,
        members,
    };
    (body, roster_hash)
}

pub fn copy(from: &Path) -> TempDir {
    let to = TempDir::new().unwrap();
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        std::fs::copy(file.path(), to.path().join(file.file_name())).unwrap();
    }
    to
}
