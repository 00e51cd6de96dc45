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

use crate::curve;
use crate::keys::{GroupKeys, KeyShare};
use crate::nonce::{Nonce, commit};
use crate::session::{Session, Signers};
use crate::sign::{Share, sign_with};

use super::alarm::Alarm;
use super::message::{Body, Kind, Message, Round1Package, SecretShare, View};
use super::params::{Params, ParamsError};
use super::status::{Phase, Progress};
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

/// [`Ceremony::finish`] before the end: the ceremony comes back unharmed.
pub struct NotFinished(pub Box<Ceremony>);

/// Where the ceremony is, with the secrets of that moment and no others.
enum Stage {
    Round1 { secret: Box<library::round1::SecretPackage> },
    Echo { secret: Box<library::round1::SecretPackage>, view: View },
    Round2 { secret: Box<library::round2::SecretPackage>, view: View },
    Confirm { agreed: Box<Agreed> },
    TestCommit { agreed: Box<Agreed>, nonce: Box<Nonce> },
    TestShare { agreed: Box<Agreed>, view: View },
    Done { agreed: Box<Agreed>, signature: [u8; 64] },
    Finished { agreed: Box<Agreed>, signature: [u8; 64] },
    Aborted,
}

/// The keys, once they stand.
pub(super) struct Agreed {
    pub(super) share: KeyShare,
    pub(super) transcript: Hash,
    pub(super) test_message: [u8; 32],
}

/// One member's side of a key ceremony. See the [module](super) for the rounds.
pub struct Ceremony {
    pub(super) params: Params,
    stage: Stage,
    /// What each sender sent of each kind, as a digest: tells repeats from lies.
    seen: BTreeMap<(u16, Kind), Hash>,
    pub(super) round1: BTreeMap<u16, Round1Package>,
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
        let (secret, package) = library::part1(id, n, params.threshold(), rng).map_err(refused)?;
        let package = Round1Package::from_package(&package).map_err(refused)?;
        let mut ceremony = Self {
            round1: BTreeMap::from([(params.own(), package.clone())]),
            params,
            stage: Stage::Round1 { secret: Box::new(secret) },
            seen: BTreeMap::new(),
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
        };
        ceremony.send(To::All, Body::Round1(package));
        let first = std::mem::take(&mut ceremony.fresh);
        Ok((ceremony, first))
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
            || !self.params.roster().contains(&from)
        {
            return Ok(Vec::new());
        }
        match self.accept(from, message).and_then(|()| self.advance(rng)) {
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
                self.params.others().filter(|number| !self.seen.contains_key(&(*number, kind))).collect()
            }
            Phase::Finished | Phase::Aborted => BTreeSet::new(),
        }
    }

    /// How far each member is, as seen from here; the own entry says what was sent.
    pub fn status(&self) -> BTreeMap<u16, Progress> {
        let of = |number: &u16| Progress::from_kinds(|kind| self.seen.contains_key(&(*number, kind)));
        self.params.roster().iter().map(|number| (*number, of(number))).collect()
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
    pub fn finish(mut self) -> Result<Outcome, NotFinished> {
        match std::mem::replace(&mut self.stage, Stage::Aborted) {
            Stage::Finished { agreed, signature } => {
                let Agreed { share, transcript, test_message } = *agreed;
                let done = Message::new(self.params.ceremony(), Body::Done(signature));
                Ok(Outcome {
                    keys: share.keys().clone(),
                    share,
                    transcript,
                    test_signature: signature,
                    test_message,
                    done: Outgoing { to: To::All, message: Arc::new(done) },
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
        let digest = message.digest();
        match self.seen.insert((from, kind), digest) {
            Some(earlier) if earlier == digest => return Ok(()),
            Some(_) => return Err(Alarm::Equivocation { culprit: from, kind }),
            None => {}
        }
        let misfit = Alarm::Misfit { culprit: from, kind };
        let n = self.params.n();
        match message.body {
            Body::Round1(package) => {
                if package.threshold() != usize::from(self.params.threshold()) {
                    return Err(misfit);
                }
                self.round1.insert(from, package);
            }
            Body::Echo(view) => {
                if view.hashes().len() != n {
                    return Err(misfit);
                }
                self.echoes.insert(from, view);
            }
            Body::Round2 { to, share } => {
                if to != self.params.own() {
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
        let others = n.saturating_sub(1);
        Ok(match stage {
            Stage::Round1 { secret } if self.round1.len() == n => {
                let view = self.params.round1_view(&self.round1);
                self.send(To::All, Body::Echo(view.clone()));
                (Stage::Echo { secret, view }, true)
            }
            Stage::Echo { secret, view } => {
                self.compare(&view, &self.echoes, Kind::Round1)?;
                if self.echoes.len() < others {
                    return Ok((Stage::Echo { secret, view }, false));
                }
                let secret = self.share_out(*secret)?;
                (Stage::Round2 { secret, view }, true)
            }
            Stage::Round2 { secret, view } if self.round2.len() == others => {
                let agreed = self.agree(&secret, &view)?;
                self.send(To::All, Body::Confirm(agreed.transcript));
                (Stage::Confirm { agreed: Box::new(agreed) }, true)
            }
            Stage::Confirm { agreed } => {
                same(&self.confirms, &agreed.transcript)
                    .map_err(|culprit| Alarm::WrongConfirmation { culprit })?;
                if self.confirms.len() < others {
                    return Ok((Stage::Confirm { agreed }, false));
                }
                // Everyone holds its share: the secrets sent are needed no more.
                self.sent.retain(|out| out.message.kind() != Kind::Round2);
                let (nonce, commitment) = commit(&agreed.share, rng);
                self.test_commits.insert(self.params.own(), commitment.clone());
                self.send(To::All, Body::TestCommit(commitment));
                (Stage::TestCommit { agreed, nonce: Box::new(nonce) }, true)
            }
            Stage::TestCommit { agreed, nonce } if self.test_commits.len() == n => {
                let session = self.params.test_view(&self.test_commits);
                let message = &agreed.test_message;
                let all = Signers::Everyone;
                let share = sign_with(&agreed.share, *nonce, message, &self.test_commits, all)
                    .map_err(|e| Alarm::Library { reason: e.to_string() })?;
                self.test_shares.insert(self.params.own(), share);
                self.send(To::All, Body::TestShare { session: session.clone(), share });
                (Stage::TestShare { agreed, view: session }, true)
            }
            Stage::TestShare { agreed, view } => {
                // Shares of another session would look bad: compare that first.
                self.compare(&view, &self.test_views, Kind::TestCommit)?;
                if self.test_shares.len() < n {
                    return Ok((Stage::TestShare { agreed, view }, false));
                }
                let signature = self.test(&agreed)?;
                self.send(To::All, Body::Done(signature));
                (Stage::Done { agreed, signature }, true)
            }
            Stage::Done { agreed, signature } => {
                same(&self.dones, &signature).map_err(|culprit| Alarm::WrongSignature { culprit })?;
                if self.dones.len() < others {
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
        self.seen.entry((self.params.own(), message.kind())).or_insert(self.params.ceremony());
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
