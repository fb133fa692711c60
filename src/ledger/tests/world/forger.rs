//! A member whose TEE is broken: its frames verify, what they say does not hold.

use crate::world::{World, cluster};
use synod_wire::message::{TradeConfirm, TradeRequest};
use synod_wire::seal::Sealer;
use synod_wire::trade::{Answer, Reply, Side, Signature};
use synod_wire::{Clock, Incarnation, Message, Offer, Tick, Token, TradeId, Wh};

impl World {
    /// The message that `from` would send next, spoilt as `how` says; to all.
    pub fn forge(&mut self, from: Token, how: &str) {
        self.forged = true;
        let (message, sequence) = self.spoilt(from, how);
        let node = &self.nodes[&from];
        let mut sealer = Sealer::new(cluster(), from, node.incarnation);
        let frame = sealer.seal(&node.key, None, &message);
        self.note(format!("{from}: forges {from}:{sequence}, {how}"));
        for to in self.tokens().into_iter().filter(|to| *to != from) {
            self.send(from, to, &frame);
        }
    }

    fn spoilt(&self, from: Token, how: &str) -> (Message, u64) {
        let node = &self.nodes[&from];
        let incarnation = node.incarnation;
        // what everybody else has delivered of it
        let others = self.nodes.iter().filter(|(token, _)| **token != from);
        let heard =
            others.filter_map(|(_, n)| n.ledger.as_ref().map(|l| l.clock().tick(from).sequence));
        let last = heard.max().unwrap_or_default();
        let sequence = if how == "second" { last } else { last + 1 };
        let mut clock = node.ledger.as_ref().unwrap().clock().clone();
        clock.set(
            from,
            Tick {
                incarnation,
                sequence,
            },
        );
        let id = TradeId {
            proposer: from,
            incarnation,
            sequence,
        };
        let other = Token(if from == Token(1) { 2 } else { 1 });
        let mut offer = Offer {
            id,
            side: Side::Buy,
            with: other,
            amount: Wh(1_000),
            expires_ms: 1_000_000 + self.now + 30_000,
        };
        let mut wild = |token: u64, incarnation: u64, sequence: u64| {
            let incarnation = Incarnation(incarnation);
            assert!(clock.set(
                Token(token),
                Tick {
                    incarnation,
                    sequence
                }
            ));
        };
        match how {
            "self" => offer.with = from,
            "zero" => offer.amount = Wh(0),
            "unknown" => offer.with = Token(99),
            "other-id" => offer.id.proposer = other,
            "far-clock" => wild(3, 1, 1 << 40),
            "near-clock" => wild(3, 1, 7),
            "next-incarnation" => wild(3, 9, 1),
            "own-words" => wild(other.0, self.nodes[&other].incarnation.0, 500),
            "second" => offer.amount = Wh(2_000),
            "signature" | "answer-for-other" | "answer-signature" => {}
            other => panic!("unknown forgery {other}"),
        }
        let mut signature = offer.sign(cluster(), &node.key);
        if how == "signature" {
            signature = Signature([9; 64]);
        }
        if how.starts_with("answer") {
            return (self.false_answer(from, how, clock), sequence);
        }
        let request = TradeRequest {
            clock,
            offer,
            signature,
        };
        (Message::TradeRequest(request), sequence)
    }

    /// An answer to the oldest open trade.
    fn false_answer(&self, from: Token, how: &str, clock: Clock) -> Message {
        let node = &self.nodes[&from];
        let open = node.ledger.as_ref().unwrap().open().next();
        let offer = open.expect("something is open").offer;
        let proposer = &self.nodes[&offer.id.proposer];
        let offered = offer.sign(cluster(), &proposer.key);
        let mut answer = Answer::sign(
            cluster(),
            &node.key,
            &offer,
            node.incarnation,
            Reply::Accepted,
        );
        if how == "answer-signature" {
            answer.signature = Signature([9; 64]);
        }
        Message::TradeConfirm(TradeConfirm {
            clock,
            offer,
            offered,
            answer,
        })
    }
}
