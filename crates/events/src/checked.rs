//! BIP340 signatures that were found good before. A custodian meets most of them several times: a request comes from a relay, from
//! peers and in a batch; an opening shows a quorum of grants, each with a lock, each with a quorum of prepares, most of them the
//! same. A check costs some 50 us, remembering it a lookup.
//!
//! Promises: whether a signature is good depends on key, digest and signature alone, so what is remembered changes no answer, only
//! its price; it remembers nothing that it hasn't checked itself or that isn't a [`ValidEvent`]; what was refused is never
//! remembered; at most `2 * SIGNATURES_KEPT` signatures are held.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use secp256k1::schnorr::Signature;
use secp256k1::{Message, SECP256K1, XOnlyPublicKey};

use crate::ValidEvent;
use crate::hash::Hash;
use crate::limits::SIGNATURES_KEPT;

/// By which key, over what, the signature.
type Good = ([u8; 32], Hash, [u8; 64]);

/// See the module. Copies share what they remember.
#[derive(Clone, Default)]
pub struct Checked(Arc<Mutex<Generations>>);

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
    /// Is this the key's signature of the digest (BIP340)?
    pub fn signature(&self, key: &XOnlyPublicKey, digest: &Hash, signature: &Signature) -> bool {
        let message = Message::from_digest(*digest.as_bytes());
        let good = (key.serialize(), *digest, signature.serialize());
        self.known_or(good, || SECP256K1.verify_schnorr(signature, &message, key).is_ok())
    }

    /// Remembers the signature of an event, which has been checked.
    pub fn keep(&self, event: &ValidEvent) {
        self.remember((event.author().to_bytes(), event.id(), event.signature()));
    }

    /// Is an event's signature good? Its id must have been checked.
    pub(crate) fn event(&self, event: &nostr::Event) -> bool {
        let good = (event.pubkey.to_bytes(), event.id.into(), event.sig.serialize());
        self.known_or(good, || event.verify_signature())
    }

    fn known_or(&self, good: Good, check: impl FnOnce() -> bool) -> bool {
        let known = |all: &Generations| all.young.contains(&good) || all.old.contains(&good);
        if known(&self.lock()) {
            return true;
        }
        let is_good = check();
        if is_good {
            self.remember(good);
        }
        is_good
    }

    fn remember(&self, good: Good) {
        let mut all = self.lock();
        if all.young.len() >= SIGNATURES_KEPT {
            all.old = std::mem::take(&mut all.young);
        }
        all.young.insert(good);
    }

    fn lock(&self) -> MutexGuard<'_, Generations> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::EventError;
    use crate::hash::tagged;
    use nostr::{EventBuilder, JsonUtil, Keys, Kind};
    use std::cell::Cell;

    fn good(number: u64) -> Good {
        let key = Keys::generate().public_key().to_bytes();
        (key, tagged("test", &[&number.to_be_bytes()]), [7; 64])
    }

    #[test]
    fn what_was_good_is_not_checked_again_and_what_was_not_is() {
        let (checked, asked) = (Checked::default(), Cell::new(0));
        let ask = |good: Good, answer: bool| {
            checked.known_or(good, || {
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
    fn an_event_known_to_be_good_makes_no_other_good() {
        let keys = Keys::generate();
        let event = |text: &str| EventBuilder::new(Kind::from_u16(7501), text).sign_with_keys(&keys).unwrap();
        let (checked, first, second) = (Checked::default(), event("a"), event("b"));
        let valid = ValidEvent::parse_with(first.as_json().as_bytes(), &checked).unwrap();
        assert_eq!(ValidEvent::parse_with(first.as_json().as_bytes(), &checked).unwrap(), valid);
        let parse = |event: &nostr::Event| ValidEvent::parse_with(event.as_json().as_bytes(), &checked);
        // The known signature under another event, and another signature under the known event.
        let (mut forged, mut swapped, mut changed) = (second.clone(), first.clone(), first.clone());
        forged.sig = first.sig;
        swapped.sig = second.sig;
        changed.content = "c".into();
        assert!(matches!(parse(&forged), Err(EventError::WrongSignature { .. })));
        assert!(matches!(parse(&swapped), Err(EventError::WrongSignature { .. })));
        assert!(matches!(parse(&changed), Err(EventError::WrongId { .. })));
        // What is kept is found again.
        let third = ValidEvent::check(event("d")).unwrap();
        checked.keep(&third);
        assert!(checked.lock().young.contains(&(
            keys.public_key().to_bytes(),
            third.id(),
            third.signature()
        )));
        assert!(parse(third.event()).is_ok());
    }

    #[test]
    fn it_holds_a_bounded_number() {
        let (checked, one) = (Checked::default(), good(1));
        for number in 0..3 * SIGNATURES_KEPT as u64 {
            let mut signature = [0; 64];
            signature[..8].copy_from_slice(&number.to_be_bytes());
            assert!(checked.known_or((one.0, one.1, signature), || true));
        }
        let all = checked.lock();
        assert!(all.young.len() <= SIGNATURES_KEPT && all.old.len() <= SIGNATURES_KEPT);
        assert!(!all.young.is_empty());
    }
}
