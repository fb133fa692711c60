//! From a TCP connection to a verified peer. The dialler speaks first, because only it knows whom it means;
//! the acceptor answers with its own hello, or with two bytes {0, reason} and the end. Every wait in here lies
//! within the caller's one deadline.

use super::{LinkPeer, Shared, stats};
use crate::tls::{self, PinDiffers};
use rustls::pki_types::{CertificateDer, ServerName};
use std::io;
use synod_wire::hello::{Expected, HELLO_LEN, Hello, HelloRefused};
use synod_wire::{Hash, Token};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

/// RFC 8446 section 7.5; the value of this very session, which no relay can have on its other side.
const EXPORTER_LABEL: &[u8] = b"EXPORTER-synod-hello-v1";
/// First byte of a hello: its version. Anything else is not read on.
const HELLO_FIRST: u8 = 1;
/// First byte of a refusal.
const REFUSED_FIRST: u8 = 0;

/// Why no link came about.
#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error("TLS: {0}")]
    Tls(String),
    #[error("{0}")]
    Pin(PinDiffers),
    #[error("{0}")]
    Hello(#[from] HelloRefused),
    #[error("no verified hello in time")]
    Slow,
    #[error("connection lost before the hello: {0}")]
    Gone(String),
    #[error("refused there: {0}")]
    There(&'static str),
}

/// What TLS itself tells about a session.
struct Session {
    /// SHA-256 of the other side's SubjectPublicKeyInfo.
    spki: Hash,
    exporter: [u8; 32],
}

impl Session {
    fn of<D>(connection: &rustls::ConnectionCommon<D>) -> Result<Self, Refusal> {
        let tls = |why: rustls::Error| Refusal::Tls(why.to_string());
        if connection.alpn_protocol() != Some(tls::ALPN) {
            return Err(Refusal::Tls("the other side does not speak synod/1".into()));
        }
        let shown: Option<&CertificateDer<'_>> =
            connection.peer_certificates().and_then(<[_]>::first);
        let certificate = shown.ok_or_else(|| Refusal::Tls("no certificate".into()))?;
        let spki = tls::spki_hash(certificate).map_err(tls)?;
        let exporter = connection
            .export_keying_material([0; 32], EXPORTER_LABEL, None)
            .map_err(tls)?;
        Ok(Self { spki, exporter })
    }

    fn expect(&self, shared: &Shared, token: Option<Token>) -> Expected {
        Expected {
            cluster: shared.settings.cluster,
            log_id: shared.book.log_id(),
            token,
            me: shared.settings.me,
            spki: self.spki,
            exporter: self.exporter,
        }
    }

    fn hello(&self, shared: &Shared, peer: Token) -> Vec<u8> {
        let hello = Hello {
            cluster: shared.settings.cluster,
            log_id: shared.book.log_id(),
            token: shared.settings.me,
            incarnation: shared.settings.incarnation,
            spki: shared.tls.spki_hash(),
            peer,
            exporter: self.exporter,
        };
        hello.seal(&shared.session)
    }
}

/// The dialling side.
pub(super) async fn dial(
    shared: &Shared,
    to: LinkPeer,
    tcp: TcpStream,
) -> Result<(TlsStream<TcpStream>, LinkPeer), Refusal> {
    let config = shared
        .tls
        .dialling(shared.pin(to))
        .map_err(|e| Refusal::Tls(e.to_string()))?;
    // never sent (SNI is off) and never compared: rustls wants some name
    let name = ServerName::try_from("synod.invalid").map_err(|e| Refusal::Tls(e.to_string()))?;
    let mut stream = TlsConnector::from(config)
        .connect(name, tcp)
        .await
        .map_err(tls_refusal)?;
    let session = Session::of(stream.get_ref().1)?;
    stream
        .write_all(&session.hello(shared, to.token))
        .await
        .map_err(tls_refusal)?;
    stream.flush().await.map_err(tls_refusal)?;
    let said = read_reply(&mut stream).await?;
    let peer = open(shared, &session, Some(to.token), &said)?;
    Ok((stream.into(), peer))
}

/// The listening side. A refused stranger is told the reason's number, nothing more.
pub(super) async fn accept(
    shared: &Shared,
    acceptor: &TlsAcceptor,
    tcp: TcpStream,
) -> Result<(TlsStream<TcpStream>, LinkPeer), Refusal> {
    let mut stream = acceptor.accept(tcp).await.map_err(tls_refusal)?;
    let session = Session::of(stream.get_ref().1)?;
    let greeted = match read_hello(&mut stream).await {
        Ok(said) => open(shared, &session, None, &said),
        Err(why) => Err(why),
    };
    match greeted {
        Ok(peer) => {
            stream
                .write_all(&session.hello(shared, peer.token))
                .await
                .map_err(gone)?;
            stream.flush().await.map_err(gone)?;
            Ok((stream.into(), peer))
        }
        Err(why) => {
            tell(&mut stream, &why).await;
            Err(why)
        }
    }
}

fn open(
    shared: &Shared,
    session: &Session,
    dialled: Option<Token>,
    said: &[u8],
) -> Result<LinkPeer, Refusal> {
    let hello = Hello::open(said, &session.expect(shared, dialled), shared.book.as_ref())?;
    let peer = LinkPeer {
        token: hello.from(),
        incarnation: hello.incarnation(),
    };
    if let Some(expected) = shared.pin(peer).filter(|pin| *pin != session.spki) {
        return Err(Refusal::Pin(PinDiffers {
            expected,
            found: session.spki,
        }));
    }
    shared.learn_pin(peer, session.spki);
    Ok(peer)
}

/// What the acceptor says: its hello, or why it refused ours.
async fn read_reply<S: AsyncRead + Unpin>(stream: &mut S) -> Result<[u8; HELLO_LEN], Refusal> {
    let first = stream.read_u8().await.map_err(tls_refusal)?;
    if first == REFUSED_FIRST {
        let number = stream.read_u8().await.map_err(tls_refusal)?;
        return Err(Refusal::There(stats::reason(number)));
    }
    read_rest(first, stream).await
}

/// What a dialler says, and nothing else.
async fn read_hello<S: AsyncRead + Unpin>(stream: &mut S) -> Result<[u8; HELLO_LEN], Refusal> {
    let first = stream.read_u8().await.map_err(tls_refusal)?;
    read_rest(first, stream).await
}

async fn read_rest<S: AsyncRead + Unpin>(
    first: u8,
    stream: &mut S,
) -> Result<[u8; HELLO_LEN], Refusal> {
    if first != HELLO_FIRST {
        return Err(HelloRefused::NotAHello.into());
    }
    let mut said = [0; HELLO_LEN];
    let (head, rest) = said.split_at_mut(1);
    head.fill(first);
    stream.read_exact(rest).await.map_err(tls_refusal)?;
    Ok(said)
}

async fn tell<S: AsyncWrite + Unpin>(stream: &mut S, why: &Refusal) {
    // they are refused either way; that they hear the reason is a courtesy
    if stream
        .write_all(&[REFUSED_FIRST, stats::number(why.label())])
        .await
        .is_ok()
    {
        stream.shutdown().await.ok();
    }
}

fn gone(why: io::Error) -> Refusal {
    Refusal::Gone(why.to_string())
}

/// tokio-rustls wraps what rustls says into an I/O error; the pin's expected and found are inside.
fn tls_refusal(why: io::Error) -> Refusal {
    use rustls::{CertificateError, Error};
    match why
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<Error>())
    {
        Some(Error::InvalidCertificate(CertificateError::Other(other))) => {
            match other.0.downcast_ref::<PinDiffers>() {
                Some(pin) => Refusal::Pin(PinDiffers {
                    expected: pin.expected,
                    found: pin.found,
                }),
                None => Refusal::Tls(other.to_string()),
            }
        }
        Some(tls) => Refusal::Tls(tls.to_string()),
        None => gone(why),
    }
}

/// The acceptor's side of TLS.
pub(super) fn acceptor(shared: &Shared) -> Result<TlsAcceptor, tls::TlsFault> {
    shared.tls.accepting().map(TlsAcceptor::from)
}
