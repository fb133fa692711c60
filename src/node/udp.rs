//! Datagrams: one multicast group for everybody, one unicast port per node. Everything is sent from the
//! unicast socket, so the source address of a frame is where its sender can be answered.
//!
//! Best effort by design: an I/O error is counted and never ends a loop (defect D20 of the prototype), a full
//! queue drops the newest. Nothing here looks into a datagram; who wrote it is decided by `wire::seal`.

use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use synod_wire::seal::FRAME_LEN_MAX;
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::task::JoinHandle;

/// Datagrams that wait for the driver, at most.
pub const QUEUE_LEN_MAX: usize = 1_024;
/// A failing socket is asked again this much later.
const RETRY: Duration = Duration::from_millis(20);

/// Where to listen.
#[derive(Clone, Copy, Debug)]
pub struct UdpSettings {
    /// Group and port shared by all nodes.
    pub group: SocketAddrV4,
    /// Interface that carries the group; named, so no route is needed.
    pub interface: Ipv4Addr,
    /// This node's own address; nobody else may have it.
    pub unicast: SocketAddrV4,
}

/// A socket could not be set up.
#[derive(Debug, thiserror::Error)]
#[error("cannot {act} UDP {address}: {why}; {remedy}")]
pub struct UdpError {
    act: &'static str,
    address: SocketAddrV4,
    why: io::Error,
    remedy: &'static str,
}

/// Which socket a datagram came through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Via {
    /// The group.
    Multicast,
    /// Our own port.
    Unicast,
}

/// Bytes from anybody. One byte more than the longest frame means "longer, cut".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Datagram {
    /// What came.
    pub bytes: Vec<u8>,
    /// The source address, which anybody can forge.
    pub from: SocketAddr,
    /// Through which socket.
    pub via: Via,
}

/// Counted since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UdpStats {
    /// Datagrams handed to the driver.
    pub received: u64,
    /// Dropped because the driver's queue was full.
    pub dropped: u64,
    /// Datagrams sent.
    pub sent: u64,
    /// Errors of receiving.
    pub receive_errors: u64,
    /// Errors of sending.
    pub send_errors: u64,
}

#[derive(Default)]
struct Counts {
    received: AtomicU64,
    dropped: AtomicU64,
    sent: AtomicU64,
    receive_errors: AtomicU64,
    send_errors: AtomicU64,
}

/// Both sockets. The receiving loops end when this is dropped.
pub struct Udp {
    settings: UdpSettings,
    group: Arc<UdpSocket>,
    unicast: Arc<UdpSocket>,
    counts: Arc<Counts>,
    receiving: AtomicBool,
    loops: Mutex<Vec<JoinHandle<()>>>,
}

impl Udp {
    /// Both sockets, or a sentence about the one that could not be had. Needs a tokio runtime.
    pub fn bind(settings: UdpSettings) -> Result<Self, UdpError> {
        let unicast = unicast_socket(&settings).map_err(|why| UdpError {
            act: "take",
            address: settings.unicast,
            why,
            remedy: "another process (perhaps a second copy of this node) has the port, or the address is \
                     not of this machine: stop it, or choose with --udp-port and --host",
        })?;
        let group = group_socket(&settings).map_err(|why| UdpError {
            act: "join",
            address: settings.group,
            why,
            remedy: "name an interface of this machine with --interface, or a multicast group",
        })?;
        let counts = Arc::default();
        let (receiving, loops) = (AtomicBool::new(false), Mutex::default());
        Ok(Self {
            settings,
            group: Arc::new(group),
            unicast: Arc::new(unicast),
            counts,
            receiving,
            loops,
        })
    }

    /// Start receiving. Once per `Udp`: two readers would each see half.
    pub fn receive(&self) -> mpsc::Receiver<Datagram> {
        assert!(
            !self.receiving.swap(true, Ordering::SeqCst),
            "the datagrams have one reader"
        );
        let (queue, driver) = mpsc::channel(QUEUE_LEN_MAX);
        let mut loops = self.loops.lock().unwrap_or_else(PoisonError::into_inner);
        for (socket, via) in [(&self.group, Via::Multicast), (&self.unicast, Via::Unicast)] {
            let (socket, counts) = (Arc::clone(socket), Arc::clone(&self.counts));
            loops.push(tokio::spawn(receive_loop(
                socket,
                via,
                queue.clone(),
                counts,
            )));
        }
        driver
    }

    /// To the group; our own copy comes back too.
    pub async fn send_all(&self, frame: &[u8]) {
        self.send_to(SocketAddr::V4(self.settings.group), frame)
            .await;
    }

    /// To one address.
    pub async fn send_to(&self, to: SocketAddr, frame: &[u8]) {
        match self.unicast.send_to(frame, to).await {
            Ok(_) => count(&self.counts.sent),
            Err(why) => {
                count(&self.counts.send_errors);
                tracing::debug!(%to, %why, "datagram not sent");
            }
        }
    }

    /// Our unicast address, with the real port when 0 was asked for.
    pub fn unicast(&self) -> io::Result<SocketAddr> {
        self.unicast.local_addr()
    }

    /// Counts since the start.
    pub fn stats(&self) -> UdpStats {
        let read = |n: &AtomicU64| n.load(Ordering::Relaxed);
        UdpStats {
            received: read(&self.counts.received),
            dropped: read(&self.counts.dropped),
            sent: read(&self.counts.sent),
            receive_errors: read(&self.counts.receive_errors),
            send_errors: read(&self.counts.send_errors),
        }
    }
}

impl Drop for Udp {
    fn drop(&mut self) {
        let mut loops = self.loops.lock().unwrap_or_else(PoisonError::into_inner);
        loops.drain(..).for_each(|task| task.abort());
    }
}

fn count(n: &AtomicU64) {
    n.fetch_add(1, Ordering::Relaxed);
}

async fn receive_loop(
    socket: Arc<UdpSocket>,
    via: Via,
    queue: mpsc::Sender<Datagram>,
    counts: Arc<Counts>,
) {
    let mut buffer = [0; FRAME_LEN_MAX + 1];
    loop {
        match socket.recv_from(&mut buffer).await {
            Ok((len, from)) => {
                let bytes = buffer.get(..len).unwrap_or_default().to_vec();
                match queue.try_send(Datagram { bytes, from, via }) {
                    Ok(()) => count(&counts.received),
                    Err(TrySendError::Full(_)) => count(&counts.dropped),
                    Err(TrySendError::Closed(_)) => return,
                }
            }
            Err(why) => {
                count(&counts.receive_errors);
                tracing::debug!(?via, %why, "datagram not received");
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

/// Exclusive: no SO_REUSEADDR, so a second copy of this node is noticed here.
fn unicast_socket(settings: &UdpSettings) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_multicast_if_v4(&settings.interface)?;
    socket.set_multicast_ttl_v4(1)?;
    socket.set_multicast_loop_v4(true)?;
    socket.bind(&SockAddr::from(settings.unicast))?;
    tokio_socket(socket)
}

/// Shared port, bound to the group's own address: unicast sent to this port is not ours to read.
fn group_socket(settings: &UdpSettings) -> io::Result<UdpSocket> {
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&SockAddr::from(settings.group))?;
    socket.join_multicast_v4(settings.group.ip(), &settings.interface)?;
    tokio_socket(socket)
}

fn tokio_socket(socket: Socket) -> io::Result<UdpSocket> {
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket.into())
}

#[cfg(test)]
mod tests;
