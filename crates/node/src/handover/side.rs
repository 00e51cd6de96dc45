//! One custodian's side of handing the key over, without network or clock: words in, words out, a share's file in between.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use concordat_events::{Activation, Confirming, Hash, PublicKey, Roster};
use concordat_threshold::KeyShare;
use concordat_threshold::dkg::{Alarm, Message, Outgoing, ParamsError, Progress, To};
use concordat_threshold::reshare::{Plan, Reshare};
use rand::rngs::OsRng;

use super::message::{Attempt, Word};
use crate::ceremony::message::BundleError;
use crate::ceremony::{CeremonyStatus, MemberStatus, Stage as StageStatus};
use crate::dir::{CustodianDir, DirError};
use crate::interrupted::Earlier;
use crate::keys::{self, CustodianKeys};

/// Attempts that one process takes part in. Each needs a restart, a silence or a fault; who leads can't make the others try for ever.
const ATTEMPTS: u32 = 32;

/// How long who leads waits for dealers that say nothing before it goes on with others, ms: rounds are a few messages.
const SILENCE_MS: u64 = 20_000;

/// How long it waits after a fault before it begins anew, ms: the others hear of the fault.
const PAUSE_MS: u64 = 2_000;

/// Why a word changes nothing.
#[derive(Debug, thiserror::Error)]
pub enum HandoverError {
    /// It was refused.
    #[error(transparent)]
    Word(#[from] BundleError),
    /// Its sender takes no part.
    #[error("custodian {0} is in neither roster of this change")]
    Stranger(u16),
    /// A plan that can't be.
    #[error("custodian {by} leads this ceremony and plans what can't be: {what}")]
    Plan {
        /// Who leads.
        by: u16,
        /// What is wrong.
        what: &'static str,
    },
    /// A confirmation or proof that isn't one.
    #[error(
        "custodian {0} confirms with a signature that isn't its own, or shows one that isn't the group's"
    )]
    Confirmation(u16),
    /// Somebody cheats.
    #[error("the ceremony's attempt ended: {0}")]
    Alarm(Alarm),
    /// The threshold library.
    #[error(transparent)]
    Params(#[from] ParamsError),
    /// The new share couldn't be stored, so it wasn't confirmed.
    #[error("the new share can't be stored: {0}")]
    Dir(#[from] DirError),
    /// The transport.
    #[error("{0}")]
    Link(String),
}

/// What a ceremony is about.
pub(crate) struct Change {
    /// Cluster, roster in force and proposal; its transcript is what comes out.
    pub change: Confirming,
    /// The group's key.
    pub group: PublicKey,
    /// Who proposed it and leads the ceremony.
    pub by: u16,
    /// The roster in force.
    pub old: Roster,
    /// The proposed one.
    pub new: Roster,
    /// The own number.
    pub own: u16,
}

impl Change {
    fn identity(&self, number: u16) -> Option<PublicKey> {
        let member = self.old.get(number).or_else(|| self.new.get(number));
        member.map(|member| member.identity)
    }

    /// Everybody else in either roster.
    pub fn others(&self) -> BTreeSet<u16> {
        self.old.numbers().chain(self.new.numbers()).filter(|number| *number != self.own).collect()
    }
}

enum Stage {
    /// Taking part in no attempt.
    Gathering,
    /// In one, which may have ended with an alarm that is still being told.
    Making(Box<Reshare>),
    /// It ended well; its last messages are repeated for those who are still in it.
    Ended(Vec<Outgoing>),
}

/// What a custodian says came out.
struct Said {
    transcript: Hash,
    confirmation: Vec<u8>,
}

/// What only who leads the ceremony keeps.
#[derive(Default)]
struct Lead {
    number: u32,
    /// When the running attempt began, or the last one ended, ms.
    since_ms: u64,
    /// Dealers that kept silent or cheated.
    excluded: BTreeSet<u16>,
    /// When the running attempt was seen to have failed.
    failed: bool,
}

/// See the module's header.
pub(super) struct Side {
    change: Change,
    dir: Arc<CustodianDir>,
    keys: Arc<CustodianKeys>,
    /// The own share in force.
    share: Option<KeyShare>,
    runs: BTreeMap<u16, Hash>,
    /// Who says that it can deal.
    deals: BTreeSet<u16>,
    attempt: Option<Attempt>,
    attempts: u32,
    stage: Stage,
    said: BTreeMap<u16, Said>,
    proofs: BTreeMap<Hash, Vec<u8>>,
    lead: Lead,
    problems: BTreeMap<u16, String>,
    /// What keeps this custodian from going on.
    stopped: Option<String>,
    /// What became of what an earlier process had done.
    earlier: Earlier,
}

impl Side {
    pub fn new(
        change: Change,
        dir: Arc<CustodianDir>,
        keys: Arc<CustodianKeys>,
        share: Option<KeyShare>,
    ) -> Self {
        let own = change.own;
        // The share of an attempt counts when the group has certified it, and is the one in force then.
        let beside = dir.has_shares_beside(share.is_some()).unwrap_or_default();
        if beside {
            tracing::info!(
                "shares of earlier attempts are here: they count for nothing, and a new attempt begins"
            );
        }
        Side {
            runs: BTreeMap::from([(own, Hash::from_bytes(rand::random()))]),
            deals: share.iter().map(|_| own).collect(),
            change,
            dir,
            keys,
            share,
            attempt: None,
            attempts: 0,
            stage: Stage::Gathering,
            said: BTreeMap::new(),
            proofs: BTreeMap::new(),
            lead: Lead::default(),
            problems: BTreeMap::new(),
            stopped: None,
            earlier: Earlier::left_behind(beside),
        }
    }

    pub fn change(&self) -> &Change {
        &self.change
    }

    /// What to tell a peer now.
    pub fn word_for(&self, peer: u16) -> Vec<u8> {
        let own = self.change.own;
        let bytes = |hash: Option<&Hash>| hash.map(|hash| hash.as_bytes().to_vec()).unwrap_or_default();
        let mut word = Word::default();
        word.run = bytes(self.runs.get(&own));
        word.deals = self.share.is_some();
        if let Some(attempt) = &self.attempt {
            word.attempt = bytes(Some(&attempt.id));
            if own == self.change.by {
                word.plan = attempt.bytes.clone();
            }
        }
        word.messages = match &self.stage {
            Stage::Gathering => Vec::new(),
            Stage::Making(reshare) => {
                reshare.outgoing_for(peer).map(|message| message.encode().to_vec()).collect()
            }
            Stage::Ended(last) => {
                let for_peer = |out: &&Outgoing| out.to == To::All || out.to == To::One(peer);
                last.iter().filter(for_peer).map(|out| out.message.encode().to_vec()).collect()
            }
        };
        if let Some(said) = self.said.get(&own) {
            word.transcript = bytes(Some(&said.transcript));
            word.confirmation = said.confirmation.clone();
            word.proof = self.proofs.get(&said.transcript).cloned().unwrap_or_default();
        }
        word.seal(&self.keys, self.change.change.proposal, own, peer)
    }

    /// Takes what `from`, as the channel says, sent. True if anything changed.
    pub fn take(&mut self, from: u16, bytes: &[u8]) -> Result<bool, HandoverError> {
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

    /// The request's content that puts the new roster in force, once enough have confirmed.
    pub fn activation(&self) -> Option<Activation> {
        self.proofs.iter().find_map(|(transcript, proof)| {
            let confirmations: Vec<(u16, String)> = self
                .said
                .iter()
                .filter(|(_, said)| said.transcript == *transcript && !said.confirmation.is_empty())
                .map(|(number, said)| (*number, hex::encode(&said.confirmation)))
                .collect();
            (confirmations.len() >= self.change.new.q()).then(|| Activation {
                proposal: self.change.change.proposal,
                transcript: *transcript,
                confirmations,
                proof: hex::encode(proof),
            })
        })
    }

    /// Goes on by the clock: only who leads does. True if anything changed.
    pub fn tick(&mut self, now_ms: u64) -> Result<bool, HandoverError> {
        if self.change.own != self.change.by || self.stopped.is_some() || self.activation().is_some() {
            return Ok(false);
        }
        match &self.stage {
            Stage::Gathering => self.begin(now_ms),
            Stage::Ended(_) if self.restarted() => self.begin(now_ms),
            Stage::Ended(_) => Ok(false),
            Stage::Making(_) if self.restarted() => self.begin(now_ms),
            Stage::Making(reshare) => {
                let dealers =
                    self.attempt.as_ref().map(|attempt| attempt.dealers.clone()).unwrap_or_default();
                let suspects = match reshare.alarm() {
                    Some(alarm) => Some(alarm.suspects()),
                    None if now_ms >= self.lead.since_ms + SILENCE_MS => {
                        let silent = reshare.waiting_on();
                        silent.iter().any(|number| dealers.contains(number)).then_some(silent)
                    }
                    None => None,
                };
                let Some(suspects) = suspects else { return Ok(false) };
                if !std::mem::replace(&mut self.lead.failed, true) {
                    self.lead.since_ms = now_ms;
                    self.lead.excluded.extend(suspects.intersection(&dealers));
                    self.lead.excluded.remove(&self.change.own);
                }
                if now_ms < self.lead.since_ms + PAUSE_MS { Ok(false) } else { self.begin(now_ms) }
            }
        }
    }

    /// Has somebody who takes part in the running attempt begun anew? Its secrets are gone with its process.
    fn restarted(&self) -> bool {
        let Some(attempt) = &self.attempt else { return false };
        let finished = |number: &u16| self.said.contains_key(number);
        attempt.runs.iter().any(|(number, run)| self.runs.get(number) != Some(run) && !finished(number))
    }

    /// Sets up an attempt, if all who come into office were heard, and enough dealers.
    fn begin(&mut self, now_ms: u64) -> Result<bool, HandoverError> {
        let Some(share) = &self.share else { return Ok(false) };
        let (keys, new) = (share.keys().clone(), &self.change.new);
        if new.numbers().any(|number| !self.runs.contains_key(&number)) {
            return Ok(false);
        }
        let able = self.deals.intersection(keys.numbers());
        let mut able: Vec<u16> =
            able.copied().filter(|number| !self.lead.excluded.contains(number)).collect();
        if able.len() < usize::from(keys.threshold()) {
            // Better with one that was silent once than never.
            self.lead.excluded.clear();
            return Ok(false);
        }
        // Who stays is likelier to be there than who is about to leave.
        able.sort_by_key(|number| (new.get(*number).is_none(), *number));
        let dealers: BTreeSet<u16> = able.into_iter().take(usize::from(keys.threshold())).collect();
        let members: BTreeSet<u16> = dealers.iter().copied().chain(new.numbers()).collect();
        let runs = self.runs.iter().filter(|(number, _)| members.contains(number));
        let runs = runs.map(|(number, run)| (*number, *run)).collect();
        self.lead.number += 1;
        self.lead.since_ms = now_ms;
        self.lead.failed = false;
        let attempt = Attempt::new(self.lead.number, dealers, runs, keys);
        self.adopt(attempt)?;
        Ok(true)
    }

    fn try_take(&mut self, from: u16, bytes: &[u8]) -> Result<bool, HandoverError> {
        let own = self.change.own;
        let identity = self.change.identity(from).filter(|_| from != own);
        let identity = identity.ok_or(HandoverError::Stranger(from))?;
        let word = Word::open(bytes, &identity, self.change.change.proposal, from, own)?;
        let run = Hash::from_slice(&word.run).unwrap_or_default();
        let mut changed = self.runs.insert(from, run) != Some(run);
        changed |= match word.deals {
            true => self.deals.insert(from),
            false => self.deals.remove(&from),
        };
        changed |= self.hear(from, &identity, &word)?;
        if self.stopped.is_some() {
            return Ok(changed);
        }
        let known = self.attempt.as_ref().map(|attempt| attempt.bytes.as_slice());
        if from == self.change.by && !word.plan.is_empty() && known != Some(word.plan.as_slice()) {
            changed |= self.planned(&word.plan)?;
        }
        if self.attempt.as_ref().is_none_or(|attempt| word.attempt != attempt.id.as_bytes()) {
            return Ok(changed);
        }
        for bytes in &word.messages {
            let malformed = || BundleError::Malformed { from, got: bytes.len() };
            let message = Message::decode(bytes).map_err(|_| malformed())?;
            changed |= self.take_message(from, message)?;
        }
        Ok(changed)
    }

    /// What the sender says came out.
    fn hear(&mut self, from: u16, identity: &PublicKey, word: &Word) -> Result<bool, HandoverError> {
        let Some(transcript) = Hash::from_slice(&word.transcript) else { return Ok(false) };
        let confirming = self.change.change.ended_with(transcript);
        let mut changed = false;
        if !word.proof.is_empty() && !self.proofs.contains_key(&transcript) {
            if !keys::verify(&self.change.group, &confirming.proof_digest(), &word.proof) {
                return Err(HandoverError::Confirmation(from));
            }
            // The group's own signatures: at most one for each attempt.
            self.proofs.insert(transcript, word.proof.clone());
            changed = true;
        }
        let known = self.said.get(&from).is_some_and(|said| said.transcript == transcript);
        if known || word.confirmation.is_empty() || self.change.new.get(from).is_none() {
            return Ok(changed);
        }
        if !keys::verify(identity, &confirming.digest(), &word.confirmation) {
            return Err(HandoverError::Confirmation(from));
        }
        self.said.insert(from, Said { transcript, confirmation: word.confirmation.clone() });
        Ok(true)
    }

    /// The plan of who leads.
    fn planned(&mut self, bytes: &[u8]) -> Result<bool, HandoverError> {
        let Change { by, own, new, .. } = &self.change;
        let wrong = |what| HandoverError::Plan { by: *by, what };
        let attempt = Attempt::read(bytes).ok_or_else(|| wrong("it can't be read"))?;
        if attempt.keys.group_key().to_bytes() != self.change.group.to_bytes() {
            return Err(wrong("it is about another group's key"));
        }
        if self.share.as_ref().is_some_and(|share| *share.keys() != attempt.keys) {
            return Err(wrong("its keys aren't those in force"));
        }
        let members: BTreeSet<u16> = attempt.dealers.iter().copied().chain(new.numbers()).collect();
        if !attempt.runs.keys().eq(members.iter()) {
            return Err(wrong("those who take part aren't its dealers and the new custodians"));
        }
        // The same process' later plan counts; a plan with another process of ours was made before it heard of this one.
        let leads = |attempt: &Attempt| attempt.runs.get(by).copied();
        let older = self.attempt.as_ref().is_some_and(|known| {
            leads(known) == leads(&attempt) && leads(known).is_some() && known.number >= attempt.number
        });
        if older || attempt.runs.get(own).is_some_and(|run| self.runs.get(own) != Some(run)) {
            return Ok(false);
        }
        self.adopt(attempt)?;
        Ok(true)
    }

    /// Begins an attempt, in the place of the one before.
    fn adopt(&mut self, attempt: Attempt) -> Result<(), HandoverError> {
        self.attempts += 1;
        if self.attempts > ATTEMPTS {
            let why = format!(
                "{ATTEMPTS} attempts have failed; end this change, and propose it again without who fails"
            );
            self.stopped = Some(why);
            return Ok(());
        }
        let Change { own, new, change, .. } = &self.change;
        self.stage = Stage::Gathering;
        if attempt.runs.contains_key(own) {
            let plan = Plan {
                change: *change,
                attempt: attempt.id,
                keys: attempt.keys.clone(),
                dealers: attempt.dealers.clone(),
                roster: new.numbers().collect(),
                threshold: u16::try_from(new.q()).unwrap_or(u16::MAX),
            };
            let share = self.share.as_ref().filter(|_| attempt.dealers.contains(own));
            let (reshare, _) = Reshare::new(plan, *own, share, &mut OsRng)?;
            self.stage = Stage::Making(Box::new(reshare));
        }
        self.attempt = Some(attempt);
        Ok(())
    }

    fn take_message(&mut self, from: u16, message: Message) -> Result<bool, HandoverError> {
        let Stage::Making(reshare) = &mut self.stage else { return Ok(false) };
        if reshare.alarm().is_some() {
            return Ok(false);
        }
        let before = reshare.phase();
        let sent = reshare.on_message(from, message, &mut OsRng).map_err(HandoverError::Alarm)?;
        let mut changed = !sent.is_empty() || reshare.phase() != before;
        if let (Some(share), Some(transcript)) = (reshare.to_store(), reshare.transcript()) {
            if let Err(error) = self.dir.write_next_share(&self.keys, transcript, share) {
                self.stopped = Some(error.to_string());
                return Err(error.into());
            }
            reshare.stored(&mut OsRng).map_err(HandoverError::Alarm)?;
            changed = true;
        }
        let making = std::mem::replace(&mut self.stage, Stage::Gathering);
        let Stage::Making(reshare) = making else { return Ok(changed) };
        match reshare.finish() {
            Err(unfinished) => self.stage = Stage::Making(unfinished.0),
            Ok(outcome) => {
                let (own, transcript) = (self.change.own, outcome.transcript);
                self.proofs.insert(transcript, outcome.test_signature.to_vec());
                let confirming = self.change.change.ended_with(transcript);
                // The share is stored and was read back before the others could make this signature.
                let holds = self.change.new.get(own).is_some();
                let confirmation = holds.then(|| self.keys.sign(&confirming.digest()).to_vec());
                self.said.insert(own, Said { transcript, confirmation: confirmation.unwrap_or_default() });
                self.stage = Stage::Ended(outcome.repeat);
                changed = true;
            }
        }
        Ok(changed)
    }

    /// How far it is.
    pub fn status(&self) -> CeremonyStatus {
        let Change { own, old, new, change, .. } = &self.change;
        let heard = |number: &u16| self.runs.contains_key(number);
        let confirmed =
            |number: &u16| self.said.get(number).is_some_and(|said| !said.confirmation.is_empty());
        let missing = |has: &dyn Fn(&u16) -> bool| new.numbers().filter(|number| !has(number)).collect();
        let (stage, waiting_on, progress): (_, Vec<u16>, BTreeMap<u16, Progress>) = match &self.stage {
            _ if self.activation().is_some() => (StageStatus::Complete, Vec::new(), BTreeMap::new()),
            Stage::Gathering => (StageStatus::Gathering, missing(&heard), BTreeMap::new()),
            Stage::Making(reshare) => {
                let stage = match reshare.alarm() {
                    None => StageStatus::Making,
                    Some(alarm) => StageStatus::Failed {
                        reason: alarm.to_string(),
                        suspects: alarm.suspects().into_iter().collect(),
                    },
                };
                (stage, reshare.waiting_on().into_iter().collect(), reshare.status())
            }
            Stage::Ended(_) => (StageStatus::Signing, missing(&confirmed), BTreeMap::new()),
        };
        let everybody = old.members().iter().chain(new.members());
        let member = |number: u16, name: &str| MemberStatus {
            name: name.to_owned(),
            heard: heard(&number),
            progress: progress.get(&number).copied().unwrap_or_default(),
            signed: confirmed(&number),
            complete: confirmed(&number),
            problem: self.problems.get(&number).cloned(),
        };
        CeremonyStatus {
            proposal: change.proposal,
            attempt: self.attempt.as_ref().map(|attempt| attempt.id),
            stage: match &self.stopped {
                Some(reason) => StageStatus::Failed { reason: reason.clone(), suspects: vec![*own] },
                None => stage,
            },
            members: everybody.map(|one| (one.number, member(one.number, &one.name))).collect(),
            waiting_on,
            earlier: self.earlier,
        }
    }
}
