//! Keyed records beside the context (EVENTS 1): what grows without bound.
//!
//! A machine's state holds only how many keys each record has and its root; the values live where
//! the caller keeps them, are read on demand through [`Records`], and change by the
//! [`RecordChange`]s of a step.
//!
//! The root commits to a set of (key, value) pairs whatever their order, so that a step costs what it
//! changes: each pair is hashed to a point of secp256k1, and the root is the sum of the points
//! (an elliptic curve multiset hash, Maitin-Shepard and others 2016), SEC1 compressed, or `00` for
//! none. Presence and absence of one key is proved by the state tree, in which each is a leaf.

use crate::cel::{Failure, Look};
use crate::json;
use crate::limits;
use crate::state::canonical;
use crate::step::RecordChange;
use secp256k1::{Parity, PublicKey, SECP256K1, XOnlyPublicKey};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt;

/// Where a machine's records are kept. It must hold what the steps so far have changed, no more and
/// no less.
pub trait Records: fmt::Debug {
    /// The value under a key. A store that can fail gives `None`, remembers its failure, and its
    /// owner looks before using the step.
    fn get(&self, record: &str, key: &str) -> Option<Value>;
}

/// A machine without records.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoRecords;

impl Records for NoRecords {
    fn get(&self, _: &str, _: &str) -> Option<Value> {
        None
    }
}

/// Records in memory, for runs offline.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryRecords(BTreeMap<String, BTreeMap<String, Value>>);

impl MemoryRecords {
    /// Applies what a step changed.
    pub fn apply(&mut self, changes: Vec<RecordChange>) {
        for RecordChange { record, key, value } in changes {
            let keys = self.0.entry(record).or_default();
            match value {
                Some(value) => keys.insert(key, value),
                None => keys.remove(&key),
            };
        }
    }

    /// The keys and values of one record, by key.
    pub fn iter(&self, record: &str) -> impl Iterator<Item = (&String, &Value)> {
        self.0.get(record).into_iter().flatten()
    }
}

impl Records for MemoryRecords {
    fn get(&self, record: &str, key: &str) -> Option<Value> {
        self.0.get(record)?.get(key).cloned()
    }
}

/// How many keys a record has, and its root.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Mark {
    count: u64,
    root: Option<PublicKey>,
}

/// A machine's records within a step.
#[derive(Clone, Debug)]
pub(crate) struct Ledger<'r> {
    kept: &'r dyn Records,
    marks: BTreeMap<String, Mark>,
    changes: BTreeMap<(String, String), Option<Value>>,
}

impl<'r> Ledger<'r> {
    /// Those of a machine that starts.
    pub(crate) fn empty(names: &[String], kept: &'r dyn Records) -> Self {
        let marks = names.iter().map(|name| (name.clone(), Mark::default())).collect();
        Self { kept, marks, changes: BTreeMap::new() }
    }

    /// Reads count and root of each record as a snapshot holds them; `None` if they aren't those of
    /// these names.
    pub(crate) fn read(names: &[String], snapshot: Option<&Value>, kept: &'r dyn Records) -> Option<Self> {
        let mut marks = BTreeMap::new();
        match snapshot {
            None if names.is_empty() => {}
            Some(Value::Object(map)) if map.len() == names.len() && !names.is_empty() => {
                for name in names {
                    let mark = map.get(name)?.as_object().filter(|m| m.len() == 2)?;
                    let count = mark.get("count")?.as_u64().filter(|&n| n <= limits::RECORD_KEYS)?;
                    let root = match mark.get("root")?.as_str()? {
                        "00" => None,
                        hex if hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) => {
                            Some(hex.parse::<PublicKey>().ok().filter(|p| p.to_string() == hex)?)
                        }
                        _ => return None,
                    };
                    if (count == 0) != root.is_none() {
                        return None;
                    }
                    marks.insert(name.clone(), Mark { count, root });
                }
            }
            _ => return None,
        }
        Some(Self { kept, marks, changes: BTreeMap::new() })
    }

    /// Count and root as the snapshot carries them; `None` for a machine without records.
    pub(crate) fn snapshot(&self) -> Option<Value> {
        if self.marks.is_empty() {
            return None;
        }
        let mark = |(name, mark): (&String, &Mark)| {
            let root = mark.root.map_or_else(|| "00".to_owned(), |p| p.to_string());
            (name.clone(), json!({ "count": mark.count, "root": root }))
        };
        Some(Value::Object(self.marks.iter().map(mark).collect::<Map<_, _>>()))
    }

    /// What the step changed, sorted.
    pub(crate) fn into_changes(self) -> Vec<RecordChange> {
        let change = |((record, key), value)| RecordChange { record, key, value };
        self.changes.into_iter().map(change).collect()
    }

    /// Puts a value under a key, or removes the key.
    pub(crate) fn change(&mut self, record: &str, key: &str, value: Option<Value>) -> Result<(), Failure> {
        if key.is_empty() || key.len() > limits::RECORD_KEY_BYTES {
            return Err(Failure::Error(format!("a key has 1 to {} bytes", limits::RECORD_KEY_BYTES)));
        }
        if let Some(value) = &value {
            if let Some(why) = json::unfit(value, 0) {
                return Err(Failure::Error(why));
            }
            if json::canonical_len(value) > limits::RECORD_VALUE_BYTES {
                let most = limits::RECORD_VALUE_BYTES;
                return Err(Failure::Error(format!("a record's value has at most {most} bytes")));
            }
        }
        let old = self.get(record, key);
        let place = (record.to_owned(), key.to_owned());
        if !self.changes.contains_key(&place) && self.changes.len() >= limits::RECORD_CHANGES {
            return Err(Failure::Cost(format!("a step changes at most {} keys", limits::RECORD_CHANGES)));
        }
        let mark = self.marks.entry(record.to_owned()).or_default();
        let mut count = mark.count;
        let mut root = mark.root;
        if let Some(old) = &old {
            root = sum(root, point(record, key, old).map(|p| p.negate(SECP256K1)));
            count = count.saturating_sub(1);
        }
        if let Some(new) = &value {
            root = sum(root, point(record, key, new));
            count += 1;
        }
        if count > limits::RECORD_KEYS {
            return Err(Failure::Error(format!("a record has at most {} keys", limits::RECORD_KEYS)));
        }
        *mark = Mark { count, root };
        self.changes.insert(place, value);
        Ok(())
    }
}

impl Look for Ledger<'_> {
    fn get(&self, record: &str, key: &str) -> Option<Value> {
        match self.changes.get(&(record.to_owned(), key.to_owned())) {
            Some(changed) => changed.clone(),
            None => self.kept.get(record, key),
        }
    }

    fn count(&self, record: &str) -> u64 {
        self.marks.get(record).map_or(0, |mark| mark.count)
    }
}

/// The root of a record from its keys and values, for whoever has them all: a reader of a snapshot.
pub fn root<'v>(record: &str, pairs: impl Iterator<Item = (&'v String, &'v Value)>) -> String {
    let total = pairs.fold(None, |total, (key, value)| sum(total, point(record, key, value)));
    total.map_or_else(|| "00".to_owned(), |p| p.to_string())
}

/// The sum of two points; `None` is the neutral element.
fn sum(a: Option<PublicKey>, b: Option<PublicKey>) -> Option<PublicKey> {
    match (a, b) {
        // The sum of opposites is the neutral element, which libsecp256k1 has no value for.
        (Some(a), Some(b)) => a.combine(&b).ok(),
        (a, b) => a.or(b),
    }
}

/// A pair as a point: the first x coordinate on the curve among the hashes of the pair and a counter,
/// with even y. Half of all hashes are one, so 256 tries fail with a chance of 2^-256.
fn point(record: &str, key: &str, value: &Value) -> Option<PublicKey> {
    let tag = Sha256::digest(b"concordat/record");
    let pair = Sha256::new()
        .chain_update(tag)
        .chain_update(tag)
        .chain_update(canonical(&json!([record, key, value])));
    (0..=u8::MAX).find_map(|n| {
        let x = pair.clone().chain_update([n]).finalize();
        Some(XOnlyPublicKey::from_slice(&x).ok()?.public_key(Parity::Even))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

        /// Whatever the order of puts and removes, count and root are those of what is there.
        #[test]
        fn root_and_count_are_those_of_the_set(
            steps in prop::collection::vec((0..5_u8, prop::option::weighted(0.7, 0..3_i64)), 1..24),
        ) {
            let names = ["r".to_owned()];
            let mut memory = MemoryRecords::default();
            let mut snapshot = Ledger::empty(&names, &NoRecords).snapshot();
            for (key, value) in steps {
                let kept = memory.clone();
                let mut ledger = Ledger::read(&names, snapshot.as_ref(), &kept).unwrap();
                ledger.change("r", &key.to_string(), value.map(Value::from)).unwrap();
                snapshot = ledger.snapshot();
                memory.apply(ledger.into_changes());
                let mark = &snapshot.as_ref().unwrap()["r"];
                prop_assert_eq!(mark["count"].as_u64().unwrap() as usize, memory.iter("r").count());
                let expected = root("r", memory.iter("r"));
                prop_assert_eq!(mark["root"].as_str().unwrap(), expected.as_str());
            }
        }
    }

    #[test]
    fn the_root_depends_on_record_key_and_value() {
        let of =
            |record: &str, key: &str, value: Value| root(record, [(&key.to_owned(), &value)].into_iter());
        let base = of("r", "k", json!(1));
        for other in [of("s", "k", json!(1)), of("r", "l", json!(1)), of("r", "k", json!("1"))] {
            assert_ne!(other, base);
        }
        assert_eq!(root("r", [].into_iter()), "00");
    }
}
