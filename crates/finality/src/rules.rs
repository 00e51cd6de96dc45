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
    /// The lock is kept across restarts (PROTOCOL 7).
    const LOCK_PERSISTS: bool = true;
    /// The lock is flushed before the share leaves (PROTOCOL 7).
    const LOCK_FLUSHED_FIRST: bool = true;
    /// A lock is replaced only by one of a higher height or epoch (PROTOCOL 3).
    const LOCK_NEVER_FALLS: bool = true;
    /// Entering an epoch ends the nonces and shares of those before (PROTOCOL 4.6, 5).
    const EPOCH_ENDS_SHARES: bool = true;
    /// A grant reads its lock after the epoch is durable (PROTOCOL 5).
    const GRANT_READS_LOCK_LAST: bool = true;
    /// Of several locks the one of the highest epoch decides (PROTOCOL 5).
    const HIGHEST_LOCK_DECIDES: bool = true;
    /// An adopted lock doesn't free who has shared (PROTOCOL 4.4).
    const ADOPTED_LOCK_FREES_NOT: bool = true;
    /// A prepare counts in its own epoch only (PROTOCOL 3).
    const PREPARE_BINDS_EPOCH: bool = true;
    /// An epoch opens with q grants, never f+1 (PROTOCOL 3).
    const GRANTS_OPEN_BY_QUORUM: bool = true;
    /// The quorum is floor((n+f)/2) + 1, not a majority (PROTOCOL 1).
    const QUORUM_OUTVOTES_LIARS: bool = true;
    /// No epoch is in an event's id (PROTOCOL 3).
    const ID_WITHOUT_EPOCH: bool = true;
    /// One id is voted for per (epoch, height) (PROTOCOL 4.4).
    const ONE_VOTE_PER_HEIGHT: bool = true;
    /// The intact mark is the kernel's boot id (PROTOCOL 8).
    const MARK_IS_BOOT_ID: bool = true;
    /// Evidence ends an epoch only if its signer leads it (PROTOCOL 5).
    const EVIDENCE_ENDS_OWN_EPOCH: bool = true;
    /// A complaint needs the opening, not the EpochStart (PROTOCOL 5).
    const COMPLAINS_WITHOUT_START: bool = true;
    /// A session takes whoever prepared, not only the certificate's signers (PROTOCOL 4.5).
    const SESSIONS_OF_ALL_PREPARED: bool = true;
    /// What isn't superseded is repeated (PROTOCOL 3).
    const REPEATS: bool = true;

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
