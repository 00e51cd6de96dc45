//! The durable queue of events that relays must hold. An entry is written and flushed together with the certificate that
//! makes it due, before anything is sent (PROTOCOL 7), and removed when enough relays were seen to hold it.
//!
//! Keys: `o/`, height (8 bytes, big endian), place within the head (2 bytes): oldest first.

use std::ops::Bound;
use std::sync::Arc;

use concordat_events::ValidEvent;
use concordat_store::{Order, Store, StoreError, WriteBatch, after_prefix};
use tokio::sync::Notify;

/// Prefix of all keys here.
pub const PREFIX: &[u8] = b"o/";

/// One event to publish.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OutboxEntry {
    /// Height of the head that made it due.
    pub height: u64,
    /// Its place among that head's entries.
    pub place: u16,
    /// The event.
    pub event: ValidEvent,
}

impl OutboxEntry {
    fn key(height: u64, place: u16) -> Vec<u8> {
        let mut key = PREFIX.to_vec();
        key.extend(height.to_be_bytes());
        key.extend(place.to_be_bytes());
        key
    }
}

/// The queue over a store. Copies share one queue.
pub struct Outbox<S> {
    store: Arc<S>,
    more: Arc<Notify>,
}

impl<S> Clone for Outbox<S> {
    fn clone(&self) -> Self {
        Outbox { store: Arc::clone(&self.store), more: Arc::clone(&self.more) }
    }
}

impl<S: Store> Outbox<S> {
    /// The queue in this store.
    pub fn new(store: Arc<S>) -> Self {
        Outbox { store, more: Arc::new(Notify::new()) }
    }

    /// The writes that put a head's events into the queue: its log event, due events, and every request that came by
    /// another way than relays. The caller applies and flushes them together with the certificate, then calls
    /// [`Outbox::wake`]. Called again for the same head they change nothing.
    pub fn enqueue(height: u64, events: &[ValidEvent]) -> WriteBatch {
        let mut batch = WriteBatch::new();
        for (place, event) in (0..=u16::MAX).zip(events) {
            batch.put(OutboxEntry::key(height, place), event.json());
        }
        batch
    }

    /// Tells the publisher that there is more.
    pub fn wake(&self) {
        self.more.notify_one();
    }

    /// Waits for [`Outbox::wake`]; one that came before counts.
    pub async fn woken(&self) {
        self.more.notified().await;
    }

    /// The oldest entries.
    pub fn oldest(&self, limit: usize) -> Result<Vec<OutboxEntry>, StoreError> {
        let end = after_prefix(PREFIX);
        let to = end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let found = self.store.scan(Bound::Included(PREFIX), to, Order::Ascending, limit)?;
        found.into_iter().map(|(key, value)| read(&key, &value)).collect()
    }

    /// Removes an entry that enough relays hold. Not flushed: one that comes back after a crash is published again, which
    /// is harmless.
    pub fn remove(&self, entry: &OutboxEntry) -> Result<(), StoreError> {
        let mut batch = WriteBatch::new();
        batch.delete(OutboxEntry::key(entry.height, entry.place));
        self.store.apply(batch)
    }
}

fn read(key: &[u8], value: &[u8]) -> Result<OutboxEntry, StoreError> {
    let corrupt = |message: &str| StoreError::Corrupt { key: hex::encode(key), message: message.to_owned() };
    let bad_key = || corrupt("the key of an outbox entry has a height and a place");
    let (height, place) =
        key.strip_prefix(PREFIX).and_then(<[u8]>::split_first_chunk::<8>).ok_or_else(bad_key)?;
    Ok(OutboxEntry {
        height: u64::from_be_bytes(*height),
        place: u16::from_be_bytes(place.try_into().map_err(|_| bad_key())?),
        event: ValidEvent::parse(value).map_err(|error| corrupt(&error.to_string()))?,
    })
}

#[cfg(test)]
mod tests {
    use concordat_store::memory::MemoryStore;
    use nostr::{EventBuilder, Keys, Kind};

    use super::*;

    #[test]
    fn the_queue_is_in_the_order_of_heads() {
        let store = Arc::new(MemoryStore::new());
        let outbox = Outbox::new(Arc::clone(&store));
        let event = |text: &str| {
            let signed = EventBuilder::new(Kind::from_u16(400), text).sign_with_keys(&Keys::generate());
            ValidEvent::check(signed.unwrap()).unwrap()
        };
        let (a, b, c) = (event("a"), event("b"), event("c"));
        store.apply(Outbox::<MemoryStore>::enqueue(256, std::slice::from_ref(&c))).unwrap();
        store.apply(Outbox::<MemoryStore>::enqueue(1, &[a.clone(), b.clone()])).unwrap();
        store.apply(Outbox::<MemoryStore>::enqueue(1, &[a.clone(), b.clone()])).unwrap();
        let entries = outbox.oldest(10).unwrap();
        let events: Vec<_> = entries.iter().map(|entry| entry.event.clone()).collect();
        assert_eq!(events, [a, b.clone(), c.clone()]);
        assert_eq!((entries[2].height, entries[1].place), (256, 1));
        outbox.remove(&entries[0]).unwrap();
        assert_eq!(outbox.oldest(1).unwrap()[0].event, b);
        let mut broken = WriteBatch::new();
        broken.put([PREFIX, b"x"].concat(), "{}");
        store.apply(broken).unwrap();
        assert!(matches!(outbox.oldest(10), Err(StoreError::Corrupt { .. })));
    }
}
