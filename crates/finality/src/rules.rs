//! The rules that a mutant may break. [`Law`] breaks none; the simulator runs others through the same code, so that a
//! checker which finds nothing is known to look (PROTOCOL 12). A release build names no other type.

use crate::record::Record;
use crate::scheme::{Frost, Scheme};

/// A rule that can be switched off, to see that its absence is noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// Sends wait for the flush that they depend on (PROTOCOL 7).
    FlushBeforeSend,
    /// A share needs a stored prepare certificate (PROTOCOL 4.6).
    LockBeforeShare,
    /// Who has shared another id refuses (PROTOCOL 4.4).
    OwnShareRule,
    /// The first head of an epoch is that of the highest lock (PROTOCOL 5).
    ValueRule,
    /// A vote is kept across restarts.
    PreparedPersists,
    /// The epoch entered is kept across restarts.
    EpochPersists,
    /// A rolled back custodian stays silent.
    Quarantine,
    /// `seq` stays as it was read until the check at the start is over (PROTOCOL 8).
    SeqStaysUntilChecked,
    /// Answers are to the number of this start (PROTOCOL 8).
    FreshAnswers,
    /// Answers of those in quarantine don't count (PROTOCOL 8).
    QuarantinedDontReport,
    /// The bar is taken from the heads of min(q, n-1) others (PROTOCOL 8).
    HeadsFromQuorum,
    /// The bar is two above the highest reported head (PROTOCOL 8).
    BarIsTwoAhead,
    /// Quarantine is kept across restarts (PROTOCOL 7).
    BarPersists,
    /// A grant whose lock would be missing is not given again (PROTOCOL 5).
    GrantShowsLock,
    /// An adopted lock never makes its holder refuse (PROTOCOL 4).
    AdoptedLockBindsNot,
    /// Complaints that bind: the quorum, never f+1.
    ComplaintsBindByQuorum,
    /// The lock is kept across restarts (PROTOCOL 7).
    LockPersists,
    /// The lock is flushed before the share leaves (PROTOCOL 7).
    LockFlushedFirst,
    /// A lock is replaced only by one of a higher height or epoch (PROTOCOL 3).
    LockNeverFalls,
    /// Entering an epoch ends the nonces and shares of those before (PROTOCOL 4.6, 5).
    EpochEndsShares,
    /// A grant reads its lock after the epoch is durable (PROTOCOL 5).
    GrantReadsLockLast,
    /// Of several locks the one of the highest epoch decides (PROTOCOL 5).
    HighestLockDecides,
    /// An adopted lock doesn't free who has shared (PROTOCOL 4.4).
    AdoptedLockFreesNot,
    /// A prepare counts in its own epoch only (PROTOCOL 3).
    PrepareBindsEpoch,
    /// An epoch opens with q grants, never f+1 (PROTOCOL 3).
    GrantsOpenByQuorum,
    /// The quorum is floor((n+f)/2) + 1, not a majority (PROTOCOL 1).
    QuorumOutvotesLiars,
    /// No epoch is in an event's id (PROTOCOL 3).
    IdWithoutEpoch,
    /// One id is voted for per (epoch, height) (PROTOCOL 4.4).
    OneVotePerHeight,
    /// The intact mark is the kernel's boot id (PROTOCOL 8).
    MarkIsBootId,
    /// Evidence ends an epoch only if its signer leads it (PROTOCOL 5).
    EvidenceEndsOwnEpoch,
    /// A complaint needs the opening, not the EpochStart (PROTOCOL 5).
    ComplainsWithoutStart,
    /// A session takes whoever prepared, not only the certificate's signers (PROTOCOL 4.5).
    SessionsOfAllPrepared,
    /// What isn't superseded is repeated (PROTOCOL 3).
    Repeats,
    /// What is signed under one roster counts for nothing under another (PROTOCOL 9).
    RosterBinds,
}

impl Rule {
    /// Its bit in a set of rules.
    pub const fn bit(self) -> u64 {
        1 << self as u64
    }
}

/// The rules that a core keeps.
pub trait Rules: Send + Sync + 'static {
    /// The threshold signatures.
    type Scheme: Scheme;

    /// Is this rule kept? The law keeps all, and costs nothing: the answer is known when it is compiled.
    #[inline(always)]
    fn keeps(_rule: Rule) -> bool {
        true
    }

    /// The `seq` of the next flush. The law counts flushes; an explorer, for which two histories that differ in nothing else
    /// are one state, may count runs.
    fn next_seq(record: &Record) -> u64 {
        record.seq.saturating_add(1)
    }
}

/// The rules as they are.
#[derive(Clone, Copy, Debug)]
pub enum Law {}

impl Rules for Law {
    type Scheme = Frost;
}
