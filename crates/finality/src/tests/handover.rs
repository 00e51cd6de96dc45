//! From one roster to the next, with a real reshare of the group's key (PROTOCOL 9).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::OnceLock;

use concordat_events::change::change_tags;
use concordat_events::hash::{Hash, tagged};
use concordat_events::kinds::CHANGE;
use concordat_events::{Activation, Change, Confirming, Custodian, Proposal, Roster, ValidEvent};
use concordat_store::memory::MemoryStore;
use concordat_threshold::dkg::{Message as Dealt, Outgoing, To};
use concordat_threshold::reshare::{Plan, Reshare};
use concordat_threshold::{KeyShare, Session, aggregate, commit, sign};
use nostr::{EventBuilder, Keys, Kind, Tag, Timestamp};
use prost::Message as _;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng;

use super::net::{Cluster, Member, Net, WALL, definition, go};
use crate::message::{Body, Message, MessageError};
use crate::mutants::{Mutant, off};
use crate::{Context, Law};

/// Custodians 1 to 4 found it; 5 to 7 come later.
struct Council {
    cluster: &'static Cluster,
    /// The roster and shares of each office, by what it is called.
    offices: BTreeMap<&'static str, (Roster, BTreeMap<u16, Vec<u8>>)>,
}

/// Who is in office when.
const OFFICES: &[(&str, &[u16])] =
    &[("seven", &[1, 2, 3, 4, 5, 6, 7]), ("last", &[1, 5, 6, 7]), ("swap", &[1, 3, 4, 5])];

fn council() -> &'static Council {
    static COUNCIL: OnceLock<Council> = OnceLock::new();
    COUNCIL.get_or_init(|| {
        let mut cluster = Cluster::found(4, 44);
        let founders = cluster.context.roster.members().to_vec();
        let mut everybody = founders;
        for number in 5..=7 {
            let keys = Keys::generate();
            let identity = secp256k1::Keypair::from_secret_key(secp256k1::SECP256K1, keys.secret_key());
            let sealed = cluster.members[&1].sealed.clone();
            cluster.members.insert(number, Member { identity, sealed, later: BTreeMap::new() });
            everybody.push(Custodian {
                number,
                name: format!("custodian {number}"),
                identity: keys.public_key(),
                certificate: tagged("test", &[&number.to_be_bytes()]),
            });
        }
        let mut rng = ChaCha20Rng::seed_from_u64(9);
        let mut offices = BTreeMap::new();
        let mut shares: BTreeMap<u16, Vec<u8>> =
            (1..=4).map(|number| (number, cluster.members[&number].sealed.clone())).collect();
        for (name, numbers) in OFFICES {
            if *name == "swap" {
                shares = (1..=4).map(|number| (number, cluster.members[&number].sealed.clone())).collect();
            }
            let of = everybody.iter().filter(|member| numbers.contains(&member.number)).cloned();
            let roster = Roster::new(of.collect()).unwrap();
            shares = reshare(&shares, &roster, &mut rng);
            for (number, share) in &shares {
                let member = cluster.members.get_mut(number).unwrap();
                member.later.insert(roster.hash().unwrap(), share.clone());
            }
            offices.insert(*name, (roster, shares.clone()));
        }
        cluster.guests = everybody;
        Council { cluster: Box::leak(Box::new(cluster)), offices }
    })
}

/// The key handed over to another roster.
fn reshare(old: &BTreeMap<u16, Vec<u8>>, roster: &Roster, rng: &mut ChaCha20Rng) -> BTreeMap<u16, Vec<u8>> {
    let old: BTreeMap<u16, KeyShare> =
        old.iter().map(|(number, bytes)| (*number, KeyShare::from_sealed_bytes(bytes).unwrap())).collect();
    let keys = old.values().next().unwrap().keys().clone();
    let dealers: BTreeSet<u16> = old.keys().copied().take(usize::from(keys.threshold())).collect();
    let to: BTreeSet<u16> = roster.numbers().collect();
    let zero = Hash::ZERO;
    let nothing = Confirming { cluster: zero, roster: zero, proposal: zero, transcript: zero };
    let plan = Plan {
        change: nothing,
        attempt: Hash::ZERO,
        keys,
        dealers: dealers.clone(),
        roster: to.clone(),
        threshold: roster.q() as u16,
    };
    let all: BTreeSet<u16> = dealers.union(&to).copied().collect();
    let (mut members, mut wire): (BTreeMap<u16, Reshare>, Vec<(u16, Outgoing)>) = Default::default();
    for number in &all {
        let share = dealers.contains(number).then(|| &old[number]);
        let (member, out) = Reshare::new(plan.clone(), *number, share, rng).unwrap();
        members.insert(*number, member);
        wire.extend(out.into_iter().map(|out| (*number, out)));
    }
    loop {
        while let Some((from, out)) = wire.pop() {
            for number in all.iter().filter(|number| **number != from) {
                if out.to == To::All || out.to == To::One(*number) {
                    let message = Dealt::decode(&out.message.encode()).unwrap();
                    let more = members.get_mut(number).unwrap().on_message(from, message, rng).unwrap();
                    wire.extend(more.into_iter().map(|out| (*number, out)));
                }
            }
        }
        for (number, member) in &mut members {
            if member.to_store().is_some() {
                let more = member.stored(rng).unwrap();
                wire.extend(more.into_iter().map(|out| (*number, out)));
            }
        }
        if wire.is_empty() {
            break;
        }
    }
    let shares = members.into_iter().filter_map(|(number, member)| {
        Some((number, member.finish().ok()?.share?.to_sealed_bytes().to_vec()))
    });
    let shares: BTreeMap<u16, Vec<u8>> = shares.collect();
    assert!(shares.keys().copied().eq(to));
    shares
}

impl Council {
    fn request(&self, by: u16, change: &Change, at: u64) -> ValidEvent {
        let keys = Keys::new(nostr::SecretKey::from(self.cluster.members[&by].identity.secret_key()));
        let tags = change_tags(&self.cluster.context.group());
        let signed = EventBuilder::new(Kind::from_u16(CHANGE), serde_json::to_string(change).unwrap())
            .tags(tags.iter().map(|tag| Tag::parse(tag).unwrap()))
            .custom_created_at(Timestamp::from_secs((WALL + at) / 1000))
            .sign_with_keys(&keys);
        ValidEvent::check(signed.unwrap()).unwrap()
    }

    /// The activation of an office: confirmed by all, signed with its shares.
    fn activation(&self, proposal: Hash, in_force: Hash, office: &str) -> Activation {
        let (roster, shares) = &self.offices[office];
        let confirming = Confirming {
            cluster: self.cluster.context.cluster,
            roster: in_force,
            proposal,
            transcript: tagged("test", &[office.as_bytes()]),
        };
        let digest = secp256k1::Message::from_digest(*confirming.digest().as_bytes());
        let confirm = |number: u16| {
            let identity = &self.cluster.members[&number].identity;
            (number, secp256k1::SECP256K1.sign_schnorr_no_aux_rand(&digest, identity).to_string())
        };
        let mut rng = ChaCha20Rng::seed_from_u64(3);
        let message = *confirming.proof_digest().as_bytes();
        let signers: Vec<KeyShare> = shares
            .values()
            .take(roster.q())
            .map(|bytes| KeyShare::from_sealed_bytes(bytes).unwrap())
            .collect();
        let (mut nonces, mut session) = (Vec::new(), Session::new());
        for share in &signers {
            let (nonce, commitment) = commit(share, &mut rng);
            nonces.push(nonce);
            session.insert(share.number(), commitment);
        }
        let signed = signers
            .iter()
            .zip(nonces)
            .map(|(share, nonce)| (share.number(), sign(share, nonce, &message, &session).unwrap()));
        let signed = signed.collect();
        let proof = aggregate(signers[0].keys(), &message, &session, &signed).unwrap();
        Activation {
            proposal,
            transcript: confirming.transcript,
            confirmations: roster.numbers().map(confirm).collect(),
            proof: secp256k1::schnorr::Signature::from_slice(&proof).unwrap().to_string(),
        }
    }

    /// Proposes an office and activates it, with everybody who lives.
    fn change(&self, net: &mut Net<Law>, by: u16, office: &str) -> ValidEvent {
        let propose = Change::Propose(Proposal::Roster(self.offices[office].0.clone().into()));
        let propose = self.request(by, &propose, net.now);
        net.request(by, &propose);
        assert!(net.run_until(60_000, |net| net.everyone_has(&propose.id())), "{}", net.report());
        let in_force = net.decider(by).ledger().charter().roster_hash;
        let activation = Change::Activate(self.activation(propose.id(), in_force, office));
        let activation = self.request(by, &activation, net.now);
        net.request(by, &activation);
        activation
    }

    /// As [`Council::change`], until everybody who lives goes by it. The roster's hash.
    fn changed(&self, net: &mut Net<Law>, by: u16, office: &str) -> Hash {
        let activation = self.change(net, by, office);
        self.comes_into_force(net, 60_000, &activation, office)
    }

    fn comes_into_force(&self, net: &mut Net<Law>, ms: u64, activation: &ValidEvent, office: &str) -> Hash {
        let roster = self.roster(office);
        let there = |net: &Net<Law>| net.everyone_has(&activation.id()) && in_force(net, &roster);
        assert!(net.run_until(ms, there), "{}", net.report());
        roster
    }

    fn roster(&self, office: &str) -> Hash {
        self.offices[office].0.hash().unwrap()
    }
}

/// Everybody who lives goes by this roster.
fn in_force(net: &Net<Law>, roster: &Hash) -> bool {
    (1..=7).filter(|n| net.alive(*n)).all(|n| net.decider(n).ledger().charter().roster_hash == *roster)
}

/// A machine, and a request to it through one custodian, certified everywhere.
fn works(net: &mut Net<Law>, machine: &ValidEvent, through: u16) -> u64 {
    let step = go(machine, net.now);
    net.request(through, &step);
    assert!(net.run_until(120_000, |net| net.everyone_has(&step.id())), "{}", net.report());
    net.outcomes[&step.id()].0
}

fn founded(net: &mut Net<Law>) -> ValidEvent {
    net.start_all();
    let machine = definition(net.cluster, "m");
    net.request(1, &machine);
    assert!(net.run_until(60_000, |net| net.everyone_has(&machine.id())), "{}", net.report());
    machine
}

#[test]
fn four_to_seven_to_four_and_everything_goes_on() {
    let council = council();
    let mut net = Net::<Law>::new(council.cluster, 1);
    let machine = founded(&mut net);
    // Those who come follow along, and have no vote.
    let before = works(&mut net, &machine, 2);
    assert!(net.shares.values().flatten().all(|number| *number <= 4));
    // They promise nothing, so nothing raises their seq: who was rolled back still finds out when it comes into office.
    assert!((5..=7).all(|number| net.decider(number).status().seq == 1));

    council.changed(&mut net, 1, "seven");
    let height = works(&mut net, &machine, 6);
    assert!(height > before);
    let signers = |net: &Net<Law>, from: u64| -> BTreeSet<u16> {
        net.shares.iter().filter(|(vote, _)| vote.height >= from).flat_map(|(_, by)| by.clone()).collect()
    };
    assert!(signers(&net, height).iter().any(|number| *number > 4), "the new ones sign");

    council.changed(&mut net, 6, "last");
    let height = works(&mut net, &machine, 5);
    let by = signers(&net, height);
    assert!(by.is_subset(&BTreeSet::from([1, 5, 6, 7])), "those who left sign nothing: {by:?}");
    assert!(!net.decider(2).status().running && net.decider(7).status().running);
    assert!(net.fatal.is_empty(), "{:?}", net.fatal);
}

#[test]
fn who_slept_through_a_change_comes_back_into_office() {
    let council = council();
    for seed in 0..2 {
        let mut net = Net::<Law>::new(council.cluster, seed);
        net.loss_percent = 10;
        let machine = founded(&mut net);
        let sleeper = 4;
        net.kill(sleeper);
        let roster = council.changed(&mut net, 1, "swap");
        works(&mut net, &machine, 5);
        // It starts under a roster of the past, where nobody answers it.
        net.start(sleeper);
        let awake = |net: &Net<Law>| in_force(net, &roster) && net.decider(sleeper).status().running;
        assert!(net.run_until(120_000, awake), "{}", net.report());
        // With another one down it is needed.
        net.kill(3);
        let height = works(&mut net, &machine, 1);
        let voted: BTreeSet<u16> = net
            .shares
            .iter()
            .filter(|(vote, _)| vote.height == height)
            .flat_map(|(_, by)| by.clone())
            .collect();
        assert!(voted.contains(&sleeper), "{voted:?}");
        assert!(net.fatal.is_empty(), "{:?}", net.fatal);
    }
}

#[test]
fn a_disk_from_before_the_change_is_noticed_under_the_next_roster() {
    let council = council();
    let mut net = Net::<Law>::new(council.cluster, 5);
    let machine = founded(&mut net);
    let restored = 4;
    net.kill(restored);
    let old = MemoryStore::restore(net.store(restored).snapshot());
    net.start(restored);
    let roster = council.changed(&mut net, 1, "swap");
    works(&mut net, &machine, 5);
    net.kill(restored);
    net.replace_store(restored, old);
    net.start(restored);
    let barred = |net: &Net<Law>| {
        net.alarms
            .iter()
            .any(|(by, alarm)| *by == restored && matches!(alarm, crate::Alarm::RolledBack { .. }))
    };
    assert!(net.run_until(120_000, barred), "{}", net.report());
    assert!(in_force(&net, &roster));
}

/// Most of the old roster is back on disks from before the change, long after it, and the relays say that the group went on.
#[test]
fn disks_of_a_past_roster_follow_up_to_the_one_in_force_though_relays_are_ahead() {
    let council = council();
    let mut net = Net::<Law>::new(council.cluster, 7);
    let machine = founded(&mut net);
    net.kill(5);
    let restored = [2, 3, 4];
    let old: Vec<MemoryStore> =
        restored.iter().map(|n| MemoryStore::restore(net.store(*n).snapshot())).collect();
    net.start(5);
    let roster = council.changed(&mut net, 1, "swap");
    works(&mut net, &machine, 5);
    // So long that nobody tells anybody of the newest head any more, but now and then.
    net.run_until(120_000, |_| false);
    let context = Context::stored(
        net.store(1).clone(),
        council.cluster.context.genesis.clone(),
        &council.cluster.guests,
    )
    .unwrap();
    let last = crate::record::last_head(net.store(1), &context).unwrap().unwrap();
    restored.iter().for_each(|number| net.kill(*number));
    for (number, disk) in restored.into_iter().zip(old) {
        net.certified.remove(&number);
        net.replace_store(number, disk);
    }
    // Nobody tells them of the newest head by itself; who asks for heads gets them.
    net.filter = Some(Box::new(|_, to, message: &crate::Msg| {
        let told = matches!(message.body, Body::Certificate(_)) && (2..=4).contains(&to);
        (!told).then(|| message.clone())
    }));
    restored.iter().for_each(|number| net.start(*number));
    net.run_until(200, |_| false);
    for number in restored {
        net.relayed(number, &last.certificate.log);
    }
    let follow = |net: &Net<Law>| restored.iter().all(|n| net.alive(*n)) && in_force(net, &roster);
    assert!(net.run_until(4_000, follow), "{}", net.report());
    net.run_until(30_000, |_| false);
    assert!(net.fatal.is_empty(), "{:?}", net.fatal);
}

#[test]
fn a_change_under_crashes_ends_in_one_roster() {
    let council = council();
    for seed in 0..3u64 {
        let mut net = Net::<Law>::new(council.cluster, seed);
        net.loss_percent = 5;
        let machine = founded(&mut net);
        let activation = council.change(&mut net, 1, "swap");
        // One after the other goes down while the roster changes, wherever it stands.
        for (round, number) in [1, 3, 5, 4, 2].into_iter().enumerate() {
            net.run_until(40 + 37 * (seed + round as u64), |_| false);
            net.kill(number);
            net.run_until(300, |_| false);
            net.start(number);
            net.request(1, &activation);
        }
        council.comes_into_force(&mut net, 240_000, &activation, "swap");
        works(&mut net, &machine, 3);
        assert!(net.fatal.is_empty(), "{:?}", net.fatal);
    }
}

#[test]
fn what_is_signed_under_one_roster_counts_for_nothing_under_another() {
    let council = council();
    let old = &council.cluster.context;
    let charter = concordat_events::Charter::new(
        council.offices["swap"].0.clone(),
        concordat_events::Office { since: 7, ..Default::default() },
        concordat_events::Versions { protocol: 1, engines: vec![] },
    );
    let next = Context::at(old.genesis.clone(), &charter.unwrap(), &council.cluster.guests).unwrap();
    assert_eq!((next.first_epoch(), next.first_height()), (7 << 20, 8));
    let complaint = crate::wire::Complaint { epoch: 0, cause: 1, next_height: 1 };
    let said = council.cluster.forge(3, 1, crate::message::Kind::Complaint, &complaint, Vec::new());
    let refused = Message::receive(&next, 3, &said.to_bytes());
    assert!(matches!(refused, Err(MessageError::Signature { sender: 3 })), "{refused:?}");
    // Without the rule it counts, also from one who has left.
    type Unbound = Mutant<{ off::ROSTER_BINDS }>;
    let (before, after) = (old.under::<Unbound>(), next.under::<Unbound>());
    for sender in [2, 3] {
        let identity = &council.cluster.members[&sender].identity;
        let body = complaint.encode_to_vec();
        let kind = crate::message::Kind::Complaint;
        let said = crate::message::seal(&before, identity, sender, 1, kind, body, Vec::new());
        assert!(Message::receive(&after, sender, &said.encode_to_vec()).is_ok());
    }
    // What carries heads is read by all, also of one who has left; a vote never.
    let fetch = crate::wire::FetchHeads { from: 1 };
    let asks = council.cluster.forge(2, 1, crate::message::Kind::FetchHeads, &fetch, Vec::new());
    let read = Message::receive(&next, 2, &asks.to_bytes()).unwrap();
    assert!(matches!(read.body, Body::FetchHeads(1)));
    let nudge = crate::message::seal(
        &next,
        &council.cluster.members[&2].identity,
        2,
        1,
        crate::message::Kind::Nudge,
        Vec::new(),
        Vec::new(),
    );
    let refused = Message::check(&next, nudge);
    assert!(matches!(refused, Err(MessageError::Stranger { sender: 2 })), "{refused:?}");
}
