//! Reads through layers: what a draft wrote, over what is certified, over the store.
//!
//! Promises: a read sees the newest write of its layer or below, also in scans; nothing here writes to the store. Heads
//! that were installed but whose batch the caller hasn't applied yet stay readable.

use std::collections::BTreeMap;
use std::ops::Bound;

use concordat_store::{Entry, Order, Store, StoreError, WriteBatch, after_prefix};

/// What all keys of a ledger in the store begin with: the record of `finality` and the Raft logs lie beside it.
pub(crate) const ROOM: &[u8] = b"ledger/";

/// Writes of one layer; `None` removes.
pub(crate) type Writes = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// Something that can be read like a store.
pub(crate) trait Read {
    /// The value under `key`.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// At most `limit` entries, in order, whose keys begin with `prefix` and are `from` or above.
    fn scan(&self, prefix: &[u8], from: &[u8], limit: usize) -> Result<Vec<Entry>, StoreError>;
}

/// The range of a scan: `from`, or the whole prefix if that is further on.
fn range(prefix: &[u8], from: &[u8]) -> (Vec<u8>, Option<Vec<u8>>) {
    (prefix.max(from).to_vec(), after_prefix(prefix))
}

/// Both ends of a range of keys.
type Span<'a> = (Bound<&'a [u8]>, Bound<&'a [u8]>);

fn bounds<'a>(from: &'a [u8], to: &'a Option<Vec<u8>>) -> Option<Span<'a>> {
    match to {
        // `BTreeMap::range` panics on a range that is upside down.
        Some(to) if from >= to.as_slice() => None,
        Some(to) => Some((Bound::Included(from), Bound::Excluded(to))),
        None => Some((Bound::Included(from), Bound::Unbounded)),
    }
}

/// Lays `writes` over what `below` returns for a larger limit.
fn merge<'a>(
    writes: impl Iterator<Item = (&'a Vec<u8>, Option<&'a Vec<u8>>)>,
    limit: usize,
    below: impl FnOnce(usize) -> Result<Vec<Entry>, StoreError>,
) -> Result<Vec<Entry>, StoreError> {
    let writes: Vec<_> = writes.collect();
    // Each write hides at most one entry below, so this many are enough to fill the limit.
    let mut merged: BTreeMap<Vec<u8>, Vec<u8>> =
        below(limit.saturating_add(writes.len()))?.into_iter().collect();
    for (key, value) in writes {
        match value {
            Some(value) => merged.insert(key.clone(), value.clone()),
            None => merged.remove(key),
        };
    }
    // The page below may have ended before keys that only this layer has; those beyond it are cut here.
    Ok(merged.into_iter().take(limit).collect())
}

/// The certified state: the store, and what was installed since the store last heard of it.
pub(crate) struct Certified<S> {
    store: S,
    /// Newest write per key and the height that made it.
    installed: BTreeMap<Vec<u8>, (u64, Option<Vec<u8>>)>,
}

impl<S: Store> Certified<S> {
    pub(crate) fn new(store: S) -> Self {
        Certified { store, installed: BTreeMap::new() }
    }

    /// The same layer over another store.
    pub(crate) fn fork(&self, store: S) -> Self {
        Certified { store, installed: self.installed.clone() }
    }

    /// Takes the writes of `height` in and returns them as the caller shall apply them.
    pub(crate) fn install(&mut self, height: u64, writes: Writes) -> WriteBatch {
        let mut batch = WriteBatch::new();
        for (key, value) in writes {
            let full = [ROOM, key.as_slice()].concat();
            match &value {
                Some(value) => batch.put(full, value.clone()),
                None => batch.delete(full),
            };
            self.installed.insert(key, (height, value));
        }
        batch
    }

    /// Forgets what the store holds itself by now, up to `height`.
    pub(crate) fn forget(&mut self, height: u64) {
        self.installed.retain(|_, (at, _)| *at > height);
    }

    /// Reads past what is installed.
    pub(crate) fn stored(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.store.get(&[ROOM, key].concat())
    }
}

impl<S: Store> Read for Certified<S> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        match self.installed.get(key) {
            Some((_, value)) => Ok(value.clone()),
            None => self.stored(key),
        }
    }

    fn scan(&self, prefix: &[u8], from: &[u8], limit: usize) -> Result<Vec<Entry>, StoreError> {
        let (from, to) = range(prefix, from);
        let Some(within) = bounds(&from, &to) else { return Ok(Vec::new()) };
        let writes = self.installed.range::<[u8], _>(within).map(|(key, (_, value))| (key, value.as_ref()));
        merge(writes, limit, |limit| {
            let from = [ROOM, from.as_slice()].concat();
            let to = match &to {
                Some(to) => Some([ROOM, to.as_slice()].concat()),
                None => after_prefix(ROOM),
            };
            let Some((from, to)) = bounds(&from, &to) else { return Ok(Vec::new()) };
            let mut entries = self.store.scan(from, to, Order::Ascending, limit)?;
            for (key, _) in &mut entries {
                key.drain(..ROOM.len().min(key.len()));
            }
            Ok(entries)
        })
    }
}

/// The writes of a draft over a state below, which stays as it is.
pub(crate) struct Overlay<'a, R> {
    below: &'a R,
    pub(crate) writes: Writes,
}

impl<'a, R: Read> Overlay<'a, R> {
    pub(crate) fn new(below: &'a R) -> Self {
        Overlay { below, writes: Writes::new() }
    }

    pub(crate) fn put(&mut self, key: Vec<u8>, value: Vec<u8>) {
        self.writes.insert(key, Some(value));
    }

    pub(crate) fn delete(&mut self, key: Vec<u8>) {
        self.writes.insert(key, None);
    }
}

impl<R: Read> Read for Overlay<'_, R> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        match self.writes.get(key) {
            Some(value) => Ok(value.clone()),
            None => self.below.get(key),
        }
    }

    fn scan(&self, prefix: &[u8], from: &[u8], limit: usize) -> Result<Vec<Entry>, StoreError> {
        let (from, to) = range(prefix, from);
        let Some(within) = bounds(&from, &to) else { return Ok(Vec::new()) };
        let writes = self.writes.range::<[u8], _>(within).map(|(key, value)| (key, value.as_ref()));
        merge(writes, limit, |limit| self.below.scan(prefix, &from, limit))
    }
}

#[cfg(test)]
mod tests {
    use concordat_store::memory::MemoryStore;
    use proptest::prelude::*;

    use super::*;

    type Change = (u8, Option<u8>);

    fn writes(changes: &[Change]) -> Writes {
        changes.iter().map(|(key, value)| (vec![b'k', *key], value.map(|value| vec![value]))).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Store, installed and overlay together read like one map.
        #[test]
        fn layers_read_like_one_map(
            stored in prop::collection::vec(any::<Change>(), 0..12),
            installed in prop::collection::vec(any::<Change>(), 0..12),
            drafted in prop::collection::vec(any::<Change>(), 0..12),
            from in any::<u8>(),
            limit in 0usize..8,
        ) {
            let store = MemoryStore::default();
            let mut neighbours = WriteBatch::new();
            neighbours.put(*b"ledges", *b"x").put(*b"ledger.", *b"x");
            store.apply(neighbours).unwrap();
            let mut certified = Certified::new(store);
            let batch = certified.install(0, writes(&stored));
            certified.store.apply(batch).unwrap();
            certified.forget(0);
            prop_assert!(certified.installed.is_empty());
            certified.install(1, writes(&installed));
            let mut overlay = Overlay::new(&certified);
            overlay.writes = writes(&drafted);
            let mut model = BTreeMap::new();
            for (key, value) in [&stored, &installed, &drafted].into_iter().flat_map(|layer| writes(layer)) {
                model.insert(key, value);
            }
            for (key, value) in &model {
                prop_assert_eq!(&overlay.get(key).unwrap(), value);
            }
            let expected: Vec<Entry> = model
                .iter()
                .filter(|(key, _)| key.as_slice() >= [b'k', from].as_slice())
                .filter_map(|(key, value)| value.clone().map(|value| (key.clone(), value)))
                .take(limit)
                .collect();
            prop_assert_eq!(overlay.scan(b"k", &[b'k', from], limit).unwrap(), expected);
        }
    }
}
