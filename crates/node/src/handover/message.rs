//! What custodians tell each other while shares are handed over: one word, signed by the identity key on top of mutual TLS, that
//! holds all a sender has for one receiver. Sending it again is harmless, so a lost one needs no care.

use std::collections::{BTreeMap, BTreeSet};

use concordat_events::hash::tagged;
use concordat_events::protobuf::Shape;
use concordat_events::{Hash, PublicKey};
use concordat_threshold::GroupKeys;
use prost::Message as _;

use crate::ceremony::message::{BundleError, open, seal};
use crate::keys::CustodianKeys;

/// Messages of the threshold ceremony in one word; it has eight kinds, one each.
const MESSAGES: usize = 16;

/// Fields of one word, counted before it is decoded.
const FIELDS: usize = 4 * MESSAGES;

/// Fields of one plan: two for each of 128 who take part, and room.
const PLAN_FIELDS: usize = 5 * 128;

/// All that one custodian has for another at one moment.
#[derive(Clone, PartialEq, prost::Message)]
#[prost(skip_debug)]
pub(super) struct Word {
    /// Chosen at random when the sender's process began.
    #[prost(bytes = "vec", tag = "1")]
    pub run: Vec<u8>,
    /// It has a share in force that it may deal.
    #[prost(bool, tag = "2")]
    pub deals: bool,
    /// The plan of the attempt, from who leads the ceremony.
    #[prost(bytes = "vec", tag = "3")]
    pub plan: Vec<u8>,
    /// The attempt that `messages` belong to.
    #[prost(bytes = "vec", tag = "4")]
    pub attempt: Vec<u8>,
    /// Messages of the threshold ceremony for this receiver.
    #[prost(bytes = "vec", repeated, tag = "5")]
    pub messages: Vec<Vec<u8>>,
    /// What came out of the attempt that the sender has ended well.
    #[prost(bytes = "vec", tag = "6")]
    pub transcript: Vec<u8>,
    /// The sender's confirmation of it.
    #[prost(bytes = "vec", tag = "7")]
    pub confirmation: Vec<u8>,
    /// The group's signature that came out of it.
    #[prost(bytes = "vec", tag = "8")]
    pub proof: Vec<u8>,
}

impl Drop for Word {
    fn drop(&mut self) {
        // The values of round 2 are in here.
        self.messages.iter_mut().for_each(zeroize::Zeroize::zeroize);
    }
}

impl Word {
    /// Signs and encodes it.
    pub fn seal(&self, keys: &CustodianKeys, proposal: Hash, sender: u16, receiver: u16) -> Vec<u8> {
        seal(self.encode_to_vec(), keys, proposal, sender, receiver)
    }

    /// Checks and decodes what `from`, as the channel says, sent to `own`. `identity` is `from`'s.
    pub fn open(
        bytes: &[u8],
        identity: &PublicKey,
        proposal: Hash,
        from: u16,
        own: u16,
    ) -> Result<Self, BundleError> {
        let malformed = || BundleError::Malformed { from, got: bytes.len() };
        let body = open(bytes, identity, proposal, from, own)?;
        Shape(&[]).check(&body, FIELDS).map_err(|_| malformed())?;
        let word = Word::decode(body.as_slice()).map_err(|_| malformed())?;
        match word.messages.len() <= MESSAGES && word.run.len() == 32 {
            true => Ok(word),
            false => Err(malformed()),
        }
    }
}

/// An attempt, as who leads the ceremony sets it up: who deals, and which process of each custodian takes part. Its hash is the
/// attempt's id, so who was told another one takes part in another attempt.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Attempt {
    /// Its id.
    pub id: Hash,
    /// Counts the attempts of one process of the leader.
    pub number: u32,
    /// Who deals.
    pub dealers: BTreeSet<u16>,
    /// Everybody who takes part, by the random number of its process.
    pub runs: BTreeMap<u16, Hash>,
    /// The public keys in force, which who comes into office doesn't know.
    pub keys: GroupKeys,
    /// As it came.
    pub bytes: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Plan {
    #[prost(uint32, tag = "1")]
    number: u32,
    #[prost(uint32, repeated, packed = "false", tag = "2")]
    dealers: Vec<u32>,
    #[prost(uint32, repeated, packed = "false", tag = "3")]
    members: Vec<u32>,
    #[prost(bytes = "vec", repeated, tag = "4")]
    runs: Vec<Vec<u8>>,
    #[prost(bytes = "vec", tag = "5")]
    keys: Vec<u8>,
}

impl Attempt {
    pub fn new(number: u32, dealers: BTreeSet<u16>, runs: BTreeMap<u16, Hash>, keys: GroupKeys) -> Self {
        let plan = Plan {
            number,
            dealers: dealers.iter().map(|number| u32::from(*number)).collect(),
            members: runs.keys().map(|number| u32::from(*number)).collect(),
            runs: runs.values().map(|run| run.as_bytes().to_vec()).collect(),
            keys: keys.to_bytes().to_vec(),
        };
        let bytes = plan.encode_to_vec();
        Attempt { id: id(&bytes), number, dealers, runs, keys, bytes }
    }

    /// Reads a plan. `None` if it isn't one.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        Shape(&[]).check(bytes, PLAN_FIELDS).ok()?;
        let plan = Plan::decode(bytes).ok()?;
        let numbers = |list: &[u32]| list.iter().map(|number| u16::try_from(*number).ok()).collect();
        let dealers: Option<BTreeSet<u16>> = numbers(&plan.dealers);
        let members: Option<Vec<u16>> =
            plan.members.iter().map(|number| u16::try_from(*number).ok()).collect();
        let runs: Option<Vec<Hash>> = plan.runs.iter().map(|run| Hash::from_slice(run)).collect();
        let (dealers, members, runs) = (dealers?, members?, runs?);
        if members.len() != runs.len() {
            return None;
        }
        Some(Attempt {
            id: id(bytes),
            number: plan.number,
            dealers,
            runs: members.into_iter().zip(runs).collect(),
            keys: GroupKeys::from_bytes(&plan.keys).ok()?,
            bytes: bytes.to_vec(),
        })
    }
}

fn id(bytes: &[u8]) -> Hash {
    tagged("concordat/handover/attempt", &[bytes])
}
