//! A cluster of one: a ledger over memory, an ordinary key in the group's place, and users with keys made at run time.
#![allow(dead_code, reason = "shared by the tests of two crates; each uses its part")]

use std::sync::Arc;

use concordat_events::kinds::{DEFINITION, INPUT, Kinds, SNAPSHOT};
use concordat_events::request::{definition_tags, input_tags};
use concordat_events::{Admission, Batch, Custodian, Genesis, Hash, Mode, Roster, Template, ValidEvent};
use concordat_ledger::{Draft, ExecuteError, Ledger};
use concordat_store::Store;
use concordat_store::memory::MemoryStore;
use nostr::{EventBuilder, Keys, Kind, Tag, Timestamp};
use serde_json::{Value, json};

/// Time of the genesis, ms.
pub const START: u64 = 1_700_000_000_000;

pub struct World {
    pub group: Keys,
    pub store: Arc<MemoryStore>,
    pub ledger: Ledger<Arc<MemoryStore>>,
    /// Everything public: requests and what the group signed.
    pub public: Vec<ValidEvent>,
}

pub fn genesis(group: &Keys) -> Genesis {
    let member = Custodian {
        number: 1,
        name: "one".into(),
        identity: Keys::generate().public_key(),
        certificate: Hash::ZERO,
    };
    Genesis {
        version: 1,
        name: "test".into(),
        description: "a test".into(),
        time_ms: START,
        ceremony: Hash::ZERO,
        group_key: group.public_key(),
        roster: Roster::new(vec![member]).unwrap(),
        threshold: 1,
        relays: vec!["wss://relay.example".into()],
        kinds: Kinds::default(),
        admission: Admission::default(),
        engines: vec!["concordat-cel@1".into()],
    }
}

impl World {
    /// A cluster with Head(0) certified.
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    /// The same with another genesis.
    pub fn with(change: impl FnOnce(&mut Genesis)) -> Self {
        let group = Keys::generate();
        let mut genesis = genesis(&group);
        change(&mut genesis);
        Self::found(group, genesis)
    }

    /// The same with this group key.
    pub fn of(group: Keys) -> Self {
        let genesis = genesis(&group);
        Self::found(group, genesis)
    }

    fn found(group: Keys, genesis: Genesis) -> Self {
        let store = Arc::new(MemoryStore::default());
        let ledger = Ledger::open(store.clone(), genesis).unwrap();
        let mut world = World { group, store, ledger, public: Vec::new() };
        let draft = world.ledger.execute(&[]).unwrap();
        world.certify(draft);
        world
    }

    /// Signs what a draft makes due, installs it and writes it.
    pub fn certify(&mut self, draft: Draft) -> Vec<ValidEvent> {
        let signed: Vec<_> = draft.messages.iter().map(|message| sign(&self.group, message)).collect();
        self.public.extend(signed.iter().cloned());
        let writes = self.ledger.install(draft).unwrap();
        self.store.apply(writes).unwrap();
        self.store.flush().unwrap();
        signed
    }

    /// Executes one batch `ms` after the start and certifies its head. Returns outcomes as words and what was signed.
    pub fn head(&mut self, ms: u64, requests: &[&ValidEvent]) -> (Vec<String>, Vec<ValidEvent>) {
        self.heads(&[(ms, requests)])
    }

    /// The same with several batches in one head.
    pub fn heads(&mut self, batches: &[(u64, &[&ValidEvent])]) -> (Vec<String>, Vec<ValidEvent>) {
        let batches: Vec<_> = batches.iter().map(|(ms, requests)| batch(*ms, requests)).collect();
        let draft = self.ledger.execute(&batches).unwrap();
        for request in batches.into_iter().flat_map(|batch| batch.requests) {
            if !self.public.contains(&request) {
                self.public.push(request);
            }
        }
        let outcomes = draft.head.outcomes.iter();
        let words = outcomes.map(|(_, outcome)| outcome.reason().unwrap_or("ok").to_owned()).collect();
        (words, self.certify(draft))
    }

    /// One request, one head; its outcome.
    pub fn one(&mut self, ms: u64, request: &ValidEvent) -> String {
        self.head(ms, &[request]).0.remove(0)
    }

    pub fn try_heads(&self, batches: &[(u64, &[&ValidEvent])]) -> Result<Draft, ExecuteError> {
        let batches: Vec<_> = batches.iter().map(|(ms, requests)| batch(*ms, requests)).collect();
        self.ledger.execute(&batches)
    }

    /// A definition for this group.
    pub fn definition(&self, author: &Keys, d: &str, content: &Value) -> ValidEvent {
        self.definition_with(author, d, content, Mode::Sequenced, &[])
    }

    pub fn definition_with(
        &self,
        author: &Keys,
        d: &str,
        content: &Value,
        mode: Mode,
        more: &[[&str; 2]],
    ) -> ValidEvent {
        let mut tags = definition_tags(&self.group.public_key(), d, None, mode);
        tags.extend(more.iter().map(|tag| tag.iter().map(|part| (*part).to_owned()).collect()));
        event(author, DEFINITION, tags, &content.to_string(), START)
    }

    /// The XState value of a machine.
    pub fn value(&self, machine: &ValidEvent) -> Value {
        self.ledger.machine(&machine.id()).unwrap().unwrap().snapshot()["value"].clone()
    }

    /// A number in a machine's context.
    pub fn context(&self, machine: &ValidEvent, name: &str) -> Value {
        self.ledger.machine(&machine.id()).unwrap().unwrap().snapshot()["context"][name].clone()
    }
}

pub fn batch(ms: u64, requests: &[&ValidEvent]) -> Batch {
    Batch { time_ms: START + ms, requests: requests.iter().map(|request| (*request).clone()).collect() }
}

pub fn sign(keys: &Keys, template: &Template) -> ValidEvent {
    let id: nostr::EventId = template.id().into();
    let signature = keys.sign_schnorr(&secp256k1::Message::from_digest(id.to_bytes()));
    template.signed(&signature.serialize()).unwrap()
}

/// An event signed `at` ms.
pub fn event(keys: &Keys, kind: u16, tags: Vec<Vec<String>>, content: &str, at: u64) -> ValidEvent {
    let tags: Vec<Tag> = tags.iter().map(|tag| Tag::parse(tag).unwrap()).collect();
    let event = EventBuilder::new(Kind::from_u16(kind), content)
        .tags(tags)
        .allow_self_tagging()
        .custom_created_at(Timestamp::from_secs(at / 1000))
        .sign_with_keys(keys)
        .unwrap();
    ValidEvent::check(event).unwrap()
}

/// An input; `n` makes it differ from others of the same second.
pub fn input(keys: &Keys, machine: &ValidEvent, kind: &str, n: u64) -> ValidEvent {
    input_after(keys, machine, kind, n, None)
}

pub fn input_after(
    keys: &Keys,
    machine: &ValidEvent,
    kind: &str,
    n: u64,
    transition: Option<Hash>,
) -> ValidEvent {
    let tags = input_tags(machine.id(), kind, transition);
    event(keys, INPUT, tags, &json!({ "n": n }).to_string(), START)
}

/// Counts `ADD`s, refuses `NEVER`, ends with `STOP`.
pub fn counter() -> Value {
    json!({
        "id": "counter", "initial": "on", "context": {"n": 0},
        "states": {
            "on": {"on": {
                "ADD": {"actions": {"type": "cel.assign", "params": {"n": "context.n + 1"}}},
                "NEVER": {"guard": {"type": "cel", "params": {"expr": "context.n < 0"}}, "target": "off"},
                "nostr.1": {"actions": {"type": "cel.assign", "params": {"n": "context.n + 10"}}},
                "STOP": "off"
            }},
            "off": {"type": "final"}
        }
    })
}

/// Publishes what it is told by context: `SAY` an event of kind `kind` with these tags.
pub fn speaker(kind: u16, tags: Value) -> Value {
    json!({
        "id": "speaker", "initial": "on", "context": {"n": 0},
        "states": {"on": {"on": {"SAY": {"actions": [
            {"type": "cel.assign", "params": {"n": "context.n + 1"}},
            {"type": "publish", "params": {"kind": kind, "content": {"cel": "string(context.n)"}, "tags": tags}}
        ]}}}}
    })
}

/// The snapshots among what was signed.
pub fn snapshots(signed: &[ValidEvent]) -> Vec<&ValidEvent> {
    signed.iter().filter(|event| event.kind() == SNAPSHOT).collect()
}
