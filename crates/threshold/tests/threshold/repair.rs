//! A lost share is rebuilt bit by bit, and whoever spoils it is named.

use std::collections::{BTreeMap, BTreeSet};

use concordat_threshold::KeyShare;
use concordat_threshold::dkg::{Alarm, Body, Kind, Message, Outgoing, ParamsError, Phase, SecretShare};
use concordat_threshold::repair::{Plan, Repair};
use concordat_threshold::reshare::Deal;
use proptest::prelude::*;
use rand::SeedableRng;
use rand::seq::IteratorRandom;
use rand_chacha::ChaCha20Rng;

use crate::handover::{certify, hash};
use crate::net::{Group, Wire, groups};

type Lie = Box<dyn FnMut(u16, u16, Message) -> Vec<Message>>;

struct Net {
    members: BTreeMap<u16, Repair>,
    disk: Option<KeyShare>,
    wire: Wire,
    rng: ChaCha20Rng,
    lost: u16,
}

fn plan(group: &Group, rng: &mut ChaCha20Rng) -> Plan {
    let lost = *group.keys.numbers().iter().choose(rng).unwrap();
    let others = group.keys.numbers().iter().copied().filter(|number| *number != lost);
    let helpers = others.choose_multiple(rng, usize::from(group.keys.threshold())).into_iter().collect();
    Plan { ceremony: hash(4), keys: group.keys.clone(), helpers, lost }
}

impl Net {
    fn new(group: &Group, plan: &Plan, seed: u64, lie: Lie) -> Self {
        let rng = ChaCha20Rng::seed_from_u64(seed);
        let (members, lost) = (BTreeMap::new(), plan.lost);
        let mut lie = lie;
        let wire = Wire::new(Box::new(move |from, to, message| {
            lie(from, to, message).into_iter().map(|message| (from, message)).collect()
        }));
        let mut net = Self { members, disk: None, wire, rng, lost };
        let mut first = Vec::new();
        for own in plan.helpers.iter().copied().chain([plan.lost]) {
            let share = plan.helpers.contains(&own).then(|| &group.shares[&own]);
            let (member, out) = Repair::new(plan.clone(), own, share, &mut net.rng).unwrap();
            net.members.insert(own, member);
            first.push((own, out));
        }
        first.into_iter().for_each(|(own, out)| net.post(own, &out));
        net
    }

    fn post(&mut self, from: u16, out: &[Outgoing]) {
        let all: Vec<u16> = self.members.keys().copied().filter(|to| *to != from).collect();
        self.wire.post(from, &all, out);
    }

    fn run(&mut self) {
        while let Some((from, to, message)) = self.wire.draw(&mut self.rng) {
            let member = self.members.get_mut(&to).unwrap();
            let had = member.alarm().is_some();
            let mut out = match member.on_message(from, message) {
                Ok(out) => out,
                Err(_) if had => Vec::new(),
                Err(_) => member.repeat().to_vec(),
            };
            if let Some(share) = member.to_store() {
                self.disk = Some(KeyShare::from_sealed_bytes(&share.to_sealed_bytes()).unwrap());
                out.extend(member.stored().unwrap());
            }
            self.post(to, &out);
        }
    }

    fn expire(&mut self, liar: u16) {
        loop {
            let waiting =
                self.members.iter().filter(|(n, m)| **n != liar && matches!(m.phase(), Phase::Waiting(_)));
            // The member gets its sums after the helpers got their values.
            let order = |(number, m): &(&u16, &Repair)| (m.phase(), **number == self.lost);
            let Some(number) = waiting.min_by_key(order).map(|(n, _)| *n) else { return };
            let out = self.members.get_mut(&number).unwrap().expire();
            assert!(self.members[&number].alarm().is_some());
            self.post(number, &out);
            self.run();
        }
    }
}

fn truth() -> Lie {
    Box::new(|_, _, message| vec![message])
}

/// Messages of this kind from this sender are replaced.
fn replace(liar: u16, kind: Kind, mut lie: impl FnMut(u16, Message) -> Vec<Message> + 'static) -> Lie {
    Box::new(move |from, to, message| match message.kind() {
        is if from == liar && is == kind => lie(to, message),
        Kind::Abort if from == liar => Vec::new(),
        _ => vec![message],
    })
}

/// Everyone honest ends it and suspects the liar; the member stored nothing.
fn caught(group: &Group, plan: &Plan, liar: u16, seed: u64, lie: Lie, saw: impl Fn(&Alarm) -> bool) {
    let mut net = Net::new(group, plan, seed, lie);
    net.run();
    net.expire(liar);
    let mut witnesses = 0;
    for (number, member) in net.members.iter().filter(|(number, _)| **number != liar) {
        let alarm = member.alarm().unwrap_or_else(|| panic!("{number} saw nothing"));
        assert!(alarm.suspects().contains(&liar), "{number}: {alarm}");
        witnesses += usize::from(saw(alarm));
    }
    assert!(witnesses > 0, "{:?}", net.members.values().map(|m| m.alarm().cloned()).collect::<Vec<_>>());
    assert!(net.disk.is_none());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]

    #[test]
    fn repair_gives_the_very_share_that_was_lost(seed in any::<u64>(), which in 0_usize..4) {
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let group = &groups()[which];
        let plan = plan(group, &mut rng);
        let mut net = Net::new(group, &plan, seed, truth());
        net.run();
        let lost = &group.shares[&plan.lost];
        prop_assert_eq!(net.disk.unwrap().to_sealed_bytes(), lost.to_sealed_bytes());
        let mut found = None;
        for (number, member) in net.members {
            prop_assert_eq!(member.phase(), Phase::Finished);
            prop_assert!(member.repeat().iter().all(|out| number == plan.lost || out.message.kind() != Kind::Round2));
            let repaired = member.finish().unwrap();
            prop_assert_eq!(repaired.share.is_some(), number == plan.lost);
            found = found.or(repaired.share);
        }
        let found = found.unwrap();
        let mut signers = vec![&found];
        signers.extend(group.shares.values().filter(|s| s.number() != plan.lost).take(usize::from(group.keys.threshold()) - 1));
        certify(&group.keys, &signers, &mut rng).unwrap();
    }

    #[test]
    fn repair_names_whoever_spoils_it(seed in any::<u64>(), which in 0_usize..4, trick in 0..8) {
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let group = &groups()[which];
        let plan = plan(group, &mut rng);
        let liar = *plan.helpers.iter().choose(&mut rng).unwrap();
        let lost = plan.lost;
        let value = || SecretShare::from_bytes(&[7; 32]).unwrap();
        let bad = move |to_lost: bool| replace(liar, Kind::Round2, move |to, message| {
            if (to == lost) != to_lost { return vec![message] }
            vec![Message::new(message.ceremony(), Body::Round2 { to, share: value() })]
        });
        match trick {
            0 => caught(group, &plan, liar, seed, bad(false), |a| *a == Alarm::BadSecretShare { culprit: liar }),
            1 => caught(group, &plan, liar, seed, bad(true), |a| *a == Alarm::BadSecretShare { culprit: liar }),
            2 => {
                // The points of a right total, but others to some.
                let mut other = Repair::new(plan.clone(), liar, Some(&group.shares[&liar]), &mut rng).unwrap().1;
                let other = other.remove(0).message.encode().to_vec();
                let lie = replace(liar, Kind::Round1, move |to, message| {
                    vec![if to == lost { Message::decode(&other).unwrap() } else { message }]
                });
                caught(group, &plan, liar, seed, lie, |a| matches!(a, Alarm::ViewsDiffer { .. }));
            }
            3 => {
                // Another's points: a total of another share.
                let honest = *plan.helpers.iter().find(|n| **n != liar).unwrap();
                let other = Repair::new(plan.clone(), honest, Some(&group.shares[&honest]), &mut rng).unwrap().1;
                let other = other[0].message.encode().to_vec();
                let lie = replace(liar, Kind::Round1, move |_, _| vec![Message::decode(&other).unwrap()]);
                caught(group, &plan, liar, seed, lie, |a| *a == Alarm::WrongSecret { culprit: liar });
            }
            4 => {
                let lie = replace(liar, Kind::Round1, |_, message| {
                    let Body::Deal(deal) = message.body() else { panic!("not a deal") };
                    let more = [deal.to_bytes(), &deal.to_bytes()[..33]].concat();
                    vec![Message::new(message.ceremony(), Body::Deal(Deal::from_bytes(&more).unwrap()))]
                });
                caught(group, &plan, liar, seed, lie, |a| matches!(a, Alarm::Misfit { .. }));
            }
            5 => {
                let lie = replace(liar, Kind::Round2, move |_, message| {
                    vec![Message::new(message.ceremony(), Body::Round2 { to: liar, share: value() })]
                });
                caught(group, &plan, liar, seed, lie, |a| *a == Alarm::Misdirected { culprit: liar, meant_for: liar });
            }
            6 => {
                // A confirmation is the member's to give.
                let lie = replace(liar, Kind::Echo, |_, message| {
                    vec![Message::new(message.ceremony(), Body::Confirm(hash(1)))]
                });
                caught(group, &plan, liar, seed, lie, |a| *a == Alarm::Misfit { culprit: liar, kind: Kind::Confirm });
            }
            _ => for kind in [Kind::Round1, Kind::Echo, Kind::Round2] {
                let silent = replace(liar, kind, |_, _| Vec::new());
                caught(group, &plan, liar, seed, silent, |a| *a == Alarm::Silent { culprits: BTreeSet::from([liar]), kind });
            },
        }
    }
}

#[test]
fn plans_that_can_not_be_are_refused() {
    let mut rng = ChaCha20Rng::seed_from_u64(rand::random());
    let group = &groups()[0];
    let plan =
        Plan { ceremony: hash(4), keys: group.keys.clone(), helpers: BTreeSet::from([1, 2, 3]), lost: 4 };
    let mut make = |plan: &Plan, own, share| Repair::new(plan.clone(), own, share, &mut rng).err();
    assert_eq!(make(&plan, 1, Some(&group.shares[&1])), None);
    assert_eq!(make(&plan, 4, None), None);
    assert_eq!(make(&plan, 5, None), Some(ParamsError::NotMember { own: 5 }));
    assert_eq!(make(&plan, 1, None), Some(ParamsError::OwnShare { own: 1 }));
    assert_eq!(make(&plan, 1, Some(&group.shares[&2])), Some(ParamsError::OwnShare { own: 1 }));
    assert_eq!(make(&plan, 1, Some(&groups()[1].shares[&1])), Some(ParamsError::OwnShare { own: 1 }));
    let two = Plan { helpers: BTreeSet::from([1, 2]), ..plan.clone() };
    assert_eq!(make(&two, 4, None), Some(ParamsError::Dealers { expected: 3, got: 2 }));
    let stranger = Plan { helpers: BTreeSet::from([1, 2, 9]), ..plan.clone() };
    assert_eq!(make(&stranger, 4, None), Some(ParamsError::NoDealer { number: 9 }));
    let own = Plan { lost: 3, ..plan.clone() };
    assert_eq!(make(&own, 1, Some(&group.shares[&1])), Some(ParamsError::NoDealer { number: 3 }));
}
