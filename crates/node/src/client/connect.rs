//! The user's side of the door. It pins the custodian's certificate and checks every event that comes back; whether a
//! log event is the group's, and a proof holds, is for `verify`, which knows the group.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use concordat_events::limits::CUSTODIANS;
use concordat_events::limits::EVENT_BYTES;
use concordat_events::{Hash, ValidEvent, quote};
use futures::{Stream, StreamExt};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status as WireError};

use super::api::{CertifiedOutcome, EvidencePiece, MachineView, Proven, Status};
use super::tls;
use crate::config::check_address;
use crate::proto::client as wire;
use wire::client_client::ClientClient;

/// Time for a connection and its handshake.
const CONNECT: Duration = Duration::from_secs(5);

/// Time for `get` and `status`; a little more than the custodian's own.
const CALL: Duration = Duration::from_secs(12);

/// Name sent in the handshake; the pin decides.
const NAME: &str = "custodian.concordat.invalid";

/// Where a custodian serves users, and what certificate it has: `host:port#pin`, the form of `CONCORDAT_CUSTODIANS`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CustodianAddress {
    /// `host:port`.
    pub address: String,
    /// SHA-256 of its certificate's DER.
    pub pin: Hash,
}

impl FromStr for CustodianAddress {
    type Err = ClientError;

    fn from_str(text: &str) -> Result<Self, ClientError> {
        let wrong = || ClientError::Address(quote(text).into_owned());
        let (address, pin) = text.trim().split_once('#').ok_or_else(wrong)?;
        check_address(address).map_err(|_| wrong())?;
        let pin = Hash::from_hex(pin).ok_or_else(wrong)?;
        Ok(CustodianAddress { address: address.to_owned(), pin })
    }
}

impl fmt::Display for CustodianAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}#{}", self.address, self.pin)
    }
}

impl CustodianAddress {
    /// Reads a list separated by commas or spaces, as in `CONCORDAT_CUSTODIANS`.
    pub fn list(text: &str) -> Result<Vec<Self>, ClientError> {
        text.split([',', ' ', '\n']).filter(|part| !part.is_empty()).map(str::parse).collect()
    }
}

/// Why a custodian couldn't be asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// Not `host:port#pin`.
    #[error("{0:?} isn't host:port#pin; `concordat dev up` and `concordat status` print the right form")]
    Address(String),
    /// No connection.
    #[error("{address}: can't connect: {message}")]
    Connect {
        /// Whom.
        address: String,
        /// Why.
        message: String,
    },
    /// The custodian refused or failed.
    #[error("{address}: {message}")]
    Refused {
        /// Who.
        address: String,
        /// What it said.
        message: String,
    },
    /// Reached, but not able to answer now.
    #[error("{address}: not ready: {message}")]
    NotReady {
        /// Who.
        address: String,
        /// What it said.
        message: String,
    },
    /// An answer that can't be.
    #[error("{address}: its answer can't be right: {message}; don't trust this custodian, ask another one")]
    Answer {
        /// Who.
        address: String,
        /// What is wrong with it.
        message: String,
    },
}

/// A connection to one custodian; it reconnects by itself. Cheap to clone.
#[derive(Clone)]
pub struct Client {
    address: CustodianAddress,
    inner: ClientClient<Channel>,
}

impl Client {
    /// Connects to a custodian and checks its pin.
    pub async fn connect(address: CustodianAddress) -> Result<Self, ClientError> {
        let failed = |message: String| ClientError::Connect { address: address.address.clone(), message };
        let tls = Arc::new(tls::client(address.pin).map_err(|error| failed(error.to_string()))?);
        let target = address.address.clone();
        let connector = tower::service_fn(move |_| dial(target.clone(), Arc::clone(&tls)));
        // The URI is only a name here: the connector knows where to go.
        let channel = Endpoint::from_static("http://custodian.concordat.invalid")
            .connect_timeout(CONNECT)
            .http2_keep_alive_interval(Duration::from_secs(30))
            .connect_with_connector(connector)
            .await
            .map_err(|error| failed(causes(&error)))?;
        let inner = ClientClient::new(channel)
            .max_encoding_message_size(EVENT_BYTES + 1_024)
            .max_decoding_message_size(16 * EVENT_BYTES);
        Ok(Client { address, inner })
    }

    /// Whom this talks to.
    pub fn address(&self) -> &CustodianAddress {
        &self.address
    }

    /// Hands in a request and waits for its certified outcome.
    pub async fn send(&self, request: &ValidEvent) -> Result<CertifiedOutcome, ClientError> {
        let message = wire::SendRequest { event: request.json().to_owned() };
        let mut updates =
            self.inner.clone().send(message).await.map_err(|error| self.error(&error))?.into_inner();
        while let Some(update) = updates.message().await.map_err(|error| self.error(&error))? {
            let Some(wire::send_update::Update::Certified(certified)) = update.update else { continue };
            let log_event = self.event(&certified.log_event)?;
            if certified.request != request.id().to_hex() || certified.log != log_event.id().to_hex() {
                return Err(self.answer("it names another request or log event"));
            }
            return Ok(CertifiedOutcome {
                request: request.id(),
                rejected: (!certified.ok).then_some(certified.reason),
                height: certified.height,
                log_event,
                state: Some(certified.state).filter(|state| !state.is_empty()),
            });
        }
        Err(self.answer("it ended without an outcome"))
    }

    /// A machine at the custodian's certified head. Check head and proof before you rely on it.
    pub async fn get(&self, machine: Hash) -> Result<MachineView, ClientError> {
        let message = wire::GetRequest { machine: machine.to_hex() };
        let mut inner = self.inner.clone();
        let view = self.within(inner.get(message)).await?;
        self.view(machine, view)
    }

    /// These leaves of the state at the custodian's certified head. Check head and proofs before you rely on them.
    pub async fn prove(&self, leaves: &[String]) -> Result<Proven, ClientError> {
        let leaves_text = serde_json::to_string(leaves).map_err(|error| self.answer(&error.to_string()))?;
        let message = wire::ProveRequest { leaves: leaves_text };
        let mut inner = self.inner.clone();
        let proven = self.within(inner.prove(message)).await?;
        let proofs: Vec<String> =
            serde_json::from_str(&proven.proofs).map_err(|error| self.answer(&error.to_string()))?;
        if proofs.len() != leaves.len() {
            return Err(self.answer("it has other proofs than were asked for"));
        }
        Ok(Proven { height: proven.height, log_event: self.event(&proven.log_event)?, proofs })
    }

    /// A machine now and at every certified head that changes it.
    pub async fn watch(
        &self,
        machine: Hash,
    ) -> Result<impl Stream<Item = Result<MachineView, ClientError>> + Send + use<>, ClientError> {
        let message = wire::WatchRequest { machine: machine.to_hex() };
        let mut inner = self.inner.clone();
        let views = self.within(inner.watch(message)).await?;
        let client = self.clone();
        Ok(views.map(move |view| match view {
            Ok(view) => client.view(machine, view),
            Err(error) => Err(client.error(&error)),
        }))
    }

    /// How the custodian is.
    pub async fn status(&self) -> Result<Status, ClientError> {
        let mut inner = self.inner.clone();
        let reply = self.within(inner.status(wire::StatusRequest {})).await?;
        let number =
            |value: u32| u16::try_from(value).map_err(|_| self.answer("a custodian's number is too large"));
        Ok(Status {
            cluster: Hash::from_hex(&reply.cluster)
                .ok_or_else(|| self.answer("the cluster id is no hash"))?,
            group: reply.group,
            number: number(reply.number)?,
            height: reply.height,
            epoch: reply.epoch,
            leader: number(reply.leader)?,
            state: reply.state,
            details: reply.details,
        })
    }

    /// What the custodian holds against others. Nothing of it is checked here.
    pub async fn evidence(&self) -> Result<Vec<EvidencePiece>, ClientError> {
        let mut inner = self.inner.clone();
        let mut pieces = self.within(inner.evidence(wire::EvidenceRequest {})).await?;
        let mut all = Vec::new();
        let next = async { pieces.message().await.map(tonic::Response::new) };
        let mut piece = self.within(next).await?;
        while let Some(found) = piece {
            if all.len() == CUSTODIANS {
                return Err(self.answer("more evidence than there can be custodians"));
            }
            all.push(EvidencePiece {
                custodian: u16::try_from(found.custodian)
                    .map_err(|_| self.answer("a custodian's number is too large"))?,
                fault: found.fault,
                epoch: found.epoch,
                place: found.place,
                signed: found.signed.into(),
            });
            let next = async { pieces.message().await.map(tonic::Response::new) };
            piece = self.within(next).await?;
        }
        Ok(all)
    }

    async fn within<T>(
        &self,
        call: impl Future<Output = Result<tonic::Response<T>, WireError>>,
    ) -> Result<T, ClientError> {
        match timeout(CALL, call).await {
            Ok(result) => result.map(tonic::Response::into_inner).map_err(|error| self.error(&error)),
            Err(_) => Err(ClientError::NotReady {
                address: self.address.address.clone(),
                message: format!("no answer within {} s", CALL.as_secs()),
            }),
        }
    }

    fn view(&self, machine: Hash, view: wire::MachineView) -> Result<MachineView, ClientError> {
        if view.machine != machine.to_hex() {
            return Err(self.answer("it is about another machine"));
        }
        Ok(MachineView {
            machine,
            snapshot: Some(view.snapshot).filter(|snapshot| !snapshot.is_empty()),
            height: view.height,
            log_event: self.event(&view.log_event)?,
            proof: view.proof.to_vec(),
            leaf: view.leaf.to_vec(),
        })
    }

    fn event(&self, json: &str) -> Result<ValidEvent, ClientError> {
        ValidEvent::parse(json.as_bytes()).map_err(|error| self.answer(&error.to_string()))
    }

    fn answer(&self, message: &str) -> ClientError {
        ClientError::Answer { address: self.address.address.clone(), message: message.to_owned() }
    }

    fn error(&self, error: &WireError) -> ClientError {
        let (address, message) = (self.address.address.clone(), quote(error.message()).into_owned());
        match error.code() {
            Code::Unavailable | Code::DeadlineExceeded | Code::ResourceExhausted | Code::Cancelled => {
                ClientError::NotReady { address, message }
            }
            _ => ClientError::Refused { address, message },
        }
    }
}

async fn dial(
    address: String,
    tls: Arc<rustls::ClientConfig>,
) -> std::io::Result<TokioIo<tokio_rustls::client::TlsStream<TcpStream>>> {
    let connected = timeout(CONNECT, async {
        let stream = TcpStream::connect(&address).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::try_from(NAME).map_err(std::io::Error::other)?;
        TlsConnector::from(tls).connect(name, stream).await
    });
    match connected.await {
        Ok(stream) => stream.map(TokioIo::new),
        Err(_) => Err(std::io::Error::new(std::io::ErrorKind::TimedOut, "no TLS handshake in time")),
    }
}

/// An error with its causes: tonic's own text says only "transport error".
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text = format!("{text}: {next}");
        cause = next.source();
    }
    text
}

/// The generated client under a connection, to send what [`Client`] never would.
#[cfg(test)]
pub(super) fn raw(client: &Client) -> ClientClient<Channel> {
    client.inner.clone()
}
