//! Rebuilding one lost share: `t` holders help a member that lost its share to the
//! very same share. Nobody else's changes, so nothing has to be activated.
//!
//! The scheme is that of Laing and Stinson (<https://eprint.iacr.org/2017/1155>), as
//! `frost-core` offers it (`keys::repairable`): each helper splits its share, times
//! its Lagrange weight at the lost number, into one random value per helper; each
//! helper adds up what it got and gives the sum to the member, for whom the sums add
//! up to its share. The library checks nothing on the way, so a liar would spoil the
//! share unnamed. Here every helper first publishes the points behind its values, and
//! all say what they got (echo): their sum must be the helper's public share times
//! its weight, each value and each sum must lie behind its point. So whoever sends
//! anything wrong is named, and the rebuilt share is right by construction; it is
//! checked against the member's public share once more.
//!
//! | message | from, to | what |
//! |---|---|---|
//! | `Deal` | helper, all | the points behind its values |
//! | `Echo` | all, all | the points that came |
//! | `Round2` | helper, helper | one value, **secret** |
//! | `Round2` | helper, member | the sum of the values it got, **secret** |
//! | `Confirm` | member, all | the share is stored and was read back |
//!
//! **Promises, refuses, needs** what [`crate::dkg`] does: pure, any order, repeats
//! ignored, faults end it with an [`Alarm`] that names a culprit; authenticated
//! channels, confidential ones for `Round2`. The values of helpers who tell the
//! member's share to each other add up to it: only the confidential channel and all
//! of `t` helpers' honesty about forgetting protect it, as with the key itself.

mod member;

use std::collections::BTreeSet;

use concordat_events::hash::{Hash, Tagged};

use crate::curve::{self, Element};
use crate::dkg::ParamsError;
use crate::keys::GroupKeys;

pub use member::{Repair, Repaired};

/// Whose share is rebuilt, and by whom, as all of them signed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The id of the ceremony: hash of the signed proposal and of the attempt.
    pub ceremony: Hash,
    /// The public keys in force.
    pub keys: GroupKeys,
    /// Who helps: exactly as many holders as must sign.
    pub helpers: BTreeSet<u16>,
    /// Whose share was lost.
    pub lost: u16,
}

impl Plan {
    /// Refuses helpers that are too few, too many or no holders, and a member that
    /// isn't one or helps itself.
    pub(crate) fn check(&self, own: u16) -> Result<(), ParamsError> {
        let got = self.helpers.len();
        if got != usize::from(self.keys.threshold()) {
            return Err(ParamsError::Dealers { expected: self.keys.threshold(), got });
        }
        if let Some(number) = self.helpers.difference(self.keys.numbers()).next() {
            return Err(ParamsError::NoDealer { number: *number });
        }
        if !self.keys.numbers().contains(&self.lost) || self.helpers.contains(&self.lost) {
            return Err(ParamsError::NoDealer { number: self.lost });
        }
        if own != self.lost && !self.helpers.contains(&own) {
            return Err(ParamsError::NotMember { own });
        }
        Ok(())
    }

    /// The id that all messages carry: of everything that must be equal at all.
    pub fn context(&self) -> Hash {
        let helpers: Vec<u8> = self.helpers.iter().flat_map(|number| number.to_be_bytes()).collect();
        let mut hash = Tagged::new("concordat/repair/context");
        hash.part(self.ceremony.as_bytes()).part(self.keys.to_bytes());
        hash.part(&helpers).part(&self.lost.to_be_bytes());
        hash.finish()
    }

    /// The point behind what a helper gives away in all: its share times its weight.
    pub(crate) fn total(&self, helper: u16) -> Option<Element> {
        Some(self.keys.point_of(helper)? * curve::weight(&self.helpers, helper, self.lost)?)
    }

    /// Where a helper stands in the order of the helpers.
    pub(crate) fn position(&self, helper: u16) -> Option<usize> {
        self.helpers.iter().position(|number| *number == helper)
    }
}
