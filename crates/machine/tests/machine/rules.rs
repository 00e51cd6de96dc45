//! The engine's own rules: reasons, timers, limits, effects, the offline runner, the bet.

use concordat_machine::run::{Line, Row, Runner, seconds_to_ms};
use concordat_machine::{Definition, Effect, Event, Reason, State, limits};
use serde_json::{Value, json};

fn definition(json: &Value) -> Definition {
    Definition::parse(&json.to_string()).unwrap_or_else(|f| panic!("{f:?}"))
}

fn started(json: &Value) -> (Definition, State) {
    let definition = definition(json);
    let state = definition.start(0, None).unwrap().state;
    (definition, state)
}

fn cel(expr: &str) -> Value {
    json!({"type": "cel", "params": {"expr": expr}})
}

fn assign(name: &str, expr: &str) -> Value {
    json!({"type": "cel.assign", "params": {name: expr}})
}

#[test]
fn each_rejection_has_its_reason_and_changes_nothing() {
    let (machine, state) = started(&json!({
        "context": {"n": 9_007_199_254_740_991_i64, "xs": (0..1000).collect::<Vec<_>>(), "s": "x".repeat(9000)},
        "initial": "a",
        "states": {"a": {"on": {
            "FALSE": {"guard": cel("false")},
            "MISSING": {"guard": cel("event.data.missing")},
            "NOT_BOOL": {"guard": cel("context.n")},
            "COST": {"guard": cel("context.xs.all(a, context.xs.exists(b, a == b))")},
            "OVER": {"actions": assign("n", "context.n + 1")},
            // The integer whose absolute value is none.
            "LEAST": {"actions": assign("n", "int('-9223372036854775808')")},
            "BIG": {"actions": [assign("t", "context.s + 'a'"), assign("u", "context.s + 'b'"), assign("v", "context.s + 'c'")]},
            "LOOP": {"actions": {"type": "raise", "params": {"type": "LOOP"}}},
            "FLOOD": {"actions": (0..=limits::EFFECTS).map(|_| json!({"type": "publish", "params": {"kind": 1}})).collect::<Vec<_>>()},
            "KIND": {"actions": {"type": "publish", "params": {"kind": 65536}}},
            "TO": {"actions": {"type": "send", "params": {"to": {"cel": "context.n"}, "type": "X"}}},
            "EXEC": {"actions": "assignExecutor"},
            "LATE": "t", "END": "z", "OUT": "y"
        }}, "t": {"after": {"d": "a"}}, "z": {"type": "final"},
        "y": {"initial": "f", "states": {"f": {"type": "final", "output": {"cel": "event.data.x"}}}}},
        "delays": {"d": {"cel": "context.n"}},
    }));
    for (kind, reason) in [
        ("NO", Reason::UnknownEvent),
        ("FALSE", Reason::GuardFalse),
        ("MISSING", Reason::GuardError),
        ("NOT_BOOL", Reason::GuardError),
        ("COST", Reason::GuardCost),
        ("OVER", Reason::AssignError),
        ("LEAST", Reason::AssignError),
        ("BIG", Reason::TooLarge),
        ("LOOP", Reason::StepLimit),
        ("FLOOD", Reason::StepLimit),
        ("KIND", Reason::EffectError),
        ("TO", Reason::EffectError),
        ("EXEC", Reason::AssignError),
        ("LATE", Reason::TimerError),
        ("OUT", Reason::OutputError),
        ("xstate.after.d.(machine).t", Reason::BadEvent),
        ("", Reason::BadEvent),
        ("*", Reason::BadEvent),
    ] {
        let before = state.canonical_bytes();
        let rejection = machine.send(&state, &Event::new(kind), 5).unwrap_err();
        assert_eq!(rejection.reason, reason, "{kind}: {rejection}");
        assert_eq!(state.canonical_bytes(), before);
    }
    for data in [json!(1.5), json!({"a": [9_007_199_254_740_992_i64]}), json!(u64::MAX)] {
        let event = Event::new("END").with_data(data);
        assert_eq!(machine.send(&state, &event, 5).unwrap_err().reason, Reason::BadEvent);
    }
    let done = machine.send(&state, &Event::new("END"), 5).unwrap().state;
    assert!(done.is_done());
    assert_eq!(machine.send(&done, &Event::new("END"), 6).unwrap_err().reason, Reason::Done);
}

#[test]
fn cycles_end() {
    let cycle = definition(&json!({"initial": "a", "states": {"a": {"always": "b"}, "b": {"always": "a"}}}));
    assert_eq!(cycle.start(0, None).unwrap_err().reason, Reason::StepLimit);
    let grows = definition(
        &json!({"context": {"xs": [1]}, "always": {"actions": assign("xs", "[context.xs, context.xs]")}}),
    );
    assert!(grows.start(0, None).is_err());
}

#[test]
fn many_guards_on_many_states_are_bounded() {
    let regions: serde_json::Map<String, Value> = (0..200).map(|i| (format!("r{i}"), json!({}))).collect();
    let guards: Vec<_> = (0..600).map(|_| json!({"guard": "isOracle", "target": ".r1"})).collect();
    let machine = definition(&json!({"type": "parallel", "states": regions, "always": guards}));
    assert_eq!(machine.start(0, None).unwrap_err().reason, Reason::GuardCost);
}

#[test]
fn all_expressions_of_a_step_share_a_budget() {
    let walk = "context.xs.all(x, x < 5000)";
    let run = |n: usize| {
        let actions: Vec<_> = (0..n).map(|_| assign("ok", walk)).collect();
        let machine =
            definition(&json!({"context": {"xs": (0..1000).collect::<Vec<_>>()}, "entry": actions}));
        machine.start(0, None).map(|_| ()).map_err(|r| r.reason)
    };
    assert_eq!(run(10), Ok(()));
    assert_eq!(run(60), Err(Reason::GuardCost));
}

#[test]
fn a_timer_is_used_up_whatever_its_guard_says() {
    for (guard, reason) in [
        ("false", Reason::GuardFalse),
        ("event.data.x", Reason::GuardError),
        ("context.n", Reason::GuardError),
    ] {
        let (machine, state) = started(&json!({"context": {"n": 1}, "initial": "a", "states": {
            "a": {"after": {"10": {"target": "b", "guard": cel(guard)}, "20": "b"}}, "b": {}}}));
        assert_eq!(state.next_due_ms(), Some(10));
        assert!(machine.fire_due(&state, 9).unwrap().is_none());
        let fired = machine.fire_due(&state, 10).unwrap().unwrap();
        assert_eq!(fired.rejection.unwrap().reason, reason);
        assert_eq!(fired.step.state.snapshot(), state.snapshot());
        assert_eq!(fired.step.state.next_due_ms(), Some(20));
        let fired = machine.fire_due(&fired.step.state, 25).unwrap().unwrap();
        assert_eq!(machine.active(&fired.step.state), ["(machine).b"]);
        assert!(fired.step.state.timers().is_empty());
    }
}

#[test]
fn firing_what_is_due_ends() {
    for delay in ["0", "-5", "context.n"] {
        let (machine, mut state) =
            started(&json!({"context": {"n": -9}, "initial": "a", "delays": {"d": {"cel": delay}},
            "states": {"a": {"after": {"d": {"target": "a", "reenter": true}}}}}));
        for now in [1, 2, 50] {
            let mut fired = 0;
            while let Some(next) = machine.fire_due(&state, now).unwrap() {
                state = next.step.state;
                fired += 1;
                assert!(fired < 3);
            }
            assert_eq!((fired, state.next_due_ms()), (1, Some(now + 1)));
        }
    }
}

#[test]
fn timers_fire_by_time_then_document_order() {
    let (machine, mut state) = started(&json!({"type": "parallel", "context": {"log": ""}, "states": {
        "b": {"after": {"20": {"actions": assign("log", "context.log + 'b20 '")}, "10": {"actions": assign("log", "context.log + 'b10 '")}}},
        "a": {"after": {"10": {"actions": assign("log", "context.log + 'a10 '")}, "5": {"actions": assign("log", "context.log + 'a5 '")}}},
        "2": {"after": {"10": {"actions": assign("log", "context.log + '2 '")}}},
    }}));
    while let Some(fired) = machine.fire_due(&state, 100).unwrap() {
        state = fired.step.state;
    }
    // `to_string` sorts the keys of this test's JSON: 2, a, b.
    assert_eq!(state.snapshot()["context"]["log"], "a5 2 a10 b10 b20 ");
}

#[test]
fn states_are_ordered_as_javascript_lists_their_keys() {
    let entry =
        |s: &str| format!(r#"{{"entry":{{"type":"publish","params":{{"kind":1,"content":"{s}"}}}}}}"#);
    let text = format!(
        r#"{{"type":"parallel","states":{{"b":{},"10":{},"2":{},"01":{},"a":{}}}}}"#,
        entry("b"),
        entry("10"),
        entry("2"),
        entry("01"),
        entry("a")
    );
    let step = Definition::parse(&text).unwrap().start(0, None).unwrap();
    let order: Vec<_> = step
        .effects
        .iter()
        .map(|e| match e {
            Effect::Publish { content, .. } => content.as_str(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(order, ["2", "10", "b", "01", "a"]);
}

#[test]
fn effects_come_out_as_data_in_order() {
    let (machine, state) = started(
        &json!({"context": {"n": 7}, "initial": "a", "states": {"a": {"on": {"GO": {"actions": [
            {"type": "publish", "params": {"kind": 1, "content": {"n": {"cel": "context.n"}, "b": "x"}, "tags": [["p", {"cel": "event.pubkey"}]]}},
            {"type": "cel.assign", "params": {"n": "context.n + 1"}},
            {"type": "send", "params": {"to": "m2", "type": "HI", "data": {"cel": "[context.n, event.created_at, now]"}}},
            {"type": "start", "params": {"definition": {"cel": "event.id"}, "input": {"n": {"cel": "context.n"}}}},
        ]}}}}}),
    );
    let event = Event { id: Some("e1".into()), created_at: Some(9), ..Event::new("GO").by("aa") };
    let step = machine.send(&state, &event, 12_999).unwrap();
    assert_eq!(
        step.effects,
        [
            Effect::Publish {
                kind: 1,
                content: r#"{"b":"x","n":7}"#.into(),
                tags: vec![vec!["p".into(), "aa".into()]]
            },
            Effect::Send { to: "m2".into(), kind: "HI".into(), data: json!([8, 9, 12]) },
            Effect::Start { definition: "e1".into(), input: json!({"n": 8}) },
        ]
    );
    let written = serde_json::to_value(&step.effects).unwrap();
    assert_eq!(serde_json::from_value::<Vec<Effect>>(written).unwrap(), step.effects);
}

#[test]
fn nobody_has_no_role() {
    let guards = ["isCreator", "isNotCreator", "isExecutor", "isReceiver", "isCreatorOrExecutor", "isOracle"];
    let on: serde_json::Map<String, Value> =
        guards.iter().map(|g| ((*g).to_owned(), json!({"guard": g}))).collect();
    let machine = definition(
        &json!({"context": {"executorPubKey": "ee", "receiverPubKey": "rr", "oraclePubKey": "oo"}, "on": on}),
    );
    let state = machine.start(0, Some("cc")).unwrap().state;
    let passes = |who: Option<&str>| -> Vec<&str> {
        guards
            .into_iter()
            .filter(|g| {
                let event = Event { pubkey: who.map(str::to_owned), ..Event::new(*g) };
                machine.send(&state, &event, 0).is_ok()
            })
            .collect()
    };
    assert_eq!(passes(None), [""; 0]);
    assert_eq!(passes(Some("cc")), ["isCreator", "isCreatorOrExecutor"]);
    assert_eq!(passes(Some("ee")), ["isNotCreator", "isExecutor", "isCreatorOrExecutor"]);
    assert_eq!(passes(Some("rr")), ["isNotCreator", "isReceiver"]);
    assert_eq!(passes(Some("oo")), ["isNotCreator", "isOracle"]);
}

#[test]
fn the_bytes_of_a_state_are_pinned() {
    let (machine, _) = started(&json!({"id": "m", "context": {"z": 1, "a": "\u{e9}"}, "initial": "x",
        "states": {"x": {"after": {"1000": "y"}}, "y": {}}}));
    let state = machine.start(500, Some("cc")).unwrap().state;
    assert_eq!(
        String::from_utf8(state.canonical_bytes()).unwrap(),
        "{\"creator\":\"cc\",\"order\":[\"m\",\"m.x\"],\"snapshot\":{\"children\":{},\"context\":{\"a\":\"\u{e9}\",\"z\":1},\
         \"historyValue\":{},\"status\":\"active\",\"value\":\"x\"},\"timers\":[{\"due_ms\":1500,\"id\":\"xstate.after.1000.m.x\"}]}"
    );
}

#[test]
fn seconds_may_have_a_fraction() {
    assert_eq!(seconds_to_ms("12"), Ok(12_000));
    assert_eq!(seconds_to_ms("12.5"), Ok(12_500));
    assert_eq!(seconds_to_ms("0.0019"), Ok(1));
    for bad in ["", ".", "1.", ".5", "-1", "1e3", "x", "99999999999999999999", "9007199254741"] {
        assert!(seconds_to_ms(bad).is_err(), "{bad}");
    }
}

const BET: &str = include_str!("../../../../docs/machines/bet.json");

fn bet(name: &str, script: &str) -> Vec<Row> {
    bet_of(BET, name, script)
}

fn bet_of(text: &str, name: &str, script: &str) -> Vec<Row> {
    let definition = Definition::parse(text).unwrap_or_else(|f| panic!("{f:?}"));
    let (mut runner, first) = Runner::start(definition, 1_799_990_000_000, None, &Value::Null).unwrap();
    let mut rows = vec![first];
    for line in script.lines().map(str::trim).filter(|l| !l.is_empty()) {
        let key = |n: &str| format!("{n:0>64}");
        let mut words = line.split(' ');
        let (now, who, kind) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap());
        let data = match words.next() {
            Some(n) if kind == "LOAD" => json!({"deposit": n}),
            Some("draw") => json!({"winner": "draw"}),
            Some(n) => json!({"winner": key(n)}),
            None => Value::Null,
        };
        let line = json!({"type": kind, "data": data, "pubkey": key(who), "now": 1_800_000_000_i64 + now.parse::<i64>().unwrap()});
        rows.extend(runner.line(Line::parse(&line.to_string()).unwrap()));
    }
    let last = rows.last().unwrap();
    assert_eq!(last.active, [format!("bet.{name}")], "{rows:#?}");
    rows
}

fn payouts(rows: &[Row]) -> (String, Vec<String>) {
    let output = &rows.last().unwrap().snapshot["output"];
    let to = output["payouts"].as_array().unwrap().iter().map(|p| {
        format!("{}>{}", p["deposit"].as_str().unwrap(), p["to"].as_str().unwrap().trim_start_matches('0'))
    });
    (output["outcome"].as_str().unwrap().to_owned(), to.collect())
}

#[test]
fn bet_stories() {
    let both = "-900 1 LOAD tokA\n-800 2 LOAD tokB\n";
    let rows = bet("finished", &format!("{both}10 3 RESULT 2\n4000 1 DISPUTE"));
    assert_eq!(payouts(&rows), ("won".into(), vec!["tokA>2".into(), "tokB>2".into()]));
    // start, two loads, match time fires, result, window fires, the late dispute.
    let events: Vec<_> = rows.iter().map(|r| (r.event.as_deref(), r.reason.as_deref())).collect();
    assert_eq!(
        events,
        [
            (None, None),
            (Some("LOAD"), None),
            (Some("LOAD"), None),
            (Some("xstate.after.matchTime.bet.loaded"), None),
            (Some("RESULT"), None),
            (Some("xstate.after.disputeWindow.bet.decided"), None),
            (Some("DISPUTE"), Some("done")),
        ]
    );
    let ruled = bet("finished", &format!("{both}10 3 RESULT 2\n20 1 DISPUTE\n30 3 RULING 2\n40 4 RULING 1"));
    assert_eq!(payouts(&ruled).1, ["tokA>1", "tokB>1"]);
    let silent = bet("finished", &format!("{both}10 3 RESULT draw\n20 1 DISPUTE\n999999 1 NUDGE"));
    assert_eq!(payouts(&silent), ("draw".into(), vec!["tokA>1".into(), "tokB>2".into()]));
    assert_eq!(payouts(&bet("refunded", &format!("{both}86400 9 NUDGE"))).1, ["tokA>1", "tokB>2"]);
    assert_eq!(payouts(&bet("cancelled", "-900 1 LOAD tokA\n0 2 LOAD tokB")).1, ["tokA>1"]);
    assert_eq!(
        payouts(&bet("cancelled", &format!("{both}5 1 CANCEL\n6 1 CANCEL\n7 2 CANCEL"))).0,
        "cancelled"
    );
    // An oracle that says two things disputes itself, and its word no longer stands if the arbiters are silent.
    let twice = bet("disputed", &format!("{both}10 3 RESULT 2\n20 3 RESULT 2\n30 3 RESULT 1"));
    assert_eq!(twice.last().unwrap().snapshot["context"]["proof"].as_array().unwrap().len(), 2);
    let refunded = bet("refunded", &format!("{both}10 3 RESULT 2\n30 3 RESULT 1\n999999 1 NUDGE"));
    assert_eq!(payouts(&refunded), ("refunded".into(), vec!["tokA>1".into(), "tokB>2".into()]));
    // Strangers, second loads, the oracle too early and one bettor's cancel move nothing.
    let rows = bet(
        "loaded",
        &format!("{both}-700 1 LOAD tokC\n-600 9 CANCEL\n-500 3 RESULT 1\n-400 1 CANCEL\n-300 1 CANCEL"),
    );
    let reasons: Vec<_> = rows.iter().filter_map(|r| r.reason.as_deref()).collect();
    assert_eq!(reasons, ["unknown_event", "guard_false", "unknown_event", "guard_false"]);
}

#[test]
fn k_of_m_oracles_and_arbiters_decide() {
    // Oracles 3, 5, 6, of which two; arbiters 4, 7, 8, of which two.
    let key = |n: u8| format!("\"{n:0>64}\"");
    let panel = |text: &str, first: u8, more: [u8; 2]| {
        text.replacen(&key(first), &format!("{}, {}, {}", key(first), key(more[0]), key(more[1])), 1)
    };
    let text = panel(&panel(BET, 3, [5, 6]), 4, [7, 8]).replace("_quorum\": 1", "_quorum\": 2");
    let both = "-900 1 LOAD tokA\n-800 2 LOAD tokB\n";
    let story = |name: &str, script: &str| bet_of(&text, name, &format!("{both}{script}"));
    // One word isn't enough, a word given twice counts once, a stranger's doesn't count.
    story("started", "10 3 RESULT 2\n11 3 RESULT 2\n12 9 RESULT 2");
    let decided = story("finished", "10 3 RESULT 2\n11 5 RESULT 1\n12 6 RESULT 1\n9999 1 NUDGE");
    assert_eq!(payouts(&decided).1, ["tokA>1", "tokB>1"]);
    // No two agree: the panel decides, two of three; one arbiter's word given twice counts once.
    let split = "10 3 RESULT 2\n11 5 RESULT 1\n12 6 RESULT draw\n";
    story("disputed", &format!("{split}20 4 RULING 2\n21 4 RULING 2\n22 3 RULING 2"));
    let ruled = story("finished", &format!("{split}20 4 RULING 2\n21 7 RULING 1\n22 8 RULING 2"));
    assert_eq!(payouts(&ruled).1, ["tokA>2", "tokB>2"]);
    // A panel that stays silent or split leaves the stakes with their owners: no oracle's word reached two.
    let split = story("refunded", &format!("{split}20 4 RULING 2\n999999 1 NUDGE"));
    assert_eq!(payouts(&split).0, "refunded");
}
