//! Crashes between any write and any flush (PROTOCOL 7, 8), disks that come back old, and the mutants of those rules.

use concordat_store::memory::MemoryStore;

use super::net::{Cluster, Net, definition, go};
use crate::mutants::{Mutant, off};
use crate::rules::{Law, Rules};
use crate::{Alarm, Bar};

/// One certification with a crash of custodian `victim` in front of its `op`-th write or flush. Every rule is checked at
/// every step by the network.
fn crash_at<R: Rules<Scheme = crate::Frost>>(victim: u16, op: u64, seed: u64) -> bool {
    let cluster = Cluster::four();
    let mut net = Net::<R>::new(cluster, seed);
    net.start_all();
    assert!(net.run_until(10_000, |net| net.certified.len() == 4), "{}", net.report());
    let before = net.store(victim).ops();
    net.store(victim).stop_at(before + op);
    let machine = definition(cluster, "one");
    net.request(3, &machine);
    let other = if victim == 3 { 4 } else { 3 };
    net.request(other, &machine);
    net.run_until(20_000, |net| !net.alive(victim) || net.everyone_has(&machine.id()));
    let crashed = !net.alive(victim);
    if crashed {
        net.start(victim);
    }
    assert!(net.run_until(60_000, |net| net.everyone_has(&machine.id())), "op {op}: {}", net.report());
    let input = go(&machine, net.now);
    net.request(other, &input);
    assert!(net.run_until(60_000, |net| net.everyone_has(&input.id())), "op {op}: {}", net.report());
    crashed
}

#[test]
fn a_follower_may_crash_before_and_after_every_flush() {
    let crashes = (0..7).filter(|op| crash_at::<Law>(2, *op, 300 + op)).count();
    assert!(crashes >= 3, "only {crashes} of the runs crashed");
}

#[test]
fn the_leader_may_crash_before_and_after_every_flush() {
    let crashes = (1..24).step_by(3).filter(|op| crash_at::<Law>(1, *op, 400 + op)).count();
    assert!(crashes >= 4, "only {crashes} of the runs crashed");
}

type SendFirst = Mutant<{ off::FLUSH_BEFORE_SEND }>;

#[test]
#[should_panic(expected = "PROTOCOL 7")]
fn swapping_flush_and_send_is_seen() {
    crash_at::<SendFirst>(2, 1_000, 1);
}

type ForgetsVotes = Mutant<{ off::PREPARED_PERSISTS }>;

#[test]
#[should_panic(expected = "PROTOCOL 7: a prepare left")]
fn votes_that_are_not_kept_are_seen() {
    crash_at::<ForgetsVotes>(2, 1_000, 1);
}

type ForgetsEpochs = Mutant<{ off::EPOCH_PERSISTS }>;

#[test]
#[should_panic(expected = "PROTOCOL 7: a grant left")]
fn epochs_that_are_not_kept_are_seen() {
    crash_at::<ForgetsEpochs>(1, 4, 1);
}

type ForgetsLocks = Mutant<{ off::LOCK_BEFORE_SHARE }>;

#[test]
#[should_panic(expected = "I4")]
fn shares_without_lock_are_seen() {
    crash_at::<ForgetsLocks>(2, 1_000, 1);
}

#[test]
fn a_failed_flush_stops_the_custodian_and_nobody_else() {
    let cluster = Cluster::four();
    let mut net = Net::<Law>::new(cluster, 31);
    net.start_all();
    assert!(net.run_until(5_000, |net| net.certified.len() == 4));
    net.store(2).fail_next_flush();
    let machine = definition(cluster, "one");
    net.request(3, &machine);
    assert!(net.run_until(20_000, |net| !net.alive(2)));
    assert!(net.run_until(20_000, |net| net.everyone_has(&machine.id())));
    assert!(net.fatal.iter().any(|(number, text)| *number == 2 && text.contains("store failed")));
}

/// An old disk put back while the boot id is another: the others show what they have seen.
#[test]
fn a_rolled_back_disk_is_put_in_quarantine_and_comes_out() {
    let cluster = Cluster::four();
    let mut net = Net::<Law>::new(cluster, 41);
    net.start_all();
    assert!(net.run_until(5_000, |net| net.certified.len() == 4));
    let old = net.store(2).snapshot();
    let machine = definition(cluster, "one");
    net.request(3, &machine);
    assert!(net.run_until(20_000, |net| net.everyone_has(&machine.id())));
    net.kill(2);
    net.certified.remove(&2);
    net.replace_store(2, MemoryStore::restore(old));
    net.start_with(2, b"another boot".to_vec());
    assert!(net.run_until(20_000, |net| {
        net.alarms.iter().any(|(number, alarm)| *number == 2 && matches!(alarm, Alarm::RolledBack { .. }))
    }));
    assert!(
        net.run_until(60_000, |net| net.decider(2).status().bar == Bar::None),
        "{:?}",
        net.decider(2).status()
    );
    let input = go(&machine, net.now);
    net.request(2, &input);
    assert!(net.run_until(60_000, |net| net.everyone_has(&input.id())));
}

/// A custodian with a key share and no record at all is in quarantine too.
#[test]
fn a_lost_record_is_quarantine() {
    let cluster = Cluster::four();
    let mut net = Net::<Law>::new(cluster, 43);
    net.start_all();
    assert!(net.run_until(5_000, |net| net.certified.len() == 4));
    net.kill(3);
    net.certified.remove(&3);
    net.replace_store(3, MemoryStore::new());
    net.start(3);
    assert!(net.run_until(20_000, |net| net.decider(3).status().bar != Bar::None));
    assert!(
        net.run_until(90_000, |net| net.decider(3).status().bar == Bar::None),
        "{:?}",
        net.decider(3).status()
    );
}
