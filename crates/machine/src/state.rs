//! The state of one machine: XState's persisted snapshot and what it forgets.
//!
//! Promises: serde round trips are exact and [`State::canonical_bytes`] (RFC 8785) are the same on
//! every custodian. Refuses: it is only made by a [`crate::Definition`]; one read from elsewhere is
//! checked against the definition at the next step and rejected as `bad_state` if it doesn't fit.

use crate::step::Timer;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A machine's state: snapshot, timers, and the order of the active states.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    /// `{"status","value","historyValue","context","children"[,"output"]}`.
    pub(crate) snapshot: Value,
    /// Pending timers, earliest first, then document order. XState's snapshot has none.
    pub(crate) timers: Vec<Timer>,
    /// Ids of the active states in the order XState keeps them: it decides the order in which
    /// parallel regions act, and a snapshot with sorted keys has lost it.
    pub(crate) order: Vec<String>,
    /// Author of the definition, for `isCreator` where the context names none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) creator: Option<String>,
}

impl State {
    /// XState's persisted snapshot.
    pub fn snapshot(&self) -> &Value {
        &self.snapshot
    }

    /// The snapshot as RFC 8785 JSON: the `content` of a 30078 event.
    pub fn snapshot_bytes(&self) -> Vec<u8> {
        canonical(&self.snapshot)
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
        self.snapshot.get("status").and_then(Value::as_str) == Some("done")
    }

    /// The output of a machine that is done and declares one.
    pub fn output(&self) -> Option<&Value> {
        self.snapshot.get("output")
    }

    /// The whole state as RFC 8785 JSON: the leaf of the state tree.
    pub fn canonical_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(1024);
        out.push(b'{');
        if let Some(creator) = &self.creator {
            out.extend(b"\"creator\":");
            write_text(creator, &mut out);
            out.push(b',');
        }
        out.extend(b"\"order\":[");
        for (n, id) in self.order.iter().enumerate() {
            if n > 0 {
                out.push(b',');
            }
            write_text(id, &mut out);
        }
        out.extend(b"],\"snapshot\":");
        write(&self.snapshot, &mut out);
        out.extend(b",\"timers\":[");
        for (n, timer) in self.timers.iter().enumerate() {
            out.extend(if n > 0 { b",{\"due_ms\":".as_slice() } else { b"{\"due_ms\":" });
            out.extend(timer.due_ms.to_string().into_bytes());
            out.extend(b",\"id\":");
            write_text(&timer.id, &mut out);
            out.push(b'}');
        }
        out.extend(b"]}");
        out
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
        Value::Number(n) => out.extend(n.to_string().into_bytes()),
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
        Value::Object(map) => {
            let mut members: Vec<(&String, &Value)> = map.iter().collect();
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
    }
}

fn write_text(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
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
