//! What every engine has to do, as functions that run against any of them.
//!
//! An engine joins by a [`Disk`]: something that opens it, and opens it again after it was dropped. Each function takes
//! an empty disk and panics with what was wrong.

#![expect(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a check that fails panics; nothing but tests calls these"
)]

use crate::{
    Entry, Order, Prefixed, Store, StoreError, WriteBatch, after_prefix, memory::MemoryStore, scan_prefix,
};
use std::collections::BTreeMap;
use std::ops::Bound::{self, Excluded, Included, Unbounded};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What keeps the flushed entries between two lives of a store.
pub trait Disk {
    /// The engine on it.
    type Engine: Store;

    /// Opens the store. The engine opened before was dropped.
    fn open(&mut self) -> Self::Engine;
}

/// Memory, where reopening is the worst crash: everything un-flushed is lost.
#[derive(Default)]
pub struct MemoryDisk {
    last: Option<Arc<MemoryStore>>,
}

impl Disk for MemoryDisk {
    type Engine = Arc<MemoryStore>;

    fn open(&mut self) -> Arc<MemoryStore> {
        let next = match self.last.take() {
            Some(last) => last.lose_unflushed(),
            None => MemoryStore::new(),
        };
        let next = Arc::new(next);
        self.last = Some(next.clone());
        next
    }
}

/// Any other disk, seen through a prefix, between foreign entries on both sides that must not be touched.
pub struct PrefixedDisk<D> {
    /// What is underneath.
    pub below: D,
    /// The prefix; neither empty nor all 0xff.
    pub prefix: Vec<u8>,
}

impl<D: Disk> Disk for PrefixedDisk<D> {
    type Engine = Guarded<D::Engine>;

    fn open(&mut self) -> Self::Engine {
        let below = Arc::new(self.below.open());
        let end = after_prefix(&self.prefix).expect("a prefix with keys behind it");
        let before = self.prefix[..self.prefix.len() - 1].to_vec();
        let mut batch = WriteBatch::new();
        batch.put(before.clone(), *b"before");
        batch.put(end.clone(), *b"after");
        below.apply(batch).expect("foreign entries are written");
        below.flush().expect("foreign entries are flushed");
        Guarded {
            seen: Prefixed::new(below.clone(), self.prefix.clone()),
            below,
            foreign: [(before, b"before".to_vec()), (end, b"after".to_vec())],
        }
    }
}

/// A [`Prefixed`] store that looks after each write whether its neighbours are still there.
pub struct Guarded<S> {
    seen: Prefixed<Arc<S>>,
    below: Arc<S>,
    foreign: [Entry; 2],
}

impl<S: Store> Store for Guarded<S> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.seen.get(key)
    }

    fn scan(
        &self,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        order: Order,
        limit: usize,
    ) -> Result<Vec<Entry>, StoreError> {
        self.seen.scan(from, to, order, limit)
    }

    fn apply(&self, batch: WriteBatch) -> Result<(), StoreError> {
        self.seen.apply(batch)?;
        for (key, value) in &self.foreign {
            assert_eq!(self.below.get(key)?.as_ref(), Some(value), "a foreign entry changed");
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), StoreError> {
        self.seen.flush()
    }
}

fn write(store: &impl Store, fill: impl FnOnce(&mut WriteBatch)) {
    let mut batch = WriteBatch::new();
    fill(&mut batch);
    store.apply(batch).expect("applies");
}

/// Everything in a store, ascending.
pub fn everything(store: &impl Store) -> Vec<Entry> {
    store.scan(Unbounded, Unbounded, Order::Ascending, usize::MAX).expect("scans")
}

fn keys(entries: &[Entry]) -> Vec<&[u8]> {
    entries.iter().map(|(key, _)| key.as_slice()).collect()
}

/// Keys and values of any bytes and lengths come back as they were written, the empty ones too.
pub fn reads_what_was_written(mut disk: impl Disk) {
    let store = disk.open();
    assert_eq!(store.get(b"k").expect("reads"), None);
    assert_eq!(everything(&store), vec![]);
    // Above 128 KiB sled keeps values in files of their own.
    let large: Vec<u8> = (0..400_000_u32).map(|i| (i % 251) as u8).collect();
    let long_key = vec![7; 1000];
    write(&store, |batch| {
        batch.put(*b"", *b"value of the empty key");
        batch.put(*b"empty", *b"");
        batch.put(*b"\x00", *b"\x00");
        batch.put(*b"\xff\xff", *b"\xff");
        batch.put(*b"large", large.clone());
        batch.put(long_key.clone(), *b"long");
    });
    for _ in 0..2 {
        assert_eq!(store.get(b"").expect("reads"), Some(b"value of the empty key".to_vec()));
        assert_eq!(store.get(b"empty").expect("reads"), Some(vec![]));
        assert_eq!(store.get(b"\x00").expect("reads"), Some(vec![0]));
        assert_eq!(store.get(b"\xff\xff").expect("reads"), Some(vec![0xff]));
        assert_eq!(store.get(b"\xff").expect("reads"), None);
        assert_eq!(store.get(b"large").expect("reads"), Some(large.clone()));
        assert_eq!(store.get(&long_key).expect("reads"), Some(b"long".to_vec()));
        assert_eq!(everything(&store).len(), 6);
        store.flush().expect("flushes");
    }
}

/// A key keeps its last value; deleted keys are gone, and deleting what isn't there is no error.
pub fn overwrites_and_deletes(mut disk: impl Disk) {
    let store = disk.open();
    write(&store, |batch| {
        batch.put(*b"a", *b"1").put(*b"b", *b"1");
    });
    write(&store, |batch| {
        batch.put(*b"a", *b"2").delete(*b"b").delete(*b"c");
    });
    assert_eq!(everything(&store), vec![(b"a".to_vec(), b"2".to_vec())]);
    write(&store, |batch| {
        batch.put(*b"b", *b"3");
    });
    assert_eq!(store.get(b"b").expect("reads"), Some(b"3".to_vec()));
}

/// Later writes of a batch win, ranges among them too.
pub fn a_batch_has_an_order(mut disk: impl Disk) {
    let store = disk.open();
    write(&store, |batch| {
        batch.put(*b"m", *b"old").put(*b"z", *b"old");
    });
    write(&store, |batch| {
        batch.put(*b"a", *b"1").put(*b"a", *b"2");
        batch.put(*b"b", *b"1").delete(*b"b");
        batch.delete(*b"c").put(*b"c", *b"1");
        // Takes what the batch wrote before and what was there, and leaves what comes after.
        batch.put(*b"n", *b"1").delete_range(*b"m", *b"o").put(*b"nn", *b"1");
        let mut more = WriteBatch::new();
        more.put(*b"z", *b"new");
        batch.append(more);
    });
    let expected: Vec<Entry> = [("a", "2"), ("c", "1"), ("nn", "1"), ("z", "new")]
        .iter()
        .map(|(k, v)| (k.as_bytes().to_vec(), v.as_bytes().to_vec()))
        .collect();
    assert_eq!(everything(&store), expected);
}

/// A range takes its first key, leaves its last, and takes nothing if it is empty or turned round.
pub fn deletes_ranges(mut disk: impl Disk) {
    let store = disk.open();
    let fill = || {
        write(&store, |batch| {
            for key in [b"a", b"b", b"c", b"d"] {
                batch.put(*key, *b"v");
            }
        });
    };
    let left = |from: &[u8], to: &[u8]| {
        fill();
        write(&store, |batch| {
            batch.delete_range(from, to);
        });
        everything(&store)
            .into_iter()
            .map(|(key, _)| String::from_utf8(key).expect("ascii"))
            .collect::<String>()
    };
    assert_eq!(left(b"b", b"d"), "ad");
    assert_eq!(left(b"", b"b"), "bcd");
    assert_eq!(left(b"bb", b"cc"), "abd");
    assert_eq!(left(b"c", b"c"), "abcd");
    assert_eq!(left(b"d", b"a"), "abcd");
    assert_eq!(left(b"c", b"zz"), "ab");
    assert_eq!(left(b"", b"\xff"), "");
    // Many, so that whole pages go.
    write(&store, |batch| {
        for i in 0..2000_u32 {
            batch.put(i.to_be_bytes(), vec![1; 64]);
        }
    });
    write(&store, |batch| {
        batch.delete_range(5_u32.to_be_bytes(), 1995_u32.to_be_bytes());
    });
    assert_eq!(everything(&store).len(), 10);
}

/// Bounds of every kind, both orders, every limit; ranges that hold nothing give nothing.
pub fn scans_within_bounds(mut disk: impl Disk) {
    let store = disk.open();
    let all: Vec<Entry> = (0..40_u8).map(|i| (vec![i * 2], vec![i])).collect();
    write(&store, |batch| {
        for (key, value) in &all {
            batch.put(key.clone(), value.clone());
        }
    });
    let point = |i: u8| [i];
    let bounds = |i: u8| {
        let key = point(i);
        [(Unbounded, key), (Included(()), key), (Excluded(()), key)]
    };
    for a in [0, 1, 2, 37, 78, 79, 200] {
        for b in [0, 1, 2, 37, 38, 78, 79, 200] {
            for (from, from_key) in bounds(a) {
                for (to, to_key) in bounds(b) {
                    let from = from.map(|()| from_key.as_slice());
                    let to = to.map(|()| to_key.as_slice());
                    let mut expected: Vec<Entry> =
                        all.iter().filter(|(key, _)| within(key, from, to)).cloned().collect();
                    for order in [Order::Ascending, Order::Descending] {
                        for limit in [0, 1, 3, expected.len(), usize::MAX] {
                            let got = store.scan(from, to, order, limit).expect("scans");
                            let wanted = &expected[..limit.min(expected.len())];
                            assert_eq!(
                                keys(&got),
                                keys(wanted),
                                "{from:?}..{to:?} {order:?} at most {limit}"
                            );
                            assert_eq!(got, wanted);
                        }
                        expected.reverse();
                    }
                }
            }
        }
    }
    // The smallest key there is.
    assert_eq!(store.scan(Unbounded, Excluded(b""), Order::Ascending, 9).expect("scans"), vec![]);
}

fn within(key: &[u8], from: Bound<&[u8]>, to: Bound<&[u8]>) -> bool {
    let above = match from {
        Unbounded => true,
        Included(from) => key >= from,
        Excluded(from) => key > from,
    };
    let below = match to {
        Unbounded => true,
        Included(to) => key <= to,
        Excluded(to) => key < to,
    };
    above && below
}

/// Scans by prefix stop at its end, also where the last byte is 0xff.
pub fn scans_prefixes(mut disk: impl Disk) {
    let store = disk.open();
    let written: [&[u8]; 7] = [b"a", b"a\x00", b"a\xff", b"a\xff\xff", b"b", b"\xff", b"\xff\xff\x01"];
    write(&store, |batch| {
        for key in written {
            batch.put(key, *b"v");
        }
    });
    let found = |prefix: &[u8]| {
        keys(&scan_prefix(&store, prefix, usize::MAX).expect("scans"))
            .iter()
            .map(|key| key.to_vec())
            .collect::<Vec<_>>()
    };
    for prefix in [b"".as_slice(), b"a", b"a\xff", b"b", b"\xff", b"\xff\xff", b"c"] {
        let expected: Vec<&[u8]> = written.into_iter().filter(|key| key.starts_with(prefix)).collect();
        assert_eq!(found(prefix), expected, "prefix {prefix:?}");
    }
}

/// Other threads see a batch whole or not at all, by scans while it is written.
pub fn batches_are_seen_whole(mut disk: impl Disk) {
    const KEYS: u32 = 64;
    let store = disk.open();
    let done = AtomicBool::new(false);
    write(&store, |batch| {
        for key in 0..KEYS {
            batch.put(key.to_be_bytes(), 0_u32.to_be_bytes());
        }
    });
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 1..=50_u32 {
                write(&store, |batch| {
                    // A moment without any key, if the batch could be seen in parts.
                    batch.delete_range(0_u32.to_be_bytes(), KEYS.to_be_bytes());
                    for key in 0..KEYS {
                        batch.put(key.to_be_bytes(), round.to_be_bytes());
                    }
                });
            }
            done.store(true, Ordering::Release);
        });
        let mut order = Order::Ascending;
        while !done.load(Ordering::Acquire) {
            let entries = store.scan(Unbounded, Unbounded, order, usize::MAX).expect("scans");
            assert_eq!(entries.len(), KEYS as usize, "keys are missing in {order:?}");
            assert!(
                entries.iter().all(|(_, value)| *value == entries[0].1),
                "values of two batches in one scan"
            );
            order = match order {
                Order::Ascending => Order::Descending,
                Order::Descending => Order::Ascending,
            };
        }
    });
}

/// What was flushed is there after reopening, again and again; an empty batch and a second flush change nothing.
pub fn keeps_what_was_flushed(mut disk: impl Disk) {
    let mut expected = BTreeMap::new();
    for life in 0..4_u8 {
        let store = disk.open();
        assert_eq!(everything(&store), expected.clone().into_iter().collect::<Vec<_>>(), "life {life}");
        write(&store, |batch| {
            batch.put(vec![life], vec![life; 3]);
            batch.put(*b"last", vec![life]);
            batch.delete(vec![life.wrapping_sub(1)]);
        });
        expected.insert(vec![life], vec![life; 3]);
        expected.insert(b"last".to_vec(), vec![life]);
        expected.remove(&vec![life.wrapping_sub(1)]);
        write(&store, |_| {});
        store.flush().expect("flushes");
        store.flush().expect("flushes");
    }
}

/// Threads that write and flush at the same time lose nothing of what they flushed.
pub fn flushes_from_many_threads(mut disk: impl Disk) {
    {
        let store = disk.open();
        std::thread::scope(|scope| {
            for thread in 0..4_u8 {
                let store = &store;
                scope.spawn(move || {
                    for i in 0..10_u8 {
                        write(store, |batch| {
                            batch.put(vec![thread, i], vec![i]);
                        });
                        store.flush().expect("flushes");
                    }
                });
            }
        });
    }
    assert_eq!(everything(&disk.open()).len(), 40);
}
