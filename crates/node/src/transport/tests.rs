//! Tests over real sockets on 127.0.0.1.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc};
use tokio_rustls::TlsConnector;

use super::*;
use crate::keys::CustodianKeys;
use crate::limits;
use crate::order::{
    self, Committed, Deliveries, Group, GroupConfig, OrderedLog, ThreadFlusher, Timing, TokioRuntime,
    WrapperCheck,
};

const LONG: Duration = Duration::from_secs(20);

/// Records what comes and answers with it.
struct Recorder {
    delivered: mpsc::UnboundedSender<(u16, Bytes)>,
    /// `fetch` of "wait" is answered once this is notified.
    go: Notify,
}

impl PeerHandler for Recorder {
    async fn deliver(&self, from: u16, message: Bytes) {
        let _ = self.delivered.send((from, message));
    }

    async fn raft(&self, from: u16, call: RaftCall, request: Bytes) -> Result<Bytes, HandlerError> {
        Ok(format!("{from} {call:?} {}", request.len()).into())
    }

    async fn fetch(&self, _from: u16, request: Bytes) -> Result<Bytes, HandlerError> {
        match request.as_ref() {
            b"wait" => self.go.notified().await,
            b"refuse" => return Err(HandlerError::Refused("not you".into())),
            b"large" => return Ok(vec![0; limits::MAX_MESSAGE_BYTES + 1].into()),
            _ => {}
        }
        Ok(request)
    }

    async fn ceremony(&self, _from: u16, _message: Bytes) -> Result<Bytes, HandlerError> {
        Err(HandlerError::Unavailable("no ceremony runs".into()))
    }
}

/// A custodian's listener with what it received.
struct Node {
    serving: Serving,
    handler: Arc<Recorder>,
    delivered: mpsc::UnboundedReceiver<(u16, Bytes)>,
}

async fn node(address: &str, certificate: &Certificate, pins: &Pins) -> Node {
    let (sender, delivered) = mpsc::unbounded_channel();
    let handler = Arc::new(Recorder { delivered: sender, go: Notify::new() });
    let listener = Listener::bind(address).await.unwrap();
    let serving = listener.serve(certificate, pins.clone(), handler.clone()).unwrap();
    Node { serving, handler, delivered }
}

fn copy(certificate: &Certificate) -> Certificate {
    Certificate::from_der(certificate.der().to_vec(), certificate.key_der().clone())
}

fn member(number: u16, node: &Node, certificate: &Certificate) -> Member {
    Member { number, address: node.serving.address().to_string(), pin: certificate.pin() }
}

/// Certificates of custodians 1 to n and their pins.
fn roster(n: u16) -> (BTreeMap<u16, Certificate>, Pins) {
    let all: BTreeMap<_, _> = (1..=n).map(|number| (number, Certificate::generate().unwrap())).collect();
    let pins = Pins::new(all.iter().map(|(number, certificate)| (*number, certificate.pin())));
    (all, pins)
}

/// Custodian 2 listening, and 1 with a way to it.
async fn pair() -> (Node, Peers, BTreeMap<u16, Certificate>, Pins) {
    let (all, pins) = roster(2);
    let two = node("127.0.0.1:0", &all[&2], &pins).await;
    let peers = Peers::new(copy(&all[&1]), pins.clone(), vec![member(2, &two, &all[&2])]).unwrap();
    (two, peers, all, pins)
}

#[tokio::test]
async fn the_senders_number_comes_from_its_certificate() {
    let (mut two, peers, ..) = pair().await;
    let reply = peers.raft(2, RaftCall::Vote, Bytes::from_static(b"abc"), LONG).await;
    assert_eq!(reply.unwrap(), "1 Vote 3");
    let reply = peers.raft(2, RaftCall::Append, Bytes::new(), LONG).await;
    assert_eq!(reply.unwrap(), "1 Append 0");
    peers.send(2, Bytes::from_static(b"hello")).unwrap();
    assert_eq!(two.delivered.recv().await, Some((1, Bytes::from_static(b"hello"))));
    assert_eq!(peers.fetch(2, Bytes::from_static(b"x"), LONG).await.unwrap(), "x");
    let refused = peers.fetch(2, Bytes::from_static(b"refuse"), LONG).await;
    assert!(matches!(refused, Err(CallError::Refused { peer: 2, why }) if why.contains("not you")));
    let unavailable = peers.ceremony(2, Bytes::new(), LONG).await;
    assert!(
        matches!(unavailable, Err(CallError::Unreachable { peer: 2, why }) if why.contains("no ceremony"))
    );
    assert_eq!(peers.fetch(9, Bytes::new(), LONG).await, Err(CallError::Unknown { peer: 9 }));
}

#[tokio::test]
async fn messages_arrive_in_order() {
    let (mut two, peers, ..) = pair().await;
    for n in 0..1_000_u32 {
        peers.send(2, n.to_be_bytes().to_vec().into()).unwrap();
    }
    for n in 0..1_000_u32 {
        assert_eq!(two.delivered.recv().await, Some((1, n.to_be_bytes().to_vec().into())));
    }
    assert_eq!(peers.queue(2).unwrap().dropped, 0);
}

#[tokio::test]
async fn a_stranger_is_not_served() {
    let (mut two, _, all, _) = pair().await;
    let stranger = Certificate::generate().unwrap();
    let own = Pins::new([(2, all[&2].pin())]);
    let peers = Peers::new(stranger, own, vec![member(2, &two, &all[&2])]).unwrap();
    let error = peers.fetch(2, Bytes::new(), LONG).await;
    assert!(matches!(error, Err(CallError::Unreachable { peer: 2, .. })), "{error:?}");
    assert!(two.delivered.try_recv().is_err());
}

/// Refused by whoever checks certificates, or by whoever answers on a connection that stood.
async fn refused(peers: &Peers) -> bool {
    let answer = peers.fetch(2, Bytes::new(), LONG).await;
    matches!(answer, Err(CallError::Unreachable { peer: 2, .. } | CallError::Refused { peer: 2, .. }))
}

#[tokio::test]
async fn a_certificate_that_an_identity_vouches_for_takes_the_place_of_the_one_before() {
    let ((one, first), (two, other)) =
        (CustodianKeys::generate().unwrap(), CustodianKeys::generate().unwrap());
    let members = [(1, first.pin(), one.public_key()), (2, other.pin(), two.public_key())];
    let pins = || Pins::vouched(members, &BTreeMap::new());
    let (known_to_one, known_to_two) = (pins(), pins());
    let listening = node("127.0.0.1:0", &other, &known_to_two).await;
    let way = |shown: &Certificate| {
        Peers::new(copy(shown), known_to_one.clone(), vec![member(2, &listening, &other)]).unwrap()
    };
    let (standing, peers) = (way(&first), way(&first));
    for peers in [&standing, &peers] {
        peers.fetch(2, Bytes::new(), LONG).await.unwrap();
    }
    let made =
        |keys: &CustodianKeys, now| Certificate::vouched_for(keys, Term::beginning(now, None)).unwrap();

    // Custodian 1 shows another one: nobody else had to do anything, and its number is the same.
    peers.show(&made(&one, 1_000)).unwrap();
    assert_eq!(peers.raft(2, RaftCall::Vote, Bytes::new(), LONG).await.unwrap(), "1 Vote 0");
    assert_eq!(*known_to_two.newest().borrow(), BTreeMap::from([(1, 1_000)]));
    // What it showed before is worth nothing from then on, on connections that stand and on new ones; nor what others vouch for.
    assert!(refused(&standing).await);
    let (stranger, _) = CustodianKeys::generate().unwrap();
    for shown in [copy(&first), made(&one, 999), made(&stranger, 2_000)] {
        assert!(refused(&way(&shown)).await);
    }
    peers.fetch(2, Bytes::new(), LONG).await.unwrap();

    // The other way: who listens shows another one to those who come from now on.
    listening.serving.shown().show(&made(&two, 1_000)).unwrap();
    way(&made(&one, 1_000)).fetch(2, Bytes::new(), LONG).await.unwrap();
    assert_eq!(*known_to_one.newest().borrow(), BTreeMap::from([(2, 1_000)]));
    listening.serving.shown().show(&other).unwrap();
    assert!(refused(&way(&made(&one, 1_001))).await);
    listening.serving.shown().show(&made(&stranger, 3_000)).unwrap();
    assert!(refused(&way(&made(&one, 1_001))).await);

    // What was seen is kept over a restart, and a certificate whose key isn't there is shown by nobody.
    let restarted = Pins::vouched(members, &known_to_two.newest().borrow());
    assert!(!restarted.admits(1, first.der()) && restarted.admits(1, made(&one, 1_000).der()));
    assert!(restarted.admits(2, other.der()) && !restarted.admits(2, first.der()));
    let mixed = Certificate::from_der(first.der().to_vec(), other.key_der().clone());
    assert!(peers.show(&mixed).is_err());
}

#[tokio::test]
async fn one_without_a_certificate_is_not_served() {
    #[derive(Debug)]
    struct Anyone(Arc<rustls::crypto::CryptoProvider>);
    impl rustls::client::danger::ServerCertVerifier for Anyone {
        fn verify_server_cert(
            &self,
            _: &rustls::pki_types::CertificateDer<'_>,
            _: &[rustls::pki_types::CertificateDer<'_>],
            _: &rustls::pki_types::ServerName<'_>,
            _: &[u8],
            _: rustls::pki_types::UnixTime,
        ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
            Ok(rustls::client::danger::ServerCertVerified::assertion())
        }
        fn verify_tls12_signature(
            &self,
            _: &[u8],
            _: &rustls::pki_types::CertificateDer<'_>,
            _: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
            Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
        }
        fn verify_tls13_signature(
            &self,
            _: &[u8],
            _: &rustls::pki_types::CertificateDer<'_>,
            _: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
            Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
        }
        fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
            self.0.signature_verification_algorithms.supported_schemes()
        }
    }
    let (two, ..) = pair().await;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    // Without a certificate, and without TLS 1.3.
    for versions in [&[&rustls::version::TLS13][..], &[&rustls::version::TLS12][..]] {
        let config = rustls::ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(versions)
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anyone(provider.clone())))
            .with_no_client_auth();
        let stream = TcpStream::connect(two.serving.address()).await.unwrap();
        let name = rustls::pki_types::ServerName::try_from("custodian").unwrap();
        let read = async {
            let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
            stream.read_u8().await
        };
        assert!(read.await.is_err());
    }
}

#[tokio::test]
async fn another_members_certificate_is_not_the_one_dialled() {
    let (all, pins) = roster(3);
    // 3 listens where 2 is said to be, with its own certificate, which is pinned too.
    let three = node("127.0.0.1:0", &all[&3], &pins).await;
    let wrong = Member { pin: all[&2].pin(), ..member(2, &three, &all[&3]) };
    let peers = Peers::new(copy(&all[&1]), pins.clone(), vec![wrong, member(3, &three, &all[&3])]).unwrap();
    let error = peers.fetch(2, Bytes::new(), LONG).await;
    assert!(matches!(error, Err(CallError::Unreachable { peer: 2, .. })), "{error:?}");
    assert!(peers.fetch(3, Bytes::new(), LONG).await.is_ok());
}

#[tokio::test]
async fn one_who_left_the_roster_is_not_served_on_its_old_connection() {
    let (two, peers, all, pins) = pair().await;
    assert!(peers.fetch(2, Bytes::new(), LONG).await.is_ok());
    pins.set([(2, all[&2].pin())]);
    let error = peers.fetch(2, Bytes::new(), LONG).await;
    assert!(matches!(error, Err(CallError::Refused { peer: 2, .. })), "{error:?}");
    drop(two);
}

#[tokio::test]
async fn large_messages_are_refused_on_both_sides() {
    let (mut two, peers, ..) = pair().await;
    let large = Bytes::from(vec![0; limits::MAX_MESSAGE_BYTES + 1]);
    assert!(matches!(peers.fetch(2, large.clone(), LONG).await, Err(CallError::TooLarge { peer: 2, .. })));
    assert!(matches!(peers.send(2, large.clone()), Err(CallError::TooLarge { peer: 2, .. })));
    // One who doesn't hold back.
    let mut client = peers.unbounded_client(2);
    let status = client.fetch(crate::proto::peer::Envelope { body: large.clone() }).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::OutOfRange, "{status:?}");
    let envelope = crate::proto::peer::Envelope { body: large };
    let status = client.deliver(futures::stream::iter([envelope])).await.unwrap_err();
    assert_eq!(status.code(), tonic::Code::OutOfRange, "{status:?}");
    // And one who answers too much.
    assert!(peers.fetch(2, Bytes::from_static(b"large"), LONG).await.is_err());
    assert!(two.delivered.try_recv().is_err());
    assert!(peers.fetch(2, Bytes::from_static(b"x"), LONG).await.is_ok());
}

#[tokio::test]
async fn a_deadline_is_honoured() {
    let (two, peers, ..) = pair().await;
    let deadline = Duration::from_millis(200);
    let late = peers.fetch(2, Bytes::from_static(b"wait"), deadline).await;
    assert_eq!(late, Err(CallError::Deadline { peer: 2, deadline }));
    two.handler.go.notify_waiters();
    // One that is accepted and never answered, even in the handshake.
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (all, pins) = roster(2);
    let address = silent.local_addr().unwrap().to_string();
    let nobody = Member { number: 2, address, pin: all[&2].pin() };
    let peers = Peers::new(copy(&all[&1]), pins, vec![nobody]).unwrap();
    let late = peers.fetch(2, Bytes::new(), deadline).await;
    assert_eq!(late, Err(CallError::Deadline { peer: 2, deadline }));
}

#[tokio::test]
async fn a_peer_that_restarts_is_found_again() {
    let (mut two, peers, all, pins) = pair().await;
    peers.send(2, Bytes::from_static(b"before")).unwrap();
    assert_eq!(two.delivered.recv().await, Some((1, Bytes::from_static(b"before"))));
    let address = two.serving.address().to_string();
    two.serving.shutdown().await;
    let down = peers.fetch(2, Bytes::new(), LONG).await;
    assert!(matches!(down, Err(CallError::Unreachable { peer: 2, .. })), "{down:?}");
    let mut two = node(&address, &all[&2], &pins).await;
    // Messages are repeated by the protocol until they arrive; so here.
    let found = async {
        loop {
            peers.send(2, Bytes::from_static(b"after")).unwrap();
            if let Ok(Some(message)) =
                tokio::time::timeout(Duration::from_millis(50), two.delivered.recv()).await
            {
                return message;
            }
        }
    };
    let found = tokio::time::timeout(LONG, found).await.unwrap();
    assert_eq!(found, (1, Bytes::from_static(b"after")));
    assert!(peers.fetch(2, Bytes::new(), LONG).await.is_ok());
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let (two, ..) = pair().await;
    let address = two.serving.address().to_string();
    let error = Listener::bind(&address).await.err().unwrap();
    let text = error.to_string();
    assert!(
        matches!(error, BindError::InUse { .. }) && text.contains(&address) && text.contains("stop what"),
        "{text}"
    );
    let error = Listener::bind("no such host:1").await.err().unwrap();
    assert!(error.to_string().contains("no such host:1"));
}

#[tokio::test]
async fn calls_at_a_time_are_bounded_over_the_wire() {
    let (two, peers, ..) = pair().await;
    let calls =
        (0..limits::MAX_CALLS_PER_PEER + 20).map(|_| peers.fetch(2, Bytes::from_static(b"wait"), LONG));
    let mut calls: futures::stream::FuturesUnordered<_> = calls.collect();
    for _ in 0..20 {
        let refused = calls.next().await.unwrap();
        assert!(
            matches!(refused, Err(CallError::Refused { ref why, .. }) if why.contains("too many")),
            "{refused:?}"
        );
    }
    let go = two.handler.clone();
    let open = tokio::spawn(async move {
        loop {
            go.go.notify_waiters();
            tokio::task::yield_now().await;
        }
    });
    while let Some(answered) = calls.next().await {
        assert!(answered.is_ok(), "{answered:?}");
    }
    open.abort();
}

#[test]
fn a_certificate_comes_back_from_pem_and_der() {
    let made = Certificate::generate().unwrap();
    let encode = |what: &str, der: &[u8]| {
        let text: String = base64(der);
        format!("-----BEGIN {what}-----\n{text}\n-----END {what}-----\n")
    };
    let read =
        Certificate::from_pem(&encode("CERTIFICATE", made.der()), &encode("PRIVATE KEY", made.key_der()))
            .unwrap();
    assert_eq!((read.pin(), read.key_der()), (made.pin(), made.key_der()));
    assert_ne!(Certificate::generate().unwrap().pin(), made.pin());
    let error = Certificate::from_pem("nothing", "secret").err().unwrap().to_string();
    assert!(!error.contains("secret"));
}

/// As PEM wants it.
fn base64(bytes: &[u8]) -> String {
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let mut group = [0; 3];
        group[..chunk.len()].copy_from_slice(chunk);
        let bits = u32::from_be_bytes([0, group[0], group[1], group[2]]);
        for place in 0..4 {
            let digit = alphabet[(bits >> (18 - 6 * place) & 63) as usize] as char;
            text.push(if place <= chunk.len() { digit } else { '=' });
        }
    }
    text
}

/// Takes every wrapper.
struct Anything;

impl WrapperCheck for Anything {
    fn check(&self, _: u64, position: u64, _: Option<&[u8; 32]>, _: &[u8]) -> Result<[u8; 32], String> {
        Ok([position as u8; 32])
    }
}

type RealGroup = Group<TokioRuntime, Arc<concordat_store::memory::MemoryStore>, Arc<ThreadFlusher>, Peers>;

/// Hands requests to a log group.
struct ToGroup(Mutex<Option<RealGroup>>);

impl PeerHandler for ToGroup {
    async fn deliver(&self, _from: u16, _message: Bytes) {}

    async fn raft(&self, from: u16, call: RaftCall, request: Bytes) -> Result<Bytes, HandlerError> {
        let group = self.0.lock().unwrap().clone();
        let group = group.ok_or_else(|| HandlerError::Unavailable("no group yet".into()))?;
        let reply = match call {
            RaftCall::Append => group.on_append(from, request).await,
            RaftCall::Vote => group.on_vote(from, request).await,
        };
        reply.map_err(|error| HandlerError::Refused(error.to_string()))
    }

    async fn fetch(&self, _from: u16, request: Bytes) -> Result<Bytes, HandlerError> {
        Ok(request)
    }

    async fn ceremony(&self, _from: u16, message: Bytes) -> Result<Bytes, HandlerError> {
        Ok(message)
    }
}

/// Four custodians' log groups over real connections; prints how long a batch takes to reach everybody.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_group_runs_over_real_connections() {
    let (all, pins) = roster(4);
    let mut listeners = BTreeMap::new();
    for number in 1..=4_u16 {
        listeners.insert(number, Listener::bind("127.0.0.1:0").await.unwrap());
    }
    let members: Vec<_> = listeners
        .iter()
        .map(|(number, listener)| Member {
            number: *number,
            address: listener.address().to_string(),
            pin: all[number].pin(),
        })
        .collect();
    let mut servers = Vec::new();
    let mut groups: BTreeMap<u16, (RealGroup, Deliveries)> = BTreeMap::new();
    for (number, listener) in listeners {
        let handler = Arc::new(ToGroup(Mutex::new(None)));
        servers.push(listener.serve(&all[&number], pins.clone(), handler.clone()).unwrap());
        let others = members.iter().filter(|member| member.number != number).cloned().collect();
        let peers = Peers::new(copy(&all[&number]), pins.clone(), others).unwrap();
        let store = Arc::new(concordat_store::memory::MemoryStore::new());
        let flusher = Arc::new(ThreadFlusher::start(store.clone()).unwrap());
        let config = GroupConfig {
            epoch: 1,
            me: number,
            leader: 1,
            members: vec![1, 2, 3, 4],
            lead: true,
            timing: Timing::default(),
        };
        let (out, deliveries) = order::deliveries();
        let group = Group::open(config, store, flusher, peers, Arc::new(Anything), out).await.unwrap();
        *handler.0.lock().unwrap() = Some(group.clone());
        groups.insert(number, (group, deliveries));
    }
    let leader = groups[&1].0.clone();
    let mut taken = Vec::new();
    for position in 0..200_u64 {
        let bytes = Bytes::from(vec![7; 2_000]);
        let start = std::time::Instant::now();
        leader.append(bytes.clone()).await.unwrap();
        for (_, deliveries) in groups.values_mut() {
            let item = deliveries.next().await.unwrap();
            assert_eq!(item, Committed { epoch: 1, position, bytes: bytes.clone() });
        }
        taken.push(start.elapsed());
    }
    taken.drain(..20);
    taken.sort();
    println!(
        "append to delivered everywhere: least {:?}, median {:?}, 95 % {:?}, most {:?}",
        taken[0], taken[90], taken[171], taken[179]
    );
    for (group, _) in groups.into_values() {
        // Votes of elections that were repeated while connections were made; nothing else.
        let refusals = group.refusals();
        assert!(refusals.keys().all(|(_, reason)| *reason == "other_vote"), "{refusals:?}");
        group.close().await;
    }
    for server in servers {
        server.shutdown().await;
    }
}
