//! Whole custodians in one process: real TLS, real openraft, a real store, a real relay.

use std::net::TcpListener;
use std::path::PathBuf;
use std::time::Duration;

use concordat_events::request::{definition_tags, input_tags};
use concordat_events::{Admission, Charter, Hash, Head, Mode, PublicKey, ValidEvent};
use concordat_finality::message::{self, Kind as Word};
use concordat_finality::{Context, wire};
use nostr::{EventBuilder, Filter, Keys, Kind, Tag};
use prost::Message as _;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinHandle, LocalSet};

use super::{Life, RunError, RunOptions, run};
use crate::ceremony::{Proposal, init};
use crate::client::{Client, ClientError, CustodianAddress};
use crate::config::Config;
use crate::dir::CustodianDir;
use crate::keys::file;
use crate::relay::{EmbeddedRelay, LinkOptions, NostrLink, RelayLink};
use crate::transport::{Member, Peers, Pin, Pins};

/// Longer than anything takes that works, on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_secs(120);

/// The state before an event and after it is a matter of a machine with two states.
const MACHINE: &str =
    r#"{"id":"m","initial":"a","context":{},"states":{"a":{"on":{"GO":"b"}},"b":{"on":{"GO":"a"}}}}"#;

struct Running {
    stop: oneshot::Sender<()>,
    life: mpsc::UnboundedReceiver<Life>,
    task: JoinHandle<Result<(), RunError>>,
    client: Option<String>,
    group: Option<String>,
}

impl Running {
    fn start(config: PathBuf) -> Self {
        let (stop, stopped) = oneshot::channel::<()>();
        let (tell, life) = mpsc::unbounded_channel();
        let task = tokio::task::spawn_local(async move {
            let stopped = async {
                let _ = stopped.await;
            };
            run(&config, RunOptions::default(), stopped, tell).await
        });
        Running { stop, life, task, client: None, group: None }
    }

    /// Waits for an event of its life.
    async fn until(&mut self, wanted: impl Fn(&Life) -> bool) -> Life {
        let found = async {
            while let Some(event) = self.life.recv().await {
                if let Life::Listening { client, .. } = &event {
                    self.client.clone_from(client);
                }
                if let Life::Ready { group, .. } = &event {
                    self.group = Some(group.clone());
                }
                if wanted(&event) {
                    return event;
                }
            }
            panic!("it ended: {:?}", (&mut self.task).await);
        };
        tokio::time::timeout(PATIENCE, found).await.expect("no such event")
    }

    async fn stop(self) {
        let _ = self.stop.send(());
        self.task.await.unwrap().unwrap();
    }
}

struct Cluster {
    temp: tempfile::TempDir,
    relay: EmbeddedRelay,
    running: Vec<Running>,
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Cluster {
    async fn start(n: u16, engine: &str) -> Self {
        let temp = tempfile::tempdir().unwrap();
        let relay = EmbeddedRelay::start(None, 0).await.unwrap();
        let mut cards = Vec::new();
        for number in 1..=n {
            let root = temp.path().join(format!("c{number}"));
            let pass = temp.path().join(format!("pass{number}"));
            file::write_new(&pass, format!("{}\n", hex::encode(rand::random::<[u8; 16]>())).as_bytes())
                .unwrap();
            let port = free_port();
            let text = format!(
                "name = \"c{number}\"\nlisten = \"127.0.0.1:{port}\"\nclient_listen = \"127.0.0.1:0\"\n\
                 passphrase_file = {pass:?}\n[storage]\nengine = \"{engine}\"\n"
            );
            let config = Config::parse(&root.join("custodian.toml"), &text).unwrap();
            cards.push(init(&root, &config, &format!("127.0.0.1:{port}")).unwrap().0);
        }
        let wall = super::Clock::start().now().wall_ms;
        let relays = vec![relay.url().to_owned()];
        let proposal = Proposal::from_cards("ours", "", wall, &cards, relays, Admission::default()).unwrap();
        for number in 1..=n {
            let dir = CustodianDir::open(&temp.path().join(format!("c{number}"))).unwrap();
            dir.write_proposal(&proposal).unwrap();
        }
        let mut cluster = Cluster { temp, relay, running: Vec::new() };
        for number in 1..=n {
            let running = Running::start(cluster.config(number));
            cluster.running.push(running);
        }
        for running in &mut cluster.running {
            running.until(|event| matches!(event, Life::Certified { .. })).await;
        }
        cluster
    }

    fn config(&self, number: u16) -> PathBuf {
        self.temp.path().join(format!("c{number}/custodian.toml"))
    }

    fn group(&self) -> PublicKey {
        PublicKey::from_hex(self.running[0].group.as_ref().unwrap()).unwrap()
    }

    async fn client(&self, place: usize) -> Client {
        let text = self.running[place].client.clone().unwrap();
        Client::connect(CustodianAddress::list(&text).unwrap().remove(0)).await.unwrap()
    }

    /// The log event of the head that holds a request, read from the relay alone.
    async fn on_relay(&self, link: &NostrLink, request: Hash) -> (ValidEvent, Head) {
        let relay = self.relay.url().to_owned();
        let found = async {
            let mut pause = tokio::time::interval(Duration::from_millis(50));
            loop {
                pause.tick().await;
                let filter = Filter::new().author(self.group()).kind(Kind::from_u16(400));
                let events = link.fetch(&relay, filter, Duration::from_secs(5)).await.unwrap_or_default();
                for event in events {
                    let head = Head::from_log_event(&event).unwrap();
                    if head.outcomes.iter().any(|(id, _)| *id == request) {
                        return (event, head);
                    }
                }
            }
        };
        tokio::time::timeout(PATIENCE, found).await.expect("not on the relay")
    }
}

fn event(kind: u16, tags: Vec<Vec<String>>, content: &str) -> ValidEvent {
    let tags: Vec<Tag> = tags.iter().map(|tag| Tag::parse(tag).unwrap()).collect();
    let made = EventBuilder::new(Kind::from_u16(kind), content).tags(tags);
    ValidEvent::check(made.sign_with_keys(&Keys::generate()).unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_goes_the_whole_way_and_survives_a_restart() {
    LocalSet::new().run_until(story("redb")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_other_engine_carries_it_too() {
    LocalSet::new().run_until(story("sled")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_stopped_hands_over() {
    LocalSet::new().run_until(handover()).await;
}

/// Three custodians stand no lie, but one stop: whoever leads says so, and nobody waits for a timeout to believe it.
async fn handover() {
    let mut cluster = Cluster::start(3, "redb").await;
    let status = cluster.client(0).await.status().await.unwrap();
    let leader = cluster.running.remove(usize::from(status.leader) - 1);
    leader.stop().await;
    for running in &mut cluster.running {
        let resigned = format!("complaint about epoch {}: Resigned", status.epoch);
        running.until(|event| matches!(event, Life::Alarm { message } if *message == resigned)).await;
        running.until(|event| matches!(event, Life::Epoch { epoch, .. } if *epoch > status.epoch)).await;
    }
    let client = cluster.client(1).await;
    let tags = definition_tags(&cluster.group(), "one", None, Mode::Sequenced);
    let outcome = client.send(&event(7500, tags, MACHINE)).await.unwrap();
    assert_eq!(outcome.rejected, None);
    for running in cluster.running {
        running.stop().await;
    }
}

/// Custodian 4 signs two proposals for one height. Who hears them holds it against it, and a stranger can check it.
async fn names_a_liar(cluster: &Cluster) {
    let dir = CustodianDir::open(&cluster.temp.path().join("c4")).unwrap();
    let keys = dir.keys(&dir.config().unwrap()).unwrap();
    let genesis = dir.genesis().unwrap().unwrap().genesis;
    let context = Context::new(genesis.clone()).unwrap();
    let certificate = keys.certificate(dir.card().unwrap().certificate());
    let hearer = &genesis.roster.members()[0];
    let pin = Pin(*hearer.certificate.as_bytes());
    let address = dir.proposal().unwrap().addresses[&1].clone();
    let to = vec![Member { number: 1, address, pin }];
    let peers = Peers::new(certificate, Pins::new([(1, pin)]), to).unwrap();
    for id in [1, 2] {
        let body = wire::Propose { epoch: 0, height: 9_999, number: 1, id: vec![id; 32] }.encode_to_vec();
        let sealed = message::seal(&context, keys.keypair(), 4, 1, Word::Propose, body, Vec::new());
        peers.send(1, sealed.encode_to_vec().into()).unwrap();
    }
    let client = cluster.client(0).await;
    let held = async {
        let mut pause = tokio::time::interval(Duration::from_millis(50));
        loop {
            pause.tick().await;
            if let Some(piece) = client.evidence().await.unwrap().pop() {
                return piece;
            }
        }
    };
    let piece = tokio::time::timeout(PATIENCE, held).await.expect("custodian 1 holds evidence");
    assert_eq!((piece.custodian, piece.epoch, piece.place), (4, 0, 9_999));

    let charters = [Charter::founded(&genesis).unwrap()];
    let shown = crate::evidence::check(&genesis, &charters, &piece.signed).unwrap();
    assert_eq!((shown.finding.culprit, shown.since), (4, 0));
    // Another byte, or other custodians, and it shows nothing.
    let mut forged = piece.signed.clone();
    *forged.last_mut().unwrap() ^= 1;
    crate::evidence::check(&genesis, &charters, &forged).unwrap_err();
    crate::evidence::check(&genesis, &[], &piece.signed).unwrap_err();
}

async fn story(engine: &str) {
    let mut cluster = Cluster::start(4, engine).await;
    let link = NostrLink::connect(&[cluster.relay.url().to_owned()], LinkOptions::default()).await.unwrap();
    assert!(link.connected_within(cluster.relay.url(), PATIENCE).await);

    // A definition enters through the relay; everybody sees its head there.
    let tags = definition_tags(&cluster.group(), "one", Some("One"), Mode::Sequenced);
    let definition = event(7500, tags, MACHINE);
    link.publish(cluster.relay.url(), &definition).await.unwrap();
    let (log, head) = cluster.on_relay(&link, definition.id()).await;
    assert!(log.event().verify().is_ok());
    assert!(head.outcomes.iter().any(|(id, outcome)| *id == definition.id() && outcome.reason().is_none()));

    // An input enters through a custodian's client port.
    let client = cluster.client(2).await;
    let input = event(7501, input_tags(definition.id(), "GO", None), "");
    let outcome = client.send(&input).await.unwrap();
    assert_eq!(outcome.rejected, None);
    let view = client.get(definition.id()).await.unwrap();
    assert!(view.snapshot.unwrap().contains("\"value\":\"b\""));
    let (again, _) = cluster.on_relay(&link, input.id()).await;
    assert_eq!(again.id(), outcome.log_event.id());

    // What can't be is refused in words, and nothing else happens.
    let unknown = event(7501, input_tags(Hash::ZERO, "GO", None), "");
    assert!(matches!(client.send(&unknown).await, Err(ClientError::Refused { .. })));

    // One stops, the others go on; it comes back and catches up.
    let stopped = cluster.running.remove(3);
    stopped.stop().await;
    names_a_liar(&cluster).await;
    let input = event(7501, input_tags(definition.id(), "GO", None), "");
    let outcome = client.send(&input).await.unwrap();
    let mut back = Running::start(cluster.config(4));
    let height = outcome.height;
    back.until(|event| matches!(event, Life::Certified { height: at, .. } if *at >= height)).await;
    cluster.running.push(back);
    for running in cluster.running {
        running.stop().await;
    }
}
