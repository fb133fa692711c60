//! A registered node: its log, its links, its loop. The engine starts only now, muted if it must be.

use crate::backend::NodeBackend;
use crate::book::Book;
use crate::boot::{Identity, Membership};
use crate::clock::Clock;
use crate::config::Config;
use crate::courier::{LinkCourier, Service};
use crate::desk::{Ask, Desk};
use crate::disk::Disk;
use crate::driver::{Driver, Ended, Sources};
use crate::errands::Errands;
use crate::facts::Board;
use crate::links::{LinkListener, LinkPeer, LinkSettings, Links};
use crate::metrics::Metrics;
use crate::post::Post;
use crate::run::NodeError;
use crate::udp::Udp;
use crate::watcher;
use crate::ways::Ways;
use rand_core::{OsRng, RngCore};
use std::sync::Arc;
use std::time::Duration;
use synod_chain::Chain;
use synod_cluster::Cluster;
use synod_counter::{Engine, Gate};
use synod_ledger::Ledger;
use synod_wire::ballot::Domain;
use synod_wire::seal::{Opener, Sealer, Windows};
use tokio::sync::{Notify, mpsc, watch};

/// The engine beats this often; its followers' lease is three to six times as long, well under the fail
/// time of either profile, so that a detected death never waits for a lease.
const ENGINE_HEARTBEAT: Duration = Duration::from_millis(50);
const ENGINE_ELECTION_MIN: Duration = Duration::from_millis(150);
const ENGINE_ELECTION_MAX: Duration = Duration::from_millis(300);
/// Frames that came over links and wait for the loop.
const LINK_FRAMES_MAX: usize = 256;
const REPORTS_MAX: usize = 64;
const SIGHTS_MAX: usize = 16;

/// What was ready before the registration.
pub(crate) struct Parts {
    pub config: Arc<Config>,
    pub disk: Disk,
    pub links: LinkListener,
    pub udp: Arc<Udp>,
    pub board: Arc<Board>,
    pub metrics: Arc<Metrics>,
    pub clock: Clock,
    pub desk: Arc<Desk>,
    pub asks: mpsc::Receiver<Ask>,
}

/// Open the log, then the links, then run the loop until it ends.
#[expect(
    clippy::too_many_lines,
    reason = "the order of a start, and one list of parts: best read in one piece"
)]
pub(crate) async fn live(
    parts: Parts,
    chain: Chain,
    identity: Arc<Identity>,
    membership: Membership,
    backend: &NodeBackend,
    stop: watch::Receiver<bool>,
) -> Result<Ended, NodeError> {
    let Parts {
        config,
        disk,
        links: listener,
        udp,
        board,
        metrics,
        clock,
        desk,
        asks,
    } = parts;
    for notice in &config.notices {
        tracing::info!("{notice}");
    }
    for token in &config.expected {
        if membership.view.member(*token).is_none_or(|m| !m.active) {
            tracing::warn!(
                "--nodes names {token}, which is not an active member of the contract (yet)"
            );
        }
    }
    let book = Arc::new(Book::default());
    book.hint(&config.peers);
    book.follow(&membership.view);
    let courier = Arc::new(LinkCourier::default());
    let (gate, engine) = open_log(&config, &disk, &membership, clock, courier.clone()).await?;
    let me = LinkSettings {
        cluster: config.cluster(),
        me: config.token,
        incarnation: membership.incarnation,
    };
    let (links, frames) = open_links(listener, me, &identity, Arc::clone(&book), engine.clone())?;
    courier.connect(links.clone());
    let wallet = Arc::clone(&identity.wallet);
    // before anything can be read: what was on the disk may be old
    board.update(|facts| facts.muted = membership.restarted);
    backend.connect(
        engine.clone(),
        links.clone(),
        Arc::clone(&gate),
        Arc::clone(&wallet),
    );

    let (report_sender, reports) = mpsc::channel(REPORTS_MAX);
    let (sight_sender, sights) = mpsc::channel(SIGHTS_MAX);
    let look = Arc::new(Notify::new());
    let nudges = [Arc::clone(&look), gate.behind()];
    let watching = tokio::spawn(watcher::follow(chain.clone(), nudges, sight_sender));
    let incarnation = membership.incarnation;
    let errands = Errands::new(
        Arc::clone(&config),
        incarnation,
        chain,
        wallet,
        engine.clone(),
        report_sender,
    );
    let sources = Sources {
        datagrams: udp.receive(),
        frames,
        sights,
        reports,
        asks,
        stop,
    };
    metrics.follow_udp(Arc::clone(&udp));
    let speaker = speaker(&config, &identity, &membership);
    let trader = synod_ledger::Identity {
        token: config.token,
        incarnation,
        cluster: config.cluster(),
        session: Arc::clone(&identity.session),
    };
    let driver = Driver {
        post: Post::new(links.clone()),
        // before anybody is suspected
        ways: Ways::new(config.timing.heartbeat_ms * 3),
        disk,
        desk,
        ledger: Ledger::new(config.trades.clone(), trader),
        ledger_seen: (0, (None, false, false)),
        double_said: false,
        caller: None,
        ended: None,
        cluster: Cluster::new(config.timing.clone(), speaker, clock.now_ms()),
        sealer: Sealer::new(config.cluster(), config.token, incarnation),
        opener: Opener {
            cluster: config.cluster(),
            me: config.token,
        },
        windows: Windows::default(),
        view: membership.view.clone(),
        published_at: 0,
        stranger_look_at: 0,
        config,
        identity,
        membership,
        board,
        metrics,
        clock,
        book,
        engine,
        gate,
        udp,
        errands,
        look,
    };
    let ended = driver.run(sources).await;
    watching.abort();
    links.close_all();
    Ok(ended)
}

async fn open_log(
    config: &Config,
    disk: &Disk,
    membership: &Membership,
    clock: Clock,
    courier: Arc<LinkCourier>,
) -> Result<(Arc<Gate>, Engine), NodeError> {
    let gate = Arc::new(Gate::since(config.token, clock.epoch()));
    if membership.restarted {
        gate.update(|standing| standing.mute = synod_counter::Mute::Muted);
    }
    let settings = synod_counter::Settings {
        token: config.token,
        cluster: config.cluster(),
        dir: disk.log_dir(),
        heartbeat: ENGINE_HEARTBEAT,
        election_min: ENGINE_ELECTION_MIN,
        election_max: ENGINE_ELECTION_MAX,
    };
    let engine = Engine::open(settings, Arc::clone(&gate), courier).await?;
    Ok((gate, engine))
}

type LinkFrames = mpsc::Receiver<(LinkPeer, Vec<u8>)>;

fn open_links(
    listener: LinkListener,
    me: LinkSettings,
    identity: &Identity,
    book: Arc<Book>,
    engine: Engine,
) -> Result<(Links, LinkFrames), NodeError> {
    let (sender, frames) = mpsc::channel(LINK_FRAMES_MAX);
    let service = Arc::new(Service {
        engine,
        frames: sender,
    });
    let session = Arc::clone(&identity.session);
    let links = listener.start(me, session, identity.tls.clone(), book, service)?;
    Ok((links, frames))
}

fn speaker(
    config: &Config,
    identity: &Identity,
    membership: &Membership,
) -> synod_cluster::Identity {
    let mut nonce = [0; 16];
    OsRng.fill_bytes(&mut nonce);
    synod_cluster::Identity {
        token: config.token,
        incarnation: membership.incarnation,
        registered_term: membership.term,
        restarted: membership.restarted,
        session: Arc::clone(&identity.session),
        domain: Domain {
            chain_id: config.chain_id,
            contract: config.contract,
        },
        nonce,
        http: config.http.to_string(),
    }
}
