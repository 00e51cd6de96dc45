//! Too many rolled back at once: the `recover` ceremony, and what relays tell (PROTOCOL 8).

use concordat_events::Hash;
use concordat_store::memory::{Image, MemoryStore};
use prost::Message as _;

use super::net::{Cluster, Net, definition, go};
use super::solo::{ME, Solo, founded};
use crate::message::{Body, Kind, Msg, Vote};
use crate::record::Record;
use crate::recover::{RecoverError, keep, plan, report, sign};
use crate::rules::Law;
use crate::{Alarm, Bar, Input, wire};

/// Reports of stopped custodians.
fn reports(net: &Net<Law>, numbers: &[u16]) -> Vec<Msg> {
    let context = &net.cluster.context;
    numbers
        .iter()
        .map(|n| report(net.store(*n).as_ref(), context, &net.cluster.members[n].identity, *n).unwrap())
        .collect()
}

fn signed(net: &Net<Law>, number: u16, reports: &[Msg]) -> Result<Msg, RecoverError> {
    let identity = &net.cluster.members[&number].identity;
    sign(net.store(number).as_ref(), &net.cluster.context, identity, number, reports, |_, _| Ok(true))
}

/// Custodians 2, 3 and 4 are restored from one snapshot; 1 is as it was.
fn restored(seed: u64) -> (Net<Law>, concordat_events::ValidEvent) {
    let mut net = Net::<Law>::new(Cluster::four(), seed);
    net.start_all();
    assert!(net.run_until(10_000, |net| net.certified.len() == 4), "{}", net.report());
    let old: Vec<Image> = (2..=4).map(|n| net.store(n).snapshot()).collect();
    let machine = definition(net.cluster, "one");
    net.request(2, &machine);
    assert!(net.run_until(10_000, |net| net.everyone_has(&machine.id())), "{}", net.report());
    net.run_until(1_500, |_| false);
    for number in 1..=4 {
        net.kill(number);
    }
    for (number, image) in (2..=4).zip(old) {
        net.certified.remove(&number);
        net.replace_store(number, MemoryStore::restore(image));
    }
    (net, machine)
}

#[test]
fn a_group_of_which_too_many_were_restored_goes_on_after_the_ceremony() {
    let (mut net, machine) = restored(201);
    net.start_all();
    net.run_until(20_000, |_| false);
    // Some are shown what they have lost; the others find too few who can tell them.
    let status = |n: u16| net.decider(n).status();
    let stands = |n: u16| !status(n).running || status(n).bar != Bar::None;
    assert!((1..=4).all(stands), "it can't end by itself: {}", net.report());
    assert!((2..=3).any(|n| status(n).bar == Bar::Unknown), "{}", net.report());
    for number in 1..=4 {
        net.kill(number);
    }
    // 4 doesn't take part.
    let shown = reports(&net, &[1, 2, 3]);
    let planned = plan(&net.cluster.context, &shown, |_, _| Ok(true)).unwrap();
    assert_eq!((planned.certified, planned.absent.clone()), (Some(1), vec![4]));
    let signatures: Vec<Msg> = [1, 2, 3].map(|n| signed(&net, n, &shown).unwrap()).to_vec();
    for number in [1, 2, 3] {
        keep(net.store(number).as_ref(), &net.cluster.context, &signatures).unwrap();
    }
    for number in 1..=4 {
        net.start_with(number, format!("boot {number}").into_bytes());
    }
    let over = |net: &Net<Law>| (1..=3).all(|n| net.alive(n) && net.decider(n).status().bar == Bar::None);
    assert!(net.run_until(20_000, over), "{}", net.report());
    assert!(
        net.run_until(20_000, |net| (1..=3).all(|n| net.certified.get(&n) >= Some(&1))),
        "{}",
        net.report()
    );
    assert!(net.decider(1).status().epoch >= planned.epoch);
    for _ in 0..3 {
        let input = go(&machine, net.now);
        net.request(2, &input);
        assert!(net.run_until(20_000, |net| net.everyone_has(&input.id())), "{}", net.report());
    }
    // The ceremony ended the quarantine of those who signed; 4 comes out as anybody does.
    assert!(net.run_until(60_000, |net| net.decider(4).status().bar == Bar::None), "{}", net.report());
}

#[test]
fn a_second_resume_of_one_epoch_is_refused_by_who_signed_the_first() {
    let (net, _) = restored(203);
    let (some, others) = (reports(&net, &[1, 2, 3]), reports(&net, &[2, 3, 4]));
    let first = signed(&net, 2, &some).unwrap();
    let seq = Record::load(net.store(2).as_ref(), &net.cluster.context).unwrap().unwrap().seq;
    assert_eq!(first.seq, seq, "what was signed is durable");
    let again = signed(&net, 2, &some).unwrap();
    assert_eq!(again.envelope().body, first.envelope().body, "the same again is no second one");
    let second = signed(&net, 2, &others);
    assert!(matches!(second, Err(RecoverError::Signed { .. })), "{second:?}");
    // Planned anew, with what it has signed, it is a later epoch.
    let anew = reports(&net, &[2, 3, 4]);
    let before = plan(&net.cluster.context, &some, |_, _| Ok(true)).unwrap().epoch;
    assert!(plan(&net.cluster.context, &anew, |_, _| Ok(true)).unwrap().epoch > before);
    assert!(signed(&net, 2, &anew).is_ok());
}

#[test]
fn nobody_signs_what_its_own_record_contradicts() {
    let mut net = Net::<Law>::new(Cluster::four(), 205);
    net.start_all();
    assert!(net.run_until(10_000, |net| net.certified.len() == 4), "{}", net.report());
    (1..=4).for_each(|n| net.kill(n));
    let shown = reports(&net, &[1, 2, 3]);
    assert!(matches!(signed(&net, 4, &shown), Err(RecoverError::OtherRecord)), "4 has shown nothing");
    // It runs after it has reported: what it has shown isn't true any more.
    net.start_all();
    let machine = definition(net.cluster, "one");
    net.request(2, &machine);
    assert!(net.run_until(20_000, |net| net.everyone_has(&machine.id())), "{}", net.report());
    (1..=4).for_each(|n| net.kill(n));
    assert!(matches!(signed(&net, 1, &shown), Err(RecoverError::OtherRecord)));
    assert!(matches!(
        plan(&net.cluster.context, &shown[..2], |_, _| Ok(true)),
        Err(RecoverError::TooFew { got: 2, needed: 3 })
    ));
}

/// What a custodian shows, made up.
fn made_up(by: u16, epoch: u64, lock: Option<wire::PrepareCert>, prepared: Option<(u64, u8)>) -> Msg {
    let prepared = prepared.map(|(epoch, id)| wire::Again { epoch, height: 0, id: vec![id; 32] });
    let body = wire::Report { epoch, certified: vec![], lock, prepared, batch_hashes: vec![], resumed: 0 };
    Cluster::four().forge(by, 7, Kind::Report, &body, Vec::new())
}

fn lock(epoch: u64, id: u8) -> wire::PrepareCert {
    let body = wire::Prepare { epoch, height: 0, id: vec![id; 32], commitments: vec![0; 32] };
    let prepares = [1, 2, 3]
        .map(|n| Cluster::four().forge(n, 9, Kind::Prepare, &body, Vec::new()).envelope().clone())
        .to_vec();
    wire::PrepareCert { epoch, height: 0, id: vec![id; 32], prepares, batch_hashes: vec![] }
}

#[test]
fn the_plan_follows_from_locks_votes_and_who_is_absent() {
    let context = &Cluster::four().context;
    let forced = |reports: &[Msg], rebuilds: bool| {
        let plan = plan(context, reports, |_, _| Ok(rebuilds)).unwrap();
        (plan.epoch, plan.forced.map(|vote| (vote.epoch, vote.id)))
    };
    let id = |id: u8| Hash::from_bytes([id; 32]);
    let nothing = |by: u16| made_up(by, 1, None, None);
    // The highest lock; two above the highest epoch that anybody shows, a vote's included.
    let some = [made_up(1, 3, Some(lock(1, 8)), None), made_up(2, 2, Some(lock(2, 9)), None), nothing(3)];
    assert_eq!(forced(&some, true), (5, Some((2, id(9)))));
    // One vote, one who is absent and one liar could have made a lock; without who is absent they couldn't.
    let vote = made_up(1, 1, None, Some((4, 8)));
    assert_eq!(forced(&[vote.clone(), nothing(2), nothing(3)], true), (6, Some((4, id(8)))));
    assert_eq!(forced(&[vote.clone(), nothing(2), nothing(3), nothing(4)], true), (6, None));
    // Who votes honestly has kept the batches.
    assert_eq!(forced(&[vote.clone(), nothing(2), nothing(3)], false), (6, None));
    // A later vote may have followed one for the same head: it counts for both.
    let later = made_up(2, 1, None, Some((5, 9)));
    let everyone = [vote, later, nothing(3), nothing(4)];
    assert_eq!(forced(&everyone, true), (7, Some((4, id(8)))));
    let contradiction =
        [made_up(1, 1, Some(lock(1, 8)), None), made_up(2, 1, Some(lock(1, 9)), None), nothing(3)];
    assert!(matches!(
        plan(context, &contradiction, |_, _| Ok(true)),
        Err(RecoverError::TwoLocks { epoch: 1 })
    ));
}

/// Resumes by so many, of an epoch, for a head after Head(0).
fn resumes(solo: &Solo<Law>, numbers: &[u16], epoch: u64, forced: Option<(Vote, Vec<Hash>)>) -> Vec<Msg> {
    let last = crate::record::last_head(&solo.store, &solo.cluster.context).unwrap().unwrap();
    let batch_hashes = forced.iter().flat_map(|(_, hashes)| hashes).map(|h| h.as_bytes().to_vec()).collect();
    let body = wire::Resume {
        epoch,
        certified: last.certificate.log.json().as_bytes().to_vec(),
        lock: None,
        possible: forced.map(|(vote, _)| wire::Again {
            epoch: vote.epoch,
            height: vote.height,
            id: vote.id.as_bytes().to_vec(),
        }),
        batch_hashes,
    };
    numbers.iter().map(|n| solo.cluster.forge(*n, 5_000, Kind::Resume, &body, Vec::new())).collect()
}

#[test]
fn q_signatures_open_the_epoch_and_force_its_first_head() {
    let mut solo = Solo::<Law>::running();
    let ((batch, forced), (other, another)) = (solo.head(0), solo.head(7));
    let vote = Solo::<Law>::vote(0, forced);
    let all = resumes(&solo, &[1, 2, 3], 5, Some((vote, vec![batch.hash()])));
    for message in &all[..2] {
        solo.input(Input::Message(message.clone()));
    }
    let different = resumes(&solo, &[3], 5, None);
    solo.input(Input::Message(different[0].clone()));
    assert_eq!(solo.decider.status().epoch, 0, "not q of one");
    solo.input(Input::Message(all[2].clone()));
    assert_eq!(solo.decider.status().epoch, 5);
    assert!(solo.granted(5).is_empty(), "it replaces the grants");
    // The EpochStart stands on the same signatures.
    let resume = all.iter().map(|message| message.envelope().clone()).collect();
    let attachment = wire::Opening { grants: vec![], evidence: vec![], resume }.encode_to_vec();
    solo.start_with(5, attachment);
    solo.propose(5, &other, another);
    assert!(!solo.prepared(Solo::<Law>::vote(5, another)), "another head than the forced one");
    let mut solo = Solo::<Law>::running();
    for message in &all {
        solo.input(Input::Message(message.clone()));
    }
    let resume = all.iter().map(|message| message.envelope().clone()).collect();
    let attachment = wire::Opening { grants: vec![], evidence: vec![], resume }.encode_to_vec();
    solo.start_with(5, attachment);
    solo.propose(5, &batch, forced);
    assert!(solo.prepared(Solo::<Law>::vote(5, forced)));
}

#[test]
fn an_epoch_start_on_fewer_signatures_is_none() {
    let solo = Solo::<Law>::running();
    let all = resumes(&solo, &[1, 2], 5, None);
    let resume = all.iter().chain(&all[..1]).map(|message| message.envelope().clone()).collect();
    let attachment = wire::Opening { grants: vec![], evidence: vec![], resume }.encode_to_vec();
    let hash = crate::message::attachment_hash(&attachment).as_bytes().to_vec();
    let body = wire::EpochStart { epoch: 5, opening: hash }.encode_to_vec();
    let identity = &solo.cluster.members[&2].identity;
    let context = &solo.cluster.context;
    let start = crate::message::seal(context, identity, 2, 9, Kind::EpochStart, body, attachment);
    assert!(crate::Message::check(context, start).is_err());
}

/// A forced head without a prepare certificate may be one that nobody could have signed: it frees nobody from a share.
#[test]
fn a_possible_lock_frees_nobody_from_its_share_and_a_certified_one_does() {
    for certified in [false, true] {
        let (mut solo, _, _) = super::votes::sharer::<Law>();
        let (other, id) = solo.head(7);
        let vote = Vote { epoch: 3, height: 1, id };
        let lock = solo.cert(vote, &[other.hash()]);
        let last = crate::record::last_head(&solo.store, &solo.cluster.context).unwrap().unwrap();
        let again = wire::Again { epoch: vote.epoch, height: vote.height, id: id.as_bytes().to_vec() };
        let body = wire::Resume {
            epoch: 5,
            certified: last.certificate.log.json().as_bytes().to_vec(),
            lock: certified.then_some(lock),
            possible: (!certified).then_some(again),
            batch_hashes: if certified { Vec::new() } else { vec![other.hash().as_bytes().to_vec()] },
        };
        let all = [1, 2, 3].map(|n| solo.cluster.forge(n, 5_000, Kind::Resume, &body, Vec::new()));
        for message in &all {
            solo.input(Input::Message(message.clone()));
        }
        let resume = all.iter().map(|message| message.envelope().clone()).collect();
        solo.start_with(5, wire::Opening { grants: vec![], evidence: vec![], resume }.encode_to_vec());
        solo.propose(5, &other, id);
        assert_eq!(solo.prepared(Solo::<Law>::vote(5, id)), certified);
    }
}

/// From its signature on its report must stay true: it is silent until the epoch that it has signed.
#[test]
fn who_has_signed_a_resume_votes_for_nothing_below_it() {
    let mut solo = Solo::<Law>::open(founded(), true);
    let mut record = Record::load(solo.store.as_ref(), &solo.cluster.context).unwrap().unwrap();
    record.resumed = Some((5, Hash::ZERO));
    let mut writes = concordat_store::WriteBatch::new();
    record.save(&mut writes);
    concordat_store::Store::apply(solo.store.as_ref(), writes).unwrap();
    concordat_store::Store::flush(solo.store.as_ref()).unwrap();
    solo.restart();
    let (batch, id) = solo.head(0);
    solo.start_epoch(0, None);
    solo.propose(0, &batch, id);
    assert!(!solo.prepared(Solo::<Law>::vote(0, id)));
    let all = resumes(&solo, &[1, 2, 3], 5, None);
    for message in &all {
        solo.input(Input::Message(message.clone()));
    }
    let resume = all.iter().map(|message| message.envelope().clone()).collect();
    solo.start_with(5, wire::Opening { grants: vec![], evidence: vec![], resume }.encode_to_vec());
    solo.propose(5, &batch, id);
    assert!(solo.prepared(Solo::<Law>::vote(5, id)));
}

/// It acted on the Resume that it signed; then its disk was taken back to the end of the ceremony.
#[test]
fn a_resume_ends_no_quarantine_of_who_was_rolled_back_after_it() {
    let solo = Solo::<Law>::open(founded(), true);
    let mut record = Record::load(solo.store.as_ref(), &solo.cluster.context).unwrap().unwrap();
    (record.resumed, record.bar) = (Some((5, Hash::ZERO)), Bar::Unknown);
    let mut writes = concordat_store::WriteBatch::new();
    record.save(&mut writes);
    writes.put(crate::record::RESUME, crate::recover::to_bytes(&resumes(&solo, &[1, 2, 4], 5, None)));
    concordat_store::Store::apply(solo.store.as_ref(), writes).unwrap();
    concordat_store::Store::flush(solo.store.as_ref()).unwrap();
    for (highest, bar) in [(None, Bar::None), (Some(solo.lost(9_000)), Bar::Unknown)] {
        let mut again = Solo::<Law>::open(solo.store.snapshot(), true);
        for from in [1, 2] {
            let highest = highest.clone();
            again.answer(from, |answer| answer.highest = highest);
        }
        let status = again.decider.status();
        assert_eq!((status.running, status.epoch, status.bar), (true, 5, bar));
    }
}

/// The newest log event of the relays, which `knowing` others have certified too.
fn relayed(knowing: &[u16], heard: &[u16]) -> (bool, Solo<Law>) {
    let mut solo = Solo::<Law>::running();
    let (batch, _) = solo.head(0);
    let certificate = solo.signed(std::slice::from_ref(&batch)).unwrap();
    let log = concordat_events::ValidEvent::parse(&certificate.log_event).unwrap();
    solo.input(Input::Relayed(Box::new(log)));
    for from in heard {
        let knows = knowing.contains(from);
        solo.answer(*from, |answer| {
            if knows {
                answer.certified = certificate.log_event.clone();
            }
        });
    }
    solo.may_stop = true;
    solo.wait(2_000);
    let early = solo.stopped.is_some();
    assert!(!early, "others get time to hear of it");
    solo.wait(2_500);
    (solo.stopped.is_some(), solo)
}

#[test]
fn a_head_on_the_relays_that_no_quorum_knows_stops_this_custodian() {
    let (stops, solo) = relayed(&[], &[1, 2]);
    assert!(stops);
    let text = solo.stopped.unwrap();
    assert!(text.contains("`recover`") && text.contains("head 1"), "{text}");
    assert!(!relayed(&[2], &[1, 2]).0, "somebody knows it");
    assert!(!relayed(&[], &[1]).0, "too few were heard: it waits");
}

#[test]
fn while_the_relays_are_ahead_it_votes_for_nothing() {
    let mut solo = Solo::<Law>::running();
    let (batch, id) = solo.head(0);
    let certificate = solo.signed(std::slice::from_ref(&batch)).unwrap();
    let log = concordat_events::ValidEvent::parse(&certificate.log_event).unwrap();
    // Somebody else's event says nothing.
    let foreign = definition(solo.cluster, "foreign");
    solo.input(Input::Relayed(Box::new(foreign)));
    solo.start_epoch(0, None);
    solo.input(Input::Relayed(Box::new(log)));
    solo.propose(0, &batch, id);
    let vote = Solo::<Law>::vote(0, id);
    assert!(!solo.prepared(vote));
    // Once it holds that head itself, it goes on.
    solo.say(2, Kind::Certificate, &certificate);
    solo.wait(10);
    assert_eq!(solo.certified, [1]);
    assert!(solo.sent.iter().all(|message| !matches!(&message.body, Body::Grant(_)) || message.sender != ME));
    assert!(!solo.alarms.iter().any(|alarm| matches!(alarm, Alarm::RelaysAhead { .. })));
}

/// Where exactly q can vote, an epoch that lacks one grant never opens, and nobody complains about it: that grant may be late, not lost.
#[test]
fn an_epoch_entered_while_the_relays_are_ahead_gets_its_grant_afterwards() {
    let mut solo = Solo::<Law>::running();
    let (batch, _) = solo.head(0);
    let certificate = solo.signed(std::slice::from_ref(&batch)).unwrap();
    let log = concordat_events::ValidEvent::parse(&certificate.log_event).unwrap();
    solo.input(Input::Relayed(Box::new(log)));
    for sender in [1, 2, 3] {
        solo.complain(sender, 0);
    }
    assert_eq!(solo.decider.status().epoch, 1);
    solo.wait(10);
    assert!(solo.granted(1).is_empty(), "it may not vote yet");
    // Somebody knows that head.
    solo.answer(2, |answer| answer.certified = certificate.log_event.clone());
    solo.wait(1_000);
    assert!(!solo.granted(1).is_empty(), "the epoch waits for it");
}
