//! The same snapshots, active states and action order as XState v5, recorded by
//! `tests/xstate/record.mjs` (how to record again stands in its head).

use concordat_machine::{Definition, Effect, Event, Reason, State, Step};
use serde_json::Value;

fn contents(effects: &[Effect]) -> Vec<Value> {
    effects
        .iter()
        .map(|e| match e {
            Effect::Publish { content, .. } => Value::from(content.clone()),
            other => panic!("{other:?}"),
        })
        .collect()
}

#[derive(Clone, Copy, PartialEq)]
enum Outcome {
    Equal,
    /// This engine refuses the definition.
    Refused,
    /// Equal up to a step beyond a limit, or into a state value that isn't one: some conflicting
    /// transitions lead XState to two active children of a compound state.
    Stopped,
}

/// Compares one case row by row.
fn compare(case: &Value) -> Outcome {
    let name = case["name"].as_str().unwrap();
    let definition = match Definition::parse(case["definition"].as_str().unwrap()) {
        Ok(definition) => definition,
        Err(faults) => {
            assert!(name.starts_with("generated"), "{name}: {faults:?}");
            return Outcome::Refused;
        }
    };
    let mut state: Option<State> = None;
    for (n, row) in case["rows"].as_array().unwrap().iter().enumerate() {
        let place = format!("{name}, row {n}: {}", row["event"]);
        let now = row["now"].as_u64().unwrap();
        let outcome = match (&state, row["event"]["type"].as_str()) {
            (None, None) => definition.start(now, None).map_err(|r| (r, None)),
            (Some(state), Some(kind)) if kind.starts_with("xstate.after.") => {
                let fired = definition.fire_due(state, now).unwrap();
                let fired = fired.unwrap_or_else(|| panic!("{place}: no timer of {state:?} is due"));
                assert_eq!(fired.timer.id, kind, "{place}");
                match fired.rejection {
                    None => Ok(fired.step),
                    Some(rejection) => Err((rejection, Some(fired.step.state))),
                }
            }
            (Some(state), Some(kind)) => {
                assert!(definition.fire_due(state, now).unwrap().is_none(), "{place}");
                let event = Event {
                    kind: kind.to_owned(),
                    data: row["event"]["data"].clone(),
                    pubkey: row["event"]["pubkey"].as_str().map(str::to_owned),
                    id: None,
                    created_at: None,
                };
                definition.send(state, &event, now).map_err(|rejection| (rejection, Some(state.clone())))
            }
            other => panic!("{place}: {other:?}"),
        };
        if let Err((rejection, _)) = &outcome
            && matches!(rejection.reason, Reason::StepLimit | Reason::BadState)
        {
            assert!(name.starts_with("generated"), "{place}: {rejection}");
            return Outcome::Stopped;
        }
        assert_eq!(outcome.is_ok(), row["accepted"] == true, "{place}: {outcome:?}");
        let Step { state: next, effects } =
            outcome.unwrap_or_else(|(_, state)| Step { state: state.unwrap(), effects: Vec::new() });
        assert_eq!(*next.snapshot(), row["snapshot"], "{place}");
        assert_eq!(Value::from(definition.active(&next)), row["active"], "{place}");
        assert_eq!(Value::from(contents(&effects)), row["effects"], "{place}");
        // What was written down is what goes on.
        let read = State::from_bytes(&next.canonical_bytes()).unwrap();
        assert_eq!(read, next, "{place}");
        state = Some(read);
    }
    Outcome::Equal
}

/// `CONCORDAT_XSTATE_EXPECTED` names a larger recording to compare instead.
#[test]
fn same_as_xstate() {
    let text = match std::env::var("CONCORDAT_XSTATE_EXPECTED") {
        Ok(path) => std::fs::read_to_string(path).unwrap(),
        Err(_) => include_str!("../xstate/expected.json").to_owned(),
    };
    let cases: Vec<Value> = serde_json::from_str(&text).unwrap();
    let mut outcomes = Vec::new();
    let mut wrong = Vec::new();
    for case in &cases {
        match std::panic::catch_unwind(|| compare(case)) {
            Ok(outcome) => outcomes.push(outcome),
            Err(_) => wrong.push(case["name"].to_string()),
        }
    }
    assert!(wrong.is_empty(), "{} differ: {}", wrong.len(), wrong.join(", "));
    let count = |o| outcomes.iter().filter(|&&x| x == o).count();
    let (equal, refused, stopped) = (count(Outcome::Equal), count(Outcome::Refused), count(Outcome::Stopped));
    assert!(equal * 20 >= cases.len() * 19, "{equal} equal, {refused} refused, {stopped} stopped");
}
