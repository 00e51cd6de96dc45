//! What goes into a step of a machine and what comes out of it, as plain data.
//!
//! Promises: every outcome is either a [`Step`] (accepted) or a [`Rejection`] with a stable
//! [`Reason`]; a rejected event leaves the state as it was. Refuses: nothing here runs anything;
//! an [`Effect`] is a declaration that the custodians carry out once its head is certified.

use crate::limits;
use crate::quote::cut;
use crate::state::State;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::fmt;

/// An input to a machine: a 7501 transition, or an event of a `source` tag (EVENTS 1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The event type (`t` tag of a 7501, or `nostr.<kind>`). Types that start with `xstate.` are
    /// the engine's own and are rejected with [`Reason::BadEvent`].
    pub kind: String,
    /// The payload, `event.data` in CEL; `null` if there is none. Its numbers must be integers
    /// within +-(2^53-1).
    pub data: Value,
    /// Who signed it, in hex; `None` for an event that nobody signed (an offline run).
    pub pubkey: Option<String>,
    /// The Nostr event's id in hex.
    pub id: Option<String>,
    /// The Nostr event's `created_at`, in seconds.
    pub created_at: Option<i64>,
    /// The height of the head that the event stands in; `None` in an offline run.
    pub height: Option<u64>,
}

impl Event {
    /// An unsigned event without payload.
    pub fn new(kind: impl Into<String>) -> Self {
        Self { kind: kind.into(), data: Value::Null, pubkey: None, id: None, created_at: None, height: None }
    }

    /// The same event with this payload.
    #[must_use]
    pub fn with_data(mut self, data: Value) -> Self {
        self.data = data;
        self
    }

    /// The same event signed by this key.
    #[must_use]
    pub fn by(mut self, pubkey: impl Into<String>) -> Self {
        self.pubkey = Some(pubkey.into());
        self
    }
}

/// What a step asks the custodians to do, in the order in which the actions ran.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "effect", rename_all = "snake_case")]
pub enum Effect {
    /// Publish an event signed by the group key. The ledger still refuses the kinds that the
    /// group never signs (EVENTS 3).
    Publish {
        /// The Nostr kind.
        kind: u16,
        /// The content; a `content` that isn't a string in the definition arrives here as
        /// RFC 8785 JSON.
        content: String,
        /// The tags.
        tags: Vec<Vec<String>>,
    },
    /// Send an event to another machine of the same group.
    Send {
        /// The machine (its 7500 event id).
        to: String,
        /// The event's type.
        kind: String,
        /// The event's payload.
        data: Value,
    },
    /// Start a machine from an admitted definition.
    Start {
        /// The definition (its 7500 event id).
        definition: String,
        /// What it is started with: `input` in the expressions of its context.
        input: Value,
    },
}

/// An accepted event: the state after it and what it asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The state after the step.
    pub state: State,
    /// The declared effects, in order.
    pub effects: Vec<Effect>,
    /// What the step changes of the machine's records: each key once, sorted. Their count and root
    /// stand in the state already; who keeps the records must apply all of it or nothing.
    pub records: Vec<RecordChange>,
}

/// A change of one key of a machine's records.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RecordChange {
    /// The record's name.
    pub record: String,
    /// The key.
    pub key: String,
    /// The value; `None` if the key is removed.
    pub value: Option<Value>,
}

/// A pending `after` timer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Timer {
    /// The event type that it fires, as XState names it: `xstate.after.<delay>.<state id>`.
    pub id: String,
    /// When it is due: batch time of the entry plus the delay, in ms since the Unix epoch.
    pub due_ms: u64,
}

/// A timer that fired. It is used up in `step.state` whatever happened, so it can't fire twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fired {
    /// The timer.
    pub timer: Timer,
    /// The step that it caused; if `rejection` is set, the old state without the timer.
    pub step: Step,
    /// Why nothing happened: its guard was false or failed, or the step broke a limit.
    pub rejection: Option<Rejection>,
}

/// Why an event changed nothing. [`Reason::code`] goes into the log (EVENTS 2), so the codes stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// No active state has a transition for this event type.
    UnknownEvent,
    /// There are transitions for it, but no guard passed.
    GuardFalse,
    /// A guard could not be evaluated (missing field, wrong type, overflow).
    GuardError,
    /// An expression, or the guards of a step together, would cost more than the limits allow.
    GuardCost,
    /// An assignment could not be evaluated, or gave something that isn't a context value.
    AssignError,
    /// The parameters of a raise, publish, send or start could not be evaluated.
    EffectError,
    /// An oracle's announcement or attestation isn't taken.
    Oracle(crate::dlc::Fault),
    /// The definition refuses it with a code of its own (`refuse('code')`, which stands in the log as `machine.code`), or an
    /// event that it carries isn't one (`event_malformed`, `event_id`, `event_signature`).
    Refused(Code),
    /// A key or value of a record could not be evaluated, or breaks the limits of records.
    RecordError,
    /// The output of a final state or of the machine could not be evaluated.
    OutputError,
    /// The delay of a timer could not be evaluated, or lies beyond 2^53 ms.
    TimerError,
    /// The step didn't come to rest within the limit of microsteps (a cycle of `always` or
    /// `raise`), or asked for too many effects.
    StepLimit,
    /// The snapshot, or an effect, would be larger than fits into an event.
    TooLarge,
    /// The machine has reached its end.
    Done,
    /// The event itself is malformed: reserved or empty type, a number that isn't an integer
    /// within +-(2^53-1), nesting too deep.
    BadEvent,
    /// The state doesn't belong to this definition; or the step would lead to states that can't be
    /// active together, which some conflicting transitions do in XState.
    BadState,
}

impl Reason {
    /// The code that stands in the log and in `machine run`.
    pub const fn code(&self) -> &str {
        match self {
            Self::Refused(code) => code.text(),
            Self::UnknownEvent => "unknown_event",
            Self::GuardFalse => "guard_false",
            Self::GuardError => "guard_error",
            Self::GuardCost => "guard_cost",
            Self::AssignError => "assign_error",
            Self::EffectError => "effect_error",
            Self::Oracle(fault) => fault.code(),
            Self::RecordError => "record_error",
            Self::OutputError => "output_error",
            Self::TimerError => "timer_error",
            Self::StepLimit => "step_limit",
            Self::TooLarge => "too_large",
            Self::Done => "done",
            Self::BadEvent => "bad_event",
            Self::BadState => "bad_state",
        }
    }
}

/// A reason's code that isn't one of this engine's list: short, so that a [`Reason`] is copied like a number.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Code {
    bytes: [u8; CODE_BYTES],
    len: u8,
}

/// What codes of definitions begin with, so that none looks like one of the engine's or the ledger's.
const OF_MACHINE: &str = "machine.";

/// Bytes of a code with what it begins with.
const CODE_BYTES: usize = OF_MACHINE.len() + limits::REFUSAL_BYTES;

impl Code {
    /// A code that a definition gives: 1 to [`limits::REFUSAL_BYTES`] of `a-z`, `0-9` and `_`.
    pub(crate) fn of_machine(code: &str) -> Option<Self> {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        let fits = (1..=limits::REFUSAL_BYTES).contains(&code.len()) && code.bytes().all(allowed);
        fits.then(|| Self::own(&format!("{OF_MACHINE}{code}")))
    }

    /// A code of the engine's own functions; cut where it is too long.
    pub(crate) const fn own(code: &str) -> Self {
        let mut bytes = [0; CODE_BYTES];
        let mut rest = code.as_bytes();
        let mut free: &mut [u8] = &mut bytes;
        let mut len = 0;
        while let (Some((first, others)), Some((place, after))) = (rest.split_first(), free.split_first_mut())
        {
            *place = *first;
            (rest, free) = (others, after);
            len += 1;
        }
        Self { bytes, len }
    }

    /// As it stands in the log.
    pub const fn text(&self) -> &str {
        match self.bytes.split_at_checked(self.len as usize) {
            Some((text, _)) => match std::str::from_utf8(text) {
                Ok(text) => text,
                Err(_) => "",
            },
            None => "",
        }
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

/// A refused event: the state is as before.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}: {detail}")]
pub struct Rejection {
    /// The stable reason.
    pub reason: Reason,
    /// What was expected and what came, for a person. Not part of the log.
    pub detail: String,
}

impl Rejection {
    pub(crate) fn new(reason: Reason, detail: impl Into<String>) -> Self {
        Self { reason, detail: cut(detail.into(), limits::FAULT_BYTES) }
    }
}

/// Why a definition isn't admitted, with its place.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// The place as a JSON pointer (RFC 6901), e.g. `/states/a/on/GO/guard`; empty for the whole.
    pub path: String,
    /// What is wrong and what is expected.
    pub message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path, self.message)
    }
}
