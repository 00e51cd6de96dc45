//! A store inside a store: all keys under one prefix, seen without it.
//!
//! One database holds the safety record, the ledger and one Raft log per epoch side by side, so one flush covers all.
//! Promises what the store below promises. Prefixes must not begin one another (give them equal length, or end them
//! with a byte that appears in none before its end); that is the caller's layout to keep.

use crate::{Entry, Op, Order, Store, StoreError, WriteBatch, after_prefix, scan_prefix};
use std::ops::Bound;

/// The entries of `store` whose keys begin with a prefix.
pub struct Prefixed<S> {
    store: S,
    prefix: Vec<u8>,
}

impl<S: Store> Prefixed<S> {
    /// Sees `store` through `prefix`. Share the store by an [`std::sync::Arc`].
    pub fn new(store: S, prefix: impl Into<Vec<u8>>) -> Self {
        Self { store, prefix: prefix.into() }
    }

    /// The same writes as the store below sees them, to be appended to a batch that crosses prefixes.
    pub fn qualify(&self, batch: WriteBatch) -> WriteBatch {
        let mut qualified = WriteBatch::new();
        for op in batch.into_ops() {
            match op {
                Op::Put(key, value) => qualified.put(self.full(&key), value),
                Op::Delete(key) => qualified.delete(self.full(&key)),
                Op::DeleteRange(from, to) => qualified.delete_range(self.full(&from), self.full(&to)),
            };
        }
        qualified
    }

    /// The writes, for the store below, that remove everything under the prefix.
    pub fn clear(&self) -> Result<WriteBatch, StoreError> {
        let mut batch = WriteBatch::new();
        match after_prefix(&self.prefix) {
            Some(end) => {
                batch.delete_range(self.prefix.clone(), end);
            }
            // No key lies behind the last one, so there is no range to name.
            None => {
                for (key, _) in scan_prefix(&self.store, &self.prefix, usize::MAX)? {
                    batch.delete(key);
                }
            }
        }
        Ok(batch)
    }

    fn full(&self, key: &[u8]) -> Vec<u8> {
        [self.prefix.as_slice(), key].concat()
    }
}

impl<S: Store> Store for Prefixed<S> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.store.get(&self.full(key))
    }

    fn scan(
        &self,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        order: Order,
        limit: usize,
    ) -> Result<Vec<Entry>, StoreError> {
        let from = match from.map(|key| self.full(key)) {
            Bound::Unbounded => Bound::Included(self.prefix.clone()),
            bound => bound,
        };
        let to = match (to.map(|key| self.full(key)), after_prefix(&self.prefix)) {
            (Bound::Unbounded, Some(end)) => Bound::Excluded(end),
            (bound, _) => bound,
        };
        let mut entries = self.store.scan(
            from.as_ref().map(Vec::as_slice),
            to.as_ref().map(Vec::as_slice),
            order,
            limit,
        )?;
        for (key, _) in &mut entries {
            key.drain(..self.prefix.len().min(key.len()));
        }
        Ok(entries)
    }

    fn apply(&self, batch: WriteBatch) -> Result<(), StoreError> {
        self.store.apply(self.qualify(batch))
    }

    fn flush(&self) -> Result<(), StoreError> {
        self.store.flush()
    }
}
