//! Evidence: what is accepted, what is passed on, what a third party can check, and who can't be framed. And what isn't a
//! lie: a leader that resigns.

use concordat_events::batch::Batch;
use concordat_events::limits::{MAX_INTEGER, REQUESTS_PER_HEAD};
use prost::Message as _;

use super::net::{Cluster, Net, WALL, definition};
use super::solo::{ME, Solo, founded};
use crate::evidence::{EvidenceError, Fault, Finding, check};
use crate::limits::EVIDENCE_BYTES;
use crate::message::{Body, Kind};
use crate::read::batch_to_wire;
use crate::rules::Law;
use crate::{Context, wire};

/// Orders batches as the leader of epoch 0; gives what it is named for.
fn ordered(batches: &[Batch]) -> (Solo<Law>, Vec<Finding>) {
    let mut solo = Solo::<Law>::running();
    solo.start_epoch(0, None);
    for batch in batches {
        solo.order(0, batch);
    }
    let status = solo.decider.status();
    (solo, status.evidence)
}

fn batch(time_ms: u64, requests: Vec<concordat_events::ValidEvent>) -> Batch {
    Batch { time_ms, requests }
}

#[test]
fn a_batch_that_is_invalid_whatever_the_clock_names_its_leader_and_ends_its_epoch() {
    let request = definition(Cluster::four(), "twice");
    let crowd: Vec<_> =
        (0..=REQUESTS_PER_HEAD).map(|n| definition(Cluster::four(), &format!("d{n}"))).collect();
    for (bad, place) in [
        (vec![batch(WALL, vec![request.clone(), request.clone()])], 1),
        (vec![batch(MAX_INTEGER as u64 + 1, Vec::new())], 1),
        (vec![batch(WALL, crowd)], 1),
        (vec![batch(WALL, Vec::new()), batch(WALL - 1, Vec::new())], 2),
    ] {
        let (solo, evidence) = ordered(&bad);
        assert_eq!(evidence, [Finding { culprit: 1, fault: Fault::Batch, epoch: 0, place }]);
        assert_eq!(solo.decider.status().epoch, 1);
        let bytes = solo.decider.evidence().next().unwrap().export();
        assert!(bytes.len() < EVIDENCE_BYTES);
        // Who has the genesis needs nothing else.
        let third = Context::new(solo.cluster.context.genesis.clone()).unwrap();
        assert_eq!(check(&third, &bytes), Ok(evidence[0]));
    }
}

#[test]
fn good_batches_name_nobody() {
    let request = definition(Cluster::four(), "once");
    let good = [batch(WALL, vec![request]), batch(WALL, Vec::new()), batch(WALL + 5, Vec::new())];
    let (solo, evidence) = ordered(&good);
    assert!(evidence.is_empty() && solo.decider.status().epoch == 0);
}

/// A batch ahead of this custodian's clock is held, never evidence (PROTOCOL 10).
#[test]
fn a_batch_ahead_of_the_clock_is_no_evidence() {
    let (solo, evidence) = ordered(&[batch(WALL + 3_600_000, Vec::new())]);
    assert!(evidence.is_empty() && solo.decider.status().epoch == 0);
}

#[test]
fn nobody_is_framed_by_what_another_attached() {
    let mut solo = Solo::<Law>::running();
    solo.start_epoch(0, None);
    for (time, ms) in [(WALL, 1), (WALL + 9, 2)] {
        solo.order(0, &batch(time, Vec::new()));
        assert_eq!(solo.decider.status().epoch, 0, "{ms}");
    }
    let context = &solo.cluster.context;
    let entry = |number: u64, previous: &[u8], batch: &Batch| {
        let (previous, hash) = (previous.to_vec(), batch.hash().as_bytes().to_vec());
        let body = wire::Wrapper { epoch: 0, number, previous, batch: hash };
        let attachment = batch_to_wire(batch).encode_to_vec();
        solo.cluster.forge(1, 7, Kind::Wrapper, &body, attachment)
    };
    let outlined = |message: &crate::Msg, time_ms: u64, ids: Vec<u8>| wire::Envelope {
        attachment: wire::Outline { time_ms, ids }.encode_to_vec(),
        ..message.envelope().clone()
    };
    let no_fault = |messages: Vec<wire::Envelope>| {
        let found = check(context, &wire::Evidence { messages }.encode_to_vec());
        assert!(matches!(found, Err(EvidenceError::NoFault)), "{found:?}");
    };
    let good = entry(1, &[0; 32], &batch(WALL, Vec::new()));
    // Another time, another list, half an id: not what the entry signs.
    no_fault(vec![outlined(&good, u64::MAX, Vec::new())]);
    no_fault(vec![outlined(&good, WALL, vec![7; 64])]);
    no_fault(vec![outlined(&good, WALL, vec![7; 33])]);
    no_fault(vec![outlined(&good, WALL, Vec::new())]);
    // An earlier time in an entry that doesn't follow, and the same entry signed again.
    let stray = entry(2, &[9; 32], &batch(WALL - 5, Vec::new()));
    no_fault(vec![outlined(&good, WALL, Vec::new()), outlined(&stray, WALL - 5, Vec::new())]);
    let again = solo.cluster.forge(
        1,
        8,
        Kind::Wrapper,
        &wire::Wrapper::decode(good.envelope().body.as_slice()).unwrap(),
        good.envelope().attachment.clone(),
    );
    no_fault(vec![good.envelope().clone(), again.envelope().clone()]);
    // Votes for one head in two epochs, and grants, which a restart builds anew.
    let vote = |epoch: u64, id: u8| {
        let body = wire::Prepare { epoch, height: 1, id: vec![id; 32], commitments: vec![0; 32] };
        solo.cluster.forge(2, 7, Kind::Prepare, &body, Vec::new()).envelope().clone()
    };
    no_fault(vec![vote(0, 1), vote(1, 2)]);
    let grant = |seq: u64, certified: Vec<u8>| {
        let body = wire::Grant { epoch: 1, certified, lock: None, evidence: Vec::new() };
        solo.cluster.forge(2, seq, Kind::Grant, &body, Vec::new()).envelope().clone()
    };
    let tip = crate::record::last_head(&solo.store, context).unwrap().unwrap();
    let tip = tip.certificate.log.json().as_bytes().to_vec();
    no_fault(vec![grant(7, Vec::new()), grant(8, tip)]);
}

#[test]
fn evidence_is_refused_with_what_is_wrong() {
    let cluster = Cluster::four();
    let vote = |cluster: &Cluster, id: u8| {
        let body = wire::Prepare { epoch: 3, height: 5, id: vec![id; 32], commitments: vec![0; 32] };
        cluster.forge(2, 7, Kind::Prepare, &body, Vec::new()).envelope().clone()
    };
    let bytes = wire::Evidence { messages: vec![vote(cluster, 1), vote(cluster, 2)] }.encode_to_vec();
    let finding = Finding { culprit: 2, fault: Fault::Prepares, epoch: 3, place: 5 };
    assert_eq!(check(&cluster.context, &bytes), Ok(finding));
    for at in 0..bytes.len() {
        let mut bent = bytes.clone();
        bent[at] ^= 1;
        // Whatever is changed, it shows the same thing or nothing.
        assert!(check(&cluster.context, &bent).is_err() || check(&cluster.context, &bent) == Ok(finding));
    }
    let other = Cluster::found(4, 78);
    assert!(matches!(check(&other.context, &bytes), Err(EvidenceError::Message(_))));
    assert!(matches!(
        check(&cluster.context, &vec![0; EVIDENCE_BYTES + 1]),
        Err(EvidenceError::Malformed(_))
    ));
    assert!(matches!(check(&cluster.context, b""), Err(EvidenceError::Malformed(_))));
    // A body that is blown up would make the contradiction too large to be passed on: it is no message at all.
    let mut body =
        wire::Prepare { epoch: 3, height: 5, id: vec![1; 32], commitments: vec![0; 32] }.encode_to_vec();
    body.extend([0x7a, 0xff, 0x07].iter().chain(&[0; 1023]));
    let identity = &cluster.members[&2].identity;
    let blown = crate::message::seal(&cluster.context, identity, 2, 7, Kind::Prepare, body, Vec::new());
    assert!(crate::Message::check(&cluster.context, blown).is_err());
}

/// One piece for each custodian, however many it gives cause for.
#[test]
fn evidence_is_bounded() {
    let mut solo = Solo::<Law>::running();
    for height in 5..20 {
        for id in [1, 2] {
            let body = wire::Propose { epoch: 7, height, number: 1, id: vec![id; 32] };
            solo.say(2, Kind::Propose, &body);
        }
    }
    let status = solo.decider.status();
    assert_eq!(status.evidence, [Finding { culprit: 2, fault: Fault::Proposals, epoch: 7, place: 5 }]);
    assert_eq!(solo.decider.evidence().count(), 1);
}

#[test]
fn a_leader_that_resigns_hands_over_at_once() {
    let mut net = Net::<Law>::new(Cluster::four(), 91);
    net.start_all();
    assert!(net.run_until(5_000, |net| net.certified.len() == 4), "{}", net.report());
    assert!(net.decider(1).status().leads);
    net.resign(1);
    let status = net.decider(1).status();
    assert!(status.resigned && !status.leads);
    // Well below the timeout of a second.
    assert!(
        net.run_until(300, |net| (1..=4).all(|n| net.decider(n).status().epoch == 1)),
        "{}",
        net.report()
    );
    let machine = definition(net.cluster, "one");
    net.request(1, &machine);
    assert!(net.run_until(900, |net| net.everyone_has(&machine.id())), "{}", net.report());
}

#[test]
fn who_has_resigned_leads_no_later_epoch() {
    let mut solo = Solo::<Law>::open(founded(), true);
    for from in [1, 2, 3] {
        solo.answer(from, |_| {});
    }
    solo.input(crate::Input::Resign);
    for epoch in 1..=2 {
        solo.enter(epoch, None);
    }
    for sender in [1, 2, 3] {
        solo.complain(sender, 2);
    }
    for sender in [1, 2, 3] {
        let grant = solo.grant(sender, 3, None);
        solo.input(crate::Input::Message(grant));
    }
    assert_eq!(solo.decider.status().leader, ME);
    solo.wait(1_000);
    assert!(solo.appended.is_empty(), "it starts no epoch");
    let resigns = |message: &crate::Msg| {
        message.sender == ME
            && matches!(&message.body, Body::Complaint(c) if c.epoch == 3 && c.cause == crate::message::Cause::Resigned)
    };
    assert!(solo.sent.iter().any(resigns), "it says so");
}

/// Only the leader's own word counts: nobody resigns for another.
#[test]
fn nobody_resigns_for_another() {
    let mut solo = Solo::<Law>::running();
    let resigned = wire::Complaint { epoch: 0, cause: 5, next_height: 1 };
    solo.say(2, Kind::Complaint, &resigned);
    assert!(!solo.decider.status().complained);
    solo.say(1, Kind::Complaint, &resigned);
    // Its own complaint is the third.
    assert_eq!(solo.decider.status().epoch, 1);
}
