//! One node from start to stop, in order. What can fail at the start fails before anybody is told of us.

use crate::backend::NodeBackend;
use crate::book::Book;
use crate::boot::{self, BootError, Identity, Membership};
use crate::clock::Clock;
use crate::config::{Config, Fault, Faults};
use crate::courier::{LinkCourier, Service};
use crate::disk::Disk;
use crate::driver::{Driver, Ended, Sources};
use crate::errands::Errands;
use crate::facts::Board;
use crate::links::{LinkError, LinkListener, LinkSettings, Links};
use crate::metrics::Metrics;
use crate::udp::{Udp, UdpSettings};
use crate::{http, watcher};
use rand_core::{OsRng, RngCore};
use std::sync::Arc;
use std::time::Duration;
use synod_chain::Chain;
use synod_cluster::Cluster;
use synod_counter::{Engine, Gate, OpenError};
use synod_wire::ballot::Domain;
use synod_wire::seal::{Opener, Sealer, Windows};
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc, watch};

/// The engine beats this often; its followers' lease is three to six times as long, well under the fail
/// time of either profile, so that a detected death never waits for a lease.
const ENGINE_HEARTBEAT: Duration = Duration::from_millis(50);
const ENGINE_ELECTION_MIN: Duration = Duration::from_millis(150);
const ENGINE_ELECTION_MAX: Duration = Duration::from_millis(300);
/// Frames that came over links and wait for the loop.
const LINK_FRAMES_MAX: usize = 256;

/// Why a node stopped by itself.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// See [`Faults`].
    #[error(transparent)]
    Config(#[from] Faults),
    /// See [`BootError`].
    #[error(transparent)]
    Boot(#[from] BootError),
    /// The log on disk.
    #[error("log: {0}")]
    Log(#[from] OpenError),
    /// The links cannot be started.
    #[error(transparent)]
    Links(#[from] LinkError),
    /// Another boot of this token has taken over, or its rights ended.
    #[error("stopped: {0}")]
    Fenced(String),
}

/// Sockets, bound before anything else: a taken port is a fault of the configuration.
struct Doors {
    http: TcpListener,
    links: LinkListener,
    udp: Arc<Udp>,
}

/// Run one node until `stop` turns true.
pub async fn run(config: Config, stop: watch::Receiver<bool>) -> Result<(), NodeError> {
    let clock = Clock::start();
    let config = Arc::new(config);
    let disk =
        Disk::open(&config.data_dir, config.cluster(), config.token).map_err(BootError::from)?;
    let doors = open_doors(&config).await?;
    let board = Arc::new(Board::default());
    let metrics = Arc::new(Metrics::default());
    let backend = Arc::new(NodeBackend::new(
        Arc::clone(&config),
        Arc::clone(&board),
        Arc::clone(&metrics),
    ));
    let serving = tokio::spawn(http::serve(
        doors.http,
        backend.clone(),
        config.http_names.clone(),
        stopped(stop.clone()),
    ));

    let mut asked = stop.clone();
    let life = async {
        let chain = boot::connect(&config, &board).await?;
        let identity = Arc::new(boot::identify(&config, &disk, &chain, &board).await?);
        let membership = boot::register(&config, &identity, &chain, &board).await?;
        Ok::<_, NodeError>((chain, identity, membership))
    };
    let booted = tokio::select! {
        booted = life => Some(booted?),
        () = async { while !*asked.borrow_and_update() { if asked.changed().await.is_err() { break } } } => None,
    };
    let ended = match booted {
        Some((chain, identity, membership)) => {
            let parts = Parts {
                config,
                disk,
                links: doors.links,
                udp: doors.udp,
                board,
                metrics,
                clock,
            };
            live(parts, chain, identity, membership, &backend, stop).await?
        }
        None => Ended::Stopped,
    };
    serving.abort();
    match ended {
        Ended::Stopped => Ok(()),
        Ended::Fenced(why) => Err(NodeError::Fenced(why)),
    }
}

async fn stopped(mut stop: watch::Receiver<bool>) {
    while !*stop.borrow_and_update() {
        if stop.changed().await.is_err() {
            return;
        }
    }
}

async fn open_doors(config: &Config) -> Result<Doors, Faults> {
    let mut faults = Vec::new();
    let mut taken = |option: &str, address: String, why: String| {
        faults.push(Fault {
            origin: format!("--{option}"),
            expected: format!("a free port at {address}"),
            found: why,
            remedy: format!("stop the process that holds it, or give another --{option}"),
        });
    };
    let http = TcpListener::bind(config.http).await;
    let links = Links::bind(config.link.into());
    let settings = UdpSettings {
        group: config.group,
        interface: config.interface,
        unicast: config.udp,
    };
    let udp = Udp::bind(settings);
    if let Err(why) = &http {
        taken("http-port", config.http.to_string(), why.to_string());
    }
    if let Err(why) = &links {
        taken("link-port", config.link.to_string(), why.to_string());
    }
    if let Err(why) = &udp {
        taken("udp-port", config.udp.to_string(), why.to_string());
    }
    match (http, links, udp) {
        (Ok(http), Ok(links), Ok(udp)) => Ok(Doors {
            http,
            links,
            udp: Arc::new(udp),
        }),
        _ => Err(Faults(faults)),
    }
}

struct Parts {
    config: Arc<Config>,
    disk: Disk,
    links: LinkListener,
    udp: Arc<Udp>,
    board: Arc<Board>,
    metrics: Arc<Metrics>,
    clock: Clock,
}

/// Registered: open the log, the links, the loop. The engine starts only now, muted if it must be.
async fn live(
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
    } = parts;
    let book = Arc::new(Book::default());
    book.follow(&membership.view);
    let gate = Arc::new(Gate::since(config.token, clock.epoch()));
    if membership.restarted {
        gate.update(|standing| standing.mute = synod_counter::Mute::Muted);
    }
    let courier = Arc::new(LinkCourier::default());
    let settings = synod_counter::Settings {
        token: config.token,
        cluster: config.cluster(),
        dir: disk.log_dir(),
        heartbeat: ENGINE_HEARTBEAT,
        election_min: ENGINE_ELECTION_MIN,
        election_max: ENGINE_ELECTION_MAX,
    };
    let engine = Engine::open(settings, Arc::clone(&gate), courier.clone()).await?;
    let (frame_sender, frames) = mpsc::channel(LINK_FRAMES_MAX);
    let service = Arc::new(Service {
        engine: engine.clone(),
        frames: frame_sender,
    });
    let me = LinkSettings {
        cluster: config.cluster(),
        me: config.token,
        incarnation: membership.incarnation,
    };
    let links = listener.start(
        me,
        Arc::clone(&identity.session),
        identity.tls.clone(),
        book.clone(),
        service,
    )?;
    courier.connect(links.clone());
    backend.connect(
        engine.clone(),
        links.clone(),
        Arc::clone(&gate),
        Arc::clone(&identity.wallet),
    );

    let (report_sender, reports) = mpsc::channel(64);
    let (sight_sender, sights) = mpsc::channel(16);
    let look = Arc::new(Notify::new());
    let watching = tokio::spawn(watcher::follow(
        chain.clone(),
        [Arc::clone(&look), gate.behind()],
        sight_sender,
    ));
    let wallet = Arc::clone(&identity.wallet);
    let errands = Errands::new(
        Arc::clone(&config),
        membership.incarnation,
        chain,
        wallet,
        engine.clone(),
        report_sender,
    );
    let datagrams = udp.receive();
    metrics.follow_udp(Arc::clone(&udp));
    let driver = Driver {
        cluster: Cluster::new(
            config.timing.clone(),
            speaker(&config, &identity, &membership),
            clock.now_ms(),
        ),
        sealer: Sealer::new(config.cluster(), config.token, membership.incarnation),
        opener: Opener {
            cluster: config.cluster(),
            me: config.token,
        },
        windows: Windows::default(),
        view: membership.view.clone(),
        published_at: 0,
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
    let ended = driver
        .run(Sources {
            datagrams,
            frames,
            sights,
            reports,
            stop,
        })
        .await;
    watching.abort();
    links.close_all();
    Ok(ended)
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
