//! What never changes while a roster is in force: who the custodians are, and what every signature binds.

use concordat_events::hash::{Hash, tagged};
use concordat_events::{Genesis, PublicKey, Roster};
use secp256k1::schnorr::Signature;
use secp256k1::{Message as Digest, SECP256K1, XOnlyPublicKey};
use std::collections::{BTreeMap, BTreeSet};

use crate::message::{MessageError, Vote};
use crate::rules::{Law, Rule, Rules};

/// The cluster as every custodian knows it from the genesis.
#[derive(Clone, Debug)]
pub struct Context {
    /// The genesis.
    pub genesis: Genesis,
    /// The cluster's id.
    pub cluster: Hash,
    /// The roster in force.
    pub roster: Roster,
    /// Its hash.
    pub roster_hash: Hash,
    identities: BTreeMap<u16, XOnlyPublicKey>,
    counting: Counting,
}

/// How votes are counted where messages are read: the law's, unless a mutant says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Counting {
    quorum: usize,
    grants: usize,
    prepares_bind_epoch: bool,
}

impl Counting {
    fn under<R: Rules>(roster: &Roster) -> Self {
        let quorum = if R::keeps(Rule::QuorumOutvotesLiars) { roster.q() } else { roster.n() / 2 + 1 };
        let grants = if R::keeps(Rule::GrantsOpenByQuorum) { quorum } else { roster.f() + 1 };
        Counting { quorum, grants, prepares_bind_epoch: R::keeps(Rule::PrepareBindsEpoch) }
    }
}

/// Signs with a custodian's identity key (BIP340 over a tagged hash). The key itself never enters the core.
pub trait Identity: Send {
    /// The signature over `digest`.
    fn sign(&self, digest: &Hash) -> [u8; 64];
}

impl Identity for secp256k1::Keypair {
    fn sign(&self, digest: &Hash) -> [u8; 64] {
        SECP256K1.sign_schnorr_no_aux_rand(&Digest::from_digest(*digest.as_bytes()), self).serialize()
    }
}

impl Context {
    /// The context of a checked genesis.
    pub fn new(genesis: Genesis) -> Result<Self, concordat_events::genesis::GenesisError> {
        genesis.check()?;
        let identities = genesis
            .roster
            .members()
            .iter()
            .filter_map(|member| Some((member.number, member.identity.xonly().ok()?)))
            .collect();
        Ok(Context {
            cluster: genesis.cluster()?,
            roster: genesis.roster.clone(),
            roster_hash: genesis.roster.hash()?,
            counting: Counting::under::<Law>(&genesis.roster),
            identities,
            genesis,
        })
    }

    /// The same cluster, its messages read under other rules: who runs a mutant reads its messages by this.
    #[doc(hidden)]
    pub fn under<R: Rules>(&self) -> Self {
        Context { counting: Counting::under::<R>(&self.roster), ..self.clone() }
    }

    /// The group's key.
    pub fn group(&self) -> PublicKey {
        self.genesis.group_key
    }

    /// The quorum.
    pub fn q(&self) -> usize {
        self.counting.quorum
    }

    /// How many grants open an epoch: the quorum.
    pub(crate) fn opening_quorum(&self) -> usize {
        self.counting.grants
    }

    /// Is a prepare for this head of this epoch?
    pub(crate) fn counts_for(&self, prepared: &Vote, vote: &Vote) -> bool {
        let epoch = prepared.epoch == vote.epoch || !self.counting.prepares_bind_epoch;
        epoch && (prepared.height, prepared.id) == (vote.height, vote.id)
    }

    /// The leader of an epoch: the (e mod n)-th custodian, those in `named` being skipped in roster order (PROTOCOL 3).
    pub fn leader(&self, epoch: u64, named: &BTreeSet<u16>) -> u16 {
        let place = epoch % self.roster.n() as u64;
        (0..self.roster.n() as u64)
            .filter_map(|step| self.roster.at(place + step))
            .map(|member| member.number)
            .find(|number| !named.contains(number))
            .or_else(|| self.roster.at(place).map(|member| member.number))
            .unwrap_or_default()
    }

    /// What a custodian signs for a message: everything that gives it its meaning (PROTOCOL 3).
    pub fn digest(&self, sender: u16, seq: u64, kind: u32, body_hash: &Hash) -> Hash {
        tagged(
            "concordat/message",
            &[
                &self.genesis.version.to_be_bytes(),
                &kind.to_be_bytes(),
                self.cluster.as_bytes(),
                &self.genesis.group_key.to_bytes(),
                self.roster_hash.as_bytes(),
                &sender.to_be_bytes(),
                &seq.to_be_bytes(),
                body_hash.as_bytes(),
            ],
        )
    }

    /// Checks a custodian's signature over a digest.
    pub fn verify(&self, sender: u16, digest: &Hash, signature: &[u8]) -> Result<(), MessageError> {
        let key = self.identities.get(&sender).ok_or(MessageError::Stranger { sender })?;
        let wrong = MessageError::Signature { sender };
        let signature = Signature::from_slice(signature).map_err(|_| wrong.clone())?;
        SECP256K1.verify_schnorr(&signature, &Digest::from_digest(*digest.as_bytes()), key).map_err(|_| wrong)
    }
}
