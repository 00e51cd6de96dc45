//! The engine of the simulator and of tests: a map in memory, on a disk that can fail.
//!
//! Keeps what is durable apart from the batches that are not yet, so that [`MemoryStore::crash`] can hand out what a
//! power loss would have left: the durable image plus *some prefix* of the un-flushed batches, each of them whole. That
//! is exactly what [`Store`] promises of an engine on disk, no more and no less, so code that survives here relies on
//! nothing an engine doesn't give.
//!
//! Faults are set from outside and happen at a counted operation, never by chance: the same calls give the same run.
//! A store that failed stays failed; what it left is read by crashing it.

use crate::{Entry, Op, Order, Store, StoreError, WriteBatch, bounds};
use rand_core::RngCore;
use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};

const ENGINE: &str = "memory";

/// All entries of a store at one moment, as a backup of its disk would hold them.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Image(BTreeMap<Vec<u8>, Vec<u8>>);

impl Image {
    /// The entries in key order.
    pub fn entries(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.0.iter().map(|(k, v)| (k.as_slice(), v.as_slice()))
    }

    /// Size of all keys and values, in bytes.
    pub fn size(&self) -> usize {
        self.0.iter().map(|(k, v)| k.len() + v.len()).sum()
    }

    fn write(&mut self, batch: &WriteBatch) {
        for op in batch.ops() {
            match op {
                Op::Put(key, value) => {
                    self.0.insert(key.clone(), value.clone());
                }
                Op::Delete(key) => {
                    self.0.remove(key);
                }
                Op::DeleteRange(from, to) => {
                    if !bounds::is_empty_span(from, to) {
                        let end = self.0.split_off(to.as_slice());
                        self.0.split_off(from.as_slice());
                        self.0.extend(end);
                    }
                }
            }
        }
    }
}

/// Shows the number of entries only: values may be secret.
impl std::fmt::Debug for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Image({} entries)", self.0.len())
    }
}

/// A store in memory with injected faults.
#[derive(Default)]
pub struct MemoryStore {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// What a flush has made safe.
    durable: Image,
    /// The batches since then, oldest first.
    unflushed: Vec<WriteBatch>,
    /// Both together: what reads see.
    visible: Image,
    /// Applies and flushes asked for so far.
    ops: u64,
    /// A write or flush failed, or the power went.
    stopped: bool,
    faults: Faults,
}

#[derive(Default)]
struct Faults {
    /// The operation of this number, counted from 0, is not carried out any more.
    stop_at: Option<u64>,
    /// So many flushes succeed before one fails.
    flushes_left: Option<u64>,
    /// Bytes of keys and values the disk holds.
    capacity: Option<usize>,
    disk_full: bool,
}

impl State {
    fn check(&self) -> Result<(), StoreError> {
        if self.stopped {
            return Err(StoreError::Stopped { engine: ENGINE });
        }
        Ok(())
    }

    /// Counts an apply or flush, and stops in front of the one chosen by [`MemoryStore::stop_at`].
    fn count(&mut self) -> Result<(), StoreError> {
        self.check()?;
        if self.faults.stop_at.is_some_and(|at| self.ops >= at) {
            self.stopped = true;
        } else {
            self.ops += 1;
        }
        self.check()
    }

    fn fail<T>(&mut self, error: StoreError) -> Result<T, StoreError> {
        self.stopped = true;
        Err(error)
    }

    fn apply(&mut self, batch: WriteBatch) -> Result<(), StoreError> {
        self.count()?;
        if self.faults.disk_full {
            return self.fail(StoreError::Full { engine: ENGINE });
        }
        match self.faults.capacity {
            None => self.visible.write(&batch),
            Some(capacity) => {
                let mut next = self.visible.clone();
                next.write(&batch);
                // Engines write before they free: only a batch that grows can find the disk full.
                if next.size() > capacity.max(self.visible.size()) {
                    return self.fail(StoreError::Full { engine: ENGINE });
                }
                self.visible = next;
            }
        }
        self.unflushed.push(batch);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), StoreError> {
        self.count()?;
        if let Some(left) = &mut self.faults.flushes_left {
            match left.checked_sub(1) {
                Some(less) => *left = less,
                None => {
                    return self.fail(StoreError::Engine {
                        engine: ENGINE,
                        action: "flush",
                        source: "injected fault".into(),
                    });
                }
            }
        }
        for batch in self.unflushed.drain(..) {
            self.durable.write(&batch);
        }
        Ok(())
    }

    /// The durable image and the first `kept` batches after it.
    fn after_crash(&mut self, kept: usize) -> Image {
        self.stopped = true;
        let mut image = self.durable.clone();
        for batch in self.unflushed.iter().take(kept) {
            image.write(batch);
        }
        image
    }
}

impl MemoryStore {
    /// An empty store without faults.
    pub fn new() -> Self {
        Self::default()
    }

    /// A store that finds `image` on its disk: a restart after [`MemoryStore::snapshot`], or an old disk put back.
    pub fn restore(image: Image) -> Self {
        Self { state: Mutex::new(State { durable: image.clone(), visible: image, ..State::default() }) }
    }

    /// What is durable now, without the un-flushed batches. A stopped store can be read so as well.
    pub fn snapshot(&self) -> Image {
        self.lock().durable.clone()
    }

    /// Cuts the power: this store answers nothing any more, and the one returned holds what was found afterwards, the
    /// durable image and as many of the un-flushed batches, oldest first, as `rng` says: none, some or all.
    ///
    /// The new store has no faults set, whichever the old one had.
    pub fn crash(&self, rng: &mut dyn RngCore) -> MemoryStore {
        let mut state = self.lock();
        // The bias of the remainder is one in 2^64 per batch.
        let kept = rng.next_u64() % (state.unflushed.len() as u64 + 1);
        Self::restore(state.after_crash(usize::try_from(kept).unwrap_or(usize::MAX)))
    }

    /// Cuts the power as [`MemoryStore::crash`] does, and keeps exactly the oldest `kept` un-flushed batches (all, if
    /// there are fewer). With [`MemoryStore::unflushed`] a test can walk through every outcome.
    pub fn crash_keeping(&self, kept: usize) -> MemoryStore {
        Self::restore(self.lock().after_crash(kept))
    }

    /// Cuts the power with the worst outcome: everything un-flushed is gone.
    pub fn lose_unflushed(&self) -> MemoryStore {
        self.crash_keeping(0)
    }

    /// How many batches a crash could lose now.
    pub fn unflushed(&self) -> usize {
        self.lock().unflushed.len()
    }

    /// What the durable image holds under a key: what a promise may rest on.
    pub fn durable(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.lock().durable.0.get(key).cloned()
    }

    /// Cuts the power now: every call from here on fails with [`StoreError::Stopped`].
    pub fn stop(&self) {
        self.lock().stopped = true;
    }

    /// Applies and flushes carried out or failed so far. Reads don't count.
    pub fn ops(&self) -> u64 {
        self.lock().ops
    }

    /// Stops in front of apply or flush number `op`, counted from 0 as in [`MemoryStore::ops`]: it is not carried out,
    /// and every call from there on fails with [`StoreError::Stopped`]. A test that runs once to learn the count, and
    /// then again for each number below it, has crashed between any write and any flush.
    pub fn stop_at(&self, op: u64) {
        self.lock().faults.stop_at = Some(op);
    }

    /// Lets the next flush fail, and with it the store.
    pub fn fail_next_flush(&self) {
        self.fail_flush_after(0);
    }

    /// Lets `flushes` flushes succeed and the one after them fail.
    pub fn fail_flush_after(&self, flushes: u64) {
        self.lock().faults.flushes_left = Some(flushes);
    }

    /// Makes every further apply fail with [`StoreError::Full`].
    pub fn fill_disk(&self) {
        self.lock().faults.disk_full = true;
    }

    /// The disk holds `bytes` of keys and values: an apply that grows beyond fails with [`StoreError::Full`].
    pub fn set_capacity(&self, bytes: usize) {
        self.lock().faults.capacity = Some(bytes);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing under the lock can panic half way through a change.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store for MemoryStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let state = self.lock();
        state.check()?;
        Ok(state.visible.0.get(key).cloned())
    }

    fn scan(
        &self,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        order: Order,
        limit: usize,
    ) -> Result<Vec<Entry>, StoreError> {
        let state = self.lock();
        state.check()?;
        if bounds::is_empty(from, to) {
            return Ok(Vec::new());
        }
        let range = state.visible.0.range::<[u8], _>((from, to));
        let owned = |(key, value): (&Vec<u8>, &Vec<u8>)| (key.clone(), value.clone());
        Ok(match order {
            Order::Ascending => range.take(limit).map(owned).collect(),
            Order::Descending => range.rev().take(limit).map(owned).collect(),
        })
    }

    fn apply(&self, batch: WriteBatch) -> Result<(), StoreError> {
        self.lock().apply(batch)
    }

    fn flush(&self) -> Result<(), StoreError> {
        self.lock().flush()
    }
}
