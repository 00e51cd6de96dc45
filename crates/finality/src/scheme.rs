//! The threshold signatures that certify heads, as a parameter: the core's rules don't depend on how shares are computed, so
//! that they can be explored with a scheme whose nonces may be copied. Production has one scheme, [`Frost`].

use std::collections::BTreeMap;

use concordat_threshold::{
    AggregateError, Commitment, GroupKeys, KeyShare, Nonce, Sessions, Share, SignError, aggregate_many,
    commit_many, sign_many,
};
use rand_core::{CryptoRng, RngCore};

/// What the core needs of a threshold signature scheme: two rounds and a BIP340 signature at the end. Commitments and shares
/// have one form for all schemes, because they travel; secrets are the scheme's own.
pub trait Scheme: Send + Sync + 'static {
    /// One custodian's secret share of the group's key.
    type KeyShare: Send;
    /// What everybody knows of the group's key and its shares.
    type GroupKeys: Send;
    /// The secret behind one commitment. Used once.
    type Nonce: Send;

    /// The public side of a share.
    fn group_keys(share: &Self::KeyShare) -> Self::GroupKeys;

    /// First round: fresh nonces, one for each message of a head. `None` if no head has so many.
    fn commit_many(
        share: &Self::KeyShare,
        messages: usize,
        rng: &mut (impl RngCore + CryptoRng),
    ) -> Option<(Vec<Self::Nonce>, Vec<Commitment>)>;

    /// Second round: the shares of all messages, all or none. Uses the nonces up, also on failure.
    fn sign_many(
        share: &Self::KeyShare,
        nonces: Vec<Self::Nonce>,
        messages: &[[u8; 32]],
        sessions: &Sessions,
    ) -> Result<Vec<Share>, SignError>;

    /// Joins the shares of all messages to the group's BIP340 signatures, all or none.
    fn aggregate_many(
        keys: &Self::GroupKeys,
        messages: &[[u8; 32]],
        sessions: &Sessions,
        shares: &BTreeMap<u16, Vec<Share>>,
    ) -> Result<Vec<[u8; 64]>, AggregateError>;
}

/// FROST(secp256k1, SHA-256) with BIP340 signatures (RFC 9591): the scheme of every cluster.
///
/// A core that signs with it can't be copied, because its nonces can't:
/// ```compile_fail,E0277
/// use concordat_finality::{Decider, Entropy, Identity};
/// use concordat_store::memory::MemoryStore;
/// fn copy(decider: &Decider<MemoryStore>, identity: Box<dyn Identity>, entropy: Box<dyn Entropy>) {
///     decider.fork(MemoryStore::new().into(), identity, entropy);
/// }
/// ```
#[derive(Clone, Copy, Debug)]
pub enum Frost {}

impl Scheme for Frost {
    type KeyShare = KeyShare;
    type GroupKeys = GroupKeys;
    type Nonce = Nonce;

    fn group_keys(share: &KeyShare) -> GroupKeys {
        share.keys().clone()
    }

    fn commit_many(
        share: &KeyShare,
        messages: usize,
        rng: &mut (impl RngCore + CryptoRng),
    ) -> Option<(Vec<Nonce>, Vec<Commitment>)> {
        commit_many(share, messages, rng)
    }

    fn sign_many(
        share: &KeyShare,
        nonces: Vec<Nonce>,
        messages: &[[u8; 32]],
        sessions: &Sessions,
    ) -> Result<Vec<Share>, SignError> {
        sign_many(share, nonces, messages, sessions)
    }

    fn aggregate_many(
        keys: &GroupKeys,
        messages: &[[u8; 32]],
        sessions: &Sessions,
        shares: &BTreeMap<u16, Vec<Share>>,
    ) -> Result<Vec<[u8; 64]>, AggregateError> {
        aggregate_many(keys, messages, sessions, shares)
    }
}
