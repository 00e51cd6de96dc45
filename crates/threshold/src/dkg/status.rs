//! How far a ceremony is, for the people who run it.

use std::collections::BTreeMap;

use concordat_events::Hash;

use super::alarm::Alarm;
use super::message::{Kind, Message};

/// What the ceremony waits for next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// Messages of this kind from all others.
    Waiting(Kind),
    /// The own share is to be stored: only the caller can go on.
    Store,
    /// Nothing: the key can be taken.
    Finished,
    /// Nothing: it ended with an alarm.
    Aborted,
}

/// How far one custodian is, as seen from here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Any message of it came.
    pub seen: bool,
    /// Its round-1 package came.
    pub round1: bool,
    /// Its echo came.
    pub echo: bool,
    /// Its secret share for us came.
    pub round2: bool,
    /// It confirmed the keys.
    pub confirmed: bool,
    /// Its share of the test signature came.
    pub tested: bool,
    /// It verified the test signature.
    pub done: bool,
    /// It ended the ceremony.
    pub aborted: bool,
}

/// What each member has sent of each kind, as a digest: it tells repeats from lies.
#[derive(Default)]
pub(crate) struct Heard(BTreeMap<(u16, Kind), Hash>);

impl Heard {
    /// Did this member send a message of this kind?
    pub(crate) fn has(&self, from: u16, kind: Kind) -> bool {
        self.0.contains_key(&(from, kind))
    }

    /// Remembers a message. `false` for one that came before.
    ///
    /// # Errors
    /// [`Alarm::Equivocation`] if its sender sent another of its kind.
    pub(crate) fn first(&mut self, from: u16, message: &Message) -> Result<bool, Alarm> {
        let (kind, digest) = (message.kind(), message.digest());
        match self.0.insert((from, kind), digest) {
            Some(earlier) if earlier == digest => Ok(false),
            Some(_) => Err(Alarm::Equivocation { culprit: from, kind }),
            None => Ok(true),
        }
    }

    /// Notes that the own message of a kind was sent.
    pub(crate) fn said(&mut self, own: u16, kind: Kind, digest: Hash) {
        self.0.entry((own, kind)).or_insert(digest);
    }
}

impl Progress {
    /// From the kinds of messages that it sent.
    pub(super) fn from_kinds(sent: impl Fn(Kind) -> bool) -> Self {
        let mut progress = Self {
            seen: false,
            round1: sent(Kind::Round1),
            echo: sent(Kind::Echo),
            round2: sent(Kind::Round2),
            confirmed: sent(Kind::Confirm),
            tested: sent(Kind::TestShare),
            done: sent(Kind::Done),
            aborted: sent(Kind::Abort),
        };
        progress.seen = sent(Kind::TestCommit) || progress != Self::default();
        progress
    }
}
