//! Any definition and any events: no panic, no endless loop, the same answer twice, and a state
//! that survives its own bytes.

use concordat_machine::run::check;
use concordat_machine::{Definition, Event, State};
use proptest::prelude::*;
use serde_json::{Map, Value, json};

const TYPES: [&str; 6] = ["a", "b", "p.q", "", "*", "xstate.init"];

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[a-z.#*]{0,6}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 4, |inner| {
        let key = prop::sample::select(vec![
            "id", "type", "initial", "states", "on", "always", "after", "entry", "exit", "onDone", "output",
            "history", "target", "context", "delays", "invoke", "guard", "actions", "params", "expr",
            "reenter", "x", "y", "cel", "1000",
        ]);
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((key, inner), 0..6)
                .prop_map(|m| json!(m.into_iter().collect::<std::collections::BTreeMap<_, _>>())),
        ]
    })
}

fn guard() -> impl Strategy<Value = Value> {
    prop::sample::select(vec![
        json!("isCreator"),
        json!({"type": "cel", "params": {"expr": "context.n < 5"}}),
        json!({"type": "cel", "params": {"expr": "event.data > 2"}}),
        json!({"type": "cel", "params": {"expr": "now % 2 == 0"}}),
        json!({"type": "not", "params": {"guard": "isExecutor"}}),
    ])
}

fn action() -> impl Strategy<Value = Value> {
    prop::sample::select(vec![
        json!({"type": "cel.assign", "params": {"n": "context.n + 1"}}),
        json!({"type": "cel.assign", "params": {"xs": "context.xs + context.xs + [event.data]"}}),
        json!({"type": "raise", "params": {"type": "a"}}),
        json!({"type": "raise", "params": {"type": "b", "data": {"cel": "context.n"}}}),
        json!({"type": "publish", "params": {"kind": 1, "content": {"cel": "string(context.n)"}}}),
        json!({"type": "send", "params": {"to": "m", "type": "hi", "data": {"cel": "context.xs"}}}),
        json!("assignExecutor"),
    ])
}

fn transition() -> impl Strategy<Value = Value> {
    let target = prop::sample::select(vec!["x", "y", "z", ".x", "#m", "#m.x", "#m.y.x", "#m.h"]);
    (
        prop::option::of(target),
        prop::option::of(guard()),
        prop::collection::vec(action(), 0..3),
        any::<bool>(),
    )
        .prop_map(|(target, guard, actions, reenter)| {
            let mut t = Map::new();
            t.extend(target.map(|v| ("target".to_owned(), json!(v))));
            t.extend(guard.map(|v| ("guard".to_owned(), v)));
            t.insert("actions".to_owned(), json!(actions));
            t.insert("reenter".to_owned(), json!(reenter));
            Value::Object(t)
        })
}

fn dressed(nested: Option<Value>) -> impl Strategy<Value = Value> {
    let on =
        prop::collection::btree_map(prop::sample::select(vec!["a", "b", "p.*", "*"]), transition(), 0..3);
    let after = prop::collection::btree_map(prop::sample::select(vec!["0", "10", "d"]), transition(), 0..2);
    (on, after, prop::option::weighted(0.2, transition()), prop::collection::vec(action(), 0..2)).prop_map(
        move |(on, after, always, entry)| {
            let mut s = Map::new();
            s.insert("on".to_owned(), json!(on));
            s.insert("after".to_owned(), json!(after));
            s.insert("entry".to_owned(), json!(entry));
            s.extend(always.map(|v| ("always".to_owned(), v)));
            if let Some(Value::Object(nested)) = &nested {
                s.extend(nested.clone());
            }
            Value::Object(s)
        },
    )
}

/// A definition that is often admitted: three states, one of them with states of its own.
fn definition() -> impl Strategy<Value = Value> {
    let inner = (dressed(None), dressed(None)).prop_map(|(x, y)| (x, y));
    (inner, any::<bool>(), dressed(None), any::<bool>())
        .prop_flat_map(|((ix, iy), parallel, x, root_parallel)| {
            let states = json!({"x": ix, "y": iy});
            let y = if parallel {
                json!({"type": "parallel", "states": states})
            } else {
                json!({"initial": "x", "states": states})
            };
            (dressed(Some(y)), Just(x), Just(root_parallel))
        })
        .prop_map(|(y, x, root_parallel)| {
            let mut states =
                json!({"x": x, "y": y, "z": {"type": "final"}, "h": {"type": "history", "history": "deep"}});
            let mut root = json!({"id": "m", "context": {"n": 0, "xs": [1], "executorPubKey": null},
                "delays": {"d": {"cel": "context.n * 100"}}});
            if root_parallel {
                root["type"] = json!("parallel");
                states.as_object_mut().unwrap().remove("z");
            } else {
                root["initial"] = json!("x");
            }
            root["states"] = states;
            root
        })
}

fn run(definition: &Definition, events: &[(usize, i64, u64)]) -> Vec<(Vec<u8>, String)> {
    let mut log = Vec::new();
    let Ok(step) = definition.start(0, Some("cc")) else {
        return log;
    };
    let (mut state, mut now) = (step.state, 0);
    for (kind, data, wait) in events {
        now += wait;
        for _ in 0..5 {
            match definition.fire_due(&state, now) {
                Ok(Some(fired)) => {
                    // Used up or set anew by its own step: the same timer is never due in the past.
                    let before = state.timers().len();
                    state = fired.step.state;
                    assert!(fired.rejection.is_none() || state.timers().len() == before - 1);
                }
                Ok(None) => break,
                Err(e) => panic!("a state of this definition is refused: {e}"),
            }
        }
        let event = Event::new(TYPES[kind % TYPES.len()]).with_data(json!(data)).by("cc");
        let before = state.canonical_bytes();
        let outcome = definition.send(&state, &event, now);
        // Whatever became of it, what was there is as it was.
        assert_eq!(state.canonical_bytes(), before);
        let code =
            outcome.as_ref().map_or_else(|r| r.reason.code().to_owned(), |s| format!("{:?}", s.effects));
        if let Ok(step) = outcome {
            state = step.state;
        }
        let bytes = state.canonical_bytes();
        let read = State::from_bytes(&bytes).unwrap();
        assert_eq!(read, state);
        assert_eq!(read.canonical_bytes(), bytes);
        assert!(state.snapshot_bytes().len() <= concordat_machine::limits::SNAPSHOT_BYTES);
        log.push((bytes, code));
    }
    log
}

/// Each thread reads the definition anew, with maps that hash otherwise.
#[test]
fn every_thread_gives_the_same_bytes() {
    let text = include_str!("../../../../docs/machines/bet.json");
    let story = || {
        let bet = Definition::parse(text).unwrap();
        let signer = |n: u8| format!("{n:0>64}");
        let mut state = bet.start(1_799_990_000_000, Some("cc")).unwrap().state;
        let mut bytes = state.canonical_bytes();
        for (n, ms) in [(1, 1), (9, 2), (2, 3)] {
            let event = Event::new("LOAD").with_data(json!({"deposit": "x"})).by(signer(n));
            match bet.send(&state, &event, 1_799_990_000_000 + ms) {
                Ok(step) => state = step.state,
                Err(rejection) => bytes.extend(rejection.reason.code().bytes()),
            }
            bytes.extend(state.canonical_bytes());
        }
        bytes
    };
    let expected = story();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(story)).collect();
        for thread in threads {
            assert_eq!(thread.join().unwrap(), expected);
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_document_is_admitted_or_refused(doc in any_json()) {
        let text = doc.to_string();
        prop_assert_eq!(check(&text).ok, Definition::parse(&text).is_ok());
        if let Ok(definition) = Definition::parse(&text) {
            run(&definition, &[(0, 1, 0), (1, 2, 2000)]);
        }
    }

    #[test]
    fn steps_are_bounded_repeatable_and_survive_their_bytes(
        doc in definition(),
        events in prop::collection::vec((0..6_usize, 0..5_i64, 0..300_u64), 1..8),
    ) {
        if let Ok(definition) = Definition::parse(&doc.to_string()) {
            let once = run(&definition, &events);
            let again = Definition::parse(&doc.to_string()).unwrap();
            prop_assert_eq!(once, run(&again, &events));
        }
    }

    #[test]
    fn any_text_is_refused_with_a_fault(text in "[\\[\\]{}\",:a-z0-9.]{0,60}") {
        let checked = check(&text);
        prop_assert_eq!(checked.ok, checked.errors.is_empty());
    }

    #[test]
    fn a_state_from_elsewhere_is_refused_not_run(doc in any_json(), timer in any::<u64>()) {
        let definition = Definition::parse(r#"{"initial":"a","states":{"a":{"after":{"5":"b"}},"b":{}}}"#).unwrap();
        let plain = json!({"status": "active", "value": "b", "historyValue": {}, "context": {}, "children": {}});
        let mut odd = plain.clone();
        odd["value"] = doc.clone();
        // Not a snapshot at all; one of no configuration; one that a timer of another state doesn't fit.
        for snapshot in [doc, odd, plain] {
        let forged = json!({"snapshot": snapshot, "timers": [{"id": "xstate.after.5.(machine).a", "due_ms": timer}], "order": ["(machine)", "(machine).b"]});
        if let Ok(state) = serde_json::from_value::<State>(forged) {
            let refused = definition.send(&state, &Event::new("x"), 0).unwrap_err();
            prop_assert_eq!(refused.reason.code(), "bad_state");
        }
        }
    }
}
