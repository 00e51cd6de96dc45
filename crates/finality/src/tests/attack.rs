//! Custodians that don't keep to the protocol, one behaviour each.

use prost::Message as _;

use super::net::{Cluster, Net, definition, go};
use crate::effect::Alarm;
use crate::evidence::Fault;
use crate::message::{Body, Kind, MessageError, RefuseReason};
use crate::rules::Law;
use crate::{Message, Rules, wire};

fn running(seed: u64) -> Net<Law> {
    let mut net = Net::<Law>::new(Cluster::four(), seed);
    net.start_all();
    assert!(net.run_until(5_000, |net| net.certified.len() == 4), "{}", net.report());
    net
}

#[test]
fn a_silent_signer_is_routed_around() {
    let mut net = running(51);
    // Custodian 2 votes, and never gives a share.
    net.filter = Some(Box::new(|from, _, message| {
        (from != 2 || !matches!(message.body, Body::Share(_))).then(|| message.clone())
    }));
    let machine = definition(net.cluster, "one");
    net.request(3, &machine);
    assert!(net.run_until(5_000, |net| net.everyone_has(&machine.id())), "{}", net.report());
    for _ in 0..3 {
        let input = go(&machine, net.now);
        net.request(3, &input);
        assert!(net.run_until(5_000, |net| net.everyone_has(&input.id())));
    }
    assert_eq!(net.decider(1).status().epoch, 0, "no epoch is lost to a silent signer");
}

#[test]
fn a_bad_share_is_named_and_routed_around() {
    let mut net = running(53);
    let cluster = net.cluster;
    net.filter = Some(Box::new(move |from, _, message| {
        let Body::Share(_) = &message.body else { return Some(message.clone()) };
        if from != 2 {
            return Some(message.clone());
        }
        let mut body = wire::Share::decode(message.envelope().body.as_slice()).unwrap();
        for share in &mut body.shares {
            share[31] ^= 1;
        }
        Some(cluster.forge(2, message.seq, Kind::Share, &body, Vec::new()))
    }));
    let machine = definition(net.cluster, "one");
    net.request(3, &machine);
    assert!(net.run_until(10_000, |net| net.everyone_has(&machine.id())), "{}", net.report());
    let mut named = 0;
    for round in 0..4 {
        let input = go(&machine, net.now);
        net.request(3, &input);
        assert!(net.run_until(10_000, |net| net.everyone_has(&input.id())), "round {round}");
        named = net
            .alarms
            .iter()
            .filter(|(_, alarm)| matches!(alarm, Alarm::BadShare { culprit: 2, .. }))
            .count();
    }
    assert!(named > 0, "the culprit is named");
    assert!(!net.alarms.iter().any(|(_, a)| matches!(a, Alarm::BadShare { culprit, .. } if *culprit != 2)));
}

#[test]
fn a_leader_that_withholds_proposals_loses_its_epoch() {
    let mut net = running(55);
    net.filter = Some(Box::new(|from, _, message| {
        (from != 1 || !matches!(message.body, Body::Propose(_))).then(|| message.clone())
    }));
    let machine = definition(net.cluster, "one");
    net.request(3, &machine);
    assert!(net.run_until(20_000, |net| net.everyone_has(&machine.id())), "{}", net.report());
    assert!(net.decider(3).status().epoch >= 1);
}

#[test]
fn a_leader_that_keeps_certificates_to_itself_gains_nothing() {
    let mut net = running(57);
    net.filter = Some(Box::new(|from, _, message| {
        (from != 1 || !matches!(message.body, Body::Certificate(_))).then(|| message.clone())
    }));
    let machine = definition(net.cluster, "one");
    net.request(3, &machine);
    assert!(net.run_until(5_000, |net| net.everyone_has(&machine.id())), "{}", net.report());
    assert_eq!(net.decider(3).status().epoch, 0, "others aggregate");
}

#[test]
fn two_proposals_name_their_signer_and_end_its_epoch() {
    let mut net = running(59);
    let cluster = net.cluster;
    let propose = |id: u8| wire::Propose { epoch: 0, height: 1, number: 1, id: vec![id; 32] };
    for id in [1, 2] {
        let forged = cluster.forge(1, 1_000, Kind::Propose, &propose(id), Vec::new());
        net.inject(3, forged);
    }
    assert!(
        net.run_until(5_000, |net| (2..=4).all(|n| net.decider(n).status().named == [1])),
        "{:?}",
        net.alarms
    );
    assert!(
        net.alarms
            .iter()
            .any(|(_, a)| { matches!(a, Alarm::Evidence { culprit: 1, fault: Fault::Proposals }) })
    );
    let machine = definition(cluster, "one");
    net.request(3, &machine);
    assert!(net.run_until(20_000, |net| net.everyone_has(&machine.id())), "{}", net.report());
    // It never leads again: epoch 4 would be its turn.
    assert_eq!(cluster.context.leader(4, &[1].into()), 2);
}

#[test]
fn evidence_against_a_follower_ends_no_epoch() {
    let mut net = running(61);
    let prepare = |id: u8| wire::Prepare { epoch: 0, height: 1, id: vec![id; 32], commitments: vec![0; 32] };
    for id in [1, 2] {
        let forged = net.cluster.forge(2, 1_000, Kind::Prepare, &prepare(id), Vec::new());
        net.inject(1, forged);
    }
    assert!(net.run_until(5_000, |net| (1..=4).all(|n| net.decider(n).status().named == [2])));
    assert_eq!(net.decider(1).status().epoch, 0);
}

#[test]
fn f_complaints_move_nobody() {
    let mut net = running(63);
    let body = wire::Complaint { epoch: 0, cause: 2, next_height: 1 };
    let forged = net.cluster.forge(2, 1_000, Kind::Complaint, &body, Vec::new());
    for to in [1, 3, 4] {
        net.inject(to, forged.clone());
    }
    net.run_until(10_000, |_| false);
    assert!((1..=4).all(|n| net.decider(n).status().epoch == 0), "{}", net.report());
}

/// A ledger that differs by one bit: its custodian votes for nothing.
#[test]
fn a_perturbed_ledger_refuses_and_two_of_them_stop_the_cluster() {
    let mut net = running(65);
    let machine = definition(net.cluster, "one");
    net.request(3, &machine);
    assert!(net.run_until(5_000, |net| net.everyone_has(&machine.id())));
    for victim in [4, 2] {
        net.kill(victim);
        perturb(&net, victim, &machine.id());
        net.start(victim);
        net.run_until(2_000, |_| false);
    }
    let input = go(&machine, net.now);
    net.request(3, &input);
    assert!(
        !net.run_until(20_000, |net| net.outcomes.contains_key(&input.id())),
        "two liars are more than f"
    );
    assert!(
        net.alarms.iter().any(|(number, alarm)| {
            [2, 4].contains(number) && matches!(alarm, Alarm::Refused { reason: RefuseReason::OtherId, .. })
        }) || net.fatal.iter().any(|(number, _)| [2, 4].contains(number))
    );
}

/// Flips one bit in what the store holds about a machine.
fn perturb<R: Rules<Scheme = crate::Frost>>(net: &Net<R>, victim: u16, machine: &concordat_events::Hash) {
    let store = net.store(victim);
    let image = store.snapshot();
    let needle = machine.to_hex();
    let mut batch = concordat_store::WriteBatch::new();
    for (key, value) in image.entries() {
        let text = String::from_utf8_lossy(key).into_owned();
        if text.contains(&needle) && !text.starts_with("f/") && !value.is_empty() {
            let mut value = value.to_vec();
            if let Some(at) = value.windows(3).position(|w| w == b"\"a\"") {
                value[at + 1] ^= 3;
                batch.put(key, value);
            }
        }
    }
    assert!(!batch.is_empty(), "there was something to perturb");
    concordat_store::Store::apply(store.as_ref(), batch).unwrap();
    concordat_store::Store::flush(store.as_ref()).unwrap();
}

#[test]
fn messages_are_refused_with_the_name_of_what_is_wrong() {
    let cluster = Cluster::four();
    let context = &cluster.context;
    let good = cluster.forge(2, 7, Kind::Nudge, &wire::Nudge {}, Vec::new());
    assert!(Message::receive(context, 2, &good.to_bytes()).is_ok());
    let other = Message::receive(context, 3, &good.to_bytes());
    assert!(matches!(other, Err(MessageError::WrongSender { channel: 3, sender: 2 })));
    let mut envelope = good.envelope().clone();
    envelope.seq += 1;
    let changed = Message::receive(context, 2, &envelope.encode_to_vec());
    assert!(matches!(changed, Err(MessageError::Signature { sender: 2 })));
    let stranger = wire::Envelope { sender: 9, ..good.envelope().clone() };
    assert!(matches!(Message::check(context, stranger), Err(MessageError::Stranger { sender: 9 })));
    assert!(matches!(Message::receive(context, 2, b"\xff\xff"), Err(MessageError::Malformed(_))));
    let other = Cluster::found(4, 77);
    let foreign = other.forge(2, 7, Kind::Nudge, &wire::Nudge {}, Vec::new());
    assert!(matches!(Message::receive(context, 2, &foreign.to_bytes()), Err(MessageError::Signature { .. })));
}

/// Whoever is shown an own message counts on from its seq: from one at the end of the range it could only begin again.
#[test]
fn a_seq_leaves_room_to_count_on() {
    let cluster = Cluster::four();
    let context = &cluster.context;
    let sealed = |seq| {
        let identity = &cluster.members[&2].identity;
        crate::message::seal(context, identity, 2, seq, Kind::Nudge, Vec::new(), Vec::new())
    };
    let claim = |envelope: &wire::Envelope| wire::Claim {
        sender: 2,
        seq: envelope.seq,
        kind: envelope.kind,
        body_hash: crate::message::body_hash(&envelope.body).as_bytes().to_vec(),
        signature: envelope.signature.clone(),
    };
    let (last, beyond) = (sealed(crate::limits::SEQ_MAX), sealed(crate::limits::SEQ_MAX + 1));
    assert_eq!(crate::message::check_claim(context, 2, &claim(&last)), Some(crate::limits::SEQ_MAX));
    assert_eq!(crate::message::check_claim(context, 2, &claim(&beyond)), None);
    assert!(Message::check(context, last).is_ok());
    let refused = Message::check(context, beyond);
    assert!(matches!(refused, Err(MessageError::Malformed(text)) if text.contains("seq")));
}

#[test]
fn a_certificate_of_fewer_than_q_prepares_is_none() {
    let cluster = Cluster::four();
    let prepare = wire::Prepare { epoch: 0, height: 1, id: vec![7; 32], commitments: vec![0; 32] };
    let envelopes = |numbers: &[u16]| -> Vec<wire::Envelope> {
        numbers
            .iter()
            .map(|n| cluster.forge(*n, 9, Kind::Prepare, &prepare, Vec::new()).envelope().clone())
            .collect()
    };
    let lock = |prepares: Vec<wire::Envelope>| {
        let cert = wire::PrepareCert { epoch: 0, height: 1, id: vec![7; 32], prepares, batch_hashes: vec![] };
        let body = wire::Lock { cert: Some(cert) };
        let identity = &cluster.members[&1].identity;
        let envelope = crate::message::seal(
            &cluster.context,
            identity,
            1,
            9,
            Kind::Lock,
            body.encode_to_vec(),
            Vec::new(),
        );
        Message::check(&cluster.context, envelope)
    };
    assert!(lock(envelopes(&[1, 2, 3])).is_ok());
    assert!(matches!(lock(envelopes(&[1, 2])), Err(MessageError::Invalid { .. })));
    assert!(matches!(lock(envelopes(&[1, 2, 2])), Err(MessageError::Invalid { .. })));
}
