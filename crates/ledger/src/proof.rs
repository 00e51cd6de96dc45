//! Proofs against a state root: a leaf with its value, or that a key has none. Checking one needs nothing but the root.
//!
//! Promises: for one root and key at most one value can be proven, and never presence and absence both (SHA-256);
//! decoding is bounded and a proof has one JSON form (RFC 8785). Refuses paths longer than a key's hash has bits.

use concordat_events::{Hash, json};
use serde::{Deserialize, Serialize};

use crate::limits::{PROOF_BYTES, PROOF_DEPTH};
use crate::tree::{bit, inner_hash, leaf_hash, place, shared_bits, value_hash};

/// What stands in the state tree under one key, and the way there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proof {
    /// The hashes beside the path, from the root down.
    pub(crate) path: Vec<Hash>,
    /// What is at its end.
    pub(crate) end: End,
}

/// The end of a proof's path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum End {
    /// The key's leaf.
    Value(String),
    /// Nothing at all.
    Empty,
    /// The leaf of another key whose hash begins like this one's: `[place, value hash]`.
    Other(Hash, Hash),
}

/// Why a proof proves nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProofError {
    /// Not the JSON of a proof, or larger than one.
    #[error("not a proof: {0}")]
    Malformed(String),
    /// It leads to another root.
    #[error("the proof leads to root {got}, the head's state root is {expected}")]
    Root {
        /// Where it leads.
        got: Hash,
        /// Where it should lead.
        expected: Hash,
    },
    /// It shows a leaf that has no place on this path.
    #[error("the proof shows another leaf that can't lie on the key's path")]
    Stray,
}

impl Proof {
    /// Reads a proof's JSON; only its canonical form is taken.
    pub fn parse(text: &str) -> Result<Self, ProofError> {
        if text.len() > PROOF_BYTES {
            return Err(ProofError::Malformed(format!("{} bytes; at most {PROOF_BYTES}", text.len())));
        }
        let proof: Proof = json::typed(text).map_err(|error| ProofError::Malformed(error.to_string()))?;
        if proof.path.len() > PROOF_DEPTH {
            return Err(ProofError::Malformed(format!("{} steps; at most {PROOF_DEPTH}", proof.path.len())));
        }
        if proof.to_json()? != text {
            return Err(ProofError::Malformed("not in canonical form".to_owned()));
        }
        Ok(proof)
    }

    /// The proof as RFC 8785 JSON.
    pub fn to_json(&self) -> Result<String, ProofError> {
        json::canonical(self).map_err(|error| ProofError::Malformed(error.to_string()))
    }

    /// What the state with this root holds under `key`: its value, or `None` if it has none.
    pub fn check(&self, root: &Hash, key: &[u8]) -> Result<Option<&str>, ProofError> {
        if self.path.len() > PROOF_DEPTH {
            return Err(ProofError::Malformed(format!("{} steps; at most {PROOF_DEPTH}", self.path.len())));
        }
        let place = place(key);
        let (mut hash, value) = match &self.end {
            End::Value(value) => (leaf_hash(&place, &value_hash(value.as_bytes())), Some(value.as_str())),
            End::Empty => (Hash::ZERO, None),
            End::Other(other, value) => {
                // The key's own leaf is no proof of its absence, and a leaf from elsewhere proves nothing here.
                if *other == place || shared_bits(other, &place) < self.path.len() {
                    return Err(ProofError::Stray);
                }
                (leaf_hash(other, value), None)
            }
        };
        for (depth, beside) in self.path.iter().enumerate().rev() {
            hash = if bit(&place, depth) { inner_hash(beside, &hash) } else { inner_hash(&hash, beside) };
        }
        if hash != *root {
            return Err(ProofError::Root { got: hash, expected: *root });
        }
        Ok(value)
    }
}

#[cfg(test)]
mod tests {
    use concordat_store::memory::MemoryStore;
    use proptest::prelude::*;

    use super::*;
    use crate::layer::{Certified, Overlay};
    use crate::tree::{Node, update, walk};

    fn prove(overlay: &Overlay<'_, Certified<MemoryStore>>, key: &[u8], value: &str) -> Proof {
        let (path, end) = walk(overlay, &place(key)).unwrap();
        let end = match end {
            Some(Node::Leaf { place: at, .. }) if at == place(key) => End::Value(value.to_owned()),
            Some(Node::Leaf { place, value }) => End::Other(place, value),
            _ => End::Empty,
        };
        Proof { path, end }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn every_key_has_a_proof_and_only_the_true_one(
            keys in prop::collection::btree_set(0u16..400, 0..60), asked in 0u16..400, other in 0u16..400,
        ) {
            let certified = Certified::new(MemoryStore::default());
            let mut overlay = Overlay::new(&certified);
            let text = |n: u16| format!("v{n}");
            let changes = keys.iter()
                .map(|n| (place(&n.to_be_bytes()), Some(value_hash(text(*n).as_bytes()))))
                .collect();
            let root = update(&mut overlay, changes).unwrap();
            let key = asked.to_be_bytes();
            let proof = prove(&overlay, &key, &text(asked));
            let value = text(asked);
            let expected = keys.contains(&asked).then_some(value.as_str());
            prop_assert_eq!(proof.check(&root, &key).unwrap(), expected);
            prop_assert_eq!(&Proof::parse(&proof.to_json().unwrap()).unwrap(), &proof);
            // Another value, presence for absence, absence for presence, another key's proof: none checks.
            let mut lie = proof.clone();
            lie.end = End::Value("lie".into());
            prop_assert!(lie.check(&root, &key).is_err());
            if expected.is_some() {
                lie.end = End::Other(place(&key), value_hash(text(asked).as_bytes()));
                prop_assert_eq!(lie.check(&root, &key), Err(ProofError::Stray));
                lie.end = End::Empty;
                prop_assert!(lie.check(&root, &key).is_err());
            }
            let elsewhere = prove(&overlay, &other.to_be_bytes(), &text(other));
            if let Ok(found) = elsewhere.check(&root, &key) {
                prop_assert_eq!(found, expected);
            }
            for step in 0..proof.path.len() {
                let mut bent = proof.clone();
                bent.path[step] = value_hash(b"bent");
                prop_assert!(bent.check(&root, &key).is_err());
            }
        }

        #[test]
        fn rubbish_is_refused_without_panic(text in ".{0,200}") {
            prop_assert!(Proof::parse(&text).is_err());
        }
    }

    #[test]
    fn the_json_form_is_pinned_and_bounded() {
        let proof = Proof { path: vec![Hash::ZERO], end: End::Value("{}".into()) };
        let zero = "0".repeat(64);
        let text = format!(r#"{{"end":{{"value":"{{}}"}},"path":["{zero}"]}}"#);
        assert_eq!(proof.to_json().unwrap(), text);
        assert!(Proof::parse(&format!(" {text}")).is_err());
        let long = Proof { path: vec![Hash::ZERO; PROOF_DEPTH + 1], end: End::Empty };
        assert!(Proof::parse(&long.to_json().unwrap()).is_err());
        assert!(long.check(&Hash::ZERO, b"k").is_err());
        assert!(Proof::parse(&" ".repeat(PROOF_BYTES + 1)).is_err());
    }
}
