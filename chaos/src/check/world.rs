//! What the exploration has met, each thing once and by a number: messages, sets of them, heads, sessions, prepare certificates.
//!
//! Messages that say the same are one message ([`concordat_finality::Message::digest`]); the first that was met stands for all.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use concordat_events::Hash;
use concordat_events::batch::Batch;
use concordat_events::hash::tagged;
use concordat_finality::message::{Body, Kind, Vote};
use concordat_finality::rules::Rule;
use concordat_finality::{Msg, Rules, wire};
use concordat_ledger::Ledger;
use concordat_store::memory::MemoryStore;

use super::founding::Founding;

/// The number of something that was met.
pub type Id = u32;

/// What a message means to the exploration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fact {
    /// A leader's proposal of what its log holds up to `number`.
    Propose(Vote, u64),
    /// A vote with commitments.
    Prepare(Vote),
    /// A prepare certificate with a session.
    Certify(Vote, Hash),
    /// A share in a session.
    Share(Vote, Hash),
    /// A grant for an epoch: the height after the certified head that it names, and its lock.
    Grant(u64, u64, Option<Vote>),
    /// An entry of an epoch's log.
    Entry(u64, u64),
}

/// A message that was sent.
pub struct Told {
    /// Who signed it.
    pub sender: u16,
    /// The first message that said this.
    pub message: Msg,
    /// What it means.
    pub fact: Fact,
}

/// A head that somebody proposed.
#[derive(Clone)]
pub struct Seen {
    /// The id of the head before.
    pub parent: Hash,
    /// Its height.
    pub height: u64,
    /// Its batches.
    pub batches: Vec<Batch>,
}

/// A session: what it signs, and who.
#[derive(Clone)]
pub struct Session {
    /// The head.
    pub vote: Vote,
    /// Whose commitments stand in it, by the hash of each.
    pub signers: BTreeMap<u16, Hash>,
}

/// Everything met so far.
pub struct World {
    /// The cluster.
    pub founding: Founding,
    /// Who lies, if anybody does.
    pub liar: Option<u16>,
    /// Does the highest of several locks decide? A mutant's lowest does.
    highest: bool,
    told: Vec<Told>,
    by_digest: HashMap<Hash, Id>,
    sets: Vec<Arc<[Id]>>,
    by_set: HashMap<Arc<[Id]>, Id>,
    /// Heads by id.
    pub heads: BTreeMap<Hash, Seen>,
    ledgers: BTreeMap<Hash, Ledger<Arc<MemoryStore>>>,
    /// Sessions by id.
    pub sessions: BTreeMap<Hash, Session>,
    certs: BTreeMap<Vote, wire::PrepareCert>,
    /// Batches by hash.
    batches: BTreeMap<Hash, Batch>,
    /// Starts of the liar's epochs: the epoch, the first height, the forced head.
    starts: BTreeMap<(u64, u64, Option<Vote>), Msg>,
    signed: BTreeMap<Hash, SignedHead>,
    /// Head(0).
    pub first_head: Option<Hash>,
}

/// A head's log event as JSON and the signatures of everything that it determines.
type SignedHead = (Vec<u8>, Vec<Vec<u8>>);

/// What the exploration follows of a message; `None` is left to be lost on its way.
fn fact(message: &Msg) -> Option<Fact> {
    Some(match &message.body {
        Body::Propose(propose) => Fact::Propose(propose.vote, propose.number),
        Body::Prepare(prepare) => Fact::Prepare(prepare.vote),
        Body::Certify(certify) => Fact::Certify(certify.cert.vote, certify.session),
        Body::Share(share) => Fact::Share(share.vote, share.session),
        Body::Grant(grant) => {
            let next = grant.certified.as_ref().map_or(0, |(_, head)| head.height + 1);
            Fact::Grant(grant.epoch, next, grant.lock.as_ref().map(|lock| lock.vote))
        }
        Body::EpochStart(start) => Fact::Entry(start.epoch, 0),
        Body::Wrapper(wrapper) => Fact::Entry(wrapper.epoch, wrapper.number),
        _ => return None,
    })
}

impl World {
    /// Nothing met yet.
    pub fn new<R: Rules>(founding: Founding, liar: Option<u16>) -> Self {
        World {
            founding,
            liar,
            highest: R::keeps(Rule::HighestLockDecides),
            told: Vec::new(),
            by_digest: HashMap::new(),
            sets: Vec::new(),
            by_set: HashMap::new(),
            heads: BTreeMap::new(),
            ledgers: BTreeMap::new(),
            sessions: BTreeMap::new(),
            certs: BTreeMap::new(),
            batches: BTreeMap::new(),
            starts: BTreeMap::new(),
            signed: BTreeMap::new(),
            first_head: None,
        }
    }

    /// The number of a message; `None` for those that the exploration doesn't follow.
    pub fn tell(&mut self, message: &Msg) -> Option<Id> {
        let fact = fact(message)?;
        let digest = self.digest(message);
        if let Some(id) = self.by_digest.get(&digest) {
            return Some(*id);
        }
        let id = Id::try_from(self.told.len()).ok()?;
        self.by_digest.insert(digest, id);
        self.told.push(Told { sender: message.sender, message: message.clone(), fact });
        if let Body::Certify(certify) = &message.body {
            let signers = certify.signers.iter().filter_map(|signer| match &signer.body {
                Body::Prepare(prepare) => Some((signer.sender, prepare.hash)),
                _ => None,
            });
            let session = Session { vote: certify.cert.vote, signers: signers.collect() };
            self.sessions.insert(certify.session, session);
            let cert = &certify.cert;
            let bare =
                |message: &Msg| wire::Envelope { attachment: Vec::new(), ..message.envelope().clone() };
            self.certs.entry(cert.vote).or_insert_with(|| wire::PrepareCert {
                epoch: cert.vote.epoch,
                height: cert.vote.height,
                id: cert.vote.id.as_bytes().to_vec(),
                prepares: cert.prepares.iter().map(bare).collect(),
                batch_hashes: cert.batch_hashes.iter().map(|hash| hash.as_bytes().to_vec()).collect(),
            });
        }
        Some(id)
    }

    /// What a message says. Of an EpochStart that is where its epoch begins, as the rules see it: under a mutant for which
    /// the lowest lock decides, two starts with one highest lock may differ.
    fn digest(&self, message: &Msg) -> Hash {
        let digest = message.digest();
        let Body::EpochStart(start) = &message.body else { return digest };
        if self.highest {
            return digest;
        }
        let grants = start.grants.iter().filter_map(fact).filter_map(|fact| match fact {
            Fact::Grant(_, next, lock) => Some((next, lock)),
            _ => None,
        });
        let grants: Vec<(u64, Option<Vote>)> = grants.collect();
        let next = grants.iter().map(|(next, _)| *next).max().unwrap_or(0);
        let locks = grants.iter().filter_map(|(_, lock)| *lock);
        let lowest = locks.filter(|vote| vote.height == next).map(|vote| vote.epoch).min();
        let lowest = lowest.unwrap_or(u64::MAX);
        tagged("chaos/lowest", &[digest.as_bytes(), &lowest.to_be_bytes()])
    }

    /// A message by its number.
    ///
    /// # Errors
    /// When there is none.
    pub fn told(&self, id: Id) -> Result<&Told> {
        self.told.get(id as usize).context("a message that was never sent")
    }

    /// How many messages were met.
    pub fn messages(&self) -> usize {
        self.told.len()
    }

    /// The number of a set of messages.
    ///
    /// # Errors
    /// When there are too many sets.
    pub fn set(&mut self, set: &BTreeSet<Id>) -> Result<Id> {
        let list: Arc<[Id]> = set.iter().copied().collect();
        if let Some(id) = self.by_set.get(&list) {
            return Ok(*id);
        }
        let id = Id::try_from(self.sets.len())?;
        self.sets.push(list.clone());
        self.by_set.insert(list, id);
        Ok(id)
    }

    /// A set by its number.
    ///
    /// # Errors
    /// When there is none.
    pub fn members(&self, id: Id) -> Result<Arc<[Id]>> {
        self.sets.get(id as usize).cloned().context("a set that was never made")
    }

    /// Keeps the state that a head leads to.
    pub fn keep_ledger(&mut self, tip: Hash, ledger: impl FnOnce() -> Ledger<Arc<MemoryStore>>) {
        self.ledgers.entry(tip).or_insert_with(ledger);
    }

    /// The id of the head that batches make of the state after `tip`; `None` if they make none.
    pub fn head_of(&mut self, tip: &Hash, batches: &[Batch]) -> Option<Hash> {
        let draft = self.ledgers.get(tip)?.execute(batches).ok()?;
        let seen = Seen { parent: *tip, height: draft.head.height, batches: batches.to_vec() };
        self.heads.entry(draft.id).or_insert(seen);
        Some(draft.id)
    }

    /// A head signed by the group: whoever calls this has seen enough shares.
    ///
    /// # Errors
    /// When nobody proposed it.
    pub fn signed(&mut self, id: &Hash) -> Result<SignedHead> {
        if let Some(signed) = self.signed.get(id) {
            return Ok(signed.clone());
        }
        let seen = self.heads.get(id).context("a head that nobody proposed")?;
        let ledger = self.ledgers.get(&seen.parent).context("a head on a state that nobody had")?;
        let draft = ledger.execute(&seen.batches)?;
        let log = draft.messages.first().context("a head without a log event")?;
        let signatures: Vec<[u8; 64]> =
            draft.messages.iter().map(|message| self.founding.keys.sign(message.id().as_bytes())).collect();
        let event = log.signed(signatures.first().context("a head without a log event")?)?;
        let signed = (
            event.json().as_bytes().to_vec(),
            signatures.iter().map(|signature| signature.to_vec()).collect::<Vec<_>>(),
        );
        self.signed.insert(*id, signed.clone());
        Ok(signed)
    }

    /// Keeps a batch.
    pub fn keep_batch(&mut self, batch: &Batch) -> Hash {
        let hash = batch.hash();
        self.batches.entry(hash).or_insert_with(|| batch.clone());
        hash
    }

    /// A batch by its hash.
    ///
    /// # Errors
    /// When it was never met.
    pub fn batch(&self, hash: &Hash) -> Result<Batch> {
        self.batches.get(hash).cloned().context("a batch that nobody ordered")
    }

    /// The start of a liar's epoch.
    ///
    /// # Errors
    /// When no grants that lead to it were met.
    pub fn start(&self, epoch: u64, next: u64, forced: Option<Vote>) -> Result<Msg> {
        self.starts.get(&(epoch, next, forced)).cloned().context("a start without grants")
    }

    /// Keeps the start of a liar's epoch, made of these grants.
    ///
    /// # Errors
    /// When it can't be signed.
    pub fn keep_start(&mut self, epoch: u64, next: u64, forced: Option<Vote>, grants: &[Msg]) -> Result<()> {
        if self.starts.contains_key(&(epoch, next, forced)) {
            return Ok(());
        }
        let liar = self.liar.context("nobody lies")?;
        let start = super::liar::epoch_start(&self.founding, liar, epoch, grants)?;
        self.starts.insert((epoch, next, forced), start);
        Ok(())
    }

    /// A prepare certificate for a vote, made of these prepares and the liar's own.
    ///
    /// # Errors
    /// When a prepare is missing.
    pub fn certificate(&mut self, vote: Vote, prepares: &[Id]) -> Result<wire::PrepareCert> {
        if let Some(cert) = self.certs.get(&vote) {
            return Ok(cert.clone());
        }
        let q = self.founding.context.q();
        let mut by_sender = BTreeMap::new();
        for id in prepares {
            let told = self.told(*id)?;
            by_sender.entry(told.sender).or_insert_with(|| told.message.clone());
        }
        if let (Some(liar), Some(pattern)) = (self.liar, prepares.first()) {
            by_sender.insert(liar, self.liars_prepare(vote, *pattern)?);
        }
        let bare = |message: &Msg| wire::Envelope { attachment: Vec::new(), ..message.envelope().clone() };
        let prepares: Vec<wire::Envelope> = by_sender.values().take(q).map(bare).collect();
        anyhow::ensure!(prepares.len() == q, "{} prepares make no certificate", prepares.len());
        let batches = self.heads.get(&vote.id).map(|head| head.batches.clone()).unwrap_or_default();
        let cert = wire::PrepareCert {
            epoch: vote.epoch,
            height: vote.height,
            id: vote.id.as_bytes().to_vec(),
            prepares,
            batch_hashes: batches.iter().map(|batch| batch.hash().as_bytes().to_vec()).collect(),
        };
        self.certs.insert(vote, cert.clone());
        Ok(cert)
    }

    /// The liar votes for what an honest custodian has voted for, with as many commitments.
    ///
    /// # Errors
    /// When the pattern isn't a prepare.
    pub fn liars_prepare(&self, vote: Vote, pattern: Id) -> Result<Msg> {
        let liar = self.liar.context("nobody lies")?;
        let count = match &self.told(pattern)?.message.body {
            Body::Prepare(prepare) => prepare.commitments.len(),
            _ => anyhow::bail!("expected a prepare"),
        };
        super::liar::prepare(&self.founding, liar, vote, count)
    }

    /// Signs a message of the liar, or of another custodian where nobody lies.
    ///
    /// # Errors
    /// As [`Founding::forge`].
    pub fn forge(
        &self,
        sender: u16,
        kind: Kind,
        body: &impl prost::Message,
        attachment: Vec<u8>,
    ) -> Result<Msg> {
        self.founding.forge(sender, kind, body, attachment)
    }
}
