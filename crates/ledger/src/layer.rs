//! Reads through layers: what a draft wrote, over what is certified, over the store.
//!
//! Promises: a read sees the newest write of its layer or below, also in scans; nothing here writes to the store. Heads
//! that were installed but whose batch the caller hasn't applied yet stay readable.

use std::collections::BTreeMap;
use std::ops::Bound;

use concordat_store::{Entry, Order, Store, StoreError, WriteBatch, after_prefix};

use crate::limits::FROZEN_BYTES;

/// What all keys of a state in the store begin with: the record of `finality` and the Raft logs lie beside it. There are two
/// rooms, so that another state is complete before it takes the place of this one.
const ROOMS: [&[u8]; 2] = [b"ledger/", b"ledger2/"];

/// Says which room holds the certified state; the first, where it isn't there.
const ROOM: &[u8] = b"ledger.room";

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
    /// Which of the two rooms it lies in.
    room: usize,
    /// What the state held at an earlier head, where it has changed since.
    frozen: Option<Frozen>,
}

/// A state that others fetch while it goes on changing.
#[derive(Clone, Debug)]
struct Frozen {
    height: u64,
    old: Writes,
    bytes: usize,
}

impl<S: Store> Certified<S> {
    /// The state that `store` holds.
    pub(crate) fn open(store: S) -> Result<Self, StoreError> {
        let room = match store.get(ROOM)?.as_deref() {
            None | Some([0]) => 0,
            Some([1]) => 1,
            Some(_) => return Err(crate::keys::corrupt(ROOM, "expected the number of a room")),
        };
        Ok(Certified { room, ..Self::new(store) })
    }

    pub(crate) fn new(store: S) -> Self {
        Certified { store, installed: BTreeMap::new(), room: 0, frozen: None }
    }

    /// The same layer over another store.
    pub(crate) fn fork(&self, store: S) -> Self {
        let (installed, frozen) = (self.installed.clone(), self.frozen.clone());
        Certified { store, installed, room: self.room, frozen }
    }

    fn room(&self) -> &'static [u8] {
        ROOMS.get(self.room).copied().unwrap_or_default()
    }

    /// The other room, as it is in the store.
    pub(crate) fn spare(&self) -> Spare<'_, S> {
        Spare { store: &self.store, room: ROOMS.get(1 - self.room.min(1)).copied().unwrap_or_default() }
    }

    /// Removes everything from the other room.
    pub(crate) fn clear_spare(&self) -> WriteBatch {
        let mut batch = WriteBatch::new();
        let room = self.spare().room;
        if let Some(end) = after_prefix(room) {
            batch.delete_range(room, end);
        }
        batch
    }

    /// Moves into the other room, which holds a whole state but for `writes`, and empties this one.
    pub(crate) fn move_over(&mut self, height: u64, writes: Writes) -> WriteBatch {
        let left = self.room();
        self.room = 1 - self.room.min(1);
        (self.installed, self.frozen) = (BTreeMap::new(), None);
        let mut batch = self.install(height, writes);
        batch.put(ROOM, [u8::try_from(self.room).unwrap_or_default()]);
        if let Some(end) = after_prefix(left) {
            batch.delete_range(left, end);
        }
        batch
    }

    /// Writes of the other room, as the store shall apply them.
    pub(crate) fn spare_batch(&self, writes: Writes) -> WriteBatch {
        let room = self.spare().room;
        let mut batch = WriteBatch::new();
        for (key, value) in writes {
            let full = [room, key.as_slice()].concat();
            match value {
                Some(value) => batch.put(full, value),
                None => batch.delete(full),
            };
        }
        batch
    }

    /// Keeps the state of this height readable by [`Certified::frozen`], as far as [`FROZEN_BYTES`] allows.
    pub(crate) fn freeze(&mut self, height: u64) {
        self.frozen = Some(Frozen { height, old: Writes::new(), bytes: 0 });
    }

    /// Lets it go.
    pub(crate) fn thaw(&mut self) {
        self.frozen = None;
    }

    /// Which height is kept readable?
    pub(crate) fn frozen_height(&self) -> Option<u64> {
        self.frozen.as_ref().map(|frozen| frozen.height)
    }

    /// The state of that height.
    pub(crate) fn frozen(&self) -> Option<FrozenView<'_, S>> {
        self.frozen.as_ref().map(|frozen| FrozenView { frozen, now: self })
    }

    fn keep_old(&mut self, writes: &Writes) {
        let Some(mut frozen) = self.frozen.take() else { return };
        for key in writes.keys().filter(|key| crate::keys::is_state(key)) {
            if frozen.old.contains_key(key) {
                continue;
            }
            // A store that can't be read says so at the next read that matters.
            let Ok(old) = self.get(key) else { return };
            frozen.bytes += key.len() + old.as_ref().map_or(0, Vec::len);
            frozen.old.insert(key.clone(), old);
        }
        self.frozen = Some(frozen).filter(|frozen| frozen.bytes <= FROZEN_BYTES);
    }

    /// Takes the writes of `height` in and returns them as the caller shall apply them.
    pub(crate) fn install(&mut self, height: u64, writes: Writes) -> WriteBatch {
        self.keep_old(&writes);
        let mut batch = WriteBatch::new();
        for (key, value) in writes {
            let full = [self.room(), key.as_slice()].concat();
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
        self.store.get(&[self.room(), key].concat())
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
        merge(writes, limit, |limit| scan_room(&self.store, self.room(), &from, &to, limit))
    }
}

/// At most `limit` entries of a room between two keys of it.
fn scan_room<S: Store>(
    store: &S,
    room: &[u8],
    from: &[u8],
    to: &Option<Vec<u8>>,
    limit: usize,
) -> Result<Vec<Entry>, StoreError> {
    let from = [room, from].concat();
    let to = match to {
        Some(to) => Some([room, to.as_slice()].concat()),
        None => after_prefix(room),
    };
    let Some((from, to)) = bounds(&from, &to) else { return Ok(Vec::new()) };
    let mut entries = store.scan(from, to, Order::Ascending, limit)?;
    for (key, _) in &mut entries {
        key.drain(..room.len().min(key.len()));
    }
    Ok(entries)
}

/// A state that is being taken in.
pub(crate) struct Spare<'a, S> {
    store: &'a S,
    room: &'static [u8],
}

impl<S: Store> Read for Spare<'_, S> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.store.get(&[self.room, key].concat())
    }

    fn scan(&self, prefix: &[u8], from: &[u8], limit: usize) -> Result<Vec<Entry>, StoreError> {
        let (from, to) = range(prefix, from);
        scan_room(self.store, self.room, &from, &to, limit)
    }
}

/// The state as it was at an earlier head.
pub(crate) struct FrozenView<'a, S> {
    frozen: &'a Frozen,
    now: &'a Certified<S>,
}

impl<S: Store> Read for FrozenView<'_, S> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        match self.frozen.old.get(key) {
            Some(value) => Ok(value.clone()),
            None => self.now.get(key),
        }
    }

    fn scan(&self, prefix: &[u8], from: &[u8], limit: usize) -> Result<Vec<Entry>, StoreError> {
        let (from, to) = range(prefix, from);
        let Some(within) = bounds(&from, &to) else { return Ok(Vec::new()) };
        let old = self.frozen.old.range::<[u8], _>(within).map(|(key, value)| (key, value.as_ref()));
        merge(old, limit, |limit| self.now.scan(prefix, &from, limit))
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

    /// What others fetch is kept as it was, until too much has changed.
    #[test]
    fn a_frozen_state_is_let_go_when_too_much_has_changed() {
        let mut certified = Certified::new(MemoryStore::default());
        let key = |n: u8| vec![b'v', n];
        let large = |n: u8| Writes::from([(key(n), Some(vec![n; FROZEN_BYTES / 2]))]);
        for n in 0..3 {
            certified.install(0, large(n));
        }
        certified.freeze(0);
        certified.install(1, Writes::from([(key(0), None), (key(9), Some(vec![1]))]));
        certified.install(2, Writes::from([(key(0), Some(vec![2]))]));
        let frozen = certified.frozen().unwrap();
        assert_eq!(frozen.get(&key(0)).unwrap().map(|old| old.len()), Some(FROZEN_BYTES / 2));
        assert_eq!(frozen.get(&key(9)).unwrap(), None);
        assert_eq!(frozen.scan(b"v", b"v", 9).unwrap().len(), 3);
        assert_eq!(certified.frozen_height(), Some(0));
        certified.install(3, Writes::from([(key(1), None)]));
        assert_eq!(certified.frozen_height(), None, "memory is bounded");
    }
}
