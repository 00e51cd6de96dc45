//! What a custodian holds in memory while one height is being certified. All of it is lost in a crash, on purpose: nonces
//! live here and nowhere else (PROTOCOL 4).

use std::collections::{BTreeMap, BTreeSet};

use concordat_events::batch::Batch;
use concordat_events::hash::Hash;
use concordat_ledger::Draft;

use crate::message::{Msg, PrepareCert, Vote};
use crate::scheme::Scheme;

/// The own nonces of a round, by the hash of their commitments.
pub(crate) type Nonces<Sc> = BTreeMap<Hash, Vec<<Sc as Scheme>::Nonce>>;

/// Sessions remembered for one height: every attempt that the protocol allows for the largest roster fits.
const SESSIONS: usize = 64;

/// One signing session as this custodian knows it.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub vote: Vote,
    pub attempt: u32,
    /// The prepares with commitments that make the session.
    pub signers: Vec<Msg>,
    pub shares: BTreeMap<u16, Msg>,
    /// When it was opened or its last share came, ms.
    pub since_ms: u64,
    /// Aggregation was tried and named a culprit.
    pub failed: bool,
}

/// A head as this custodian computed it.
#[derive(Clone)]
pub(crate) struct Computed {
    /// The last batch of the running epoch's log that it covers.
    pub number: Option<u64>,
    /// The batches behind it.
    pub batches: Vec<Batch>,
    /// The head.
    pub draft: Draft,
}

/// The round for one height in one epoch.
#[derive(Clone, Default)]
pub(crate) struct Round<N> {
    /// The own computation of the head in question.
    pub computed: Option<Computed>,
    /// The leader's proposal, held until it can be judged.
    pub proposal: Option<Msg>,
    /// The own nonces, by the hash of their commitments.
    pub nonces: N,
    /// How many sets of commitments were issued for this (epoch, height).
    pub issued: u32,
    /// The own prepare with the newest commitments.
    pub prepare: Option<Msg>,
    /// Votes shown by others: the time rule's way out (PROTOCOL 10).
    pub shown: BTreeMap<u16, Vote>,
    /// Leader: what it has proposed.
    pub proposed: Option<Vote>,
    /// The batch after which no head can be computed, so that it isn't tried again at every step.
    pub uncomputable: Option<u64>,
    /// Heads of locks that were rebuilt from stored batches, with those batches' hashes.
    pub rebuilt: BTreeMap<Hash, Vec<Hash>>,
    /// The newest lock's head and list of batches that rebuilt something else, by who named it: executed once, not at every
    /// step.
    pub spoiled: BTreeMap<u16, (Hash, Vec<Hash>)>,
    /// Batches that were asked for, by who was to have them.
    pub wanted: BTreeMap<u16, Vec<Hash>>,
    /// Leader: since when no t signers that keep up have fresh commitments, ms.
    pub short_since: Option<u64>,
    /// What this custodian has refused, so that it says so once.
    pub refused: Option<Vote>,
    /// Leader: the newest prepare of each custodian for the proposed head.
    pub prepares: BTreeMap<u16, Msg>,
    /// Leader: commitments that stand in a session already.
    pub used: BTreeSet<(u16, Hash)>,
    /// Leader: signers passed over until they answer.
    pub passed_over: BTreeSet<u16>,
    /// Leader: signers whose share was bad; they sign nothing more at this height.
    pub cheats: BTreeSet<u16>,
    /// Leader: when fresh commitments were last asked for, ms.
    pub asked_again: Option<u64>,
    /// Leader: how many sessions were opened.
    pub attempt: u32,
    /// The prepare certificate of the running epoch.
    pub cert: Option<PrepareCert>,
    /// Sessions by id.
    pub sessions: BTreeMap<Hash, Session>,
    /// Shares that came before their session: the newest of each custodian.
    pub early: BTreeMap<u16, Msg>,
    /// A custodian in quarantine asked for an empty batch.
    pub nudged: bool,
}

impl<N: Default> Round<N> {
    /// A new epoch: votes, sessions and nonces of the old one are void (PROTOCOL 5). Nonces are destroyed by being dropped.
    pub fn new_epoch(&mut self) {
        // What was computed stays true of its batches, not of the new log's numbers.
        let computed = self.computed.take().map(|computed| Computed { number: None, ..computed });
        let rebuilt = std::mem::take(&mut self.rebuilt);
        let spoiled = std::mem::take(&mut self.spoiled);
        *self = Round { computed, rebuilt, spoiled, ..Round::default() };
    }

    /// Remembers a session.
    pub fn add_session(&mut self, id: Hash, session: Session) {
        if self.sessions.len() >= SESSIONS
            && let Some(oldest) = self.sessions.iter().min_by_key(|(_, s)| s.attempt).map(|(id, _)| *id)
        {
            self.sessions.remove(&oldest);
        }
        self.sessions.entry(id).or_insert(session);
    }

    /// The own draft if it has this id.
    pub fn draft_of(&self, id: &Hash) -> Option<&Draft> {
        self.computed_as(id).map(|computed| &computed.draft)
    }

    /// The own computation if it gave this id.
    pub fn computed_as(&self, id: &Hash) -> Option<&Computed> {
        self.computed.as_ref().filter(|computed| computed.draft.id == *id)
    }
}
