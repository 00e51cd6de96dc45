//! What the steps of a ceremony compute: the library's three parts with all that
//! it leaves to its caller, and whom each failure names.

use std::collections::{BTreeMap, BTreeSet};

use frost_secp256k1_tr as frost;
use frost_secp256k1_tr::keys::dkg as library;

use crate::aggregate::aggregate_with;
use crate::curve;
use crate::keys::{GroupKeys, KeyShare};
use crate::memory::Wiped;
use crate::session::Signers;
use crate::sign::verify_share_with;

use super::alarm::Alarm;
use super::ceremony::{Agreed, Ceremony, To};
use super::message::{Body, Kind, SecretShare, View};

impl Ceremony {
    /// What all dealers committed to, once all commitments are here.
    pub(super) fn round1_view(&self) -> Option<View> {
        let expected = self.params.dealers().len();
        match self.params.source() {
            None => (self.round1.len() == expected).then(|| self.params.round1_view(&self.round1)),
            Some(_) => (self.deals.len() == expected).then(|| self.params.deals_view(&self.deals)),
        }
    }

    /// Compares what the others hold with what we hold.
    pub(super) fn compare(&self, own: &View, views: &BTreeMap<u16, View>, kind: Kind) -> Result<(), Alarm> {
        let senders = match kind {
            Kind::Round1 => self.params.dealers(),
            _ => self.params.roster(),
        };
        compare(self.params.own(), senders, own, views, kind)
    }

    /// Checks all proofs of knowledge and sends each member its secret share.
    pub(super) fn share_out(
        &mut self,
        secret: library::round1::SecretPackage,
    ) -> Result<Wiped<library::round2::SecretPackage>, Alarm> {
        let (secret, shares) = library::part2(secret, &self.packages()).map_err(|e| self.blame(&e))?;
        let secret = Wiped::new(secret);
        let others: Vec<u16> = self.params.others().collect();
        for to in others {
            let share = curve::identifier(to)
                .and_then(|id| shares.get(&id))
                .ok_or_else(|| Alarm::Library { reason: format!("no share for custodian {to}") })?;
            self.send(To::One(to), Body::Round2 { to, share: SecretShare(share.clone()) });
        }
        Ok(secret)
    }

    /// Checks all secret shares and puts the keys together.
    pub(super) fn agree(
        &mut self,
        secret: &library::round2::SecretPackage,
        view: &View,
    ) -> Result<Agreed, Alarm> {
        let shares = std::mem::take(&mut self.round2)
            .into_iter()
            .filter_map(|(from, share)| Some((curve::identifier(from)?, share.0)))
            .collect();
        // `part3` tweaks the keys as BIP341 asks of a key without scripts. They
        // are never tweaked again: two tweaks would be another key.
        let (share, public) =
            library::part3(secret, &self.packages(), &shares).map_err(|e| self.blame(&e))?;
        let share = GroupKeys::from_package(&public, self.params.roster())
            .and_then(|keys| KeyShare::new(self.params.own(), *share.signing_share(), keys))
            .map_err(|e| Alarm::Library { reason: e.to_string() })?;
        let keys = share.keys().clone();
        let transcript = self.params.transcript(view, &keys);
        let test_message = self.params.test_message(transcript);
        Ok(Agreed { share: Some(share), keys, transcript, test_message })
    }

    /// Checks every share of the test signature and joins them. Each is checked by
    /// itself, because bad shares of several liars can cancel each other out.
    pub(super) fn test(&self, agreed: &Agreed) -> Result<[u8; 64], Alarm> {
        let (keys, message) = (&agreed.keys, &agreed.test_message);
        let (session, all) = (&self.test_commits, Signers::Everyone);
        let culprits: BTreeSet<u16> = self
            .test_shares
            .iter()
            .filter(|(from, share)| verify_share_with(keys, **from, message, session, share, all).is_err())
            .map(|(from, _)| *from)
            .collect();
        if !culprits.is_empty() {
            return Err(Alarm::BadTestShare { culprits });
        }
        aggregate_with(keys, message, session, &self.test_shares, all)
            .map_err(|e| Alarm::Library { reason: e.to_string() })
    }

    /// The others' round-1 packages in the library's form.
    fn packages(&self) -> BTreeMap<frost::Identifier, library::round1::Package> {
        self.round1
            .iter()
            .filter(|(number, _)| **number != self.params.own())
            .filter_map(|(n, package)| Some((curve::identifier(*n)?, package.package.clone())))
            .collect()
    }

    /// Whom the library blames.
    fn blame(&self, error: &frost::Error) -> Alarm {
        let number = |culprit: &frost::Identifier| {
            let is = |number: &u16| curve::identifier(*number).as_ref() == Some(culprit);
            self.params.roster().iter().copied().find(is)
        };
        let alarm = match error {
            frost::Error::InvalidProofOfKnowledge { culprit } => {
                number(culprit).map(|culprit| Alarm::BadProof { culprit })
            }
            frost::Error::InvalidSecretShare { culprit: Some(culprit) } => {
                number(culprit).map(|culprit| Alarm::BadSecretShare { culprit })
            }
            _ => None,
        };
        alarm.unwrap_or_else(|| Alarm::Library { reason: error.to_string() })
    }
}

/// Refuses a map in which not all values are `expected`, naming the first who
/// says otherwise.
pub(super) fn same<T: PartialEq>(said: &BTreeMap<u16, T>, expected: &T) -> Result<(), u16> {
    said.iter().find(|(_, value)| *value != expected).map_or(Ok(()), |(from, _)| Err(*from))
}

/// Compares what the others hold of `senders` with what the member `own` holds.
pub(crate) fn compare(
    own: u16,
    senders: &BTreeSet<u16>,
    view: &View,
    views: &BTreeMap<u16, View>,
    kind: Kind,
) -> Result<(), Alarm> {
    for (reporter, theirs) in views {
        let about: BTreeSet<u16> = senders
            .iter()
            .zip(view.hashes().iter().zip(theirs.hashes()))
            .filter(|(_, (ours, theirs))| ours != theirs)
            .map(|(number, _)| *number)
            .collect();
        if about.is_empty() {
            continue;
        }
        let mut suspects = BTreeSet::from([*reporter]);
        // We know what we sent, and the reporter what it sent: if it is wrong
        // there, nobody else can be the reason.
        if !about.contains(&own) && !about.contains(reporter) {
            suspects.extend(&about);
        }
        return Err(Alarm::ViewsDiffer { reporter: *reporter, kind, about, suspects });
    }
    Ok(())
}
