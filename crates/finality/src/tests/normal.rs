//! The normal case, leaders that die, quorums that are lost and found.

use super::net::{Cluster, Net, definition, go};
use crate::rules::Law;

#[test]
fn a_request_is_certified_by_all_with_one_id() {
    let cluster = Cluster::four();
    let mut net = Net::<Law>::new(cluster, 1);
    net.start_all();
    assert!(net.run_until(5_000, |net| net.certified.len() == 4), "{}", net.report());
    let machine = definition(cluster, "one");
    net.request(2, &machine);
    assert!(net.run_until(5_000, |net| net.everyone_has(&machine.id())), "{}", net.report());
    for round in 0..5 {
        let input = go(&machine, net.now);
        net.request(1 + round % 4, &input);
        assert!(net.run_until(5_000, |net| net.everyone_has(&input.id())));
        assert!(net.outcomes[&input.id()].1, "the input was accepted");
    }
    assert_eq!(net.decider(1).status().epoch, 0, "nobody complained: {}", net.report());
    let roots: Vec<_> = (1..=4).map(|n| net.decider(n).ledger().tip().cloned()).collect();
    assert!(roots.windows(2).all(|pair| pair[0] == pair[1]));
}

#[test]
fn a_dead_leader_costs_one_epoch_and_no_request() {
    let cluster = Cluster::four();
    for seed in 0..4 {
        let mut net = Net::<Law>::new(cluster, seed);
        net.start_all();
        assert!(net.run_until(5_000, |net| net.certified.len() == 4));
        let machine = definition(cluster, "one");
        net.request(3, &machine);
        // Somewhere in the middle of its certification.
        net.run_until(seed * 30, |_| false);
        net.kill(1);
        assert!(
            net.run_until(20_000, |net| net.everyone_has(&machine.id())),
            "seed {seed}: {:?}",
            net.alarms
        );
        let input = go(&machine, net.now);
        net.request(4, &input);
        assert!(net.run_until(20_000, |net| net.everyone_has(&input.id())));
        net.start(1);
        assert!(
            net.run_until(30_000, |net| net.certified.get(&1) == net.certified.get(&4)),
            "seed {seed}: {}",
            net.report()
        );
        let input = go(&machine, net.now);
        net.request(1, &input);
        assert!(net.run_until(30_000, |net| net.everyone_has(&input.id())), "seed {seed}: {}", net.report());
    }
}

#[test]
fn with_two_dead_nothing_is_certified_until_one_is_back() {
    let cluster = Cluster::four();
    let mut net = Net::<Law>::new(cluster, 9);
    net.start_all();
    assert!(net.run_until(5_000, |net| net.certified.len() == 4));
    let machine = definition(cluster, "one");
    net.kill(2);
    net.kill(4);
    net.request(3, &machine);
    assert!(!net.run_until(30_000, |net| net.outcomes.contains_key(&machine.id())));
    net.start(4);
    assert!(net.run_until(60_000, |net| net.everyone_has(&machine.id())), "{}", net.report());
    net.start(2);
    assert!(net.run_until(60_000, |net| net.certified.get(&2) == net.certified.get(&1)), "{}", net.report());
}

#[test]
fn everybody_crashing_at_once_is_an_ordinary_case() {
    let cluster = Cluster::four();
    for seed in 0..6 {
        let mut net = Net::<Law>::new(cluster, 100 + seed);
        net.start_all();
        assert!(net.run_until(5_000, |net| net.certified.len() == 4));
        let machine = definition(cluster, "one");
        net.request(3, &machine);
        net.run_until(10 + 17 * seed, |_| false);
        (1..=4).for_each(|number| net.kill(number));
        net.start_all();
        net.request(3, &machine);
        assert!(
            net.run_until(60_000, |net| net.everyone_has(&machine.id())),
            "seed {seed}: {:?}",
            net.alarms
        );
    }
}

#[test]
fn lost_messages_cost_only_time() {
    let cluster = Cluster::four();
    let mut net = Net::<Law>::new(cluster, 21);
    net.loss_percent = 20;
    net.max_delay = 100;
    net.start_all();
    let machine = definition(cluster, "one");
    assert!(net.run_until(120_000, |net| net.certified.len() == 4), "{}", net.report());
    net.request(2, &machine);
    assert!(net.run_until(120_000, |net| net.everyone_has(&machine.id())), "{}", net.report());
}

#[test]
fn seven_lose_two() {
    let cluster = Cluster::seven();
    let mut net = Net::<Law>::new(cluster, 5);
    net.start_all();
    assert!(net.run_until(10_000, |net| net.certified.len() == 7), "{}", net.report());
    net.kill(1);
    net.kill(2);
    let machine = definition(cluster, "one");
    net.request(3, &machine);
    assert!(net.run_until(60_000, |net| net.everyone_has(&machine.id())), "{}", net.report());
}
