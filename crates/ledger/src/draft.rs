//! What comes out of execution: the head, the events it makes due, and the writes that would make it certified.

use concordat_events::{Charter, Genesis, PublicKey};
use concordat_events::{Hash, Head, Outcome, Reason, Template};
use concordat_store::StoreError;
use serde::{Deserialize, Serialize};

use crate::keys::{TIP, corrupt};
use crate::layer::Writes;

/// The certified head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tip {
    /// Its height.
    pub height: u64,
    /// Its id: that of its log event.
    pub id: Hash,
    /// Its time, ms since 1970.
    pub time_ms: u64,
    /// The head.
    pub head: Head,
}

/// A head computed on an overlay of the certified state. Dropping it forgets it; [`crate::Ledger::install`] takes it.
#[derive(Clone, Debug)]
pub struct Draft {
    /// The head.
    pub head: Head,
    /// Its id.
    pub id: Hash,
    /// M(h): the log event first, then effects, then snapshots, each oldest due first.
    pub messages: Vec<Template>,
    /// The machines that took a step, in the order of their ids.
    pub touched: Vec<Hash>,
    /// What it puts in force instead of what was.
    pub charter: Option<Charter>,
    pub(crate) next_due_ms: Option<u64>,
    pub(crate) writes: Writes,
}

impl Draft {
    /// When the state after this head first needs an empty batch (see [`crate::Ledger::next_due_ms`]).
    pub fn next_due_ms(&self) -> Option<u64> {
        self.next_due_ms
    }
}

/// The tip as it is stored.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct StoredTip {
    id: Hash,
    cluster: Hash,
    height: u64,
    parent: Hash,
    batches_root: Hash,
    state_root: Hash,
    time_ms: u64,
    roster: Hash,
    batches: Vec<(u64, u32)>,
    outcomes: Vec<(Hash, Option<String>)>,
    genesis: Option<Box<Genesis>>,
    next_due_ms: Option<u64>,
}

impl StoredTip {
    pub(crate) fn new(id: Hash, head: &Head, next_due_ms: Option<u64>) -> Self {
        let outcomes = head.outcomes.iter().map(|(id, outcome)| (*id, outcome.reason().map(str::to_owned)));
        StoredTip {
            id,
            cluster: head.cluster,
            height: head.height,
            parent: head.parent,
            batches_root: head.batches_root,
            state_root: head.state_root,
            time_ms: head.time_ms,
            roster: head.roster,
            batches: head.batches.clone(),
            outcomes: outcomes.collect(),
            genesis: head.genesis.clone(),
            next_due_ms,
        }
    }

    pub(crate) fn encode(&self) -> Result<Vec<u8>, StoreError> {
        serde_json::to_vec(self).map_err(|error| corrupt(TIP, &error.to_string()))
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        serde_json::from_slice(bytes).map_err(|error| corrupt(TIP, &error.to_string()))
    }

    pub(crate) fn height(&self) -> u64 {
        self.height
    }

    pub(crate) fn next_due_ms(&self) -> Option<u64> {
        self.next_due_ms
    }

    /// The tip, if its head really has the id it is stored under.
    pub(crate) fn tip(self, group: PublicKey, log_kind: u16) -> Result<Tip, StoreError> {
        let outcome = |(id, code): (Hash, Option<String>)| match code {
            None => Some((id, Outcome::Ok)),
            Some(code) => Reason::new(&code).map(|reason| (id, Outcome::Rejected(reason))),
        };
        let outcomes: Option<Vec<_>> = self.outcomes.into_iter().map(outcome).collect();
        let head = Head {
            cluster: self.cluster,
            height: self.height,
            parent: self.parent,
            batches_root: self.batches_root,
            state_root: self.state_root,
            time_ms: self.time_ms,
            roster: self.roster,
            batches: self.batches,
            outcomes: outcomes.ok_or_else(|| corrupt(TIP, "an outcome has a malformed reason"))?,
            genesis: self.genesis,
        };
        let template = head.log_event(group, log_kind).map_err(|error| corrupt(TIP, &error.to_string()))?;
        if template.id() != self.id {
            return Err(corrupt(TIP, "the head doesn't have the id it is stored under"));
        }
        Ok(Tip { height: head.height, id: self.id, time_ms: head.time_ms, head })
    }
}
