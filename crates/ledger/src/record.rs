//! The state leaves as types. Each is RFC 8785 JSON in the tree, so that a reader of a proof needs no codec of ours.

use std::io::Write;
use std::sync::Arc;

use concordat_events::{Hash, Mode, PublicKey, json};
use concordat_machine::{Definition, State};
use concordat_store::StoreError;
use nostr::{Filter, JsonUtil};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::keys::corrupt;
use crate::layer::Read;

/// What changes about a machine: the value of the leaf `machine/<id>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Time of the batch that started it, ms since 1970.
    pub started_ms: u64,
    /// The state of its statechart, timers included.
    pub state: State,
    /// The last accepted input (7501).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<Hash>,
    /// `created_at` of its last snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot_s: Option<u64>,
    /// Its place in the queue of due snapshots.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queued: Option<u64>,
    /// Its effects that wait to be signed.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub effects: u32,
    /// Messages that it has sent to machines.
    #[serde(default, skip_serializing_if = "is_zero_u64")]
    pub sent: u64,
    /// Machines that it has started.
    #[serde(default, skip_serializing_if = "is_zero_u64")]
    pub begun: u64,
    /// Machines that its timers have started since its last accepted input.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub begun_by_timers: u32,
    /// Why its last timer changed nothing; none if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timer_refused: Option<String>,
    /// Timers fired since its last accepted input.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub timer_streak: u32,
    /// Until when its timers rest, ms since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rest_until_ms: Option<u64>,
}

fn is_zero_u64(n: &u64) -> bool {
    *n == 0
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}

fn nonzero(n: impl Into<u64>) -> Option<u64> {
    Some(n.into()).filter(|n| *n != 0)
}

/// The next member of an object that begins with its first.
fn write_key(key: &str, out: &mut Vec<u8>) {
    // Writing into a vector can't fail.
    _ = write!(out, "{}\"{key}\":", if out.is_empty() { '{' } else { ',' });
}

fn write_numbers(members: &[(&str, Option<u64>)], out: &mut Vec<u8>) {
    for (key, number) in members {
        if let Some(number) = number {
            write_key(key, out);
            _ = write!(out, "{number}");
        }
    }
}

impl Record {
    /// That of a machine that starts.
    pub(crate) fn new(started_ms: u64, state: State) -> Self {
        Record {
            started_ms,
            state,
            last: None,
            snapshot_s: None,
            queued: None,
            effects: 0,
            sent: 0,
            begun: 0,
            begun_by_timers: 0,
            timer_refused: None,
            timer_streak: 0,
            rest_until_ms: None,
        }
    }

    /// The leaf's value: RFC 8785 JSON of the members that [`Serialize`] would write, put down at once. A general writer makes
    /// a tree of the whole state first, which costs several times the step that changed it.
    pub(crate) fn canonical_bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(2048);
        let numbers = [
            ("begun", nonzero(self.begun)),
            ("begun_by_timers", nonzero(self.begun_by_timers)),
            ("effects", nonzero(self.effects)),
        ];
        write_numbers(&numbers, &mut out);
        if let Some(last) = &self.last {
            write_key("last", &mut out);
            _ = write!(out, "\"{last}\"");
        }
        let numbers = [
            ("queued", self.queued),
            ("rest_until_ms", self.rest_until_ms),
            ("sent", nonzero(self.sent)),
            ("snapshot_s", self.snapshot_s),
            ("started_ms", Some(self.started_ms)),
        ];
        write_numbers(&numbers, &mut out);
        write_key("state", &mut out);
        self.state.write_canonical(&mut out);
        if let Some(refused) = &self.timer_refused {
            write_key("timer_refused", &mut out);
            _ = write!(out, "{}", Value::from(refused.as_str()));
        }
        write_numbers(&[("timer_streak", nonzero(self.timer_streak))], &mut out);
        out.push(b'}');
        out
    }

    /// When the machine's next timer fires; `None` if it has none or is done.
    pub fn next_due_ms(&self) -> Option<u64> {
        if self.state.is_done() {
            return None;
        }
        Some(self.state.next_due_ms()?.max(self.rest_until_ms.unwrap_or_default()))
    }
}

/// What never changes about a machine: the value of the leaf `definition/<id>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FixedLeaf {
    /// Whose quota it counts against: who signed its definition, or whose machine started it.
    pub(crate) creator: PublicKey,
    /// The machine that started it; none if a participant did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) parent: Option<Hash>,
    /// The definition whose `text` it runs, if that isn't its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) of: Option<Hash>,
    pub(crate) d: String,
    pub(crate) strict: bool,
    /// `source` filters as JSON.
    pub(crate) sources: Vec<String>,
    /// The definition's content; empty if it runs another's.
    pub(crate) text: String,
}

/// The same, parsed.
pub(crate) struct Fixed {
    pub(crate) creator: PublicKey,
    pub(crate) parent: Option<Hash>,
    pub(crate) d: String,
    pub(crate) mode: Mode,
    pub(crate) sources: Vec<Filter>,
    /// Shared by all machines that run it.
    pub(crate) definition: Arc<Definition>,
}

impl FixedLeaf {
    /// The `source` filters.
    pub(crate) fn filters(&self) -> Result<Vec<Filter>, String> {
        self.sources.iter().map(|text| Filter::from_json(text).map_err(|error| error.to_string())).collect()
    }

    /// The definition of its own text.
    pub(crate) fn definition(&self) -> Result<Arc<Definition>, String> {
        Definition::parse(&self.text)
            .map(Arc::new)
            .map_err(|faults| faults.first().map(ToString::to_string).unwrap_or_default())
    }

    /// The machine's own part beside the parsed definition that it runs.
    pub(crate) fn fixed(&self, definition: Arc<Definition>) -> Result<Fixed, String> {
        Ok(Fixed {
            creator: self.creator,
            parent: self.parent,
            d: self.d.clone(),
            mode: if self.strict { Mode::Strict } else { Mode::Sequenced },
            sources: self.filters()?,
            definition,
        })
    }
}

/// Who has a (kind, `d`), and how far it has got: the value of the leaf `d/<kind>:<d>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Claim {
    pub(crate) machine: Hash,
    /// `created_at` of the last event signed under it. Snapshots keep theirs in the machine's record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) at: Option<u64>,
    /// Place of the effect that waits under it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) queued: Option<u64>,
}

/// An effect that waits to be signed: the value of a leaf `queue/effect/<place>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct QueuedEffect {
    pub(crate) machine: Hash,
    pub(crate) kind: u16,
    pub(crate) tags: Vec<Vec<String>>,
    pub(crate) content: String,
    /// Its `created_at`, where its id is somebody's name already: the definition of a machine that a machine started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) at: Option<u64>,
}

impl QueuedEffect {
    /// The `d` under which relays keep only the newest event of this kind (NIP-01); `None` for kinds that are all kept.
    pub(crate) fn d(&self) -> Option<&str> {
        match self.kind {
            10_000..20_000 => Some(""),
            30_000..40_000 => {
                let tag = self.tags.iter().find(|tag| tag.first().is_some_and(|name| name == "d"));
                Some(tag.and_then(|tag| tag.get(1)).map_or("", String::as_str))
            }
            _ => None,
        }
    }
}

/// A snapshot that waits to be signed: the value of a leaf `queue/snapshot/<place>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct QueuedSnapshot {
    pub(crate) machine: Hash,
    /// `created_at` of the machine's snapshot before, so that who waits for the next second is passed over unread.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) after: Option<u64>,
}

/// A machine as a user sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct MachineView {
    /// Its id: that of its definition.
    pub id: Hash,
    /// Who started it, or whose machine did.
    pub creator: PublicKey,
    /// The machine that started it; none if a participant did.
    pub parent: Option<Hash>,
    /// `d` of its snapshots.
    pub d: String,
    /// How its inputs are ordered.
    pub mode: Mode,
    /// What changes about it.
    pub record: Record,
}

impl MachineView {
    pub(crate) fn new(id: Hash, fixed: &Arc<Fixed>, record: Record) -> Self {
        MachineView {
            id,
            creator: fixed.creator,
            parent: fixed.parent,
            d: fixed.d.clone(),
            mode: fixed.mode,
            record,
        }
    }

    /// XState's persisted snapshot.
    pub fn snapshot(&self) -> &Value {
        self.record.state.snapshot()
    }
}

/// A leaf's value as it is hashed.
pub(crate) fn encode<T: Serialize>(key: &[u8], value: &T) -> Result<Vec<u8>, StoreError> {
    json::canonical(value).map(String::into_bytes).map_err(|error| corrupt(key, &error.to_string()))
}

/// Reads a leaf's value.
pub(crate) fn decode<T: DeserializeOwned>(key: &[u8], bytes: &[u8]) -> Result<T, StoreError> {
    serde_json::from_slice(bytes).map_err(|error| corrupt(key, &error.to_string()))
}

/// Reads a leaf.
pub(crate) fn leaf<T: DeserializeOwned, R: Read>(read: &R, key: &[u8]) -> Result<Option<T>, StoreError> {
    let key = crate::keys::leaf(key);
    read.get(&key)?.map(|bytes| decode(&key, &bytes)).transpose()
}

#[cfg(test)]
mod tests {
    use concordat_machine::{Definition, Event};
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// States of a machine that has been asked for text of any kind, with and without timers, history and records.
    fn state(text: &str, steps: usize) -> State {
        let definition = Definition::parse(
            &json!({
                "id": "m", "initial": "a", "context": {"said": [], "\u{e9}\u{1f98a}": {"\u{ffff}": -1}}, "records": {"r": {}},
                "states": {
                    "a": {"on": {"GO": {"target": "b", "actions": {"type": "cel.assign", "params": {"said": "context.said + [event.data]"}}}}},
                    "b": {"initial": "c", "after": {"5": "a"}, "on": {"GO": "a", "END": "z"},
                          "states": {"c": {"after": {"9": "d"}}, "d": {}, "h": {"type": "history"}}},
                    "z": {"type": "final"}
                }
            })
            .to_string(),
        )
        .unwrap();
        let mut state = definition.start(7, Some(&"ab".repeat(32))).unwrap().state;
        for n in 0..steps {
            let kind = if n == 5 { "END" } else { "GO" };
            let event = Event::new(kind).with_data(json!(text));
            state = definition.send(&state, &event, 8 + n as u64).map_or(state, |step| step.state);
        }
        state
    }

    proptest! {
        /// What is written at once is what the general writer gives, and is read back as the same record.
        #[test]
        fn a_record_is_written_as_a_general_writer_would(
            (text, steps) in (any::<String>(), 0usize..8),
            last in any::<Option<[u8; 32]>>(),
            numbers in any::<(u64, Option<u64>, Option<u64>, u32, u64)>(),
            more in any::<(u64, u32, Option<String>, u32, Option<u64>)>(),
        ) {
            // Within what JSON's readers agree on.
            let small = |n: u64| n >> 11;
            let record = Record {
                started_ms: small(numbers.0),
                state: state(&text, steps),
                last: last.map(Hash::from_bytes),
                snapshot_s: numbers.1.map(small),
                queued: numbers.2.map(small),
                effects: numbers.3,
                sent: small(numbers.4),
                begun: small(more.0),
                begun_by_timers: more.1,
                timer_refused: more.2,
                timer_streak: more.3,
                rest_until_ms: more.4.map(small),
            };
            let bytes = record.canonical_bytes();
            prop_assert_eq!(String::from_utf8(bytes.clone()).unwrap(), json::canonical(&record).unwrap());
            prop_assert_eq!(decode::<Record>(b"machine", &bytes).unwrap(), record);
            let new = Record::new(small(numbers.0), state(&text, 0));
            prop_assert_eq!(String::from_utf8(new.canonical_bytes()).unwrap(), json::canonical(&new).unwrap());
        }
    }
}
