//! Handing the group key over: the same key, other shares, other holders.
//!
//! `t` holders of the old shares deal them out anew to any new holders with any
//! new threshold; the key is never in one place and does not change. With the same
//! holders and threshold this is a **refresh**. The scheme is the verifiable
//! redistribution of secret shares (Desmedt and Jajodia 1997; Wong, Wang and Wing
//! 2002) over Feldman's commitments, as in proactive secret sharing (Herzberg and
//! others 1995): dealer `i` takes a random polynomial `g_i` of degree `t' - 1` whose
//! constant is `w_i * s_i`, its share times its Lagrange weight among the dealers.
//! Holder `j` gets `g_i(j)` of each; their sum is its new share. The sum of all
//! constants is the key.
//!
//! The rounds are those of a key ceremony ([`crate::dkg`]), with `Deal` in the place
//! of `Round1`: its constant is known from the old public shares, so a dealer that
//! deals something else is named at once, and no proof of knowledge is needed.
//!
//! **Promises.** The public key of the new shares is the old one, parity and all. A
//! new share is confirmed only after its holder stored it and read it back
//! ([`Reshare::to_store`], [`Reshare::stored`]). So whoever sees a
//! [`concordat_events::Activation`] with confirmations of a quorum of new holders knows:
//! every honest new holder has a share of exactly these keys on its disk, tested or not,
//! even if its own run of the ceremony ended with an alarm. Nobody activates new shares
//! but by it (PROTOCOL section 9); until then the old ones are in force.
//!
//! **Refuses.** Fewer or more dealers than the old threshold: one that keeps silent
//! is named, and a new ceremony with a new id begins without it. Nothing is resumed
//! with the secrets of an earlier run, which live in memory only.
//!
//! **Does not give.** Old shares go on signing until they are erased: `t` of them
//! are the key. Only their holders can erase them.

mod deal;

use std::collections::{BTreeMap, BTreeSet};

use concordat_events::{Confirming, Hash};
use rand_core::{CryptoRng, RngCore};
use zeroize::Zeroizing;

use crate::curve;
use crate::dkg::{Alarm, Ceremony, Message, Outgoing, Params, ParamsError, Phase, Progress, Source, asked};
use crate::keys::{GroupKeys, KeyError, KeyShare};
use crate::memory::leaving_nothing;

pub use deal::Deal;
pub(crate) use deal::{Polynomial, public_shares};

/// What is handed over, and to whom, as all members signed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The change that the new shares are for; its transcript is what comes out.
    pub change: Confirming,
    /// The id of the attempt.
    pub attempt: Hash,
    /// The public keys in force.
    pub keys: GroupKeys,
    /// Who deals: exactly as many of their holders as must sign.
    pub dealers: BTreeSet<u16>,
    /// Who will hold a share.
    pub roster: BTreeSet<u16>,
    /// How many of them must sign.
    pub threshold: u16,
}

impl Plan {
    /// New shares for the same holders.
    pub fn refresh(change: Confirming, attempt: Hash, keys: GroupKeys, dealers: BTreeSet<u16>) -> Self {
        let (roster, threshold) = (keys.numbers().clone(), keys.threshold());
        Self { change, attempt, keys, dealers, roster, threshold }
    }
}

/// One member's side of a reshare: a dealer, a new holder or both.
pub struct Reshare(Ceremony);

/// What a finished reshare leaves.
pub struct Outcome {
    /// The new share, already stored. None for a dealer that leaves.
    pub share: Option<KeyShare>,
    /// The new public keys, for the same group key.
    pub keys: GroupKeys,
    /// The hash over the whole reshare that all new holders confirmed.
    pub transcript: Hash,
    /// The signature of all new holders, under the group's key, over [`Confirming::proof_digest`] of the change and this
    /// transcript: the proof with which the new roster comes into force.
    pub test_signature: [u8; 64],
    /// The id that its messages carried: plan and ceremony.
    pub context: Hash,
    /// Goes on being repeated until the certificate is there: others may still miss it.
    pub repeat: Vec<Outgoing>,
}

/// [`Reshare::finish`] before the end: it comes back unharmed.
pub struct NotFinished(pub Box<Reshare>);

impl Reshare {
    /// Begins. `own` is this member's number; `share` its old share, given exactly if
    /// the plan has it deal.
    ///
    /// # Errors
    /// [`ParamsError`] if there can be no such reshare, or the share isn't the one that
    /// the plan asks for.
    pub fn new(
        plan: Plan,
        own: u16,
        share: Option<&KeyShare>,
        rng: &mut (impl RngCore + CryptoRng),
    ) -> Result<(Self, Vec<Outgoing>), ParamsError> {
        let source = Source { keys: plan.keys, dealers: plan.dealers, change: plan.change };
        let params = Params::handing_over(plan.attempt, source, plan.roster, own, plan.threshold)?;
        let wrong = ParamsError::OwnShare { own };
        let source = params.source().ok_or(wrong.clone())?;
        let secret = match asked(share, params.deals(), own, &source.keys)? {
            None => None,
            Some(share) => {
                let weight = curve::weight(&source.dealers, own, 0).ok_or(wrong.clone())?;
                let secret = leaving_nothing(|| {
                    let secret = share.secret()?;
                    Ok(Box::new(Zeroizing::new(**secret * weight)))
                });
                Some(secret.map_err(|_: KeyError| wrong)?)
            }
        };
        let (ceremony, out) = Ceremony::hand_over(params, secret, rng);
        Ok((Self(ceremony), out))
    }

    /// As [`Ceremony::on_message`].
    ///
    /// # Errors
    /// The [`Alarm`] that ended it, now or earlier. A share that was stored before
    /// stays stored: a certificate may still name it.
    pub fn on_message(
        &mut self,
        from: u16,
        message: Message,
        rng: &mut (impl RngCore + CryptoRng),
    ) -> Result<Vec<Outgoing>, Alarm> {
        self.0.on_message(from, message, rng)
    }

    /// The new share, when it is time to store it: seal it, write it beside the old
    /// one, flush, read it back and open it. Then call [`Reshare::stored`].
    pub fn to_store(&self) -> Option<&KeyShare> {
        self.0.to_store()
    }

    /// The share of [`Reshare::to_store`] is stored: confirms it to the others.
    ///
    /// # Errors
    /// As [`Reshare::on_message`].
    pub fn stored(&mut self, rng: &mut (impl RngCore + CryptoRng)) -> Result<Vec<Outgoing>, Alarm> {
        self.0.stored(rng)
    }

    /// What comes out if all confirm it, once the share is stored or to be stored.
    pub fn transcript(&self) -> Option<Hash> {
        self.0.agreed_transcript()
    }

    /// As [`Ceremony::stop`].
    pub fn stop(&mut self) -> Vec<Outgoing> {
        self.0.stop()
    }

    /// As [`Ceremony::expire`].
    pub fn expire(&mut self) -> Vec<Outgoing> {
        self.0.expire()
    }

    /// As [`Ceremony::repeat`].
    pub fn repeat(&self) -> &[Outgoing] {
        self.0.repeat()
    }

    /// As [`Ceremony::outgoing_for`].
    pub fn outgoing_for(&self, peer: u16) -> impl Iterator<Item = &Message> + '_ {
        self.0.outgoing_for(peer)
    }

    /// As [`Ceremony::phase`].
    pub fn phase(&self) -> Phase {
        self.0.phase()
    }

    /// As [`Ceremony::waiting_on`].
    pub fn waiting_on(&self) -> BTreeSet<u16> {
        self.0.waiting_on()
    }

    /// As [`Ceremony::status`].
    pub fn status(&self) -> BTreeMap<u16, Progress> {
        self.0.status()
    }

    /// As [`Ceremony::alarm`].
    pub fn alarm(&self) -> Option<&Alarm> {
        self.0.alarm()
    }

    /// The id that all its messages carry: of the plan and the ceremony.
    pub fn context(&self) -> Hash {
        self.0.params().ceremony()
    }

    /// All other members, dealers and new holders.
    pub fn others(&self) -> impl Iterator<Item = u16> + '_ {
        self.0.params().others()
    }

    /// Takes the result, once all new holders confirmed that they stored equal keys
    /// and the test signature of all of them was verified here.
    ///
    /// # Errors
    /// [`NotFinished`] gives the reshare back.
    pub fn finish(self) -> Result<Outcome, NotFinished> {
        let context = self.context();
        let ended = self.0.end_well().map_err(|rest| NotFinished(Box::new(Self(*rest.0))))?;
        Ok(Outcome {
            share: ended.share,
            keys: ended.keys,
            transcript: ended.transcript,
            test_signature: ended.test_signature,
            context,
            repeat: ended.rest.repeat().to_vec(),
        })
    }
}
