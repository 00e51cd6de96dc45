//! A network in one thread: ceremonies exchange bytes in any order, some of them
//! twice, and one member may lie.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use concordat_events::Hash;
use concordat_threshold::dkg::{Alarm, Ceremony, Message, Outcome, Outgoing, Params, To};
use concordat_threshold::{GroupKeys, KeyShare};
use rand::seq::SliceRandom;
use rand::{Rng, RngCore, SeedableRng};
use rand_chacha::ChaCha20Rng;

/// What is sent in place of a message: (sender, receiver, true message) to what
/// comes from whom.
pub type Lie = Box<dyn FnMut(u16, u16, Message) -> Vec<(u16, Message)>>;

pub struct Net {
    pub members: BTreeMap<u16, Ceremony>,
    pub rng: ChaCha20Rng,
    wire: Wire,
}

/// Messages on their way, as bytes.
pub struct Wire {
    way: Vec<(u16, u16, Vec<u8>)>,
    lie: Lie,
}

impl Wire {
    pub fn new(lie: Lie) -> Self {
        Self { way: Vec::new(), lie }
    }

    /// Puts messages on their way, to every receiver among `others`.
    pub fn post(&mut self, from: u16, others: &[u16], out: &[Outgoing]) {
        for outgoing in out {
            for to in others.iter().copied() {
                if outgoing.to == To::All || outgoing.to == To::One(to) {
                    let copy = Message::decode(&outgoing.message.encode()).unwrap();
                    for (from, message) in (self.lie)(from, to, copy) {
                        self.way.push((from, to, message.encode().to_vec()));
                    }
                }
            }
        }
    }

    /// Takes one message, chosen at random; one in four stays to come again.
    pub fn draw(&mut self, rng: &mut ChaCha20Rng) -> Option<(u16, u16, Message)> {
        if self.way.is_empty() {
            return None;
        }
        let at = rng.gen_range(0..self.way.len());
        let (from, to, bytes) =
            if rng.gen_ratio(1, 4) { self.way[at].clone() } else { self.way.swap_remove(at) };
        Some((from, to, Message::decode(&bytes).unwrap()))
    }
}

pub fn params(id: u8, numbers: &[u16], own: u16, threshold: u16) -> Params {
    let roster: BTreeSet<u16> = numbers.iter().copied().collect();
    Params::new(Hash::from_bytes([id; 32]), roster, own, threshold).unwrap()
}

impl Net {
    pub fn new(numbers: &[u16], threshold: u16, seed: u64) -> Self {
        Self::lying(numbers, threshold, seed, Box::new(|from, _, message| vec![(from, message)]))
    }

    pub fn lying(numbers: &[u16], threshold: u16, seed: u64, lie: Lie) -> Self {
        let rng = ChaCha20Rng::seed_from_u64(seed);
        let mut net = Self { members: BTreeMap::new(), rng, wire: Wire::new(lie) };
        for own in numbers {
            let params = params(7, numbers, *own, threshold);
            let (ceremony, out) = Ceremony::new(params, &mut net.rng).unwrap();
            net.members.insert(*own, ceremony);
            net.post(*own, &out);
        }
        net
    }

    /// Puts messages on the wire, to every receiver.
    pub fn post(&mut self, from: u16, out: &[Outgoing]) {
        let all: Vec<u16> = self.members[&from].params().others().collect();
        self.wire.post(from, &all, out);
    }

    /// Delivers one message.
    pub fn deliver(&mut self) -> bool {
        let Some((from, to, message)) = self.wire.draw(&mut self.rng) else { return false };
        let Some(member) = self.members.get_mut(&to) else {
            return true;
        };
        let had = member.alarm().is_some();
        let out = match member.on_message(from, message, &mut self.rng) {
            Ok(out) => out,
            Err(_) if had => Vec::new(),
            Err(_) => member.repeat().to_vec(),
        };
        self.post(to, &out);
        true
    }

    /// Loses all that is from or to this member.
    pub fn drop_all_of(&mut self, number: u16) {
        self.wire.way.retain(|(from, to, _)| *from != number && *to != number);
    }

    /// Loses each message with probability one half.
    pub fn lose_half(&mut self) {
        let rng = &mut self.rng;
        self.wire.way.retain(|_| rng.gen_bool(0.5));
    }

    pub fn run(&mut self) {
        while self.deliver() {}
    }

    pub fn alarms(&self) -> BTreeMap<u16, Alarm> {
        self.members.iter().filter_map(|(n, c)| Some((*n, c.alarm()?.clone()))).collect()
    }

    pub fn finish(self) -> BTreeMap<u16, Outcome> {
        let end = |(n, c): (u16, Ceremony)| match c.finish() {
            Ok(outcome) => (n, outcome),
            Err(rest) => panic!("{n} waits for {:?} of {:?}", rest.0.phase(), rest.0.waiting_on()),
        };
        self.members.into_iter().map(end).collect()
    }
}

/// A group with all its shares, which only a test has in one place.
pub struct Group {
    pub keys: GroupKeys,
    pub shares: BTreeMap<u16, KeyShare>,
}

impl Group {
    pub fn make(numbers: &[u16], threshold: u16, seed: u64) -> Self {
        let mut net = Net::new(numbers, threshold, seed);
        net.run();
        let outcomes = net.finish();
        let keys = outcomes.values().next().unwrap().keys.clone();
        Self { keys, shares: outcomes.into_iter().map(|(n, o)| (n, o.share)).collect() }
    }

    /// `count` signers at random.
    pub fn signers(&self, count: usize, rng: &mut impl RngCore) -> Vec<&KeyShare> {
        let all: Vec<u16> = self.shares.keys().copied().collect();
        let chosen: BTreeSet<u16> = all.choose_multiple(rng, count).copied().collect();
        self.shares.values().filter(|s| chosen.contains(&s.number())).collect()
    }
}

/// 3-of-4 and 5-of-7, each with an even and an odd group key.
pub fn groups() -> &'static [Group] {
    static GROUPS: OnceLock<Vec<Group>> = OnceLock::new();
    GROUPS.get_or_init(|| {
        let mut groups = Vec::new();
        for (numbers, t) in [(&[1, 2, 3, 4][..], 3), (&[1, 2, 5, 6, 9, 300, 65_535][..], 5)] {
            for odd in [false, true] {
                let start = rand::random();
                let group = (0..64)
                    .map(|i| Group::make(numbers, t, u64::wrapping_add(start, i)))
                    .find(|group| group.keys.has_odd_y() == odd);
                groups.push(group.expect("64 keys of one parity come once in 2^64 runs"));
            }
        }
        groups
    })
}
