//! Why the guard let something not through, from whom, and how often.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use tokio::sync::watch;

use super::wire::Malformed;

/// Why the guard let something not through.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// Not even a message.
    #[error("malformed: {0}")]
    Malformed(#[from] Malformed),
    /// For another epoch's group.
    #[error("for epoch {got}, this is the group of epoch {expected}")]
    Epoch {
        /// This group's epoch.
        expected: u64,
        /// The one named.
        got: u64,
    },
    /// Only the epoch's leader may append and ask for votes.
    #[error("sent by {sender}, but {leader} leads this epoch")]
    NotLeader {
        /// Who sent it.
        sender: u16,
        /// Who leads.
        leader: u16,
    },
    /// The vote names someone else than the epoch's leader.
    #[error("its vote names {named}, but {leader} leads this epoch")]
    Names {
        /// Whom the vote names.
        named: u64,
        /// Who leads.
        leader: u16,
    },
    /// A term of 0 or above [`crate::limits::MAX_TERM`].
    #[error("term {got} is outside 1 to {most}")]
    Term {
        /// The term.
        got: u64,
        /// The highest allowed.
        most: u64,
    },
    /// An append whose vote isn't won, or a vote asked for that claims to be.
    #[error("its vote claims committed = {got}")]
    Standing {
        /// What it claims.
        got: bool,
    },
    /// A vote that asks to be let through a live leader's lease.
    #[error("it asks for a transfer of leadership")]
    Transfer,
    /// An index above [`crate::limits::MAX_INDEX`].
    #[error("index {got} is above {most}")]
    Index {
        /// The index.
        got: u64,
        /// The highest allowed.
        most: u64,
    },
    /// Entries that don't follow one another, in index or term.
    #[error("entry {index} of term {term} doesn't follow the one before it")]
    Order {
        /// Its index.
        index: u64,
        /// Its term.
        term: u64,
    },
    /// A membership entry other than the first, which everybody wrote alike.
    #[error("entry {index} changes the membership")]
    Membership {
        /// Its index.
        index: u64,
    },
    /// A blank that doesn't begin a term.
    #[error("entry {index} is a blank inside a term")]
    Blank {
        /// Its index.
        index: u64,
    },
    /// It would cut the log.
    #[error("it would cut the log at entry {index}{}", if *.prepared { ", at or below the last prepared batch" } else { "" })]
    Cut {
        /// Where the log would be cut.
        index: u64,
        /// True if something prepared would go.
        prepared: bool,
    },
    /// Another wrapper than the one held: the leader signed two for one place, or one that isn't its own.
    #[error("batch {position} is held already, with other bytes")]
    Contradiction {
        /// The batch number.
        position: u64,
    },
    /// The wrapper doesn't verify or doesn't continue the chain.
    #[error("batch {position}: {why}")]
    Wrapper {
        /// The batch number.
        position: u64,
        /// What the check said.
        why: String,
    },
    /// It calls an entry committed that can't stand there: the log holds another, or entries that it can't follow.
    #[error("it commits entry {index} of term {term}, which is not what the log holds or can come to hold")]
    Commit {
        /// The index.
        index: u64,
        /// The term claimed.
        term: u64,
    },
    /// A reply that names an entry which was not in the request.
    #[error("its reply names entry {index}, which was not sent")]
    NotSent {
        /// The index named.
        index: u64,
    },
    /// A reply that would depose the leader.
    #[error("its reply claims a vote of term {term} for {node}, which is not the one we hold")]
    OtherVote {
        /// The term claimed.
        term: u64,
        /// Whom it names.
        node: u64,
    },
    /// A reply that takes back what the peer acknowledged, or denies the first entry.
    #[error("its reply denies entry {index}, which it acknowledged")]
    TakenBack {
        /// The entry before those sent.
        index: u64,
    },
    /// A vote granted though the voter's log is ahead of ours, or not granted.
    #[error("it doesn't grant the vote")]
    NotGranted,
    /// More requests wait than an honest leader sends.
    #[error("too many of its appends are waiting")]
    Flood,
    /// The own log can't be read; nothing to do with the peer.
    #[error("the own log can't be read: {0}")]
    Unreadable(String),
}

impl Reason {
    /// One word for counters and alarms.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "malformed",
            Self::Epoch { .. } => "epoch",
            Self::NotLeader { .. } => "not_leader",
            Self::Names { .. } => "names",
            Self::Term { .. } => "term",
            Self::Standing { .. } => "standing",
            Self::Transfer => "transfer",
            Self::Index { .. } => "index",
            Self::Order { .. } => "order",
            Self::Membership { .. } => "membership",
            Self::Blank { .. } => "blank",
            Self::Cut { .. } => "cut",
            Self::Contradiction { .. } => "contradiction",
            Self::Wrapper { .. } => "wrapper",
            Self::Commit { .. } => "commit",
            Self::NotSent { .. } => "not_sent",
            Self::OtherVote { .. } => "other_vote",
            Self::TakenBack { .. } => "taken_back",
            Self::NotGranted => "not_granted",
            Self::Flood => "flood",
            Self::Unreadable(_) => "unreadable",
        }
    }

    /// True if no honest custodian's message can look like this: an alarm with the peer's name. The others also come
    /// from late messages, restarts and leases.
    pub fn is_violation(&self) -> bool {
        !matches!(
            self,
            Self::Epoch { .. }
                | Self::OtherVote { .. }
                | Self::NotGranted
                | Self::TakenBack { .. }
                | Self::Unreadable(_)
        )
    }
}

/// Something from `peer` that was not let through.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("refused from custodian {peer}: {reason}")]
pub struct Refused {
    /// Who sent it, as its certificate says.
    pub peer: u16,
    /// Why.
    pub reason: Reason,
}

/// How often what was refused, by peer and [`Reason::name`].
#[derive(Debug, Default)]
pub struct Refusals {
    counts: Mutex<BTreeMap<(u16, &'static str), u64>>,
    total: watch::Sender<u64>,
}

impl Refusals {
    /// Counts one and returns it.
    pub fn count(&self, peer: u16, reason: Reason) -> Refused {
        {
            let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
            let count = counts.entry((peer, reason.name())).or_default();
            *count = count.saturating_add(1);
        }
        self.total.send_modify(|total| *total = total.saturating_add(1));
        if reason.is_violation() {
            tracing::warn!(peer, reason = %reason, "the guard refused a message that no honest custodian sends");
        }
        Refused { peer, reason }
    }

    /// All counts so far.
    pub fn snapshot(&self) -> BTreeMap<(u16, &'static str), u64> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes with each refusal: how many there were.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.total.subscribe()
    }
}
