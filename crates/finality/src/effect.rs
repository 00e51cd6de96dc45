//! What goes into the decider and what comes out of it.

use concordat_events::ValidEvent;
use concordat_events::hash::Hash;

use crate::certified::{Certified, Published};
use crate::evidence::Fault;
use crate::message::{Cause, Msg, RefuseReason};

/// The time of one step, passed in: the core has no clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// ms of a clock that never jumps: for timeouts.
    pub mono_ms: u64,
    /// ms since 1970: for batch times, and only there (PROTOCOL 10).
    pub wall_ms: u64,
}

/// Where a request came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// A relay: the leader has probably seen it too.
    Relay,
    /// The client port: nobody else has it.
    Client,
}

/// What happens to a custodian.
#[derive(Debug)]
pub enum Input {
    /// The process has started; comes once and first.
    Start,
    /// Time has passed.
    Tick,
    /// A request that was checked as an event.
    Request {
        /// The event.
        event: Box<ValidEvent>,
        /// Where it came in.
        origin: Origin,
    },
    /// A checked message from a peer.
    Message(Msg),
    /// The next committed entry of an epoch's log.
    Ordered {
        /// Whose log.
        epoch: u64,
        /// The entry.
        entry: Msg,
    },
    /// The epoch's Raft core is dead.
    GroupFailed {
        /// Whose.
        epoch: u64,
    },
    /// A peer can be reached, or no longer.
    Reachable {
        /// Which.
        peer: u16,
        /// Can it?
        up: bool,
    },
    /// The newest log event that relays hold, looked up after the start.
    Relayed(Box<ValidEvent>),
    /// This process is going to stop: it leads nothing from here on, and whoever it leads is told at once.
    Resign,
}

/// When an effect may happen (PROTOCOL 7): durability is data, not call order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum After {
    /// At once.
    Nothing,
    /// Once everything written in its step is durable.
    Flush,
}

/// An action and what must be durable before it.
#[derive(Debug)]
pub struct Effect {
    /// What must be durable.
    pub after: After,
    /// What to do.
    pub action: Action,
}

/// What the shell does for the core.
#[derive(Debug)]
pub enum Action {
    /// Send a message to a peer.
    Send {
        /// To whom.
        to: u16,
        /// What.
        message: Msg,
    },
    /// Start the Raft group of an epoch.
    OpenGroup {
        /// Which.
        epoch: u64,
        /// Its leader.
        leader: u16,
        /// Is this custodian to lead it? A restarted leader serves its log read-only.
        lead: bool,
    },
    /// Stop the Raft group of an epoch; nothing of it acts afterwards.
    CloseGroup {
        /// Which.
        epoch: u64,
    },
    /// Give an entry to the Raft group that this custodian leads.
    Append {
        /// Which group.
        epoch: u64,
        /// Its place in the log.
        number: u64,
        /// The entry.
        entry: Msg,
    },
    /// Another roster is in force: open the next core from this one's store ([`crate::Context::stored`]). This one does nothing
    /// any more.
    Reopen,
    /// A head was certified: publish it, answer who waits for its requests.
    Certified(Box<Certified<Published>>),
    /// Something that an operator must know.
    Alarm(Alarm),
}

/// What an operator must know. Kept in the state and counted, with the culprit's number.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Alarm {
    /// A custodian broke the protocol, provably.
    #[error("custodian {culprit} broke the protocol: {fault}; evidence is kept")]
    Evidence {
        /// Who.
        culprit: u16,
        /// How.
        fault: Fault,
    },
    /// A custodian sent a bad signature share.
    #[error("custodian {culprit} sent a bad signature share for height {height}")]
    BadShare {
        /// Who.
        culprit: u16,
        /// For which head.
        height: u64,
    },
    /// A custodian refuses a head.
    #[error("custodian {by} doesn't prepare head {id} of height {height}: {reason:?}")]
    Refused {
        /// Who refuses.
        by: u16,
        /// At which height.
        height: u64,
        /// What.
        id: Hash,
        /// Why.
        reason: RefuseReason,
    },
    /// The own state contradicts a certified head. This custodian must stop: its disk or its program is at fault.
    #[error(
        "the group certified head {certified} at height {height}, this custodian computes {computed}; stop it and restore it"
    )]
    Diverged {
        /// At which height.
        height: u64,
        /// What the group signed.
        certified: Hash,
        /// What this custodian computes.
        computed: Hash,
    },
    /// Two locks of one epoch and height: more than f custodians are at fault.
    #[error(
        "two prepare certificates of epoch {epoch} for height {height}: more than f custodians are faulty; stop"
    )]
    TwoLocks {
        /// The epoch.
        epoch: u64,
        /// The height.
        height: u64,
    },
    /// This custodian was rolled back and stays silent until it is safe.
    #[error(
        "this custodian's disk was rolled back (its record has seq {own}, others have seen {shown}); it is in quarantine"
    )]
    RolledBack {
        /// What its record says.
        own: u64,
        /// What others have seen.
        shown: u64,
    },
    /// An epoch was entered.
    #[error("epoch {epoch} entered, led by custodian {leader}")]
    Epoch {
        /// Which.
        epoch: u64,
        /// Its leader.
        leader: u16,
    },
    /// This custodian wants the epoch to end.
    #[error("complaint about epoch {epoch}: {cause:?}")]
    Complained {
        /// Which.
        epoch: u64,
        /// Why.
        cause: Cause,
    },
    /// A custodian sent state that isn't the certified head's.
    #[error("custodian {culprit} sent state that isn't that of head {height}: {message}")]
    BadState {
        /// Who.
        culprit: u16,
        /// Of which head.
        height: u64,
        /// What is wrong.
        message: String,
    },
    /// Relays hold a head that q custodians don't know: too many were rolled back.
    #[error(
        "relays hold head {relays} with the group's signature, {} is the newest that a quorum of custodians knows: too many were rolled back at once; stop all of them and run `recover`",
        known.map_or("none".to_owned(), |height| height.to_string())
    )]
    RelaysAhead {
        /// The height that relays hold.
        relays: u64,
        /// The highest that custodians know.
        known: Option<u64>,
    },
    /// A batch can't be executed.
    #[error("a batch of epoch {epoch} can't be executed: {message}")]
    BadBatch {
        /// Of which epoch.
        epoch: u64,
        /// Why.
        message: String,
    },
}
