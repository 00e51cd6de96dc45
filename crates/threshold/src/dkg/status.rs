//! How far a ceremony is, for the people who run it.

use super::message::Kind;

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
