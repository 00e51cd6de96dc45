//! One custodian's side of a ceremony, without network or clock: bundles in, bundles out, files in between.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use concordat_events::genesis::GenesisError;
use concordat_events::{Genesis, Hash, PublicKey, SignedGenesis, json};
use concordat_threshold::dkg::{self, Alarm, Body, Ceremony, Message, Params, Phase};
use rand::rngs::OsRng;

use super::message::{Bundle, BundleError};
use super::pending::{self, Pending};
use super::proposal::{Proposal, ProposalError};
use super::status::{CeremonyStatus, MemberStatus, Stage as StageStatus};
use crate::dir::{CustodianDir, DirError, STATUS};
use crate::interrupted::Earlier;
use crate::keys::file::FileError;
use crate::keys::{self, CustodianKeys, SealError};
use crate::transport::Certificate;

/// Why a ceremony can't go on here.
#[derive(Debug, thiserror::Error)]
pub enum CeremonyError {
    /// The directory or a file in it.
    #[error(transparent)]
    Dir(#[from] DirError),
    /// The proposal.
    #[error(transparent)]
    Proposal(#[from] ProposalError),
    /// A message was refused; the ceremony goes on.
    #[error(transparent)]
    Bundle(#[from] BundleError),
    /// The genesis that came out isn't one.
    #[error(transparent)]
    Genesis(#[from] GenesisError),
    /// The proposal doesn't name this custodian.
    #[error("the proposal doesn't name this custodian (identity {0}); send your card to who proposes")]
    NotInProposal(String),
    /// It names it with another certificate.
    #[error(
        "the proposal names this custodian with another certificate; send your card again to who proposes"
    )]
    OtherCertificate,
    /// A sender that isn't another founder.
    #[error("custodian {0} is no other founder of this group")]
    Stranger(u16),
    /// A fault ended it.
    #[error("the ceremony ended: {0}; when it is settled, all start it again")]
    Alarm(Alarm),
    /// The threshold library refused the parameters.
    #[error(transparent)]
    Params(#[from] dkg::ParamsError),
    /// A custodian signed something else.
    #[error(
        "custodian {0}'s signature isn't over the genesis that follows from proposal and key; its build or its proposal differs"
    )]
    WrongSignature(u16),
    /// Others have a genesis that can't be ours.
    #[error("custodian {0} has a genesis that doesn't follow from our proposal; compare the proposals")]
    OtherGenesis(u16),
    /// Others have finished, and our share isn't here.
    #[error(
        "custodian {0} has finished, but no share of that key is stored here; restore this directory, or have the share repaired by the others"
    )]
    ShareLost(u16),
    /// Too many attempts on disk.
    #[error("{0} holds the shares of too many unfinished attempts; move its files attempt-*.age away")]
    TooManyAttempts(PathBuf),
    /// A stored attempt can't be read.
    #[error("{0} opened, but isn't what this version writes; move it away")]
    BrokenAttempt(PathBuf),
    /// The operator ended it.
    #[error("the operator ended this ceremony; `ceremony accept` begins one anew")]
    AbortedHere,
    /// The share couldn't be stored, so nothing was signed and nobody has finished.
    #[error(
        "this custodian can't go on: {0}; when it is mended, start it again: the others begin anew with it"
    )]
    Stopped(String),
    /// The transport between custodians.
    #[error("the ceremony's connections: {0}")]
    Link(String),
}

impl From<FileError> for CeremonyError {
    fn from(error: FileError) -> Self {
        CeremonyError::Dir(error.into())
    }
}

impl From<SealError> for CeremonyError {
    fn from(error: SealError) -> Self {
        CeremonyError::Dir(error.into())
    }
}

impl From<json::JsonError> for CeremonyError {
    fn from(error: json::JsonError) -> Self {
        CeremonyError::Genesis(error.into())
    }
}

/// Earlier attempts that are kept: restarts within what a network delays.
const SHELF: usize = 16;

enum Stage {
    /// Not all processes are known.
    Gathering,
    /// The threshold ceremony runs, or ended with an alarm that is still being told.
    Making(Box<Ceremony>),
    /// The share is stored.
    Signing(Box<Signing>),
    /// The genesis is written.
    Complete(Box<SignedGenesis>),
}

struct Signing {
    attempt: Hash,
    pending: Pending,
    genesis: Genesis,
    cluster: Hash,
    signatures: BTreeMap<u16, [u8; 64]>,
}

/// See the module's header.
pub(crate) struct Core {
    dir: Arc<CustodianDir>,
    keys: Arc<CustodianKeys>,
    proposal: Proposal,
    id: Hash,
    own: u16,
    /// What each custodian's process drew when it began; the own one too.
    runs: BTreeMap<u16, Hash>,
    stage: Stage,
    /// Earlier attempts of this process: what a dead process said before may come after what the next one says, and an attempt
    /// that is begun twice with other secrets looks like two faces.
    shelf: BTreeMap<Hash, Stage>,
    /// Who said that it holds the whole genesis.
    complete: BTreeSet<u16>,
    problems: BTreeMap<u16, String>,
    /// What keeps this custodian from going on.
    stopped: Option<String>,
    /// What became of what an earlier process had done.
    earlier: Earlier,
}

impl Core {
    /// Begins, or takes up what is on disk.
    pub fn new(
        dir: Arc<CustodianDir>,
        keys: Arc<CustodianKeys>,
        proposal: Proposal,
    ) -> Result<Self, CeremonyError> {
        let own = proposal
            .number_of(&keys.public_key())
            .ok_or_else(|| CeremonyError::NotInProposal(keys.public_key().to_hex()))?;
        if proposal
            .roster
            .get(own)
            .is_none_or(|member| dir.card().is_ok_and(|card| card.pin() != member.certificate))
        {
            return Err(CeremonyError::OtherCertificate);
        }
        if dir.is_aborted() && dir.genesis()?.is_none() {
            return Err(CeremonyError::AbortedHere);
        }
        let run: [u8; 32] = rand::random();
        let mut core = Core {
            id: proposal.id()?,
            own,
            runs: BTreeMap::from([(own, Hash::from_bytes(run))]),
            stage: Stage::Gathering,
            shelf: BTreeMap::new(),
            complete: BTreeSet::new(),
            problems: BTreeMap::new(),
            stopped: None,
            earlier: Earlier::left_behind(dir.file(STATUS).exists()),
            dir,
            keys,
            proposal,
        };
        if let Some(genesis) = core.dir.genesis()? {
            if genesis.genesis.ceremony != core.id {
                return Err(FileError::Exists { path: core.dir.file("genesis.json") }.into());
            }
            core.complete.insert(own);
            core.stage = Stage::Complete(Box::new(genesis));
            core.earlier = Earlier::Resumed;
        } else if let Some(last) = core.own_attempts()?.pop() {
            core.runs = last.runs.clone();
            core.sign(last)?;
            core.earlier = Earlier::Resumed;
        }
        match core.earlier {
            Earlier::None => {}
            Earlier::RolledBack => tracing::info!(
                "an earlier process hadn't stored a share of this ceremony: it is held anew, with all others"
            ),
            Earlier::Resumed => tracing::info!("the ceremony goes on from the share that is stored"),
        }
        Ok(core)
    }

    /// What to tell a peer now.
    pub fn bundle_for(&self, peer: u16) -> Result<Vec<u8>, CeremonyError> {
        let mut bundle = Bundle::default();
        bundle.run = self.runs.get(&self.own).map(|run| run.as_bytes().to_vec()).unwrap_or_default();
        match &self.stage {
            Stage::Gathering => {}
            Stage::Making(ceremony) => {
                bundle.attempt = ceremony.params().ceremony().as_bytes().to_vec();
                bundle.messages =
                    ceremony.outgoing_for(peer).map(|message| message.encode().to_vec()).collect();
            }
            Stage::Signing(signing) => {
                bundle.attempt = signing.attempt.as_bytes().to_vec();
                let done = Message::new(signing.attempt, Body::Done(signing.pending.test_signature));
                bundle.messages = vec![done.encode().to_vec()];
                bundle.group_key = signing.genesis.group_key.to_bytes().to_vec();
                bundle.signature = signing.signatures.get(&self.own).map(|s| s.to_vec()).unwrap_or_default();
            }
            Stage::Complete(genesis) => bundle.genesis = json::canonical(&**genesis)?,
        }
        Ok(bundle.seal(&self.keys, self.id, self.own, peer))
    }

    /// Takes what `from`, as the channel says, sent. True if anything changed.
    pub fn take(&mut self, from: u16, bytes: &[u8]) -> Result<bool, CeremonyError> {
        let result = self.try_take(from, bytes);
        match &result {
            Ok(_) => self.problems.remove(&from).map(drop),
            Err(error) => self.problems.insert(from, error.to_string()).map(drop),
        };
        result
    }

    /// Notes that a peer couldn't be reached.
    pub fn unreachable(&mut self, peer: u16, error: String) {
        self.problems.insert(peer, error);
    }

    /// The genesis, once it is written.
    pub fn genesis(&self) -> Option<&SignedGenesis> {
        match &self.stage {
            Stage::Complete(genesis) => Some(genesis),
            _ => None,
        }
    }

    /// The alarm that ended the ceremony.
    pub fn alarm(&self) -> Option<&Alarm> {
        match &self.stage {
            Stage::Making(ceremony) => ceremony.alarm(),
            _ => None,
        }
    }

    /// What keeps this custodian from going on: an alarm, or its own disk.
    pub fn failure(&self) -> Option<CeremonyError> {
        match (self.alarm(), &self.stopped) {
            (Some(alarm), _) => Some(CeremonyError::Alarm(alarm.clone())),
            (None, Some(reason)) => Some(CeremonyError::Stopped(reason.clone())),
            (None, None) => None,
        }
    }

    /// Ends the ceremony if the operator wished it. It is too late once the own signature may have been given: the others may
    /// have the whole genesis.
    pub fn heed_abort(&mut self) -> bool {
        if self.stopped.is_some() || self.alarm().is_some() || !self.dir.is_aborted() {
            return false;
        }
        match &mut self.stage {
            Stage::Gathering => self.stopped = Some(CeremonyError::AbortedHere.to_string()),
            Stage::Making(ceremony) => drop(ceremony.stop()),
            Stage::Signing(_) | Stage::Complete(_) => return false,
        }
        true
    }

    /// True if this peer said that it holds the whole genesis.
    pub fn is_complete(&self, peer: u16) -> bool {
        self.complete.contains(&peer)
    }

    /// The own number.
    pub fn own(&self) -> u16 {
        self.own
    }

    /// What was proposed.
    pub fn proposal(&self) -> &Proposal {
        &self.proposal
    }

    /// The own TLS certificate with its key.
    pub fn certificate(&self) -> Result<Certificate, CeremonyError> {
        Ok(self.keys.certificate(self.dir.card()?.certificate()))
    }

    /// The other founders.
    pub fn peers(&self) -> Vec<u16> {
        self.proposal.roster.numbers().filter(|number| *number != self.own).collect()
    }

    /// How far it is.
    pub fn status(&self) -> CeremonyStatus {
        let everyone = |numbers: BTreeSet<u16>| numbers.into_iter().collect::<Vec<_>>();
        let failed = self
            .stopped
            .as_ref()
            .map(|reason| StageStatus::Failed { reason: reason.clone(), suspects: vec![self.own] });
        let missing = |has: &dyn Fn(&u16) -> bool| self.peers().into_iter().filter(|n| !has(n)).collect();
        let (attempt, stage, waiting_on, progress) = match &self.stage {
            Stage::Gathering => {
                (None, StageStatus::Gathering, missing(&|n| self.runs.contains_key(n)), BTreeMap::new())
            }
            Stage::Making(ceremony) => (
                Some(ceremony.params().ceremony()),
                ceremony.alarm().map_or(StageStatus::Making, |alarm| StageStatus::Failed {
                    reason: alarm.to_string(),
                    suspects: everyone(alarm.suspects()),
                }),
                everyone(ceremony.waiting_on()),
                ceremony.status(),
            ),
            Stage::Signing(signing) => (
                Some(signing.attempt),
                StageStatus::Signing,
                missing(&|n| signing.signatures.contains_key(n)),
                BTreeMap::new(),
            ),
            Stage::Complete(_) => {
                (None, StageStatus::Complete, missing(&|n| self.is_complete(*n)), BTreeMap::new())
            }
        };
        let signed = |number: &u16| match &self.stage {
            Stage::Signing(signing) => signing.signatures.contains_key(number),
            Stage::Complete(_) => true,
            _ => false,
        };
        let member = |custodian: &concordat_events::roster::Custodian| MemberStatus {
            name: custodian.name.clone(),
            heard: self.runs.contains_key(&custodian.number),
            progress: progress.get(&custodian.number).copied().unwrap_or_default(),
            signed: signed(&custodian.number),
            complete: self.complete.contains(&custodian.number),
            problem: self.problems.get(&custodian.number).cloned(),
        };
        let members = self.proposal.roster.members().iter();
        CeremonyStatus {
            proposal: self.id,
            attempt,
            stage: failed.unwrap_or(stage),
            members: members.map(|custodian| (custodian.number, member(custodian))).collect(),
            waiting_on,
            earlier: self.earlier,
        }
    }

    fn try_take(&mut self, from: u16, bytes: &[u8]) -> Result<bool, CeremonyError> {
        let sender = match self.proposal.roster.get(from) {
            Some(sender) if from != self.own => sender.identity,
            _ => return Err(CeremonyError::Stranger(from)),
        };
        let bundle = Bundle::open(bytes, &sender, self.id, from, self.own)?;
        if !bundle.genesis.is_empty() {
            return self.take_genesis(from, &bundle.genesis);
        }
        if matches!(self.stage, Stage::Complete(_)) || self.stopped.is_some() {
            return Ok(false);
        }
        let malformed = || BundleError::Malformed { from, got: bytes.len() };
        let run = Hash::from_slice(&bundle.run).ok_or_else(malformed)?;
        let mut changed = self.heard(from, run)?;
        let attempt = match &self.stage {
            Stage::Making(ceremony) => ceremony.params().ceremony(),
            Stage::Signing(signing) => signing.attempt,
            _ => return Ok(changed),
        };
        // Of another attempt: the sender hasn't heard of some restart yet, or we haven't.
        if bundle.attempt != attempt.as_bytes() {
            return Ok(changed);
        }
        for bytes in &bundle.messages {
            let message = Message::decode(bytes).map_err(|_| malformed())?;
            changed |= self.take_message(from, message)?;
        }
        changed |= self.take_signature(from, &sender, &bundle)?;
        Ok(changed)
    }

    /// A process that wasn't known begins a new attempt with it: it has no share of the old one, so it never signed, so
    /// nobody has finished.
    fn heard(&mut self, from: u16, run: Hash) -> Result<bool, CeremonyError> {
        // A fault ends the ceremony for good: the operators settle it and all begin again.
        if self.runs.get(&from) == Some(&run) || self.alarm().is_some() {
            return Ok(false);
        }
        self.runs.insert(from, run);
        if self.runs.len() < self.proposal.roster.n() {
            return Ok(true);
        }
        let attempt = pending::attempt_id(self.id, &self.runs);
        self.shelve();
        if let Some(stage) = self.shelf.remove(&attempt) {
            self.stage = stage;
            return Ok(true);
        }
        let params = Params::new(attempt, self.proposal.numbers(), self.own, self.proposal.threshold())?;
        let (ceremony, _) = Ceremony::new(params, &mut OsRng)?;
        self.stage = Stage::Making(Box::new(ceremony));
        Ok(true)
    }

    /// Puts the running attempt aside.
    fn shelve(&mut self) {
        let attempt = match &self.stage {
            Stage::Making(ceremony) => ceremony.params().ceremony(),
            Stage::Signing(signing) => signing.attempt,
            Stage::Gathering | Stage::Complete(_) => return,
        };
        if self.shelf.len() >= SHELF {
            self.shelf.pop_first();
        }
        self.shelf.insert(attempt, std::mem::replace(&mut self.stage, Stage::Gathering));
    }

    fn take_message(&mut self, from: u16, message: Message) -> Result<bool, CeremonyError> {
        let Stage::Making(ceremony) = &mut self.stage else { return Ok(false) };
        if ceremony.alarm().is_some() {
            return Ok(false);
        }
        let before = ceremony.phase();
        let sent = ceremony.on_message(from, message, &mut OsRng).map_err(CeremonyError::Alarm)?;
        let changed = !sent.is_empty() || ceremony.phase() != before;
        if ceremony.phase() == Phase::Finished {
            self.finish_making()?;
        }
        Ok(changed)
    }

    /// Stores the share, then signs. If storing fails, nothing was signed.
    fn finish_making(&mut self) -> Result<(), CeremonyError> {
        let Stage::Making(ceremony) = std::mem::replace(&mut self.stage, Stage::Gathering) else {
            return Ok(());
        };
        match ceremony.finish() {
            Ok(outcome) => {
                let runs = self.runs.clone();
                let pending = Pending { runs, test_signature: outcome.test_signature, share: outcome.share };
                let stored = pending.store(&self.dir, &self.keys).and_then(|()| self.sign(pending));
                if let Err(error) = &stored {
                    self.stopped = Some(error.to_string());
                }
                stored
            }
            Err(dkg::NotFinished(ceremony)) => {
                self.stage = Stage::Making(ceremony);
                Ok(())
            }
        }
    }

    fn sign(&mut self, pending: Pending) -> Result<(), CeremonyError> {
        let key =
            pending.group_key().ok_or_else(|| CeremonyError::BrokenAttempt(self.dir.path().to_owned()))?;
        let genesis = self.proposal.genesis(key)?;
        genesis.check()?;
        let cluster = genesis.cluster()?;
        let signatures = BTreeMap::from([(self.own, self.keys.sign(&cluster))]);
        let attempt = pending::attempt_id(self.id, &pending.runs);
        self.stage = Stage::Signing(Box::new(Signing { attempt, pending, genesis, cluster, signatures }));
        Ok(())
    }

    fn take_signature(
        &mut self,
        from: u16,
        identity: &PublicKey,
        bundle: &Bundle,
    ) -> Result<bool, CeremonyError> {
        let Stage::Signing(signing) = &mut self.stage else { return Ok(false) };
        if bundle.signature.is_empty() || signing.signatures.contains_key(&from) {
            return Ok(false);
        }
        let wrong = CeremonyError::WrongSignature(from);
        if bundle.group_key != signing.genesis.group_key.to_bytes()
            || !keys::verify(identity, &signing.cluster, &bundle.signature)
        {
            return Err(wrong);
        }
        let signature = bundle.signature.as_slice().try_into().map_err(|_| wrong)?;
        signing.signatures.insert(from, signature);
        if signing.signatures.len() == self.proposal.roster.n() {
            let signatures = signing.signatures.iter();
            let genesis = SignedGenesis {
                genesis: signing.genesis.clone(),
                signatures: signatures.map(|(number, bytes)| (*number, hex::encode(bytes))).collect(),
            };
            self.complete_with(genesis, from)?;
        }
        Ok(true)
    }

    fn take_genesis(&mut self, from: u16, text: &str) -> Result<bool, CeremonyError> {
        let genesis = SignedGenesis::parse(text)?;
        if self.proposal.genesis(genesis.genesis.group_key)? != genesis.genesis {
            return Err(CeremonyError::OtherGenesis(from));
        }
        match &self.stage {
            Stage::Complete(ours) if ours.genesis != genesis.genesis => {
                return Err(CeremonyError::OtherGenesis(from));
            }
            Stage::Complete(_) => {}
            _ => self.complete_with(genesis, from)?,
        }
        Ok(self.complete.insert(from))
    }

    /// Puts the share of this genesis where it belongs, then writes the genesis, then clears up.
    fn complete_with(&mut self, genesis: SignedGenesis, from: u16) -> Result<(), CeremonyError> {
        genesis.check()?;
        let key = genesis.genesis.group_key;
        let pending = self
            .own_attempts()?
            .into_iter()
            .find(|pending| pending.group_key() == Some(key))
            .ok_or(CeremonyError::ShareLost(from))?;
        match self.dir.share(&self.keys)? {
            // Written just before a crash.
            Some(share) if share.keys() == pending.share.keys() => {}
            _ => self.dir.write_share(&self.keys, &pending.share)?,
        }
        self.dir.write_genesis(&genesis)?;
        Pending::clear(&self.dir)?;
        self.complete.insert(self.own);
        self.stage = Stage::Complete(Box::new(genesis));
        Ok(())
    }

    /// The stored attempts of this proposal (a directory may have seen another one before).
    fn own_attempts(&self) -> Result<Vec<Pending>, CeremonyError> {
        let numbers = self.proposal.numbers();
        let mut all = Pending::all(&self.dir, &self.keys)?;
        all.retain(|pending| {
            pending.runs.keys().copied().eq(numbers.iter().copied()) && pending.share.number() == self.own
        });
        Ok(all)
    }
}
