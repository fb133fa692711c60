//! One node from start to stop, in order. What can fail at the start fails before anybody is told of us.

use crate::backend::NodeBackend;
use crate::boot::{self, BootError};
use crate::clock::Clock;
use crate::config::{Config, Fault, Faults};
use crate::control;
use crate::desk::Desk;
use crate::disk::Disk;
use crate::driver::Ended;
use crate::facts::Board;
use crate::http;
use crate::links::{LinkError, LinkListener, Links};
use crate::live::{Parts, live};
use crate::metrics::Metrics;
use crate::udp::{Udp, UdpSettings};
use std::sync::Arc;
use synod_counter::OpenError;
use tokio::net::TcpListener;
use tokio::sync::watch;

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
    /// A setting contradicts what the cluster has agreed on.
    #[error("misconfigured: {0}")]
    Contradicted(String),
    /// The disk does not keep what must be kept.
    #[error("stopped: {0}")]
    Broken(String),
    /// The control socket.
    #[error(transparent)]
    Control(#[from] crate::control::ControlError),
}

/// Sockets, bound before anything else: a taken port is a fault of the configuration.
struct Doors {
    http: TcpListener,
    links: LinkListener,
    udp: Arc<Udp>,
}

/// Run one node until `stop` turns true.
pub async fn run(config: Config, stop: watch::Receiver<bool>) -> Result<(), NodeError> {
    let (desk, asks) = Desk::new();
    let desk = Arc::new(desk);
    let stop = either(stop, desk.quitting());
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
        Arc::clone(&desk),
    ));
    let control = control::serve(
        &disk.control_socket(),
        backend.clone(),
        stopped(stop.clone()),
    )
    .await?;
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
                desk,
                asks,
            };
            live(parts, chain, identity, membership, &backend, stop).await?
        }
        None => Ended::Stopped,
    };
    serving.abort();
    control.abort();
    match ended {
        Ended::Stopped => Ok(()),
        Ended::Fenced(why) => Err(NodeError::Fenced(why)),
        Ended::Contradicted(why) => Err(NodeError::Contradicted(why)),
        Ended::Broken(why) => Err(NodeError::Broken(why)),
    }
}

/// True as soon as one of the two is.
fn either(mut one: watch::Receiver<bool>, mut two: watch::Receiver<bool>) -> watch::Receiver<bool> {
    let (sender, both) = watch::channel(false);
    tokio::spawn(async move {
        tokio::select! {
            () = turned(&mut one) => {}
            () = turned(&mut two) => {}
        }
        sender.send_replace(true);
        // whoever still listens must not take an end of the sender for news
        sender.closed().await;
    });
    both
}

async fn turned(watch: &mut watch::Receiver<bool>) {
    // a sender that is gone stops as well: nobody could ask any more
    let _ = watch.wait_for(|stop| *stop).await;
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
        let both = format!("{} and the group {}", config.udp, config.group);
        taken("udp-port or --multicast-port", both, why.to_string());
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
