//! The steps of a ceremony that differ when a key is handed over: each dealer's
//! constant is checked against its old public share, each value against its
//! dealer's commitment, and the keys are the sums (see [`crate::reshare`]).

use zeroize::Zeroizing;

use crate::curve::{self, Scalar};
use crate::keys::KeyShare;
use crate::reshare::{Deal, Polynomial, public_shares};

use super::alarm::Alarm;
use super::ceremony::{Agreed, Ceremony, To};
use super::message::{Body, Kind, SecretShare, View};

impl Ceremony {
    /// Refuses a commitment of another size, and one to another secret than the
    /// dealer's share of the old key times its weight: so the sum stays the key.
    pub(super) fn check_deal(&self, from: u16, deal: &Deal) -> Result<(), Alarm> {
        let misfit = Alarm::Misfit { culprit: from, kind: Kind::Round1 };
        let source = self.params.source().ok_or(misfit.clone())?;
        if deal.threshold() != usize::from(self.params.threshold()) {
            return Err(misfit);
        }
        let expected = source
            .keys
            .point_of(from)
            .zip(curve::weight(&source.dealers, from, 0))
            .map(|(point, weight)| point * weight);
        match (deal.constant(), expected) {
            (Some(got), Some(expected)) if *got == expected => Ok(()),
            _ => Err(Alarm::WrongSecret { culprit: from }),
        }
    }

    /// Sends each new holder its value. Gives the own one, if this one stays.
    pub(super) fn deal_out(
        &mut self,
        polynomial: Option<Polynomial>,
    ) -> Result<Option<Box<Zeroizing<Scalar>>>, Alarm> {
        let Some(polynomial) = polynomial else { return Ok(None) };
        let own = self.params.own();
        let others: Vec<u16> = self.params.roster().iter().copied().filter(|to| *to != own).collect();
        for to in others {
            let bytes = curve::scalar_bytes(&polynomial.at(to));
            let share =
                SecretShare::from_bytes(&bytes[..]).map_err(|e| Alarm::Library { reason: e.to_string() })?;
            self.send(To::One(to), Body::Round2 { to, share });
        }
        Ok(self.params.holds().then(|| Box::new(polynomial.at(own))))
    }

    /// Checks all values and puts the new keys together. `own` is the value of the
    /// own polynomial.
    pub(super) fn agree_on_given(
        &mut self,
        own: Option<&Zeroizing<Scalar>>,
        view: &View,
    ) -> Result<Agreed, Alarm> {
        let number = self.params.own();
        let mut sum = Zeroizing::new(own.map_or(Scalar::ZERO, |own| **own));
        for (from, share) in std::mem::take(&mut self.round2) {
            let bad = Alarm::BadSecretShare { culprit: from };
            let value = share.scalar().ok_or(bad.clone())?;
            let expected = self.deals.get(&from).map(|deal| deal.at(number));
            if expected != Some(curve::base_times(&value)) {
                return Err(bad);
            }
            *sum += *value;
        }
        let degenerate = || Alarm::Degenerate { suspects: self.params.dealers().clone() };
        let source = self.params.source().ok_or_else(degenerate)?;
        let shares = public_shares(&self.deals, self.params.roster()).ok_or_else(degenerate)?;
        let keys = source.keys.with_shares(self.params.threshold(), &shares).map_err(|_| degenerate())?;
        let share = if self.params.holds() {
            let share = KeyShare::from_secret(number, &sum, keys.clone());
            Some(share.map_err(|e| Alarm::Library { reason: e.to_string() })?)
        } else {
            None
        };
        let transcript = self.params.transcript(view, &keys);
        let test_message = self.params.test_message(transcript);
        Ok(Agreed { share, keys, transcript, test_message })
    }
}
