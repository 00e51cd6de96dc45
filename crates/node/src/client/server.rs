//! The custodian's side of the door: TLS, limits, deadlines, and translation between messages and checked types.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use concordat_events::limits::EVENT_BYTES;
use concordat_events::{Hash, ValidEvent};
use futures::{Stream, StreamExt};
use tokio::net::TcpListener;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status as Code};

use super::api::{ClientHandler, HandlerError, MachineView};
use super::tls;
use crate::proto::client as wire;
use crate::transport::Shown;
use wire::client_server::{Client as Service, ClientServer};

/// Connections at a time; a user needs one.
const CONNECTIONS: usize = 1_024;

/// Handshakes at a time: strangers can begin them.
const HANDSHAKES: usize = 64;

/// Time for a handshake.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// Streams (`Send`, `Watch`) at a time, over all users.
const STREAMS: usize = 4_096;

/// Leaves that one call asks for. Each is a walk through the state tree, and its proof has 80 bytes for each step of it.
pub const LEAVES: usize = 64;

/// Bytes of a leaf's key in a question: a machine's id, a record's name and a key of it, with room.
const LEAF_KEY_BYTES: usize = 1_024;

/// Calls of one connection at a time.
const CALLS: usize = 256;

/// Time that a `Send` waits for its certificate; then the user asks relays or sends again (the id is taken once).
const SEND: Duration = Duration::from_secs(120);

/// Time for `Get` and `Status`.
const CALL: Duration = Duration::from_secs(10);

/// Silence after which a connection is probed, so that watchers that are gone make room.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// Views that wait for a slow watcher; it then misses none, but is slowed down.
const WATCH_QUEUE: usize = 16;

/// Why users aren't served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address.
    #[error("client_listen {address}: {source}; choose another address, or \"off\"")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// Certificate and key.
    #[error("the custodian's certificate can't be used for TLS: {0}")]
    Tls(#[from] rustls::Error),
}

/// A running server. Dropping it ends it at once; [`Server::shutdown`] lets calls finish.
pub struct Server {
    address: SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Server {
    /// Where it listens; with port 0 asked for, the one it got.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Takes no more connections, lets open calls finish for `grace`, then ends them.
    pub async fn shutdown(mut self, grace: Duration) {
        self.stop.cancel();
        let _ = timeout(grace, &mut self.task).await;
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
        self.task.abort();
    }
}

/// Serves users at an address, with a certificate that may be another one any time.
pub async fn serve<H: ClientHandler>(
    address: SocketAddr,
    shown: Shown,
    handler: Arc<H>,
) -> Result<Server, ServeError> {
    let acceptor = TlsAcceptor::from(Arc::new(tls::server(shown)?));
    let listen = |source| ServeError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(listen)?;
    let address = listener.local_addr().map_err(listen)?;
    let stop = CancellationToken::new();
    let (sender, connections) = mpsc::channel(HANDSHAKES);
    let accepting = accept(listener, acceptor, sender, stop.clone());
    let service = service(handler);
    let serving = tonic::transport::Server::builder()
        .concurrency_limit_per_connection(CALLS)
        .max_concurrent_streams(CALLS as u32)
        .http2_keepalive_interval(Some(KEEPALIVE))
        .http2_keepalive_timeout(Some(KEEPALIVE))
        .serve_with_incoming_shutdown(
            service,
            ReceiverStream::new(connections),
            stop.clone().cancelled_owned(),
        );
    let task = tokio::spawn(async move {
        let (served, ()) = tokio::join!(serving, accepting);
        if let Err(error) = served {
            tracing::error!(%error, "the door for users closed");
        }
    });
    Ok(Server { address, stop, task })
}

/// What users' bytes meet behind TLS, without a listener.
pub fn service<H: ClientHandler>(handler: Arc<H>) -> ClientServer<impl Service> {
    ClientServer::new(Door { handler, streams: Arc::new(Semaphore::new(STREAMS)) })
        .max_decoding_message_size(EVENT_BYTES + 1_024)
        .max_encoding_message_size(16 * EVENT_BYTES)
}

/// A TLS connection that holds its place among [`CONNECTIONS`].
struct Connection {
    stream: tokio_rustls::server::TlsStream<tokio::net::TcpStream>,
    _place: OwnedSemaphorePermit,
}

async fn accept(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    ready: mpsc::Sender<std::io::Result<Connection>>,
    stop: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES));
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else {
            // Out of file descriptors, or a connection that was gone at once: others go on.
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        // Over the limits a connection is closed, not queued: a queue would be a place to fill.
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else { continue };
        let Ok(handshake) = Arc::clone(&handshakes).try_acquire_owned() else { continue };
        let (acceptor, ready) = (acceptor.clone(), ready.clone());
        tokio::spawn(async move {
            // Small answers at once: with Nagle's algorithm each call takes 44 ms.
            let _ = stream.set_nodelay(true);
            let shaken = timeout(HANDSHAKE, acceptor.accept(stream)).await;
            drop(handshake);
            if let Ok(Ok(stream)) = shaken {
                let _ = ready.send(Ok(Connection { stream, _place: place })).await;
            }
        });
    }
}

struct Door<H> {
    handler: Arc<H>,
    streams: Arc<Semaphore>,
}

impl<H> Door<H> {
    fn stream(&self) -> Result<OwnedSemaphorePermit, Code> {
        let busy = |_| code(&HandlerError::Busy(format!("{STREAMS} calls are open")));
        Arc::clone(&self.streams).try_acquire_owned().map_err(busy)
    }
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Code>> + Send>>;

#[tonic::async_trait]
impl<H: ClientHandler> Service for Door<H> {
    type SendStream = Answers<wire::SendUpdate>;
    type WatchStream = Answers<wire::MachineView>;
    type EvidenceStream = Answers<wire::EvidencePiece>;

    async fn send(&self, request: Request<wire::SendRequest>) -> Result<Response<Self::SendStream>, Code> {
        let place = self.stream()?;
        let event = ValidEvent::parse(request.into_inner().event.as_bytes())
            .map_err(|error| Code::invalid_argument(error.to_string()))?;
        let id = event.id();
        let outcome = self.handler.submit(event).await.map_err(|error| code(&error))?;
        let taken = wire::send_update::Update::Taken(wire::Taken { request: id.to_hex() });
        let certified = async move {
            let _place = place;
            match timeout(SEND, outcome).await {
                Err(_) => Err(Code::deadline_exceeded(format!(
                    "request {id} was taken, but isn't certified within {} s; it may still be",
                    SEND.as_secs()
                ))),
                Ok(Err(error)) => Err(code(&error)),
                Ok(Ok(outcome)) => Ok(wire::send_update::Update::Certified(wire::Certified {
                    request: outcome.request.to_hex(),
                    ok: outcome.rejected.is_none(),
                    reason: outcome.rejected.unwrap_or_default(),
                    height: outcome.height,
                    log: outcome.log_event.id().to_hex(),
                    log_event: outcome.log_event.json().to_owned(),
                    state: outcome.state.unwrap_or_default(),
                })),
            }
        };
        let first = futures::stream::once(async move { Ok(taken) });
        let updates = first
            .chain(futures::stream::once(certified))
            .map(|update| update.map(|update| wire::SendUpdate { update: Some(update) }));
        Ok(Response::new(Box::pin(updates)))
    }

    async fn get(&self, request: Request<wire::GetRequest>) -> Result<Response<wire::MachineView>, Code> {
        let machine = machine_id(&request.into_inner().machine)?;
        let view = within(self.handler.machine(machine)).await?;
        Ok(Response::new(to_wire(view)))
    }

    async fn prove(&self, request: Request<wire::ProveRequest>) -> Result<Response<wire::Proven>, Code> {
        let text = request.into_inner().leaves;
        let read = |text: &str| {
            serde_json::from_str::<Vec<String>>(text).ok().filter(|leaves| leaves.len() <= LEAVES)
        };
        let leaves = Some(text.as_str()).filter(|text| text.len() <= LEAVES * LEAF_KEY_BYTES).and_then(read);
        let leaves = leaves.ok_or_else(|| {
            Code::invalid_argument(format!("expected a JSON list of at most {LEAVES} keys of leaves"))
        })?;
        let proven = within(self.handler.prove(leaves)).await?;
        Ok(Response::new(wire::Proven {
            height: proven.height,
            log_event: proven.log_event.json().to_owned(),
            proofs: serde_json::to_string(&proven.proofs)
                .map_err(|error| Code::internal(error.to_string()))?,
        }))
    }

    async fn watch(&self, request: Request<wire::WatchRequest>) -> Result<Response<Self::WatchStream>, Code> {
        let place = self.stream()?;
        let machine = machine_id(&request.into_inner().machine)?;
        let mut views = within(self.handler.watch(machine)).await?;
        let (sender, receiver) = mpsc::channel(WATCH_QUEUE);
        tokio::spawn(async move {
            let _place = place;
            loop {
                let view = tokio::select! {
                    () = sender.closed() => return,
                    view = views.next() => view,
                };
                let Some(view) = view else { return };
                let answer = view.map(to_wire).map_err(|error| code(&error));
                if sender.send(answer).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn status(&self, _: Request<wire::StatusRequest>) -> Result<Response<wire::StatusReply>, Code> {
        let status = within(self.handler.status()).await?;
        Ok(Response::new(wire::StatusReply {
            cluster: status.cluster.to_hex(),
            group: status.group,
            number: status.number.into(),
            height: status.height,
            epoch: status.epoch,
            leader: status.leader.into(),
            state: status.state,
            details: status.details,
        }))
    }

    async fn evidence(
        &self,
        _: Request<wire::EvidenceRequest>,
    ) -> Result<Response<Self::EvidenceStream>, Code> {
        let place = self.stream()?;
        let pieces = within(self.handler.evidence()).await?;
        let pieces = futures::stream::iter(pieces).map(move |piece| {
            let _place = &place;
            Ok(wire::EvidencePiece {
                custodian: piece.custodian.into(),
                fault: piece.fault,
                epoch: piece.epoch,
                place: piece.place,
                signed: piece.signed.into(),
            })
        });
        Ok(Response::new(Box::pin(pieces)))
    }
}

async fn within<T>(work: impl Future<Output = Result<T, HandlerError>>) -> Result<T, Code> {
    match timeout(CALL, work).await {
        Ok(result) => result.map_err(|error| code(&error)),
        Err(_) => Err(Code::deadline_exceeded("this custodian is too busy to answer")),
    }
}

fn machine_id(text: &str) -> Result<Hash, Code> {
    Hash::from_hex(text).ok_or_else(|| Code::invalid_argument("a machine's id has 64 lower-case hex digits"))
}

fn to_wire(view: MachineView) -> wire::MachineView {
    wire::MachineView {
        machine: view.machine.to_hex(),
        snapshot: view.snapshot.unwrap_or_default(),
        height: view.height,
        log_event: view.log_event.json().to_owned(),
        proof: view.proof.into(),
        leaf: view.leaf.into(),
    }
}

fn code(error: &HandlerError) -> Code {
    let text = error.to_string();
    match error {
        HandlerError::Refused(_) => Code::invalid_argument(text),
        HandlerError::Busy(_) => Code::resource_exhausted(text),
        HandlerError::NotReady(_) => Code::unavailable(text),
        HandlerError::Failed(_) => Code::internal(text),
    }
}

mod io {
    //! The connection as tonic wants it: the TLS stream, with its place.

    use std::io;
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
    use tonic::transport::server::Connected;

    use super::Connection;

    impl Connected for Connection {
        type ConnectInfo = ();

        fn connect_info(&self) {}
    }

    impl AsyncRead for Connection {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buf: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.stream).poll_read(cx, buf)
        }
    }

    impl AsyncWrite for Connection {
        fn poll_write(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            Pin::new(&mut self.stream).poll_write(cx, bytes)
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.stream).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.stream).poll_shutdown(cx)
        }
    }
}
