//! A group of one ordinary key on an embedded relay. It runs machines with the real engine and answers with real heads and
//! snapshots, and it can misbehave in ways that a cluster never does: that is what it is for. Stories of the cluster itself
//! run against real processes.

use std::collections::HashMap;

use concordat_events::output::{Snapshot, computer};
use concordat_events::roster::Custodian;
use concordat_events::{Admission, Genesis, Hash, Head, Outcome, Reason, Roster, Route, ValidEvent, hash};
use concordat_machine::{Definition, Event, State};
use nostr::{Filter, Keys, Kind};
use nostr_relay_builder::prelude::{LocalRelay, RateLimit, RelayBuilder};
use nostr_sdk::{Client, RelayPoolNotification};

/// How the group behaves.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Manner {
    /// As a cluster would.
    Honest,
    /// Says nothing.
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
    pub url: String,
    _relay: LocalRelay,
}

struct Running {
    d: String,
    definition: Definition,
    state: State,
    last: Option<Hash>,
}

impl LoneGroup {
    /// Starts a relay and the group on it.
    pub async fn start(manner: Manner) -> Self {
        let limit = RateLimit { max_reqs: 500, notes_per_minute: 1_000_000 };
        let relay = LocalRelay::new(RelayBuilder::default().rate_limit(limit));
        relay.run().await.unwrap();
        let url = relay.url().await.to_string();
        let keys = Keys::generate();
        let client = Client::default();
        client.add_relay(&url).await.unwrap();
        client.connect().await;
        let mut notifications = client.notifications();
        let requests = Filter::new().kinds([Kind::from_u16(7500), Kind::from_u16(7501)]);
        client.subscribe(requests, None).await.unwrap();
        publish(&client, &signed(&computer(&genesis(&keys)).unwrap(), &keys)).await;
        let task_keys = keys.clone();
        tokio::spawn(async move {
            let mut group = Group {
                manner,
                keys: task_keys,
                machines: HashMap::new(),
                parent: Hash::ZERO,
                height: 0,
                time_ms: 0,
            };
            while let Ok(notification) = notifications.recv().await {
                if let RelayPoolNotification::Event { event, .. } = notification {
                    let request = ValidEvent::check(*event).unwrap();
                    for event in group.settle(&request) {
                        publish(&client, &event).await;
                    }
                }
            }
        });
        LoneGroup { keys, url, _relay: relay }
    }
}

async fn publish(client: &Client, event: &ValidEvent) {
    client.send_event(event.event()).await.unwrap();
}

fn signed(template: &concordat_events::Template, keys: &Keys) -> ValidEvent {
    let id: nostr::EventId = template.id().into();
    let signature = keys.sign_schnorr(&secp256k1::Message::from_digest(id.to_bytes()));
    template.signed(&signature.serialize()).unwrap()
}

fn genesis(keys: &Keys) -> Genesis {
    let custodian = Custodian {
        number: 1,
        name: "alone".into(),
        identity: Keys::generate().public_key(),
        certificate: hash::tagged("test", &[]),
    };
    Genesis {
        version: 1,
        name: "lone".into(),
        description: "one key".into(),
        time_ms: 1_700_000_000_000,
        ceremony: Hash::ZERO,
        group_key: keys.public_key(),
        roster: Roster::new(vec![custodian]).unwrap(),
        threshold: 1,
        relays: vec![],
        kinds: Default::default(),
        admission: Admission::default(),
        engines: vec![],
    }
}

struct Group {
    manner: Manner,
    keys: Keys,
    machines: HashMap<Hash, Running>,
    parent: Hash,
    height: u64,
    time_ms: u64,
}

impl Group {
    /// A head of its own for each request, with its log event and the snapshot that follows.
    fn settle(&mut self, request: &ValidEvent) -> Vec<ValidEvent> {
        if self.manner == Manner::Silent {
            return vec![];
        }
        // A second apart: relays keep one snapshot per second and `d`.
        self.time_ms = (request.created_at() * 1000).max(self.time_ms + 1000);
        self.height += 1;
        let (machine, outcome) = self.execute(request);
        let state_root = hash::tagged("test", &[&self.height.to_be_bytes()]);
        let mut head = Head {
            cluster: hash::tagged("cluster", &[]),
            height: self.height,
            parent: self.parent,
            batches_root: Hash::ZERO,
            state_root,
            time_ms: self.time_ms,
            roster: Hash::ZERO,
            batches: vec![(self.time_ms, 1)],
            outcomes: vec![(request.id(), outcome.clone())],
            genesis: None,
        };
        head.batches_root = head.computed_batches_root().unwrap();
        let author = if self.manner == Manner::Forged { Keys::generate() } else { self.keys.clone() };
        let log = signed(&head.log_event(author.public_key(), 400).unwrap(), &author);
        self.parent = log.id();
        let mut events = vec![log.clone()];
        let started = request.id() == machine;
        if outcome == Outcome::Ok && (started || self.manner != Manner::Coalesced) {
            let running = &self.machines[&machine];
            let content = String::from_utf8(running.state.snapshot_bytes()).unwrap();
            let root = if self.manner == Manner::Contradictory { Hash::ZERO } else { state_root };
            let snapshot = Snapshot {
                group: self.keys.public_key(),
                d: &running.d,
                machine,
                transition: running.last,
                height: self.height,
                log: log.id(),
                root,
                time_ms: self.time_ms,
                content: &content,
            };
            events.push(signed(&snapshot.template(), &self.keys));
        }
        events
    }

    fn execute(&mut self, request: &ValidEvent) -> (Hash, Outcome) {
        let rejected = |code| Outcome::Rejected(Reason::new(code).unwrap());
        let author = request.author().to_hex();
        match Route::of(request, &self.keys.public_key()) {
            Ok(Route::Definition(tags)) => {
                let definition = Definition::parse(request.content()).unwrap();
                let state = definition.start(self.time_ms, Some(&author)).unwrap().state;
                self.machines.insert(request.id(), Running { d: tags.d, definition, state, last: None });
                (request.id(), Outcome::Ok)
            }
            Ok(Route::Input(input)) => {
                let Some(running) = self.machines.get_mut(&input.machine) else {
                    return (input.machine, rejected("no_machine"));
                };
                if input.transition.is_some() && input.transition != running.last {
                    return (input.machine, rejected("stale"));
                }
                let event = Event::new(input.kind).with_data(input.data).by(author);
                let outcome = match running.definition.send(&running.state, &event, self.time_ms) {
                    Ok(step) => {
                        running.state = step.state;
                        running.last = Some(request.id());
                        Outcome::Ok
                    }
                    Err(rejection) => rejected(rejection.reason.code()),
                };
                (input.machine, outcome)
            }
            _ => (request.id(), rejected("bad_request")),
        }
    }
}
