//! A store that leaves the one below as it is: what is written stays in memory, over what is read.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Bound, RangeBounds};
use std::sync::{PoisonError, RwLock};

use concordat_store::{Entry, Op, Order, Store, StoreError, WriteBatch};

/// See the module's header.
pub(super) struct Over<S> {
    below: S,
    /// What was written; nothing for a key that was removed.
    written: RwLock<BTreeMap<Vec<u8>, Option<Vec<u8>>>>,
}

impl<S: Store> Over<S> {
    pub fn new(below: S) -> Self {
        Over { below, written: RwLock::default() }
    }
}

impl<S: Store> Store for Over<S> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let written = self.written.read().unwrap_or_else(PoisonError::into_inner);
        match written.get(key) {
            Some(value) => Ok(value.clone()),
            None => self.below.get(key),
        }
    }

    fn scan(
        &self,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        order: Order,
        limit: usize,
    ) -> Result<Vec<Entry>, StoreError> {
        let written = self.written.read().unwrap_or_else(PoisonError::into_inner);
        let over: Vec<(&Vec<u8>, &Option<Vec<u8>>)> = written
            .iter()
            .filter(|(key, _)| RangeBounds::<[u8]>::contains(&(from, to), key.as_slice()))
            .collect();
        // As many more as may be hidden.
        let mut found: BTreeMap<Vec<u8>, Vec<u8>> =
            self.below.scan(from, to, order, limit.saturating_add(over.len()))?.into_iter().collect();
        for (key, value) in over {
            match value {
                Some(value) => found.insert(key.clone(), value.clone()),
                None => found.remove(key),
            };
        }
        Ok(match order {
            Order::Ascending => found.into_iter().take(limit).collect(),
            Order::Descending => found.into_iter().rev().take(limit).collect(),
        })
    }

    fn apply(&self, batch: WriteBatch) -> Result<(), StoreError> {
        for op in batch.into_ops() {
            let mut removed = BTreeSet::new();
            if let Op::DeleteRange(from, to) = &op {
                let all = self.below.scan(
                    Bound::Included(from),
                    Bound::Excluded(to),
                    Order::Ascending,
                    usize::MAX,
                )?;
                removed.extend(all.into_iter().map(|(key, _)| key));
            }
            let mut written = self.written.write().unwrap_or_else(PoisonError::into_inner);
            match op {
                Op::Put(key, value) => drop(written.insert(key, Some(value))),
                Op::Delete(key) => drop(written.insert(key, None)),
                Op::DeleteRange(from, to) => {
                    removed.extend(written.keys().filter(|key| **key >= from && **key < to).cloned());
                    written.extend(removed.into_iter().map(|key| (key, None)));
                }
            }
        }
        Ok(())
    }

    /// Nothing here is to last.
    fn flush(&self) -> Result<(), StoreError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use concordat_store::memory::MemoryStore;
    use proptest::prelude::*;

    use super::*;

    fn op() -> impl Strategy<Value = Op> {
        let key = || prop::collection::vec(0u8..4, 1..3);
        prop_oneof![
            (key(), any::<u8>()).prop_map(|(key, value)| Op::Put(key, vec![value])),
            key().prop_map(Op::Delete),
            (key(), key()).prop_map(|(a, b)| Op::DeleteRange(a.clone().min(b.clone()), a.max(b))),
        ]
    }

    fn batch(ops: Vec<Op>) -> WriteBatch {
        let mut batch = WriteBatch::new();
        for op in ops {
            match op {
                Op::Put(key, value) => batch.put(key, value),
                Op::Delete(key) => batch.delete(key),
                Op::DeleteRange(from, to) => batch.delete_range(from, to),
            };
        }
        batch
    }

    proptest! {
        /// It reads as the store would if everything had been written there, and that store is as it was.
        #[test]
        fn it_reads_as_if_it_were_one_store(
            before in prop::collection::vec(op(), 0..12),
            after in prop::collection::vec(op(), 0..12),
            (from, limit, descending) in (prop::collection::vec(0u8..4, 1..3), 0usize..8, any::<bool>()),
        ) {
            let (below, one) = (Arc::new(MemoryStore::new()), MemoryStore::new());
            below.apply(batch(before.clone())).unwrap();
            one.apply(batch(before)).unwrap();
            let all = |store: &dyn Store| {
                store.scan(Bound::Unbounded, Bound::Unbounded, Order::Ascending, usize::MAX).unwrap()
            };
            let kept = all(below.as_ref());
            let over = Over::new(below.clone());
            over.apply(batch(after.clone())).unwrap();
            one.apply(batch(after)).unwrap();
            prop_assert_eq!(all(&over), all(&one));
            prop_assert_eq!(&all(below.as_ref()), &kept);
            let order = if descending { Order::Descending } else { Order::Ascending };
            for (low, high) in [
                (Bound::Included(from.as_slice()), Bound::Unbounded),
                (Bound::Excluded(from.as_slice()), Bound::Unbounded),
                (Bound::Unbounded, Bound::Excluded(from.as_slice())),
                (Bound::Unbounded, Bound::Included(from.as_slice())),
            ] {
                prop_assert_eq!(
                    over.scan(low, high, order, limit).unwrap(),
                    one.scan(low, high, order, limit).unwrap()
                );
            }
            for (key, _) in kept {
                prop_assert_eq!(over.get(&key).unwrap(), one.get(&key).unwrap());
            }
        }
    }
}
