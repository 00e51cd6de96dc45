//! The engines on disk as the tests open them, and what concerns their files.

use concordat_store::conformance::{Disk, everything};
use concordat_store::redb::RedbStore;
use concordat_store::sled::SledStore;
use concordat_store::{Store, StoreError, WriteBatch};
use std::path::Path;
use tempfile::TempDir;

/// An engine that lives in a directory.
pub trait Engine: Store + Sized {
    /// Its name, as the writer process of the kill tests is told.
    const NAME: &'static str;

    fn open_in(dir: &Path) -> Result<Self, StoreError>;
}

impl Engine for RedbStore {
    const NAME: &'static str = "redb";

    fn open_in(dir: &Path) -> Result<Self, StoreError> {
        Self::open(dir)
    }
}

impl Engine for SledStore {
    const NAME: &'static str = "sled";

    fn open_in(dir: &Path) -> Result<Self, StoreError> {
        Self::open(dir)
    }
}

/// A directory that goes when the test ends.
pub struct TempDisk<E> {
    dir: TempDir,
    engine: std::marker::PhantomData<E>,
}

pub type RedbDisk = TempDisk<RedbStore>;
pub type SledDisk = TempDisk<SledStore>;

impl<E> Default for TempDisk<E> {
    fn default() -> Self {
        Self { dir: tempfile::tempdir().unwrap(), engine: std::marker::PhantomData }
    }
}

impl<E: Engine> Disk for TempDisk<E> {
    type Engine = E;

    fn open(&mut self) -> E {
        E::open_in(self.dir.path()).unwrap()
    }
}

fn one(key: &[u8], value: &[u8]) -> WriteBatch {
    let mut batch = WriteBatch::new();
    batch.put(key, value);
    batch
}

fn is_in_use<S>(opened: &Result<S, StoreError>) -> bool {
    matches!(opened, Err(StoreError::InUse { .. }))
}

fn opens_once<E: Engine>() {
    let dir = tempfile::tempdir().unwrap();
    // Directories on the way are made.
    let path = dir.path().join("custodian/data");
    let first = E::open_in(&path).unwrap();
    let second = E::open_in(&path);
    assert!(is_in_use(&second));
    let text = second.err().unwrap().to_string();
    assert!(text.contains(path.to_str().unwrap()), "{text}");
    first.apply(one(b"k", b"v")).unwrap();
    drop(first);
    // The engine itself may have kept what was not flushed; only that it opens is promised.
    E::open_in(&path).unwrap();
}

#[test]
fn redb_opens_once() {
    opens_once::<RedbStore>();
}

#[test]
fn sled_opens_once() {
    opens_once::<SledStore>();
}

#[test]
fn the_two_engines_do_not_share_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    let _redb = RedbStore::open(dir.path()).unwrap();
    assert!(is_in_use(&SledStore::open(dir.path())));
}

#[test]
fn redb_is_found_in_use_without_our_lock() {
    let dir = tempfile::tempdir().unwrap();
    drop(RedbStore::open(dir.path()).unwrap());
    let _other = redb::Database::open(dir.path().join("concordat.redb")).unwrap();
    assert!(is_in_use(&RedbStore::open(dir.path())));
}

#[test]
fn sled_is_found_in_use_without_our_lock() {
    let dir = tempfile::tempdir().unwrap();
    drop(SledStore::open(dir.path()).unwrap());
    let log = std::fs::File::open(dir.path().join("concordat.sled/db")).unwrap();
    log.lock().unwrap();
    assert!(is_in_use(&SledStore::open(dir.path())));
}

#[test]
fn redb_starts_over_a_creation_that_was_cut_off() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("concordat.redb.new"), vec![0; 5000]).unwrap();
    let store = RedbStore::open(dir.path()).unwrap();
    assert_eq!(everything(&store), vec![]);
    assert!(!dir.path().join("concordat.redb.new").exists());
}

#[test]
fn redb_never_replaces_a_damaged_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("concordat.redb");
    for damaged in [vec![], vec![0; 5000]] {
        std::fs::write(&file, &damaged).unwrap();
        let error = RedbStore::open(dir.path()).err().unwrap();
        assert!(matches!(error, StoreError::Engine { .. }), "{error}");
        assert_eq!(std::fs::read(&file).unwrap(), damaged);
    }
}

/// redb counts what a commit leaves in the file; a copy of the file is what a crash at this moment would leave.
#[test]
fn redb_flushes_into_its_file() {
    let dir = tempfile::tempdir().unwrap();
    let store = RedbStore::open(dir.path()).unwrap();
    let found = || {
        let copy = tempfile::tempdir().unwrap();
        std::fs::copy(dir.path().join("concordat.redb"), copy.path().join("concordat.redb")).unwrap();
        everything(&RedbStore::open(copy.path()).unwrap())
    };
    store.apply(one(b"a", b"1")).unwrap();
    store.apply(one(b"b", b"1")).unwrap();
    assert_eq!(found(), vec![]);
    store.flush().unwrap();
    let both = vec![(b"a".to_vec(), b"1".to_vec()), (b"b".to_vec(), b"1".to_vec())];
    assert_eq!(found(), both);
    store.apply(one(b"a", b"2")).unwrap();
    assert_eq!(found(), both);
}
