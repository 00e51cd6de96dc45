//! The network: messages with random delay and loss, crashes, clocks, and the checks after every step.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, OnceLock};

use concordat_events::hash::Hash;
use concordat_events::{Custodian, Event, Genesis, Roster, ValidEvent};
use concordat_store::memory::MemoryStore;
use concordat_threshold::KeyShare;
use concordat_threshold::dkg::{Ceremony, Params, To};
use nostr::{EventBuilder, Keys, Kind, Tag};
use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};

use super::durable::check_durable;
use crate::message::{Body, Message, Vote};
use crate::{
    Action, Alarm, Context, Decider, Fatal, Input, Law, Msg, Now, Origin, Parts, Record, Rules, Timing,
};

pub const WALL: u64 = 1_800_000_000_000;

/// One custodian's keys.
pub struct Member {
    pub identity: secp256k1::Keypair,
    pub sealed: Vec<u8>,
    /// Its shares under later rosters.
    pub later: BTreeMap<Hash, Vec<u8>>,
}

impl Member {
    /// Its share under a roster; any, where it has none and signs nothing.
    fn share(&self, roster: &Hash) -> KeyShare {
        KeyShare::from_sealed_bytes(self.later.get(roster).unwrap_or(&self.sealed)).unwrap()
    }
}

/// A founded cluster.
pub struct Cluster {
    pub context: Arc<Context>,
    pub members: BTreeMap<u16, Member>,
    /// Who becomes a custodian later.
    pub guests: Vec<Custodian>,
}

impl Cluster {
    pub fn found(n: u16, seed: u64) -> Self {
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let keys: BTreeMap<u16, Keys> = (1..=n).map(|number| (number, Keys::generate())).collect();
        let members = keys.iter().map(|(number, keys)| Custodian {
            number: *number,
            name: format!("custodian {number}"),
            identity: keys.public_key(),
            certificate: concordat_events::hash::tagged("test", &[&number.to_be_bytes()]),
        });
        let roster = Roster::new(members.collect()).unwrap();
        let shares = deal(n, roster.q() as u16, &mut rng);
        let group = shares[&1].group_key().to_bytes();
        let genesis = Genesis {
            version: concordat_events::genesis::PROTOCOL_VERSION,
            name: "test".into(),
            description: String::new(),
            time_ms: WALL - 1_000,
            ceremony: Hash::ZERO,
            group_key: concordat_events::PublicKey::from_byte_array(group),
            threshold: roster.q() as u16,
            roster,
            relays: vec!["ws://127.0.0.1:1".into()],
            kinds: Default::default(),
            admission: Default::default(),
            engines: vec![concordat_events::genesis::CEL_ENGINE.into()],
        };
        let members = keys
            .into_iter()
            .map(|(number, keys)| {
                let identity = secp256k1::Keypair::from_secret_key(secp256k1::SECP256K1, keys.secret_key());
                let sealed = shares[&number].to_sealed_bytes().to_vec();
                (number, Member { identity, sealed, later: BTreeMap::new() })
            })
            .collect();
        Cluster { context: Arc::new(Context::new(genesis).unwrap()), members, guests: Vec::new() }
    }

    /// A cluster of four for tests that don't care which.
    pub fn four() -> &'static Cluster {
        static FOUR: OnceLock<Cluster> = OnceLock::new();
        FOUR.get_or_init(|| Cluster::found(4, 4))
    }

    pub fn seven() -> &'static Cluster {
        static SEVEN: OnceLock<Cluster> = OnceLock::new();
        SEVEN.get_or_init(|| Cluster::found(7, 7))
    }

    /// A custodian's share of the group's key.
    pub fn share(&self, number: u16) -> KeyShare {
        KeyShare::from_sealed_bytes(&self.members[&number].sealed).unwrap()
    }

    /// Signs any message as a custodian that doesn't keep to the protocol.
    pub fn forge(
        &self,
        sender: u16,
        seq: u64,
        kind: crate::message::Kind,
        body: &impl prost::Message,
        attachment: Vec<u8>,
    ) -> Msg {
        let identity = &self.members[&sender].identity;
        let envelope = crate::message::seal(
            &self.context,
            identity,
            sender,
            seq,
            kind,
            body.encode_to_vec(),
            attachment,
        );
        Message::check(&self.context, envelope).unwrap()
    }
}

pub fn deal(n: u16, t: u16, rng: &mut ChaCha20Rng) -> BTreeMap<u16, KeyShare> {
    let numbers: BTreeSet<u16> = (1..=n).collect();
    let mut ceremonies = BTreeMap::new();
    let mut queue = Vec::new();
    for number in 1..=n {
        let params = Params::new(Hash::ZERO, numbers.clone(), number, t).unwrap();
        let (ceremony, first) = Ceremony::new(params, rng).unwrap();
        ceremonies.insert(number, ceremony);
        queue.extend(first.into_iter().map(|out| (number, out)));
    }
    while let Some((from, out)) = queue.pop() {
        let to: Vec<u16> = match out.to {
            To::All => (1..=n).filter(|number| *number != from).collect(),
            To::One(number) => vec![number],
        };
        for to in to {
            let message = recode(&out.message);
            let more = ceremonies.get_mut(&to).unwrap().on_message(from, message, rng).unwrap();
            queue.extend(more.into_iter().map(|out| (to, out)));
        }
    }
    ceremonies.into_iter().map(|(number, ceremony)| (number, ceremony.finish().ok().unwrap().share)).collect()
}

fn recode(message: &concordat_threshold::dkg::Message) -> concordat_threshold::dkg::Message {
    concordat_threshold::dkg::Message::decode(&message.encode()).unwrap()
}

enum Happening {
    Deliver { to: u16, message: Msg, life: u64 },
    Wake { to: u16, life: u64 },
    Entry { to: u16, epoch: u64, number: usize, life: u64 },
}

struct Node<R: Rules<Scheme = crate::Frost>> {
    decider: Option<Decider<MemoryStore, R>>,
    /// What is in force as far as it knows.
    context: Arc<Context>,
    store: Arc<MemoryStore>,
    life: u64,
    /// The open Raft group and how many of its entries were handed over.
    group: Option<(u64, usize)>,
    /// When the last of them comes: a log keeps its order.
    read_ms: u64,
}

/// What a filter makes of a message.
pub type Filter = Box<dyn FnMut(u16, u16, &Msg) -> Option<Msg>>;

pub struct Net<R: Rules<Scheme = crate::Frost> = Law> {
    pub cluster: &'static Cluster,
    nodes: BTreeMap<u16, Node<R>>,
    queue: BTreeMap<(u64, u64), Happening>,
    counter: u64,
    pub now: u64,
    rng: ChaCha20Rng,
    /// The ideal ordered log of each epoch.
    logs: BTreeMap<u64, Vec<Msg>>,
    pub heads: BTreeMap<u64, Hash>,
    pub certified: BTreeMap<u16, u64>,
    pub outcomes: BTreeMap<Hash, (u64, bool)>,
    votes: BTreeMap<(u16, u64, u64), Hash>,
    /// Who gave a share for which vote.
    pub shares: BTreeMap<Vote, BTreeSet<u16>>,
    /// Heads with a prepare certificate.
    locks: BTreeSet<Vote>,
    pub alarms: Vec<(u16, Alarm)>,
    pub fatal: Vec<(u16, String)>,
    pub sent: BTreeMap<&'static str, u64>,
    pub filter: Option<Filter>,
    pub max_delay: u64,
    pub loss_percent: u32,
}

impl<R: Rules<Scheme = crate::Frost>> Net<R> {
    pub fn new(cluster: &'static Cluster, seed: u64) -> Self {
        let mut net = Net {
            cluster,
            nodes: BTreeMap::new(),
            queue: BTreeMap::new(),
            counter: 0,
            now: 0,
            rng: ChaCha20Rng::seed_from_u64(seed),
            logs: BTreeMap::new(),
            heads: BTreeMap::new(),
            certified: BTreeMap::new(),
            outcomes: BTreeMap::new(),
            votes: BTreeMap::new(),
            shares: BTreeMap::new(),
            locks: BTreeSet::new(),
            alarms: Vec::new(),
            fatal: Vec::new(),
            sent: BTreeMap::new(),
            filter: None,
            max_delay: 20,
            loss_percent: 0,
        };
        for number in cluster.members.keys() {
            let store = MemoryStore::new();
            concordat_store::Store::apply(&store, Record::first(b"boot".to_vec())).unwrap();
            concordat_store::Store::flush(&store).unwrap();
            net.nodes.insert(
                *number,
                Node {
                    decider: None,
                    context: cluster.context.clone(),
                    store: Arc::new(store),
                    life: 0,
                    group: None,
                    read_ms: 0,
                },
            );
        }
        net
    }

    pub fn start_all(&mut self) {
        let all: Vec<u16> = self.nodes.keys().copied().collect();
        for number in all {
            self.start(number);
        }
    }

    pub fn store(&self, number: u16) -> &Arc<MemoryStore> {
        &self.nodes[&number].store
    }

    pub fn replace_store(&mut self, number: u16, store: MemoryStore) {
        self.nodes.get_mut(&number).unwrap().store = Arc::new(store);
    }

    pub fn start(&mut self, number: u16) {
        self.start_with(number, b"boot".to_vec());
    }

    pub fn start_with(&mut self, number: u16, boot: Vec<u8>) {
        let member = &self.cluster.members[&number];
        let node = self.nodes.get_mut(&number).unwrap();
        node.life += 1;
        node.group = None;
        let entropy = ChaCha20Rng::seed_from_u64(self.rng.next_u64());
        let genesis = self.cluster.context.genesis.clone();
        node.context = Arc::new(Context::stored(node.store.clone(), genesis, &self.cluster.guests).unwrap());
        let parts = Parts {
            context: node.context.clone(),
            me: number,
            identity: Box::new(member.identity),
            share: Some(member.share(&node.context.roster_hash)),
            store: node.store.clone(),
            timing: Timing { timeout_ms: 1_000 },
            boot,
            not_restored: false,
            entropy: Box::new(entropy),
        };
        match Decider::open(parts) {
            Ok(decider) => {
                // What the disk kept of the last step counts, though nobody was told of it.
                if let Some(tip) = decider.ledger().tip() {
                    self.certified.insert(number, tip.height);
                }
                node.decider = Some(decider);
            }
            Err(error) => self.fatal.push((number, error.to_string())),
        }
        self.input(number, Input::Start);
        for peer in self.nodes.keys().copied().collect::<Vec<_>>() {
            let up = self.nodes[&peer].decider.is_some();
            if peer != number {
                self.input(number, Input::Reachable { peer, up });
                self.input(peer, Input::Reachable { peer: number, up: true });
            }
        }
    }

    /// SIGKILL: what wasn't flushed may or may not survive.
    pub fn kill(&mut self, number: u16) {
        let node = self.nodes.get_mut(&number).unwrap();
        node.decider = None;
        node.life += 1;
        node.group = None;
        let left = node.store.crash(&mut self.rng);
        node.store = Arc::new(left);
        for peer in self.nodes.keys().copied().collect::<Vec<_>>() {
            if peer != number {
                self.input(peer, Input::Reachable { peer: number, up: false });
            }
        }
    }

    pub fn alive(&self, number: u16) -> bool {
        self.nodes[&number].decider.is_some()
    }

    pub fn decider(&self, number: u16) -> &Decider<MemoryStore, R> {
        self.nodes[&number].decider.as_ref().unwrap()
    }

    pub fn request(&mut self, number: u16, event: &ValidEvent) {
        self.input(number, Input::Request { event: Box::new(event.clone()), origin: Origin::Client });
    }

    pub fn resign(&mut self, number: u16) {
        self.input(number, Input::Resign);
    }

    pub fn relayed(&mut self, number: u16, log: &ValidEvent) {
        self.input(number, Input::Relayed(Box::new(log.clone())));
    }

    pub fn inject(&mut self, to: u16, message: Msg) {
        self.input(to, Input::Message(message));
    }

    fn input(&mut self, number: u16, input: Input) {
        let now = Now { mono_ms: self.now, wall_ms: WALL + self.now };
        let Some(node) = self.nodes.get_mut(&number) else { return };
        let Some(decider) = node.decider.as_mut() else { return };
        let store = node.store.clone();
        let mut actions = Vec::new();
        let context = node.context.clone();
        let result = decider.handle(now, input, &mut |action| {
            check_durable(&store, &context, number, &action).unwrap_or_else(|error| panic!("{error}"));
            actions.push(action);
        });
        let (life, wake) = (node.life, decider.next_wake());
        for action in actions {
            self.act(number, action);
        }
        match result {
            Ok(()) => self.at(wake, Happening::Wake { to: number, life }),
            Err(error) => {
                if let Fatal::Stop(alarm) = &error {
                    self.alarms.push((number, alarm.clone()));
                }
                self.fatal.push((number, error.to_string()));
                self.kill(number);
            }
        }
    }

    fn at(&mut self, time: u64, event: Happening) {
        self.counter += 1;
        self.queue.insert((time.max(self.now + 1), self.counter), event);
    }

    fn act(&mut self, from: u16, action: Action) {
        match action {
            Action::Send { to, message } => {
                *self.sent.entry(kind_name(&message)).or_default() += 1;
                if message.sender == from {
                    self.check_message(from, &message);
                }
                let message = match &mut self.filter {
                    Some(filter) => filter(from, to, &message),
                    None => Some(message),
                };
                let Some(message) = message else { return };
                if self.rng.next_u32() % 100 < self.loss_percent {
                    return;
                }
                let delay = 1 + self.rng.next_u64() % self.max_delay;
                let life = self.nodes[&to].life;
                self.at(self.now + delay, Happening::Deliver { to, message, life });
            }
            Action::OpenGroup { epoch, .. } => {
                self.nodes.get_mut(&from).unwrap().group = Some((epoch, 0));
                self.hand_over(from);
            }
            Action::CloseGroup { epoch } => {
                let node = self.nodes.get_mut(&from).unwrap();
                if node.group.is_some_and(|(open, _)| open == epoch) {
                    node.group = None;
                }
            }
            Action::Append { epoch, number, entry } => {
                let log = self.logs.entry(epoch).or_default();
                assert_eq!(log.len() as u64, number, "the leader numbers its entries in order");
                log.push(entry);
                for number in self.nodes.keys().copied().collect::<Vec<_>>() {
                    self.hand_over(number);
                }
            }
            Action::Certified(head) => {
                let (height, id) = (head.head.height, head.log().unwrap().id());
                let known = *self.heads.entry(height).or_insert(id);
                assert_eq!(known, id, "I1: two ids were certified at height {height}");
                let before = self.certified.insert(from, height);
                assert!(before.is_none_or(|before| before < height), "I2: a certified height fell");
                for (request, outcome) in &head.head.outcomes {
                    let known =
                        *self.outcomes.entry(*request).or_insert((height, outcome.reason().is_none()));
                    // A batch ordered before an older certificate turned up may hold a request again: it is executed once.
                    let again = known.0 != height && outcome.reason() == Some("duplicate");
                    assert!(
                        again || known == (height, outcome.reason().is_none()),
                        "I10: {request} was executed twice"
                    );
                }
            }
            // As after a crash, but for what the process holds of the store.
            Action::Reopen => self.start(from),
            Action::Alarm(alarm) => self.alarms.push((from, alarm)),
        }
    }

    fn check_message(&mut self, from: u16, message: &Msg) {
        match &message.body {
            Body::Prepare(prepare) => self.check_vote(from, &prepare.vote),
            Body::Share(share) => {
                self.shares.entry(share.vote).or_default().insert(from);
            }
            Body::Certify(certify) => {
                let vote = certify.cert.vote;
                let q = self.nodes[&from].context.q();
                // I12: finds errors long before I1 does.
                let signed = self.shares.iter().filter(|(_, by)| by.len() >= q).map(|(vote, _)| vote);
                for other in signed.filter(|other| other.height == vote.height && other.id != vote.id) {
                    assert!(vote.epoch < other.epoch, "I12: {vote:?} has a certificate, {other:?} is signed");
                }
                self.locks.insert(vote);
            }
            Body::Grant(grant) => {
                let next = crate::change::grant_height(grant);
                let shared = self.shares.iter().filter(|(vote, by)| {
                    vote.height == next && vote.epoch < grant.epoch && by.contains(&from)
                });
                let highest = shared.map(|(vote, _)| vote.epoch).max();
                let shown = grant.lock.as_ref().map(|lock| lock.vote.epoch);
                assert!(shown >= highest, "I8: custodian {from} grants {} without its lock", grant.epoch);
            }
            _ => {}
        }
    }

    /// I3: one id per (epoch, height) and custodian, restarts included.
    fn check_vote(&mut self, from: u16, vote: &Vote) {
        let id = *self.votes.entry((from, vote.epoch, vote.height)).or_insert(vote.id);
        assert_eq!(id, vote.id, "I3: custodian {from} voted for two ids in epoch {}", vote.epoch);
    }

    fn hand_over(&mut self, number: u16) {
        let Some((epoch, given)) = self.nodes[&number].group else { return };
        let (len, life) = (self.logs.get(&epoch).map_or(0, Vec::len), self.nodes[&number].life);
        let mut time = self.now.max(self.nodes[&number].read_ms);
        for next in given..len {
            time += 1 + self.rng.next_u64() % self.max_delay;
            self.at(time, Happening::Entry { to: number, epoch, number: next, life });
        }
        let node = self.nodes.get_mut(&number).unwrap();
        (node.group, node.read_ms) = (Some((epoch, len)), time);
    }

    /// One event.
    fn step(&mut self) {
        let Some(((time, _), event)) = self.queue.pop_first() else { return };
        self.now = time;
        match event {
            Happening::Deliver { to, message, life } if self.nodes[&to].life == life => {
                // What arrives is parsed from bytes, as from a socket, under what the receiver knows to be in force.
                let (sender, under) = (message.sender, self.nodes[&to].context.clone());
                match Message::receive(&under, sender, &message.to_bytes()) {
                    Ok(message) => self.input(to, Input::Message(message)),
                    Err(error) => {
                        // Only who has gone through a change may find something that isn't said to it any more.
                        let changed = under.office.since > 0 || self.nodes[&sender].context.office.since > 0;
                        assert!(changed, "custodian {to} refuses what custodian {sender} said: {error}");
                    }
                }
            }
            Happening::Wake { to, life } if self.nodes[&to].life == life => self.input(to, Input::Tick),
            Happening::Entry { to, epoch, number, life }
                if self.nodes[&to].life == life
                    && self.nodes[&to].group.is_some_and(|(open, _)| open == epoch) =>
            {
                let entry = self.logs[&epoch][number].clone();
                self.input(to, Input::Ordered { epoch, entry });
            }
            _ => {}
        }
    }

    /// Runs until `done`, at most `ms` of virtual time. Says whether it was.
    pub fn run_until(&mut self, ms: u64, mut done: impl FnMut(&Self) -> bool) -> bool {
        let end = self.now + ms;
        while self.now < end {
            if done(self) {
                return true;
            }
            self.step();
        }
        done(self)
    }

    /// Where everybody stands, for the message of a failed test.
    pub fn report(&self) -> String {
        let nodes: Vec<String> = self
            .nodes
            .iter()
            .map(|(number, node)| {
                let status = node.decider.as_ref().map(Decider::status);
                format!("{number}: {:?} {status:?}", self.certified.get(number))
            })
            .collect();
        format!("at {} ms\n{}\nalarms {:?}\nfatal {:?}", self.now, nodes.join("\n"), self.alarms, self.fatal)
    }

    /// Has every living custodian certified this request?
    pub fn everyone_has(&self, request: &Hash) -> bool {
        self.outcomes.get(request).is_some_and(|(height, _)| {
            self.nodes.iter().all(|(number, node)| {
                node.decider.is_none() || self.certified.get(number).is_some_and(|at| at >= height)
            })
        })
    }
}

fn kind_name(message: &Msg) -> &'static str {
    match &message.body {
        Body::Certify(_) => "certify",
        Body::Share(_) => "share",
        Body::Again(_) => "again",
        Body::Grant(_) => "grant",
        Body::Complaint(_) => "complaint",
        Body::Refuse(_) => "refuse",
        Body::FetchState(_) => "state",
        _ => "other",
    }
}

/// A user's event.
pub fn event(kind: u16, tags: Vec<Vec<String>>, content: &str, now_ms: u64) -> ValidEvent {
    let tags: Vec<Tag> = tags.iter().map(|tag| Tag::parse(tag).unwrap()).collect();
    let event: Event = EventBuilder::new(Kind::from_u16(kind), content)
        .tags(tags)
        .custom_created_at(nostr::Timestamp::from_secs((WALL + now_ms) / 1000))
        .sign_with_keys(&Keys::generate())
        .unwrap();
    ValidEvent::check(event).unwrap()
}

/// A machine with two states.
pub fn definition(cluster: &Cluster, d: &str) -> ValidEvent {
    let tags = concordat_events::request::definition_tags(
        &cluster.context.group(),
        d,
        None,
        concordat_events::Mode::Sequenced,
    );
    let machine =
        r#"{"id":"m","initial":"a","context":{},"states":{"a":{"on":{"GO":"b"}},"b":{"on":{"GO":"a"}}}}"#;
    event(concordat_events::kinds::DEFINITION, tags, machine, 0)
}

pub fn go(machine: &ValidEvent, now_ms: u64) -> ValidEvent {
    let tags = concordat_events::request::input_tags(machine.id(), "GO", None);
    event(concordat_events::kinds::INPUT, tags, "", now_ms)
}
