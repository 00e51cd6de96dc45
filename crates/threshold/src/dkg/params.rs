//! What a ceremony is about, and the hashes that bind everything to it.

use std::collections::{BTreeMap, BTreeSet};

use concordat_events::hash::{Hash, Tagged, tagged};

use crate::keys::GroupKeys;
use crate::limits::{MAX_CUSTODIANS, MIN_CUSTODIANS, MIN_THRESHOLD};
use crate::nonce::Commitment;

use super::message::{Round1Package, View};

/// The parameters of one ceremony, as all its members signed them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Params {
    ceremony: Hash,
    roster: BTreeSet<u16>,
    own: u16,
    threshold: u16,
}

impl Params {
    /// Checks the parameters. `ceremony` is the hash of the signed proposal and
    /// binds every message; `roster` holds the numbers of all members, `own`
    /// among them; `threshold` is how many of them must sign.
    ///
    /// # Errors
    /// [`ParamsError`] says which of them can't be.
    pub fn new(ceremony: Hash, roster: BTreeSet<u16>, own: u16, threshold: u16) -> Result<Self, ParamsError> {
        let n = roster.len();
        if !(MIN_CUSTODIANS..=MAX_CUSTODIANS).contains(&n) {
            return Err(ParamsError::Count { got: n });
        }
        if roster.contains(&0) {
            return Err(ParamsError::Zero);
        }
        if !roster.contains(&own) {
            return Err(ParamsError::NotMember { own });
        }
        if threshold < MIN_THRESHOLD || usize::from(threshold) > n {
            return Err(ParamsError::Threshold { threshold, n });
        }
        Ok(Self { ceremony, roster, own, threshold })
    }

    /// The id of the ceremony.
    pub fn ceremony(&self) -> Hash {
        self.ceremony
    }

    /// The numbers of all members.
    pub fn roster(&self) -> &BTreeSet<u16> {
        &self.roster
    }

    /// The own number.
    pub fn own(&self) -> u16 {
        self.own
    }

    /// How many members must sign.
    pub fn threshold(&self) -> u16 {
        self.threshold
    }

    /// How many members there are.
    pub fn n(&self) -> usize {
        self.roster.len()
    }

    /// All members but this one.
    pub fn others(&self) -> impl Iterator<Item = u16> + '_ {
        self.roster.iter().copied().filter(|number| *number != self.own)
    }

    /// One hash per custodian over what it sent in round 1, in roster order.
    pub(super) fn round1_view(&self, packages: &BTreeMap<u16, Round1Package>) -> View {
        self.view("concordat/dkg/view/round1", packages, |p| p.to_bytes().to_vec())
    }

    /// One hash per custodian over its nonce commitment for the test signature.
    pub(super) fn test_view(&self, commitments: &BTreeMap<u16, Commitment>) -> View {
        self.view("concordat/dkg/view/test", commitments, |c| c.to_bytes().to_vec())
    }

    fn view<T>(&self, tag: &str, from: &BTreeMap<u16, T>, bytes: fn(&T) -> Vec<u8>) -> View {
        let ceremony = self.ceremony.as_bytes();
        let hash =
            |(number, value): (&u16, &T)| tagged(tag, &[ceremony, &number.to_be_bytes(), &bytes(value)]);
        View::of(from.iter().map(hash).collect())
    }

    /// The hash that all members confirm: of the parameters, of all round-1
    /// packages and of the public keys that came out.
    pub(super) fn transcript(&self, round1: &View, keys: &GroupKeys) -> Hash {
        let mut hash = Tagged::new("concordat/dkg/transcript");
        hash.part(self.ceremony.as_bytes());
        hash.part(&self.threshold.to_be_bytes());
        for (number, package) in self.roster.iter().zip(round1.hashes()) {
            hash.part(&number.to_be_bytes()).part(package.as_bytes());
        }
        hash.part(keys.to_bytes());
        hash.finish()
    }

    /// What all members sign together at the end. A tagged hash of its own, so
    /// that it is never the id of an event.
    pub(super) fn test_message(&self, transcript: Hash) -> [u8; 32] {
        let parts: [&[u8]; 2] = [self.ceremony.as_bytes(), transcript.as_bytes()];
        *tagged("concordat/dkg/test", &parts).as_bytes()
    }
}

/// Why there can be no such ceremony.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParamsError {
    /// Too few or too many members.
    #[error("a group has {MIN_CUSTODIANS} to {MAX_CUSTODIANS} custodians, this roster has {got}")]
    Count {
        /// How many there are.
        got: usize,
    },
    /// Zero is no custodian's number: it is where the secret would be.
    #[error("custodian numbers begin with 1, this roster holds 0")]
    Zero,
    /// The own number is not in the roster.
    #[error("custodian {own} is not in the roster of this ceremony")]
    NotMember {
        /// The own number.
        own: u16,
    },
    /// No group of this size has such a threshold.
    #[error("threshold {threshold} is not between {MIN_THRESHOLD} and {n}, the number of custodians")]
    Threshold {
        /// The threshold asked for.
        threshold: u16,
        /// The number of members.
        n: usize,
    },
    /// The FROST library refused to begin.
    #[error("the FROST library refused to begin the ceremony: {reason}")]
    Library {
        /// What it said.
        reason: String,
    },
}
