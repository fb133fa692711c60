//! A member whose code was replaced: genuinely registered, with a session key, real links and a real engine,
//! but saying whatever the test wants. Not a mock: an attacker.
#![allow(dead_code)] // each test file uses its part

use super::World;
use anyhow::{Context, Result};
use futures_util::future::BoxFuture;
use std::collections::BTreeMap;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::Mutex;
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
use synod_node::links::{LinkPeer, LinkService, LinkSettings, Links};
use synod_node::{Config, Said};
use synod_wire::seal::Sealer;
use synod_wire::{Message, Term, Token};

/// A member's door that keeps what comes in: the leader's own requests, ready to be sent on as if they were ours.
pub struct Door {
    service: Service,
    pub heard: Mutex<Vec<Vec<u8>>>,
}

impl LinkService for Door {
    fn answer(&self, from: LinkPeer, request: Vec<u8>) -> BoxFuture<'static, Vec<u8>> {
        let mut heard = self
            .heard
            .lock()
            .expect("no test panics while it holds this");
        if heard.len() < 100 {
            heard.push(request.clone());
        }
        self.service.answer(from, request)
    }

    fn frame(&self, from: LinkPeer, bytes: Vec<u8>) {
        self.service.frame(from, bytes);
    }
}

pub struct Liar {
    pub config: Config,
    pub identity: Identity,
    pub sealer: Sealer,
    pub socket: UdpSocket,
    pub book: Arc<Book>,
    pub gate: Arc<Gate>,
    pub engine: Engine,
    pub links: Links,
    pub door: Arc<Door>,
    _disk: Disk,
}

impl Liar {
    /// Registers token `id`, as its node would.
    #[expect(
        clippy::too_many_lines,
        reason = "the steps of a node's start, by hand"
    )]
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
        let service = Service {
            engine: engine.clone(),
            frames,
        };
        let door = Arc::new(Door {
            service,
            heard: Mutex::default(),
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
            door.clone(),
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
            links,
            door,
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
            standing.mute = synod_counter::Mute::Unmuted;
            standing.term = term;
            standing.leader = Some(me);
        });
        self.engine.claim(Some((term, 1)));
    }
}
