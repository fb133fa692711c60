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

fn wall_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    u64::try_from(since.unwrap().as_millis()).unwrap()
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
            expires_ms: wall_ms() + 30_000,
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

/// What this node's ledger refused, by reason.
async fn refused_by_ledger(world: &World, node: u64) -> Result<serde_json::Value> {
    Ok(world.status(node).await?["ledger"]["refused"].clone())
}

impl Forger<'_> {
    /// Seven messages of a member that are no trades: with itself, of nothing, with nobody, in another member's name,
    /// without end, another member's yes, and with a signature of nobody.
    fn forge(&mut self) -> Result<()> {
        let itself = self.offer(Side::Sell, 3, 5_000);
        let nothing = Offer {
            id: TradeId {
                sequence: self.sequence + 2,
                ..itself.id
            },
            ..self.offer(Side::Sell, 1, 0)
        };
        let nobody = Offer {
            id: TradeId {
                sequence: self.sequence + 3,
                ..itself.id
            },
            ..self.offer(Side::Sell, 9, 5_000)
        };
        let theirs = Offer {
            id: TradeId {
                proposer: Token(1),
                ..self.offer(Side::Sell, 2, 1).id
            },
            ..self.offer(Side::Sell, 3, 50_000)
        };
        let endless = Offer {
            id: TradeId {
                sequence: self.sequence + 5,
                ..itself.id
            },
            expires_ms: u64::MAX,
            ..self.offer(Side::Sell, 1, 5_000)
        };
        for offer in [itself, nothing, nobody, theirs, endless] {
            let message = self.request(offer);
            self.send(&message)?;
        }
        let yes = self.forged_yes();
        self.send(&yes)?;
        let unsigned = TradeRequest {
            offer: self.offer(Side::Sell, 1, 5_000),
            clock: self.clock(),
            signature: Signature([7; 64]),
        };
        self.send(&Message::TradeRequest(unsigned))
    }

    /// Node 1's agreement to sell all that it has, signed by the forger.
    fn forged_yes(&mut self) -> Message {
        let (cluster, key) = (self.liar.config.cluster(), &self.liar.identity.session);
        let grab = self.offer(Side::Buy, 1, 100_000);
        let offered = grab.sign(cluster, key);
        let answer = Answer::sign(cluster, key, &grab, Incarnation(1), Reply::Accepted);
        Message::TradeConfirm(TradeConfirm {
            clock: self.clock(),
            offer: grab,
            offered,
            answer,
        })
    }

    /// Properly signed; agreed to by the other side or not, the log refuses it.
    fn overdraw(&mut self) -> Result<TradeId> {
        let overdraft = self.offer(Side::Sell, 1, 100_001);
        let message = self.request(overdraft);
        self.send(&message)?;
        Ok(overdraft.id)
    }

    /// An offer that is good in itself, in a frame sealed with a key that nobody registered.
    fn stranger(&mut self) -> Result<()> {
        let key = SessionKey::from_bytes(&[9; 32])?;
        let mut sealer = Sealer::new(self.liar.config.cluster(), Token(3), Incarnation(1));
        let message = self.request(self.offer(Side::Sell, 1, 1_000));
        self.sequence -= 1; // nobody will count this one
        let frame = sealer.seal(&key, None, &message);
        self.liar.send(self.world, 1, &frame)
    }
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
    forger.forge()?;
    for node in [1, 2] {
        let what = format!("node {node} counts the seven forgeries, each for its own reason");
        eventually(SOON, &what, async || {
            let refused = refused_by_ledger(&world, node).await?;
            let expected =
                json!({"offer": 3, "unknown party": 1, "not its own": 2, "offer signature": 1});
            ensure!(refused == expected, "{refused}");
            Ok(())
        })
        .await?;
    }
    let before = world.status(1).await?["frames"]["refused"]["signature"].clone();
    forger.stranger()?;
    eventually(SOON, "a frame of nobody is counted", async || {
        let now = world.status(1).await?["frames"]["refused"]["signature"].clone();
        ensure!(now.as_u64() > before.as_u64(), "{before} {now}");
        Ok(())
    })
    .await?;
    let id = forger.overdraw()?.to_string();
    eventually(SOON, "the overdraft is refused", async || {
        let page = world.get(2, "/trades").await?;
        let mut trades = page["trades"].as_array().into_iter().flatten();
        let found = trades.find(|t| t["id"] == id.as_str());
        let refused = |t: &serde_json::Value| {
            t["status"] == "refused" && t["reason"] == "Insufficient credits"
        };
        ensure!(found.is_some_and(refused), "{page}");
        Ok(())
    })
    .await?;
    for node in [1, 2] {
        let shown = world.get(node, "/balances").await?;
        let list = shown["balances"].as_array().into_iter().flatten();
        let wh: Vec<_> = list.map(|b| b["balance_wh"].clone()).collect();
        ensure!(
            json!(wh) == json!([100_000, 100_000, 100_000]),
            "node {node}: {shown}"
        );
        let alarms = world.status(node).await?["alarms"].clone();
        ensure!(alarms == json!([]), "a leader wrote some of it: {alarms}");
    }
    Ok(())
}
