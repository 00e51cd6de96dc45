//! Who may start machines, and which.

use concordat_events::kinds::DEFINITION;
use concordat_events::{Admission, Mode};
use nostr::Keys;
use serde_json::json;

use super::world::*;

/// What the `input` tag says is `input` in the expressions of the initial context.
#[test]
fn a_definition_brings_its_input() {
    let mut world = World::new();
    let user = Keys::generate();
    let machine =
        json!({"id": "m", "initial": "a", "context": {"n": {"cel": "input.n + 1"}}, "states": {"a": {}}});
    let with = |d: &str, input: &str| {
        world.definition_with(&user, d, &machine, Mode::Sequenced, &[["input", input]])
    };
    let (good, none) = (with("a", r#"{"n":41}"#), world.definition(&user, "b", &machine));
    let (wrong, unreadable) = (with("c", r#"{"m":1}"#), with("d", "1.5"));
    let outcomes = world.head(0, &[&good, &none, &wrong, &unreadable]).0;
    assert_eq!(outcomes, ["ok", "assign_error", "assign_error", "bad_request"]);
    assert_eq!(world.context(&good, "n"), 42);
}

#[test]
fn a_definition_becomes_a_machine_once() {
    let mut world = World::new();
    let user = Keys::generate();
    let machine = world.definition(&user, "m", &counter());
    assert_eq!(world.ledger.judge(&machine, START).unwrap(), None);
    let (outcomes, signed) = world.heads(&[(1_000, &[&machine]), (1_000, &[&machine])]);
    assert_eq!(outcomes, ["ok", "duplicate"]);
    let snapshot = snapshots(&signed)[0];
    assert_eq!(snapshot.tag("d"), Some("m"));
    assert_eq!(snapshot.tag("e"), Some(machine.id().to_hex().as_str()));
    assert_eq!(snapshot.tag("transition"), None);
    assert_eq!(world.one(2_000, &machine), "duplicate");
    assert_eq!(world.ledger.judge(&machine, START).unwrap().unwrap().code(), "duplicate");
}

#[test]
fn a_taken_d_is_refused() {
    let mut world = World::new();
    let (first, second) = (Keys::generate(), Keys::generate());
    let machine = world.definition(&first, "m", &counter());
    let rival = world.definition(&second, "m", &counter());
    assert_eq!(world.head(1_000, &[&machine, &rival]).0, ["ok", "d_taken"]);
    assert_eq!(world.ledger.judge(&rival, START).unwrap().unwrap().code(), "d_taken");
    assert_eq!(world.ledger.find_by_d("m").unwrap(), Some(machine.id()));
}

#[test]
fn policy_of_the_genesis() {
    let (friend, stranger) = (Keys::generate(), Keys::generate());
    let allow = vec![friend.public_key()];
    let mut world = World::with(|genesis| {
        genesis.admission = Admission { allow, pow_bits: 0, machines_per_author: 2 };
    });
    let mut definition = |keys: &Keys, d: &str, ms| {
        let event = world.definition(keys, d, &counter());
        world.one(ms, &event)
    };
    assert_eq!(definition(&stranger, "s", 1_000), "not_allowed");
    assert_eq!(definition(&friend, "a", 1_000), "ok");
    assert_eq!(definition(&friend, "b", 2_000), "ok");
    assert_eq!(definition(&friend, "c", 3_000), "quota");
    // A machine that is done makes room.
    let done = world.definition(&friend, "a", &counter());
    let done = world.ledger.machine(&done.id()).unwrap().map(|view| view.id);
    assert!(done.is_some());
    let machine = world.definition(&friend, "a", &counter());
    assert_eq!(world.one(4_000, &input(&friend, &machine, "STOP", 1)), "ok");
    let third = world.definition(&friend, "c", &counter());
    assert_eq!(world.one(5_000, &third), "ok");
    let fourth = world.definition(&friend, "d", &counter());
    assert_eq!(world.one(6_000, &fourth), "quota");
}

#[test]
fn proof_of_work_is_counted_on_the_id() {
    let mut world = World::with(|genesis| genesis.admission.pow_bits = 5);
    let user = Keys::generate();
    let (mut weak, mut strong) = (None, None);
    for n in 0.. {
        let event = world.definition(&user, &format!("m{n}"), &counter());
        let bits = event.id().as_bytes()[0].leading_zeros();
        if bits >= 5 {
            strong = Some(event);
        } else if bits == 4 {
            weak = Some(event);
        }
        if weak.is_some() && strong.is_some() {
            break;
        }
    }
    assert_eq!(world.head(1_000, &[&weak.unwrap(), &strong.unwrap()]).0, ["pow", "ok"]);
}

#[test]
fn definitions_that_cannot_run_here() {
    let mut world = World::new();
    let user = Keys::generate();
    let act = |action: serde_json::Value| json!({"id": "x", "initial": "a", "states": {"a": {"on": {"GO": {"actions": action}}}}});
    let cases = [
        (world.definition(&user, "m", &json!({"states": 5})), "bad_definition"),
        (world.definition(&user, "m", &act(json!({"type": "format.disk"}))), "bad_definition"),
        (
            world.definition(&user, "m", &act(json!({"type": "start", "params": {"definition": "x"}}))),
            "bad_definition",
        ),
        (
            world.definition_with(&user, "m", &counter(), Mode::Sequenced, &[["engine", "concordat-wasm@9"]]),
            "engine",
        ),
        (
            world.definition_with(
                &user,
                "m",
                &counter(),
                Mode::Sequenced,
                &[["source", r#"{"search":"x"}"#]],
            ),
            "bad_definition",
        ),
        (world.definition_with(&user, "m", &counter(), Mode::Sequenced, &[["source", "{}"]]), "bad_request"),
        (event(&user, DEFINITION, vec![], "{}", START), "bad_request"),
        (
            event(
                &user,
                DEFINITION,
                vec![vec!["state".into(), format!("30078:{}:m", user.public_key())]],
                "{}",
                START,
            ),
            "not_for_us",
        ),
        (
            event(
                &user,
                DEFINITION,
                vec![vec!["state".into(), format!("30078:{}:m", world.group.public_key())]],
                &counter().to_string(),
                START + 20 * 60_000,
            ),
            "too_new",
        ),
    ];
    let root = world.ledger.tip().unwrap().head.state_root;
    for (n, (definition, expected)) in cases.iter().enumerate() {
        assert_eq!(world.one(1_000 + n as u64, definition), *expected, "case {n}");
        assert_eq!(world.ledger.machine(&definition.id()).unwrap(), None);
    }
    assert_eq!(world.ledger.tip().unwrap().head.state_root, root, "a rejection changes nothing");
}
