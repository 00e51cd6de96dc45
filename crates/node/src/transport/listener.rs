//! Connections of other custodians: bound first, then served until told to stop.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin as Pinned;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tonic::transport::server::Connected;

use super::PeerHandler;
use super::certificate::{Certificate, Pin};
use super::service::Service;
use super::tls::{self, Pins, Shown, TlsError};
use crate::limits;
use crate::proto::peer::peer_server::PeerServer;

/// Why a custodian can't listen.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Somebody else listens there.
    #[error("{address} is in use: stop what listens there, or set another peer address in the configuration")]
    InUse {
        /// The address.
        address: String,
    },
    /// Anything else.
    #[error("can't listen on {address}: {source}; check the peer address in the configuration")]
    Other {
        /// The address.
        address: String,
        /// What the system said.
        #[source]
        source: io::Error,
    },
}

/// How far a listener's end has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Phase {
    /// At work.
    Serving,
    /// No new connections; streams of messages end, calls may finish.
    Stopping,
    /// Calls end as well.
    Cut,
}

/// Ends when a listener has come to `phase`, or is gone.
pub(super) async fn reached(end: &mut watch::Receiver<Phase>, phase: Phase) {
    let _ = end.wait_for(|now| *now >= phase).await;
}

/// A bound address, not served yet.
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
}

impl Listener {
    /// Binds `address` (`host:port`; port 0 takes any free one).
    ///
    /// # Errors
    /// [`BindError`] names the address and what to do.
    pub async fn bind(address: &str) -> Result<Self, BindError> {
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::AddrInUse => BindError::InUse { address: address.to_owned() },
            _ => BindError::Other { address: address.to_owned(), source },
        };
        let socket = TcpListener::bind(address).await.map_err(failed)?;
        let bound = socket.local_addr().map_err(failed)?;
        Ok(Self { socket, address: bound })
    }

    /// Where it listens, with the port it got.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves `handler` to the members of `pins`.
    ///
    /// # Errors
    /// [`TlsError`] when certificate and key don't fit.
    pub fn serve<H: PeerHandler>(
        self,
        certificate: &Certificate,
        pins: Pins,
        handler: Arc<H>,
    ) -> Result<Serving, TlsError> {
        let shown = Shown::new(certificate)?;
        let acceptor = TlsAcceptor::from(tls::server(shown.clone(), pins.clone())?);
        let (stop, stopped) = watch::channel(Phase::Serving);
        let (accepted, incoming) = mpsc::channel(limits::MAX_HANDSHAKES);
        let accepting = tokio::spawn(accept(self.socket, acceptor, pins.clone(), accepted, stopped.clone()));
        let service = PeerServer::new(Service::new(handler, pins, stopped.clone()))
            .max_decoding_message_size(limits::MAX_MESSAGE_BYTES)
            .max_encoding_message_size(limits::MAX_MESSAGE_BYTES);
        let streams = u32::try_from(2 * limits::MAX_CALLS_PER_PEER).unwrap_or(u32::MAX);
        let server = Server::builder()
            .max_concurrent_streams(streams)
            .initial_stream_window_size(1024 * 1024)
            .initial_connection_window_size(4 * 1024 * 1024)
            .http2_keepalive_interval(Some(limits::KEEPALIVE))
            .http2_keepalive_timeout(Some(limits::KEEPALIVE / 2));
        let mut ending = stopped;
        let serving = tokio::spawn(async move {
            let incoming = ReceiverStream::new(incoming);
            let stop = async move { reached(&mut ending, Phase::Stopping).await };
            // Ends without error: failures of single connections don't reach it.
            if let Err(error) = server.serve_with_incoming_shutdown(service, incoming, stop).await {
                tracing::error!(%error, "the peer listener failed");
            }
        });
        Ok(Serving { address: self.address, shown, stop, accepting, serving })
    }
}

/// A listener at work. Dropping it stops it without waiting.
pub struct Serving {
    address: SocketAddr,
    shown: Shown,
    stop: watch::Sender<Phase>,
    accepting: JoinHandle<()>,
    serving: JoinHandle<()>,
}

impl Serving {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it shows to those who connect; another one may be shown any time.
    pub fn shown(&self) -> &Shown {
        &self.shown
    }

    /// Takes no more connections, lets open calls finish for [`limits::SHUTDOWN_GRACE`], then cuts them.
    pub async fn shutdown(mut self) {
        for phase in [Phase::Stopping, Phase::Cut] {
            self.stop.send_replace(phase);
            if tokio::time::timeout(limits::SHUTDOWN_GRACE, &mut self.serving).await.is_ok() {
                break;
            }
        }
        // The address is free when this returns: the same custodian may bind it again at once.
        self.accepting.abort();
        let _ = (&mut self.accepting).await;
        // What is left is aborted with the drop.
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.stop.send_replace(Phase::Cut);
        self.accepting.abort();
        self.serving.abort();
    }
}

type Open = Arc<Mutex<BTreeMap<u16, usize>>>;

async fn accept(
    socket: TcpListener,
    acceptor: TlsAcceptor,
    pins: Pins,
    accepted: mpsc::Sender<Result<Connection, io::Error>>,
    mut stopped: watch::Receiver<Phase>,
) {
    let handshakes = Arc::new(Semaphore::new(limits::MAX_HANDSHAKES));
    let open = Open::default();
    let mut tasks = JoinSet::new();
    loop {
        let permit = tokio::select! {
            () = reached(&mut stopped, Phase::Stopping) => break,
            permit = handshakes.clone().acquire_owned() => permit,
        };
        let Ok(permit) = permit else { break };
        let stream = tokio::select! {
            () = reached(&mut stopped, Phase::Stopping) => break,
            stream = socket.accept() => stream,
            // Finished handshakes are taken out, so that the set doesn't grow.
            Some(_) = tasks.join_next(), if !tasks.is_empty() => continue,
        };
        let (stream, from) = match stream {
            Ok(stream) => stream,
            Err(error) => {
                // Out of file descriptors, most likely: wait for some to be freed.
                tracing::warn!(%error, "a peer connection couldn't be accepted");
                tokio::time::sleep(limits::RECONNECT_FIRST).await;
                continue;
            }
        };
        let (acceptor, pins, open, accepted) =
            (acceptor.clone(), pins.clone(), open.clone(), accepted.clone());
        tasks.spawn(async move {
            let _permit = permit;
            match tokio::time::timeout(limits::HANDSHAKE_DEADLINE, shake(stream, acceptor, &pins, open)).await
            {
                Ok(Ok(connection)) => {
                    let _ = accepted.send(Ok(connection)).await;
                }
                Ok(Err(error)) => tracing::debug!(%from, %error, "a connection was refused"),
                Err(_) => tracing::debug!(%from, "a connection didn't finish its handshake in time"),
            }
        });
    }
}

async fn shake(stream: TcpStream, acceptor: TlsAcceptor, pins: &Pins, open: Open) -> io::Result<Connection> {
    stream.set_nodelay(true)?;
    let stream = acceptor.accept(stream).await?;
    let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
    let refused = |why: &str| io::Error::new(io::ErrorKind::PermissionDenied, why.to_owned());
    let certificate = certificate.ok_or_else(|| refused("it showed no certificate"))?;
    // Verified in the handshake; the roster may have changed since.
    let peer = pins.member(certificate).ok_or_else(|| refused("its certificate is no member's"))?;
    let number = peer.number;
    {
        let mut counts = open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(number).or_default();
        if *count >= limits::MAX_CONNECTIONS_PER_PEER {
            return Err(refused("it has too many connections open"));
        }
        *count += 1;
    }
    Ok(Connection { stream, peer, _counted: Counted { open, number } })
}

/// Who is on the other end of a connection.
#[derive(Clone, Copy, Debug)]
pub(super) struct PeerConnection {
    pub number: u16,
    pub pin: Pin,
    /// When its certificate was made, if its identity vouches for it; else zero.
    pub since: u64,
}

/// Counts a connection until it is dropped.
struct Counted {
    open: Open,
    number: u16,
}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut counts = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.number) {
            *count = count.saturating_sub(1);
        }
    }
}

/// An accepted connection, in the form tonic takes.
pub(super) struct Connection {
    stream: TlsStream<TcpStream>,
    peer: PeerConnection,
    _counted: Counted,
}

impl Connected for Connection {
    type ConnectInfo = PeerConnection;

    fn connect_info(&self) -> PeerConnection {
        self.peer
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pinned<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pinned::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pinned<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pinned::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pinned<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pinned::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pinned<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pinned::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pinned<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pinned::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A ceremony's listener makes room for consensus at the same address, even one that doesn't look: out of file
    /// descriptors it pauses, and holds its address. One thread, so that nothing ends it by chance in time.
    #[tokio::test]
    async fn the_address_is_free_after_shutdown() {
        let listener = Listener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.address();
        let pausing = async move {
            let _held = listener;
            std::future::pending::<()>().await;
        };
        let serving = Serving {
            address,
            shown: Shown::new(&Certificate::generate().unwrap()).unwrap(),
            stop: watch::channel(Phase::Serving).0,
            accepting: tokio::spawn(pausing),
            serving: tokio::spawn(async {}),
        };
        serving.shutdown().await;
        Listener::bind(&address.to_string()).await.unwrap();
    }
}
