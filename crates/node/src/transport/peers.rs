//! The way to the other custodians: one connection each, made when needed, made again when lost.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use bytes::Bytes;
use concordat_events::quote;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Code, Status};

use super::RaftCall;
use super::certificate::{Certificate, NAME, Pin};
use super::queue::{Outbound, QueueCounts};
use super::tls::{self, Pins, Shown, TlsError};
use super::traffic::{self, Count, Sent, Traffic};
use crate::limits;
use crate::proto::peer::Envelope;
use crate::proto::peer::peer_client::PeerClient;

/// Another custodian, as the roster describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its number.
    pub number: u16,
    /// `host:port` of its peer listener.
    pub address: String,
    /// Its certificate's pin.
    pub pin: Pin,
}

/// Why a call brought no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// Not in the roster in force.
    #[error("custodian {peer} is not in the roster in force")]
    Unknown {
        /// The number.
        peer: u16,
    },
    /// Larger than a message may be; not sent.
    #[error("a message of {got} bytes to custodian {peer}; at most {most} fit")]
    TooLarge {
        /// To whom.
        peer: u16,
        /// Its size.
        got: usize,
        /// The limit.
        most: usize,
    },
    /// No connection, or it broke.
    #[error("custodian {peer} can't be reached: {why}")]
    Unreachable {
        /// Who.
        peer: u16,
        /// What happened.
        why: String,
    },
    /// No answer in time.
    #[error("custodian {peer} did not answer within {deadline:?}")]
    Deadline {
        /// Who.
        peer: u16,
        /// How long it had.
        deadline: Duration,
    },
    /// It answered with a refusal.
    #[error("custodian {peer} refused: {why}")]
    Refused {
        /// Who.
        peer: u16,
        /// Its words, or their beginning.
        why: String,
    },
}

/// All other custodians. A cheap handle.
#[derive(Clone)]
pub struct Peers {
    shared: Arc<Shared>,
}

struct Shared {
    shown: Shown,
    pins: Pins,
    traffic: Arc<Traffic>,
    all: RwLock<BTreeMap<u16, Arc<Peer>>>,
}

struct Peer {
    member: Member,
    client: PeerClient<Channel>,
    queue: Arc<Outbound>,
    sending: JoinHandle<()>,
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.queue.close();
        self.sending.abort();
    }
}

impl Peers {
    /// Ways to `members`, the own number left out by the caller. Connections are made when first needed.
    ///
    /// `pins` must hold the members' pins; a connection stands only to whom it says.
    ///
    /// # Errors
    /// [`TlsError`] when certificate and key don't fit.
    pub fn new(certificate: Certificate, pins: Pins, members: Vec<Member>) -> Result<Self, TlsError> {
        let shown = Shown::new(&certificate)?;
        let shared = Shared { shown, pins, traffic: Arc::default(), all: RwLock::default() };
        let peers = Self { shared: Arc::new(shared) };
        peers.set(members)?;
        Ok(peers)
    }

    /// Puts other members in force: ways to those who stayed the same are kept, the others' are cut.
    ///
    /// # Errors
    /// [`TlsError`] when certificate and key don't fit.
    pub fn set(&self, members: Vec<Member>) -> Result<(), TlsError> {
        let mut next = BTreeMap::new();
        let mut all = self.shared.all.write().unwrap_or_else(PoisonError::into_inner);
        for member in members {
            let peer = match all.get(&member.number) {
                Some(peer) if peer.member == member => peer.clone(),
                _ => Arc::new(self.dial(member.clone())?),
            };
            next.insert(member.number, peer);
        }
        *all = next;
        Ok(())
    }

    /// Shows another certificate from now on, on new connections to everybody: who has seen it takes the one before no more.
    ///
    /// # Errors
    /// [`TlsError`] when certificate and key don't fit; then all stays as it was.
    pub fn show(&self, certificate: &Certificate) -> Result<(), TlsError> {
        self.shared.shown.show(certificate)?;
        let mut all = self.shared.all.write().unwrap_or_else(PoisonError::into_inner);
        for peer in all.values_mut() {
            *peer = Arc::new(self.dial(peer.member.clone())?);
        }
        Ok(())
    }

    fn dial(&self, member: Member) -> Result<Peer, TlsError> {
        let config = tls::client(self.shared.shown.clone(), self.shared.pins.clone(), member.number)?;
        let dialler = Arc::new(Dialler {
            address: member.address.clone(),
            config,
            pause: Mutex::new(Pause { next: Instant::now(), length: limits::RECONNECT_FIRST }),
        });
        // TLS is the connector's; with "https" tonic would ask for its own.
        let endpoint = Endpoint::from_static("http://custodian")
            .connect_timeout(limits::HANDSHAKE_DEADLINE)
            .initial_stream_window_size(1024 * 1024)
            .initial_connection_window_size(4 * 1024 * 1024)
            .http2_keep_alive_interval(limits::KEEPALIVE)
            .keep_alive_timeout(limits::KEEPALIVE / 2)
            .keep_alive_while_idle(true);
        let channel = endpoint.connect_with_connector_lazy(tower::service_fn(move |_: Uri| {
            let dialler = dialler.clone();
            async move { dialler.connect().await }
        }));
        let client = PeerClient::new(channel)
            .max_decoding_message_size(limits::MAX_MESSAGE_BYTES)
            .max_encoding_message_size(limits::MAX_MESSAGE_BYTES);
        let queue = Arc::new(Outbound::default());
        let sending =
            tokio::spawn(send_all(client.clone(), queue.clone(), self.shared.traffic.clone(), member.number));
        Ok(Peer { member, client, queue, sending })
    }

    fn peer(&self, peer: u16) -> Result<Arc<Peer>, CallError> {
        let all = self.shared.all.read().unwrap_or_else(PoisonError::into_inner);
        all.get(&peer).cloned().ok_or(CallError::Unknown { peer })
    }

    /// Queues a consensus message to `peer`. It leaves in order after those before it; what a full queue or a broken
    /// connection loses, the protocol repeats.
    ///
    /// # Errors
    /// [`CallError::Unknown`] and [`CallError::TooLarge`] only.
    pub fn send(&self, peer: u16, message: Bytes) -> Result<(), CallError> {
        fits(peer, &message)?;
        self.peer(peer)?.queue.push(message);
        Ok(())
    }

    /// What became of the messages to `peer`.
    pub fn queue(&self, peer: u16) -> Option<QueueCounts> {
        self.peer(peer).ok().map(|peer| peer.queue.counts())
    }

    /// What was sent to all peers since the start, by kind.
    pub fn sent(&self) -> BTreeMap<Sent, Count> {
        self.shared.traffic.counts()
    }

    /// A log group's request.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn raft(
        &self,
        peer: u16,
        call: RaftCall,
        request: Bytes,
        deadline: Duration,
    ) -> Result<Bytes, CallError> {
        match call {
            RaftCall::Append => {
                let sent = traffic::append(&request);
                self.call(peer, sent, request, deadline, |mut to, body| async move { to.append(body).await })
                    .await
            }
            RaftCall::Vote => {
                let sent = Sent::Vote;
                self.call(peer, sent, request, deadline, |mut to, body| async move { to.vote(body).await })
                    .await
            }
        }
    }

    /// Asks `peer` for something stored.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn fetch(&self, peer: u16, request: Bytes, deadline: Duration) -> Result<Bytes, CallError> {
        let sent = Sent::Fetch;
        self.call(peer, sent, request, deadline, |mut to, body| async move { to.fetch(body).await }).await
    }

    /// One step of a key ceremony with `peer`.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn ceremony(&self, peer: u16, message: Bytes, deadline: Duration) -> Result<Bytes, CallError> {
        let sent = Sent::Ceremony;
        self.call(peer, sent, message, deadline, |mut to, body| async move { to.ceremony(body).await }).await
    }

    async fn call<F>(
        &self,
        peer: u16,
        sent: Sent,
        body: Bytes,
        deadline: Duration,
        call: impl FnOnce(PeerClient<Channel>, Envelope) -> F,
    ) -> Result<Bytes, CallError>
    where
        F: Future<Output = Result<tonic::Response<Envelope>, Status>>,
    {
        fits(peer, &body)?;
        let client = self.peer(peer)?.client.clone();
        self.shared.traffic.sent(sent, body.len());
        match tokio::time::timeout(deadline, call(client, Envelope { body })).await {
            Ok(Ok(reply)) => {
                let body = reply.into_inner().body;
                self.shared.traffic.answered(sent, body.len());
                Ok(body)
            }
            Ok(Err(status)) => Err(failed(peer, &status)),
            Err(_) => Err(CallError::Deadline { peer, deadline }),
        }
    }

    /// A client that sends whatever it is given.
    #[cfg(test)]
    pub(super) fn unbounded_client(&self, peer: u16) -> PeerClient<Channel> {
        self.peer(peer).unwrap().client.clone().max_encoding_message_size(usize::MAX)
    }

    /// Cuts all connections.
    pub fn close(&self) {
        self.shared.all.write().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

fn fits(peer: u16, message: &Bytes) -> Result<(), CallError> {
    // The envelope adds a few bytes.
    let most = limits::MAX_MESSAGE_BYTES - 64;
    if message.len() > most {
        return Err(CallError::TooLarge { peer, got: message.len(), most });
    }
    Ok(())
}

/// The innermost cause says most.
fn failed(peer: u16, status: &Status) -> CallError {
    let mut why = status.message().to_owned();
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        why = error.to_string();
        source = error.source();
    }
    let why = quote(&why).into_owned();
    match status.code() {
        Code::Unavailable | Code::Unknown | Code::Internal | Code::Cancelled => {
            CallError::Unreachable { peer, why }
        }
        _ => CallError::Refused { peer, why },
    }
}

/// Keeps one stream of messages to a peer open as long as there are any, and opens it again when it breaks.
async fn send_all(client: PeerClient<Channel>, queue: Arc<Outbound>, traffic: Arc<Traffic>, peer: u16) {
    let mut pause = limits::RECONNECT_FIRST;
    while queue.ready().await {
        let opened = Instant::now();
        let ways = (queue.clone(), traffic.clone());
        let messages = futures::stream::unfold(ways, |(queue, traffic)| async move {
            let body = queue.pop().await?;
            traffic.sent(traffic::message(&body), body.len());
            Some((Envelope { body }, (queue, traffic)))
        });
        if let Err(status) = client.clone().deliver(messages).await {
            tracing::debug!(peer, why = %failed(peer, &status), "the stream of messages to a peer broke");
        }
        if opened.elapsed() > limits::RECONNECT_MOST {
            pause = limits::RECONNECT_FIRST;
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(limits::RECONNECT_MOST);
    }
}

/// Makes connections to one peer, not too often.
struct Dialler {
    address: String,
    config: Arc<ClientConfig>,
    pause: Mutex<Pause>,
}

struct Pause {
    next: Instant,
    length: Duration,
}

impl Dialler {
    async fn connect(&self) -> std::io::Result<TokioIo<tokio_rustls::client::TlsStream<TcpStream>>> {
        let next = {
            let mut pause = self.pause.lock().unwrap_or_else(PoisonError::into_inner);
            let next = pause.next;
            // As if it failed, so that attempts at the same time wait as well.
            pause.next = next.max(Instant::now()) + pause.length;
            pause.length = (pause.length * 2).min(limits::RECONNECT_MOST);
            next
        };
        tokio::time::sleep_until(next).await;
        let late = || std::io::Error::new(std::io::ErrorKind::TimedOut, "no connection in time");
        let stream =
            tokio::time::timeout(limits::HANDSHAKE_DEADLINE, self.shake()).await.map_err(|_| late())??;
        let mut pause = self.pause.lock().unwrap_or_else(PoisonError::into_inner);
        *pause = Pause { next: Instant::now(), length: limits::RECONNECT_FIRST };
        Ok(TokioIo::new(stream))
    }

    async fn shake(&self) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        let stream = TcpStream::connect(&self.address).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from(NAME).map_err(std::io::Error::other)?;
        TlsConnector::from(self.config.clone()).connect(name, stream).await
    }
}
