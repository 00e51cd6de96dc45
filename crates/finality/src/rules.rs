//! The rules that a mutant may break. [`Law`] breaks none; the simulator runs others through the same code, so that a
//! checker which finds nothing is known to look (PROTOCOL 12). A release build names no other type.

use crate::record::Record;
use crate::scheme::{Frost, Scheme};

/// Switches of the rules; every default is the law.
pub trait Rules: Send + Sync + 'static {
    /// The threshold signatures.
    type Scheme: Scheme;
    /// Sends wait for the flush that they depend on (PROTOCOL 7).
    const FLUSH_BEFORE_SEND: bool = true;
    /// A share needs a stored prepare certificate (PROTOCOL 4.6).
    const LOCK_BEFORE_SHARE: bool = true;
    /// Who has shared another id refuses (PROTOCOL 4.4).
    const OWN_SHARE_RULE: bool = true;
    /// The first head of an epoch is that of the highest lock (PROTOCOL 5).
    const VALUE_RULE: bool = true;
    /// A vote is kept across restarts.
    const PREPARED_PERSISTS: bool = true;
    /// The epoch entered is kept across restarts.
    const EPOCH_PERSISTS: bool = true;
    /// A rolled back custodian stays silent.
    const QUARANTINE: bool = true;
    /// `seq` stays as it was read until the check at the start is over (PROTOCOL 8).
    const SEQ_STAYS_UNTIL_CHECKED: bool = true;
    /// Answers are to the number of this start (PROTOCOL 8).
    const FRESH_ANSWERS: bool = true;
    /// Answers of those in quarantine don't count (PROTOCOL 8).
    const QUARANTINED_DONT_REPORT: bool = true;
    /// The bar is taken from the heads of min(q, n-1) others (PROTOCOL 8).
    const HEADS_FROM_QUORUM: bool = true;
    /// The bar is two above the highest reported head (PROTOCOL 8).
    const BAR_IS_TWO_AHEAD: bool = true;
    /// Quarantine is kept across restarts (PROTOCOL 7).
    const BAR_PERSISTS: bool = true;
    /// A grant whose lock would be missing is not given again (PROTOCOL 5).
    const GRANT_SHOWS_LOCK: bool = true;
    /// An adopted lock never makes its holder refuse (PROTOCOL 4).
    const ADOPTED_LOCK_BINDS_NOT: bool = true;
    /// Complaints that bind: the quorum, never f+1.
    const COMPLAINTS_BIND_BY_QUORUM: bool = true;

    /// The `seq` of the next flush. The law counts flushes; an explorer, for which two histories that differ in nothing else
    /// are one state, may count runs.
    fn next_seq(record: &Record) -> u64 {
        record.seq + 1
    }
}

/// The rules as they are.
#[derive(Clone, Copy, Debug)]
pub enum Law {}

impl Rules for Law {
    type Scheme = Frost;
}
