//! The ordered log of one epoch: openraft behind a guard and one small trait.
//!
//! One epoch has one leader and one Raft group (PROTOCOL 2, 6). Raft replicates the leader's wrappers fast; what it
//! commits is tentative, so nothing here is trusted further than the guard checked it. The rest of the program knows
//! [`OrderedLog`], [`Committed`] and [`GroupConfig`], never openraft; a head may one day do without it.
//!
//! * A group exists from [`Group::open`] to [`OrderedLog::close`]; several stand side by side, one per epoch, in one
//!   store. [`erase`] deletes what a finished one leaves.
//! * Requests of other custodians go to [`Group::on_append`] and [`Group::on_vote`], those to others leave through a
//!   [`RaftLink`]; both pass the [`guard`].
//! * Everything is generic over the runtime, the link, the store and its flusher: the simulator runs the same code.

mod delivery;
mod flusher;
mod group;
pub mod guard;
mod intake;
mod lead;
mod link;
mod refusal;
mod storage;
mod types;
pub mod wire;

use std::future::Future;
use std::time::Duration;

use bytes::Bytes;
use futures::channel::mpsc;

pub use delivery::Committed;
pub use flusher::{FlushFailed, Flusher, InlineFlusher, ThreadFlusher};
pub use group::Group;
pub use guard::{GuardRules, Guarded, Reason, Refused, WrapperCheck};
pub use intake::IntakeError;
pub use link::{LinkError, RaftLink};
pub use openraft::AsyncRuntime;
pub use openraft::async_runtime::{Instant, Select2};
pub use openraft_rt_tokio::TokioRuntime;
pub use storage::erase;
pub use wire::epoch_of;

/// Committed wrappers in order, from batch 0 on, each once in a run of the process.
pub type Deliveries = mpsc::Receiver<Committed>;

/// The way from a group to its reader, who must be there before the group is opened.
pub fn deliveries() -> (mpsc::Sender<Committed>, Deliveries) {
    mpsc::channel(crate::limits::DELIVERY_QUEUE)
}

/// An ordered log of opaque entries for one epoch (PROTOCOL 6).
///
/// Entries are wrappers signed by the epoch's leader; they are not interpreted beyond the [`WrapperCheck`] given when
/// the log was opened. What is committed comes out through [`Deliveries`].
pub trait OrderedLog: Send + Sync {
    /// Appends the leader's next wrapper.
    ///
    /// Returns once it stands in the leader's own log, in the order of the calls: not yet committed, nor flushed by
    /// Raft (the leader flushes a batch before it hands it over, PROTOCOL 7). So batches are replicated ahead, and many
    /// can be in flight. While no majority answers, the call waits.
    ///
    /// # Errors
    /// [`OrderError`] says why it can't be appended; the entry is then nowhere in the log.
    fn append(&self, entry: Bytes) -> impl Future<Output = Result<(), OrderError>> + Send;

    /// Asks the core itself how it is; its metrics look well even when it is dead.
    fn health(&self, deadline: Duration) -> impl Future<Output = Health> + Send;

    /// Stops the group. When this returns, nothing of it writes, sends or delivers any more.
    fn close(self) -> impl Future<Output = ()> + Send;
}

/// Why an entry can't be appended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    /// Another custodian leads this epoch.
    #[error("custodian {leader} leads epoch {epoch}: only it appends")]
    NotLeader {
        /// The epoch.
        epoch: u64,
        /// Its leader.
        leader: u16,
    },
    /// This custodian led the epoch before it restarted; it never does again (PROTOCOL 5).
    #[error(
        "this custodian restarted since epoch {epoch} began and leads it no more: complain, so that the next opens"
    )]
    ReadOnly {
        /// The epoch.
        epoch: u64,
    },
    /// The wrapper doesn't continue the own chain.
    #[error("batch {position} is no wrapper of its place: {why}")]
    Wrapper {
        /// The batch number it would get.
        position: u64,
        /// What the check said.
        why: String,
    },
    /// The wrapper is larger than a message may be.
    #[error("a wrapper of {got} bytes; at most {most} fit")]
    TooLarge {
        /// Its size.
        got: usize,
        /// The limit.
        most: usize,
    },
    /// The group was closed.
    #[error("the log group of epoch {epoch} is closed")]
    Closed {
        /// The epoch.
        epoch: u64,
    },
    /// The core died; that is a resignation, and the next epoch brings a new group.
    #[error("the log group of epoch {epoch} died: {why}")]
    Dead {
        /// The epoch.
        epoch: u64,
        /// What openraft said.
        why: String,
    },
}

/// How a group is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Health {
    /// The core answered.
    Alive {
        /// True if this custodian leads the group.
        leading: bool,
        /// The Raft term it is in.
        term: u64,
        /// Wrappers in the own log.
        wrappers: u64,
    },
    /// No core runs: a leader that restarted serves its log.
    ReadOnly,
    /// The core didn't answer in time.
    Silent,
    /// The core is gone: a storage error, or a bug that a message reached.
    Dead {
        /// What openraft said.
        why: String,
    },
    /// The group was closed.
    Closed,
}

/// The times of a group. The defaults are for wide area networks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Between two heartbeats; also the longest a heartbeat's answer may take, so above the worst round trip.
    /// 250 ms: a quarter second finds a dead leader soon enough and is above any round trip on Earth that works well.
    pub heartbeat: Duration,
    /// Without an answer from a majority for this long, the leader takes no more batches. 1.5 s: six heartbeats.
    pub leader_timeout: Duration,
    /// The longest an append's or vote's answer may take. 5 s: a full append over a slow line, with its flush.
    pub request: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(250),
            leader_timeout: Duration::from_millis(1_500),
            request: Duration::from_secs(5),
        }
    }
}

/// What makes a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupConfig {
    /// The epoch.
    pub epoch: u64,
    /// This custodian's number.
    pub me: u16,
    /// The epoch's leader.
    pub leader: u16,
    /// The roster in force: everybody's entry 0 is made of it, so it must be the same for all.
    pub members: Vec<u16>,
    /// For the leader: true in the process run in which it entered the epoch. False serves the log read-only.
    pub lead: bool,
    /// Its times.
    pub timing: Timing,
}

/// Why a group can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The configuration contradicts itself.
    #[error("epoch {epoch} can't have a log group: {why}")]
    Config {
        /// The epoch.
        epoch: u64,
        /// What is wrong.
        why: String,
    },
    /// The store failed, or holds something that this version can't have written. The process must stop.
    #[error("the log of epoch {epoch} can't be read or written: {source}")]
    Store {
        /// The epoch.
        epoch: u64,
        /// What happened.
        #[source]
        source: std::io::Error,
    },
    /// The stored log was begun with other members.
    #[error("the stored log of epoch {epoch} belongs to another roster")]
    OtherMembers {
        /// The epoch.
        epoch: u64,
    },
    /// The stored log was led before: it must be opened with `lead: false`.
    #[error("epoch {epoch} was led in an earlier run of this process: its leader must open it read-only")]
    AlreadyLed {
        /// The epoch.
        epoch: u64,
    },
    /// A stored wrapper doesn't pass its check.
    #[error("the stored log of epoch {epoch} is damaged: {reason}")]
    Damaged {
        /// The epoch.
        epoch: u64,
        /// What the check said.
        reason: Reason,
    },
    /// openraft didn't start.
    #[error("the log group of epoch {epoch} did not start: {why}")]
    Core {
        /// The epoch.
        epoch: u64,
        /// What it said.
        why: String,
    },
}

#[cfg(test)]
mod tests;
