//! A network in one thread for reshares: any order of delivery, repeats, disks that
//! keep what was stored, and members that lie.

use std::collections::{BTreeMap, BTreeSet};

use concordat_events::{Confirming, Hash};
use concordat_threshold::dkg::{Alarm, Outgoing, Phase};
use concordat_threshold::reshare::{Outcome, Plan, Reshare};
use concordat_threshold::{AggregateError, GroupKeys, KeyShare, Session, aggregate, commit, sign, verify};
use rand::seq::IteratorRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha20Rng;

use crate::net::{Group, Lie, Wire};

pub fn hash(id: u8) -> Hash {
    Hash::from_bytes([id; 32])
}

/// What the new shares are for.
pub fn change() -> Confirming {
    Confirming { cluster: hash(91), roster: hash(92), proposal: hash(93), transcript: Hash::ZERO }
}

/// A signature of these shares, as custodians make it, or why there is none.
pub fn certify(
    keys: &GroupKeys,
    signers: &[&KeyShare],
    rng: &mut ChaCha20Rng,
) -> Result<[u8; 64], AggregateError> {
    let message = rng.r#gen();
    let (mut nonces, mut session) = (Vec::new(), Session::new());
    for share in signers {
        let (nonce, commitment) = commit(share, rng);
        nonces.push(nonce);
        session.insert(share.number(), commitment);
    }
    let one =
        |(share, nonce): (&&KeyShare, _)| (share.number(), sign(share, nonce, &message, &session).unwrap());
    let shares = signers.iter().zip(nonces).map(one).collect();
    let signature = aggregate(keys, &message, &session, &shares)?;
    assert!(verify(&keys.group_key(), &message, &signature));
    Ok(signature)
}

/// A copy of a share, which only its sealed form allows.
pub fn copy(share: &KeyShare) -> KeyShare {
    KeyShare::from_sealed_bytes(&share.to_sealed_bytes()).unwrap()
}

pub struct Handover {
    pub plan: Plan,
    pub members: BTreeMap<u16, Reshare>,
    /// What each holder stored before it confirmed.
    pub disks: BTreeMap<u16, KeyShare>,
    pub liars: BTreeSet<u16>,
    pub rng: ChaCha20Rng,
    wire: Wire,
}

impl Handover {
    pub fn honest(old: &Group, plan: Plan, seed: u64) -> Self {
        Self::lying(old, plan, seed, BTreeSet::new(), Box::new(|from, _, message| vec![(from, message)]))
    }

    pub fn lying(old: &Group, plan: Plan, seed: u64, liars: BTreeSet<u16>, lie: Lie) -> Self {
        let rng = ChaCha20Rng::seed_from_u64(seed);
        let numbers: BTreeSet<u16> = plan.dealers.union(&plan.roster).copied().collect();
        let mut net = Self {
            plan: plan.clone(),
            members: BTreeMap::new(),
            disks: BTreeMap::new(),
            liars,
            rng,
            wire: Wire::new(lie),
        };
        let mut first = Vec::new();
        for own in numbers {
            let share = plan.dealers.contains(&own).then(|| &old.shares[&own]);
            let (member, out) = Reshare::new(plan.clone(), own, share, &mut net.rng).unwrap();
            net.members.insert(own, member);
            first.push((own, out));
        }
        for (own, out) in first {
            net.post(own, &out);
        }
        net
    }

    pub fn post(&mut self, from: u16, out: &[Outgoing]) {
        let all: Vec<u16> = self.members.keys().copied().filter(|to| *to != from).collect();
        self.wire.post(from, &all, out);
    }

    pub fn deliver(&mut self) -> bool {
        let Some((from, to, message)) = self.wire.draw(&mut self.rng) else { return false };
        let member = self.members.get_mut(&to).unwrap();
        let had = member.alarm().is_some();
        let mut out = match member.on_message(from, message, &mut self.rng) {
            Ok(out) => out,
            Err(_) if had => Vec::new(),
            Err(_) => member.repeat().to_vec(),
        };
        if let Some(share) = member.to_store() {
            self.disks.insert(to, copy(share));
            match member.stored(&mut self.rng) {
                Ok(more) => out.extend(more),
                Err(_) => out = member.repeat().to_vec(),
            }
        }
        self.post(to, &out);
        true
    }

    pub fn run(&mut self) {
        while self.deliver() {}
    }

    /// Time is up, first for those who are behind: that is how it is when each phase
    /// has its deadline.
    pub fn expire(&mut self) {
        loop {
            let honest = self.members.iter().filter(|(number, _)| !self.liars.contains(number));
            let waiting = honest.filter(|(_, m)| matches!(m.phase(), Phase::Waiting(_)));
            let Some(number) = waiting.min_by_key(|(_, m)| m.phase()).map(|(n, _)| *n) else { return };
            let out = self.members.get_mut(&number).unwrap().expire();
            assert!(self.members[&number].alarm().is_some(), "{number} waits for nobody");
            self.post(number, &out);
            self.run();
        }
    }

    pub fn alarms(&self) -> BTreeMap<u16, Alarm> {
        self.members.iter().filter_map(|(n, m)| Some((*n, m.alarm()?.clone()))).collect()
    }

    /// Ends it: the outcomes of all that finished.
    pub fn outcomes(self) -> BTreeMap<u16, Outcome> {
        self.members.into_iter().filter_map(|(n, m)| Some((n, m.finish().ok()?))).collect()
    }

    /// The new group, if all finished with equal keys.
    pub fn group(self) -> Group {
        let (roster, members) = (self.plan.roster.clone(), self.members.len());
        let outcomes = self.outcomes();
        assert_eq!(outcomes.len(), members, "not all finished");
        let first = outcomes.values().next().unwrap();
        let (keys, transcript, test) = (first.keys.clone(), first.transcript, first.test_signature);
        for outcome in outcomes.values() {
            assert_eq!(outcome.keys.to_bytes(), keys.to_bytes());
            assert_eq!((outcome.transcript, outcome.test_signature), (transcript, test));
        }
        let shares: BTreeMap<u16, KeyShare> =
            outcomes.into_iter().filter_map(|(n, outcome)| Some((n, outcome.share?))).collect();
        assert!(shares.keys().eq(roster.iter()));
        Group { keys, shares }
    }
}

/// A plan for the holders of `old` to hand over to `roster`.
pub fn plan(old: &Group, roster: &[u16], threshold: u16, rng: &mut ChaCha20Rng) -> Plan {
    let t = usize::from(old.keys.threshold());
    let dealers = old.keys.numbers().iter().copied().choose_multiple(rng, t).into_iter().collect();
    let roster = roster.iter().copied().collect();
    Plan { change: change(), attempt: hash(9), keys: old.keys.clone(), dealers, roster, threshold }
}
