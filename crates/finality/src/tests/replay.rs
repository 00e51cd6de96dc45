//! What goes with a report of the `recover` ceremony: a vote is judged alike by who is ahead and by who has lost everything.

use std::sync::Arc;

use concordat_events::Hash;
use concordat_store::Store;
use concordat_store::memory::MemoryStore;

use super::net::{Cluster, Net, definition};
use crate::message::{Body, Vote};
use crate::record::{RECORD, glance};
use crate::recover::{Attached, RecoverError, Replay, Report, attach, plan, report, sign};
use crate::rules::Law;

/// A cluster stopped while custodian `voter` has voted for Head(1), which isn't certified.
fn voted() -> (Net<Law>, u16, Vote) {
    let mut net = Net::<Law>::new(Cluster::four(), 207);
    net.start_all();
    assert!(net.run_until(10_000, |net| net.certified.len() == 4), "{}", net.report());
    let machine = definition(net.cluster, "one");
    net.request(2, &machine);
    let vote = |net: &Net<Law>, number: u16| {
        let record = net.store(number).get(RECORD).unwrap();
        glance(record.as_deref()).and_then(|record| record.prepared).filter(|vote| vote.height == 1)
    };
    let any = |net: &Net<Law>| (1..=4).find_map(|number| Some((number, vote(net, number)?)));
    assert!(net.run_until(10_000, |net| any(net).is_some()), "{}", net.report());
    let (voter, vote) = any(&net).unwrap();
    assert!(net.certified.values().all(|height| *height == 0));
    (1..=4).for_each(|number| net.kill(number));
    (net, voter, vote)
}

fn shown(net: &Net<Law>, number: u16) -> crate::Msg {
    let identity = &net.cluster.members[&number].identity;
    report(net.store(number).as_ref(), &net.cluster.context, identity, number).unwrap()
}

fn body(message: &crate::Msg) -> &Report {
    match &message.body {
        Body::Report(report) => report,
        other => panic!("{other:?}"),
    }
}

#[test]
fn who_has_lost_everything_judges_a_vote_by_what_came_with_it() {
    let (net, voter, vote) = voted();
    let context = &net.cluster.context;
    let message = shown(&net, voter);
    let report = body(&message);
    let before = net.store(voter).snapshot();
    let attached = attach(net.store(voter).as_ref(), context, report, None, 1 << 20).unwrap();
    assert_eq!((attached.heads.len(), attached.batches.is_empty()), (1, false));
    let none = || Arc::new(MemoryStore::new());
    let judge = |attached: Attached, vote: &Vote| {
        Replay::open(none(), context, &[attached]).unwrap().rebuilds(vote, &report.batch_hashes)
    };
    assert!(judge(attached.clone(), &vote).unwrap());
    // Another head, or no batches: nobody votes for that honestly.
    let other = Vote { id: Hash::from_bytes([7; 32]), ..vote };
    assert!(!judge(attached.clone(), &other).unwrap());
    assert!(!judge(Attached { batches: Vec::new(), ..attached.clone() }, &vote).unwrap());
    // Who can't reach the height says so and doesn't guess.
    let headless = judge(Attached { heads: Vec::new(), ..attached.clone() }, &vote);
    assert!(matches!(headless, Err(RecoverError::Behind { next: 0, needed: 1 })), "{headless:?}");
    let own = Replay::open(net.store(voter).clone(), context, &[]).unwrap();
    assert!(own.rebuilds(&vote, &report.batch_hashes).unwrap(), "its own disk has it all");
    assert_eq!(net.store(voter).snapshot().size(), before.size(), "nothing is written");

    // Heads in a window, and those that aren't there.
    let few = attach(net.store(voter).as_ref(), context, report, None, 0).unwrap();
    assert!(few.heads.is_empty());
    let all = attach(net.store(voter).as_ref(), context, report, Some(0), 0).unwrap();
    assert_eq!(all.heads.len(), 1);
    let empty = attach(none().as_ref(), context, report, Some(0), 0);
    assert!(matches!(empty, Err(RecoverError::NoBatch { .. })), "{empty:?}");
}

#[test]
fn what_the_plan_forces_is_on_the_disk_of_who_signs_it() {
    let (mut net, voter, vote) = voted();
    let context = net.cluster.context.clone();
    // Two others have lost their disks; the third is absent. With it and a liar the vote may be a lock.
    let others: Vec<u16> = (1..=4).filter(|number| *number != voter).take(2).collect();
    for number in &others {
        net.replace_store(*number, MemoryStore::new());
    }
    let reports: Vec<crate::Msg> = [voter].iter().chain(&others).map(|number| shown(&net, *number)).collect();
    let attached = attach(net.store(voter).as_ref(), &context, body(&reports[0]), None, 1 << 20).unwrap();
    let signer = others[0];
    let replay = Replay::open(net.store(signer).clone(), &context, &[attached]).unwrap();
    let planned = plan(&context, &reports, |vote, hashes| replay.rebuilds(vote, hashes)).unwrap();
    assert_eq!(planned.forced, Some(vote));
    replay.keep_batches(&planned).unwrap();
    let identity = &net.cluster.members[&signer].identity;
    let signature = sign(net.store(signer).as_ref(), &context, identity, signer, &reports, |vote, hashes| {
        replay.rebuilds(vote, hashes)
    });
    assert_eq!(crate::recover::signed_hash(&signature.unwrap()), Some(planned.hash()));
    for hash in &body(&reports[0]).batch_hashes {
        assert!(crate::record::get_batch(net.store(signer).as_ref(), &context, hash).unwrap().is_some());
    }
    // A plan that stands on a vote which can't be judged isn't made at all.
    let blind = Replay::open(net.store(others[1]).clone(), &context, &[]).unwrap();
    let refused = plan(&context, &reports, |vote, hashes| blind.rebuilds(vote, hashes));
    assert!(matches!(refused, Err(RecoverError::Behind { .. })), "{refused:?}");
}
