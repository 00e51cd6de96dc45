//! The durable queue of events that relays must hold. An entry is written and flushed before anything of it is sent
//! (PROTOCOL 7), and removed when enough relays were seen to hold it.
//!
//! What is written and not yet flushed can be read from a store, but isn't given out here: a publisher that is awake for
//! another reason would send it too early. [`Outbox::release`] says up to which height the entries are durable.
//!
//! Keys: `o/`, height (8 bytes, big endian), place within the head (2 bytes): oldest first.

use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use concordat_events::ValidEvent;
use concordat_store::{Entry, Order, Store, StoreError, WriteBatch, after_prefix};
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

/// What the copies of a queue share.
#[derive(Default)]
struct Released {
    /// Entries of heights below this are durable.
    below: AtomicU64,
    more: Notify,
}

/// The queue over a store. Copies share one queue.
pub struct Outbox<S> {
    store: Arc<S>,
    released: Arc<Released>,
}

impl<S> Clone for Outbox<S> {
    fn clone(&self) -> Self {
        Outbox { store: Arc::clone(&self.store), released: Arc::clone(&self.released) }
    }
}

impl<S: Store> Outbox<S> {
    /// The queue in this store. It gives nothing out before the first [`Outbox::release`]: what an earlier run left may
    /// not have been flushed.
    pub fn new(store: Arc<S>) -> Self {
        Outbox { store, released: Arc::default() }
    }

    /// The writes that put a head's events into the queue: its log event, due events, and every request that came by
    /// another way than relays. The caller applies and flushes them, then calls [`Outbox::release`]. Called again for
    /// the same head they change nothing.
    pub fn enqueue(height: u64, events: &[ValidEvent]) -> WriteBatch {
        let mut batch = WriteBatch::new();
        for (place, event) in (0..=u16::MAX).zip(events) {
            batch.put(OutboxEntry::key(height, place), event.json());
        }
        batch
    }

    /// The entries up to this height are durable: they are given out, and the publisher is woken. A lower height than
    /// before only wakes it.
    pub fn release(&self, height: u64) {
        self.released.below.fetch_max(height.saturating_add(1), Ordering::AcqRel);
        self.released.more.notify_one();
    }

    /// Waits for [`Outbox::release`]; one that came before counts.
    pub async fn woken(&self) {
        self.released.more.notified().await;
    }

    /// The oldest entries that are released.
    pub fn oldest(&self, limit: usize) -> Result<Vec<OutboxEntry>, StoreError> {
        self.scan(limit)?.into_iter().map(|(key, value)| read(&key, &value)).collect()
    }

    /// Height and place of the oldest entries that are released. An event's signature is checked when the entry is read,
    /// so whoever looks over many and needs few asks for these.
    pub fn places(&self, limit: usize) -> Result<Vec<(u64, u16)>, StoreError> {
        self.scan(limit)?.iter().map(|(key, _)| place(key)).collect()
    }

    /// One entry, if it is there.
    pub fn entry(&self, height: u64, place: u16) -> Result<Option<OutboxEntry>, StoreError> {
        let key = OutboxEntry::key(height, place);
        self.store.get(&key)?.map(|value| read(&key, &value)).transpose()
    }

    fn scan(&self, limit: usize) -> Result<Vec<Entry>, StoreError> {
        let end = match self.released.below.load(Ordering::Acquire) {
            u64::MAX => after_prefix(PREFIX),
            below => Some(OutboxEntry::key(below, 0)),
        };
        let to = end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        self.store.scan(Bound::Included(PREFIX), to, Order::Ascending, limit)
    }

    /// Removes an entry that enough relays hold. Not flushed: one that comes back after a crash is published again, which
    /// is harmless.
    pub fn remove(&self, entry: &OutboxEntry) -> Result<(), StoreError> {
        let mut batch = WriteBatch::new();
        batch.delete(OutboxEntry::key(entry.height, entry.place));
        self.store.apply(batch)
    }
}

fn corrupt(key: &[u8], message: &str) -> StoreError {
    StoreError::Corrupt { key: hex::encode(key), message: message.to_owned() }
}

fn place(key: &[u8]) -> Result<(u64, u16), StoreError> {
    let (height, place) =
        key.strip_prefix(PREFIX).and_then(<[u8]>::split_first_chunk::<8>).ok_or_else(|| bad_key(key))?;
    Ok((u64::from_be_bytes(*height), u16::from_be_bytes(place.try_into().map_err(|_| bad_key(key))?)))
}

fn bad_key(key: &[u8]) -> StoreError {
    corrupt(key, "the key of an outbox entry has a height and a place")
}

fn read(key: &[u8], value: &[u8]) -> Result<OutboxEntry, StoreError> {
    let (height, place) = place(key)?;
    let event = ValidEvent::parse(value).map_err(|error| corrupt(key, &error.to_string()))?;
    Ok(OutboxEntry { height, place, event })
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
        assert_eq!(outbox.oldest(10).unwrap(), [], "nothing is known to be durable");
        outbox.release(255);
        assert_eq!(outbox.oldest(10).unwrap().len(), 2);
        outbox.release(256);
        outbox.release(3);
        let entries = outbox.oldest(10).unwrap();
        let events: Vec<_> = entries.iter().map(|entry| entry.event.clone()).collect();
        assert_eq!(events, [a, b.clone(), c.clone()]);
        assert_eq!((entries[2].height, entries[1].place), (256, 1));
        assert_eq!(outbox.places(2).unwrap(), [(1, 0), (1, 1)]);
        assert_eq!(outbox.entry(256, 0).unwrap().as_ref(), Some(&entries[2]));
        assert_eq!(outbox.entry(256, 1).unwrap(), None);
        outbox.remove(&entries[0]).unwrap();
        assert_eq!(outbox.oldest(1).unwrap()[0].event, b);
        let mut broken = WriteBatch::new();
        broken.put([PREFIX, b"x"].concat(), "{}");
        store.apply(broken).unwrap();
        outbox.release(u64::MAX);
        assert!(matches!(outbox.oldest(10), Err(StoreError::Corrupt { .. })));
        assert!(matches!(outbox.places(10), Err(StoreError::Corrupt { .. })));
    }
}
