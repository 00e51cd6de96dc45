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
        canonical(self)
    }

    /// Reads [`State::canonical_bytes`] back.
    ///
    /// # Errors
    /// The bytes are not the JSON of a state.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes)
    }
}

/// RFC 8785 bytes. Serializing cannot fail here: keys are strings and numbers are integers.
pub(crate) fn canonical<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json_canonicalizer::to_vec(value).unwrap_or_default()
}
