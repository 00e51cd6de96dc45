//! A stand-in for the threshold signatures, for exploring the core: nonces and shares that may be copied, and that cost a hash.
//!
//! Promises: shares of different custodians, messages or sessions differ, and a share is checked like FROST's; shares of
//! different sessions don't combine ([`Sound`]), or do, where the exploration is to show that this would be fatal
//! ([`SharesCombine`], [`FewShares`]). The signature at the end is an ordinary BIP340 one, so that events, ledger and
//! certificates are what they are in production: the stand-in simply knows the group's key. It guards nothing and exists in no
//! build of the program.

use std::collections::{BTreeMap, BTreeSet};
use std::marker::PhantomData;
use std::sync::Arc;

use concordat_events::hash::{Hash, Tagged, tagged};
use concordat_finality::Scheme;
use concordat_threshold::{AggregateError, Commitment, SessionError, Sessions, Share, SignError};
use rand_core::{CryptoRng, RngCore};
use secp256k1::{Keypair, Message, SECP256K1, SecretKey};

/// What is wrong with a stand-in, on purpose.
pub trait Flaw: Send + Sync + 'static {
    /// Shares of one message combine whatever session they are of. FROST's don't; those of BLS would.
    const SHARES_COMBINE: bool = false;
    /// f+1 shares of one session suffice, instead of all t.
    const FEW_SHARES_SUFFICE: bool = false;
}

/// Nothing is wrong with it.
pub enum Sound {}
impl Flaw for Sound {}

/// See [`Flaw::SHARES_COMBINE`].
pub enum SharesCombine {}
impl Flaw for SharesCombine {
    const SHARES_COMBINE: bool = true;
}

/// See [`Flaw::FEW_SHARES_SUFFICE`].
pub enum FewShares {}
impl Flaw for FewShares {
    const FEW_SHARES_SUFFICE: bool = true;
}

/// The scheme.
pub struct StandIn<F: Flaw = Sound>(PhantomData<F>);

/// The group's key and who has a share of it.
#[derive(Clone)]
pub struct StandInKeys {
    group: Arc<Keypair>,
    numbers: BTreeSet<u16>,
    threshold: usize,
}

/// One custodian's share.
#[derive(Clone)]
pub struct StandInShare {
    /// Whose.
    pub number: u16,
    /// The group's keys.
    pub keys: StandInKeys,
}

/// A nonce: known by its commitment, which is all that there is to it.
#[derive(Clone)]
pub struct StandInNonce(Commitment);

impl StandInKeys {
    /// Keys of a group, from a seed.
    pub fn deal(numbers: BTreeSet<u16>, threshold: usize, seed: &[u8]) -> Self {
        StandInKeys { group: Arc::new(keypair("chaos/group", seed)), numbers, threshold }
    }

    /// The group's x-only public key.
    pub fn group_key(&self) -> [u8; 32] {
        self.group.x_only_public_key().0.serialize()
    }

    /// The group's signature of a message. Whoever calls this has enough shares.
    pub fn sign(&self, message: &[u8; 32]) -> [u8; 64] {
        SECP256K1.sign_schnorr_no_aux_rand(&Message::from_digest(*message), &self.group).serialize()
    }

    /// The share of a custodian for one message in one session.
    fn share<F: Flaw>(&self, number: u16, message: &[u8; 32], sessions: &Sessions) -> Option<Share> {
        let mut hasher = Tagged::new("chaos/share");
        hasher.part(&self.group.secret_bytes()).part(&number.to_be_bytes()).part(message);
        if !F::SHARES_COMBINE {
            for (signer, commitments) in sessions {
                hasher.part(&signer.to_be_bytes());
                for commitment in commitments {
                    hasher.part(&commitment.to_bytes());
                }
            }
        }
        Share::from_bytes(hasher.finish().as_bytes()).ok()
    }

    fn check(&self, sessions: &Sessions, messages: usize) -> Result<(), SessionError> {
        if sessions.len() != self.threshold {
            return Err(SessionError::SignerCount { expected: self.threshold, got: sessions.len() });
        }
        if let Some(number) = sessions.keys().find(|number| !self.numbers.contains(number)) {
            return Err(SessionError::UnknownSigner { number: *number });
        }
        match sessions.iter().find(|(_, commitments)| commitments.len() != messages) {
            Some((signer, commitments)) => Err(SessionError::CommitmentCount {
                signer: *signer,
                expected: messages,
                got: commitments.len(),
            }),
            None => Ok(()),
        }
    }
}

/// A keypair that a seed determines.
pub fn keypair(tag: &str, seed: &[u8]) -> Keypair {
    let mut hash = tagged(tag, &[seed]);
    loop {
        if let Ok(secret) = SecretKey::from_slice(hash.as_bytes()) {
            return Keypair::from_secret_key(SECP256K1, &secret);
        }
        hash = tagged(tag, &[hash.as_bytes()]);
    }
}

/// A commitment that a hash determines: two points, as FROST's.
fn commitment(name: &Hash) -> Option<Commitment> {
    let point = |half: u8| {
        keypair("chaos/commitment", &[name.as_bytes(), &[half][..]].concat()).public_key().serialize()
    };
    Commitment::from_bytes(&[point(0), point(1)].concat()).ok()
}

impl<F: Flaw> Scheme for StandIn<F> {
    type KeyShare = StandInShare;
    type GroupKeys = StandInKeys;
    type Nonce = StandInNonce;

    fn group_keys(share: &StandInShare) -> StandInKeys {
        share.keys.clone()
    }

    fn commit_many(
        share: &StandInShare,
        messages: usize,
        rng: &mut (impl RngCore + CryptoRng),
    ) -> Option<(Vec<StandInNonce>, Vec<Commitment>)> {
        let mut seed = [0; 32];
        rng.fill_bytes(&mut seed);
        (0..messages)
            .map(|index| {
                let name = tagged(
                    "chaos/nonce",
                    &[&share.number.to_be_bytes(), &seed, &u64::try_from(index).ok()?.to_be_bytes()],
                );
                let commitment = commitment(&name)?;
                Some((StandInNonce(commitment.clone()), commitment))
            })
            .collect::<Option<Vec<_>>>()
            .filter(|all| !all.is_empty())
            .map(|all| all.into_iter().unzip())
    }

    fn sign_many(
        share: &StandInShare,
        nonces: Vec<StandInNonce>,
        messages: &[[u8; 32]],
        sessions: &Sessions,
    ) -> Result<Vec<Share>, SignError> {
        share.keys.check(sessions, messages.len())?;
        let number = share.number;
        if nonces.len() != messages.len() {
            return Err(SignError::NonceCount { expected: messages.len(), got: nonces.len() });
        }
        let own = sessions.get(&number).ok_or(SignError::OwnMissing { number })?;
        if !own.iter().eq(nonces.iter().map(|nonce| &nonce.0)) {
            return Err(SignError::OwnAltered { number });
        }
        messages
            .iter()
            .map(|message| share.keys.share::<F>(number, message, sessions))
            .collect::<Option<Vec<_>>>()
            .ok_or(SignError::Library { reason: "a share that is no scalar".into() })
    }

    fn aggregate_many(
        keys: &StandInKeys,
        messages: &[[u8; 32]],
        sessions: &Sessions,
        shares: &BTreeMap<u16, Vec<Share>>,
    ) -> Result<Vec<[u8; 64]>, AggregateError> {
        keys.check(sessions, messages.len())?;
        if let Some(number) = shares.keys().find(|number| !sessions.contains_key(number)) {
            return Err(AggregateError::Stranger { number: *number });
        }
        let few = F::FEW_SHARES_SUFFICE && shares.len() > (keys.numbers.len() - 1) / 3;
        let missing: Vec<u16> =
            sessions.keys().filter(|number| !shares.contains_key(number)).copied().collect();
        if !missing.is_empty() && !few {
            return Err(AggregateError::Missing { numbers: missing });
        }
        let good = |number: &u16, list: &Vec<Share>| {
            let expected = messages.iter().map(|message| keys.share::<F>(*number, message, sessions));
            expected.eq(list.iter().map(|share| Some(*share)))
        };
        let numbers: Vec<u16> =
            shares.iter().filter(|(number, list)| !good(number, list)).map(|(number, _)| *number).collect();
        if !numbers.is_empty() {
            return Err(AggregateError::Culprits { numbers });
        }
        Ok(messages.iter().map(|message| keys.sign(message)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_chacha::ChaCha20Rng;
    use rand_core::SeedableRng;

    type Made = (StandInKeys, Sessions, BTreeMap<u16, Vec<Share>>);

    /// A session of custodians 1, 2 and 3 over one message.
    fn session<F: Flaw>(seed: u64, message: [u8; 32]) -> Made {
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let keys = StandInKeys::deal((1..=4).collect(), 3, b"test");
        let (mut sessions, mut nonces) = (Sessions::new(), BTreeMap::new());
        for number in 1..=3 {
            let share = StandInShare { number, keys: keys.clone() };
            let (nonce, commitments) = StandIn::<F>::commit_many(&share, 1, &mut rng).unwrap();
            sessions.insert(number, commitments);
            nonces.insert(number, nonce);
        }
        let shares = nonces
            .into_iter()
            .map(|(number, nonces)| {
                let share = StandInShare { number, keys: keys.clone() };
                (number, StandIn::<F>::sign_many(&share, nonces, &[message], &sessions).unwrap())
            })
            .collect();
        (keys, sessions, shares)
    }

    #[test]
    fn shares_of_different_sessions_dont_combine() {
        let (keys, one, shares) = session::<Sound>(1, [7; 32]);
        let (_, _, others) = session::<Sound>(2, [7; 32]);
        assert!(StandIn::<Sound>::aggregate_many(&keys, &[[7; 32]], &one, &shares).is_ok());
        let mut mixed = shares.clone();
        mixed.insert(2, others[&2].clone());
        let refused = StandIn::<Sound>::aggregate_many(&keys, &[[7; 32]], &one, &mixed);
        assert_eq!(refused, Err(AggregateError::Culprits { numbers: vec![2] }));
        mixed.remove(&2);
        let refused = StandIn::<Sound>::aggregate_many(&keys, &[[7; 32]], &one, &mixed);
        assert_eq!(refused, Err(AggregateError::Missing { numbers: vec![2] }));
    }

    #[test]
    fn the_flawed_ones_are_flawed() {
        let (keys, one, mut shares) = session::<SharesCombine>(1, [7; 32]);
        let (_, _, others) = session::<SharesCombine>(2, [7; 32]);
        shares.insert(2, others[&2].clone());
        assert!(StandIn::<SharesCombine>::aggregate_many(&keys, &[[7; 32]], &one, &shares).is_ok());
        let (keys, one, mut shares) = session::<FewShares>(1, [7; 32]);
        shares.remove(&3);
        assert!(StandIn::<FewShares>::aggregate_many(&keys, &[[7; 32]], &one, &shares).is_ok());
        shares.remove(&2);
        assert!(StandIn::<FewShares>::aggregate_many(&keys, &[[7; 32]], &one, &shares).is_err());
    }
}
