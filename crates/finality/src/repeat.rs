//! What a custodian says again, byte for byte, at growing intervals until something newer takes its place: networks lose
//! messages, and nobody asks for what it doesn't know of (PROTOCOL 3).

use std::collections::BTreeMap;

use crate::message::Msg;

/// What is repeated; a newer message of the same slot takes the place of the older.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Slot {
    /// The question at the start.
    Question,
    /// The own complaint.
    Complaint,
    /// The own grant.
    Grant,
    /// Evidence against one custodian.
    Evidence(u16),
    /// The own lock.
    Lock,
    /// The leader's proposal.
    Propose,
    /// The own prepare.
    Prepare,
    /// The leader's session.
    Certify,
    /// The own share.
    Share,
}

#[derive(Clone, Debug)]
struct Repeat {
    message: Msg,
    /// One peer, or everybody.
    to: Option<u16>,
    next_ms: u64,
    interval_ms: u64,
}

/// Everything that is repeated.
#[derive(Clone, Debug, Default)]
pub struct Repeats {
    slots: BTreeMap<Slot, Repeat>,
}

/// Intervals grow to this many timeouts.
const LONGEST: u64 = 16;

impl Repeats {
    /// Repeats a message, first after a quarter of the timeout.
    pub fn set(&mut self, slot: Slot, message: Msg, to: Option<u16>, now_ms: u64, timeout_ms: u64) {
        let interval_ms = (timeout_ms / 4).max(1);
        self.slots.insert(slot, Repeat { message, to, next_ms: now_ms + interval_ms, interval_ms });
    }

    /// Stops repeating.
    pub fn clear(&mut self, slot: Slot) {
        self.slots.remove(&slot);
    }

    /// What is due, to whom.
    pub fn due(&mut self, now_ms: u64, timeout_ms: u64) -> Vec<(Option<u16>, Msg)> {
        let mut due = Vec::new();
        for repeat in self.slots.values_mut().filter(|repeat| repeat.next_ms <= now_ms) {
            due.push((repeat.to, repeat.message.clone()));
            repeat.interval_ms = (repeat.interval_ms * 2).min(timeout_ms * LONGEST);
            repeat.next_ms = now_ms + repeat.interval_ms;
        }
        due
    }

    /// When the next repeat is due.
    pub fn next_ms(&self) -> Option<u64> {
        self.slots.values().map(|repeat| repeat.next_ms).min()
    }
}
