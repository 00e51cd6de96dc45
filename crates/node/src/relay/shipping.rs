//! From a certified head to the outbox: what makes an event due for publishing, durably and once.
//!
//! Promises (PROTOCOL 7, the outbox's row): an entry is flushed before the publisher may see it, and the height up to which
//! heads were shipped is written with the entries, in one batch. So after a crash at any point the heads above that height
//! are shipped again, and none is left out or shipped in two forms.
//!
//! Refuses to be made of anything but a certified head ([`Parcel::of`]).

use std::marker::PhantomData;
use std::sync::Arc;

use concordat_events::{Hash, ValidEvent};
use concordat_finality::{Certified, Published};
use concordat_store::{Store, StoreError, WriteBatch};
use futures::StreamExt;
use futures::channel::mpsc;

use super::outbox::Outbox;
use crate::order::{FlushFailed, Flusher};

/// The height up to which heads were put into the outbox.
const CURSOR: &[u8] = b"n/outbox";

/// Heads that share a flush: hides a slow disk after a pause, and bounds what a start holds in memory.
const TOGETHER: usize = 64;

/// The rules of this module that a test breaks, to see that it looks. Every default is the law.
pub trait ShippingRules: Send + Sync + 'static {
    /// Entries are flushed before they are released to the publisher (PROTOCOL 7).
    const FLUSH_BEFORE_RELEASE: bool = true;
    /// The height of the last head shipped is written together with its entries.
    const CURSOR_WITH_ENTRIES: bool = true;
}

/// The rules as they are. A custodian is made of no other type.
#[derive(Clone, Copy, Debug)]
pub enum Law {}

impl ShippingRules for Law {}

/// What one certified head has to publish.
#[derive(Clone, Debug)]
pub(super) struct Parcel {
    pub(super) height: u64,
    pub(super) events: Vec<ValidEvent>,
}

impl Parcel {
    /// The head's own events, and those of its requests that relays don't have already.
    pub(super) fn of(head: &Certified<Published>, on_relays: impl Fn(&Hash) -> bool) -> Self {
        let requests = head.requests.iter().filter(|request| !on_relays(&request.id()));
        Parcel { height: head.head.height, events: head.events.iter().chain(requests).cloned().collect() }
    }
}

/// Puts certified heads into an [`Outbox`].
pub(super) struct Shipping<S, F, R = Law> {
    store: Arc<S>,
    flusher: F,
    outbox: Outbox<S>,
    rules: PhantomData<fn() -> R>,
}

impl<S: Store, F: Flusher, R: ShippingRules> Shipping<S, F, R> {
    /// Into this outbox, which is in this store; `flusher` flushes the same one.
    pub(super) fn new(store: Arc<S>, flusher: F, outbox: Outbox<S>) -> Self {
        Shipping { store, flusher, outbox, rules: PhantomData }
    }

    /// The height up to which heads were shipped.
    fn cursor(&self) -> Result<Option<u64>, StoreError> {
        let Some(bytes) = self.store.get(CURSOR)? else { return Ok(None) };
        let corrupt =
            |_| StoreError::Corrupt { key: hex::encode(CURSOR), message: "expected a height".into() };
        bytes.try_into().map(u64::from_be_bytes).map(Some).map_err(corrupt)
    }

    /// At the start: what an earlier run left in the outbox, and the heads up to `tip` that never got there.
    ///
    /// `published` gives the head of a height; none if this custodian synced past it and never had it.
    pub(super) async fn catch_up<E: From<StoreError>>(
        &self,
        tip: Option<u64>,
        mut published: impl FnMut(u64) -> Result<Option<Parcel>, E>,
    ) -> Result<(), E> {
        let cursor = self.cursor()?;
        // An earlier run may have ended before its last flush: what can be read isn't yet durable.
        self.flush().await?;
        if let Some(cursor) = cursor {
            self.outbox.release(cursor);
        }
        let first = cursor.map_or(0, |cursor| cursor.saturating_add(1));
        let mut parcels = Vec::new();
        for height in first..tip.map_or(first, |tip| tip.saturating_add(1)) {
            parcels.extend(published(height)?);
            if parcels.len() >= TOGETHER {
                self.ship(&parcels).await?;
                parcels.clear();
            }
        }
        Ok(self.ship(&parcels).await?)
    }

    /// Ships what comes, in its order, until the store fails.
    pub(super) async fn run(&self, mut parcels: mpsc::UnboundedReceiver<Parcel>) -> StoreError {
        while let Some(first) = parcels.next().await {
            let mut together = vec![first];
            while together.len() < TOGETHER
                && let Ok(next) = parcels.try_recv()
            {
                together.push(next);
            }
            if let Err(error) = self.ship(&together).await {
                return error;
            }
        }
        // Nobody certifies any more; what is in the outbox is still published.
        std::future::pending().await
    }

    async fn ship(&self, parcels: &[Parcel]) -> Result<(), StoreError> {
        let cursor = self.cursor()?;
        // A head is shipped once: what came later to relays would change the places of its events.
        let fresh = |parcel: &&Parcel| cursor.is_none_or(|cursor| parcel.height > cursor);
        let Some(last) = parcels.iter().filter(fresh).map(|parcel| parcel.height).max() else {
            return Ok(());
        };
        let mut entries = WriteBatch::new();
        for parcel in parcels.iter().filter(fresh) {
            entries.append(Outbox::<S>::enqueue(parcel.height, &parcel.events));
        }
        let mut shipped = WriteBatch::new();
        shipped.put(CURSOR, last.to_be_bytes().to_vec());
        if R::CURSOR_WITH_ENTRIES {
            entries.append(shipped);
        } else {
            self.store.apply(shipped)?;
        }
        self.store.apply(entries)?;
        if R::FLUSH_BEFORE_RELEASE {
            self.flush().await?;
            self.outbox.release(last);
        } else {
            self.outbox.release(last);
            self.flush().await?;
        }
        Ok(())
    }

    async fn flush(&self) -> Result<(), StoreError> {
        let failed = |error: FlushFailed| StoreError::Engine {
            engine: "outbox",
            action: "flush",
            source: Box::new(error),
        };
        self.flusher.flush().await.map_err(failed)
    }
}
