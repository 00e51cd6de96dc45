//! The state of one machine: XState's persisted snapshot and what it forgets.
//!
//! Promises: serde round trips are exact and [`State::canonical_bytes`] (RFC 8785) are the same on
//! every custodian. Refuses: it is only made by a [`crate::Definition`]; one read from elsewhere must be a
//! snapshot, and is checked against the definition at the next step and rejected as `bad_state` if it doesn't fit.

use crate::context::Context;
use crate::json;
use crate::step::Timer;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};
use std::io::Write;
use std::sync::OnceLock;

/// A machine's state: snapshot, timers, and the order of the active states.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(from = "Stored", into = "Stored")]
pub struct State {
    pub(crate) done: bool,
    /// XState's state value.
    pub(crate) value: Value,
    /// What history states remember.
    pub(crate) history: Map<String, Value>,
    pub(crate) context: Context,
    pub(crate) output: Option<Value>,
    /// Count and root of each record.
    pub(crate) records: Option<Value>,
    /// Pending timers, earliest first, then document order. XState's snapshot has none.
    pub(crate) timers: Vec<Timer>,
    /// Ids of the active states in the order XState keeps them: it decides the order in which
    /// parallel regions act, and a snapshot with sorted keys has lost it.
    pub(crate) order: Vec<String>,
    /// Author of the definition, for `isCreator` where the context names none.
    pub(crate) creator: Option<String>,
    /// The parts of the snapshot put together, once somebody asks.
    pub(crate) whole: OnceLock<Value>,
}

/// A state as it is written.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    snapshot: Parts,
    timers: Vec<Timer>,
    order: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    creator: Option<String>,
}

/// XState's persisted snapshot, and `records` beside it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Parts {
    status: Status,
    value: Value,
    #[serde(rename = "historyValue")]
    history: Map<String, Value>,
    context: Context,
    children: Children,
    #[serde(default, deserialize_with = "there", skip_serializing_if = "Option::is_none")]
    output: Option<Value>,
    #[serde(default, deserialize_with = "there", skip_serializing_if = "Option::is_none")]
    records: Option<Value>,
}

#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    Active,
    Done,
}

/// This engine has none.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Children {}

/// A value that is there may be null.
fn there<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(d).map(Some)
}

impl From<Stored> for State {
    fn from(stored: Stored) -> Self {
        let state = State::from(stored.snapshot);
        State { timers: stored.timers, order: stored.order, creator: stored.creator, ..state }
    }
}

impl From<Parts> for State {
    fn from(parts: Parts) -> Self {
        State {
            done: parts.status == Status::Done,
            value: parts.value,
            history: parts.history,
            context: parts.context,
            output: parts.output,
            records: parts.records,
            timers: Vec::new(),
            order: Vec::new(),
            creator: None,
            whole: OnceLock::new(),
        }
    }
}

impl From<State> for Stored {
    fn from(state: State) -> Self {
        let snapshot = Parts {
            status: if state.done { Status::Done } else { Status::Active },
            value: state.value,
            history: state.history,
            context: state.context,
            children: Children {},
            output: state.output,
            records: state.records,
        };
        Stored { snapshot, timers: state.timers, order: state.order, creator: state.creator }
    }
}

impl PartialEq for State {
    fn eq(&self, other: &Self) -> bool {
        let part = |s: &Self| (s.done, s.timers.len());
        part(self) == part(other)
            && (&self.value, &self.history, &self.context, &self.output)
                == (&other.value, &other.history, &other.context, &other.output)
            && (&self.records, &self.timers, &self.order, &self.creator)
                == (&other.records, &other.timers, &other.order, &other.creator)
    }
}

impl Eq for State {}

impl State {
    /// Takes a snapshot apart; `None` if it isn't one.
    pub(crate) fn from_snapshot(snapshot: Value) -> Option<Self> {
        serde_json::from_value::<Parts>(snapshot).ok().map(Self::from)
    }

    fn to_snapshot(&self) -> Value {
        let mut parts = Map::new();
        let mut put = |key: &str, value: Value| parts.insert(key.to_owned(), value);
        put("status", Value::from(self.status()));
        put("value", self.value.clone());
        put("historyValue", Value::Object(self.history.clone()));
        put("children", Value::Object(Map::new()));
        put("context", Value::Object(self.context.to_json()));
        for (key, part) in [("output", &self.output), ("records", &self.records)] {
            if let Some(part) = part {
                put(key, part.clone());
            }
        }
        Value::Object(parts)
    }

    fn status(&self) -> &'static str {
        if self.done { "done" } else { "active" }
    }

    /// XState's persisted snapshot.
    pub fn snapshot(&self) -> &Value {
        self.whole.get_or_init(|| self.to_snapshot())
    }

    /// The snapshot as RFC 8785 JSON: the `content` of a 30078 event.
    pub fn snapshot_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(1024);
        self.write_snapshot(&mut out);
        out
    }

    /// The members, sorted.
    fn write_snapshot(&self, out: &mut Vec<u8>) {
        out.extend(b"{\"children\":{},\"context\":");
        write_members(self.context.iter().collect(), out);
        out.extend(b",\"historyValue\":");
        write_members(self.history.iter().map(|(k, v)| (k.as_str(), v)).collect(), out);
        for (key, part) in [("output", &self.output), ("records", &self.records)] {
            if let Some(part) = part {
                out.push(b',');
                write_text(key, out);
                out.push(b':');
                write(part, out);
            }
        }
        out.extend(b",\"status\":");
        write_text(self.status(), out);
        out.extend(b",\"value\":");
        write(&self.value, out);
        out.push(b'}');
    }

    /// Bytes of [`State::snapshot_bytes`], without making them.
    pub(crate) fn snapshot_len(&self) -> usize {
        // `{"children":{},"context":`, `,"historyValue":`, `,"status":`, `,"value":` and `}`.
        let fixed = 25 + 16 + 10 + 9 + 1;
        let history = match self.history.is_empty() {
            true => 2,
            false => {
                let member = |(k, v): (&String, &Value)| json::text_len(k) + 1 + json::canonical_len(v);
                1 + self.history.len() + self.history.iter().map(member).sum::<usize>()
            }
        };
        let part = |key: &str, part: &Option<Value>| {
            part.as_ref().map_or(0, |part| key.len() + 4 + json::canonical_len(part))
        };
        fixed
            + self.context.canonical_len()
            + history
            + part("output", &self.output)
            + part("records", &self.records)
            + json::text_len(self.status())
            + json::canonical_len(&self.value)
    }

    /// The pending timers, earliest first.
    pub fn timers(&self) -> &[Timer] {
        &self.timers
    }

    /// When the next timer is due, in ms; `None` if there is none.
    pub fn next_due_ms(&self) -> Option<u64> {
        self.timers.first().map(|t| t.due_ms)
    }

    /// Has the machine reached its end?
    pub fn is_done(&self) -> bool {
        self.done
    }

    /// The output of a machine that is done and declares one.
    pub fn output(&self) -> Option<&Value> {
        self.output.as_ref()
    }

    /// The whole state as RFC 8785 JSON: the leaf of the state tree.
    pub fn canonical_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(1024);
        self.write_canonical(&mut out);
        out
    }

    /// Appends [`State::canonical_bytes`] to what a leaf holds beside them.
    pub fn write_canonical(&self, out: &mut Vec<u8>) {
        out.push(b'{');
        if let Some(creator) = &self.creator {
            out.extend(b"\"creator\":");
            write_text(creator, out);
            out.push(b',');
        }
        out.extend(b"\"order\":[");
        for (n, id) in self.order.iter().enumerate() {
            if n > 0 {
                out.push(b',');
            }
            write_text(id, out);
        }
        out.extend(b"],\"snapshot\":");
        self.write_snapshot(out);
        out.extend(b",\"timers\":[");
        for (n, timer) in self.timers.iter().enumerate() {
            out.extend(if n > 0 { b",{\"due_ms\":".as_slice() } else { b"{\"due_ms\":" });
            write_number(timer.due_ms, out);
            out.extend(b",\"id\":");
            write_text(&timer.id, out);
            out.push(b'}');
        }
        out.extend(b"]}");
    }

    /// Reads [`State::canonical_bytes`] back.
    ///
    /// # Errors
    /// The bytes are not the JSON of a state.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes)
    }
}

/// RFC 8785 bytes of a value whose numbers are integers within +-(2^53-1): members sorted by UTF-16
/// code units, strings escaped as little as may be. General writers go a long way round for floats.
pub(crate) fn canonical(value: &Value) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    write(value, &mut out);
    out
}

fn write(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Null => out.extend(b"null"),
        Value::Bool(true) => out.extend(b"true"),
        Value::Bool(false) => out.extend(b"false"),
        Value::Number(n) => write_number(n, out),
        Value::String(s) => write_text(s, out),
        Value::Array(items) => {
            out.push(b'[');
            for (n, item) in items.iter().enumerate() {
                if n > 0 {
                    out.push(b',');
                }
                write(item, out);
            }
            out.push(b']');
        }
        Value::Object(map) => write_members(map.iter().map(|(k, v)| (k.as_str(), v)).collect(), out),
    }
}

fn write_members(mut members: Vec<(&str, &Value)>, out: &mut Vec<u8>) {
    if members.iter().all(|(key, _)| key.is_ascii()) {
        members.sort_unstable_by_key(|(key, _)| *key);
    } else {
        members.sort_unstable_by(|(a, _), (b, _)| a.encode_utf16().cmp(b.encode_utf16()));
    }
    out.push(b'{');
    for (n, (key, value)) in members.into_iter().enumerate() {
        if n > 0 {
            out.push(b',');
        }
        write_text(key, out);
        out.push(b':');
        write(value, out);
    }
    out.push(b'}');
}

fn write_number(number: impl std::fmt::Display, out: &mut Vec<u8>) {
    // Writing into a vector can't fail.
    _ = write!(out, "{number}");
}

fn write_text(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    if json::text_len(text) == text.len() + 2 {
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
        return;
    }
    for byte in text.bytes() {
        match byte {
            b'"' => out.extend(b"\\\""),
            b'\\' => out.extend(b"\\\\"),
            0x08 => out.extend(b"\\b"),
            0x09 => out.extend(b"\\t"),
            0x0a => out.extend(b"\\n"),
            0x0c => out.extend(b"\\f"),
            0x0d => out.extend(b"\\r"),
            0..0x20 => out.extend(format!("\\u{byte:04x}").into_bytes()),
            _ => out.push(byte),
        }
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// Written part by part, counted part by part, and put together: each is the general writer's snapshot.
    #[test]
    fn the_parts_are_the_snapshot() {
        let small =
            json!({"status": "active", "value": "a", "historyValue": {}, "context": {}, "children": {}});
        let large = json!({
            "status": "done", "value": {"p": {"x": "a", "y": "c\u{e9}"}}, "children": {},
            "historyValue": {"h.n": [{"id": "h.n2"}], "g\"": []},
            "context": {"z": [1, -20, {"k\n": "v\u{1}"}], "\u{1f98a}": null, "\u{ffff}": true, "a\\b": {}},
            "output": null, "records": {"votes": {"count": 2, "root": "02ab"}},
        });
        for snapshot in [small, large] {
            let state = State::from_snapshot(snapshot.clone()).unwrap();
            assert_eq!(state.snapshot(), &snapshot);
            let expected = serde_json_canonicalizer::to_vec(&snapshot).unwrap();
            assert_eq!(state.snapshot_bytes(), expected);
            assert_eq!(state.snapshot_len(), expected.len());
            assert_eq!(State::from_bytes(&state.canonical_bytes()).unwrap(), state);
            assert_eq!(
                serde_json::from_value::<State>(serde_json::to_value(&state).unwrap()).unwrap(),
                state
            );
            for (key, wrong) in [("status", json!("error")), ("children", json!({"a": 1})), ("x", json!(1))] {
                let mut other = snapshot.clone();
                other[key] = wrong;
                assert_eq!(State::from_snapshot(other), None, "{key}");
            }
        }
    }
}
