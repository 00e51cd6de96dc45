//! What one custodian votes for after an epoch change, each rule with the mutant that breaks it (PROTOCOL 4, 5, 12).

use concordat_store::WriteBatch;

use super::solo::Solo;
use crate::message::{Body, Kind, RefuseReason};
use crate::rules::{Law, Rules};
use crate::{record, wire};

macro_rules! mutant {
    ($name:ident, $switch:ident) => {
        type $name = crate::mutants::Mutant<{ crate::mutants::off::$switch }>;
    };
}
mutant!(NoOwnShareRule, OWN_SHARE_RULE);
mutant!(NoValueRule, VALUE_RULE);
mutant!(AdoptedLockBinds, ADOPTED_LOCK_BINDS_NOT);
mutant!(GrantHidesLock, GRANT_SHOWS_LOCK);
mutant!(FewComplaintsBind, COMPLAINTS_BIND_BY_QUORUM);
mutant!(SendFirst, FLUSH_BEFORE_SEND);

/// Shares X in epoch 0.
pub(super) fn sharer<R: Rules<Scheme = crate::Frost>>()
-> (Solo<R>, concordat_events::batch::Batch, concordat_events::Hash) {
    let mut solo = Solo::<R>::running();
    let (batch, id) = solo.head(0);
    solo.start_epoch(0, None);
    solo.propose(0, &batch, id);
    let vote = Solo::<R>::vote(0, id);
    assert!(solo.prepared(vote), "{:?}", solo.decider.status());
    assert!(!solo.shared(vote), "no share without a certificate");
    solo.certify(vote, &[batch.hash()]);
    assert!(solo.shared(vote), "{:?}", solo.decider.status());
    (solo, batch, id)
}

/// T2: an old grant of its own makes an opening without its lock; the own share still binds.
fn prepares_another_after_its_share<R: Rules<Scheme = crate::Frost>>() -> bool {
    let (mut solo, _, _) = sharer::<R>();
    let (other, id) = solo.head(7);
    solo.enter(1, None);
    solo.propose(1, &other, id);
    solo.prepared(Solo::<R>::vote(1, id))
}

#[test]
fn who_has_shared_prepares_no_other_head() {
    assert!(!prepares_another_after_its_share::<Law>());
    assert!(prepares_another_after_its_share::<NoOwnShareRule>(), "the mutant is seen");
}

#[test]
fn a_higher_lock_that_the_opening_forces_frees_who_has_shared() {
    let (mut solo, _, _) = sharer::<Law>();
    let (other, id) = solo.head(7);
    solo.enter(1, None);
    let lock = solo.cert(Solo::<Law>::vote(1, id), &[other.hash()]);
    solo.enter(2, Some(&lock));
    solo.propose(2, &other, id);
    assert!(solo.prepared(Solo::<Law>::vote(2, id)));
}

fn prepares_another_than_forced<R: Rules<Scheme = crate::Frost>>() -> (bool, bool) {
    let mut solo = Solo::<R>::running();
    let ((batch, forced), (other, id)) = (solo.head(0), solo.head(7));
    let lock = solo.cert(Solo::<R>::vote(0, forced), &[batch.hash()]);
    solo.enter(1, Some(&lock));
    solo.propose(1, &other, id);
    let said = solo.sent.iter().any(
        |message| matches!(&message.body, Body::Refuse(refuse) if refuse.reason == RefuseReason::Forced),
    );
    (solo.prepared(Solo::<R>::vote(1, id)), said)
}

#[test]
fn the_opening_forces_the_head_of_its_highest_lock() {
    assert_eq!(prepares_another_than_forced::<Law>(), (false, true));
    assert!(prepares_another_than_forced::<NoValueRule>().0, "the mutant is seen");
}

/// L2: a lock that is shown late goes into grants and stops nobody.
fn prepares_after_a_late_lock<R: Rules<Scheme = crate::Frost>>() -> bool {
    let mut solo = Solo::<R>::running();
    let ((batch, hidden), (other, id)) = (solo.head(0), solo.head(7));
    solo.enter(1, None);
    let lock = solo.cert(Solo::<R>::vote(0, hidden), &[batch.hash()]);
    solo.say(1, Kind::Lock, &wire::Lock { cert: Some(lock.clone()) });
    assert!(solo.decider.status().lock.is_none(), "no batches, no lock");
    let asked = solo.sent.iter().any(|message| matches!(&message.body, Body::FetchBatches(_)));
    assert!(asked, "the batches behind it are asked for");
    let batches = vec![crate::read::batch_to_wire(&batch)];
    solo.say(1, Kind::Batches, &wire::Batches { batches });
    solo.say(1, Kind::Lock, &wire::Lock { cert: Some(lock) });
    assert_eq!(solo.decider.status().lock.map(|lock| lock.id), Some(hidden));
    solo.propose(1, &other, id);
    solo.prepared(Solo::<R>::vote(1, id))
}

#[test]
fn an_adopted_lock_stops_nobody() {
    assert!(prepares_after_a_late_lock::<Law>());
    assert!(!prepares_after_a_late_lock::<AdoptedLockBinds>(), "the mutant is seen");
}

/// I8: a grant given again after a restart never lacks the lock that the first one had.
fn grants_without_lock<R: Rules<Scheme = crate::Frost>>() -> bool {
    let (mut solo, batch, id) = sharer::<R>();
    solo.sent.clear();
    let lock = solo.cert(Solo::<R>::vote(0, id), &[batch.hash()]);
    solo.enter(1, Some(&lock));
    assert!(solo.granted(1).iter().all(|lock| lock.as_ref().is_some_and(|lock| lock.vote.id == id)));
    assert!(!solo.granted(1).is_empty());
    solo.propose(1, &batch, id);
    let vote = Solo::<R>::vote(1, id);
    solo.certify(vote, &[batch.hash()]);
    assert!(solo.shared(vote));
    solo.restart();
    solo.granted(1).iter().any(Option::is_none)
}

#[test]
fn a_grant_given_again_never_lacks_a_lock() {
    assert!(!grants_without_lock::<Law>());
    assert!(grants_without_lock::<GrantHidesLock>(), "the mutant is seen");
}

#[test]
fn a_lock_of_a_later_epoch_is_entered_without_a_grant_that_hides_the_own_one() {
    let (mut solo, _, _) = sharer::<Law>();
    let (other, id) = solo.head(7);
    let lock = solo.cert(Solo::<Law>::vote(2, id), &[other.hash()]);
    solo.say(1, Kind::Lock, &wire::Lock { cert: Some(lock.clone()) });
    solo.say(1, Kind::Batches, &wire::Batches { batches: vec![crate::read::batch_to_wire(&other)] });
    solo.say(1, Kind::Lock, &wire::Lock { cert: Some(lock) });
    let status = solo.decider.status();
    assert_eq!((status.epoch, status.lock.map(|lock| lock.id)), (2, Some(id)));
    assert!(solo.granted(2).is_empty());
    solo.restart();
    assert!(solo.granted(2).is_empty() && solo.decider.status().epoch == 2);
}

#[test]
fn a_liars_hint_of_batches_doesnt_spoil_a_lock() {
    let mut solo = Solo::<Law>::running();
    let (batch, id) = solo.head(0);
    solo.start_epoch(0, None);
    solo.propose(0, &batch, id);
    solo.certify(Solo::<Law>::vote(0, id), &[concordat_events::Hash::ZERO]);
    solo.enter(1, None);
    let locks: Vec<_> = solo.granted(1).into_iter().flatten().map(|lock| lock.batch_hashes).collect();
    assert!(!locks.is_empty() && locks.iter().all(|hashes| *hashes == [batch.hash()]));
}

/// L4 of the first review: who leads epoch 3 hasn't seen the head; a liar's list of batches for its lock is first in line.
#[test]
fn a_liars_list_of_batches_hides_no_honest_one() {
    let mut solo = Solo::<Law>::running();
    let (batch, id) = solo.head(0);
    for epoch in [1, 2] {
        solo.enter(epoch, None);
    }
    let lock = solo.cert(Solo::<Law>::vote(0, id), &[batch.hash()]);
    let spoiled = wire::PrepareCert { batch_hashes: vec![vec![7; 32]], ..lock.clone() };
    for sender in [1, 2, 3] {
        solo.complain(sender, 2);
    }
    for (sender, lock) in [(1, &spoiled), (2, &lock), (3, &lock)] {
        let grant = solo.grant(sender, 3, Some(lock));
        solo.input(crate::Input::Message(grant));
    }
    for _ in 0..10 {
        solo.wait(25);
    }
    let asked = solo
        .sent
        .iter()
        .any(|message| matches!(&message.body, Body::FetchBatches(hashes) if hashes.contains(&batch.hash())));
    assert!(asked, "those who prepared are asked for the batches that rebuild it");
    solo.say(2, Kind::Batches, &wire::Batches { batches: vec![crate::read::batch_to_wire(&batch)] });
    solo.wait(200);
    solo.wait(10);
    let opened: Vec<_> = solo.appended.iter().filter(|(epoch, _)| *epoch == 3).collect();
    let Some(Body::EpochStart(start)) = opened.first().map(|(_, entry)| &entry.body) else {
        panic!("the epoch is opened");
    };
    // Once its head is rebuilt, the liar's true lock counts as well.
    let locked = start.grants.iter().filter(|grant| grant.grant().is_some_and(|grant| grant.lock.is_some()));
    assert_eq!(locked.count(), 3);
}

/// A list whose batches are all here and rebuild something else.
#[test]
fn a_list_that_rebuilds_nothing_is_executed_once() {
    let mut solo = Solo::<Law>::running();
    let ((batch, id), (other, _)) = (solo.head(0), solo.head(7));
    let right = solo.cert(Solo::<Law>::vote(0, id), &[batch.hash()]);
    let wrong = wire::PrepareCert { batch_hashes: vec![other.hash().as_bytes().to_vec()], ..right.clone() };
    solo.show_lock(1, &wrong, &other);
    assert!(solo.decider.status().lock.is_none());
    // If it were looked at again, its batches would be asked for again.
    let mut writes = WriteBatch::new();
    record::drop_batches(&mut writes);
    concordat_store::Store::apply(solo.store.as_ref(), writes).unwrap();
    solo.sent.clear();
    solo.now += 1_000;
    solo.say(1, Kind::Lock, &wire::Lock { cert: Some(wrong) });
    assert!(!solo.sent.iter().any(|message| matches!(&message.body, Body::FetchBatches(_))));
    solo.show_lock(1, &right, &batch);
    assert_eq!(
        solo.decider.status().lock.map(|lock| lock.id),
        Some(id),
        "its next list may be the right one"
    );
}

fn two_complaints_move<R: Rules<Scheme = crate::Frost>>() -> bool {
    let mut solo = Solo::<R>::running();
    for sender in [1, 2] {
        solo.say(sender, Kind::Complaint, &wire::Complaint { epoch: 0, cause: 2, next_height: 1 });
    }
    solo.decider.status().epoch > 0
}

#[test]
fn a_liar_and_a_flaky_timer_move_nobody() {
    assert!(!two_complaints_move::<Law>());
    assert!(two_complaints_move::<FewComplaintsBind>(), "the mutant is seen");
}

/// Evidence may have taken one honest custodian out of an epoch that the others are still in.
#[test]
fn who_has_left_an_epoch_counts_among_those_who_want_it_to_end() {
    let mut solo = Solo::<Law>::running();
    for sender in [1, 2] {
        solo.say(sender, Kind::Complaint, &wire::Complaint { epoch: 0, cause: 2, next_height: 1 });
    }
    let grant = solo.grant(3, 1, None);
    solo.input(crate::Input::Message(grant));
    assert_eq!(solo.decider.status().epoch, 1);
}

#[test]
fn a_liars_huge_epochs_move_nobody() {
    let mut solo = Solo::<Law>::running();
    let grant = solo.grant(1, u64::MAX, None);
    solo.input(crate::Input::Message(grant));
    solo.say(1, Kind::Complaint, &wire::Complaint { epoch: u64::MAX, cause: 2, next_height: u64::MAX });
    solo.wait(10);
    assert_eq!(solo.decider.status().epoch, 0);
}

/// Votes, shares and grants as a follower, then entries and a proposal as the leader of epoch 3: what left too early?
fn left_early<R: Rules<Scheme = crate::Frost>>() -> Vec<String> {
    let (mut solo, _, _) = sharer::<R>();
    for epoch in [1, 2] {
        solo.enter(epoch, None);
    }
    for sender in [1, 2, 3] {
        solo.say(sender, Kind::Complaint, &wire::Complaint { epoch: 2, cause: 2, next_height: 1 });
    }
    for sender in [1, 2, 3] {
        let grant = solo.grant(sender, 3, None);
        solo.input(crate::Input::Message(grant));
    }
    solo.wait(1_000);
    let mut given = 0;
    while let Some((epoch, entry)) = solo.appended.get(given).cloned() {
        given += 1;
        solo.input(crate::Input::Ordered { epoch, entry });
    }
    assert!(given > 1, "the forced batch is wrapped anew");
    assert!(solo.sent.iter().any(|message| matches!(&message.body, Body::Propose(_))));
    let evidence = |id: u8| wire::Propose { epoch: 3, height: 9, number: 1, id: vec![id; 32] };
    for id in [1, 2] {
        solo.say(1, Kind::Propose, &evidence(id));
    }
    assert_eq!(solo.decider.status().named, [1]);
    solo.early
}

#[test]
fn swapping_flush_and_send_is_seen_in_every_row() {
    assert!(left_early::<Law>().is_empty());
    let seen = left_early::<SendFirst>();
    for row in ["a prepare", "a share", "a grant", "a proposal", "a batch", "a message left before its seq"] {
        assert!(seen.iter().any(|early| early.contains(row)), "{row}: {seen:?}");
    }
}

#[test]
fn evidence_is_durable_when_it_is_passed_on() {
    let mut solo = Solo::<Law>::running();
    for id in [1, 2] {
        let body = wire::Propose { epoch: 0, height: 9, number: 1, id: vec![id; 32] };
        solo.say(2, Kind::Propose, &body);
    }
    let passed =
        |solo: &Solo<Law>| solo.sent.iter().any(|message| matches!(&message.body, Body::Evidence(_)));
    assert!(passed(&solo));
    solo.restart();
    assert_eq!(solo.decider.status().named, [2]);
}

/// A leader that lets requests wait, though never as long as the timeout.
#[test]
fn a_leader_that_drips_is_complained_about() {
    let mut solo = Solo::<Law>::open_with(super::solo::founded(), true, 200_000);
    for from in [1, 2, 3] {
        solo.answer(from, |_| {});
    }
    solo.start_epoch(0, None);
    let event = Box::new(super::net::definition(solo.cluster, "slow"));
    solo.input(crate::Input::Request { event, origin: crate::Origin::Client });
    let slow = |solo: &Solo<Law>| {
        let cause = crate::message::Cause::Slow;
        solo.alarms.contains(&crate::Alarm::Complained { epoch: 0, cause })
    };
    for _ in 0..15 {
        solo.wait(10_000);
    }
    assert!(!slow(&solo), "it has waited for long, but not through a whole minute");
    for _ in 0..3 {
        solo.wait(10_000);
    }
    assert!(slow(&solo), "{:?}", solo.alarms);
}
