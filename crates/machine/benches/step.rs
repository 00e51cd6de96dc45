//! What a step costs: `cargo bench -p concordat-machine --bench step`.
//!
//! Engine time only: no state tree, no signatures, no JSON from outside. Prints one line of JSON for the steps
//! of the bet machine, and one for each number of idle machines with the time of a step among them and the bytes
//! that an idle machine takes (its canonical bytes, as the ledger keeps it, and its parsed state).
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a bench prints figures and stops where it can't"
)]

use concordat_machine::{Definition, Event, State};
use serde_json::{Value, json};
use std::hint::black_box;
use std::time::Instant;

const START_MS: u64 = 1_799_990_000_000;

fn bet() -> Definition {
    Definition::parse(include_str!("../../../docs/machines/bet.json")).unwrap()
}

fn by(n: u8, kind: &str, data: Value) -> Event {
    Event::new(kind).with_data(data).by(format!("{n:0>64}"))
}

/// Nanoseconds of one call, the best of some rounds: what the engine needs, not what else the machine did.
fn best_ns(mut call: impl FnMut()) -> u128 {
    let rounds = (0..20).map(|_| {
        let start = Instant::now();
        for _ in 0..500 {
            call();
        }
        start.elapsed().as_nanos() / 500
    });
    rounds.min().unwrap_or_default()
}

fn steps(bet: &Definition) {
    let start = bet.start(START_MS, None).unwrap().state;
    let load = by(1, "LOAD", json!({"deposit": "a reference to a deposit"}));
    let one = bet.send(&start, &load, START_MS + 1).unwrap().state;
    let second = by(2, "LOAD", json!({"deposit": "another"}));
    let loaded = bet.send(&one, &second, START_MS + 2).unwrap().state;
    let begun = 1_800_000_000_000;
    let started = bet.fire_due(&loaded, begun).unwrap().unwrap().step.state;
    let result = by(3, "RESULT", json!({"winner": format!("{:0>64}", 2)}));
    let refused = by(9, "LOAD", json!({"deposit": "x"}));
    let bytes = one.canonical_bytes();
    let line = json!({
        "start_ns": best_ns(|| drop(black_box(bet.start(START_MS, None)))),
        "load_ns": best_ns(|| drop(black_box(bet.send(&start, &load, START_MS + 1)))),
        "second_load_ns": best_ns(|| drop(black_box(bet.send(&one, &second, START_MS + 2)))),
        "timer_ns": best_ns(|| drop(black_box(bet.fire_due(&loaded, begun)))),
        "result_ns": best_ns(|| drop(black_box(bet.send(&started, &result, begun + 1)))),
        "rejected_ns": best_ns(|| drop(black_box(bet.send(&one, &refused, START_MS + 2)))),
        "read_ns": best_ns(|| drop(black_box(State::from_bytes(&bytes)))),
        "write_ns": best_ns(|| drop(black_box(one.canonical_bytes()))),
    });
    println!("{line}");
}

/// Steps spread over many idle machines, which are kept as the ledger keeps them: as bytes.
fn among(bet: &Definition, machines: usize) {
    let state = bet.start(START_MS, None).unwrap().state;
    let bytes = state.canonical_bytes();
    let all: Vec<Box<[u8]>> = (0..machines).map(|_| bytes.clone().into_boxed_slice()).collect();
    let load = by(1, "LOAD", json!({"deposit": "a reference to a deposit"}));
    let (mut at, mut engine_ns) = (0, u128::MAX);
    let whole = Instant::now();
    let (rounds, steps) = (10_u128, 500);
    for _ in 0..rounds {
        let mut round = 0;
        for _ in 0..steps {
            at = (at + 7_919) % machines;
            let state = State::from_bytes(all.get(at).map(|b| &**b).unwrap_or_default()).unwrap();
            let start = Instant::now();
            black_box(bet.send(&state, &load, START_MS + 1)).unwrap();
            round += start.elapsed().as_nanos();
        }
        engine_ns = engine_ns.min(round / steps);
    }
    let line = json!({
        "machines": machines,
        "engine_ns": engine_ns,
        "with_reading_ns": whole.elapsed().as_nanos() / (rounds * steps),
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
