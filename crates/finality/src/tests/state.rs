//! Far behind or new: the state of a certified head in chunks, whoever serves it (PROTOCOL 8).

use concordat_store::{Store, WriteBatch};
use prost::Message as _;

use super::net::{Cluster, Net, definition, go};
use super::solo::{Solo, founded};
use crate::message::{Body, Kind};
use crate::rules::Law;
use crate::{Alarm, Frost, Rules, wire};

/// Three custodians with some heads, of which they have kept only the newest; the fourth is down since Head(0).
fn pruned(seed: u64) -> (Net<Law>, concordat_events::ValidEvent) {
    let mut net = Net::<Law>::new(Cluster::four(), seed);
    net.start_all();
    assert!(net.run_until(10_000, |net| net.certified.len() == 4), "{}", net.report());
    net.kill(4);
    let machine = definition(net.cluster, "one");
    net.request(2, &machine);
    assert!(net.run_until(10_000, |net| net.everyone_has(&machine.id())), "{}", net.report());
    for _ in 0..4 {
        let input = go(&machine, net.now);
        net.request(3, &input);
        assert!(net.run_until(10_000, |net| net.everyone_has(&input.id())));
    }
    net.run_until(500, |_| false);
    for number in 1..=3 {
        prune(&net, number);
    }
    (net, machine)
}

/// A custodian's older heads are gone, as if it had fetched a state itself.
fn prune<R: Rules<Scheme = Frost>>(net: &Net<R>, number: u16) {
    let tip = net.certified[&number];
    let mut batch = WriteBatch::new();
    batch.delete_range(b"f/h/".as_slice(), [b"f/h/".as_slice(), &tip.to_be_bytes()].concat());
    net.store(number).apply(batch).unwrap();
    net.store(number).flush().unwrap();
}

fn caught_up(net: &Net<Law>) -> bool {
    net.alive(4) && net.certified.get(&4) == net.certified.get(&1)
}

/// What the state room that isn't in use holds, in entries.
fn spare(net: &Net<Law>, number: u16) -> usize {
    let image = net.store(number).snapshot();
    let rooms = [b"ledger/".as_slice(), b"ledger2/"];
    rooms
        .map(|room| image.entries().filter(|(key, _)| key.starts_with(room)).count())
        .into_iter()
        .min()
        .unwrap()
}

#[test]
fn who_lacks_old_heads_fetches_the_state_and_takes_its_place_in_the_running_epoch() {
    let (mut net, machine) = pruned(101);
    let epoch = net.decider(1).status().epoch;
    net.start(4);
    assert!(net.run_until(10_000, caught_up), "{}", net.report());
    assert_eq!(net.decider(4).ledger().tip(), net.decider(1).ledger().tip());
    assert_eq!(spare(&net, 4), 0, "the old state is gone");
    // Without 3 the newcomer's vote is needed, in an epoch whose older heads it never saw.
    net.kill(3);
    for _ in 0..2 {
        let input = go(&machine, net.now);
        net.request(2, &input);
        assert!(net.run_until(900, |net| net.everyone_has(&input.id())), "{}", net.report());
    }
    assert_eq!(net.decider(4).status().epoch, epoch, "no epoch was lost to that");
    // What it has fetched outlives it.
    let tip = net.decider(4).ledger().tip().cloned();
    net.kill(4);
    net.start(4);
    assert_eq!(net.decider(4).ledger().tip().cloned(), tip);
}

#[test]
fn who_crashes_while_it_fetches_begins_again() {
    let (mut net, machine) = pruned(103);
    for op in 0..8 {
        net.start(4);
        let at = net.store(4).ops() + op;
        net.store(4).stop_at(at);
        net.run_until(3_000, |net| !net.alive(4));
        if net.alive(4) {
            net.kill(4);
        }
    }
    net.start(4);
    assert!(net.run_until(10_000, caught_up), "{}", net.report());
    let input = go(&machine, net.now);
    net.request(4, &input);
    assert!(net.run_until(10_000, |net| net.everyone_has(&input.id())), "{}", net.report());
}

/// Runs the newcomer against a custodian 1 and 2 that answer with what `bend` makes of the chunk; 3 is honest.
fn against(seed: u64, bend: fn(&mut wire::State) -> bool) -> Net<Law> {
    let (mut net, _) = pruned(seed);
    let cluster = net.cluster;
    net.filter = Some(Box::new(move |from, _, message| {
        let Body::State(_) = &message.body else { return Some(message.clone()) };
        if from == 3 {
            return Some(message.clone());
        }
        let mut body = wire::State::decode(message.envelope().body.as_slice()).unwrap();
        bend(&mut body).then(|| cluster.forge(from, message.seq, Kind::State, &body, Vec::new()))
    }));
    net.start(4);
    assert!(net.run_until(60_000, caught_up), "{}", net.report());
    assert_eq!(net.decider(4).ledger().tip(), net.decider(3).ledger().tip());
    net
}

#[test]
fn chunks_that_lie_are_refused_and_name_who_sent_them() {
    let bends: [fn(&mut wire::State) -> bool; 4] = [
        |state| {
            state.leaves[0].value.push(b' ');
            true
        },
        |state| state.leaves.pop().is_some(),
        |state| {
            let first = state.leaves[0].clone();
            state.leaves.push(first);
            true
        },
        |state| {
            state.beside.push(vec![7; 32]);
            true
        },
    ];
    for (seed, bend) in (110..).zip(bends) {
        let net = against(seed, bend);
        let named = |culprit: u16| {
            net.alarms.iter().any(|(by, alarm)| {
                *by == 4 && matches!(alarm, Alarm::BadState { culprit: c, .. } if *c == culprit)
            })
        };
        assert!(!named(3), "{:?}", net.alarms);
        assert!(named(1) || named(2) || net.alarms.iter().all(|(by, _)| *by != 4));
    }
}

#[test]
fn chunks_of_another_height_or_place_and_silence_harm_nothing() {
    let bends: [fn(&mut wire::State) -> bool; 3] = [
        |state| {
            state.height += 1;
            true
        },
        |state| {
            state.place = vec![0x80; 32];
            true
        },
        |_| false,
    ];
    for (seed, bend) in (120..).zip(bends) {
        against(seed, bend);
    }
}

/// Nobody hands out a state below the own one: a certified height never falls.
#[test]
fn an_older_state_is_not_fetched() {
    let (mut net, _) = pruned(131);
    let bytes = crate::record::last_head(net.store(4), &net.cluster.context).unwrap().unwrap();
    let newest = bytes.certificate.log.json().as_bytes().to_vec();
    let before = net.sent.clone();
    let lie =
        net.cluster.forge(2, 9_000, Kind::Heads, &wire::Heads { heads: Vec::new(), newest }, Vec::new());
    net.inject(1, lie);
    net.run_until(2_000, |_| false);
    assert_eq!(net.sent.get("state"), before.get("state"));
}

/// Log events of the heads after Head(0).
fn logs(count: u64) -> Vec<Vec<u8>> {
    let mut other = Solo::<Law>::running();
    (0..count)
        .map(|at| {
            let (batch, _) = other.head(at);
            let certificate = other.signed(std::slice::from_ref(&batch));
            let log = certificate.as_ref().unwrap().log_event.clone();
            let batches = vec![crate::read::batch_to_wire(&batch)];
            let head = wire::CertifiedHead { certificate, batches, events: Vec::new() };
            other.say(1, Kind::Heads, &wire::Heads { heads: vec![head], newest: Vec::new() });
            log
        })
        .collect()
}

/// How many chunks it has asked for.
fn asked(solo: &Solo<Law>) -> usize {
    solo.sent.iter().filter(|message| matches!(&message.body, Body::FetchState(_))).count()
}

fn offer(solo: &mut Solo<Law>, from: u16, log: &[u8]) {
    solo.say(from, Kind::Heads, &wire::Heads { heads: Vec::new(), newest: log.to_vec() });
}

#[test]
fn a_peer_that_names_one_head_after_the_other_is_passed_over() {
    let logs = logs(12);
    let mut solo = Solo::<Law>::running();
    for log in &logs {
        offer(&mut solo, 1, log);
    }
    let most = 1 + crate::limits::STATE_RESTARTS as usize;
    assert_eq!(asked(&solo), most);
    offer(&mut solo, 2, &logs[0]);
    assert_eq!(asked(&solo), most + 1, "somebody else's is fetched");
}

/// With patience for each chunk that is longer than a fetch may take.
#[test]
fn a_fetch_that_takes_too_long_is_given_up() {
    let logs = logs(1);
    let mut solo = Solo::<Law>::open_with(founded(), true, crate::limits::FETCH_STATE_MS);
    for from in [1, 2, 3] {
        solo.answer(from, |_| {});
    }
    offer(&mut solo, 1, &logs[0]);
    solo.wait(crate::limits::FETCH_STATE_MS - 1);
    offer(&mut solo, 2, &logs[0]);
    assert_eq!(asked(&solo), 1, "one peer at a time");
    solo.wait(1);
    offer(&mut solo, 1, &logs[0]);
    assert_eq!(asked(&solo), 1, "whoever was too slow isn't asked again");
    offer(&mut solo, 2, &logs[0]);
    assert_eq!(asked(&solo), 2);
}

/// A state is kept for those who fetch it, not for ever and not for one who has gone.
#[test]
fn a_state_is_kept_while_it_is_fetched_and_for_a_limited_time() {
    let ask = |solo: &mut Solo<Law>| {
        solo.say(2, Kind::FetchState, &wire::FetchState { height: 0, place: vec![0; 32] })
    };
    let kept = |solo: &Solo<Law>| solo.decider.ledger().frozen();
    let mut solo = Solo::<Law>::running();
    ask(&mut solo);
    assert_eq!(kept(&solo), Some(0));
    solo.wait(crate::state::IDLE * 1_000 - 1);
    assert_eq!(kept(&solo), Some(0));
    solo.wait(1);
    assert_eq!(kept(&solo), None, "nobody fetches it any more");
    let begun = solo.now;
    while solo.now + 5_000 < begun + crate::limits::FROZEN_MS {
        ask(&mut solo);
        solo.wait(5_000);
        assert_eq!(kept(&solo), Some(0));
    }
    ask(&mut solo);
    solo.wait(5_000);
    assert_eq!(kept(&solo), None, "it was kept for long enough");
}
