//! What never changes while a roster is in force: who the custodians are, and what every signature binds.
//!
//! When a head puts another roster in force, the core that works under this one is done ([`crate::Action::Reopen`]): the next one is
//! opened from the same disk under the next context ([`Context::stored`]).

use concordat_events::genesis::GenesisError;
use concordat_events::hash::{Hash, tagged};
use concordat_events::{Charter, Checked, Custodian, Genesis, Office, PublicKey, Roster};
use concordat_ledger::{Ledger, OpenError};
use concordat_store::Store;
use secp256k1::schnorr::Signature;
use secp256k1::{Message as Digest, SECP256K1, XOnlyPublicKey};
use std::collections::{BTreeMap, BTreeSet};

use crate::limits::FIRST_EPOCH_BITS;
use crate::message::{Kind, MessageError, Vote};
use crate::rules::{Law, Rule, Rules};

/// The cluster as every custodian knows it from genesis and certified state.
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
    /// How it came into force.
    pub office: Office,
    identities: BTreeMap<u16, XOnlyPublicKey>,
    /// Who may follow along without a vote.
    guests: BTreeMap<u16, XOnlyPublicKey>,
    counting: Counting,
    /// Signatures found good before: nothing else than their price depends on it.
    pub(crate) checked: Checked,
}

/// How votes are counted where messages are read: the law's, unless a mutant says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Counting {
    quorum: usize,
    grants: usize,
    prepares_bind_epoch: bool,
    roster_binds: bool,
}

impl Counting {
    fn under<R: Rules>(roster: &Roster) -> Self {
        let quorum = if R::keeps(Rule::QuorumOutvotesLiars) { roster.q() } else { roster.n() / 2 + 1 };
        let grants = if R::keeps(Rule::GrantsOpenByQuorum) { quorum } else { roster.f() + 1 };
        Counting {
            quorum,
            grants,
            prepares_bind_epoch: R::keeps(Rule::PrepareBindsEpoch),
            roster_binds: R::keeps(Rule::RosterBinds),
        }
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
    /// The context of a checked genesis, under its founders.
    pub fn new(genesis: Genesis) -> Result<Self, GenesisError> {
        let charter = Charter::founded(&genesis).map_err(GenesisError::Json)?;
        Self::at(genesis, &charter, &[])
    }

    /// The context under what a head has put in force. `guests` are those who were custodians before or are to become ones, as
    /// this custodian knows them: heads and state are passed on to and by them (what they say is worth what the group has signed),
    /// and they have no vote. Who has none itself is one of them.
    pub fn at(genesis: Genesis, charter: &Charter, guests: &[Custodian]) -> Result<Self, GenesisError> {
        genesis.check()?;
        let key = |member: &Custodian| Some((member.number, member.identity.xonly().ok()?));
        let identities: BTreeMap<_, _> = charter.roster.members().iter().filter_map(key).collect();
        let mut guests: BTreeMap<_, _> = guests.iter().filter_map(key).collect();
        guests.retain(|number, _| !identities.contains_key(number));
        Ok(Context {
            cluster: genesis.cluster()?,
            roster: charter.roster.clone(),
            roster_hash: charter.roster_hash,
            office: charter.office.clone(),
            counting: Counting::under::<Law>(&charter.roster),
            identities,
            guests,
            genesis,
            checked: Checked::default(),
        })
    }

    /// The context under what the state in a store puts in force.
    pub fn stored<S: Store>(store: S, genesis: Genesis, guests: &[Custodian]) -> Result<Self, OpenError> {
        let ledger = Ledger::open(store, genesis.clone())?;
        Ok(Self::at(genesis, ledger.charter(), guests)?)
    }

    /// The epoch that is open from the start under this roster: 0 under the founders. It follows from the height alone, so that all
    /// meet in it, whatever epoch each was in before, and lies above every epoch before.
    pub fn first_epoch(&self) -> u64 {
        self.office.since << FIRST_EPOCH_BITS
    }

    /// The height of the first head that this roster certifies.
    pub fn first_height(&self) -> u64 {
        if self.office.since == 0 { 0 } else { self.office.since + 1 }
    }

    /// Has this custodian a vote?
    pub fn votes(&self, number: u16) -> bool {
        self.identities.contains_key(&number)
    }

    /// Who follows along without a vote.
    pub fn guests(&self) -> impl Iterator<Item = u16> + '_ {
        self.guests.keys().copied()
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

    /// What a custodian signs for a message: everything that gives it its meaning (PROTOCOL 3). What carries heads and state binds no
    /// roster: who is behind a change of roster must be able to read it, and it is worth what the group has signed.
    pub fn digest(&self, sender: u16, seq: u64, kind: u32, body_hash: &Hash) -> Hash {
        let roster = if self.any_roster(kind) { &Hash::ZERO } else { &self.roster_hash };
        tagged(
            "concordat/message",
            &[
                &self.genesis.version.to_be_bytes(),
                &kind.to_be_bytes(),
                self.cluster.as_bytes(),
                &self.genesis.group_key.to_bytes(),
                roster.as_bytes(),
                &sender.to_be_bytes(),
                &seq.to_be_bytes(),
                body_hash.as_bytes(),
            ],
        )
    }

    /// Is a message of this kind read under any roster?
    fn any_roster(&self, kind: u32) -> bool {
        carries_heads(kind) || !self.counting.roster_binds
    }

    /// Checks a custodian's signature over the digest of a message of this kind.
    pub fn verify(
        &self,
        sender: u16,
        kind: u32,
        digest: &Hash,
        signature: &[u8],
    ) -> Result<(), MessageError> {
        let guest = || self.guests.get(&sender).filter(|_| self.any_roster(kind));
        let key = self.identities.get(&sender).or_else(guest);
        let key = key.ok_or(MessageError::Stranger { sender })?;
        let wrong = MessageError::Signature { sender };
        let signature = Signature::from_slice(signature).map_err(|_| wrong.clone())?;
        if self.checked.signature(key, digest, &signature) { Ok(()) } else { Err(wrong) }
    }
}

/// Messages that ask for or carry what the group has signed.
fn carries_heads(kind: u32) -> bool {
    [Kind::Certificate, Kind::FetchHeads, Kind::Heads, Kind::FetchState, Kind::State]
        .iter()
        .any(|carries| *carries as u32 == kind)
}
