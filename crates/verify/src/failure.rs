//! Why a history doesn't verify: one code per kind of failure, and where it was found.

use std::fmt;

use concordat_events::Hash;

/// What is wrong, as a code that scripts can rely on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    /// No event among those given is Head(0) of this group: wrong key, or the oldest events are missing.
    NoGenesis,
    /// The genesis in Head(0) needs a protocol or an engine that this build doesn't have.
    Unsupported,
    /// An event claims the group as its author, but its id or its signature is wrong.
    BadSignature,
    /// A log event carries the group's signature but isn't what any head determines.
    BadHead,
    /// A head between two others isn't there.
    Gap,
    /// Two different heads of one height carry the group's signature.
    Fork,
    /// A head doesn't continue the one before it, or belongs to another cluster.
    BrokenChain,
    /// A request that a head names isn't among the events.
    MissingRequest,
    /// A head covers batches that no honest custodian executes: time falls, a limit is passed, a request stands twice.
    InvalidBatch,
    /// A request's outcome or reason isn't that of the replay.
    WrongOutcome,
    /// The state root isn't that of the replay.
    WrongRoot,
    /// Anything else in a head isn't that of the replay.
    WrongHead,
    /// The group signed an event that no head makes due, or another than the one due.
    UnexpectedEvent,
    /// The newest snapshot of a machine isn't among the events.
    MissingSnapshot,
    /// Another event that a head made due, and that relays keep, isn't among the events.
    MissingEvent,
    /// A proof doesn't lead to the head's state root.
    BadProof,
    /// The replay itself couldn't go on.
    Replay,
}

impl Code {
    /// The code as it is printed. It never changes.
    pub const fn as_str(self) -> &'static str {
        match self {
            Code::NoGenesis => "no_genesis",
            Code::Unsupported => "unsupported",
            Code::BadSignature => "bad_signature",
            Code::BadHead => "bad_head",
            Code::Gap => "gap",
            Code::Fork => "fork",
            Code::BrokenChain => "broken_chain",
            Code::MissingRequest => "missing_request",
            Code::InvalidBatch => "invalid_batch",
            Code::WrongOutcome => "wrong_outcome",
            Code::WrongRoot => "wrong_root",
            Code::WrongHead => "wrong_head",
            Code::UnexpectedEvent => "unexpected_event",
            Code::MissingSnapshot => "missing_snapshot",
            Code::MissingEvent => "missing_event",
            Code::BadProof => "bad_proof",
            Code::Replay => "replay",
        }
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The first thing found wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Failure {
    /// At which height.
    pub height: Option<u64>,
    /// At which machine, as far as that can be told.
    pub machine: Option<Hash>,
    /// What.
    pub code: Code,
    /// What was expected and what came.
    pub message: String,
}

impl Failure {
    pub(crate) fn new(code: Code, message: impl Into<String>) -> Self {
        Failure { height: None, machine: None, code, message: message.into() }
    }

    pub(crate) fn at(mut self, height: u64) -> Self {
        self.height = Some(height);
        self
    }

    pub(crate) fn of(mut self, machine: Option<Hash>) -> Self {
        self.machine = machine;
        self
    }
}
