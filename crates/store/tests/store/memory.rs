//! The injected faults of the memory engine.

use concordat_store::conformance::everything;
use concordat_store::memory::MemoryStore;
use concordat_store::{Prefixed, after_prefix};
use concordat_store::{Store, StoreError, WriteBatch, scan_prefix};
use std::sync::Arc;

fn put(store: &impl Store, key: u8) -> Result<(), StoreError> {
    let mut batch = WriteBatch::new();
    batch.put([key], [key; 9]);
    store.apply(batch)
}

fn keys(store: &impl Store) -> Vec<u8> {
    everything(store).iter().map(|(key, _)| key[0]).collect()
}

fn is_stopped<T>(result: &Result<T, StoreError>) -> bool {
    matches!(result, Err(StoreError::Stopped { .. }))
}

fn assert_stopped(store: &MemoryStore) {
    assert!(is_stopped(&store.get(b"")));
    assert!(is_stopped(&scan_prefix(store, b"", 1)));
    assert!(is_stopped(&put(store, 0)));
    assert!(is_stopped(&store.flush()));
}

#[test]
fn every_outcome_of_a_crash_is_a_prefix() {
    for kept in 0..5 {
        let store = MemoryStore::new();
        put(&store, 0).unwrap();
        store.flush().unwrap();
        for key in 1..=3 {
            put(&store, key).unwrap();
        }
        assert_eq!(store.unflushed(), 3);
        let found = store.crash_keeping(kept);
        assert_eq!(keys(&found), (0..=kept.min(3) as u8).collect::<Vec<_>>());
        // What was found is on the disk: a second crash takes nothing of it.
        assert_eq!(keys(&found.lose_unflushed()), keys_of(kept.min(3)));
        assert_stopped(&store);
        assert_stopped(&found);
    }
}

fn keys_of(last: usize) -> Vec<u8> {
    (0..=last as u8).collect()
}

#[test]
fn a_failed_flush_is_final_and_saves_nothing() {
    let store = MemoryStore::new();
    store.fail_flush_after(1);
    put(&store, 0).unwrap();
    store.flush().unwrap();
    put(&store, 1).unwrap();
    assert!(matches!(store.flush(), Err(StoreError::Engine { .. })));
    assert_stopped(&store);
    assert_eq!(keys(&store.lose_unflushed()), [0]);
}

#[test]
fn the_next_flush_fails() {
    let store = MemoryStore::new();
    store.fail_next_flush();
    assert!(matches!(store.flush(), Err(StoreError::Engine { .. })));
    assert_stopped(&store);
}

#[test]
fn a_full_disk_refuses_the_whole_batch() {
    let store = MemoryStore::new();
    // Two entries of ten bytes and a rest.
    store.set_capacity(29);
    put(&store, 0).unwrap();
    put(&store, 1).unwrap();
    // The same size again, and less.
    put(&store, 1).unwrap();
    let mut batch = WriteBatch::new();
    batch.delete([0]);
    store.apply(batch).unwrap();
    put(&store, 2).unwrap();
    store.flush().unwrap();
    let mut batch = WriteBatch::new();
    batch.put([3], [3; 4]).put([4], [4; 4]);
    assert!(matches!(store.apply(batch), Err(StoreError::Full { .. })));
    assert_stopped(&store);
    assert_eq!(keys(&store.crash_keeping(9)), [1, 2]);
}

#[test]
fn a_filled_disk_takes_nothing() {
    let store = MemoryStore::new();
    put(&store, 0).unwrap();
    store.fill_disk();
    assert!(matches!(put(&store, 0), Err(StoreError::Full { .. })));
    assert_stopped(&store);
    assert_eq!(keys(&store.crash_keeping(9)), [0]);
}

/// A run crashed in front of every operation it makes: the loop a simulator runs.
#[test]
fn stops_in_front_of_any_operation() {
    let run = |store: &MemoryStore| -> Result<(), StoreError> {
        put(store, 0)?;
        put(store, 1)?;
        store.flush()?;
        put(store, 2)?;
        store.flush()
    };
    let whole = MemoryStore::new();
    run(&whole).unwrap();
    assert_eq!(whole.ops(), 5);
    let mut found = Vec::new();
    for op in 0..whole.ops() {
        let store = MemoryStore::new();
        store.stop_at(op);
        assert!(is_stopped(&run(&store)));
        assert_eq!(store.ops(), op);
        assert_stopped(&store);
        found.push((store.unflushed(), keys(&store.lose_unflushed())));
    }
    assert_eq!(found, [(0, vec![]), (1, vec![]), (2, vec![]), (0, vec![0, 1]), (1, vec![0, 1])]);
}

#[test]
fn an_old_disk_can_be_put_back() {
    let store = MemoryStore::new();
    put(&store, 0).unwrap();
    store.flush().unwrap();
    put(&store, 1).unwrap();
    let old = store.snapshot();
    store.flush().unwrap();
    assert_eq!(old.size(), 10);
    assert_eq!(keys(&MemoryStore::restore(old.clone())), [0]);
    assert_eq!(old.entries().count(), 1);
    assert!(store.snapshot() != old);
    // Values may be secret.
    assert_eq!(format!("{old:?}"), "Image(1 entries)");
}

#[test]
fn prefixes_are_cleared_and_cross_in_one_batch() {
    for prefix in [vec![5], vec![5, 0xff], vec![0xff, 0xff]] {
        let below = Arc::new(MemoryStore::new());
        put(&below, 4).unwrap();
        put(&below, 6).unwrap();
        let log = Prefixed::new(below.clone(), prefix.clone());
        let mut batch = WriteBatch::new();
        batch.put(*b"", *b"v").put([0xff; 3], *b"v").delete(*b"x");
        batch.delete_range(*b"a", *b"b");
        let mut both = WriteBatch::new();
        both.put(*b"vote", *b"v").append(log.qualify(batch));
        below.apply(both).unwrap();
        assert_eq!(everything(&log).len(), 2);
        assert_eq!(everything(&below).len(), 5);
        below.apply(log.clear().unwrap()).unwrap();
        assert_eq!(everything(&log), vec![]);
        assert_eq!(keys(&below), [4, 6, b'v'], "{:?}", after_prefix(&prefix));
    }
}
