//! Proofs of a machine's state, which come from any custodian. Input: a key on the first line, then a proof's JSON.

use concordat_events::Hash;
use concordat_ledger::{Proof, ProofError};

use super::bounded;

pub fn run(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    let (key, text) = text.split_once('\n').unwrap_or(("", text));
    let proof = match Proof::parse(text) {
        Ok(proof) => proof,
        Err(error) => {
            bounded(&error);
            return false;
        }
    };
    assert_eq!(proof.to_json().unwrap(), text, "a second spelling was accepted");
    // Wherever it leads, it leads to one root only and says one thing about the key.
    match proof.check(&Hash::ZERO, key.as_bytes()) {
        Ok(value) => assert_eq!(value, None, "a value under the root of an empty tree"),
        Err(ProofError::Root { got, .. }) => {
            proof.check(&got, key.as_bytes()).unwrap();
            let other = Hash::from_bytes(got.as_bytes().map(|byte| !byte));
            assert!(proof.check(&other, key.as_bytes()).is_err());
        }
        Err(error) => bounded(&error),
    }
    true
}
