//! Seeded runs over faults: crashes anywhere, loss, delay, and one custodian whose messages are replayed, repeated and
//! garbled. The network checks I1, I2, I3, I4, I10 and PROTOCOL 7 at every step; after healing everything is certified.

use rand_chacha::ChaCha20Rng;
use rand_core::{RngCore, SeedableRng};

use super::net::{Cluster, Net, definition, go};
use crate::message::{Body, Message};
use crate::rules::Law;

fn storm(seed: u64) {
    let cluster = Cluster::four();
    let mut net = Net::<Law>::new(cluster, seed);
    let mut rng = ChaCha20Rng::seed_from_u64(seed);
    net.start_all();
    assert!(net.run_until(10_000, |net| net.certified.len() == 4), "{}", net.report());
    let liar = 1 + (seed % 4) as u16;
    let (mut old, mut dice) = (Vec::new(), ChaCha20Rng::seed_from_u64(seed + 1));
    net.filter = Some(Box::new(move |from, _, message| {
        if from != liar {
            return Some(message.clone());
        }
        if old.len() < 64 {
            old.push(message.clone());
        }
        match dice.next_u32() % 8 {
            // An old message of its own, byte for byte.
            0 | 1 => old.get(dice.next_u64() as usize % old.len()).cloned(),
            // Its attachment is lost.
            2 => {
                let bare = crate::wire::Envelope { attachment: Vec::new(), ..message.envelope().clone() };
                Message::check(&cluster.context, bare).ok()
            }
            3 => None,
            // It signs the like again, under another seq.
            4 => {
                let body = message.envelope().body.clone();
                let attachment = message.envelope().attachment.clone();
                let envelope = crate::message::seal(
                    &cluster.context,
                    &cluster.members[&liar].identity,
                    liar,
                    message.seq + dice.next_u64() % 3,
                    message.kind(),
                    body,
                    attachment,
                );
                Message::check(&cluster.context, envelope).ok().filter(|_| message.sender == liar)
            }
            _ => Some(message.clone()),
        }
    }));
    net.loss_percent = 10;
    net.max_delay = 60;
    let machine = definition(cluster, "one");
    for number in 1..=4 {
        net.request(number, &machine);
    }
    for _ in 0..4 {
        net.run_until(rng.next_u64() % 400, |_| false);
        let victim = 1 + (rng.next_u32() % 4) as u16;
        let at = net.store(victim).ops() + rng.next_u64() % 6;
        net.store(victim).stop_at(at);
        net.run_until(1_500, |net| !net.alive(victim));
        if net.alive(victim) {
            net.kill(victim);
        }
        net.run_until(rng.next_u64() % 300, |_| false);
        net.start(victim);
    }
    net.loss_percent = 0;
    net.filter = None;
    for number in (1..=4).filter(|number| !net.alive(*number)).collect::<Vec<_>>() {
        net.start(number);
    }
    for number in 1..=4 {
        net.request(number, &machine);
    }
    assert!(net.run_until(240_000, |net| net.everyone_has(&machine.id())), "seed {seed}: {}", net.report());
    let input = go(&machine, net.now);
    net.request(2, &input);
    assert!(net.run_until(240_000, |net| net.everyone_has(&input.id())), "seed {seed}: {}", net.report());
    assert!(!net.fatal.iter().any(|(_, text)| text.contains("certified head")), "{:?}", net.fatal);
}

#[test]
fn storms_end_in_agreement() {
    (0..4).for_each(storm);
}

/// Whoever prepares and withholds its share costs attempts, not epochs (L4).
#[test]
fn who_prepares_and_withholds_is_passed_over() {
    let cluster = Cluster::four();
    let mut net = Net::<Law>::new(cluster, 71);
    net.start_all();
    assert!(net.run_until(5_000, |net| net.certified.len() == 4));
    net.filter = Some(Box::new(|from, _, message| {
        (from != 1 || !matches!(message.body, Body::Share(_))).then(|| message.clone())
    }));
    let machine = definition(cluster, "one");
    net.request(1, &machine);
    assert!(net.run_until(10_000, |net| net.everyone_has(&machine.id())), "{}", net.report());
}
