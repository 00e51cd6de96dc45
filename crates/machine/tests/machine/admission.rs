//! What isn't run is refused, with its place.

use concordat_machine::run::check;
use concordat_machine::{Definition, limits};
use serde_json::{Value, json};

fn with_state(state: &Value) -> String {
    json!({"id": "m", "initial": "a", "states": {"a": state, "b": {}, "h": {"type": "history"}}}).to_string()
}

fn faults(json: &str) -> Vec<String> {
    let checked = check(json);
    assert_eq!(checked.ok, checked.errors.is_empty());
    checked.errors.into_iter().map(|f| f.path).collect()
}

#[test]
fn every_fault_has_its_place() {
    let cel = |expr: &str| json!({"type": "cel", "params": {"expr": expr}});
    for (state, place) in [
        (json!({"invoke": {"src": "x"}}), "/states/a/invoke"),
        (json!({"alwyas": "b"}), "/states/a/alwyas"),
        (json!({"type": "odd"}), "/states/a/type"),
        (json!({"type": "final", "states": {"x": {}}}), "/states/a"),
        (json!({"type": "parallel"}), "/states/a"),
        (json!({"states": {"x": {}}}), "/states/a/initial"),
        (json!({"initial": "y", "states": {"x": {}}}), "/states/a/initial"),
        (json!({"initial": "x", "states": {"x": {"type": "history"}, "y": {}}}), "/states/a/initial"),
        (json!({"id": "m"}), "/states/a"),
        (json!({"id": 5}), "/states/a/id"),
        (json!({"context": {}}), "/states/a/context"),
        (json!({"output": 1}), "/states/a/output"),
        (json!({"on": {"GO": "nowhere"}}), "/states/a/on/GO"),
        (json!({"on": {"GO": {"target": "#x"}}}), "/states/a/on/GO/target"),
        (json!({"on": {"GO": null}}), "/states/a/on/GO"),
        (json!({"on": {"GO": {"target": null}}}), "/states/a/on/GO/target"),
        (json!({"on": {"GO": {"cond": "x"}}}), "/states/a/on/GO/cond"),
        (json!({"on": {"GO": {"reenter": 1}}}), "/states/a/on/GO/reenter"),
        (json!({"on": {"GO": [{"target": "b"}, {"target": ["a", "b"]}]}}), "/states/a/on/GO/1/target"),
        (json!({"on": {"": "b"}}), "/states/a/on/"),
        (json!({"on": {"a.*.b": "b"}}), "/states/a/on/a.*.b"),
        (json!({"on": {"a/b~c": "x"}}), "/states/a/on/a~1b~0c"),
        (json!({"on": {"GO": {"guard": "isAdmin"}}}), "/states/a/on/GO/guard"),
        (json!({"on": {"GO": {"guard": cel("contxt.n")}}}), "/states/a/on/GO/guard/params/expr"),
        (
            json!({"on": {"GO": {"guard": {"type": "not", "params": {"guard": cel("1.5 > 1")}}}}}),
            "/states/a/on/GO/guard/params/guard/params/expr",
        ),
        (
            json!({"on": {"GO": {"guard": {"type": "stateIn", "params": {"state": "#zz"}}}}}),
            "/states/a/on/GO/guard",
        ),
        (json!({"entry": "launch"}), "/states/a/entry"),
        (
            json!({"entry": ["assignExecutor", {"type": "cel.assign", "params": {"n": "n + 1"}}]}),
            "/states/a/entry/1/params/n",
        ),
        (
            json!({"entry": {"type": "publish", "params": {"kind": 1, "contents": ""}}}),
            "/states/a/entry/params/contents",
        ),
        (json!({"entry": {"type": "publish", "params": {}}}), "/states/a/entry/params/kind"),
        (json!({"entry": {"type": "raise", "params": {"type": "xstate.x"}}}), "/states/a/entry/params/type"),
        (
            json!({"entry": {"type": "send", "params": {"to": {"cel": "5 +"}, "type": "x"}}}),
            "/states/a/entry/params/to/cel",
        ),
        (json!({"after": {"1.5": "b"}}), "/states/a/after/1.5"),
        (json!({"after": {"soon": "b"}}), "/states/a/after/soon"),
        (json!({"after": {"10": ["b"]}}), "/states/a/after/10/0"),
    ] {
        let found = faults(&with_state(&state));
        assert!(found.contains(&place.to_owned()), "{state}: {found:?}, not {place}");
    }
}

#[test]
fn faults_of_the_whole() {
    for (json, place) in [
        ("", ""),
        ("[]", ""),
        ("{} x", ""),
        (r#"{"a":1,"a":1}"#, ""),
        (r#"{"states":{"__proto__":{}}}"#, ""),
        (r#"{"context":{"n":1.0}}"#, "/context/n"),
        (r#"{"context":{"n":9007199254740992}}"#, "/context/n"),
        (r#"{"context":{"n":[-0.0]}}"#, "/context/n/0"),
        (r#"{"context":5}"#, "/context"),
        (r#"{"type":"final"}"#, "/type"),
        (r#"{"delays":{"x":{"cel":"'a'","b":1}}}"#, "/delays/x"),
        (r#"{"delays":{"1e3":5}}"#, "/delays/1e3"),
        (r#"{"on":{"GO":"a"}}"#, "/on/GO"),
    ] {
        assert!(faults(json).contains(&place.to_owned()), "{json}: {:?}", faults(json));
    }
    let deep = format!("{}1{}", r#"{"context":{"a":"#.repeat(60), "}}".repeat(60));
    assert_eq!(faults(&deep), [""]);
    assert_eq!(faults(&" ".repeat(limits::DEFINITION_BYTES + 1)), [""]);
    let nested = (0..40).fold(json!({}), |s, _| json!({"initial": "a", "states": {"a": s}}));
    assert!(!faults(&nested.to_string()).is_empty());
}

#[test]
fn limits_hold_and_reports_stay_short() {
    let many: serde_json::Map<String, Value> =
        (0..limits::STATES).map(|i| (format!("s{i}"), json!({}))).collect();
    assert!(!faults(&json!({"initial": "s0", "states": many}).to_string()).is_empty());
    let on: serde_json::Map<String, Value> =
        (0..=limits::TRANSITIONS).map(|i| (format!("e{i}"), json!({}))).collect();
    assert!(!faults(&json!({"on": on}).to_string()).is_empty());
    let bad: serde_json::Map<String, Value> = (0..500).map(|i| (format!("k{i}"), json!(1))).collect();
    assert_eq!(faults(&Value::Object(bad).to_string()).len(), limits::FAULTS);
}

#[test]
fn what_means_nothing_to_a_run_is_admitted() {
    let definition = Definition::parse(
        r#"{"$schema":"x","version":"1","title":"t","meta":{"x":1.5},"tags":["t"],"types":{},"schemas":{},
            "initial":"a","states":{"a":{"description":"d","tags":"x","meta":{"y":0.1},"invoke":[]}}}"#,
    )
    .unwrap();
    assert_eq!(definition.id(), "(machine)");
}
