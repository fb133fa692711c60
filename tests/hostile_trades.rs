//! A registered member whose code was replaced forges trades: refused, counted, nothing moves.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)] // tests are the outside world

#[path = "support/liar.rs"]
mod liar;
mod support;

use anyhow::{Result, ensure};
use liar::Liar;
use serde_json::json;
use std::time::Duration;
use support::{World, eventually, turn};
use synod_wire::clock::{Clock, Tick};
use synod_wire::message::{TradeConfirm, TradeRequest};
use synod_wire::seal::Sealer;
use synod_wire::trade::{Answer, Reply, Side, Signature};
use synod_wire::{Incarnation, Message, Offer, SessionKey, Token, TradeId, Wh};

const SOON: Duration = Duration::from_secs(15);

/// Nodes 1 and 2 are real; token 3 is the liar, listed by the log like everybody.
async fn two_and_a_liar() -> Result<(World, Liar)> {
    let mut world = World::new(3).await?;
    for id in [1, 2] {
        world.start(id)?;
        world.adopt(id).await?;
    }
    let liar = Liar::register(&world, 3).await?;
    world.leader(SOON).await?;
    liar.book.follow(&world.chain.view().await?);
    eventually(SOON, "the liar has an account", async || {
        let shown = world.get(1, "/balances").await?;
        ensure!(shown["issued_wh"] == 300_000, "{shown}");
        Ok(())
    })
    .await?;
    Ok((world, liar))
}

struct Forger<'a> {
    world: &'a World,
    liar: &'a mut Liar,
    sequence: u64,
}

impl Forger<'_> {
    fn incarnation() -> Incarnation {
        Incarnation(1)
    }

    fn clock(&mut self) -> Clock {
        self.sequence += 1;
        let mut clock = Clock::default();
        let tick = Tick {
            incarnation: Self::incarnation(),
            sequence: self.sequence,
        };
        assert!(clock.set(Token(3), tick));
        clock
    }

    fn offer(&self, side: Side, with: u64, wh: u64) -> Offer {
        Offer {
            id: TradeId {
                proposer: Token(3),
                incarnation: Self::incarnation(),
                sequence: self.sequence + 1,
            },
            side,
            with: Token(with),
            amount: Wh(wh),
            expires_ms: u64::MAX,
        }
    }

    fn request(&mut self, offer: Offer) -> Message {
        let signature = offer.sign(self.liar.config.cluster(), &self.liar.identity.session);
        Message::TradeRequest(TradeRequest {
            clock: self.clock(),
            offer,
            signature,
        })
    }

    fn send(&mut self, message: &Message) -> Result<()> {
        let frame = self.liar.frame(None, message);
        for node in [1, 2] {
            self.liar.send(self.world, node, &frame)?;
        }
        Ok(())
    }
}

async fn refused_by_ledger(world: &World, node: u64) -> Result<u64> {
    let shown = world.status(node).await?;
    let refused = shown["ledger"]["refused"]
        .as_object()
        .cloned()
        .unwrap_or_default();
    Ok(refused.values().filter_map(serde_json::Value::as_u64).sum())
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_trades_move_nothing_and_are_counted() -> Result<()> {
    let _turn = turn().await;
    let (world, mut liar) = two_and_a_liar().await?;
    let mut forger = Forger {
        world: &world,
        liar: &mut liar,
        sequence: 0,
    };
    let cluster = forger.liar.config.cluster();

    // signed by the member itself, but no trade: with itself, of nothing, with nobody, of what it does not have
    let itself = forger.offer(Side::Sell, 3, 5_000);
    let message = forger.request(itself);
    forger.send(&message)?;
    let nothing = forger.offer(Side::Sell, 1, 0);
    let message = forger.request(nothing);
    forger.send(&message)?;
    let nobody = forger.offer(Side::Sell, 9, 5_000);
    let message = forger.request(nobody);
    forger.send(&message)?;
    // in another member's name: an offer of node 1, and node 1's yes to a purchase of everything it has
    let theirs = Offer {
        id: TradeId {
            proposer: Token(1),
            ..forger.offer(Side::Sell, 2, 1).id
        },
        ..forger.offer(Side::Sell, 3, 50_000)
    };
    let message = forger.request(theirs);
    forger.send(&message)?;
    let grab = forger.offer(Side::Buy, 1, 100_000);
    let offered = grab.sign(cluster, &forger.liar.identity.session);
    let answer = Answer::sign(
        cluster,
        &forger.liar.identity.session,
        &grab,
        Incarnation(1),
        Reply::Accepted,
    );
    let clock = forger.clock();
    let forged_yes = Message::TradeConfirm(TradeConfirm {
        clock,
        offer: grab,
        offered,
        answer,
    });
    forger.send(&forged_yes)?;
    // and with a signature of nobody
    let unsigned = forger.offer(Side::Sell, 1, 5_000);
    let clock = forger.clock();
    forger.send(&Message::TradeRequest(TradeRequest {
        clock,
        offer: unsigned,
        signature: Signature([7; 64]),
    }))?;
    for node in [1, 2] {
        eventually(
            SOON,
            &format!("node {node} counts the forgeries"),
            async || {
                let count = refused_by_ledger(&world, node).await?;
                ensure!(
                    count >= 5,
                    "{count}: {}",
                    world.status(node).await?["ledger"]
                );
                Ok(())
            },
        )
        .await?;
    }

    // a stranger, with a key that nobody registered
    let key = SessionKey::from_bytes(&[9; 32])?;
    let mut sealer = Sealer::new(cluster, Token(3), Incarnation(1));
    let frame = sealer.seal(&key, None, &message);
    forger.liar.send(&world, 1, &frame)?;

    // overdraft: properly signed, agreed to by the other side or not, the log refuses it
    let overdraft = Offer {
        expires_ms: u64::try_from(
            std::time::SystemTime::now()
                .duration_since(std::time::UNIX_EPOCH)?
                .as_millis(),
        )? + 30_000,
        ..forger.offer(Side::Sell, 1, 100_001)
    };
    let message = forger.request(overdraft);
    forger.send(&message)?;
    let id = overdraft.id.to_string();
    eventually(SOON, "the overdraft is refused", async || {
        let page = world.get(2, "/trades").await?;
        let found = page["trades"]
            .as_array()
            .and_then(|t| t.iter().find(|t| t["id"] == id.as_str()).cloned());
        ensure!(
            found
                .as_ref()
                .is_some_and(|t| t["status"] == "refused" && t["reason"] == "Insufficient credits"),
            "{page}"
        );
        Ok(())
    })
    .await?;

    for node in [1, 2] {
        let shown = world.get(node, "/balances").await?;
        let wh: Vec<_> = shown["balances"]
            .as_array()
            .unwrap()
            .iter()
            .map(|b| b["balance_wh"].clone())
            .collect();
        ensure!(
            json!(wh) == json!([100_000, 100_000, 100_000]),
            "node {node}: {shown}"
        );
        ensure!(
            world.status(node).await?["alarms"] == json!([]),
            "no leader wrote any of it"
        );
    }
    Ok(())
}
