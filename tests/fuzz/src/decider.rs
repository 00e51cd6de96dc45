//! A custodian that is told things in any order: its decider, fed with what peers, its log, users, relays and the clock may
//! bring. Input: steps, each a byte for what happens, a byte for how, and for some two bytes of length and as many bytes.
//!
//! What peers send is mended, so that it is signed; some repeat what the custodian said itself, as their own word, so that
//! heads are certified on the way. The threshold signatures are a stand-in that knows the group's key: FROST's own
//! arithmetic has tests of its own, and no fuzzer would find shares that fit.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};

use concordat_events::hash::{Hash, tagged};
use concordat_finality::message::{Body, Kind};
use concordat_finality::wrapper::check_entry;
use concordat_finality::{
    Action, Context, Decider, Fatal, Input, Message, Msg, Now, Origin, Parts, Record, Rules, Scheme, Timing,
    wire,
};
use concordat_store::Store;
use concordat_store::memory::{Image, MemoryStore};
use concordat_threshold::{AggregateError, Commitment, Sessions, Share, SignError};
use prost::Message as _;
use rand_core::{CryptoRng, Error, RngCore};

use super::seeds::commitment_of;
use super::world::{START, signature, world};
use super::{bounded, mend};

/// The custodian under test: it leads the first epoch.
const ME: u16 = 1;

/// Steps of one input: enough for two heads and a change of epoch, few enough to be quick.
const STEPS: usize = 64;

/// What one input may make it do.
const ACTIONS: usize = 2_000;

/// See the module's header.
enum Known {}

impl Scheme for Known {
    type KeyShare = u16;
    type GroupKeys = ();
    type Nonce = ();

    fn group_keys(_: &u16) {}

    fn commit_many(
        _: &u16,
        messages: usize,
        rng: &mut (impl RngCore + CryptoRng),
    ) -> Option<(Vec<()>, Vec<Commitment>)> {
        let made = (0..messages).map(|_| Commitment::from_bytes(&commitment_of(rng.next_u32())).unwrap());
        Some((vec![(); messages], made.collect()))
    }

    fn sign_many(
        share: &u16,
        _: Vec<()>,
        messages: &[[u8; 32]],
        _: &Sessions,
    ) -> Result<Vec<Share>, SignError> {
        let share = |message: &[u8; 32]| {
            let mut bytes = *tagged("concordat/fuzz/share", &[message, &share.to_be_bytes()]).as_bytes();
            bytes[0] = 0;
            Share::from_bytes(&bytes).unwrap()
        };
        Ok(messages.iter().map(share).collect())
    }

    fn aggregate_many(
        _: &(),
        messages: &[[u8; 32]],
        _: &Sessions,
        _: &BTreeMap<u16, Vec<Share>>,
    ) -> Result<Vec<[u8; 64]>, AggregateError> {
        let group = &world().group;
        Ok(messages.iter().map(|message| signature(group, &Hash::from_bytes(*message))).collect())
    }
}

enum Lawful {}

impl Rules for Lawful {
    type Scheme = Known;
}

/// Numbers that are the same in every run.
struct Counted(u64);

impl RngCore for Counted {
    fn next_u32(&mut self) -> u32 {
        self.next_u64() as u32
    }
    fn next_u64(&mut self) -> u64 {
        let mut bytes = [0; 8];
        self.fill_bytes(&mut bytes);
        u64::from_le_bytes(bytes)
    }
    fn fill_bytes(&mut self, bytes: &mut [u8]) {
        for chunk in bytes.chunks_mut(32) {
            self.0 += 1;
            let made = tagged("concordat/fuzz/rng", &[&self.0.to_be_bytes()]);
            chunk.copy_from_slice(&made.as_bytes()[..chunk.len()]);
        }
    }
    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Error> {
        self.fill_bytes(bytes);
        Ok(())
    }
}

impl CryptoRng for Counted {}

fn context() -> Arc<Context> {
    static CONTEXT: OnceLock<Arc<Context>> = OnceLock::new();
    CONTEXT.get_or_init(|| Arc::new(Context::new(world().context.genesis.clone()).unwrap())).clone()
}

/// A disk after the key ceremony.
fn founded() -> Image {
    static IMAGE: OnceLock<Image> = OnceLock::new();
    IMAGE
        .get_or_init(|| {
            let store = MemoryStore::new();
            store.apply(Record::first(b"boot".to_vec())).unwrap();
            store.flush().unwrap();
            store.snapshot()
        })
        .clone()
}

struct Custodian {
    decider: Decider<MemoryStore, Lawful>,
    store: Arc<MemoryStore>,
    now: u64,
    seq: u64,
    /// The newest message that it sent of each kind.
    said: BTreeMap<Kind, Msg>,
    /// Entries given to its log group, and how many came back.
    appended: Vec<(u64, u64, Msg)>,
    ordered: usize,
    /// The log of the running epoch: epoch, next place, digest of the last entry.
    log: (u64, u64, Option<Hash>),
    heads: BTreeMap<u64, Hash>,
    stopped: bool,
}

fn open(store: &Arc<MemoryStore>, life: u64) -> Decider<MemoryStore, Lawful> {
    let parts = Parts {
        context: context(),
        me: ME,
        identity: Box::new(world().custodians[&ME]),
        share: Some(ME),
        store: store.clone(),
        timing: Timing { timeout_ms: 1_000 },
        boot: b"boot".to_vec(),
        not_restored: false,
        entropy: Box::new(Counted(life << 32)),
    };
    Decider::open(parts).unwrap_or_else(|error| panic!("what it wrote itself doesn't open: {error}"))
}

impl Custodian {
    fn start() -> Self {
        let store = Arc::new(MemoryStore::restore(founded()));
        let mut custodian = Custodian {
            decider: open(&store, 0),
            store,
            now: 1_000,
            seq: 1_000,
            said: BTreeMap::new(),
            appended: Vec::new(),
            ordered: 0,
            log: (0, 0, None),
            heads: BTreeMap::new(),
            stopped: false,
        };
        custodian.input(Input::Start);
        custodian
    }

    /// Its process ends and starts again on what is durable.
    fn restart(&mut self) {
        self.seq += 1;
        self.decider = open(&self.store, self.seq);
        self.said.clear();
        self.appended.clear();
        (self.ordered, self.log) = (0, (0, 0, None));
        self.input(Input::Start);
    }

    fn input(&mut self, input: Input) {
        if self.stopped {
            return;
        }
        let before = self.decider.status();
        let now = Now { mono_ms: self.now, wall_ms: START + self.now };
        let mut actions = Vec::new();
        let result = self.decider.handle(now, input, &mut |action| actions.push(action));
        match result {
            Ok(()) => {}
            Err(error @ Fatal::Stop(_)) => {
                bounded(&error);
                self.stopped = true;
            }
            Err(error) => panic!("its store is whole: {error}"),
        }
        assert!(actions.len() <= ACTIONS, "{} actions of one input", actions.len());
        for action in actions {
            self.act(action);
        }
        let after = self.decider.status();
        let height = |status: &concordat_finality::Status| status.certified.map(|(height, _)| height);
        assert!(height(&after) >= height(&before), "the certified height fell");
        assert!(after.epoch >= before.epoch, "the epoch fell");
        assert!(after.seq >= before.seq, "seq fell");
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Send { message, .. } => {
                // What it says passes the checks of those who hear it.
                let heard = Message::receive(&context(), message.sender, &message.to_bytes());
                assert!(heard.is_ok(), "{:?} is refused: {heard:?}", message.kind());
                if message.sender == ME {
                    self.said.insert(message.kind(), message);
                }
            }
            Action::Append { epoch, number, entry } => self.appended.push((epoch, number, entry)),
            Action::Certified(head) => {
                let (height, id) = (head.head.height, head.log().unwrap().id());
                assert_eq!(*self.heads.entry(height).or_insert(id), id, "two heads of height {height}");
            }
            Action::Alarm(alarm) => bounded(&alarm),
            Action::OpenGroup { epoch, .. } => self.log = (epoch, 0, None),
            // Nobody it hears has shares for another roster, so none comes into force.
            Action::Reopen => panic!("another roster is in force"),
            Action::CloseGroup { .. } => {}
        }
    }

    /// A peer says this.
    fn hear(&mut self, mut envelope: wire::Envelope) {
        self.seq += 1;
        envelope.seq = envelope.seq.max(self.seq);
        mend::message(&mut envelope);
        let channel = envelope.sender as u16;
        if channel == ME {
            return;
        }
        if let Ok(message) = Message::receive(&context(), channel, &envelope.encode_to_vec()) {
            self.input(Input::Message(message));
        }
    }

    /// The log group of an epoch delivers its next entry: the guard has checked it.
    fn deliver(&mut self, bytes: &[u8]) {
        let (epoch, number, previous) = self.log;
        let named = self.decider.status().named.into_iter().collect();
        if let Ok(entry) = check_entry(&context(), &named, epoch, number, previous.as_ref(), bytes) {
            self.log = (epoch, number + 1, Some(entry.digest));
            self.input(Input::Ordered { epoch, entry });
        }
    }

    /// An entry by the epoch's leader, whoever that is, at its place.
    fn entry(&mut self, mut envelope: wire::Envelope) {
        let status = self.decider.status();
        let (epoch, number, previous) = self.log;
        if status.leader == ME {
            return;
        }
        if envelope.kind == Kind::Wrapper as u32
            && let Ok(mut wrapper) = wire::Wrapper::decode(envelope.body.as_slice())
        {
            (wrapper.epoch, wrapper.number) = (epoch, number);
            wrapper.previous = previous.unwrap_or(Hash::ZERO).as_bytes().to_vec();
            envelope.body = wrapper.encode_to_vec();
        }
        envelope.sender = status.leader.into();
        self.seq += 1;
        envelope.seq = self.seq;
        mend::message(&mut envelope);
        self.deliver(&envelope.encode_to_vec());
    }

    /// A peer votes for what the custodian proposed: as its leader it keeps its own vote to itself. How many messages the
    /// head has isn't known here, so the peer offers commitments for one to four.
    fn votes(&mut self, peer: u16) {
        let Some(Body::Propose(propose)) = self.said.get(&Kind::Propose).map(|message| &message.body) else {
            return;
        };
        let vote = propose.vote;
        for count in 1..=4 {
            let commitments = (0..count).map(|n| commitment_of(u32::from(peer) * 8 + n)).collect();
            let body = wire::Prepare {
                epoch: vote.epoch,
                height: vote.height,
                id: vote.id.as_bytes().to_vec(),
                commitments: Vec::new(),
            };
            self.hear(wire::Envelope {
                sender: peer.into(),
                kind: Kind::Prepare as u32,
                body: body.encode_to_vec(),
                attachment: wire::Commitments { commitments }.encode_to_vec(),
                ..Default::default()
            });
        }
    }

    /// A peer answers the question of this start.
    fn answer(&mut self, peer: u16) {
        let Some(Body::Question(nonce)) = self.said.get(&Kind::Question).map(|message| &message.body) else {
            return;
        };
        let body = wire::Answer { nonce: nonce.to_vec(), intact: true, ..Default::default() };
        let kind = Kind::Answer as u32;
        self.hear(wire::Envelope {
            sender: peer.into(),
            kind,
            body: body.encode_to_vec(),
            ..Default::default()
        });
    }
}

/// What a step may be; the numbers are those of the corpus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Step {
    /// Time passes: so many sixteenths of a second.
    Tick = 0,
    /// A peer's message, as an envelope.
    Message = 1,
    /// A peer (the upper three bits) says what the custodian said last of a kind (the lower five).
    Echo = 2,
    /// The log delivers what the custodian appended.
    Appended = 3,
    /// The log delivers an entry, as an envelope.
    Entry = 4,
    /// A request, as an event's JSON.
    Request = 5,
    /// A peer answers the question of the start.
    Answer = 6,
    /// A peer (the upper bits) can be reached, or not.
    Reachable = 7,
    /// The log group's core is dead.
    GroupFailed = 8,
    /// The process ends and starts again.
    Restart = 9,
    /// It is going to stop.
    Resign = 10,
    /// What relays hold, as a log event's JSON.
    Relayed = 11,
}

impl Step {
    /// Has it bytes of its own?
    pub fn carries(self) -> bool {
        matches!(self, Step::Message | Step::Entry | Step::Request | Step::Relayed)
    }
}

const STEP: [Step; 12] = [
    Step::Tick,
    Step::Message,
    Step::Echo,
    Step::Appended,
    Step::Entry,
    Step::Request,
    Step::Answer,
    Step::Reachable,
    Step::GroupFailed,
    Step::Restart,
    Step::Resign,
    Step::Relayed,
];

pub fn run(data: &[u8]) -> bool {
    let mut custodian = Custodian::start();
    let mut rest = data;
    for _ in 0..STEPS {
        let [step, how, tail @ ..] = rest else { break };
        rest = tail;
        let step = STEP[usize::from(*step) % STEP.len()];
        let mut bytes: &[u8] = &[];
        if step.carries() {
            let [low, high, tail @ ..] = rest else { break };
            let length = usize::from(u16::from_le_bytes([*low, *high])).min(tail.len());
            (bytes, rest) = tail.split_at(length);
        }
        take(&mut custodian, step, *how, bytes);
    }
    custodian.decider.status().certified.is_some()
}

fn take(custodian: &mut Custodian, step: Step, how: u8, bytes: &[u8]) {
    let peer = |bits: u8| ME + 1 + u16::from(bits) % 3;
    match step {
        Step::Tick => {
            custodian.now += 1 + u64::from(how) * 62;
            custodian.input(Input::Tick);
        }
        Step::Message => {
            if let Ok(envelope) = wire::Envelope::decode(bytes) {
                custodian.hear(envelope);
            }
        }
        Step::Echo => {
            let kind = mend::KINDS[usize::from(how & 31) % mend::KINDS.len()];
            if kind == Kind::Prepare && custodian.decider.status().leads {
                custodian.votes(peer(how >> 5));
            } else if let Some(message) = custodian.said.get(&kind) {
                let mut envelope = message.envelope().clone();
                envelope.sender = peer(how >> 5).into();
                custodian.hear(envelope);
            }
        }
        Step::Appended => {
            if let Some((_, _, entry)) = custodian.appended.get(custodian.ordered) {
                let bytes = entry.to_bytes();
                custodian.ordered += 1;
                custodian.deliver(&bytes);
            }
        }
        Step::Entry => {
            if let Ok(envelope) = wire::Envelope::decode(bytes) {
                custodian.entry(envelope);
            }
        }
        Step::Request => {
            if let Some(event) = mend::signed(bytes) {
                let origin = if how & 1 == 0 { Origin::Client } else { Origin::Relay };
                custodian.input(Input::Request { event: Box::new(event), origin });
            }
        }
        Step::Answer => custodian.answer(peer(how)),
        Step::Reachable => custodian.input(Input::Reachable { peer: peer(how >> 1), up: how & 1 == 1 }),
        Step::GroupFailed => custodian.input(Input::GroupFailed { epoch: custodian.log.0 }),
        Step::Restart if !custodian.stopped => custodian.restart(),
        Step::Restart => {}
        Step::Resign => custodian.input(Input::Resign),
        Step::Relayed => {
            if let Some(event) = mend::logged(bytes) {
                custodian.input(Input::Relayed(Box::new(event)));
            }
        }
    }
}
