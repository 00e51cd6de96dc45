//! Expressions: parser, admission and the evaluator with its meter. Input: an expression; what stands behind a zero byte is
//! the event's payload as JSON.

use concordat_machine::run::Line;
use serde_json::{Value, json};

use super::definition::steps;

pub fn run(data: &[u8]) -> bool {
    let (source, payload) = match data.iter().position(|byte| *byte == 0) {
        Some(at) => (&data[..at], &data[at + 1..]),
        None => (data, &b"null"[..]),
    };
    let (Ok(source), Ok(payload)) = (std::str::from_utf8(source), std::str::from_utf8(payload)) else {
        return false;
    };
    let payload: Value = serde_json::from_str(payload).unwrap_or_default();
    // As a guard, as a value, as a delay and as what is published.
    let definition = |guard: bool| {
        json!({
            "id": "m", "initial": "a",
            "context": {"n": 7, "s": "text", "l": [1, "two", null, true], "m": {"k": {"deep": [0]}}, "x": null},
            "states": {
                "a": {"on": {
                    "GUARD": {"guard": {"type": "cel", "params": {"expr": if guard { source } else { "true" }}}, "target": "b"},
                    "VALUE": {"actions": {"type": "cel.assign", "params": {"x": source}}},
                    "SAY": {"actions": {"type": "publish", "params": {"kind": 1, "content": {"cel": source}, "tags": []}}},
                }},
                "b": {},
            },
        })
    };
    let line = |kind: &str, created_at| Line {
        kind: kind.to_owned(),
        data: payload.clone(),
        pubkey: Some("author".to_owned()),
        id: None,
        created_at,
        now: None,
    };
    let lines = ["VALUE", "VALUE", "SAY", "GUARD"].into_iter().map(|kind| line(kind, Some(1)));
    // What can't be true or false is refused as a guard before it is run; then it stands as a value only.
    let whole = steps(&definition(true).to_string(), lines.clone());
    whole || steps(&definition(false).to_string(), lines)
}
