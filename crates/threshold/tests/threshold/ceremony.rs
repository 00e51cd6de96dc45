//! Honest ceremonies end with equal keys, whatever the network does.

use std::collections::BTreeSet;

use concordat_events::Hash;
use concordat_threshold::dkg::{Ceremony, Kind, Message, Params, ParamsError, Phase};
use concordat_threshold::{KeyShare, verify};
use proptest::prelude::*;
use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;

use crate::net::{Net, params};

fn ends_well(net: Net) {
    let outcomes = net.finish();
    let first = outcomes.values().next().unwrap();
    for (number, outcome) in &outcomes {
        assert_eq!(outcome.keys.to_bytes(), first.keys.to_bytes());
        assert_eq!(outcome.transcript, first.transcript);
        assert_eq!(outcome.test_signature, first.test_signature);
        assert_eq!(outcome.share.number(), *number);
        assert!(verify(&outcome.keys.group_key(), &outcome.test_message, &outcome.test_signature));
        let again = KeyShare::from_sealed_bytes(&outcome.share.to_sealed_bytes()).unwrap();
        assert_eq!(again.keys(), &first.keys);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn any_order_of_delivery_ends_with_equal_keys(
        seed in any::<u64>(),
        numbers in prop::collection::btree_set(1_u16.., 2..=6),
        threshold in 2_u16..=6,
    ) {
        let numbers: Vec<u16> = numbers.into_iter().collect();
        let threshold = threshold.min(numbers.len() as u16);
        let mut net = Net::new(&numbers, threshold, seed);
        net.run();
        prop_assert!(net.alarms().is_empty());
        ends_well(net);
    }
}

#[test]
fn equal_entropy_and_delivery_give_equal_keys_and_the_hashes_are_pinned() {
    let transcript = || {
        let mut net = Net::new(&[1, 2, 3], 2, 1);
        net.run();
        net.finish().remove(&1).unwrap().transcript.to_hex()
    };
    assert_eq!(transcript(), transcript());
    assert_eq!(transcript(), "cb1bffd717024a3f00429a814705050f6665db124f2521f8fb230e5a1de0ea8b");
}

#[test]
fn a_member_that_comes_late_gets_everything_by_repetition() {
    let numbers = [1, 2, 3, 4];
    let mut net = Net::new(&numbers, 3, rand::random());
    // Number 4 was not there: its messages and those to it are lost.
    let late = net.members.remove(&4).unwrap();
    net.drop_all_of(4);
    net.run();
    for ceremony in net.members.values() {
        assert_eq!(ceremony.phase(), Phase::Waiting(Kind::Round1));
        assert_eq!(ceremony.waiting_on(), BTreeSet::from([4]));
        assert!(!ceremony.status()[&4].seen);
    }
    let again = late.repeat().to_vec();
    net.members.insert(4, late);
    net.post(4, &again);
    for number in [1, 2, 3] {
        let again: Vec<_> = net.members[&number].repeat().to_vec();
        net.post(number, &again);
    }
    net.run();
    ends_well(net);
}

#[test]
fn lost_messages_are_healed_by_repetition() {
    let mut net = Net::new(&[1, 2, 3], 2, rand::random());
    for _ in 0..60 {
        // Half of what is on the wire is lost, then all is sent again.
        net.lose_half();
        net.run();
        for number in [1, 2, 3] {
            let again = net.members[&number].repeat().to_vec();
            net.post(number, &again);
        }
    }
    net.run();
    ends_well(net);
}

#[test]
fn every_message_is_idempotent_and_strangers_change_nothing() {
    let mut rng = ChaCha20Rng::seed_from_u64(rand::random());
    let (mut one, _) = Ceremony::new(params(7, &[1, 2], 1, 2), &mut rng).unwrap();
    let (_, first) = Ceremony::new(params(7, &[1, 2], 2, 2), &mut rng).unwrap();
    let (_, other) = Ceremony::new(params(8, &[1, 2], 2, 2), &mut rng).unwrap();
    let copy = |message: &Message| Message::decode(&message.encode()).unwrap();

    for (from, message) in [(3, &first[0].message), (1, &first[0].message), (2, &other[0].message)] {
        assert!(one.on_message(from, copy(message), &mut rng).unwrap().is_empty());
        assert_eq!(one.waiting_on(), BTreeSet::from([2]));
    }
    assert_eq!(one.on_message(2, copy(&first[0].message), &mut rng).unwrap().len(), 1);
    assert!(one.on_message(2, copy(&first[0].message), &mut rng).unwrap().is_empty());
    assert_eq!(one.phase(), Phase::Waiting(Kind::Echo));
    assert_eq!(one.outgoing_for(2).count(), 2);
}

#[test]
fn status_tells_how_far_everyone_is() {
    let mut net = Net::new(&[1, 2, 3], 2, rand::random());
    let fresh = net.members[&1].status();
    assert!(fresh[&1].round1 && !fresh[&1].echo && !fresh[&2].seen);
    net.run();
    for progress in net.members[&1].status().values() {
        assert!(progress.seen && progress.round1 && progress.echo && progress.round2);
        assert!(progress.confirmed && progress.tested && progress.done && !progress.aborted);
    }
    assert_eq!(net.members[&1].phase(), Phase::Finished);
    assert!(net.members[&1].waiting_on().is_empty());
}

#[test]
fn secret_shares_are_forgotten_once_all_confirmed() {
    let mut net = Net::new(&[1, 2, 3], 2, rand::random());
    let mut held = false;
    while net.deliver() {
        held |= net.members[&1].repeat().iter().any(|out| out.message.kind() == Kind::Round2);
    }
    assert!(held);
    assert!(net.members[&1].repeat().iter().all(|out| out.message.kind() != Kind::Round2));
}

#[test]
fn nothing_is_given_out_before_the_end() {
    // The others may be done before it: then it never waits for that.
    let waits = |seed| {
        let mut net = Net::new(&[1, 2, 3], 2, seed);
        while net.members[&1].phase() < Phase::Waiting(Kind::Done) {
            assert!(net.deliver());
        }
        (net.members[&1].phase() == Phase::Waiting(Kind::Done)).then_some(net)
    };
    let mut net = (0..100).find_map(waits).unwrap();
    let one = net.members.remove(&1).unwrap();
    let rest = one.finish().err().unwrap();
    assert_eq!(rest.0.phase(), Phase::Waiting(Kind::Done));
}

#[test]
fn whoever_finishes_leaves_every_other_one_with_a_tested_share() {
    for seed in 0..10 {
        let mut net = Net::new(&[1, 2, 3, 4], 3, seed);
        while net.members.values().all(|c| c.phase() != Phase::Finished) {
            assert!(net.deliver());
        }
        assert!(net.members.values().all(|c| c.phase() >= Phase::Waiting(Kind::Done)));
    }
}

#[test]
fn the_operator_can_stop_it_and_the_others_learn_who_did() {
    let mut net = Net::new(&[1, 2, 3], 2, rand::random());
    let notice = net.members.get_mut(&2).unwrap().stop();
    assert_eq!(notice.len(), 1);
    net.post(2, &notice);
    net.run();
    assert_eq!(net.members[&1].phase(), Phase::Aborted);
    assert!(net.alarms()[&1].suspects().contains(&2));
}

#[test]
fn parameters_that_make_no_group_are_refused() {
    let make = |numbers: &[u16], own, t| Params::new(Hash::ZERO, numbers.iter().copied().collect(), own, t);
    assert_eq!(make(&[1], 1, 2), Err(ParamsError::Count { got: 1 }));
    let many: Vec<u16> = (1..=65).collect();
    assert_eq!(make(&many, 1, 2), Err(ParamsError::Count { got: 65 }));
    assert_eq!(make(&[0, 1], 1, 2), Err(ParamsError::Zero));
    assert_eq!(make(&[1, 2], 3, 2), Err(ParamsError::NotMember { own: 3 }));
    assert_eq!(make(&[1, 2], 1, 1), Err(ParamsError::Threshold { threshold: 1, n: 2 }));
    assert_eq!(make(&[1, 2], 1, 3), Err(ParamsError::Threshold { threshold: 3, n: 2 }));
    assert!(make(&[1, 2], 1, 2).is_ok());
}
