//! Members that register after the log was born: the leader's engine sends them the log, takes them among its voters
//! when they hold it and speak, one at a time, and then has the contract seat them (design section 11).

use crate::engine::Body;
use crate::said::list;
use crate::world::{Due, Node, World};
use synod_cluster::{Cluster, Effect, Notice};
use synod_wire::{Incarnation, Message, Token};

/// Between two `seat` transactions of one leader.
const SEAT_EVERY_MS: u64 = 500;

impl World {
    /// A further token, with a machine that may be started.
    pub fn add(&mut self) -> Token {
        let token = Token(self.nodes.len() as u64 + 1);
        self.nodes.insert(token, Node::new());
        token
    }

    /// At the leader in office, each tick.
    pub fn seat_who_caught_up(&mut self, leader: Token) {
        let node = &self.nodes[&leader];
        let Some(cluster) = node
            .cluster
            .as_ref()
            .filter(|c| c.in_office() && !node.paused)
        else {
            return;
        };
        let disk = &node.engine.disk;
        let (voters, written) = disk.voters();
        let own_term =
            disk.committed > 0 && disk.log[disk.committed - 1].raft_term == disk.raft_term;
        // one change at a time, and only upon an entry of our own Raft term
        if node.rpc_down || written > disk.committed || !own_term || self.pen_down(leader) {
            return;
        }
        let Some(token) = node
            .view
            .iter()
            .flat_map(|v| &v.members)
            .find(|m| !m.seated)
            .map(|m| m.token)
        else {
            return;
        };
        if voters.contains(&token) {
            if self.now >= node.seat_due {
                let (incarnation, delay) = (node.incarnation, self.dice.between(10, 60));
                self.node(leader).seat_due = self.now + SEAT_EVERY_MS;
                self.later(delay, Due::Seat(leader, incarnation, token));
            }
            return;
        }
        let holds = node
            .engine
            .acks
            .get(&token)
            .is_some_and(|(len, _)| *len >= disk.committed);
        let speaks = |c: &Cluster| {
            c.peers()
                .any(|(t, _, _, beat)| t == token && beat.is_some_and(|b| !b.muted))
        };
        if holds && speaks(cluster) {
            let mut voters = voters.to_vec();
            voters.push(token);
            voters.sort();
            self.note(format!(
                "{leader}: the log's voters shall be {}",
                list(&voters)
            ));
            self.node(leader).engine.append_own(Body::Voters(voters));
        }
    }

    pub fn seat(&mut self, from: Token, incarnation: Incarnation, token: Token) {
        if self.contract.seat(self.now, from, incarnation, token) {
            self.note(format!("contract: {from} seats {token}"));
        }
        if self.nodes[&from].incarnation == incarnation {
            self.look_now(from);
        }
    }

    /// Handing over: the log takes nothing from this node.
    pub fn pen_down(&self, token: Token) -> bool {
        self.nodes[&token]
            .cluster
            .as_ref()
            .is_some_and(Cluster::pen_down)
    }

    /// Whoever is not seated neither stands nor signs, and says no OK that would keep others waiting.
    pub fn check_unseated(&mut self, token: Token, effect: &Effect) {
        let takes_part = match effect {
            Effect::Elect(_) => true,
            Effect::Send { message, .. } => matches!(
                message,
                Message::Ballot { .. }
                    | Message::BallotRequest { .. }
                    | Message::Election { .. }
                    | Message::Ok { .. }
                    | Message::CallElection { .. }
                    | Message::HandOver { .. }
            ),
            Effect::Birth(_)
            | Effect::Seek
            | Effect::StartTerm { .. }
            | Effect::LookAtChain
            | Effect::Baseline { .. }
            | Effect::Notice(_) => false,
        };
        if takes_part && !self.contract.is_seated(token) {
            self.violation(format!("{token} has no seat and takes part in an election"));
        }
    }

    /// A boot hears one baseline or more, then says once that it is synchronized, and not while it is muted.
    pub fn check_join(&mut self, token: Token, effect: &Effect) {
        let boot = (token, self.nodes[&token].incarnation);
        if let Effect::Baseline { leader, .. } = effect {
            self.judge.baselines.insert(boot, *leader);
        }
        let Effect::Notice(Notice::Synchronized { leader, .. }) = effect else {
            return;
        };
        if self.judge.baselines.get(&boot) != Some(leader) {
            self.violation(format!(
                "{token} is synchronized with {leader}, which did not answer it"
            ));
        }
        if !self.judge.synchronized.insert(boot) {
            self.violation(format!("{token} is synchronized twice"));
        }
    }
}
