//! What a custodian sends to the others, counted by kind: what one head costs can be asked of a running custodian.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use concordat_events::protobuf::{Fields, Value};

/// A kind of traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Sent {
    /// Consensus messages, by the kind that their envelope names.
    Message(u32),
    /// Appends of a log group that carry entries.
    Entries,
    /// Appends without entries: heartbeats, and word of what is committed.
    Pulse,
    /// Requests for a vote.
    Vote,
    /// Signs of life asked for.
    Fetch,
    /// Steps of a key ceremony.
    Ceremony,
}

/// How much of one kind left, and what came back for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// Messages, or requests.
    pub messages: u64,
    /// Their bytes, without the frames of the connection.
    pub bytes: u64,
    /// Answers to the requests.
    pub answers: u64,
    /// Their bytes.
    pub answer_bytes: u64,
}

/// The counters of one custodian since its start. Kinds are few: it counts only what it makes itself.
#[derive(Debug, Default)]
pub(super) struct Traffic(Mutex<BTreeMap<Sent, Count>>);

impl Traffic {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Sent, Count>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A message or a request left.
    pub fn sent(&self, kind: Sent, bytes: usize) {
        let mut counts = self.lock();
        let count = counts.entry(kind).or_default();
        count.messages += 1;
        count.bytes += bytes as u64;
    }

    /// A request was answered.
    pub fn answered(&self, kind: Sent, bytes: usize) {
        let mut counts = self.lock();
        let count = counts.entry(kind).or_default();
        count.answers += 1;
        count.answer_bytes += bytes as u64;
    }

    /// Everything so far.
    pub fn counts(&self) -> BTreeMap<Sent, Count> {
        self.lock().clone()
    }
}

/// The kind of a consensus message: the third field of its envelope. 0 if it has none.
pub(super) fn message(envelope: &[u8]) -> Sent {
    let kind = Fields::of(envelope).flatten().find_map(|field| match field.value {
        Value::Varint(kind) if field.number == 3 => u32::try_from(kind).ok(),
        _ => None,
    });
    Sent::Message(kind.unwrap_or_default())
}

/// The kind of an append: its fourth field is an entry.
pub(super) fn append(request: &[u8]) -> Sent {
    match Fields::of(request).flatten().any(|field| field.number == 4) {
        true => Sent::Entries,
        false => Sent::Pulse,
    }
}

#[cfg(test)]
mod tests {
    use concordat_finality::message::Kind;
    use concordat_finality::wire;
    use prost::Message as _;

    use super::*;
    use crate::proto::peer as pb;

    #[test]
    fn kinds_are_read_where_the_messages_have_them() {
        let mut envelope =
            wire::Envelope { sender: 3, seq: 9, kind: Kind::Share as u32, ..wire::Envelope::default() };
        envelope.body = vec![1; 500];
        assert_eq!(message(&envelope.encode_to_vec()), Sent::Message(Kind::Share as u32));
        assert_eq!(message(&[0xff]), Sent::Message(0));
        let mut request = pb::RaftAppendRequest { epoch: 7, ..pb::RaftAppendRequest::default() };
        request.committed = Some(pb::RaftLogId { term: 1, index: 2 });
        assert_eq!(append(&request.encode_to_vec()), Sent::Pulse);
        request.entries = vec![pb::RaftEntry::default()];
        assert_eq!(append(&request.encode_to_vec()), Sent::Entries);
    }
}
