//! Where everything lies: the keys of state leaves, and those of the indexes that follow from them.
//!
//! Leaf keys are text, so that a proof's reader can spell them; their order is the order of scans. Indexes stand outside
//! the tree: they can be derived from the leaves and decide nothing by themselves.

use concordat_events::{Hash, PublicKey};
use concordat_store::StoreError;

/// State leaves: the tree's contents.
const LEAVES: u8 = b'v';
/// Index of timers: due time, then machine.
const TIMERS: u8 = b'w';
/// Index of `source` filters: kind and author, then machine.
const SOURCES: u8 = b's';
/// Index of places in the state tree: place, then the leaf's key as its value.
const PLACES: u8 = b'p';
/// The certified head.
pub(crate) const TIP: &[u8] = b"tip";

/// The leaf of a machine: its state and all that changes with it. Its value is the JSON of a [`crate::Record`].
pub fn machine_key(machine: &Hash) -> Vec<u8> {
    format!("machine/{machine}").into_bytes()
}

/// The leaf of what never changes about a machine: its definition's text, tags and creator.
pub fn definition_key(machine: &Hash) -> Vec<u8> {
    format!("definition/{machine}").into_bytes()
}

/// The leaf that says that a request to a machine is settled, accepted or rejected, and at which height.
pub fn request_key(machine: &Hash, request: &Hash) -> Vec<u8> {
    format!("request/{machine}/{request}").into_bytes()
}

/// The leaf of one key of a machine's record. Names have no `/`; a key may.
pub fn record_key(machine: &Hash, record: &str, key: &str) -> Vec<u8> {
    format!("record/{machine}/{record}/{key}").into_bytes()
}

/// The leaf of what became of a message between machines: the JSON of a [`crate::Delivery`].
pub fn mail_key(receiver: &Hash, mail: &Hash) -> Vec<u8> {
    format!("mail/{receiver}/{mail}").into_bytes()
}

/// The leaf that says which machine has a (kind, `d`).
pub fn claim_key(kind: u16, d: &str) -> Vec<u8> {
    format!("d/{kind}:{d}").into_bytes()
}

/// The leaf that counts an author's running machines.
pub(crate) fn author_key(author: &PublicKey) -> Vec<u8> {
    format!("author/{author}").into_bytes()
}

/// The leaf of cluster, versions and the roster's hash.
pub const SYSTEM: &[u8] = b"system";

/// The leaf of the roster in force.
pub const ROSTER: &[u8] = b"roster";

/// What leaf keys of proposals begin with.
pub(crate) const PROPOSALS: &[u8] = b"proposal/";

/// The leaf of what a custodian proposes.
pub(crate) fn proposal_key(by: u16) -> Vec<u8> {
    [PROPOSALS, by.to_string().as_bytes()].concat()
}

/// The leaf with the next place in the queue of due events.
pub(crate) const QUEUE_NEXT: &[u8] = b"queue/next";

/// What leaf keys of queued effects begin with.
pub(crate) const QUEUED_EFFECTS: &[u8] = b"queue/effect/";

/// What leaf keys of queued snapshots begin with.
pub(crate) const QUEUED_SNAPSHOTS: &[u8] = b"queue/snapshot/";

/// What leaf keys of machines begin with.
pub(crate) const MACHINES: &[u8] = b"machine/";

/// A place in a queue, so that keys sort by it.
pub(crate) fn queue_key(queue: &[u8], place: u64) -> Vec<u8> {
    [queue, format!("{place:016x}").as_bytes()].concat()
}

/// A leaf's key in the store.
pub(crate) fn leaf(key: &[u8]) -> Vec<u8> {
    [&[LEAVES], key].concat()
}

/// The leaf key in a store key.
pub(crate) fn leaf_of(key: &[u8]) -> Option<&[u8]> {
    key.strip_prefix(&[LEAVES])
}

/// Where the key of the leaf at a place is noted.
pub(crate) fn placed(place: &Hash) -> Vec<u8> {
    [PLACE_PREFIX, place.as_bytes()].concat()
}

/// What the entries of the index of places begin with.
pub(crate) const PLACE_PREFIX: &[u8] = &[PLACES];

/// The place of an entry of that index.
pub(crate) fn place_of(key: &[u8]) -> Option<Hash> {
    Hash::from_slice(key.strip_prefix(PLACE_PREFIX)?)
}

/// Is this key part of the state that others ask for: tree, leaves, places?
pub(crate) fn is_state(key: &[u8]) -> bool {
    key.first().is_some_and(|first| [LEAVES, PLACES, crate::tree::NODES].contains(first))
}

/// What timer keys begin with.
pub(crate) const TIMER_PREFIX: &[u8] = &[TIMERS];

/// A timer's key.
pub(crate) fn timer(due_ms: u64, machine: &Hash) -> Vec<u8> {
    [TIMER_PREFIX, &due_ms.to_be_bytes(), machine.as_bytes()].concat()
}

/// Due time and machine of a timer's key.
pub(crate) fn timer_of(key: &[u8]) -> Option<(u64, Hash)> {
    let (due, machine) = key.strip_prefix(TIMER_PREFIX)?.split_at_checked(8)?;
    Some((u64::from_be_bytes(due.try_into().ok()?), Hash::from_slice(machine)?))
}

/// What the keys of machines begin with whose filters name this kind and this author, or none at all.
pub(crate) fn source_prefix(kind: Option<u16>, author: Option<&PublicKey>) -> Vec<u8> {
    let mut key = vec![SOURCES, u8::from(kind.is_some()), u8::from(author.is_some())];
    key.extend_from_slice(&kind.unwrap_or_default().to_be_bytes());
    key.extend_from_slice(author.map_or(&[0; 32], |author| author.as_bytes()));
    key
}

/// An entry of the index of sources.
pub(crate) fn source(prefix: &[u8], machine: &Hash) -> Vec<u8> {
    [prefix, machine.as_bytes()].concat()
}

/// The machine of an entry.
pub(crate) fn source_of(key: &[u8], prefix: &[u8]) -> Option<Hash> {
    Hash::from_slice(key.strip_prefix(prefix)?)
}

/// The error of a value that this program can't have written.
pub(crate) fn corrupt(key: &[u8], message: &str) -> StoreError {
    let key = key.iter().map(|byte| format!("{byte:02x}")).collect();
    StoreError::Corrupt { key, message: message.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_back_and_sort_by_time() {
        let machine = Hash::from_bytes([7; 32]);
        assert_eq!(timer_of(&timer(5, &machine)), Some((5, machine)));
        assert!(timer(255, &machine) < timer(256, &Hash::ZERO));
        assert!(queue_key(QUEUED_EFFECTS, 255) < queue_key(QUEUED_EFFECTS, 256));
        let author = nostr::Keys::generate().public_key();
        let mut prefixes = std::collections::BTreeSet::new();
        for kind in [None, Some(0), Some(1068)] {
            for author in [None, Some(&author)] {
                let prefix = source_prefix(kind, author);
                assert_eq!(source_of(&source(&prefix, &machine), &prefix), Some(machine));
                prefixes.insert(prefix);
            }
        }
        assert_eq!(prefixes.len(), 6);
        assert_eq!(leaf_of(&leaf(b"x")), Some(b"x".as_slice()));
    }
}
