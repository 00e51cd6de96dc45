//! A group of one ordinary key on an embedded relay. Its heads, snapshots and rejections are the real ledger's, so that its
//! history verifies, and it can misbehave in ways that a cluster never does: that is what it is for. Stories of the cluster
//! itself run against real processes.

use std::sync::Arc;

use concordat_events::genesis::{CEL_ENGINE, PROTOCOL_VERSION};
use concordat_events::kinds::{DEFINITION, INPUT, SNAPSHOT};
use concordat_events::roster::Custodian;
use concordat_events::{Admission, Batch, Genesis, Hash, Roster, Template, ValidEvent, hash};
use concordat_ledger::{Draft, Ledger};
use concordat_node::relay::EmbeddedRelay;
use concordat_store::Store;
use concordat_store::memory::MemoryStore;
use nostr::{Filter, JsonUtil, Keys, Kind};
use nostr_sdk::{Client, RelayPoolNotification};

use crate::town::WAIT;

/// How the group behaves.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// As a cluster would.
    Honest,
    /// Says nothing after its first head.
    Silent,
    /// Its log events are signed by somebody else.
    Forged,
    /// Its snapshots name a root that their head doesn't have.
    Contradictory,
    /// Publishes no snapshot after the machine's start, as when they are coalesced.
    Coalesced,
}

/// The group, as long as it lives.
pub struct LoneGroup {
    pub keys: Keys,
    pub relay: EmbeddedRelay,
}

impl LoneGroup {
    /// Starts a relay and the group on it.
    pub async fn start(manner: Manner) -> Self {
        let relay = EmbeddedRelay::start(None, 0).await.unwrap();
        let keys = Keys::generate();
        let client = Client::default();
        client.add_relay(relay.url()).await.unwrap();
        client.connect().await;
        let mut notifications = client.notifications();
        let requests = Filter::new().kinds([Kind::from_u16(DEFINITION), Kind::from_u16(INPUT)]);
        client.subscribe(requests, None).await.unwrap();
        let mut group = Group::new(manner, keys.clone());
        for event in group.head(&[]) {
            client.send_event(event.event()).await.unwrap();
        }
        tokio::spawn(async move {
            while let Ok(notification) = notifications.recv().await {
                if let RelayPoolNotification::Event { event, .. } = notification
                    && manner != Manner::Silent
                {
                    for event in group.settle(ValidEvent::check(*event).unwrap()) {
                        client.send_event(event.event()).await.unwrap();
                    }
                }
            }
        });
        LoneGroup { keys, relay }
    }

    /// Everything on the relay, one event a line.
    pub async fn export(&self) -> String {
        let client = Client::default();
        client.add_relay(self.relay.url()).await.unwrap();
        client.connect().await;
        let events = client.fetch_events(Filter::new(), WAIT).await.unwrap();
        client.shutdown().await;
        events.into_iter().map(|event| event.as_json() + "\n").collect()
    }
}

struct Group {
    manner: Manner,
    keys: Keys,
    store: Arc<MemoryStore>,
    ledger: Ledger<Arc<MemoryStore>>,
}

impl Group {
    fn new(manner: Manner, keys: Keys) -> Self {
        let custodian = Custodian {
            number: 1,
            name: "alone".into(),
            identity: Keys::generate().public_key(),
            certificate: hash::tagged("test", &[]),
        };
        let genesis = Genesis {
            version: PROTOCOL_VERSION,
            name: "lone".into(),
            description: "one key".into(),
            time_ms: nostr::Timestamp::now().as_secs() * 1000,
            ceremony: Hash::ZERO,
            group_key: keys.public_key(),
            roster: Roster::new(vec![custodian]).unwrap(),
            threshold: 1,
            relays: vec![],
            kinds: Default::default(),
            admission: Admission::default(),
            engines: vec![CEL_ENGINE.into()],
        };
        let store = Arc::new(MemoryStore::new());
        let ledger = Ledger::open(store.clone(), genesis).unwrap();
        Group { manner, keys, store, ledger }
    }

    /// A head of its own for each request. Each is a second after the one before: relays keep one snapshot per second and `d`.
    fn settle(&mut self, request: ValidEvent) -> Vec<ValidEvent> {
        let before = self.ledger.tip().unwrap().time_ms;
        let time_ms = (request.created_at() * 1000).max(before + 1000);
        self.head(&[Batch { time_ms, requests: vec![request] }])
    }

    fn head(&mut self, batches: &[Batch]) -> Vec<ValidEvent> {
        let draft = self.ledger.execute(batches).unwrap();
        let events = self.messages(&draft);
        self.store.apply(self.ledger.install(draft).unwrap()).unwrap();
        events
    }

    fn messages(&self, draft: &Draft) -> Vec<ValidEvent> {
        let started = |template: &Template| {
            let machine = template.tags.iter().find(|tag| tag[0] == "e").unwrap();
            draft.head.outcomes.iter().any(|(id, _)| id.to_hex() == machine[1])
        };
        let mut events = Vec::new();
        for (place, template) in draft.messages.iter().enumerate() {
            let mut template = template.clone();
            let log = place == 0;
            let snapshot = template.kind == SNAPSHOT;
            match self.manner {
                Manner::Coalesced if snapshot && !started(&template) => continue,
                Manner::Contradictory if snapshot => {
                    for tag in template.tags.iter_mut().filter(|tag| tag[0] == "root") {
                        tag[1] = Hash::ZERO.to_hex();
                    }
                }
                Manner::Forged if log && draft.head.height > 0 => {
                    let other = Keys::generate();
                    template.author = other.public_key();
                    events.push(signed(&template, &other));
                    continue;
                }
                _ => {}
            }
            events.push(signed(&template, &self.keys));
        }
        events
    }
}

fn signed(template: &Template, keys: &Keys) -> ValidEvent {
    let id: nostr::EventId = template.id().into();
    let signature = keys.sign_schnorr(&secp256k1::Message::from_digest(id.to_bytes()));
    template.signed(&signature.serialize()).unwrap()
}
