//! Custodians that lie. Each runs the real decider and has its keys; what it says, to whom, and what it takes notice of goes
//! through its behaviours first. A liar is bound by nothing, so what it does to its own promises is nobody's concern.

mod grants;
mod leader;
mod noise;
mod votes;

use std::sync::Arc;

use bytes::Bytes;
use concordat_events::{PublicKey, ValidEvent};
use concordat_finality::message::{Kind, seal};
use concordat_finality::{Context, Message, Msg, Status};
use concordat_node::transport::RaftCall;
use prost::Message as _;
use rand_chacha::ChaCha20Rng;

use super::brain::Mind;
use super::net::below;
use super::reading::Reading;

/// What a liar works with.
pub struct Tools<'a> {
    /// The cluster.
    pub context: &'a Context,
    /// The rules by which it reads.
    pub mind: Mind,
    /// Messages read before.
    pub read: &'a mut Reading,
    /// Its number.
    pub number: u16,
    /// Its identity key.
    pub identity: &'a secp256k1::Keypair,
    /// Its dice.
    pub dice: &'a mut ChaCha20Rng,
    /// Where its decider stands.
    pub status: &'a Status,
    /// Everybody else.
    pub others: &'a [u16],
    /// How often it did what.
    pub done: &'a mut Vec<&'static str>,
}

impl Tools<'_> {
    /// Signs anything, under a seq of its choice.
    pub fn seal(&self, seq: u64, kind: Kind, body: &impl prost::Message, attachment: Vec<u8>) -> Bytes {
        let body = body.encode_to_vec();
        let envelope = seal(self.context, self.identity, self.number, seq, kind, body, attachment);
        Bytes::from(envelope.encode_to_vec())
    }

    /// Signs another body in place of a message's.
    pub fn instead(&self, message: &Msg, body: &impl prost::Message, attachment: Vec<u8>) -> Bytes {
        self.seal(message.seq, message.kind(), body, attachment)
    }

    /// Is this one of those to whom it tells the other story?
    pub fn other_side(&self, peer: u16) -> bool {
        self.others.iter().position(|other| *other == peer).is_some_and(|place| place % 2 == 1)
    }

    /// What it sends goes on as a message if it still is one.
    pub fn own_words(&mut self, bytes: &Bytes) -> Option<Msg> {
        self.read.read(self.mind, self.context, self.number, bytes)
    }

    /// Notes what it did.
    pub fn did(&mut self, what: &'static str) {
        self.done.push(what);
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        below(self.dice, end)
    }
}

/// A message that leaves: for whom, what, after how many ms.
pub type Saying = (u16, Bytes, u64);

/// One thing that a liar does.
pub trait Behaviour: Send {
    /// Its name.
    fn name(&self) -> &'static str;

    /// What it says instead of a message of its own (or one that it passes on).
    fn say(&mut self, _tools: &mut Tools<'_>, to: u16, message: &Msg) -> Vec<Saying> {
        vec![(to, Bytes::from(message.to_bytes()), 0)]
    }

    /// Does its decider hear this?
    fn hear(&mut self, _tools: &mut Tools<'_>, _message: &Msg) -> bool {
        true
    }

    /// Does it take a user's request?
    fn take(&mut self, _tools: &mut Tools<'_>, _request: &ValidEvent) -> bool {
        true
    }

    /// What it says of its own accord, a few times a second.
    fn idle(&mut self, _tools: &mut Tools<'_>) -> Vec<Saying> {
        Vec::new()
    }

    /// What it sends instead of a Raft request. Nothing: it isn't sent.
    fn ask(&mut self, _tools: &mut Tools<'_>, _to: u16, _call: RaftCall, request: Bytes) -> Option<Bytes> {
        Some(request)
    }

    /// What it answers instead of a reply.
    fn answer(&mut self, _tools: &mut Tools<'_>, _call: RaftCall, reply: Bytes) -> Bytes {
        reply
    }
}

/// A behaviour by its name.
type Make = fn() -> Box<dyn Behaviour>;

/// Two seats of one custodian, with its identity and its key share.
pub const TWINS: &str = "twins";

/// All behaviours. Twins are no behaviour: they are two seats.
pub const BEHAVIOURS: &[(&str, Make)] = &[
    ("silent", || Box::new(leader::Silent)),
    ("silent-leader", || Box::new(leader::SilentLeader)),
    ("slow-leader", || Box::new(leader::SlowLeader)),
    ("opens-to-one", || Box::new(leader::OpensToOne)),
    ("censors", || Box::new(leader::Censors)),
    ("equivocates-batches", || Box::new(leader::TwoLogs::default())),
    ("equivocates-proposals", || Box::new(leader::TwoProposals)),
    ("equivocates-sessions", || Box::new(leader::TwoSessions::default())),
    ("withholds-certificates", || Box::new(votes::WithholdsCertificates)),
    ("withholds-shares", || Box::new(votes::WithholdsShares)),
    ("bad-shares", || Box::new(votes::BadShares)),
    ("double-prepare", || Box::new(votes::DoublePrepare)),
    ("refuses-all", || Box::new(votes::RefusesAll)),
    ("grants-everything", || Box::new(grants::GrantsEverything)),
    ("hides-locks", || Box::new(grants::HidesLocks)),
    ("stale-locks", || Box::new(grants::StaleLocks::default())),
    ("shows-locks-late", || Box::new(grants::ShowsLocksLate::default())),
    ("invalid-grants", || Box::new(grants::InvalidGrants)),
    ("complains-always", || Box::new(grants::ComplainsAlways)),
    ("replays", || Box::new(noise::Replays::default())),
    ("huge-numbers", || Box::new(noise::HugeNumbers)),
    ("garbage", || Box::new(noise::Garbage)),
    ("attacks-raft", || Box::new(noise::AttacksRaft)),
    ("forges-state", || Box::new(noise::ForgesState)),
];

/// A liar: a few behaviours, one after the other.
pub struct Liar {
    behaviours: Vec<Box<dyn Behaviour>>,
    /// Its dice.
    pub dice: ChaCha20Rng,
}

/// A message and where it goes, or bytes that are no message any more.
enum Word {
    Message(Msg),
    Bytes(Bytes),
}

impl Liar {
    /// One with the behaviours of these names.
    pub fn new(names: &[&str], dice: ChaCha20Rng) -> Self {
        let named = |name: &&str| BEHAVIOURS.iter().find(|(known, _)| known == name).map(|(_, make)| make());
        Liar { behaviours: names.iter().filter_map(named).collect(), dice }
    }

    /// One with up to three behaviours.
    pub fn any(mut dice: ChaCha20Rng) -> Self {
        let count = 1 + below(&mut dice, 3);
        let names: Vec<&str> = (0..count)
            .filter_map(|_| {
                let which = usize::try_from(below(&mut dice, BEHAVIOURS.len() as u64)).ok()?;
                BEHAVIOURS.get(which).map(|(name, _)| *name)
            })
            .collect();
        Liar::new(&names, dice)
    }

    /// What it does.
    pub fn names(&self) -> Vec<&'static str> {
        self.behaviours.iter().map(|behaviour| behaviour.name()).collect()
    }

    /// What leaves instead of a message.
    pub fn say(&mut self, tools: &mut Tools<'_>, to: u16, message: &Msg) -> Vec<Saying> {
        let mut words = vec![(to, Word::Message(message.clone()), 0)];
        for behaviour in &mut self.behaviours {
            let mut next = Vec::new();
            for (to, word, late) in words {
                let Word::Message(message) = word else {
                    next.push((to, word, late));
                    continue;
                };
                for (to, bytes, more) in behaviour.say(tools, to, &message) {
                    let word = tools.own_words(&bytes).map_or(Word::Bytes(bytes), Word::Message);
                    next.push((to, word, late + more));
                }
            }
            words = next;
        }
        let bytes = |word| match word {
            Word::Message(message) => Bytes::from(message.to_bytes()),
            Word::Bytes(bytes) => bytes,
        };
        words.into_iter().map(|(to, word, late)| (to, bytes(word), late)).collect()
    }

    /// Does its decider hear this?
    pub fn hear(&mut self, tools: &mut Tools<'_>, message: &Msg) -> bool {
        // All of them look, whatever one says.
        let mut hears = true;
        for behaviour in &mut self.behaviours {
            hears &= behaviour.hear(tools, message);
        }
        hears
    }

    /// Does it take a user's request?
    pub fn take(&mut self, tools: &mut Tools<'_>, request: &ValidEvent) -> bool {
        self.behaviours.iter_mut().all(|behaviour| behaviour.take(tools, request))
    }

    /// What it says of its own accord.
    pub fn idle(&mut self, tools: &mut Tools<'_>) -> Vec<Saying> {
        self.behaviours.iter_mut().flat_map(|behaviour| behaviour.idle(tools)).collect()
    }

    /// What it sends instead of a Raft request.
    pub fn ask(&mut self, tools: &mut Tools<'_>, to: u16, call: RaftCall, request: Bytes) -> Option<Bytes> {
        self.behaviours
            .iter_mut()
            .try_fold(request, |request, behaviour| behaviour.ask(tools, to, call, request))
    }

    /// What it answers instead of a Raft reply.
    pub fn answer(&mut self, tools: &mut Tools<'_>, call: RaftCall, reply: Bytes) -> Bytes {
        self.behaviours.iter_mut().fold(reply, |reply, behaviour| behaviour.answer(tools, call, reply))
    }
}

/// The users whom a censor doesn't like: about every fourth.
fn disliked(author: &PublicKey) -> bool {
    author.to_bytes().first().is_some_and(|byte| byte % 4 == 0)
}

/// The same message, for every other custodian.
fn to_all(tools: &Tools<'_>, bytes: &Bytes) -> Vec<Saying> {
    tools.others.iter().map(|to| (*to, bytes.clone(), 0)).collect()
}

/// A shared message that a behaviour keeps.
type Kept = Arc<Message>;
