//! Mutants of PROTOCOL 12, each in the shortest trace that tells it from the law. Those of `votes.rs`, `start.rs` and
//! `crash.rs` stand there.

use super::net::{Cluster, Net, definition};
use super::solo::{Solo, founded};
use super::votes::sharer;
use crate::message::{Body, Kind, PrepareCert, RefuseReason};
use crate::mutants::{Mutant, off};
use crate::rules::{Law, Rules};
use crate::{Alarm, Frost, Input, wire};

#[test]
fn the_lock_survives_a_crash() {
    fn seen<R: Rules<Scheme = Frost>>() -> (bool, bool) {
        let (mut solo, _, id) = sharer::<R>();
        let early = solo.early.iter().any(|early| early.contains("I4"));
        solo.restart();
        solo.enter(1, None);
        let grants = solo.granted(1);
        assert!(!grants.is_empty());
        (early, grants.iter().all(|lock| lock.as_ref().is_some_and(|lock| lock.vote.id == id)))
    }
    assert_eq!(seen::<Law>(), (false, true));
    assert_eq!(seen::<Mutant<{ off::LOCK_PERSISTS }>>(), (true, false), "the mutant is seen");
}

#[test]
fn the_lock_is_flushed_before_the_share_leaves() {
    fn early<R: Rules<Scheme = Frost>>() -> bool {
        sharer::<R>().0.early.iter().any(|early| early.contains("I4"))
    }
    assert!(!early::<Law>());
    assert!(early::<Mutant<{ off::LOCK_FLUSHED_FIRST }>>(), "the mutant is seen");
}

#[test]
fn a_lock_never_falls() {
    fn stays<R: Rules<Scheme = Frost>>() -> bool {
        let mut solo = Solo::<R>::running();
        let ((batch, id), (other, older)) = (solo.head(0), solo.head(7));
        solo.enter(1, None);
        solo.propose(1, &batch, id);
        solo.certify(Solo::<R>::vote(1, id), &[batch.hash()]);
        let lock = solo.cert(Solo::<R>::vote(0, older), &[other.hash()]);
        solo.show_lock(1, &lock, &other);
        solo.decider.status().lock == Some(Solo::<R>::vote(1, id))
    }
    assert!(stays::<Law>());
    assert!(!stays::<Mutant<{ off::LOCK_NEVER_FALLS }>>(), "the mutant is seen");
}

#[test]
fn no_share_leaves_after_the_grant() {
    fn shares<R: Rules<Scheme = Frost>>() -> bool {
        let mut solo = Solo::<R>::running();
        let (batch, id) = solo.head(0);
        solo.start_epoch(0, None);
        solo.propose(0, &batch, id);
        solo.enter(1, None);
        assert!(!solo.granted(1).is_empty());
        solo.certify(Solo::<R>::vote(0, id), &[batch.hash()]);
        solo.shared(Solo::<R>::vote(0, id))
    }
    assert!(!shares::<Law>());
    assert!(shares::<Mutant<{ off::EPOCH_ENDS_SHARES }>>(), "the mutant is seen");
}

#[test]
fn a_grant_reads_its_lock_last() {
    fn shows<R: Rules<Scheme = Frost>>() -> bool {
        let mut solo = Solo::<R>::running();
        let (batch, id) = solo.head(0);
        solo.start_epoch(0, None);
        solo.propose(0, &batch, id);
        solo.complain(1, 0);
        solo.certify(Solo::<R>::vote(0, id), &[batch.hash()]);
        solo.complain(2, 0);
        solo.complain(3, 0);
        assert!(solo.shared(Solo::<R>::vote(0, id)));
        let grants = solo.granted(1);
        assert!(!grants.is_empty());
        grants.iter().all(Option::is_some)
    }
    assert!(shows::<Law>());
    assert!(!shows::<Mutant<{ off::GRANT_READS_LOCK_LAST }>>(), "the mutant is seen");
}

#[test]
fn the_highest_of_several_locks_decides() {
    fn follows<R: Rules<Scheme = Frost>>() -> bool {
        let mut solo = Solo::<R>::running();
        let ((batch, low), (other, high)) = (solo.head(0), solo.head(7));
        let low = solo.cert(Solo::<R>::vote(0, low), &[batch.hash()]);
        let lock = solo.cert(Solo::<R>::vote(1, high), &[other.hash()]);
        solo.enter(1, None);
        for sender in [1, 2, 3] {
            solo.complain(sender, 1);
        }
        solo.start_epoch_on(2, [Some(&low), Some(&lock), Some(&low)]);
        solo.propose(2, &other, high);
        solo.prepared(Solo::<R>::vote(2, high))
    }
    assert!(follows::<Law>());
    assert!(!follows::<Mutant<{ off::HIGHEST_LOCK_DECIDES }>>(), "the mutant is seen");
}

/// Two belts: either rule alone holds, without both an old share is contradicted.
#[test]
fn value_rule_and_own_share_rule_are_two_belts() {
    fn contradicts<R: Rules<Scheme = Frost>>() -> bool {
        let (mut solo, batch, id) = sharer::<R>();
        let lock = solo.cert(Solo::<R>::vote(0, id), &[batch.hash()]);
        let (other, another) = solo.head(7);
        solo.enter(1, Some(&lock));
        solo.propose(1, &other, another);
        solo.prepared(Solo::<R>::vote(1, another))
    }
    assert!(!contradicts::<Law>());
    assert!(!contradicts::<Mutant<{ off::VALUE_RULE }>>());
    assert!(!contradicts::<Mutant<{ off::OWN_SHARE_RULE }>>());
    assert!(contradicts::<Mutant<{ off::VALUE_RULE | off::OWN_SHARE_RULE }>>(), "the mutant is seen");
}

#[test]
fn an_adopted_lock_doesnt_free_who_has_shared() {
    fn contradicts<R: Rules<Scheme = Frost>>() -> bool {
        let (mut solo, _, _) = sharer::<R>();
        let (other, id) = solo.head(7);
        solo.enter(1, None);
        let lock = solo.cert(Solo::<R>::vote(1, id), &[other.hash()]);
        solo.show_lock(1, &lock, &other);
        assert_eq!(solo.decider.status().lock, Some(Solo::<R>::vote(1, id)));
        solo.enter(2, None);
        solo.propose(2, &other, id);
        solo.prepared(Solo::<R>::vote(2, id))
    }
    assert!(!contradicts::<Law>());
    let seen = contradicts::<Mutant<{ off::ADOPTED_LOCK_FREES_NOT | off::VALUE_RULE }>>();
    assert!(seen, "the mutant is seen");
}

#[test]
fn a_prepare_counts_in_its_own_epoch_only() {
    let mut solo = Solo::<Law>::running();
    let (batch, id) = solo.head(0);
    let cert = solo.cert(Solo::<Law>::vote(0, id), &[batch.hash()]);
    let lifted = wire::PrepareCert { epoch: 1, ..cert.clone() };
    let context = &solo.cluster.context;
    assert!(PrepareCert::from_wire(context, &cert).is_ok());
    assert!(PrepareCert::from_wire(context, &lifted).is_err());
    let mutant = context.under::<Mutant<{ off::PREPARE_BINDS_EPOCH }>>();
    assert!(PrepareCert::from_wire(&mutant, &lifted).is_ok(), "the mutant is seen");
}

#[test]
fn a_majority_of_seven_is_no_quorum() {
    let cluster = Cluster::seven();
    let prepare = wire::Prepare { epoch: 0, height: 1, id: vec![7; 32], commitments: vec![0; 32] };
    let prepares = (1..=4)
        .map(|n| cluster.forge(n, 9, Kind::Prepare, &prepare, Vec::new()).envelope().clone())
        .collect();
    let cert = wire::PrepareCert { epoch: 0, height: 1, id: vec![7; 32], prepares, batch_hashes: vec![] };
    assert!(PrepareCert::from_wire(&cluster.context, &cert).is_err());
    let mutant = cluster.context.under::<Mutant<{ off::QUORUM_OUTVOTES_LIARS }>>();
    assert!(PrepareCert::from_wire(&mutant, &cert).is_ok(), "the mutant is seen");
}

#[test]
fn f_plus_1_grants_open_nothing() {
    fn moves<R: Rules<Scheme = Frost>>() -> bool {
        let mut solo = Solo::<R>::running();
        for sender in [1, 2] {
            let grant = solo.grant(sender, 1, None);
            solo.input(Input::Message(grant));
        }
        solo.decider.status().epoch == 1
    }
    assert!(!moves::<Law>());
    assert!(moves::<Mutant<{ off::GRANTS_OPEN_BY_QUORUM }>>(), "the mutant is seen");
}

#[test]
fn a_head_proposed_again_in_another_epoch_has_the_same_id() {
    fn prepares<R: Rules<Scheme = Frost>>() -> (bool, bool) {
        let mut solo = Solo::<R>::running();
        let (batch, id) = solo.head(0);
        let lock = solo.cert(Solo::<R>::vote(0, id), &[batch.hash()]);
        solo.enter(1, Some(&lock));
        solo.propose(1, &batch, id);
        let other = |message: &crate::Msg| matches!(&message.body, Body::Refuse(r) if r.reason == RefuseReason::OtherId);
        (solo.prepared(Solo::<R>::vote(1, id)), solo.sent.iter().any(other))
    }
    assert_eq!(prepares::<Law>(), (true, false));
    assert_eq!(prepares::<Mutant<{ off::ID_WITHOUT_EPOCH }>>(), (false, true), "the mutant is seen");
}

#[test]
fn one_id_is_voted_for_per_epoch_and_height() {
    fn votes_twice<R: Rules<Scheme = Frost>>() -> bool {
        let mut solo = Solo::<R>::running();
        let ((batch, id), (other, another)) = (solo.head(0), solo.head(7));
        solo.start_epoch(0, None);
        solo.propose(0, &batch, id);
        assert!(solo.prepared(Solo::<R>::vote(0, id)));
        solo.restart();
        solo.start_epoch(0, None);
        solo.propose(0, &other, another);
        solo.prepared(Solo::<R>::vote(0, another))
    }
    assert!(!votes_twice::<Law>());
    assert!(votes_twice::<Mutant<{ off::ONE_VOTE_PER_HEIGHT }>>(), "the mutant is seen");
}

/// Fewer answers are enough only for a restart of the process.
#[test]
fn another_boot_id_is_no_intact_mark() {
    fn runs<R: Rules<Scheme = Frost>>() -> bool {
        let mut solo = Solo::<R>::open(founded(), false);
        for from in [1, 2] {
            solo.answer(from, |_| {});
        }
        solo.decider.status().running
    }
    assert!(!runs::<Law>());
    assert!(runs::<Mutant<{ off::MARK_IS_BOOT_ID }>>(), "the mutant is seen");
}

#[test]
fn a_liar_ends_no_epoch_by_accusing_itself() {
    fn moves<R: Rules<Scheme = Frost>>() -> bool {
        let mut solo = Solo::<R>::running();
        for id in [1, 2] {
            let body = wire::Propose { epoch: 0, height: 9, number: 1, id: vec![id; 32] };
            solo.say(2, Kind::Propose, &body);
        }
        assert_eq!(solo.decider.status().named, [2]);
        solo.decider.status().epoch > 0
    }
    assert!(!moves::<Law>());
    assert!(moves::<Mutant<{ off::EVIDENCE_ENDS_OWN_EPOCH }>>(), "the mutant is seen");
}

#[test]
fn a_leader_that_never_starts_is_complained_about() {
    fn complains<R: Rules<Scheme = Frost>>() -> bool {
        let mut solo = Solo::<R>::running();
        solo.wait(5_000);
        solo.alarms.iter().any(|alarm| matches!(alarm, Alarm::Complained { epoch: 0, .. }))
    }
    assert!(complains::<Law>());
    assert!(!complains::<Mutant<{ off::COMPLAINS_WITHOUT_START }>>(), "the mutant is seen");
}

#[test]
fn a_complaint_is_repeated() {
    fn said<R: Rules<Scheme = Frost>>() -> usize {
        let mut solo = Solo::<R>::running();
        for _ in 0..20 {
            solo.wait(1_000);
        }
        // Each time it goes to the three others.
        solo.sent.iter().filter(|message| matches!(&message.body, Body::Complaint(_))).count() / 3
    }
    assert!(said::<Law>() > 2);
    assert_eq!(said::<Mutant<{ off::REPEATS }>>(), 1, "the mutant is seen");
}

/// With t = q the certificate's signers are one set: if one of them withholds its share, no other session is left.
#[test]
fn whoever_prepared_may_sign() {
    fn keeps_its_epoch<R: Rules<Scheme = Frost>>() -> bool {
        let mut net = Net::<R>::new(Cluster::four(), 51);
        net.start_all();
        assert!(net.run_until(10_000, |net| net.certified.len() == 4), "{}", net.report());
        let epoch = net.decider(1).status().epoch;
        // 2 votes and does nothing else; 4 votes late, so that the certificate is that of 1, 2 and 3.
        let mut late = std::collections::BTreeSet::new();
        net.filter = Some(Box::new(move |from, _, message| match &message.body {
            Body::Prepare(_) if from == 2 => Some(message.clone()),
            _ if from == 2 => None,
            Body::Prepare(_) if from == 4 && late.insert(message.digest) => None,
            _ => Some(message.clone()),
        }));
        let request = definition(net.cluster, "one");
        net.request(3, &request);
        net.run_until(20_000, |net| (1..=4).all(|n| net.certified.get(&n) == Some(&1)));
        net.decider(1).status().epoch == epoch
    }
    assert!(keeps_its_epoch::<Law>());
    assert!(!keeps_its_epoch::<Mutant<{ off::SESSIONS_OF_ALL_PREPARED }>>(), "the mutant is seen");
}
