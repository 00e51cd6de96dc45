//! The ceremony as a pure state machine.
//!
//! Every message is put where its kind belongs, whenever it comes; then the
//! ceremony takes all the steps that have become possible. So the order of
//! delivery decides nothing. What is held is bounded: one message per sender and
//! kind. A second one that is equal is ignored, one that differs is an alarm.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use concordat_events::hash::Hash;
use frost_secp256k1_tr as frost;
use frost_secp256k1_tr::keys::dkg as library;
use rand_core::{CryptoRng, RngCore};
use zeroize::Zeroizing;

use crate::curve::{self, Scalar};
use crate::keys::{GroupKeys, KeyShare};
use crate::memory::{Wiped, leaving_nothing};
use crate::nonce::{Nonce, commit};
use crate::reshare::{Deal, Polynomial};
use crate::session::{Session, Signers};
use crate::sign::{Share, sign_with};

use super::alarm::Alarm;
use super::message::{Body, Kind, Message, Round1Package, SecretShare, View};
use super::params::{Params, ParamsError};
use super::status::{Heard, Phase, Progress};
use super::steps::same;

/// Whom a message is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum To {
    /// Every other member.
    All,
    /// One member, over a confidential channel.
    One(u16),
}

/// A message to send. Copies share the one message, which may be secret.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// Whom it is for.
    pub to: To,
    /// The message.
    pub message: Arc<Message>,
}

/// What a finished ceremony leaves: its member's share and what all members have
/// in common.
pub struct Outcome {
    /// The own share. Store it sealed, read it back, then confirm.
    pub share: KeyShare,
    /// The group's public keys, equal at all members.
    pub keys: GroupKeys,
    /// The hash over the whole ceremony that all members confirmed.
    pub transcript: Hash,
    /// The signature of all members over [`Outcome::test_message`].
    pub test_signature: [u8; 64],
    /// What the test signature signs: a tagged hash of ceremony id and transcript.
    pub test_message: [u8; 32],
    /// Goes on being repeated to members that have not finished yet: it is the
    /// last thing they can be waiting for.
    pub done: Outgoing,
}

/// What [`Ceremony::end_well`] gives.
pub(crate) struct Ended {
    pub(crate) share: Option<KeyShare>,
    pub(crate) keys: GroupKeys,
    pub(crate) transcript: Hash,
    pub(crate) test_signature: [u8; 64],
    pub(crate) done: Outgoing,
    /// What is left, without secrets.
    pub(crate) rest: Ceremony,
}

/// [`Ceremony::finish`] before the end: the ceremony comes back unharmed.
pub struct NotFinished(pub Box<Ceremony>);

/// Where the ceremony is, with the secrets of that moment and no others.
enum Stage {
    Round1 { secret: Secret },
    Echo { secret: Secret, view: View },
    Round2 { kept: Kept, view: View },
    Store { agreed: Box<Agreed> },
    Confirm { agreed: Box<Agreed> },
    TestCommit { agreed: Box<Agreed>, nonce: Option<Box<Nonce>> },
    TestShare { agreed: Box<Agreed>, view: View },
    Done { agreed: Box<Agreed>, signature: [u8; 64] },
    Finished { agreed: Box<Agreed>, signature: [u8; 64] },
    Aborted,
}

/// The own polynomial.
pub(super) enum Secret {
    /// Of a key made anew.
    Fresh(Box<library::round1::SecretPackage>),
    /// Of a key handed over. None for a member that only receives.
    Given(Option<Polynomial>),
}

/// What is left of the own polynomial once it is shared out.
pub(super) enum Kept {
    /// What the library wants back.
    Fresh(Wiped<library::round2::SecretPackage>),
    /// Its value for the own number, if it deals and receives.
    Given(Option<Box<Zeroizing<Scalar>>>),
}

/// The keys, once they stand. A dealer that leaves has no share of them.
pub(super) struct Agreed {
    pub(super) share: Option<KeyShare>,
    pub(super) keys: GroupKeys,
    pub(super) transcript: Hash,
    pub(super) test_message: [u8; 32],
}

/// One member's side of a key ceremony. See the [module](super) for the rounds.
pub struct Ceremony {
    pub(super) params: Params,
    stage: Stage,
    seen: Heard,
    pub(super) round1: BTreeMap<u16, Round1Package>,
    pub(super) deals: BTreeMap<u16, Deal>,
    echoes: BTreeMap<u16, View>,
    pub(super) round2: BTreeMap<u16, SecretShare>,
    confirms: BTreeMap<u16, Hash>,
    pub(super) test_commits: Session,
    test_views: BTreeMap<u16, View>,
    pub(super) test_shares: BTreeMap<u16, Share>,
    dones: BTreeMap<u16, [u8; 64]>,
    /// All that was sent and is still worth repeating.
    sent: Vec<Outgoing>,
    /// What was sent since the caller last took it.
    fresh: Vec<Outgoing>,
    alarm: Option<Alarm>,
}

impl Ceremony {
    /// Begins a ceremony: makes the own polynomial and sends its commitment.
    ///
    /// # Errors
    /// [`ParamsError::Library`] if the library refuses, which it does not for
    /// checked parameters.
    pub fn new(
        params: Params,
        rng: &mut (impl RngCore + CryptoRng),
    ) -> Result<(Self, Vec<Outgoing>), ParamsError> {
        let refused = |e: frost::Error| ParamsError::Library { reason: e.to_string() };
        let id = curve::identifier(params.own()).ok_or(ParamsError::Zero)?;
        let n = u16::try_from(params.n()).unwrap_or(u16::MAX);
        let (secret, package) = leaving_nothing(|| {
            library::part1(id, n, params.threshold(), rng)
                .map(|(secret, package)| (Box::new(secret), package))
        })
        .map_err(refused)?;
        let package = Round1Package::from_package(&package).map_err(refused)?;
        let mut ceremony = Self::empty(params, Secret::Fresh(secret));
        ceremony.round1.insert(ceremony.params.own(), package.clone());
        ceremony.send(To::All, Body::Round1(package));
        let first = std::mem::take(&mut ceremony.fresh);
        Ok((ceremony, first))
    }

    /// Begins to hand a key over. `secret` is the weighted share of who deals.
    pub(crate) fn hand_over(
        params: Params,
        secret: Option<Box<Zeroizing<Scalar>>>,
        rng: &mut (impl RngCore + CryptoRng),
    ) -> (Self, Vec<Outgoing>) {
        let (polynomial, deal) = loop {
            let Some(secret) = &secret else { break (None, None) };
            let polynomial = leaving_nothing(|| Polynomial::new(secret, params.threshold(), rng));
            // A coefficient of zero has no point to send; it comes once in 2^256 draws.
            if let Some(deal) = leaving_nothing(|| polynomial.commitment()) {
                break (Some(polynomial), Some(deal));
            }
        };
        let mut ceremony = Self::empty(params, Secret::Given(polynomial));
        if let Some(deal) = deal {
            ceremony.deals.insert(ceremony.params.own(), deal.clone());
            ceremony.send(To::All, Body::Deal(deal));
        }
        let first = std::mem::take(&mut ceremony.fresh);
        (ceremony, first)
    }

    fn empty(params: Params, secret: Secret) -> Self {
        Self {
            params,
            stage: Stage::Round1 { secret },
            round1: BTreeMap::new(),
            deals: BTreeMap::new(),
            seen: Heard::default(),
            echoes: BTreeMap::new(),
            round2: BTreeMap::new(),
            confirms: BTreeMap::new(),
            test_commits: BTreeMap::new(),
            test_views: BTreeMap::new(),
            test_shares: BTreeMap::new(),
            dones: BTreeMap::new(),
            sent: Vec::new(),
            fresh: Vec::new(),
            alarm: None,
        }
    }

    /// Takes a message that the channel says `from` sent, and returns what is to
    /// be sent now. A message of another ceremony, or from one who is no other
    /// member, changes nothing.
    ///
    /// # Errors
    /// The [`Alarm`] that ended the ceremony, now or earlier. All secrets are gone
    /// then, and [`Ceremony::repeat`] holds only the notice to the others.
    pub fn on_message(
        &mut self,
        from: u16,
        message: Message,
        rng: &mut (impl RngCore + CryptoRng),
    ) -> Result<Vec<Outgoing>, Alarm> {
        if let Some(alarm) = &self.alarm {
            return Err(alarm.clone());
        }
        if message.ceremony != self.params.ceremony()
            || from == self.params.own()
            || !self.params.is_member(from)
            // What is finished can't be spoiled any more.
            || matches!(self.stage, Stage::Finished { .. })
        {
            return Ok(Vec::new());
        }
        if let Err(alarm) = self.accept(from, message) {
            self.end(alarm.clone());
            return Err(alarm);
        }
        self.proceed(rng)
    }

    /// Takes all steps that have become possible.
    fn proceed(&mut self, rng: &mut (impl RngCore + CryptoRng)) -> Result<Vec<Outgoing>, Alarm> {
        match leaving_nothing(|| self.advance(rng)) {
            Ok(()) => Ok(std::mem::take(&mut self.fresh)),
            Err(alarm) => {
                self.end(alarm.clone());
                Err(alarm)
            }
        }
    }

    /// Ends the ceremony by the operator's will and tells the others.
    pub fn stop(&mut self) -> Vec<Outgoing> {
        if self.alarm.is_none() {
            self.end(Alarm::Stopped);
        }
        self.sent.clone()
    }

    /// Ends a ceremony that took too long: whoever is waited for is named, and the
    /// others are told. Nothing happens if nobody is waited for. Give each phase its
    /// own deadline, counted from the beginning: who waits for an earlier phase must
    /// speak first, else it is named itself by those who wait for it.
    pub fn expire(&mut self) -> Vec<Outgoing> {
        let culprits = self.waiting_on();
        if let (Phase::Waiting(kind), false) = (self.phase(), culprits.is_empty()) {
            self.end(Alarm::Silent { culprits, kind });
        }
        self.sent.clone()
    }

    /// The share that is to be stored now: only then it may be confirmed.
    pub(crate) fn to_store(&self) -> Option<&KeyShare> {
        match &self.stage {
            Stage::Store { agreed } => agreed.share.as_ref(),
            _ => None,
        }
    }

    /// The transcript, once this member knows it.
    pub(crate) fn agreed_transcript(&self) -> Option<Hash> {
        match &self.stage {
            Stage::Store { agreed }
            | Stage::Confirm { agreed }
            | Stage::TestCommit { agreed, .. }
            | Stage::TestShare { agreed, .. }
            | Stage::Done { agreed, .. }
            | Stage::Finished { agreed, .. } => Some(agreed.transcript),
            _ => None,
        }
    }

    /// Goes on once the share was stored and read back.
    pub(crate) fn stored(&mut self, rng: &mut (impl RngCore + CryptoRng)) -> Result<Vec<Outgoing>, Alarm> {
        if let Some(alarm) = &self.alarm {
            return Err(alarm.clone());
        }
        match std::mem::replace(&mut self.stage, Stage::Aborted) {
            Stage::Store { agreed } => {
                self.send(To::All, Body::Confirm(agreed.transcript));
                self.stage = Stage::Confirm { agreed };
            }
            other => self.stage = other,
        }
        self.proceed(rng)
    }

    /// All that was sent so far and may still be of use to someone. Messages get
    /// lost and peers come late: send it all again at growing intervals.
    pub fn repeat(&self) -> &[Outgoing] {
        &self.sent
    }

    /// The part of [`Ceremony::repeat`] that is for this member.
    pub fn outgoing_for(&self, peer: u16) -> impl Iterator<Item = &Message> + '_ {
        let for_peer = move |out: &&Outgoing| matches!(out.to, To::All) || out.to == To::One(peer);
        self.sent.iter().filter(for_peer).map(|out| out.message.as_ref())
    }

    /// What the ceremony waits for.
    pub fn phase(&self) -> Phase {
        Phase::Waiting(match &self.stage {
            Stage::Round1 { .. } => Kind::Round1,
            Stage::Echo { .. } => Kind::Echo,
            Stage::Round2 { .. } => Kind::Round2,
            Stage::Store { .. } => return Phase::Store,
            Stage::Confirm { .. } => Kind::Confirm,
            Stage::TestCommit { .. } => Kind::TestCommit,
            Stage::TestShare { .. } => Kind::TestShare,
            Stage::Done { .. } => Kind::Done,
            Stage::Finished { .. } => return Phase::Finished,
            Stage::Aborted => return Phase::Aborted,
        })
    }

    /// The members whose message of the current phase has not come.
    pub fn waiting_on(&self) -> BTreeSet<u16> {
        match self.phase() {
            Phase::Waiting(kind) => {
                let missing =
                    |number: &u16| self.params.sends(*number, kind) && !self.seen.has(*number, kind);
                self.params.others().filter(missing).collect()
            }
            Phase::Store | Phase::Finished | Phase::Aborted => BTreeSet::new(),
        }
    }

    /// How far each member is, as seen from here; the own entry says what was sent.
    pub fn status(&self) -> BTreeMap<u16, Progress> {
        let of = |number: &u16| Progress::from_kinds(|kind| self.seen.has(*number, kind));
        self.params.members().iter().map(|number| (*number, of(number))).collect()
    }

    /// The alarm that ended the ceremony.
    pub fn alarm(&self) -> Option<&Alarm> {
        self.alarm.as_ref()
    }

    /// The parameters it was begun with.
    pub fn params(&self) -> &Params {
        &self.params
    }

    /// Takes the key, once every member confirmed it, the test signature of all
    /// was verified here, and every member said that it verified it too.
    ///
    /// # Errors
    /// [`NotFinished`] gives the ceremony back.
    pub fn finish(self) -> Result<Outcome, NotFinished> {
        let test_message = match &self.stage {
            Stage::Finished { agreed, .. } => agreed.test_message,
            _ => return Err(NotFinished(Box::new(self))),
        };
        let ended = self.end_well()?;
        match ended.share {
            Some(share) => Ok(Outcome {
                keys: ended.keys,
                share,
                transcript: ended.transcript,
                test_signature: ended.test_signature,
                test_message,
                done: ended.done,
            }),
            // Every member of a new key has a share of it.
            None => Err(NotFinished(Box::new(ended.rest))),
        }
    }

    /// Takes what a finished ceremony made, of a new key or of one handed over.
    pub(crate) fn end_well(mut self) -> Result<Ended, NotFinished> {
        match std::mem::replace(&mut self.stage, Stage::Aborted) {
            Stage::Finished { agreed, signature } => {
                let Agreed { share, keys, transcript, .. } = *agreed;
                let done = Message::new(self.params.ceremony(), Body::Done(signature));
                Ok(Ended {
                    share,
                    keys,
                    transcript,
                    test_signature: signature,
                    done: Outgoing { to: To::All, message: Arc::new(done) },
                    rest: self,
                })
            }
            other => {
                self.stage = other;
                Err(NotFinished(Box::new(self)))
            }
        }
    }

    /// Puts a message where its kind belongs.
    fn accept(&mut self, from: u16, message: Message) -> Result<(), Alarm> {
        let kind = message.kind();
        if !self.seen.first(from, &message)? {
            return Ok(());
        }
        let misfit = Alarm::Misfit { culprit: from, kind };
        let n = self.params.n();
        if !self.params.sends(from, kind) {
            return Err(misfit);
        }
        match message.body {
            Body::Round1(package) => {
                if self.params.source().is_some()
                    || package.threshold() != usize::from(self.params.threshold())
                {
                    return Err(misfit);
                }
                self.round1.insert(from, package);
            }
            Body::Deal(deal) => {
                self.check_deal(from, &deal)?;
                self.deals.insert(from, deal);
            }
            Body::Echo(view) => {
                if view.hashes().len() != self.params.dealers().len() {
                    return Err(misfit);
                }
                self.echoes.insert(from, view);
            }
            Body::Round2 { to, share } => {
                if to != self.params.own() || !self.params.holds() {
                    return Err(Alarm::Misdirected { culprit: from, meant_for: to });
                }
                self.round2.insert(from, share);
            }
            Body::Confirm(transcript) => {
                self.confirms.insert(from, transcript);
            }
            Body::TestCommit(commitment) => {
                self.test_commits.insert(from, commitment);
            }
            Body::TestShare { session, share } => {
                if session.hashes().len() != n {
                    return Err(misfit);
                }
                self.test_views.insert(from, session);
                self.test_shares.insert(from, share);
            }
            Body::Done(signature) => {
                self.dones.insert(from, signature);
            }
            Body::Abort { reason, suspects } => {
                return Err(Alarm::Aborted { by: from, reason, accused: suspects });
            }
        }
        Ok(())
    }

    /// Takes every step that is possible.
    fn advance(&mut self, rng: &mut (impl RngCore + CryptoRng)) -> Result<(), Alarm> {
        loop {
            // A step that fails leaves `Aborted` behind, and so drops the secrets.
            let stage = std::mem::replace(&mut self.stage, Stage::Aborted);
            let (stage, moved) = self.step(stage, rng)?;
            self.stage = stage;
            if !moved {
                return Ok(());
            }
        }
    }

    /// Takes one step if all it needs has come. Lies are called out as soon as
    /// they can be seen, before the last message of a round is there.
    fn step(&mut self, stage: Stage, rng: &mut (impl RngCore + CryptoRng)) -> Result<(Stage, bool), Alarm> {
        let n = self.params.n();
        Ok(match stage {
            Stage::Round1 { secret } => {
                let Some(view) = self.round1_view() else {
                    return Ok((Stage::Round1 { secret }, false));
                };
                if self.params.holds() {
                    self.send(To::All, Body::Echo(view.clone()));
                }
                (Stage::Echo { secret, view }, true)
            }
            Stage::Echo { secret, view } => {
                self.compare(&view, &self.echoes, Kind::Round1)?;
                if self.echoes.len() < self.params.expected(Kind::Echo) {
                    return Ok((Stage::Echo { secret, view }, false));
                }
                let kept = match secret {
                    Secret::Fresh(secret) => Kept::Fresh(self.share_out(*secret)?),
                    Secret::Given(polynomial) => Kept::Given(self.deal_out(polynomial)?),
                };
                (Stage::Round2 { kept, view }, true)
            }
            // A dealer that leaves gets no shares; what follows it can tell from the commitments.
            Stage::Round2 { kept, view }
                if !self.params.holds() || self.round2.len() == self.params.expected(Kind::Round2) =>
            {
                match kept {
                    Kept::Fresh(secret) => {
                        let agreed = self.agree(&secret, &view)?;
                        self.send(To::All, Body::Confirm(agreed.transcript));
                        (Stage::Confirm { agreed: Box::new(agreed) }, true)
                    }
                    Kept::Given(own) => {
                        let agreed = Box::new(self.agree_on_given(own.as_deref(), &view)?);
                        if self.params.holds() {
                            (Stage::Store { agreed }, false)
                        } else {
                            (Stage::Confirm { agreed }, true)
                        }
                    }
                }
            }
            Stage::Confirm { agreed } => {
                same(&self.confirms, &agreed.transcript)
                    .map_err(|culprit| Alarm::WrongConfirmation { culprit })?;
                if self.confirms.len() < self.params.expected(Kind::Confirm) {
                    return Ok((Stage::Confirm { agreed }, false));
                }
                // Everyone holds its share: the secrets sent are needed no more.
                self.sent.retain(|out| out.message.kind() != Kind::Round2);
                let nonce = agreed.share.as_ref().map(|share| {
                    let (nonce, commitment) = commit(share, rng);
                    self.test_commits.insert(self.params.own(), commitment.clone());
                    self.send(To::All, Body::TestCommit(commitment));
                    Box::new(nonce)
                });
                (Stage::TestCommit { agreed, nonce }, true)
            }
            Stage::TestCommit { agreed, nonce } if self.test_commits.len() == n => {
                let session = self.params.test_view(&self.test_commits);
                if let (Some(share), Some(nonce)) = (&agreed.share, nonce) {
                    let message = &agreed.test_message;
                    let all = Signers::Everyone;
                    let share = sign_with(share, *nonce, message, &self.test_commits, all)
                        .map_err(|e| Alarm::Library { reason: e.to_string() })?;
                    self.test_shares.insert(self.params.own(), share);
                    self.send(To::All, Body::TestShare { session: session.clone(), share });
                }
                (Stage::TestShare { agreed, view: session }, true)
            }
            Stage::TestShare { agreed, view } => {
                // Shares of another session would look bad: compare that first.
                self.compare(&view, &self.test_views, Kind::TestCommit)?;
                if self.test_shares.len() < n {
                    return Ok((Stage::TestShare { agreed, view }, false));
                }
                let signature = self.test(&agreed)?;
                if self.params.holds() {
                    self.send(To::All, Body::Done(signature));
                }
                (Stage::Done { agreed, signature }, true)
            }
            Stage::Done { agreed, signature } => {
                same(&self.dones, &signature).map_err(|culprit| Alarm::WrongSignature { culprit })?;
                // Of a key handed over, the signed confirmations say who is done.
                let waits = self.params.source().is_none();
                if waits && self.dones.len() < self.params.expected(Kind::Done) {
                    return Ok((Stage::Done { agreed, signature }, false));
                }
                (Stage::Finished { agreed, signature }, true)
            }
            waiting => (waiting, false),
        })
    }

    /// Notes a message as sent.
    pub(super) fn send(&mut self, to: To, body: Body) {
        let message = Message::new(self.params.ceremony(), body);
        self.seen.said(self.params.own(), message.kind(), self.params.ceremony());
        let out = Outgoing { to, message: Arc::new(message) };
        self.sent.push(out.clone());
        self.fresh.push(out);
    }

    /// Ends the ceremony: all secrets go, only the notice to the others stays.
    fn end(&mut self, alarm: Alarm) {
        self.stage = Stage::Aborted;
        self.round2.clear();
        self.sent.clear();
        self.fresh.clear();
        let (reason, suspects) = (alarm.reason(), alarm.suspects());
        self.alarm = Some(alarm);
        self.send(To::All, Body::Abort { reason, suspects });
        self.fresh.clear();
    }
}
