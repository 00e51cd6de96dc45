//! Signing: sessions, shares and certificates (PROTOCOL 4.5 to 4.7), and the attempts that route around a silent or cheating
//! signer.

use std::collections::BTreeMap;

use concordat_events::batch::Batch;
use concordat_events::hash::Hash;
use concordat_ledger::Draft;
use concordat_store::Store;
use concordat_threshold::{AggregateError, Sessions, Share};

use crate::core::{Core, Fatal, Then};
use crate::effect::Alarm;
use crate::message::{Body, Certificate, Certify, Kind, Msg, PrepareCert, Vote, session_id};
use crate::repeat::Slot;
use crate::round::Session;
use crate::rules::{Rule, Rules};
use crate::scheme::Scheme;
use crate::wire;

impl<S: Store, R: Rules> Core<S, R> {
    /// A vote reaches the leader.
    pub(crate) fn on_prepare(&mut self, message: &Msg) {
        let Some(prepare) = message.prepare() else { return };
        let fits = self.leads()
            && self.round.proposed == Some(prepare.vote)
            && self
                .round
                .draft_of(&prepare.vote.id)
                .is_some_and(|draft| prepare.commitments.len() == draft.messages.len())
            && prepare.vote.epoch == self.record.epoch
            && prepare.vote.height == self.next_height();
        if !fits
            || self.round.used.contains(&(message.sender, prepare.hash))
            || self.round.cheats.contains(&message.sender)
        {
            return;
        }
        let newer = self.round.prepares.get(&message.sender).is_none_or(|known| known.seq <= message.seq);
        if newer {
            self.round.prepares.insert(message.sender, message.clone());
        }
    }

    /// The leader opens the first session with a prepare certificate, and further ones where signers stall or cheat.
    pub(crate) fn try_session(&mut self) -> Result<(), Fatal> {
        if !self.leads() || self.epoch.proposed != Some(self.next_height()) {
            return Ok(());
        }
        if self.round.cert.is_none() {
            if self.round.prepares.len() < self.context.q() {
                return Ok(());
            }
            let Some(vote) = self.round.prepares.values().find_map(|m| m.prepare().map(|p| p.vote)) else {
                return Ok(());
            };
            let prepares = self.round.prepares.values().take(self.context.q()).cloned().collect();
            let Some(batch_hashes) = self.batch_hashes(&vote.id) else { return Ok(()) };
            self.round.cert = Some(PrepareCert { vote, prepares, batch_hashes });
        }
        // Only the leader's own certificate is judged for progress; one whose shares come in needs no other.
        let patience = self.timeout() / 10;
        let now = self.now.mono_ms;
        let mut stalled = self.round.attempt == 0;
        if let Some(session) = self.round.sessions.values_mut().max_by_key(|session| session.attempt)
            && session.attempt == self.round.attempt
        {
            let silent: Vec<u16> = session
                .signers
                .iter()
                .map(|signer| signer.sender)
                .filter(|number| !session.shares.contains_key(number))
                .collect();
            stalled = session.failed || (now >= session.since_ms + patience && !silent.is_empty());
            if stalled && !session.failed {
                self.round.passed_over.extend(silent);
            }
        }
        if stalled { self.open_session() } else { Ok(()) }
    }

    fn open_session(&mut self) -> Result<(), Fatal> {
        let Some(cert) = self.round.cert.clone() else { return Ok(()) };
        let t = self.context.roster.q();
        let fresh = |message: &&Msg| {
            message.prepare().is_some_and(|p| {
                !p.commitments.is_empty() && !self.round.used.contains(&(message.sender, p.hash))
            }) && !self.round.cheats.contains(&message.sender)
                && (R::keeps(Rule::SessionsOfAllPrepared)
                    || cert.prepares.iter().any(|p| p.sender == message.sender))
        };
        let able: Vec<Msg> = self.round.prepares.values().filter(fresh).cloned().collect();
        // Who was passed over and has only new commitments to show signs where it can't be done without it.
        let (late, prompt): (Vec<Msg>, Vec<Msg>) =
            able.into_iter().partition(|message| self.round.passed_over.contains(&message.sender));
        let patience = self.timeout() / 10;
        let waited = self.round.short_since.is_some_and(|since| self.now.mono_ms >= since + patience);
        if prompt.len() < t && (prompt.len() + late.len() < t || !waited) {
            self.round.short_since.get_or_insert(self.now.mono_ms);
            self.ask_again(cert.vote);
            return Ok(());
        }
        self.round.short_since = None;
        let signers: Vec<Msg> = prompt.into_iter().chain(late).take(t).collect();
        self.round.attempt += 1;
        let attempt = self.round.attempt;
        for signer in &signers {
            if let Some(prepare) = signer.prepare() {
                self.round.used.insert((signer.sender, prepare.hash));
            }
        }
        // The signers' prepares are the certificate's: they stand in the message once.
        let cert = PrepareCert { prepares: signers.clone(), ..cert };
        let body = wire::Certify {
            cert: Some(wire::PrepareCert { prepares: Vec::new(), ..cert.to_wire() }),
            attempt,
            signers: signers.iter().map(|signer| signer.envelope().clone()).collect(),
        };
        self.flush_claims();
        let session = session_id(&cert.vote, attempt, &signers);
        let message = self.seal_own(Kind::Certify, &body, Vec::new(), |_| {
            Body::Certify(Certify { cert, attempt, signers, session })
        });
        if let Some(message) = message {
            self.send_and_repeat(Slot::Certify, &message);
        }
        Ok(())
    }

    /// Asks those who have prepared for fresh commitments, at intervals.
    fn ask_again(&mut self, vote: Vote) {
        let interval = self.timeout() / 10;
        if self.round.asked_again.is_some_and(|at| self.now.mono_ms < at + interval) {
            return;
        }
        self.round.asked_again = Some(self.now.mono_ms);
        let body = wire::Again { epoch: vote.epoch, height: vote.height, id: vote.id.as_bytes().to_vec() };
        if let Some(message) = self.seal(Kind::Again, &body, Vec::new()) {
            self.send_all(&message);
        }
    }

    /// The leader asks for fresh commitments.
    pub(crate) fn on_again(&mut self, from: u16, vote: Vote) {
        let voted = self.record.prepared == Some(vote) && vote.epoch == self.record.epoch;
        if !voted || from != self.leader() || vote.height != self.next_height() || !self.may_vote() {
            return;
        }
        let unused = self
            .round
            .prepare
            .as_ref()
            .filter(|message| message.prepare().is_some_and(|p| self.round.nonces.contains_key(&p.hash)))
            .cloned();
        match unused {
            Some(message) => self.send(from, message),
            None => self.send_prepare(vote),
        }
    }

    /// A prepare certificate with a session: the second round (PROTOCOL 4.6).
    pub(crate) fn on_certify(&mut self, message: &Msg) -> Result<(), Fatal> {
        let Body::Certify(certify) = &message.body else { return Ok(()) };
        let vote = certify.cert.vote;
        if vote.epoch > self.record.epoch || vote.height > self.next_height() {
            self.ask_for_heads(message.sender);
        }
        if vote.height < self.next_height() {
            return self.show_certificate(message.sender, vote.height);
        }
        self.on_shown(&certify.cert.prepares);
        self.try_prepare()?;
        let current = self.signs_in(vote.epoch);
        if !current || vote.height != self.next_height() {
            return self.adopt(certify.cert.clone(), message.sender);
        }
        let leads = message.sender == self.leader() || !R::keeps(Rule::EpochEndsShares);
        if leads && self.round.draft_of(&vote.id).is_some() {
            let session = Session {
                vote,
                attempt: certify.attempt,
                signers: certify.signers.clone(),
                shares: BTreeMap::new(),
                since_ms: self.now.mono_ms,
                failed: false,
            };
            self.round.add_session(certify.session, session);
            if self.may_share(certify) {
                if R::keeps(Rule::LockBeforeShare) && R::keeps(Rule::LockFlushedFirst) {
                    self.take_lock(certify.cert.clone())?;
                }
                self.record.shared = Some((vote, certify.session));
                self.durable();
                self.out.then.push(Then::Share(certify.session));
                if !R::keeps(Rule::LockFlushedFirst) {
                    self.out.then.push(Then::Lock(Box::new(certify.cert.clone())));
                    return Ok(());
                }
            }
            for early in std::mem::take(&mut self.round.early).into_values() {
                self.on_share(&early)?;
            }
        }
        if R::keeps(Rule::LockBeforeShare) {
            self.adopt(certify.cert.clone(), message.sender)
        } else {
            Ok(())
        }
    }

    /// Does this custodian sign in this epoch? In the own one only.
    fn signs_in(&self, epoch: u64) -> bool {
        epoch == self.record.epoch || (!R::keeps(Rule::EpochEndsShares) && epoch < self.record.epoch)
    }

    /// PROTOCOL 4.6, all of it.
    fn may_share(&self, certify: &Certify) -> bool {
        let mine = certify.signers.iter().find(|signer| signer.sender == self.me).and_then(|m| m.prepare());
        self.may_vote()
            && self.record.prepared == Some(certify.cert.vote)
            && mine.is_some_and(|prepare| self.round.nonces.contains_key(&prepare.hash))
            && certify.signers.iter().all(|signer| {
                let count = self.round.draft_of(&certify.cert.vote.id).map(|draft| draft.messages.len());
                signer.prepare().map(|prepare| prepare.commitments.len()) == count
            })
    }

    /// Lock and share record are durable: the nonces leave memory, the share leaves the process.
    pub(crate) fn release_share(&mut self, id: Hash) -> Result<(), Fatal> {
        let Some((vote, sessions)) = self.round.sessions.get(&id).map(|s| (s.vote, commitments(&s.signers)))
        else {
            return Ok(());
        };
        // What this step has done since may have made the share void: a certificate, or another epoch.
        let recorded = self.record.shared == Some((vote, id));
        let locked = self.record.lock.as_ref().is_some_and(|lock| lock.vote == vote)
            || !(R::keeps(Rule::LockBeforeShare)
                && R::keeps(Rule::LockFlushedFirst)
                && R::keeps(Rule::EpochEndsShares));
        if !recorded || !locked || !self.signs_in(vote.epoch) || vote.height != self.next_height() {
            return Ok(());
        }
        let mine = self.round.sessions.get(&id).and_then(|session| {
            let signer = session.signers.iter().find(|signer| signer.sender == self.me)?;
            signer.prepare().map(|prepare| prepare.hash)
        });
        let Some(nonces) = mine.and_then(|hash| self.round.nonces.remove(&hash)) else { return Ok(()) };
        let Some(draft) = self.round.draft_of(&vote.id) else { return Ok(()) };
        let Some(share) = &self.share else { return Ok(()) };
        let Ok(shares) = R::Scheme::sign_many(share, nonces, &message_ids(draft), &sessions) else {
            return Ok(());
        };
        let body = wire::Share {
            epoch: vote.epoch,
            height: vote.height,
            id: vote.id.as_bytes().to_vec(),
            session: id.as_bytes().to_vec(),
            shares: shares.iter().map(|share| share.to_bytes().to_vec()).collect(),
        };
        if let Some(message) = self.seal(Kind::Share, &body, Vec::new()) {
            self.send_and_repeat(Slot::Share, &message);
        }
        Ok(())
    }

    /// A share came in.
    pub(crate) fn on_share(&mut self, message: &Msg) -> Result<(), Fatal> {
        let Body::Share(share) = &message.body else { return Ok(()) };
        if share.vote.height != self.next_height() || share.vote.epoch != self.record.epoch {
            return Ok(());
        }
        let now = self.now.mono_ms;
        let Some(session) = self.round.sessions.get_mut(&share.session) else {
            self.round.early.insert(message.sender, message.clone());
            return Ok(());
        };
        if !session.signers.iter().any(|signer| signer.sender == message.sender) {
            return Ok(());
        }
        if session.shares.insert(message.sender, message.clone()).is_none() {
            session.since_ms = now;
        }
        self.round.passed_over.remove(&message.sender);
        // The leader aggregates at once; others only if no certificate came shortly after.
        if self.leads() { self.aggregate(share.session) } else { Ok(()) }
    }

    /// Others aggregate where the leader doesn't.
    pub(crate) fn aggregate_late(&mut self) -> Result<(), Fatal> {
        let patience = self.timeout() / 20;
        let late: Vec<Hash> = self
            .round
            .sessions
            .iter()
            .filter(|(_, session)| !session.failed && session.since_ms + patience <= self.now.mono_ms)
            .map(|(id, _)| *id)
            .collect();
        late.into_iter().try_for_each(|id| self.aggregate(id))
    }

    fn aggregate(&mut self, id: Hash) -> Result<(), Fatal> {
        let Some(session) = self.round.sessions.get(&id) else { return Ok(()) };
        let vote = session.vote;
        let Some(draft) = self.round.draft_of(&vote.id) else { return Ok(()) };
        if session.failed || session.shares.len() < session.signers.len() {
            return Ok(());
        }
        let shares: BTreeMap<u16, Vec<Share>> = session
            .shares
            .iter()
            .filter_map(|(number, message)| match &message.body {
                Body::Share(share) => Some((*number, share.shares.clone())),
                _ => None,
            })
            .collect();
        let ids = message_ids(draft);
        let Some(keys) = &self.keys else { return Ok(()) };
        match R::Scheme::aggregate_many(keys, &ids, &commitments(&session.signers), &shares) {
            Ok(signatures) => {
                let log = draft.messages.first().zip(signatures.first());
                let Some(Ok(log)) = log.map(|(template, signature)| template.signed(signature)) else {
                    return Ok(());
                };
                let certificate = Certificate { log, head: draft.head.clone(), signatures };
                self.install_own(certificate)
            }
            Err(AggregateError::Culprits { numbers }) => {
                for culprit in numbers {
                    self.round.cheats.insert(culprit);
                    self.round.prepares.remove(&culprit);
                    self.alarm(Alarm::BadShare { culprit, height: vote.height });
                }
                if let Some(session) = self.round.sessions.get_mut(&id) {
                    session.failed = true;
                }
                Ok(())
            }
            Err(_) => {
                if let Some(session) = self.round.sessions.get_mut(&id) {
                    session.failed = true;
                }
                Ok(())
            }
        }
    }

    /// Hashes of the batches behind the own draft.
    fn batch_hashes(&self, id: &Hash) -> Option<Vec<Hash>> {
        Some(self.round.computed_as(id)?.batches.iter().map(Batch::hash).collect())
    }
}

/// The ids that the group signs for a head, in order.
pub(crate) fn message_ids(draft: &Draft) -> Vec<[u8; 32]> {
    draft.messages.iter().map(|template| *template.id().as_bytes()).collect()
}

/// The commitments of a session's signers.
fn commitments(signers: &[Msg]) -> Sessions {
    signers.iter().filter_map(|signer| Some((signer.sender, signer.prepare()?.commitments.clone()))).collect()
}
