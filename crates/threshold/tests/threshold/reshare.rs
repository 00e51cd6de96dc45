//! Handing the key over: the same key, any holders, any threshold; and what the old
//! shares are worth then.

use std::collections::{BTreeMap, BTreeSet};

use concordat_events::change::ActivationError;
use concordat_events::{Activation, Confirming, Custodian, PublicKey, Roster};
use concordat_threshold::dkg::{Kind, ParamsError, Phase, SecretShare};
use concordat_threshold::reshare::{Deal, Plan, Reshare};
use concordat_threshold::{AggregateError, GroupKeys, KeyShare};
use frost_core::{Field, Group as _};
use frost_secp256k1_tr::{Secp256K1Group, Secp256K1ScalarField as Scalars};
use proptest::prelude::*;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha20Rng;
use secp256k1::{Keypair, SECP256K1};

use crate::handover::{Handover, certify, change, copy, hash, plan};
use crate::net::{Group, groups};

type Scalar = <Scalars as Field>::Scalar;

fn rng() -> ChaCha20Rng {
    ChaCha20Rng::seed_from_u64(rand::random())
}

fn secret(share: &KeyShare) -> Scalar {
    Scalars::deserialize(share.to_sealed_bytes()[3..35].try_into().unwrap()).unwrap()
}

/// What a set of shares makes of the key: true if it is the key.
fn is_key(shares: &[&KeyShare], keys: &GroupKeys) -> bool {
    let mut sum = Scalars::zero();
    for share in shares {
        let x = Scalar::from(u64::from(share.number()));
        let mut weight = Scalars::one();
        for other in shares.iter().filter(|other| other.number() != share.number()) {
            let y = Scalar::from(u64::from(other.number()));
            weight *= y * Scalars::invert(&(y - x)).unwrap();
        }
        sum += secret(share) * weight;
    }
    let point = Secp256K1Group::generator() * sum;
    Secp256K1Group::serialize(&point).is_ok_and(|bytes| bytes[..] == keys.to_bytes()[5..38])
}

/// Old and new holders, thresholds and dealers of any kind.
fn rosters() -> impl Strategy<Value = (Vec<u16>, u16, Vec<u16>, u16)> {
    let one = || {
        (prop::sample::subsequence((1..=12_u16).collect::<Vec<_>>(), 3..=7), 2_u16..=5)
            .prop_map(|(numbers, t)| (t.min(numbers.len() as u16), numbers))
    };
    (one(), one()).prop_map(|((t, old), (u, new))| (old, t, new, u))
}

/// What holds of every reshare that ended well.
fn is_handed_over(old: &Group, new: &Group, rng: &mut ChaCha20Rng) {
    assert_eq!(old.keys.group_key(), new.keys.group_key());
    assert_eq!(old.keys.has_odd_y(), new.keys.has_odd_y());
    let (t, u) = (usize::from(old.keys.threshold()), usize::from(new.keys.threshold()));

    // Any threshold of new shares signs; one fewer is not the key.
    let signers = new.signers(u, rng);
    certify(&new.keys, &signers, rng).unwrap();
    assert!(is_key(&signers, &new.keys) && !is_key(&signers[1..], &new.keys));

    // Nor is it any mixture with fewer than a threshold of either kind.
    for _ in 0..16 {
        let (some_new, some_old) = (rng.gen_range(0..u), rng.gen_range(0..t));
        let mut mixed: BTreeMap<u16, &KeyShare> = BTreeMap::new();
        for share in old.signers(some_old, rng).into_iter().chain(new.signers(some_new, rng)) {
            // One number may have both an old and a new share: either may be tried.
            if !mixed.contains_key(&share.number()) || rng.r#gen() {
                mixed.insert(share.number(), share);
            }
        }
        let mixed: Vec<&KeyShare> = mixed.into_values().collect();
        assert!(!is_key(&mixed, &new.keys), "{some_new} new and {some_old} old shares are the key");
    }

    // In a session of new shares, an old one is a bad one, and its sender is named.
    if t == u {
        let mut signers = new.signers(u, rng);
        // (A custodian that knows only the old roster refuses a session with strangers.)
        if signers.iter().all(|share| old.shares.contains_key(&share.number())) {
            let at = rng.gen_range(0..u);
            let number = signers[at].number();
            signers[at] = &old.shares[&number];
            let result = certify(&new.keys, &signers, rng);
            assert_eq!(result, Err(AggregateError::Culprits { numbers: vec![number] }));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6))]

    #[test]
    fn reshare_keeps_the_key_whoever_holds_it(seed in any::<u64>(), (old, t, new, u) in rosters()) {
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let old = Group::make(&old, t, seed);
        let plan = plan(&old, &new, u, &mut rng);
        let mut net = Handover::honest(&old, plan, seed);
        net.run();
        prop_assert!(net.alarms().is_empty(), "{:?}", net.alarms());
        let new = net.group();
        prop_assert_eq!(new.keys.threshold(), u);
        is_handed_over(&old, &new, &mut rng);
    }

    #[test]
    fn refresh_makes_old_shares_worthless_beside_new_ones(seed in any::<u64>(), which in 0_usize..4) {
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let old = &groups()[which];
        let t = usize::from(old.keys.threshold());
        let dealers = old.signers(t, &mut rng).iter().map(|share| share.number()).collect();
        let plan = Plan::refresh(change(), hash(3), old.keys.clone(), dealers);
        let mut net = Handover::honest(old, plan, seed);
        net.run();
        let new = net.group();
        prop_assert_eq!((new.keys.numbers(), new.keys.threshold()), (old.keys.numbers(), old.keys.threshold()));
        for (number, share) in &new.shares {
            prop_assert!(secret(share) != secret(&old.shares[number]));
        }
        is_handed_over(old, &new, &mut rng);
    }
}

#[test]
fn reshare_of_four_to_seven_to_four_keeps_the_key() {
    let mut rng = rng();
    for first in &groups()[..2] {
        let mut net = Handover::honest(first, plan(first, &[1, 2, 3, 4, 5, 6, 7], 5, &mut rng), rng.r#gen());
        net.run();
        let seven = net.group();
        is_handed_over(first, &seven, &mut rng);
        let mut net = Handover::honest(&seven, plan(&seven, &[2, 4, 6, 8], 3, &mut rng), rng.r#gen());
        net.run();
        let four = net.group();
        is_handed_over(&seven, &four, &mut rng);
        // Those of the first roster are worth nothing with two of the last.
        let two = four.signers(2, &mut rng);
        for share in first.shares.values().filter(|share| two.iter().all(|s| s.number() != share.number())) {
            assert!(!is_key(&[two[0], two[1], share], &four.keys));
        }
        assert_eq!(first.keys.group_key(), four.keys.group_key());
    }
}

#[test]
fn old_shares_sign_until_they_are_erased() {
    // What the documents warn of: nobody but their holders can make them useless.
    let mut rng = rng();
    let old = &groups()[0];
    let mut net = Handover::honest(old, plan(old, &[7, 8, 9], 2, &mut rng), rng.r#gen());
    net.run();
    let new = net.group();
    let signers = old.signers(3, &mut rng);
    certify(&old.keys, &signers, &mut rng).unwrap();
    assert!(is_key(&signers, &new.keys));
}

#[test]
fn nothing_is_confirmed_before_it_is_stored() {
    let mut rng = rng();
    let old = &groups()[0];
    let mut net = Handover::honest(old, plan(old, &[1, 2, 3, 4], 3, &mut rng), 5);
    let confirms = |member: &Reshare| member.repeat().iter().any(|out| out.message.kind() == Kind::Confirm);
    while net.deliver() {
        for (number, member) in &net.members {
            assert!(!confirms(member) || net.disks.contains_key(number), "{number}");
        }
    }
    assert!(net.members.values().all(confirms));

    // And one that never stores keeps all others from going on.
    let plan = plan(old, &[1, 2, 3, 4], 3, &mut rng);
    let dealers: Vec<u16> = plan.dealers.iter().copied().collect();
    let mut members = BTreeMap::new();
    let mut wire = Vec::new();
    for own in 1..=4 {
        let share = dealers.contains(&own).then(|| &old.shares[&own]);
        let (member, out) = Reshare::new(plan.clone(), own, share, &mut rng).unwrap();
        wire.extend(out.into_iter().map(|out| (own, out)));
        members.insert(own, member);
    }
    while let Some((from, out)) = wire.pop() {
        for (to, member) in members.iter_mut().filter(|(to, _)| **to != from) {
            if out.to == concordat_threshold::dkg::To::All || out.to == concordat_threshold::dkg::To::One(*to)
            {
                let message = concordat_threshold::dkg::Message::decode(&out.message.encode()).unwrap();
                let mut more = member.on_message(from, message, &mut rng).unwrap();
                if member.to_store().is_some() && *to != 4 {
                    more.extend(member.stored(&mut rng).unwrap());
                }
                wire.extend(more.into_iter().map(|out| (*to, out)));
            }
        }
    }
    assert_eq!(members[&4].phase(), Phase::Store);
    for number in 1..=3 {
        assert_eq!(members[&number].phase(), Phase::Waiting(Kind::Confirm));
        assert_eq!(members[&number].waiting_on(), BTreeSet::from([4]));
    }
}

/// What all new holders end with activates the roster: it is the group's signature over this very change and transcript.
#[test]
fn what_comes_out_is_the_proof_that_activates_the_roster() {
    let mut rng = rng();
    let old = &groups()[1];
    let mut net = Handover::honest(old, plan(old, &[1, 2, 5, 6], 3, &mut rng), rng.r#gen());
    net.run();
    let roster = net.plan.roster.clone();
    let outcomes = net.outcomes();
    let pairs: BTreeMap<u16, Keypair> = roster
        .iter()
        .map(|n| (*n, Keypair::from_seckey_slice(SECP256K1, &rng.r#gen::<[u8; 32]>()).unwrap()))
        .collect();
    let seat = |(number, pair): (&u16, &Keypair)| Custodian {
        number: *number,
        name: format!("custodian {number}"),
        identity: pair.x_only_public_key().0.into(),
        certificate: hash(*number as u8),
    };
    let seats = Roster::new(pairs.iter().map(seat).collect()).unwrap();
    let group = PublicKey::from_slice(&old.keys.group_key().to_bytes()).unwrap();
    let outcome = &outcomes[&1];
    let confirming = change().ended_with(outcome.transcript);
    let confirm = |pair: &Keypair| {
        let message = secp256k1::Message::from_digest(*confirming.digest().as_bytes());
        SECP256K1.sign_schnorr_no_aux_rand(&message, pair).to_string()
    };
    let activation = Activation {
        proposal: confirming.proposal,
        transcript: outcome.transcript,
        confirmations: pairs.iter().map(|(number, pair)| (*number, confirm(pair))).collect(),
        proof: hex::encode(outcome.test_signature),
    };
    assert_eq!(activation.check(&confirming, &seats, Some(&group)), Ok(()));
    assert!(outcomes.values().all(|other| other.transcript == outcome.transcript));
    for other in [Confirming { proposal: hash(1), ..confirming }, change().ended_with(hash(1))] {
        assert!(activation.check(&other, &seats, Some(&group)).is_err());
    }
    let elsewhere: [u8; 64] =
        certify(&old.keys, &[&old.shares[&1], &old.shares[&2], &old.shares[&3]], &mut rng).unwrap();
    let unproven = Activation { proof: hex::encode(elsewhere), ..activation };
    assert_eq!(unproven.check(&confirming, &seats, Some(&group)), Err(ActivationError::Proof));
}

#[test]
fn plans_that_can_not_be_are_refused() {
    let mut rng = rng();
    let old = &groups()[0];
    let good = plan(old, &[1, 5, 6], 2, &mut rng);
    let dealer = *good.dealers.first().unwrap();
    let share = &old.shares[&dealer];
    let mut make =
        |plan: &Plan, own, share: Option<&KeyShare>| Reshare::new(plan.clone(), own, share, &mut rng).err();
    assert_eq!(make(&good, dealer, Some(share)), None);
    assert_eq!(make(&good, 5, None), None);
    assert_eq!(make(&good, 9, None), Some(ParamsError::NotMember { own: 9 }));
    // No share to deal, another's share, a share of another group, one too many.
    assert_eq!(make(&good, dealer, None), Some(ParamsError::OwnShare { own: dealer }));
    let other = *good.dealers.last().unwrap();
    assert_eq!(make(&good, other, Some(share)), Some(ParamsError::OwnShare { own: other }));
    let elsewhere = &groups()[1].shares[&dealer];
    assert_eq!(make(&good, dealer, Some(elsewhere)), Some(ParamsError::OwnShare { own: dealer }));
    assert_eq!(make(&good, 5, Some(&copy(share))), Some(ParamsError::OwnShare { own: 5 }));

    let mut few = good.clone();
    few.dealers.remove(&dealer);
    assert_eq!(make(&few, 5, None), Some(ParamsError::Dealers { expected: 3, got: 2 }));
    few.dealers.insert(77);
    assert_eq!(make(&few, 5, None), Some(ParamsError::NoDealer { number: 77 }));
    let mut high = good.clone();
    high.threshold = 4;
    assert_eq!(make(&high, 5, None), Some(ParamsError::Threshold { threshold: 4, n: 3 }));
    let mut alone = good.clone();
    alone.roster = BTreeSet::from([5]);
    assert_eq!(make(&alone, 5, None), Some(ParamsError::Count { got: 1 }));
}

#[test]
fn another_plan_is_another_ceremony() {
    let mut rng = rng();
    let old = &groups()[0];
    let good = plan(old, &[1, 5, 6], 2, &mut rng);
    let mut context = |plan: &Plan| Reshare::new(plan.clone(), 5, None, &mut rng).unwrap().0.context();
    let first = context(&good);
    assert_eq!(first, context(&good));
    let mut others = vec![good.clone(); 4];
    others[0].attempt = hash(1);
    others[1].threshold = 3;
    others[2].roster.insert(9);
    let missing = *good.keys.numbers().difference(&good.dealers).next().unwrap();
    others[3].dealers.pop_first();
    others[3].dealers.insert(missing);
    for other in &others {
        assert_ne!(first, context(other));
    }
}

#[test]
fn what_is_finished_can_not_be_spoiled() {
    let mut rng = rng();
    let old = &groups()[0];
    let mut net = Handover::honest(old, plan(old, &[1, 2, 3], 2, &mut rng), rng.r#gen());
    net.run();
    let member = net.members.get_mut(&1).unwrap();
    let context = member.context();
    let abort = concordat_threshold::dkg::Body::Abort {
        reason: concordat_threshold::dkg::Reason::Operator,
        suspects: [2].choose_multiple(&mut rng, 1).copied().collect(),
    };
    let message = concordat_threshold::dkg::Message::new(context, abort);
    assert!(member.on_message(2, message, &mut rng).unwrap().is_empty());
    assert_eq!(member.phase(), Phase::Finished);
}

/// A dealer's polynomial of degree one, made by hand.
pub struct Forged {
    constant: Scalar,
    slope: Scalar,
    pub deal: Deal,
}

impl Forged {
    pub fn value(&self, number: u16) -> SecretShare {
        let value = self.constant + self.slope * Scalar::from(u64::from(number));
        SecretShare::from_bytes(&Scalars::serialize(&value)).unwrap()
    }
}

/// The deals of 1 and 2 for a threshold of two, whose slopes cancel out.
pub fn opposite_deals(old: &Group, plan: &Plan, rng: &mut ChaCha20Rng) -> (Forged, Forged) {
    let slope = Scalars::random(rng);
    let forge = |own: u16, other: u16, slope: Scalar| {
        let (x, y) = (Scalar::from(u64::from(own)), Scalar::from(u64::from(other)));
        let constant = secret(&old.shares[&own]) * y * Scalars::invert(&(y - x)).unwrap();
        let point = |s: &Scalar| Secp256K1Group::serialize(&(Secp256K1Group::generator() * *s)).unwrap();
        let deal = Deal::from_bytes(&[point(&constant), point(&slope)].concat()).unwrap();
        Forged { constant, slope, deal }
    };
    assert_eq!(plan.dealers, BTreeSet::from([1, 2]));
    (forge(1, 2, slope), forge(2, 1, -slope))
}
