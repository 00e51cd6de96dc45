//! What a ceremony is about, and the hashes that bind everything to it.

use std::collections::{BTreeMap, BTreeSet};

use concordat_events::Confirming;
use concordat_events::hash::{Hash, Tagged, tagged};

use crate::keys::{GroupKeys, KeyShare};
use crate::limits::{MAX_CUSTODIANS, MIN_CUSTODIANS, MIN_THRESHOLD};
use crate::nonce::Commitment;
use crate::reshare::Deal;

use super::message::{Kind, Round1Package, View};

/// The parameters of one ceremony, as all its members signed them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Params {
    ceremony: Hash,
    roster: BTreeSet<u16>,
    own: u16,
    threshold: u16,
    /// Where the key comes from, if it is not made anew.
    source: Option<Source>,
}

/// The key that is handed over, and who deals it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Source {
    /// The old public keys.
    pub(crate) keys: GroupKeys,
    /// As many old holders as the old threshold says.
    pub(crate) dealers: BTreeSet<u16>,
    /// The change that the new shares are for.
    pub(crate) change: Confirming,
}

/// The share with which a member deals or helps: given exactly if it is asked for, its own, and of the key in question.
///
/// # Errors
/// [`ParamsError::OwnShare`] if it isn't.
pub(crate) fn asked<'a>(
    share: Option<&'a KeyShare>,
    wanted: bool,
    own: u16,
    keys: &GroupKeys,
) -> Result<Option<&'a KeyShare>, ParamsError> {
    let fits = share.is_none_or(|share| share.number() == own && share.keys() == keys);
    if share.is_some() == wanted && fits { Ok(share) } else { Err(ParamsError::OwnShare { own }) }
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
        Ok(Self { ceremony, roster, own, threshold, source: None })
    }

    /// As [`Params::new`], for handing a key over: `source.dealers` hold it now,
    /// `roster` will hold it, and the own number is among either.
    pub(crate) fn handing_over(
        attempt: Hash,
        source: Source,
        roster: BTreeSet<u16>,
        own: u16,
        threshold: u16,
    ) -> Result<Self, ParamsError> {
        let got = source.dealers.len();
        if got != usize::from(source.keys.threshold()) {
            return Err(ParamsError::Dealers { expected: source.keys.threshold(), got });
        }
        if let Some(number) = source.dealers.difference(source.keys.numbers()).next() {
            return Err(ParamsError::NoDealer { number: *number });
        }
        let first = roster.first().copied().unwrap_or_default();
        let deals = source.dealers.contains(&own);
        let stand_in = if deals && !roster.contains(&own) { first } else { own };
        let checked = Self::new(attempt, roster, stand_in, threshold)?;
        // The id covers all that must be equal at all members: who was told another
        // roster, threshold or key takes part in another ceremony.
        let mut id = Tagged::new("concordat/reshare/context");
        let Confirming { cluster, roster, proposal, .. } = &source.change;
        for hash in [cluster, roster, proposal, &attempt] {
            id.part(hash.as_bytes());
        }
        id.part(source.keys.to_bytes());
        for numbers in [&source.dealers, &checked.roster] {
            let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_be_bytes()).collect();
            id.part(&bytes);
        }
        id.part(&threshold.to_be_bytes());
        Ok(Self { ceremony: id.finish(), own, source: Some(source), ..checked })
    }

    /// The key that is handed over. None if a new one is made.
    pub(crate) fn source(&self) -> Option<&Source> {
        self.source.as_ref()
    }

    /// Who deals shares: all members of a new key, some holders of an old one.
    pub(crate) fn dealers(&self) -> &BTreeSet<u16> {
        self.source.as_ref().map_or(&self.roster, |source| &source.dealers)
    }

    /// True if this custodian deals.
    pub(crate) fn deals(&self) -> bool {
        self.dealers().contains(&self.own)
    }

    /// True if this custodian will hold a share.
    pub(crate) fn holds(&self) -> bool {
        self.roster.contains(&self.own)
    }

    /// True if this number takes part.
    pub(super) fn is_member(&self, number: u16) -> bool {
        self.roster.contains(&number) || self.dealers().contains(&number)
    }

    /// All who take part.
    pub(super) fn members(&self) -> BTreeSet<u16> {
        self.roster.union(self.dealers()).copied().collect()
    }

    /// Who sends messages of this kind. Anybody may end a ceremony.
    pub(super) fn sends(&self, number: u16, kind: Kind) -> bool {
        match kind {
            Kind::Round1 | Kind::Round2 => self.dealers().contains(&number),
            Kind::Abort => self.is_member(number),
            Kind::Echo | Kind::Confirm | Kind::TestCommit | Kind::TestShare | Kind::Done => {
                self.roster.contains(&number)
            }
        }
    }

    /// From how many others a message of this kind comes.
    pub(super) fn expected(&self, kind: Kind) -> usize {
        self.others().filter(|number| self.sends(*number, kind)).count()
    }

    /// The id of the ceremony.
    pub fn ceremony(&self) -> Hash {
        self.ceremony
    }

    /// The numbers of all who will hold a share.
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

    /// How many will hold a share.
    pub fn n(&self) -> usize {
        self.roster.len()
    }

    /// All members but this one.
    pub fn others(&self) -> impl Iterator<Item = u16> + '_ {
        self.members().into_iter().filter(|number| *number != self.own)
    }

    /// One hash per custodian over what it sent in round 1, in roster order.
    pub(super) fn round1_view(&self, packages: &BTreeMap<u16, Round1Package>) -> View {
        self.view("concordat/dkg/view/round1", packages, |p| p.to_bytes().to_vec())
    }

    /// One hash per dealer over its commitment.
    pub(super) fn deals_view(&self, deals: &BTreeMap<u16, Deal>) -> View {
        self.view("concordat/reshare/view/deals", deals, |deal| deal.to_bytes().to_vec())
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
        for (number, package) in self.dealers().iter().zip(round1.hashes()) {
            hash.part(&number.to_be_bytes()).part(package.as_bytes());
        }
        hash.part(keys.to_bytes());
        hash.finish()
    }

    /// What all members sign together at the end. A tagged hash of its own, so
    /// that it is never the id of an event. Of a key that is handed over it is what
    /// its new roster comes into force with (PROTOCOL section 9).
    pub(super) fn test_message(&self, transcript: Hash) -> [u8; 32] {
        let digest = match &self.source {
            Some(source) => source.change.ended_with(transcript).proof_digest(),
            None => tagged("concordat/dkg/test", &[self.ceremony.as_bytes(), transcript.as_bytes()]),
        };
        *digest.as_bytes()
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
    /// Not as many dealers as the old threshold says.
    #[error("the old group signs with {expected} custodians, so as many deal its key out anew, not {got}")]
    Dealers {
        /// The old threshold.
        expected: u16,
        /// How many were named.
        got: usize,
    },
    /// A dealer that has nothing to deal.
    #[error("custodian {number} is to deal but holds no share of the old group")]
    NoDealer {
        /// Its number.
        number: u16,
    },
    /// The own share is not one of the old group, or missing, or not asked for.
    #[error(
        "custodian {own} deals exactly if it has its share of the old group: the share given doesn't fit"
    )]
    OwnShare {
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
