//! Relays: how requests come in and how certified events go out.
//!
//! * [`RelayLink`]: what the rest of the custodian needs of relays; the simulator has its own;
//! * [`link`]: the link over nostr-sdk; [`embedded`]: a relay of our own for local clusters and tests;
//! * [`intake`]: which events are requests for this group;
//! * [`Outward`]: certified heads to the relays, through [`outbox`], a durable queue of what must be published.
//!
//! Promises: an event from a relay has been checked whole before anything sees it; every wait is bounded and every error
//! names its relay. A relay is never believed: not that it stored something (it is read back), not that there is no more.
//! Refuses: to authenticate to a relay; the group's key never signs a challenge, and a custodian's key is for its peers.

pub mod embedded;
mod embedded_store;
pub mod intake;
pub mod link;
pub mod outbox;
mod outward;
mod publisher;
mod seen;
mod shipping;
#[cfg(test)]
mod tests;

use std::future::Future;
use std::time::Duration;

use concordat_events::ValidEvent;
use nostr::Filter;
use tokio::sync::{mpsc, watch};

pub use self::embedded::{EmbeddedError, EmbeddedRelay};
pub use self::intake::Intake;
pub use self::link::{LinkOptions, NostrLink};
pub use self::outbox::{Outbox, OutboxEntry};
pub use self::outward::{Outward, Port};
pub use self::publisher::{OutboxStatus, PublishPolicy, Publisher, RelayHealth};
pub use self::seen::Seen;
pub use self::shipping::{Law, ShippingRules};

/// An event as it came from a relay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    /// The relay that delivered it first.
    pub relay: String,
    /// The event, checked whole.
    pub event: ValidEvent,
}

/// What to listen for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Interest {
    /// Filters; an event that matches one of them is wanted.
    pub filters: Vec<Filter>,
    /// Stored events from this second on are fetched first.
    pub since: u64,
}

/// Why a relay didn't do what it was asked to.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RelayError {
    /// No such relay in this link, or its URL isn't one.
    #[error("{relay}: not a relay of this custodian")]
    Unknown {
        /// Its URL.
        relay: String,
    },
    /// Not connected, or the connection ended.
    #[error("{relay}: not connected ({message})")]
    Unreachable {
        /// Its URL.
        relay: String,
        /// What the library said.
        message: String,
    },
    /// It didn't answer in time.
    #[error("{relay}: no answer within {within:?}")]
    Timeout {
        /// Its URL.
        relay: String,
        /// How long was waited.
        within: Duration,
    },
    /// It said no, and may say yes later.
    #[error("{relay}: not now ({message})")]
    Later {
        /// Its URL.
        relay: String,
        /// What it said, shortened.
        message: String,
    },
    /// It said no for good.
    #[error("{relay}: refuses this event ({message}); choose another relay, or ask its operator")]
    Refused {
        /// Its URL.
        relay: String,
        /// What it said, shortened.
        message: String,
    },
}

impl RelayError {
    /// True if asking again is of no use.
    pub fn is_final(&self) -> bool {
        matches!(self, RelayError::Refused { .. } | RelayError::Unknown { .. })
    }
}

/// The relays that a custodian uses, as one thing.
pub trait RelayLink: Send + Sync + 'static {
    /// Their URLs.
    fn relays(&self) -> Vec<String>;

    /// Delivers every wanted event once, stored ones first and new ones as they come, from all relays, until the receiver
    /// is dropped. When the interest changes, its stored events are fetched again. A slow receiver slows the relays
    /// down; nothing is dropped.
    ///
    /// The channels need no runtime. A link in simulated time waits for the interest with one task only: of several,
    /// tokio's watch wakes the first at random.
    fn subscribe(&self, interest: watch::Receiver<Interest>) -> mpsc::Receiver<Received>;

    /// Sends an event to one relay and waits for its word, which is no proof that it keeps it.
    fn publish(&self, relay: &str, event: &ValidEvent)
    -> impl Future<Output = Result<(), RelayError>> + Send;

    /// Stored events of one relay that match a filter, as far as it gives them in one answer.
    fn fetch(
        &self,
        relay: &str,
        filter: Filter,
        deadline: Duration,
    ) -> impl Future<Output = Result<Vec<ValidEvent>, RelayError>> + Send;
}

/// Sends an event to several relays at once; one result per relay.
pub async fn publish_to<L: RelayLink>(
    link: &L,
    event: &ValidEvent,
    relays: &[String],
) -> Vec<(String, Result<(), RelayError>)> {
    let all = relays.iter().map(|relay| async move { (relay.clone(), link.publish(relay, event).await) });
    futures::future::join_all(all).await
}
