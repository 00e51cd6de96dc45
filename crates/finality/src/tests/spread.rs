//! How certificates get around, and what it costs.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use super::net::{Cluster, Net, definition, go};
use crate::message::{Body, Kind, Msg};
use crate::rules::Law;

/// A network that certifies one request after the other, with a pause between them. For each head: messages, certificates among
/// them, and bytes.
fn cost(cluster: &'static Cluster, pause_ms: u64) -> [f64; 3] {
    let n = u16::try_from(cluster.members.len()).unwrap();
    let mut net = Net::<Law>::new(cluster, 3);
    net.start_all();
    let machine = definition(cluster, "m");
    net.request(1, &machine);
    assert!(net.run_until(20_000, |net| net.everyone_has(&machine.id())), "{}", net.report());
    let sent = Rc::new(RefCell::new([0_usize; 3]));
    let count = sent.clone();
    net.filter = Some(Box::new(move |from, to, message| {
        // What one says to itself isn't sent; and the requests aren't what a head costs.
        if from != to && message.kind() != Kind::Requests {
            let mut count = count.borrow_mut();
            count[0] += 1;
            count[1] += usize::from(message.kind() == Kind::Certificate);
            count[2] += message.to_bytes().len();
        }
        Some(message.clone())
    }));
    let before = net.certified[&1];
    for _ in 0..6 {
        let input = go(&machine, net.now);
        (1..=n).for_each(|number| net.request(number, &input));
        assert!(net.run_until(20_000, |net| net.everyone_has(&input.id())), "{}", net.report());
        net.run_until(pause_ms, |_| false);
    }
    assert_eq!(net.decider(1).status().epoch, 0, "{}", net.report());
    let heads = (net.certified[&1] - before) as f64;
    let sent = *sent.borrow();
    sent.map(|count| count as f64 / heads)
}

/// What a head costs where heads are further apart than the first repeat: the normal case, and one certificate more from each
/// custodian to each of the f+1 keepers.
#[test]
fn messages_of_a_head_grow_linearly_per_custodian() {
    let thirteen: &'static Cluster = Box::leak(Box::new(Cluster::found(13, 13)));
    for cluster in [Cluster::four(), Cluster::seven(), thirteen] {
        let (n, f) = (cluster.context.roster.n() as f64, cluster.context.roster.f() as f64);
        let q = cluster.context.q() as f64;
        let [all, certificates, bytes] = cost(cluster, 1_500);
        let most = (n - 1.0) + (f + 1.0) * (n - 1.0);
        assert!(certificates <= most, "n = {n}: {certificates} certificates a head, at most {most}");
        let most = (4.0 + q) * (n - 1.0) + (f + 1.0) * (n - 1.0) + 1.0;
        assert!(all <= most, "n = {n}: {all} messages a head, at most {most}");
        println!(
            "n = {n}: {all:.1} messages a head, {certificates:.1} of them certificates; {bytes:.0} bytes"
        );
    }
}

/// Runs until all but one have a head of which that one has heard nothing, and lets it hear what `hears` lets through from then on.
fn left_out(hears: impl Fn(u16, u64) -> bool + 'static) -> (Net<Law>, u64, u16) {
    let cluster = Cluster::four();
    let mut net = Net::<Law>::new(cluster, 8);
    net.start_all();
    let machine = definition(cluster, "m");
    net.request(1, &machine);
    assert!(net.run_until(20_000, |net| net.everyone_has(&machine.id())), "{}", net.report());
    net.run_until(200, |_| false);
    let height = net.certified[&1] + 1;
    let begun = net.now;
    let last = (2..=4).find(|number| !keepers(height).contains(number)).unwrap();
    let rest = (1..=4).filter(move |number| *number != last);
    let open = Rc::new(RefCell::new(false));
    let gate = open.clone();
    net.filter = Some(Box::new(move |from, to, message: &Msg| {
        let told = matches!(message.body, Body::Certificate(_)) && *gate.borrow() && hears(from, height);
        let goes = to != last && from != last || told || from == last && *gate.borrow();
        goes.then(|| message.clone())
    }));
    let input = go(&machine, net.now);
    rest.clone().for_each(|number| net.request(number, &input));
    let has = |net: &Net<Law>| rest.clone().all(|number| net.certified[&number] == height);
    assert!(net.run_until(5_000, has), "{}", net.report());
    *open.borrow_mut() = true;
    assert!(net.certified[&last] < height && net.now < begun + 200);
    (net, height, last)
}

fn keepers(height: u64) -> [u16; 2] {
    let place = |step: u64| u16::try_from((height + step) % 4).unwrap() + 1;
    [place(0), place(1)]
}

#[test]
fn who_was_left_out_hears_of_a_head_from_its_keepers() {
    let (mut net, height, last) = left_out(|from, height| keepers(height).contains(&from));
    let begun = net.now;
    let cert = Kind::Certificate;
    let heard = Rc::new(RefCell::new(BTreeMap::<u16, u32>::new()));
    let (count, inner) = (heard.clone(), net.filter.take());
    let mut inner = inner.unwrap();
    net.filter = Some(Box::new(move |from, to, message| {
        let passes = inner(from, to, message);
        // Once it has been told, it may ask for the batches of the head.
        if passes.is_some() && to == last && message.kind() == cert {
            *count.borrow_mut().entry(from).or_default() += 1;
        }
        passes
    }));
    net.run_until(2_000, |_| !heard.borrow().is_empty());
    assert!(heard.borrow().keys().any(|from| keepers(height).contains(from)), "{}", net.report());
    assert!(net.now < begun + 2_000, "before everybody tells everybody");
}

#[test]
fn where_no_keeper_tells_everybody_does() {
    let (mut net, height, last) = left_out(|from, height| !keepers(height).contains(&from));
    net.filter = Some(Box::new(move |from, to, message| {
        // The keepers are down.
        let down = keepers(height);
        (!down.contains(&from) && !down.contains(&to)).then(|| message.clone())
    }));
    assert!(net.run_until(20_000, |net| net.certified[&last] >= height), "{}", net.report());
}
