//! A member whose code was replaced: genuinely registered, with a session key, real links and a real engine,
//! but saying whatever the test wants. Not a mock: an attacker.

use super::World;
use anyhow::{Context, Result};
use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::sync::Arc;
use std::time::Duration;
use synod_chain::Wallet;
use synod_chain::operator;
use synod_counter::{Engine, Gate, Settings};
use synod_devchain::DEV_KEYS;
use synod_node::book::Book;
use synod_node::boot::{self, Identity};
use synod_node::courier::{LinkCourier, Service};
use synod_node::disk::Disk;
use synod_node::facts::Board;
use synod_node::links::{LinkSettings, Links};
use synod_node::{Config, Said};
use synod_wire::seal::Sealer;
use synod_wire::{Message, Term, Token};

pub struct Liar {
    pub config: Config,
    pub identity: Identity,
    pub sealer: Sealer,
    pub socket: UdpSocket,
    pub book: Arc<Book>,
    pub gate: Arc<Gate>,
    pub engine: Engine,
    _links: Links,
    _disk: Disk,
}

impl Liar {
    /// Registers token `id`, as its node would.
    #[expect(clippy::too_many_lines, reason = "the steps of a node's start, by hand")]
    pub async fn register(world: &World, id: u64) -> Result<Self> {
        let mut said = BTreeMap::from([("token", id.to_string())]);
        let words = &world.node(id).args[2..];
        for pair in words.chunks(2) {
            let name = pair[0].trim_start_matches("--");
            let known = synod_node::SOURCES
                .iter()
                .find(|(n, _, _)| *n == name)
                .context("a known option")?;
            said.insert(known.0, pair[1].clone());
        }
        let config = Config::resolve(&Said(said), &|_| None)?;
        let disk = Disk::open(&config.data_dir, config.cluster(), config.token)?;
        let board = Board::default();
        let chain = boot::connect(&config, &board).await?;
        let identity = boot::identify(&config, &disk, &chain, &board).await?;
        let owner = Wallet::from_secret(&DEV_KEYS[id as usize - 1])?;
        let wallet = identity.wallet.address();
        let gas = 1_000_000_000_000_000_000;
        operator::adopt(
            &chain,
            &owner,
            config.token,
            wallet,
            identity.instance_id,
            gas,
        )
        .await?;
        let membership = boot::register(&config, &identity, &chain, &board).await?;
        let book = Arc::new(Book::default());
        book.follow(&membership.view);
        let gate = Arc::new(Gate::new(config.token));
        let courier = Arc::new(LinkCourier::default());
        let settings = Settings {
            token: config.token,
            cluster: config.cluster(),
            dir: disk.log_dir(),
            heartbeat: Duration::from_millis(50),
            election_min: Duration::from_millis(150),
            election_max: Duration::from_millis(300),
        };
        let engine = Engine::open(settings, Arc::clone(&gate), courier.clone()).await?;
        let (frames, _) = tokio::sync::mpsc::channel(16);
        let service = Arc::new(Service {
            engine: engine.clone(),
            frames,
        });
        let me = LinkSettings {
            cluster: config.cluster(),
            me: config.token,
            incarnation: membership.incarnation,
        };
        let listener = Links::bind(config.link.into())?;
        let links = listener.start(
            me,
            Arc::clone(&identity.session),
            identity.tls.clone(),
            book.clone(),
            service,
        )?;
        courier.connect(links.clone());
        let sealer = Sealer::new(config.cluster(), config.token, membership.incarnation);
        let socket = UdpSocket::bind("127.0.0.1:0")?;
        Ok(Self {
            config,
            identity,
            sealer,
            socket,
            book,
            gate,
            engine,
            _links: links,
            _disk: disk,
        })
    }

    /// A genuine frame of this member.
    pub fn frame(&mut self, to: Option<Token>, message: &Message) -> Vec<u8> {
        self.sealer.seal(&self.identity.session, to, message)
    }

    pub fn send(&self, world: &World, node: u64, frame: &[u8]) -> Result<()> {
        self.socket
            .send_to(frame, ("127.0.0.1", world.node(node).udp))?;
        Ok(())
    }

    /// Its own gate believes that the contract elected it for this term.
    pub fn usurp(&self, term: Term) {
        let me = self.config.token;
        self.gate.update(|standing| {
            standing.term = term;
            standing.leader = Some(me);
        });
        self.engine.claim(Some((term, 1)));
    }
}
