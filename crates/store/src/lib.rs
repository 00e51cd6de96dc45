//! Where a custodian keeps what must survive it: ordered keys, atomic batches, and a flush that means it.
//!
//! One trait, three engines. [`memory::MemoryStore`] needs nothing and injects faults for the simulator; redb (feature
//! `redb`, the default of a custodian) and sled (feature `sled`) are turned on by `node` alone.
//!
//! What every engine promises, and the conformance suite checks:
//! * a [`WriteBatch`] is seen whole or not at all, also after a crash;
//! * batches survive in the order in which they were applied: if a later one survived, every earlier one did;
//! * once [`Store::flush`] has returned `Ok`, everything applied before the call survives power loss;
//! * a failed write or flush is final: the caller stops the process, nothing is retried (PROTOCOL 7).

mod bounds;
#[cfg(feature = "conformance")]
pub mod conformance;
#[cfg(any(feature = "redb", feature = "sled"))]
mod directory;
#[cfg(any(feature = "redb", feature = "sled"))]
mod gate;
pub mod memory;
mod prefixed;
#[cfg(feature = "redb")]
pub mod redb;
#[cfg(feature = "sled")]
pub mod sled;

pub use prefixed::Prefixed;

use std::ops::Bound;
use std::sync::Arc;

/// An ordered key-value store with atomic batches and explicit durability.
///
/// Reads see every applied batch, flushed or not.
pub trait Store: Send + Sync + 'static {
    /// The value under `key`, if any.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// At most `limit` entries between `from` and `to`, in key order or against it.
    fn scan(
        &self,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        order: Order,
        limit: usize,
    ) -> Result<Vec<Entry>, StoreError>;

    /// Applies a batch atomically. It is visible at once and durable after the next [`Store::flush`].
    fn apply(&self, batch: WriteBatch) -> Result<(), StoreError>;

    /// Makes every batch applied before this call durable.
    fn flush(&self) -> Result<(), StoreError>;
}

/// A key and its value.
pub type Entry = (Vec<u8>, Vec<u8>);

/// Direction of a [`Store::scan`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// Smallest key first.
    Ascending,
    /// Largest key first.
    Descending,
}

/// Writes that become visible, and survive, together. Later operations on a key win.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WriteBatch {
    ops: Vec<Op>,
}

/// One write of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Sets a key.
    Put(Vec<u8>, Vec<u8>),
    /// Removes a key; one that isn't there is no error.
    Delete(Vec<u8>),
    /// Removes every key in `from..to`.
    DeleteRange(Vec<u8>, Vec<u8>),
}

impl WriteBatch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets `key` to `value`.
    pub fn put(&mut self, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> &mut Self {
        self.ops.push(Op::Put(key.into(), value.into()));
        self
    }

    /// Removes `key`.
    pub fn delete(&mut self, key: impl Into<Vec<u8>>) -> &mut Self {
        self.ops.push(Op::Delete(key.into()));
        self
    }

    /// Removes every key from `from` (included) to `to` (not included).
    pub fn delete_range(&mut self, from: impl Into<Vec<u8>>, to: impl Into<Vec<u8>>) -> &mut Self {
        self.ops.push(Op::DeleteRange(from.into(), to.into()));
        self
    }

    /// Appends all writes of `other`, after the own ones.
    pub fn append(&mut self, other: WriteBatch) -> &mut Self {
        self.ops.extend(other.ops);
        self
    }

    /// The writes in order.
    pub fn ops(&self) -> &[Op] {
        &self.ops
    }

    /// Takes the writes out.
    pub fn into_ops(self) -> Vec<Op> {
        self.ops
    }

    /// True if there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }
}

/// Why a store can't go on. Every one of these stops the process.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The engine reported an error.
    #[error("{engine}: {action} failed: {source}")]
    Engine {
        /// Which engine.
        engine: &'static str,
        /// What was being done.
        action: &'static str,
        /// What the engine said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The disk is full, or a fault injection says so.
    #[error("{engine}: no space left on the device")]
    Full {
        /// Which engine.
        engine: &'static str,
    },
    /// A value was read that this version can't have written.
    #[error("corrupt value under key {key}: {message}")]
    Corrupt {
        /// The key, in hex.
        key: String,
        /// What was expected.
        message: String,
    },
    /// An earlier write or flush failed, so nothing this store says can be relied on any more.
    #[error(
        "{engine}: stopped by an earlier failure; restart the process to read what the disk really holds"
    )]
    Stopped {
        /// Which engine.
        engine: &'static str,
    },
    /// Another process holds this data directory.
    #[error("{path} is in use by another process; stop it first, or give this one its own directory")]
    InUse {
        /// The directory or file.
        path: String,
    },
}

impl<S: Store + ?Sized> Store for Arc<S> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        (**self).get(key)
    }

    fn scan(
        &self,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        order: Order,
        limit: usize,
    ) -> Result<Vec<Entry>, StoreError> {
        (**self).scan(from, to, order, limit)
    }

    fn apply(&self, batch: WriteBatch) -> Result<(), StoreError> {
        (**self).apply(batch)
    }

    fn flush(&self) -> Result<(), StoreError> {
        (**self).flush()
    }
}

/// The first key after all that start with `prefix`; `None` if there is none (`prefix` is all 0xff).
pub fn after_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return Some(end);
        }
    }
    None
}

/// All entries whose key starts with `prefix`, in order, at most `limit`.
pub fn scan_prefix<S: Store + ?Sized>(
    store: &S,
    prefix: &[u8],
    limit: usize,
) -> Result<Vec<Entry>, StoreError> {
    let end = after_prefix(prefix);
    let to = match &end {
        Some(end) => Bound::Excluded(end.as_slice()),
        None => Bound::Unbounded,
    };
    store.scan(Bound::Included(prefix), to, Order::Ascending, limit)
}
