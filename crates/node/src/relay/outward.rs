//! The way out as one unit: certified heads come in through a [`Port`], enough relays hold their events in the end.
//!
//! [`Outward`] puts each head durably into the outbox and publishes from there. It starts no thread and no task: whoever
//! composes a custodian runs [`Outward::run`], on tokio or in simulated time.

use std::sync::{Arc, Mutex, PoisonError};

use concordat_events::Hash;
use concordat_finality::{Certified, Published};
use concordat_store::{Store, StoreError};
use futures::channel::mpsc;
use openraft::AsyncRuntime;
use openraft::async_runtime::Select2;
use tokio::sync::watch;

use super::RelayLink;
use super::outbox::Outbox;
use super::publisher::{OutboxStatus, PublishPolicy, Publisher};
use super::seen::Seen;
use super::shipping::{Law, Parcel, Shipping, ShippingRules};
use crate::order::Flusher;

/// Requests that relays brought; what they have needn't be published again.
const ON_RELAYS: usize = 50_000;

/// Where certified heads go in. Copies lead to one [`Outward`].
#[derive(Clone)]
pub struct Port {
    /// Unbounded, because the decider never waits. What is in it was certified on the same store, flush by flush, so it
    /// doesn't outgrow the shipping by more than heads that share one flush.
    queue: mpsc::UnboundedSender<Parcel>,
    on_relays: Arc<Mutex<Seen>>,
}

impl Port {
    /// A head was certified, and is durable with its certificate. Never blocks.
    pub fn certified(&self, head: &Certified<Published>) {
        let parcel = {
            let on_relays = self.on_relays.lock().unwrap_or_else(PoisonError::into_inner);
            Parcel::of(head, |id| on_relays.contains(id))
        };
        self.send(parcel);
    }

    /// A relay brought this event: it needn't be published with its head.
    pub fn on_relay(&self, event: Hash) {
        self.on_relays.lock().unwrap_or_else(PoisonError::into_inner).insert(event);
    }

    pub(super) fn send(&self, parcel: Parcel) {
        // Fails when the other side has ended, which ends the custodian; the next run ships the head.
        let _ = self.queue.unbounded_send(parcel);
    }
}

/// See the module's header.
pub struct Outward<Rt: AsyncRuntime, S, F, L, R = Law> {
    shipping: Shipping<S, F, R>,
    publisher: Publisher<Rt, S, L>,
    parcels: mpsc::UnboundedReceiver<Parcel>,
}

impl<Rt, S, F, L, R> Outward<Rt, S, F, L, R>
where
    Rt: AsyncRuntime,
    S: Store,
    F: Flusher,
    L: RelayLink,
    R: ShippingRules,
{
    /// The way out over the store of the custodian; `flusher` flushes the same store.
    pub fn new(store: Arc<S>, flusher: F, link: Arc<L>, policy: PublishPolicy) -> (Self, Port) {
        let outbox = Outbox::new(store.clone());
        let (queue, parcels) = mpsc::unbounded();
        let outward = Outward {
            shipping: Shipping::new(store, flusher, outbox.clone()),
            publisher: Publisher::new(outbox, link, policy),
            parcels,
        };
        (outward, Port { queue, on_relays: Arc::new(Mutex::new(Seen::new(ON_RELAYS))) })
    }

    /// At the start, before anything is certified: heads up to the certified height `tip` that never reached the outbox.
    /// `published` gives the head of a height; none if this custodian never had it.
    ///
    /// # Errors
    /// What `published` says, or that the store failed.
    pub async fn catch_up<E: From<StoreError>>(
        &self,
        tip: Option<u64>,
        mut published: impl FnMut(u64) -> Result<Option<Certified<Published>>, E>,
    ) -> Result<(), E> {
        self.catch_up_parcels(tip, |height| Ok(published(height)?.map(|head| Parcel::of(&head, |_| false))))
            .await
    }

    pub(super) async fn catch_up_parcels<E: From<StoreError>>(
        &self,
        tip: Option<u64>,
        published: impl FnMut(u64) -> Result<Option<Parcel>, E>,
    ) -> Result<(), E> {
        self.shipping.catch_up(tip, published).await
    }

    /// How publishing goes.
    pub fn status(&self) -> watch::Receiver<OutboxStatus> {
        self.publisher.status()
    }

    /// Ships and publishes for ever. Ends only when the store fails, which stops the process.
    pub async fn run(self) -> StoreError {
        let Outward { shipping, publisher, parcels } = self;
        match Rt::select2(shipping.run(parcels), publisher.run()).await {
            Select2::First(error) | Select2::Second(error) => error,
        }
    }
}
