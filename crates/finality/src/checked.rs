//! Signatures of custodians that were found good before. An opening shows a quorum of grants, each with a lock, each with a quorum of
//! prepares, most of them the same; repeated messages carry them again. A check costs some 50 us, remembering it a lookup.
//!
//! Promises: whether a signature is good depends on key, digest and signature alone, so what is remembered changes no answer, only
//! its price; what was refused is never remembered; at most `2 * KEPT` signatures are held.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use concordat_events::Hash;
use secp256k1::XOnlyPublicKey;

use crate::limits::SIGNATURES_KEPT as KEPT;

/// By whom, over what, the signature.
type Good = (XOnlyPublicKey, Hash, [u8; 64]);

/// See the module. Copies share what they remember.
#[derive(Clone, Default)]
pub(crate) struct Checked(Arc<Mutex<Generations>>);

/// What was met of late, and what was met before that.
#[derive(Default)]
struct Generations {
    young: HashSet<Good>,
    old: HashSet<Good>,
}

impl std::fmt::Debug for Checked {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Checked")
    }
}

impl Checked {
    /// Was this found good before, or is it by `check`?
    pub(crate) fn or(&self, good: Good, check: impl FnOnce() -> bool) -> bool {
        let known = |all: &Generations| all.young.contains(&good) || all.old.contains(&good);
        if known(&self.0.lock().unwrap_or_else(PoisonError::into_inner)) {
            return true;
        }
        let is_good = check();
        if is_good {
            let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if all.young.len() >= KEPT {
                all.old = std::mem::take(&mut all.young);
            }
            all.young.insert(good);
        }
        is_good
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    fn good(number: u64) -> Good {
        let keys = nostr::Keys::generate();
        let key = keys.public_key().xonly().unwrap();
        (key, concordat_events::hash::tagged("test", &[&number.to_be_bytes()]), [7; 64])
    }

    #[test]
    fn what_was_good_is_not_checked_again_and_what_was_not_is() {
        let (checked, asked) = (Checked::default(), Cell::new(0));
        let ask = |good: Good, answer: bool| {
            checked.or(good, || {
                asked.set(asked.get() + 1);
                answer
            })
        };
        let one = good(1);
        assert!(!ask(one, false));
        assert!(ask(one, true), "a refusal was remembered");
        assert!(ask(one, false), "what was good is good");
        assert_eq!(asked.get(), 2);
        // Another signature, digest or key is another question.
        assert!(!ask((one.0, one.1, [8; 64]), false));
        assert!(!ask((one.0, good(2).1, one.2), false));
        assert!(!ask((good(1).0, one.1, one.2), false));
    }

    #[test]
    fn it_holds_a_bounded_number() {
        let checked = Checked::default();
        let one = good(1);
        for number in 0..3 * KEPT as u64 {
            let mut signature = [0; 64];
            signature[..8].copy_from_slice(&number.to_be_bytes());
            assert!(checked.or((one.0, one.1, signature), || true));
        }
        let all = checked.0.lock().unwrap();
        assert!(all.young.len() <= KEPT && all.old.len() <= KEPT && !all.young.is_empty());
    }
}
