//! What a custodian offers users, in checked types.

use std::future::Future;
use std::pin::Pin;

use concordat_events::{Hash, ValidEvent};
use futures::Stream;

/// A stream of one call's updates. It ends with the call.
pub type UpdateStream<T> = Pin<Box<dyn Stream<Item = Result<T, HandlerError>> + Send>>;

/// Resolves when a request is certified.
pub type OutcomeFuture = Pin<Box<dyn Future<Output = Result<CertifiedOutcome, HandlerError>> + Send>>;

/// What became of a request, certified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertifiedOutcome {
    /// The request.
    pub request: Hash,
    /// `None` if it was accepted, else the reason code of its rejection.
    pub rejected: Option<String>,
    /// Height of the head it stands in.
    pub height: u64,
    /// That head's log event: the proof.
    pub log_event: ValidEvent,
    /// The machine's snapshot after it as JSON, if there is a machine.
    pub state: Option<String>,
}

/// A machine at a certified head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MachineView {
    /// The machine.
    pub machine: Hash,
    /// XState's persisted snapshot as JSON; `None` if there is no such machine.
    pub snapshot: Option<String>,
    /// Height of the head.
    pub height: u64,
    /// Its log event.
    pub log_event: ValidEvent,
    /// Proof that the leaf stands under the head's state root, or that none does.
    pub proof: Vec<u8>,
    /// The leaf that the proof is about; empty if there is none.
    pub leaf: Vec<u8>,
}

/// Leaves of the state at one certified head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proven {
    /// Height of the head.
    pub height: u64,
    /// Its log event.
    pub log_event: ValidEvent,
    /// A proof for each leaf that was asked for, in that order.
    pub proofs: Vec<String>,
}

/// How a custodian is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The cluster's id.
    pub cluster: Hash,
    /// The group's key, hex.
    pub group: String,
    /// The custodian's number.
    pub number: u16,
    /// Its certified height.
    pub height: u64,
    /// Its epoch.
    pub epoch: u64,
    /// The epoch's leader.
    pub leader: u16,
    /// What it is doing, one word.
    pub state: String,
    /// Everything else as JSON.
    pub details: String,
}

/// What a custodian holds against another one (PROTOCOL 5). Its words are a hint; [`crate::evidence::check`] tells what the signed
/// messages show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EvidencePiece {
    /// Whom it names.
    pub custodian: u16,
    /// What it shows, in words.
    pub fault: String,
    /// In which epoch.
    pub epoch: u64,
    /// At which height, or for log entries at which number.
    pub place: u64,
    /// The signed messages.
    pub signed: Vec<u8>,
}

/// Why a custodian doesn't do what a user asks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HandlerError {
    /// The request can't be one for this group.
    #[error("not a request for this group: {0}")]
    Refused(String),
    /// The pool or the number of watchers is full.
    #[error("this custodian has too much to do ({0}); try again, or send to relays")]
    Busy(String),
    /// It isn't ready, for example in quarantine or catching up.
    #[error("this custodian isn't ready: {0}")]
    NotReady(String),
    /// It is stopping, or something broke.
    #[error("this custodian failed: {0}")]
    Failed(String),
}

/// A custodian, as users see it.
pub trait ClientHandler: Send + Sync + 'static {
    /// Puts a request into the pool and returns a future of its certified outcome. A request that is certified already
    /// is answered from the log. An error means that it wasn't taken.
    fn submit(&self, request: ValidEvent)
    -> impl Future<Output = Result<OutcomeFuture, HandlerError>> + Send;

    /// A machine at the certified head, with its proof; of absence, if there is no such machine.
    fn machine(&self, machine: Hash) -> impl Future<Output = Result<MachineView, HandlerError>> + Send;

    /// These leaves of the state, all at one certified head: their values, or that there are none.
    fn prove(&self, leaves: Vec<String>) -> impl Future<Output = Result<Proven, HandlerError>> + Send;

    /// A machine now and at every certified head that changes it.
    fn watch(
        &self,
        machine: Hash,
    ) -> impl Future<Output = Result<UpdateStream<MachineView>, HandlerError>> + Send;

    /// How the custodian is.
    fn status(&self) -> impl Future<Output = Result<Status, HandlerError>> + Send;

    /// What it holds against others.
    fn evidence(&self) -> impl Future<Output = Result<Vec<EvidencePiece>, HandlerError>> + Send;
}
