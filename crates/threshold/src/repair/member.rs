//! One member's side of a repair, as a pure state machine.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use concordat_events::hash::{Hash, tagged};
use frost_core::Group;
use frost_secp256k1_tr as frost;
use frost_secp256k1_tr::keys::repairable as library;
use rand_core::{CryptoRng, RngCore};
use zeroize::{Zeroize, Zeroizing};

use crate::curve::{self, Element, SCALAR, Scalar, Suite};
use crate::dkg::{
    Alarm, Body, Heard, Kind, Message, Outgoing, ParamsError, Phase, SecretShare, To, View, asked, compare,
};
use crate::keys::KeyShare;
use crate::memory::leaving_nothing;
use crate::reshare::Deal;

use super::Plan;

/// A secret scalar, on the heap: moving it leaves no copy.
type Secret = Box<Zeroizing<Scalar>>;

/// Values, by the helper that gets them.
type Values = BTreeMap<u16, Secret>;

enum Stage {
    Deal {
        values: Values,
    },
    Echo {
        values: Values,
        view: View,
    },
    Values {
        own: Option<Secret>,
    },
    Store {
        share: Box<KeyShare>,
    },
    Confirm,
    /// The member has its share; a helper has nothing.
    Finished {
        share: Option<Box<KeyShare>>,
    },
    Aborted,
}

/// One member's side of a repair: a helper's, or that of the one that lost its share.
pub struct Repair {
    plan: Plan,
    context: Hash,
    own: u16,
    stage: Stage,
    seen: Heard,
    deals: BTreeMap<u16, Deal>,
    echoes: BTreeMap<u16, View>,
    secrets: BTreeMap<u16, SecretShare>,
    confirmed: Option<Hash>,
    sent: Vec<Outgoing>,
    fresh: Vec<Outgoing>,
    alarm: Option<Alarm>,
}

/// What is left when a repair is over.
pub struct Repaired {
    /// The rebuilt share, already stored, at the member that had lost it.
    pub share: Option<KeyShare>,
}

impl Repair {
    /// Begins. `share` is the own one, given exactly by a helper.
    ///
    /// # Errors
    /// [`ParamsError`] if there can be no such repair, or the share doesn't fit.
    pub fn new(
        plan: Plan,
        own: u16,
        share: Option<&KeyShare>,
        rng: &mut (impl RngCore + CryptoRng),
    ) -> Result<(Self, Vec<Outgoing>), ParamsError> {
        plan.check(own)?;
        let helps = plan.helpers.contains(&own);
        let (values, deal) = match asked(share, helps, own, &plan.keys)? {
            None => (Values::new(), None),
            Some(share) => {
                let (values, deal) = leaving_nothing(|| split(&plan, share, rng))?;
                (values, Some(deal))
            }
        };
        let mut repair = Self {
            context: plan.context(),
            plan,
            own,
            stage: Stage::Deal { values },
            seen: Heard::default(),
            deals: BTreeMap::new(),
            echoes: BTreeMap::new(),
            secrets: BTreeMap::new(),
            confirmed: None,
            sent: Vec::new(),
            fresh: Vec::new(),
            alarm: None,
        };
        if let Some(deal) = deal {
            repair.deals.insert(own, deal.clone());
            repair.send(To::All, Body::Deal(deal));
        }
        let first = std::mem::take(&mut repair.fresh);
        Ok((repair, first))
    }

    /// Takes a message that the channel says `from` sent, and returns what is to be
    /// sent now. One of another repair, or from a stranger, changes nothing.
    ///
    /// # Errors
    /// The [`Alarm`] that ended it, now or earlier.
    pub fn on_message(&mut self, from: u16, message: Message) -> Result<Vec<Outgoing>, Alarm> {
        if let Some(alarm) = &self.alarm {
            return Err(alarm.clone());
        }
        let finished = matches!(self.stage, Stage::Finished { .. });
        if message.ceremony() != self.context || !self.others().contains(&from) || finished {
            return Ok(Vec::new());
        }
        if let Err(alarm) = self.accept(from, message) {
            self.end(alarm.clone());
            return Err(alarm);
        }
        self.proceed()
    }

    /// The rebuilt share, when it is time to store it: seal it, flush, read it back
    /// and open it. Then call [`Repair::stored`].
    pub fn to_store(&self) -> Option<&KeyShare> {
        match &self.stage {
            Stage::Store { share } => Some(share),
            _ => None,
        }
    }

    /// The share is stored: tells the helpers, which can forget what they hold.
    ///
    /// # Errors
    /// As [`Repair::on_message`].
    pub fn stored(&mut self) -> Result<Vec<Outgoing>, Alarm> {
        if let Some(alarm) = &self.alarm {
            return Err(alarm.clone());
        }
        match std::mem::replace(&mut self.stage, Stage::Aborted) {
            Stage::Store { share } => {
                self.send(To::All, Body::Confirm(self.confirmation()));
                self.stage = Stage::Finished { share: Some(share) };
            }
            other => self.stage = other,
        }
        self.proceed()
    }

    /// Ends it by the operator's will and tells the others.
    pub fn stop(&mut self) -> Vec<Outgoing> {
        if self.alarm.is_none() && !matches!(self.stage, Stage::Finished { .. }) {
            self.end(Alarm::Stopped);
        }
        self.sent.clone()
    }

    /// Ends one that took too long: whoever is waited for is named. Whoever waits for
    /// an earlier phase must do it first, and the member that lost its share after the
    /// helpers of its phase: else those are named who wait themselves.
    pub fn expire(&mut self) -> Vec<Outgoing> {
        let culprits = self.waiting_on();
        if let (Phase::Waiting(kind), false) = (self.phase(), culprits.is_empty()) {
            self.end(Alarm::Silent { culprits, kind });
        }
        self.sent.clone()
    }

    /// All that was sent so far and may still be of use: send it at growing intervals.
    pub fn repeat(&self) -> &[Outgoing] {
        &self.sent
    }

    /// What it waits for.
    pub fn phase(&self) -> Phase {
        Phase::Waiting(match &self.stage {
            Stage::Deal { .. } => Kind::Round1,
            Stage::Echo { .. } => Kind::Echo,
            Stage::Values { .. } => Kind::Round2,
            Stage::Store { .. } => return Phase::Store,
            Stage::Confirm => Kind::Confirm,
            Stage::Finished { .. } => return Phase::Finished,
            Stage::Aborted => return Phase::Aborted,
        })
    }

    /// The members whose message of the current phase has not come.
    pub fn waiting_on(&self) -> BTreeSet<u16> {
        let Phase::Waiting(kind) = self.phase() else { return BTreeSet::new() };
        let missing = |from: &u16| self.sends(*from, kind) && !self.seen.has(*from, kind);
        self.others().into_iter().filter(missing).collect()
    }

    /// The alarm that ended it.
    pub fn alarm(&self) -> Option<&Alarm> {
        self.alarm.as_ref()
    }

    /// Takes the result. None before the end.
    pub fn finish(self) -> Option<Repaired> {
        match self.stage {
            Stage::Finished { share } => Some(Repaired { share: share.map(|share| *share) }),
            _ => None,
        }
    }

    fn others(&self) -> BTreeSet<u16> {
        let all = self.plan.helpers.iter().copied().chain([self.plan.lost]);
        all.filter(|number| *number != self.own).collect()
    }

    fn sends(&self, from: u16, kind: Kind) -> bool {
        match kind {
            Kind::Round1 | Kind::Round2 => self.plan.helpers.contains(&from),
            Kind::Confirm => from == self.plan.lost,
            Kind::Echo | Kind::Abort => true,
            Kind::TestCommit | Kind::TestShare | Kind::Done => false,
        }
    }

    fn accept(&mut self, from: u16, message: Message) -> Result<(), Alarm> {
        let kind = message.kind();
        if !self.seen.first(from, &message)? {
            return Ok(());
        }
        let misfit = Alarm::Misfit { culprit: from, kind };
        if !self.sends(from, kind) {
            return Err(misfit);
        }
        match message.body {
            Body::Deal(deal) => {
                if deal.threshold() != self.plan.helpers.len() {
                    return Err(misfit);
                }
                let zero = frost::Secp256K1Group::identity();
                let total = deal.points().iter().fold(zero, |sum, point| sum + *point);
                if self.plan.total(from) != Some(total) {
                    return Err(Alarm::WrongSecret { culprit: from });
                }
                self.deals.insert(from, deal);
            }
            Body::Echo(view) if view.hashes().len() == self.plan.helpers.len() => {
                self.echoes.insert(from, view);
            }
            Body::Round2 { to, share } => {
                if to != self.own {
                    return Err(Alarm::Misdirected { culprit: from, meant_for: to });
                }
                self.secrets.insert(from, share);
            }
            Body::Confirm(hash) => self.confirmed = Some(hash),
            Body::Abort { reason, suspects } => {
                return Err(Alarm::Aborted { by: from, reason, accused: suspects });
            }
            _ => return Err(misfit),
        }
        Ok(())
    }

    /// Takes all steps that have become possible.
    fn proceed(&mut self) -> Result<Vec<Outgoing>, Alarm> {
        loop {
            let stage = std::mem::replace(&mut self.stage, Stage::Aborted);
            match leaving_nothing(|| self.step(stage)) {
                Ok((stage, moved)) => {
                    self.stage = stage;
                    if !moved {
                        return Ok(std::mem::take(&mut self.fresh));
                    }
                }
                Err(alarm) => {
                    self.end(alarm.clone());
                    return Err(alarm);
                }
            }
        }
    }

    fn step(&mut self, stage: Stage) -> Result<(Stage, bool), Alarm> {
        let helpers = self.plan.helpers.len();
        let helps = self.own != self.plan.lost;
        Ok(match stage {
            Stage::Deal { values } if self.deals.len() == helpers => {
                let view = self.view();
                self.send(To::All, Body::Echo(view.clone()));
                (Stage::Echo { values, view }, true)
            }
            Stage::Echo { mut values, view } => {
                compare(self.own, &self.plan.helpers, &view, &self.echoes, Kind::Round1)?;
                // The t helpers and the member, but for this one.
                if self.echoes.len() < helpers {
                    return Ok((Stage::Echo { values, view }, false));
                }
                let own = values.remove(&self.own);
                for (to, value) in &values {
                    self.send_secret(*to, value)?;
                }
                (Stage::Values { own }, true)
            }
            Stage::Values { own } if self.secrets.len() == helpers - usize::from(helps) => {
                let sum = self.add_up(own.as_ref())?;
                if helps {
                    self.send_secret(self.plan.lost, &sum)?;
                    (Stage::Confirm, true)
                } else {
                    let share = KeyShare::from_secret(self.own, &sum, self.plan.keys.clone())
                        .map_err(|e| Alarm::Library { reason: e.to_string() })?;
                    (Stage::Store { share: Box::new(share) }, false)
                }
            }
            Stage::Confirm => match self.confirmed {
                None => (Stage::Confirm, false),
                Some(hash) if hash == self.confirmation() => {
                    self.forget_secrets();
                    (Stage::Finished { share: None }, true)
                }
                Some(_) => return Err(Alarm::WrongConfirmation { culprit: self.plan.lost }),
            },
            waiting => (waiting, false),
        })
    }

    /// Checks each value against the point behind it and adds them up. What a helper
    /// gets is a value from each helper; what the member gets, a sum from each.
    fn add_up(&mut self, own: Option<&Secret>) -> Result<Secret, Alarm> {
        let mut sum = Box::new(Zeroizing::new(own.map_or(Scalar::ZERO, |own| ***own)));
        for (from, share) in std::mem::take(&mut self.secrets) {
            let bad = Alarm::BadSecretShare { culprit: from };
            let value = share.scalar().ok_or(bad.clone())?;
            if self.behind(from) != Some(curve::base_times(&value)) {
                return Err(bad);
            }
            **sum += *value;
        }
        Ok(sum)
    }

    /// The point behind what `from` sends to this one.
    fn behind(&self, from: u16) -> Option<Element> {
        if self.own != self.plan.lost {
            let at = self.plan.position(self.own)?;
            return self.deals.get(&from)?.points().get(at).copied();
        }
        let at = self.plan.position(from)?;
        let zero = frost::Secp256K1Group::identity();
        self.deals.values().try_fold(zero, |sum, deal| Some(sum + *deal.points().get(at)?))
    }

    fn view(&self) -> View {
        let hash = |(number, deal): (&u16, &Deal)| {
            let parts: [&[u8]; 3] = [self.context.as_bytes(), &number.to_be_bytes(), deal.to_bytes()];
            tagged("concordat/repair/view", &parts)
        };
        View::of(self.deals.iter().map(hash).collect())
    }

    fn confirmation(&self) -> Hash {
        let mut parts: Vec<&[u8]> = vec![self.context.as_bytes()];
        parts.extend(self.deals.values().map(Deal::to_bytes));
        tagged("concordat/repair/stored", &parts)
    }

    fn send_secret(&mut self, to: u16, value: &Secret) -> Result<(), Alarm> {
        let bytes = curve::scalar_bytes(value);
        let share =
            SecretShare::from_bytes(&bytes[..]).map_err(|e| Alarm::Library { reason: e.to_string() })?;
        self.send(To::One(to), Body::Round2 { to, share });
        Ok(())
    }

    fn send(&mut self, to: To, body: Body) {
        let out = Outgoing { to, message: Arc::new(Message::new(self.context, body)) };
        self.sent.push(out.clone());
        self.fresh.push(out);
    }

    fn forget_secrets(&mut self) {
        self.secrets.clear();
        self.sent.retain(|out| out.message.kind() != Kind::Round2);
    }

    /// Ends it: all secrets go, only the notice to the others stays.
    fn end(&mut self, alarm: Alarm) {
        self.stage = Stage::Aborted;
        self.secrets.clear();
        self.sent.clear();
        let (reason, suspects) = (alarm.reason(), alarm.suspects());
        self.alarm = Some(alarm);
        self.send(To::All, Body::Abort { reason, suspects });
        self.fresh.clear();
    }
}

/// Splits a helper's weighted share into one value for each helper, with the points
/// behind them.
fn split(
    plan: &Plan,
    share: &KeyShare,
    rng: &mut (impl RngCore + CryptoRng),
) -> Result<(Values, Deal), ParamsError> {
    let refused = |e: frost::Error| ParamsError::Library { reason: e.to_string() };
    let own = ParamsError::OwnShare { own: share.number() };
    let ids: Vec<_> = plan.helpers.iter().filter_map(|number| curve::identifier(*number)).collect();
    let lost = curve::identifier(plan.lost).ok_or(ParamsError::Zero)?;
    loop {
        let deltas =
            library::repair_share_part1::<Suite, _>(&ids, share.package(), rng, lost).map_err(refused)?;
        let mut values = Values::new();
        for number in &plan.helpers {
            let delta = curve::identifier(*number).and_then(|id| deltas.get(&id)).ok_or(own.clone())?;
            let mut bytes = delta.serialize();
            let array: Option<[u8; SCALAR]> = bytes.as_slice().try_into().ok();
            let value = array.and_then(|array| curve::parse_scalar(&Zeroizing::new(array)));
            bytes.zeroize();
            values.insert(*number, Box::new(Zeroizing::new(value.ok_or(own.clone())?)));
        }
        // A value of zero has no point to send; it comes once in 2^256 draws.
        if let Some(deal) = Deal::of_values(values.values().map(|value| &***value)) {
            return Ok((values, deal));
        }
    }
}
