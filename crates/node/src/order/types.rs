//! The types that openraft is instantiated with. Only this module's neighbours name them.

use std::cmp::Ordering;
use std::fmt;
use std::marker::PhantomData;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use openraft::async_runtime::WatchSender;
use openraft::entry::EntryPayload;
use openraft::impls::{BoxedErrorSource, InlineBatch, OneshotResponder};
use openraft::impls::{Entry, Vote, leader_id_std};
use openraft::type_config::TypeConfigExt;
use openraft::type_config::alias::{WatchReceiverOf, WatchSenderOf};
use openraft::vote::RaftLeaderId;
use openraft::{AsyncRuntime, OptionalSend, OptionalSync, RaftTypeConfig};

/// openraft's configuration over an async runtime: tokio in a custodian, `openraft-rt-sim` in the simulator.
///
/// Standard leader ids, so that one term has one leader.
pub struct TC<Rt>(PhantomData<fn() -> Rt>);

/// Bytes of one wrapper, as openraft carries them.
#[derive(Clone, PartialEq, Eq)]
pub struct Wrapper(pub Bytes);

impl fmt::Debug for Wrapper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "wrapper of {} bytes", self.0.len())
    }
}

impl fmt::Display for Wrapper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A candidate's or leader's identity: term and custodian.
pub type LeaderId = leader_id_std::LeaderId<u64, u64>;
/// What of it stands in a log id: the term.
pub type Term = <LeaderId as RaftLeaderId>::Committed;
/// A log id: term and index.
pub type LogId = openraft::LogId<Term>;
/// What an entry carries.
pub type Payload = EntryPayload<Wrapper, u64, ()>;
/// One log entry.
pub type LogEntry = Entry<Term, Payload>;
/// A vote, asked for or won.
pub type Ballot = Vote<LeaderId>;

impl<Rt: AsyncRuntime> RaftTypeConfig for TC<Rt> {
    type D = Wrapper;
    type R = ();
    type NodeId = u64;
    type Node = ();
    type Term = u64;
    type LeaderId = LeaderId;
    type Vote = Ballot;
    type Payload = Payload;
    type Entry = LogEntry;
    type AsyncRuntime = Rt;
    type Responder<T>
        = OneshotResponder<Self, T>
    where
        T: OptionalSend + 'static;
    type Batch<T>
        = InlineBatch<T>
    where
        T: OptionalSend + 'static;
    type ErrorSource = BoxedErrorSource;
}

impl<Rt> fmt::Debug for TC<Rt> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TC")
    }
}

impl<Rt> Clone for TC<Rt> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<Rt> Copy for TC<Rt> {}

impl<Rt> Default for TC<Rt> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<Rt> PartialEq for TC<Rt> {
    fn eq(&self, _other: &Self) -> bool {
        true
    }
}

impl<Rt> Eq for TC<Rt> {}

impl<Rt> PartialOrd for TC<Rt> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<Rt> Ord for TC<Rt> {
    fn cmp(&self, _other: &Self) -> Ordering {
        Ordering::Equal
    }
}

/// A value that tasks can wait on. openraft's own watch senders can't be shared between threads.
pub struct Watched<Rt: AsyncRuntime, T: OptionalSend + OptionalSync>(Mutex<WatchSenderOf<TC<Rt>, T>>);

impl<Rt: AsyncRuntime, T: OptionalSend + OptionalSync> Watched<Rt, T> {
    /// With its first value.
    pub fn new(first: T) -> Self {
        Self(Mutex::new(TC::<Rt>::watch_channel(first).0))
    }

    /// Sets it and wakes who waits.
    pub fn set(&self, value: T) {
        // Fails only if nobody listens, which is no matter.
        let _ = self.0.lock().unwrap_or_else(PoisonError::into_inner).send_if_modified(|held| {
            *held = value;
            true
        });
    }

    /// A view that starts at the present value.
    pub fn subscribe(&self) -> WatchReceiverOf<TC<Rt>, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).subscribe()
    }
}
