//! What travels between nodes and to the contract: frames that get lost, requests over links, views, transactions.

use crate::contract::DOMAIN;
use crate::said::list;
use crate::world::{Due, STEP_MS, World, pair};
use synod_cluster::Event;
use synod_wire::message::Kind;
use synod_wire::seal::{Opener, Sealer, Sessions, Windows};
use synod_wire::{Authentic, Certificate, ClusterId, Incarnation, Message, SessionPublic, Token};

struct Only(Token, Incarnation, SessionPublic);

impl Sessions for Only {
    fn session(&self, token: Token) -> Option<(Incarnation, SessionPublic)> {
        (token == self.0).then_some((self.1, self.2))
    }
}

impl World {
    pub fn later(&mut self, delay: u64, what: Due) {
        self.sequence += 1;
        self.due.insert((self.now + delay, self.sequence), what);
    }

    /// A person asks; a paused process does not hear.
    pub fn tell_if_up(&mut self, token: Token, event: Event) {
        if self.is_up(token) {
            self.tell(token, event);
        }
    }

    fn is_up(&self, token: Token) -> bool {
        let node = &self.nodes[&token];
        node.cluster.is_some() && !node.paused
    }

    /// Does a request over the link reach its peer?
    pub fn request(&mut self, from: Token, to: Token) -> bool {
        self.is_up(to)
            && !self.nodes[&to].hung
            && !self.network.links_cut.contains(&pair(from, to))
            && self.answer()
    }

    /// Does the answer come back?
    pub fn answer(&mut self) -> bool {
        let loss = self.network.loss_percent;
        !self.dice.percent(loss)
    }

    pub fn send(&mut self, from: Token, to: Option<Token>, message: &Message) {
        let frame = self.seal(from, message);
        if message.kind() == Kind::JoinResponse
            && let Some(to) = to
        {
            self.last_join_response.insert(to, frame.clone());
        }
        let incarnation = self.nodes[&from].incarnation;
        for receiver in to.map_or_else(|| self.all_but(from), |to| vec![to]) {
            let cut = self.network.udp_cut.contains(&pair(from, receiver));
            if cut || !self.nodes.contains_key(&receiver) || !self.answer() {
                continue;
            }
            let high = self.network.delay_max_ms;
            let delay = self.dice.between(1, high);
            self.later(delay, Due::Frame(receiver, incarnation, frame.clone()));
        }
    }

    /// Sealed and opened by `wire`, each distinct text once: signatures are slow.
    pub fn seal(&mut self, from: Token, message: &Message) -> Authentic<Message> {
        let node = &self.nodes[&from];
        let incarnation = node.incarnation;
        let what = (from, incarnation.0, message.kind() as u8, message.encode());
        if let Some(frame) = self.sealed.get(&what) {
            return frame.clone();
        }
        let cluster = ClusterId::of(DOMAIN.chain_id, DOMAIN.contract);
        let bytes = Sealer::new(cluster, from, incarnation).seal(&node.session, None, message);
        let opener = Opener {
            cluster,
            me: Token(u64::MAX),
        };
        let only = Only(from, incarnation, node.session.public());
        let frame = opener
            .open(&bytes, &only, &mut Windows::default())
            .expect("what was sealed opens");
        if self.sealed.len() > 2_000 {
            self.sealed.clear();
        }
        self.sealed.insert(what, frame.clone());
        frame
    }

    pub fn arrive(&mut self, due: Due) {
        match due {
            Due::Frame(to, incarnation, frame) => self.arrive_frame(to, incarnation, frame),
            Due::View(to, incarnation, view) => {
                if self.is_current(to, incarnation) {
                    self.node(to).view = Some(view.clone());
                    self.tell(to, Event::Chain(view));
                }
            }
            Due::Submit(from, incarnation, certificate) => {
                self.submit(from, incarnation, &certificate)
            }
            Due::Seat(from, incarnation, token) => self.seat(from, incarnation, token),
            Due::Mined(to, incarnation, term, mined) => {
                if self.is_current(to, incarnation) {
                    self.look_now(to);
                    self.tell(to, Event::Elected { term, mined });
                }
            }
        }
    }

    fn is_current(&self, token: Token, incarnation: Incarnation) -> bool {
        self.is_up(token) && self.nodes[&token].incarnation == incarnation
    }

    /// As the driver does: frames of the session that my view knows, and a look at the chain for newer ones.
    fn arrive_frame(&mut self, to: Token, incarnation: Incarnation, frame: Authentic<Message>) {
        let node = &self.nodes[&to];
        if node.paused {
            return self.later(STEP_MS, Due::Frame(to, incarnation, frame));
        }
        let Some(view) = node.view.as_ref().filter(|_| node.cluster.is_some()) else {
            return;
        };
        match view.member(frame.from()).map(|m| m.incarnation) {
            Some(known) if known == incarnation => self.tell(to, Event::Frame(frame)),
            Some(known) if known > incarnation => {}
            Some(_) | None => self.look_now(to),
        }
    }

    pub fn tell(&mut self, token: Token, event: Event) {
        let now = self.now;
        if let Some(cluster) = &mut self.node(token).cluster {
            let was = cluster.mute();
            cluster.handle(now, event);
            self.perform(token, was);
        }
    }

    fn submit(&mut self, from: Token, incarnation: Incarnation, certificate: &Certificate) {
        let ballot = certificate.ballot;
        let result = self.contract.elect(self.now, certificate);
        let signers: Vec<Token> = certificate.signatures.iter().map(|s| s.token).collect();
        match result {
            Ok(()) => {
                self.judge.elected(ballot.term, ballot.candidate, self.now);
                let (term, leader) = (ballot.term, ballot.candidate);
                self.note(format!(
                    "contract: term {term}, leader {leader}, ballots of {}",
                    list(&signers)
                ));
            }
            Err(why) => self.note(format!("contract: refuses term {}: {why}", ballot.term)),
        }
        let mined = result.is_ok() && self.answer();
        let delay = self.dice.between(5, 20);
        self.later(delay, Due::Mined(from, incarnation, ballot.term, mined));
    }
}
