//! What a step costs: `cargo bench -p concordat-machine --bench step`.
//!
//! Engine time only: no state tree, no signatures, no JSON from outside. Prints one line of JSON for the steps
//! of the bet machine, and one for each number of idle machines with the time of a step among them and the bytes
//! that an idle machine takes (its canonical bytes, as the ledger keeps it).
//!
//! A busy or slow computer is slower at everything, so each line carries the yardstick of the same run: one BIP340 check by
//! libsecp256k1, which every request costs before the engine sees it. `of_a_signature_check` is a step's share of that.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a bench prints figures and stops where it can't"
)]

use concordat_machine::{Definition, Event, State};
use secp256k1::{Keypair, Message, SecretKey};
use serde_json::{Map, Value, json};
use std::hint::black_box;
use std::time::Instant;

const START_MS: u64 = 1_799_990_000_000;

fn bet() -> Definition {
    Definition::parse(include_str!("../../../docs/machines/bet.json")).unwrap()
}

fn by(n: u8, kind: &str, data: Value) -> Event {
    Event::new(kind).with_data(data).by(format!("{n:0>64}"))
}

/// The median of some thousand calls in nanoseconds: a busy machine interrupts a few of them.
fn median_ns(mut call: impl FnMut() -> u128) -> u128 {
    let mut all: Vec<u128> = (0..4_000).map(|_| call()).collect();
    all.sort_unstable();
    all.get(all.len() / 2).copied().unwrap_or_default()
}

fn of<T>(mut call: impl FnMut() -> T) -> u128 {
    median_ns(|| {
        let start = Instant::now();
        black_box(call());
        start.elapsed().as_nanos()
    })
}

/// One signature check, in nanoseconds.
fn yardstick() -> u128 {
    let context = secp256k1::SECP256K1;
    let pair = Keypair::from_secret_key(context, &SecretKey::from_slice(&[7; 32]).unwrap());
    let message = Message::from_digest([9; 32]);
    let signature = context.sign_schnorr_no_aux_rand(&message, &pair);
    let key = pair.x_only_public_key().0;
    of(|| context.verify_schnorr(&signature, &message, &key))
}

/// How many signature checks a time is, to three digits.
fn share(ns: u128, check: u128) -> f64 {
    (ns as f64 / check as f64 * 1_000.0).round() / 1_000.0
}

fn steps(bet: &Definition) {
    let start = bet.start(START_MS, None).unwrap().state;
    let load = by(1, "LOAD", json!({"deposit": "a reference to a deposit"}));
    let one = bet.send(&start, &load, START_MS + 1).unwrap().state;
    let second = by(2, "LOAD", json!({"deposit": "another"}));
    let loaded = bet.send(&one, &second, START_MS + 2).unwrap().state;
    // The delay counts from the entry, in whole seconds of batch time.
    let begun = 1_800_000_000_100;
    let started = bet.fire_due(&loaded, begun).unwrap().unwrap().step.state;
    let result = by(3, "RESULT", json!({"winner": format!("{:0>64}", 2)}));
    let refused = by(9, "LOAD", json!({"deposit": "x"}));
    let bytes = one.canonical_bytes();
    let kinds: [(&str, u128); 6] = [
        ("start", of(|| bet.start(START_MS, None))),
        ("load", of(|| bet.send(&start, &load, START_MS + 1))),
        // Two microsteps: the second stake leads on to `loaded`, which sets a timer.
        ("second_load", of(|| bet.send(&one, &second, START_MS + 2))),
        ("timer", of(|| bet.fire_due(&loaded, begun))),
        ("result", of(|| bet.send(&started, &result, begun + 1))),
        ("rejected", of(|| bet.send(&one, &refused, START_MS + 2))),
    ];
    let check = yardstick();
    let mean = kinds.iter().map(|(_, ns)| ns).sum::<u128>() / kinds.len() as u128;
    let line = json!({
        "steps_ns": kinds.iter().map(|(kind, ns)| ((*kind).to_owned(), json!(ns))).collect::<Map<_, _>>(),
        "mean_ns": mean,
        "signature_check_ns": check,
        "of_a_signature_check": share(mean, check),
        "read_ns": of(|| State::from_bytes(&bytes)),
        "write_ns": of(|| one.canonical_bytes()),
    });
    println!("{line}");
}

/// Steps spread over many idle machines, which are kept as the ledger keeps them: as bytes.
fn among(bet: &Definition, machines: usize) {
    let state = bet.start(START_MS, None).unwrap().state;
    let bytes = state.canonical_bytes();
    let all: Vec<Box<[u8]>> = (0..machines).map(|_| bytes.clone().into_boxed_slice()).collect();
    let load = by(1, "LOAD", json!({"deposit": "a reference to a deposit"}));
    let mut at = 0;
    let mut next = || {
        at = (at + 7_919) % machines;
        State::from_bytes(all.get(at).map(|b| &**b).unwrap_or_default()).unwrap()
    };
    let engine_ns = median_ns(|| {
        let state = next();
        let start = Instant::now();
        black_box(bet.send(&state, &load, START_MS + 1)).unwrap();
        start.elapsed().as_nanos()
    });
    let with_reading_ns = of(|| bet.send(&next(), &load, START_MS + 1).unwrap().state.canonical_bytes());
    let check = yardstick();
    let line = json!({
        "machines": machines,
        "of_a_signature_check": share(engine_ns, check),
        "engine_ns": engine_ns,
        "with_reading_and_writing_ns": with_reading_ns,
        "bytes_per_idle_machine": bytes.len() + size_of::<Box<[u8]>>(),
    });
    println!("{line}");
}

fn main() {
    let bet = bet();
    steps(&bet);
    for machines in [1_000, 10_000, 100_000, 1_000_000] {
        among(&bet, machines);
    }
}
