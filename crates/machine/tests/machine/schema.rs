//! The JSON Schema against what the engine admits: every admitted definition fits it, and what it
//! refuses the engine refuses.

use concordat_machine::{Definition, SCHEMA};
use serde_json::{Value, json};

/// The part of JSON Schema 2020-12 that the schema uses. A keyword that isn't here fails the test.
fn fits(root: &Value, schema: &Value, value: &Value) -> bool {
    let Value::Object(keywords) = schema else {
        return schema == &Value::Bool(true);
    };
    let properties = schema.get("properties").and_then(Value::as_object);
    let length = |v: &Value| v.as_str().map(|s| s.chars().count());
    let members = |v: &Value| v.as_object().map(|m| m.len());
    let within = |got: Option<usize>, limit: &Value, most: bool| {
        let limit = limit.as_u64().unwrap() as usize;
        got.is_none_or(|got| if most { got <= limit } else { got >= limit })
    };
    keywords.iter().all(|(keyword, rule)| match keyword.as_str() {
        "$schema" | "title" | "description" | "$defs" => true,
        "$ref" => fits(root, root.pointer(rule.as_str().unwrap().trim_start_matches('#')).unwrap(), value),
        "type" => match rule.as_str().unwrap() {
            "object" => value.is_object(),
            "array" => value.is_array(),
            "string" => value.is_string(),
            "boolean" => value.is_boolean(),
            "integer" => value.is_i64() || value.is_u64(),
            other => panic!("type {other}"),
        },
        "enum" => rule.as_array().unwrap().contains(value),
        "const" => rule == value,
        "anyOf" => rule.as_array().unwrap().iter().any(|s| fits(root, s, value)),
        "allOf" => rule.as_array().unwrap().iter().all(|s| fits(root, s, value)),
        "properties" => value
            .as_object()
            .is_none_or(|map| map.iter().all(|(k, v)| rule.get(k).is_none_or(|s| fits(root, s, v)))),
        "additionalProperties" => value.as_object().is_none_or(|map| {
            map.iter()
                .filter(|(k, _)| properties.is_none_or(|p| !p.contains_key(*k)))
                .all(|(_, v)| fits(root, rule, v))
        }),
        "required" => value
            .as_object()
            .is_none_or(|map| rule.as_array().unwrap().iter().all(|k| map.contains_key(k.as_str().unwrap()))),
        "items" => value.as_array().is_none_or(|items| items.iter().all(|v| fits(root, rule, v))),
        "maxItems" => within(value.as_array().map(Vec::len), rule, true),
        "minLength" => within(length(value), rule, false),
        "maxLength" => within(length(value), rule, true),
        "minProperties" => within(members(value), rule, false),
        "maxProperties" => within(members(value), rule, true),
        other => panic!("keyword {other}"),
    })
}

fn schema() -> Value {
    serde_json::from_str(SCHEMA).unwrap()
}

#[test]
fn admitted_definitions_fit_the_schema() {
    let schema = schema();
    let mut seen = 0;
    let recorded = include_str!("../xstate/expected.jsonl").lines().map(|line| {
        let line: Value = serde_json::from_str(line).unwrap();
        line["definition"].as_str().unwrap().to_owned()
    });
    for text in recorded.chain([include_str!("../../../../docs/machines/bet.json").to_owned()]) {
        let value: Value = serde_json::from_str(&text).unwrap();
        assert!(Definition::parse(&text).is_ok());
        assert!(fits(&schema, &schema, &value), "{text}");
        seen += 1;
    }
    assert!(seen > 40);
}

#[test]
fn what_the_schema_refuses_the_engine_refuses() {
    let schema = schema();
    let state = |s: Value| json!({"initial": "a", "states": {"a": s, "b": {}}});
    for wrong in [
        json!([]),
        json!({"invoke": [{"src": "x"}]}),
        json!({"entry": "unknown"}),
        json!({"context": []}),
        json!({"records": []}),
        json!({"records": {"r": {"max": 1}}}),
        json!({"delays": {"d": "1"}}),
        json!({"states": {"a": {"invoke": {}}}, "initial": "a"}),
        json!({"initial": {"actions": []}, "states": {"a": {}}}),
        state(json!({"spawn": "x"})),
        state(json!({"on": "b"})),
        state(json!({"on": {"GO": 5}})),
        state(json!({"on": {"GO": {"target": 5}}})),
        state(json!({"on": {"GO": {"cond": "x"}}})),
        state(json!({"on": {"GO": {"reenter": "yes"}}})),
        state(json!({"on": {"GO": {"guard": "isNobody"}}})),
        state(json!({"on": {"GO": {"guard": {"type": "cel", "params": {"expression": "true"}}}}})),
        state(json!({"on": {"GO": {"guard": {"type": "not", "params": {"guard": "x"}}}}})),
        state(json!({"on": {"GO": {"actions": {"type": "cel.assign", "params": {}}}}})),
        state(json!({"on": {"GO": {"actions": {"type": "publish", "params": {"content": "x"}}}}})),
        state(json!({"on": {"GO": {"actions": {"type": "send", "params": {"type": "x"}}}}})),
        state(json!({"type": "sequential"})),
        state(json!({"tags": [1]})),
        state(json!({"context": {}})),
        state(json!({"history": "long"})),
    ] {
        assert!(!fits(&schema, &schema, &wrong), "the schema takes {wrong}");
        assert!(Definition::parse(&wrong.to_string()).is_err(), "the engine takes {wrong}");
    }
}
