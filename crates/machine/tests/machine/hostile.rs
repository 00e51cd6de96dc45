//! Definitions that try to be expensive: each ends in a clear rejection within the limits' step count,
//! and what was there stays byte for byte.

use concordat_machine::{Definition, Event, Reason, Rejection, State, limits};
use serde_json::{Map, Value, json};

fn cel(expr: &str) -> Value {
    json!({"type": "cel", "params": {"expr": expr}})
}

fn assign(name: &str, expr: &str) -> Value {
    json!({"type": "cel.assign", "params": {name: expr}})
}

fn raise(kind: &str) -> Value {
    json!({"type": "raise", "params": {"type": kind}})
}

/// Runs `GO` on a definition that starts; twice, for the same answer.
fn go(definition: &Value) -> Rejection {
    let definition = Definition::parse(&definition.to_string()).unwrap_or_else(|f| panic!("{f:?}"));
    let state = definition.start(0, None).unwrap_or_else(|r| panic!("the start: {r}")).state;
    let before = state.canonical_bytes();
    let data = json!((0..500).collect::<Vec<_>>());
    let event = Event::new("GO").with_data(data);
    let first = definition.send(&state, &event, 1).map(|s| s.state.canonical_bytes()).unwrap_err();
    assert_eq!(definition.send(&state, &event, 1).unwrap_err(), first);
    assert_eq!(state.canonical_bytes(), before);
    // And it goes on as if nothing had been.
    let read = State::from_bytes(&before).unwrap();
    let next = definition.send(&read, &Event::new("NOTHING"), 1).unwrap_err().reason;
    assert!(matches!(next, Reason::UnknownEvent | Reason::GuardFalse));
    first
}

fn regions(n: usize, state: &Value) -> Map<String, Value> {
    (0..n).map(|i| (format!("r{i}"), state.clone())).collect()
}

fn nested(depth: usize, inner: Value) -> Value {
    (1..depth).fold(inner, |inner, i| {
        let mut states = Map::new();
        states.insert(format!("s{i}"), inner);
        json!({"initial": format!("s{i}"), "states": states})
    })
}

/// Whatever stands in a definition, what is said about it is short.
#[test]
fn faults_quote_a_little_of_what_is_wrong() {
    let long = "\u{1f98a}".repeat(10_000);
    let deep = (0..40).fold(json!(1.5), |inner, _| json!({ "\u{1f98a}".repeat(300): inner }));
    let a = |state: Value| json!({"initial": "a", "states": {"a": state}});
    for definition in [
        a(json!({"type": long})),
        a(json!({"entry": long})),
        a(json!({"entry": {"type": "records.put", "params": {"record": long, "key": "k"}}})),
        a(json!({"always": {"guard": long}})),
        a(json!({"on": {"GO": long}})),
        a(json!({"on": {"GO": format!("#{long}")}})),
        a(json!({"on": {"GO": format!("#(machine).{long}")}})),
        a(json!({"always": {"guard": {"type": "cel", "params": {"expr": long}}}})),
        a(
            json!({"always": {"guard": {"type": "cel", "params": {"expr": format!("{}(1)", "x".repeat(1_000))}}}}),
        ),
        json!({"initial": "a", "states": {"a": {}}, "on": {"GO": long}}),
        json!({"initial": long, "states": {"a": {}}}),
        json!({"initial": "a", "context": deep, "states": {"a": {}}}),
    ] {
        let faults = Definition::parse(&definition.to_string()).unwrap_err();
        for fault in faults {
            assert!(fault.message.len() < 2_200, "{} bytes: {fault}", fault.message.len());
            assert!(fault.path.len() < 2_200, "{} bytes: {fault}", fault.path.len());
        }
    }
    let twice = format!("{{\"{long}\":1,\"{long}\":2}}");
    let faults = Definition::parse(&twice).unwrap_err();
    assert!(faults.iter().all(|fault| fault.message.len() < 1_000), "{faults:?}");
}

#[test]
fn loops_end_at_the_limit_of_microsteps() {
    let always = |a: Value, b: Value| {
        json!({"context": {"n": 0}, "initial": "off", "states": {
            "off": {"on": {"GO": "a"}}, "a": {"always": a}, "b": {"always": b}}})
    };
    for definition in [
        // There and back.
        always(json!("b"), json!("a")),
        // In place, by changing something each time.
        always(json!({"actions": assign("n", "context.n + 1")}), json!("a")),
        // By being done again and again.
        json!({"initial": "off", "states": {"off": {"on": {"GO": "a"}},
            "a": {"initial": "f", "states": {"f": {"type": "final"}}, "onDone": {"target": "a", "reenter": true}}}}),
        // By raised events: one for one, two for one, and from exits and entries.
        json!({"on": {"GO": {"actions": raise("GO")}}}),
        json!({"on": {"GO": {"actions": [raise("GO"), raise("GO")]}}}),
        json!({"initial": "off", "states": {"off": {"on": {"GO": "a"}},
            "a": {"entry": raise("X"), "exit": raise("X"), "on": {"X": {"target": "a", "reenter": true}}}}}),
        // By a wildcard that takes what it raises.
        json!({"on": {"*": {"guard": cel("event.type != 'NOTHING'"), "actions": raise("Y")}}, "initial": "a", "states": {"a": {}}}),
        // Through a history.
        json!({"initial": "off", "states": {"off": {"on": {"GO": "p.h"}},
            "p": {"initial": "x", "always": "q", "states": {"x": {}, "h": {"type": "history", "history": "deep"}}},
            "q": {"always": "p.h"}}}),
    ] {
        let rejection = go(&definition);
        assert_eq!(rejection.reason, Reason::StepLimit, "{definition}: {rejection}");
    }
}

#[test]
fn wide_and_deep_definitions_pay_for_their_size() {
    let wide = limits::STATES - 2;
    // Every region moves at every raised event.
    let busy = json!({"on": {"GO": {"target": "#p", "reenter": true, "actions": raise("GO")}}});
    let rejection = go(&json!({"id": "p", "type": "parallel", "states": regions(wide, &busy)}));
    assert!(matches!(rejection.reason, Reason::StepLimit | Reason::GuardCost), "{rejection}");
    // Every region asks a guard for every event, each over the whole context.
    let guarded = json!({"always": {"guard": cel("event.type == 'GO' && context.xs.all(x, x < 5000)"),
        "actions": assign("n", "context.n + 1")}});
    let rejection = go(
        &json!({"type": "parallel", "context": {"n": 0, "xs": (0..200).collect::<Vec<_>>()}, "states": regions(wide, &guarded)}),
    );
    assert_eq!(rejection.reason, Reason::GuardCost, "{rejection}");
    // As deep as may be, left and entered whole each time.
    let leaf =
        json!({"always": {"target": "#top", "reenter": true, "actions": assign("n", "context.n + 1")}});
    let mut top = nested(limits::STATE_DEPTH, leaf);
    top["id"] = json!("top");
    let rejection = go(
        &json!({"context": {"n": 0}, "initial": "off", "states": {"off": {"on": {"GO": "top"}}, "top": top}}),
    );
    assert_eq!(rejection.reason, Reason::StepLimit, "{rejection}");
}

#[test]
fn expressions_pay_for_what_they_walk_and_make() {
    let with = |actions: Value| json!({"context": {"s": "x".repeat(2000), "xs": [], "n": 0}, "on": {"GO": {"actions": actions}}});
    for (actions, reasons) in [
        (
            json!(assign(
                "n",
                "event.data.filter(a, event.data.exists(b, event.data.exists(c, a + b + c < 0))).size()"
            )),
            vec![Reason::GuardCost],
        ),
        (json!(vec![assign("s", "context.s + context.s"); 20]), vec![Reason::TooLarge, Reason::GuardCost]),
        (
            json!(vec![assign("xs", "[context.xs, context.xs, context.s]"); 40]),
            vec![Reason::TooLarge, Reason::GuardCost, Reason::AssignError],
        ),
        (json!(assign("xs", "event.data.map(a, event.data)")), vec![Reason::GuardCost]),
        (json!(assign("n", "event.data.distinct().size()")), vec![Reason::GuardCost]),
        (json!(assign("xs", "event.data.map(a, hex.encode(sha256(context.s)))")), vec![Reason::GuardCost]),
        (
            json!(vec![
                assign("n", "event.data.count(a, schnorr.verify(context.s, context.s, context.s))");
                1
            ]),
            vec![Reason::AssignError],
        ),
        (
            json!({"type": "publish", "params": {"kind": 1, "tags": vec![json!({"cel": "event.data.map(a, context.s)"}); 4]}}),
            vec![Reason::GuardCost, Reason::TooLarge],
        ),
    ] {
        let rejection = go(&with(actions.clone()));
        assert!(reasons.contains(&rejection.reason), "{actions}: {rejection}");
    }
    let verify = format!("event.data.all(a, !schnorr.verify('{0}', '{0}', '{0}{0}'))", "5".repeat(64));
    let rejection = go(&json!({"on": {"GO": {"guard": cel(&verify)}}}));
    assert_eq!(rejection.reason, Reason::GuardCost);
}

#[test]
fn records_pay_for_their_changes() {
    let put = |n: usize| json!({"type": "records.put", "params": {"record": "r", "key": format!("k{n}"), "value": n}});
    let with = |actions: Vec<Value>| json!({"records": {"r": {}}, "on": {"GO": {"actions": actions}}});
    let rejection = go(&with((0..=limits::RECORD_CHANGES).map(put).collect()));
    assert_eq!(rejection.reason, Reason::GuardCost, "{rejection}");
    let rejection = go(&with(vec![put(0); 200]));
    assert_eq!(rejection.reason, Reason::GuardCost, "{rejection}");
    let long = json!({"type": "records.put", "params": {"record": "r", "key": "x".repeat(limits::RECORD_KEY_BYTES + 1)}});
    assert_eq!(go(&with(vec![long])).reason, Reason::RecordError);
    let large = json!({"type": "records.put", "params": {"record": "r", "key": "k", "value": {"cel": "event.data.map(a, [a, a])"}}});
    assert_eq!(go(&with(vec![large])).reason, Reason::RecordError);
}

#[test]
fn what_is_too_large_is_refused_before_it_runs() {
    for definition in [
        nested(limits::STATE_DEPTH + 2, json!({})),
        json!({"type": "parallel", "states": regions(limits::STATES, &json!({}))}),
        json!({"on": {"GO": vec![json!({}); limits::TRANSITIONS + 1]}}),
        json!({"on": {"GO": {"guard": cel(&"(".repeat(500))}}}),
        json!({"on": {"GO": {"guard": cel(&format!("{}1 == 1", "1+".repeat(90)))}}}),
        json!({"on": {"GO": {"guard": cel(&format!("event.data{}", ".map(a, a)".repeat(60)))}}}),
        json!({"on": {"GO": {"guard": (0..60).fold(json!("isOracle"), |g, _| json!({"type": "not", "params": {"guard": g}}))}}}),
        json!({"records": regions(limits::RECORDS + 1, &json!({}))}),
        json!({"id": "x".repeat(limits::NAME_BYTES + 1)}),
    ] {
        let faults = Definition::parse(&definition.to_string()).unwrap_err();
        assert!(!faults.is_empty() && faults.len() <= limits::FAULTS);
    }
    let timers = regions(limits::TIMERS + 1, &json!({"after": {"10": {}}}));
    let definition = Definition::parse(&json!({"type": "parallel", "states": timers}).to_string()).unwrap();
    assert_eq!(definition.start(0, None).unwrap_err().reason, Reason::StepLimit);
}
