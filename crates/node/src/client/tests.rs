//! The door for users over real TLS on loopback.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use concordat_events::{Hash, ValidEvent};
use futures::StreamExt;
use nostr::{EventBuilder, Keys, Kind};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;

use super::*;
use crate::keys::pin_of;
use crate::transport::{Certificate, Shown};

fn event(kind: u16, content: &str) -> ValidEvent {
    let signed = EventBuilder::new(Kind::from_u16(kind), content).sign_with_keys(&Keys::generate());
    ValidEvent::check(signed.unwrap()).unwrap()
}

/// A custodian that certifies when it is told to.
struct Custodian {
    certify: watch::Receiver<bool>,
    log: ValidEvent,
    views: tokio::sync::Mutex<Option<mpsc::Receiver<Result<MachineView, HandlerError>>>>,
}

impl ClientHandler for Custodian {
    async fn submit(&self, request: ValidEvent) -> Result<OutcomeFuture, HandlerError> {
        if request.kind() != 7501 {
            return Err(HandlerError::Refused(format!("kind {}", request.kind())));
        }
        let (mut certify, log_event) = (self.certify.clone(), self.log.clone());
        Ok(Box::pin(async move {
            certify.wait_for(|go| *go).await.map_err(|_| HandlerError::Failed("stopping".into()))?;
            Ok(CertifiedOutcome {
                request: request.id(),
                rejected: (request.content() == "bad").then(|| "guard".to_owned()),
                height: 7,
                log_event,
                state: Some("{}".into()),
            })
        }))
    }

    async fn machine(&self, machine: Hash) -> Result<MachineView, HandlerError> {
        Ok(view(machine, 7, &self.log))
    }

    async fn prove(&self, leaves: Vec<String>) -> Result<Proven, HandlerError> {
        Ok(Proven { height: 7, log_event: self.log.clone(), proofs: leaves })
    }

    async fn watch(&self, _: Hash) -> Result<UpdateStream<MachineView>, HandlerError> {
        let views = self.views.lock().await.take().ok_or(HandlerError::Busy("one watcher".into()))?;
        Ok(Box::pin(ReceiverStream::new(views)))
    }

    async fn evidence(&self) -> Result<Vec<EvidencePiece>, HandlerError> {
        let (fault, signed) = ("two votes".to_owned(), vec![1, 2, 3]);
        Ok(vec![EvidencePiece { custodian: 3, fault, epoch: 4, place: 5, signed }])
    }

    async fn status(&self) -> Result<Status, HandlerError> {
        Ok(Status {
            cluster: Hash::ZERO,
            group: "ab".into(),
            number: 2,
            height: 7,
            epoch: 1,
            leader: 2,
            state: "following".into(),
            details: "{}".into(),
        })
    }
}

fn view(machine: Hash, height: u64, log: &ValidEvent) -> MachineView {
    MachineView { machine, snapshot: None, height, log_event: log.clone(), proof: vec![1, 2], leaf: vec![3] }
}

struct Running {
    server: Server,
    certify: watch::Sender<bool>,
    views: mpsc::Sender<Result<MachineView, HandlerError>>,
    address: CustodianAddress,
    log: ValidEvent,
}

async fn running() -> Running {
    let made = Certificate::generate().unwrap();
    let (certify, certified) = watch::channel(false);
    let (views, watched) = mpsc::channel(4);
    let log = event(400, "{}");
    let handler = Custodian { certify: certified, log: log.clone(), views: Some(watched).into() };
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let server = serve(any, Shown::new(&made).unwrap(), Arc::new(handler)).await.unwrap();
    let address = CustodianAddress { address: server.address().to_string(), pin: pin_of(made.der()) };
    Running { server, certify, views, address, log }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_four_calls() {
    let running = running().await;
    let client = Client::connect(running.address.to_string().parse().unwrap()).await.unwrap();

    let (good, bad) = (event(7501, "good"), event(7501, "bad"));
    let waiting = tokio::spawn({
        let (client, good) = (client.clone(), good.clone());
        async move { client.send(&good).await }
    });
    // Nothing is certified yet: other calls go on beside it.
    assert_eq!(client.status().await.unwrap().number, 2);
    assert!(!waiting.is_finished());
    running.certify.send(true).unwrap();
    let outcome = waiting.await.unwrap().unwrap();
    assert_eq!((outcome.request, outcome.rejected, outcome.height), (good.id(), None, 7));
    assert_eq!(outcome.log_event, running.log);
    assert_eq!(client.send(&bad).await.unwrap().rejected.as_deref(), Some("guard"));
    let refused = client.send(&event(1, "")).await.unwrap_err();
    assert!(
        matches!(&refused, ClientError::Refused { message, .. } if message.contains("kind 1")),
        "{refused}"
    );

    let machine = good.id();
    assert_eq!(client.get(machine).await.unwrap(), view(machine, 7, &running.log));
    let leaves = ["a", "b"].map(str::to_owned);
    let proven = client.prove(&leaves).await.unwrap();
    assert_eq!((proven.log_event, proven.proofs), (running.log.clone(), leaves.to_vec()));
    let many = vec![String::new(); LEAVES + 1];
    assert!(matches!(client.prove(&many).await, Err(ClientError::Refused { .. })));
    let mut watched = Box::pin(client.watch(machine).await.unwrap());
    for height in [7, 8] {
        running.views.send(Ok(view(machine, height, &running.log))).await.unwrap();
        assert_eq!(watched.next().await.unwrap().unwrap().height, height);
    }
    assert!(
        matches!(client.watch(machine).await, Err(ClientError::NotReady { .. })),
        "its only place is taken"
    );
    drop(watched);
    // The custodian notices that nobody watches any more.
    running.views.closed().await;
    running.server.shutdown(Duration::from_secs(5)).await;
    assert!(client.status().await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_certificate_is_refused() {
    let running = running().await;
    let other = Certificate::generate().unwrap();
    let address = CustodianAddress { pin: pin_of(other.der()), ..running.address.clone() };
    let Err(error) = Client::connect(address).await else { panic!("taken for another custodian") };
    let text = error.to_string();
    assert!(text.contains(&running.address.address) && text.contains("invalid peer certificate"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rubbish_and_plain_text_change_nothing() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let running = running().await;
    let mut plain = tokio::net::TcpStream::connect(running.server.address()).await.unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP"), "nothing is served without TLS");
    let client = Client::connect(running.address.clone()).await.unwrap();
    let mut inner = super::connect::raw(&client);
    let refused = |result: Result<_, tonic::Status>| result.err().unwrap().code();
    let send = crate::proto::client::SendRequest { event: "{\"id\":1}".into() };
    assert_eq!(refused(inner.send(send).await.map(drop)), tonic::Code::InvalidArgument);
    let send = crate::proto::client::SendRequest { event: "x".repeat(70 * 1024) };
    assert!(inner.send(send).await.is_err(), "over the size limit");
    let get = crate::proto::client::GetRequest { machine: "zz".into() };
    assert_eq!(refused(inner.get(get).await.map(drop)), tonic::Code::InvalidArgument);
    assert!(client.status().await.is_ok());
}

#[test]
fn addresses_have_one_form() {
    let pin = Hash::from_bytes([7; 32]);
    let text = format!("127.0.0.1:7401#{pin},example.org:1#{pin}");
    let list = CustodianAddress::list(&text).unwrap();
    assert_eq!(list.len(), 2);
    assert_eq!(list[1].to_string().parse::<CustodianAddress>().unwrap(), list[1]);
    for wrong in ["127.0.0.1:7401", "127.0.0.1#00", &format!("#{pin}"), "a:1#zz"] {
        assert!(CustodianAddress::list(wrong).is_err(), "{wrong}");
    }
}
