//! The Raft log of one epoch in the custodian's store.
//!
//! Keys: `raft/<epoch>/e/<index>` for entries, `raft/<epoch>/m/..` for vote, commit point and purge point; numbers big
//! endian, so that key order is log order. Writes are applied at once, so that readers see them, and flushed before
//! openraft is told that they are durable. Once closed, a log takes no more writes: nothing of a group that ended acts.

use std::fmt::Debug;
use std::io;
use std::marker::PhantomData;
use std::ops::{Bound, RangeBounds};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use concordat_store::{Order, Store, WriteBatch, after_prefix};
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use openraft::type_config::alias::WatchReceiverOf;
use openraft::{AsyncRuntime, OptionalSend};
use prost::Message;

use super::flusher::Flusher;
use super::types::{Ballot, LogEntry, LogId, TC, Watched};
use super::wire::{At, Content, Item, Vote};
use crate::limits;
use crate::proto::peer as pb;

const ROOT: &[u8] = b"raft/";

/// Deletes everything of a finished epoch's group. Durable with the next flush; nothing is lost if it isn't.
///
/// # Errors
/// When the store fails, which stops the process.
pub fn erase<S: Store>(store: &S, epoch: u64) -> Result<(), concordat_store::StoreError> {
    let from = Keys::new(epoch).0;
    let mut batch = WriteBatch::new();
    if let Some(to) = after_prefix(&from) {
        batch.delete_range(from, to);
    }
    store.apply(batch)
}

/// The keys of one epoch.
#[derive(Clone)]
struct Keys(Vec<u8>);

impl Keys {
    fn new(epoch: u64) -> Self {
        let mut prefix = ROOT.to_vec();
        prefix.extend(epoch.to_be_bytes());
        prefix.push(b'/');
        Self(prefix)
    }

    fn entry(&self, index: u64) -> Vec<u8> {
        let mut key = self.0.clone();
        key.extend(b"e/");
        key.extend(index.to_be_bytes());
        key
    }

    fn meta(&self, name: &str) -> Vec<u8> {
        let mut key = self.0.clone();
        key.extend(b"m/");
        key.extend(name.as_bytes());
        key
    }
}

/// What is known of the log without reading it.
#[derive(Default)]
struct Extent {
    purged: Option<At>,
    last: Option<At>,
    /// Wrapper entries from the first to the last.
    wrappers: u64,
    /// Indexes of the entries that are no wrappers: the membership and a blank for each term, so a handful.
    others: Vec<u64>,
    closed: bool,
}

impl Extent {
    fn add(&mut self, at: At, wrapper: bool) {
        self.last = Some(at);
        if wrapper {
            self.wrappers += 1;
        } else {
            self.others.push(at.index);
        }
    }
}

fn is_wrapper(item: &Item) -> bool {
    matches!(item.content, Content::Wrapper(_))
}

/// One epoch's log, shared by openraft, the guard and the delivery of committed entries.
pub struct Log<Rt: AsyncRuntime, S, F> {
    store: S,
    flusher: F,
    keys: Keys,
    extent: Mutex<Extent>,
    grown: Watched<Rt, u64>,
    runtime: PhantomData<fn() -> Rt>,
}

/// A handle of a [`Log`]: the form in which openraft takes it.
pub struct LogStore<Rt: AsyncRuntime, S, F>(pub Arc<Log<Rt, S, F>>);

impl<Rt: AsyncRuntime, S, F> Clone for LogStore<Rt, S, F> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn corrupt(what: &str, error: impl std::fmt::Display) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("the stored {what} of the log group can't be read: {error}"),
    )
}

fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the epoch's log group is closed")
}

impl<Rt: AsyncRuntime, S: Store, F: Flusher> Log<Rt, S, F> {
    /// Opens the log of `epoch` and walks it once.
    pub fn open(store: S, flusher: F, epoch: u64) -> io::Result<Self> {
        let log = Self {
            store,
            flusher,
            keys: Keys::new(epoch),
            extent: Mutex::default(),
            grown: Watched::new(0),
            runtime: PhantomData,
        };
        let mut extent = Extent { purged: log.read_at("purged")?, ..Extent::default() };
        extent.last = extent.purged;
        let mut next = extent.purged.map_or(0, |at| at.index + 1);
        loop {
            let page = log.items(next, u64::MAX, limits::LOG_PAGE)?;
            for item in &page {
                extent.add(item.at, is_wrapper(item));
                next = item.at.index + 1;
            }
            if page.len() < limits::LOG_PAGE {
                break;
            }
        }
        log.grown.set(extent.wrappers);
        *lock(&log.extent) = extent;
        Ok(log)
    }

    /// The last entry, if any.
    pub fn last(&self) -> Option<At> {
        lock(&self.extent).last
    }

    /// How many wrappers the log holds.
    pub fn wrappers(&self) -> u64 {
        lock(&self.extent).wrappers
    }

    /// The batch number of the wrapper at `index`, or of the next one if another entry stands there.
    pub fn position(&self, index: u64) -> u64 {
        let extent = lock(&self.extent);
        index.saturating_sub(extent.others.partition_point(|other| *other < index) as u64)
    }

    /// Wrappers from batch number `position` on, at most `most`, committed or not.
    pub fn wrappers_from(&self, position: u64, most: usize) -> io::Result<Vec<Bytes>> {
        // Each entry before it that is no wrapper moves it back by one.
        let mut index = position;
        for other in &lock(&self.extent).others {
            index += u64::from(*other <= index);
        }
        let mut found = Vec::new();
        while found.len() < most {
            let page = self.items(index, u64::MAX, 8)?;
            let Some(last) = page.last() else { break };
            index = last.at.index + 1;
            found.extend(page.into_iter().filter_map(|item| match item.content {
                Content::Wrapper(bytes) => Some(bytes),
                Content::Blank | Content::Members(_) => None,
            }));
        }
        found.truncate(most);
        Ok(found)
    }

    /// Changes with [`Log::wrappers`].
    pub fn watch_wrappers(&self) -> WatchReceiverOf<TC<Rt>, u64> {
        self.grown.subscribe()
    }

    /// No write is taken from now on.
    pub fn close(&self) {
        lock(&self.extent).closed = true;
    }

    /// Entries from index `from` up to, not including, `to`; at most `most`.
    pub fn items(&self, from: u64, to: u64, most: usize) -> io::Result<Vec<Item>> {
        let (from, to) = (self.keys.entry(from), self.keys.entry(to));
        if from >= to {
            return Ok(Vec::new());
        }
        let found = self
            .store
            .scan(Bound::Included(&from), Bound::Excluded(&to), Order::Ascending, most)
            .map_err(io::Error::other)?;
        found
            .into_iter()
            .map(|(_, value)| Item::parse(value.into()).map_err(|e| corrupt("entry", e)))
            .collect()
    }

    /// The entry at `index`, if the log holds it.
    pub fn item(&self, index: u64) -> io::Result<Option<Item>> {
        let value = self.store.get(&self.keys.entry(index)).map_err(io::Error::other)?;
        value.map(|value| Item::parse(value.into()).map_err(|e| corrupt("entry", e))).transpose()
    }

    /// The vote last given, if any.
    pub fn vote(&self) -> io::Result<Option<Vote>> {
        let value = self.store.get(&self.keys.meta("vote")).map_err(io::Error::other)?;
        let parse = |value: Vec<u8>| pb::RaftVote::decode(Bytes::from(value)).map(Vote::from);
        value.map(|value| parse(value).map_err(|e| corrupt("vote", e))).transpose()
    }

    /// Up to where the log was known to be committed.
    pub fn committed(&self) -> io::Result<Option<At>> {
        self.read_at("committed")
    }

    /// Writes `item` as the first entry of an empty log and flushes it.
    pub async fn begin(&self, item: Item) -> io::Result<()> {
        let mut batch = WriteBatch::new();
        let at = item.at;
        let wrapper = is_wrapper(&item);
        batch.put(self.keys.entry(at.index), item.encode());
        self.write(batch, |extent| extent.add(at, wrapper))?;
        self.flusher.flush().await.map_err(io::Error::other)
    }

    fn read_at(&self, name: &str) -> io::Result<Option<At>> {
        let value = self.store.get(&self.keys.meta(name)).map_err(io::Error::other)?;
        let parse = |value: Vec<u8>| pb::RaftLogId::decode(Bytes::from(value)).map(At::from);
        value.map(|value| parse(value).map_err(|e| corrupt(name, e))).transpose()
    }

    /// Applies a batch and what it changes of the extent, unless the log is closed.
    fn write(&self, batch: WriteBatch, change: impl FnOnce(&mut Extent)) -> io::Result<()> {
        let mut extent = lock(&self.extent);
        if extent.closed {
            return Err(closed());
        }
        self.store.apply(batch).map_err(io::Error::other)?;
        change(&mut extent);
        Ok(())
    }
}

impl<Rt: AsyncRuntime, S: Store, F: Flusher> RaftLogReader<TC<Rt>> for LogStore<Rt, S, F> {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> Result<Vec<LogEntry>, io::Error>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let from = match range.start_bound() {
            Bound::Included(index) => *index,
            Bound::Excluded(index) => index.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let to = match range.end_bound() {
            Bound::Included(index) => index.saturating_add(1),
            Bound::Excluded(index) => *index,
            Bound::Unbounded => u64::MAX,
        };
        Ok(self.0.items(from, to, usize::MAX)?.into_iter().map(LogEntry::from).collect())
    }

    async fn read_vote(&mut self) -> Result<Option<Ballot>, io::Error> {
        Ok(self.0.vote()?.map(Ballot::from))
    }

    /// As many as one message may carry; the first in any case.
    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<LogEntry>, io::Error> {
        let mut entries = Vec::new();
        let mut bytes = 0_usize;
        let mut next = start;
        while next < end && entries.len() < limits::MAX_APPEND_ENTRIES {
            // Wrappers can be large: read few at a time.
            let page = self.0.items(next, end, 8)?;
            if page.is_empty() {
                break;
            }
            for item in page {
                if let Content::Wrapper(wrapper) = &item.content {
                    bytes = bytes.saturating_add(wrapper.len());
                }
                let full = bytes > limits::MAX_APPEND_BYTES || entries.len() >= limits::MAX_APPEND_ENTRIES;
                if full && !entries.is_empty() {
                    return Ok(entries);
                }
                next = item.at.index + 1;
                entries.push(item.into());
            }
        }
        Ok(entries)
    }

    /// Page by page: a restart walks the whole epoch.
    async fn entries_stream<RB>(
        &mut self,
        range: RB,
    ) -> impl futures::Stream<Item = Result<LogEntry, io::Error>> + OptionalSend
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let from = match range.start_bound() {
            Bound::Included(index) => *index,
            Bound::Excluded(index) => index.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let to = match range.end_bound() {
            Bound::Included(index) => index.saturating_add(1),
            Bound::Excluded(index) => *index,
            Bound::Unbounded => u64::MAX,
        };
        let log = self.0.clone();
        let walk = (log, from, std::collections::VecDeque::new(), false);
        Box::pin(futures::stream::unfold(walk, move |(log, mut next, mut page, failed)| async move {
            if failed {
                return None;
            }
            if page.is_empty() {
                match log.items(next, to, 8) {
                    Ok(items) => page.extend(items),
                    Err(error) => return Some((Err(error), (log, next, page, true))),
                }
            }
            let item = page.pop_front()?;
            next = item.at.index + 1;
            Some((Ok(LogEntry::from(item)), (log, next, page, false)))
        }))
    }
}

impl<Rt: AsyncRuntime, S: Store, F: Flusher> RaftLogStorage<TC<Rt>> for LogStore<Rt, S, F> {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TC<Rt>>, io::Error> {
        let extent = lock(&self.0.extent);
        Ok(LogState {
            last_purged_log_id: extent.purged.map(LogId::from),
            last_log_id: extent.last.map(LogId::from),
        })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Ballot) -> Result<(), io::Error> {
        let mut batch = WriteBatch::new();
        batch.put(self.0.keys.meta("vote"), pb::RaftVote::from(Vote::from(*vote)).encode_to_vec());
        self.0.write(batch, |_| ())?;
        self.0.flusher.flush().await.map_err(io::Error::other)
    }

    /// Not flushed: after a crash an older value only means that the leader tells again.
    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        let mut batch = WriteBatch::new();
        match committed {
            Some(id) => {
                batch.put(self.0.keys.meta("committed"), pb::RaftLogId::from(At::from(id)).encode_to_vec())
            }
            None => batch.delete(self.0.keys.meta("committed")),
        };
        self.0.write(batch, |_| ())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.0.committed()?.map(LogId::from))
    }

    /// Readable on return; `flushed` is called by a task of its own once the store is flushed, so that appends share
    /// flushes.
    async fn append<I>(&mut self, entries: I, flushed: IOFlushed<TC<Rt>>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = LogEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut batch = WriteBatch::new();
        let mut added = Vec::new();
        for entry in entries {
            let item = Item::from(entry);
            added.push((item.at, is_wrapper(&item)));
            batch.put(self.0.keys.entry(item.at.index), item.encode());
        }
        let mut total = 0;
        self.0.write(batch, |extent| {
            added.into_iter().for_each(|(at, wrapper)| extent.add(at, wrapper));
            total = extent.wrappers;
        })?;
        self.0.grown.set(total);
        let log = self.0.clone();
        drop(Rt::spawn(async move {
            flushed.io_completed(log.flusher.flush().await.map_err(io::Error::other));
        }));
        Ok(())
    }

    async fn truncate_after(&mut self, last: Option<LogId>) -> Result<(), io::Error> {
        let from = last.map_or(0, |id| id.index.saturating_add(1));
        let removed = self.0.items(from, u64::MAX, usize::MAX)?;
        let wrappers = removed.iter().filter(|item| is_wrapper(item)).count();
        let mut batch = WriteBatch::new();
        batch.delete_range(self.0.keys.entry(from), self.0.keys.entry(u64::MAX));
        let mut total = 0;
        self.0.write(batch, |extent| {
            extent.last = extent.last.min(last.map(At::from));
            extent.wrappers = extent.wrappers.saturating_sub(wrappers as u64);
            extent.others.retain(|index| *index < from);
            total = extent.wrappers;
        })?;
        self.0.grown.set(total);
        self.0.flusher.flush().await.map_err(io::Error::other)
    }

    async fn purge(&mut self, id: LogId) -> Result<(), io::Error> {
        let mut batch = WriteBatch::new();
        batch.delete_range(self.0.keys.entry(0), self.0.keys.entry(id.index.saturating_add(1)));
        batch.put(self.0.keys.meta("purged"), pb::RaftLogId::from(At::from(id)).encode_to_vec());
        self.0.write(batch, |extent| {
            extent.purged = Some(id.into());
            extent.last = extent.last.max(Some(id.into()));
        })?;
        self.0.flusher.flush().await.map_err(io::Error::other)
    }
}
