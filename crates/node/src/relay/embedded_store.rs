//! The embedded relay's database: the library's memory database, and under it our own redb store, from which it is
//! filled at start. The libraries' own databases are LMDB and SQLite, both C code; redb is here already. All events fit
//! into memory: a development cluster's are a few hundred MB at most.
//!
//! Writes are collected and flushed together, after the relay's OK: a power loss costs its last moments, as with most
//! relays. A custodian reads back what matters, and its outbox survives.
//!
//! It also mends two things of the memory database: a query for several `d` values gives only one event, and 75,000
//! events are kept by default.

use std::fmt;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use concordat_store::redb::RedbStore;
use concordat_store::{Store, WriteBatch};
use nostr::util::BoxedFuture;
use nostr::{Alphabet, Event, EventId, Filter, JsonUtil, SingleLetterTag};
use nostr_relay_builder::prelude::{
    Backend, DatabaseError, DatabaseEventStatus, Events, MemoryDatabase, MemoryDatabaseOptions,
    NostrDatabase, SaveEventStatus,
};

use tokio::sync::mpsc;

use super::embedded::EmbeddedError;

/// Events read at a time at start.
const PAGE: usize = 1_024;

/// Events that wait to be written; then the relay waits.
const QUEUE: usize = 4_096;

/// The way to the disk; nothing if there is none, or none any more.
type Queue = mpsc::Sender<(Vec<u8>, String)>;

/// Closes the way to the disk, whoever still holds the database: a connection may outlive its relay for a moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Writer(Arc<Mutex<Option<Queue>>>);

impl Writer {
    fn queue(&self) -> Option<Queue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, queue: Option<Queue>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = queue;
    }

    /// What came before is written; then the directory is free.
    pub fn close(&self) {
        self.set(None);
    }
}

/// See the module's header.
pub(super) struct EventStore {
    memory: MemoryDatabase,
    on_disk: bool,
    writer: Writer,
}

impl fmt::Debug for EventStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EventStore")
    }
}

impl EventStore {
    /// In memory, or filled from a directory.
    pub async fn open(directory: Option<&Path>) -> Result<Self, EmbeddedError> {
        let memory = MemoryDatabase::with_opts(MemoryDatabaseOptions { events: true, max_events: None });
        let store = EventStore { memory, on_disk: directory.is_some(), writer: Writer::default() };
        if let Some(directory) = directory {
            let disk = RedbStore::open(directory)?;
            store.load(&disk).await?;
            let (sender, queue) = mpsc::channel(QUEUE);
            // It ends when the relay is gone and all is written.
            tokio::task::spawn_blocking(move || write_all(&disk, queue));
            store.writer.set(Some(sender));
        }
        Ok(store)
    }

    /// Fills the memory; what is superseded is removed from the disk.
    async fn load(&self, disk: &RedbStore) -> Result<(), EmbeddedError> {
        use std::ops::Bound;
        let mut from: Vec<u8> = Vec::new();
        loop {
            let start = if from.is_empty() { Bound::Unbounded } else { Bound::Excluded(from.as_slice()) };
            let page = disk.scan(start, Bound::Unbounded, concordat_store::Order::Ascending, PAGE)?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            let next = last.clone();
            let mut gone = WriteBatch::new();
            for (key, value) in &page {
                let event =
                    Event::from_json(value).map_err(|error| EmbeddedError::Stored(error.to_string()))?;
                let saved = self.memory.save_event(&event).await;
                if !saved.is_ok_and(|status| status.is_success()) {
                    gone.delete(key.clone());
                }
            }
            if !gone.is_empty() {
                disk.apply(gone)?;
            }
            from = next;
        }
    }

    /// One key an event; the time first, so that what is replaced is loaded before what replaces it.
    fn key(event: &Event) -> Vec<u8> {
        let mut key = event.created_at.as_secs().to_be_bytes().to_vec();
        key.extend(event.id.as_bytes());
        key
    }

    async fn store(&self, event: &Event) -> Result<(), DatabaseError> {
        match self.writer.queue() {
            None if self.on_disk => Err(DatabaseError::backend(std::io::Error::other("the relay is closed"))),
            None => Ok(()),
            Some(writer) => {
                writer.send((Self::key(event), event.as_json())).await.map_err(DatabaseError::backend)
            }
        }
    }

    /// A handle that closes it.
    pub fn writer(&self) -> Writer {
        self.writer.clone()
    }
}

/// Writes what waits, as much as there is in one flush. Ends when a write fails: the relay then refuses events.
fn write_all(disk: &RedbStore, mut queue: mpsc::Receiver<(Vec<u8>, String)>) {
    let mut waiting = Vec::new();
    while queue.blocking_recv_many(&mut waiting, QUEUE) > 0 {
        let mut batch = WriteBatch::new();
        for (key, value) in waiting.drain(..) {
            batch.put(key, value);
        }
        if let Err(error) = disk.apply(batch).and_then(|()| disk.flush()) {
            tracing::error!(%error, "the embedded relay can't write");
            return;
        }
    }
}

/// A filter with one value of `d` each, in place of one with several.
fn one_d_each(filter: Filter) -> Vec<Filter> {
    let d = SingleLetterTag::lowercase(Alphabet::D);
    match filter.generic_tags.get(&d) {
        Some(values) if values.len() > 1 => {
            let one = |value: &String| {
                let mut filter = filter.clone();
                filter.generic_tags.insert(d, [value.clone()].into());
                filter
            };
            values.iter().map(one).collect()
        }
        _ => vec![filter],
    }
}

impl NostrDatabase for EventStore {
    fn backend(&self) -> Backend {
        Backend::Custom("redb".to_owned())
    }

    fn save_event<'a>(&'a self, event: &'a Event) -> BoxedFuture<'a, Result<SaveEventStatus, DatabaseError>> {
        Box::pin(async move {
            let status = self.memory.save_event(event).await?;
            if status.is_success() {
                self.store(event).await?;
            }
            Ok(status)
        })
    }

    fn check_id<'a>(
        &'a self,
        id: &'a EventId,
    ) -> BoxedFuture<'a, Result<DatabaseEventStatus, DatabaseError>> {
        self.memory.check_id(id)
    }

    fn event_by_id<'a>(&'a self, id: &'a EventId) -> BoxedFuture<'a, Result<Option<Event>, DatabaseError>> {
        self.memory.event_by_id(id)
    }

    fn count(&self, filter: Filter) -> BoxedFuture<'_, Result<usize, DatabaseError>> {
        Box::pin(async move { Ok(self.query(filter).await?.len()) })
    }

    fn query(&self, filter: Filter) -> BoxedFuture<'_, Result<Events, DatabaseError>> {
        Box::pin(async move {
            let mut found = Events::new(&filter);
            for part in one_d_each(filter) {
                found.extend(self.memory.query(part).await?);
            }
            Ok(found)
        })
    }

    fn delete(&self, _filter: Filter) -> BoxedFuture<'_, Result<(), DatabaseError>> {
        Box::pin(async { Err(DatabaseError::NotSupported) })
    }

    fn wipe(&self) -> BoxedFuture<'_, Result<(), DatabaseError>> {
        Box::pin(async { Err(DatabaseError::NotSupported) })
    }
}
