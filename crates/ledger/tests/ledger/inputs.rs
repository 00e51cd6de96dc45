//! Inputs: accepted once, in order, with a reason for every refusal.

use concordat_events::hash::tagged;
use concordat_events::kinds::INPUT;
use concordat_events::request::input_tags;
use concordat_events::{Mode, ValidEvent};
use concordat_ledger::limits::SOURCE_MACHINES;
use nostr::Keys;
use serde_json::json;

use super::world::*;

/// Encrypted machines are refused by name, in the log and before anything is ordered; who listens for wraps gets them.
#[test]
fn encrypted_machines_are_refused_with_their_reason() {
    let mut world = World::new();
    let user = Keys::generate();
    let p = vec![vec!["p".to_owned(), world.group.public_key().to_hex()]];
    for (n, kind) in [7502, 1059].into_iter().enumerate() {
        let wrapped = event(&user, kind, p.clone(), "sealed", START);
        let judged = world.ledger.judge(&wrapped, START).unwrap();
        assert_eq!(judged, Some(concordat_ledger::Refusal::Encrypted));
        assert_eq!(world.one(1_000 + n as u64, &wrapped), "encrypted");
    }
    let listens = json!({"id": "m", "initial": "on", "context": {"n": 0}, "states": {"on": {"on": {
        "nostr.1059": {"actions": {"type": "cel.assign", "params": {"n": "context.n + 1"}}}}}}});
    let source = r#"{"kinds":[1059]}"#;
    let machine = world.definition_with(&user, "m", &listens, Mode::Sequenced, &[["source", source]]);
    assert_eq!(world.one(10_000, &machine), "ok");
    assert_eq!(world.one(11_000, &event(&user, 1059, p, "sealed again", START)), "ok");
    assert_eq!(world.context(&machine, "n"), 1);
}

#[test]
fn every_refusal_has_its_reason() {
    let mut world = World::new();
    let user = Keys::generate();
    let machine = world.definition(&user, "m", &counter());
    let add = input(&user, &machine, "ADD", 1);
    assert_eq!(world.head(7_200_000, &[&machine, &add]).0, ["ok", "too_old"]);
    let at = |at: u64, n: u64| {
        event(&user, INPUT, input_tags(machine.id(), "ADD", None), &format!("{{\"n\":{n}}}"), START + at)
    };
    let start = 7_200_000;
    let nowhere = event(&user, INPUT, input_tags(tagged("x", &[]), "ADD", None), "", START);
    let never = event(&user, INPUT, input_tags(machine.id(), "NEVER", None), "", START + start);
    let what = event(&user, INPUT, input_tags(machine.id(), "WHAT", None), "", START + start);
    let float = event(&user, INPUT, input_tags(machine.id(), "ADD", None), "1.5", START + start);
    let note = event(&user, 1, vec![], "hello", START + start);
    let cases = [
        (at(start - 3_600_000, 1), "ok"),
        (at(start - 3_601_000, 2), "too_old"),
        (at(start + 900_000, 3), "ok"),
        (at(start + 901_000, 4), "too_new"),
        (nowhere, "unknown_machine"),
        (never, "guard_false"),
        (what, "unknown_event"),
        (float, "bad_request"),
        (note, "no_machine"),
    ];
    let requests: Vec<&ValidEvent> = cases.iter().map(|(request, _)| request).collect();
    let expected: Vec<&str> = cases.iter().map(|(_, reason)| *reason).collect();
    assert_eq!(world.head(start, &requests).0, expected);
    assert_eq!(world.context(&machine, "n"), 2);
}

#[test]
fn a_request_is_accepted_once() {
    let mut world = World::new();
    let user = Keys::generate();
    let machine = world.definition(&user, "m", &counter());
    let add = input(&user, &machine, "ADD", 1);
    let (outcomes, signed) = world.heads(&[(1_000, &[&machine, &add]), (1_001, &[&add])]);
    assert_eq!(outcomes, ["ok", "ok", "duplicate"]);
    assert_eq!(snapshots(&signed)[0].tag("transition"), Some(add.id().to_hex().as_str()));
    assert_eq!(world.one(2_000, &add), "duplicate");
    assert_eq!(world.ledger.judge(&add, START).unwrap().unwrap().code(), "duplicate");
    assert_eq!(world.ledger.settled(&machine.id(), &add.id()).unwrap(), Some(1));
    assert_eq!(world.context(&machine, "n"), 1);
}

/// A signed rejection is final: nobody turns it into the opposite by bringing the request again.
#[test]
fn a_rejected_request_stays_rejected() {
    let mut world = World::new();
    let user = Keys::generate();
    let machine = world.definition_with(&user, "s", &counter(), Mode::Strict, &[]);
    world.head(1_000, &[&machine]);
    let first = input(&user, &machine, "ADD", 1);
    let early = input_after(&user, &machine, "ADD", 2, Some(first.id()));
    assert_eq!(world.one(2_000, &early), "stale");
    assert_eq!(world.one(3_000, &first), "ok");
    // Now it would fit.
    assert_eq!(world.one(4_000, &early), "duplicate");
    assert_eq!(world.ledger.judge(&early, START).unwrap().unwrap().code(), "duplicate");
    assert_eq!(world.ledger.settled(&machine.id(), &early.id()).unwrap(), Some(2));
}

#[test]
fn strict_machines_compare_and_swap() {
    let mut world = World::new();
    let user = Keys::generate();
    let strict = world.definition_with(&user, "s", &counter(), Mode::Strict, &[]);
    let loose = world.definition(&user, "l", &counter());
    world.head(1_000, &[&strict, &loose]);
    for (machine, without) in [(&strict, "stale"), (&loose, "ok")] {
        let first = input(&user, machine, "ADD", 1);
        let second = input_after(&user, machine, "ADD", 2, Some(first.id()));
        let third = input_after(&user, machine, "ADD", 3, Some(first.id()));
        let fourth = input(&user, machine, "ADD", 4);
        let now = world.ledger.tip().unwrap().time_ms - START + 1_000;
        let (outcomes, _) = world.head(now, &[&first, &second, &third, &fourth]);
        assert_eq!(outcomes, ["ok", "ok", "stale", without]);
    }
}

#[test]
fn a_done_machine_takes_nothing() {
    let mut world = World::new();
    let user = Keys::generate();
    let machine = world.definition(&user, "m", &counter());
    let (stop, add) = (input(&user, &machine, "STOP", 1), input(&user, &machine, "ADD", 2));
    assert_eq!(world.head(1_000, &[&machine, &stop, &add]).0, ["ok", "ok", "done"]);
    // It is ordered all the same: its sender is told so in the log.
    let late = input(&user, &machine, "ADD", 3);
    assert_eq!(world.ledger.judge(&late, START).unwrap(), None);
    assert_eq!(world.one(2_000, &late), "done");
}

#[test]
fn sources_reach_every_machine_that_listens() {
    let mut world = World::new();
    let (user, oracle, stranger) = (Keys::generate(), Keys::generate(), Keys::generate());
    let filter = format!(r#"{{"kinds":[1],"authors":["{}"]}}"#, oracle.public_key());
    let anything = format!(r#"{{"authors":["{}"]}}"#, oracle.public_key());
    let define = |world: &World, d: &str, filter: &str| {
        world.definition_with(&user, d, &counter(), Mode::Strict, &[["source", filter]])
    };
    let (a, b) = (define(&world, "a", &filter), define(&world, "b", &anything));
    let deaf = world.definition(&user, "deaf", &counter());
    world.head(1_000, &[&a, &b, &deaf]);
    let attested = event(&oracle, 1, vec![], "it rained", START);
    let other = event(&oracle, 2, vec![], "", START);
    let forged = event(&stranger, 1, vec![], "it rained", START);
    assert_eq!(world.ledger.judge(&forged, START).unwrap().unwrap().code(), "no_machine");
    assert_eq!(world.ledger.judge(&attested, START).unwrap(), None);
    let (outcomes, _) = world.head(2_000, &[&attested, &other, &forged]);
    assert_eq!(outcomes, ["ok", "unknown_event", "no_machine"]);
    for (machine, n) in [(&a, 10), (&b, 10), (&deaf, 0)] {
        assert_eq!(world.context(machine, "n"), n);
    }
    assert_eq!(world.one(3_000, &attested), "duplicate");
    // Who is done listens no more; the other still gets what it missed.
    assert_eq!(world.one(4_000, &input(&user, &a, "STOP", 1)), "ok");
    let second = event(&oracle, 1, vec![], "and again", START);
    assert_eq!(world.one(5_000, &second), "ok");
    assert_eq!(world.context(&a, "n"), 10);
    assert_eq!(world.context(&b, "n"), 20);
}

/// The index has four places for an event; a machine found in several takes it once, and the places are bounded.
#[test]
fn filters_are_indexed_by_kind_and_author() {
    let mut world = World::new();
    let (user, oracle) = (Keys::generate(), Keys::generate());
    let key = oracle.public_key();
    let twice = format!(r#"{{"kinds":[1],"authors":["{key}"]}}"#);
    let filters = [twice.clone(), r#"{"kinds":[1]}"#.into(), format!(r#"{{"authors":["{key}"]}}"#)];
    let tags: Vec<[&str; 2]> = filters.iter().map(|filter| ["source", filter.as_str()]).collect();
    let machine = world.definition_with(&user, "m", &counter(), Mode::Sequenced, &tags);
    world.head(1_000, &[&machine]);
    assert_eq!(world.one(2_000, &event(&oracle, 1, vec![], "x", START)), "ok");
    assert_eq!(world.context(&machine, "n"), 10);
    let pairs: Vec<String> = (0..65).map(|kind| kind.to_string()).collect();
    let wide = format!(r#"{{"kinds":[{}]}}"#, pairs.join(","));
    let wide = world.definition_with(&user, "w", &counter(), Mode::Sequenced, &[["source", &wide]]);
    assert_eq!(world.one(3_000, &wide), "bad_definition");
    // Those that crowd one place leave the others free.
    let crowd: Vec<_> = (0..SOURCE_MACHINES)
        .map(|n| {
            let d = format!("c{n}");
            world.definition_with(&user, &d, &counter(), Mode::Sequenced, &[["source", r#"{"kinds":[1]}"#]])
        })
        .collect();
    let (outcomes, _) = world.head(4_000, &crowd.iter().collect::<Vec<_>>());
    assert_eq!(outcomes.iter().filter(|word| *word == "quota").count(), 1);
    let free = world.definition_with(&user, "f", &counter(), Mode::Sequenced, &[["source", &twice]]);
    assert_eq!(world.one(5_000, &free), "ok");
}
