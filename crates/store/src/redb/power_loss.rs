//! Power loss under redb, which kill -9 can't show: it leaves the kernel's cache alone.
//!
//! The database runs on a disk in memory that forgets, when the power goes, any subset of the sectors written since the
//! last sync. What is found then must be a prefix of whole batches with all that was flushed.

use super::*;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{RngCore, SeedableRng};
use redb::StorageBackend;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

/// What a disk writes as a whole, in bytes.
const SECTOR: usize = 512;

#[derive(Debug)]
enum Change {
    Write(usize, Vec<u8>),
    Length(usize),
}

#[derive(Debug, Default)]
struct Platter {
    /// What reads see.
    current: Vec<u8>,
    /// What the last sync made safe.
    synced: Vec<u8>,
    /// What happened since.
    unsynced: Vec<Change>,
    /// Changes and syncs until the power goes.
    left: Option<u64>,
}

#[derive(Clone, Debug, Default)]
struct Disk(Arc<Mutex<Platter>>);

impl Platter {
    fn power(&mut self) -> io::Result<()> {
        match &mut self.left {
            Some(0) => Err(io::Error::other("no power")),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn change(&mut self, change: Change) -> io::Result<()> {
        self.power()?;
        apply(&mut self.current, &change);
        self.unsynced.push(change);
        Ok(())
    }
}

fn apply(bytes: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Length(len) => bytes.resize(*len, 0),
        Change::Write(offset, data) => {
            let end = offset + data.len();
            if bytes.len() < end {
                bytes.resize(end, 0);
            }
            bytes[*offset..end].copy_from_slice(data);
        }
    }
}

impl Disk {
    fn lock(&self) -> MutexGuard<'_, Platter> {
        self.0.lock().unwrap()
    }

    /// The disk as it is found when the power is back.
    fn found(&self, rng: &mut ChaCha8Rng) -> Disk {
        let platter = self.lock();
        let mut bytes = platter.synced.clone();
        // From nothing to everything; in between each sector by chance, so that later ones survive earlier ones.
        let odds = rng.next_u32() % 5;
        let mut survives = || rng.next_u32() % 4 < odds;
        for change in &platter.unsynced {
            match change {
                Change::Length(_) => {
                    if survives() {
                        apply(&mut bytes, change);
                    }
                }
                Change::Write(offset, data) => {
                    for (i, sector) in data.chunks(SECTOR).enumerate() {
                        if survives() {
                            apply(&mut bytes, &Change::Write(offset + i * SECTOR, sector.to_vec()));
                        }
                    }
                }
            }
        }
        let found = Platter { current: bytes.clone(), synced: bytes, ..Platter::default() };
        Disk(Arc::new(Mutex::new(found)))
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.lock().current.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let offset = usize::try_from(offset).unwrap();
        out.copy_from_slice(&self.lock().current[offset..offset + out.len()]);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.lock().change(Change::Length(usize::try_from(len).unwrap()))
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut platter = self.lock();
        platter.power()?;
        platter.synced = platter.current.clone();
        platter.unsynced.clear();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.lock().change(Change::Write(usize::try_from(offset).unwrap(), data.to_vec()))
    }
}

/// The engine on a disk in memory; the lock is that of a directory nobody uses.
fn open(disk: &Disk, dir: &Path) -> RedbStore {
    RedbStore {
        db: RedbStore::builder().create_with_backend(disk.clone()).unwrap(),
        gate: Gate::new(ENGINE),
        _lock: directory::open(ENGINE, dir).unwrap(),
    }
}

fn created(dir: &Path) -> Disk {
    let disk = Disk::default();
    make_table(&open(&disk, dir).db).unwrap();
    disk
}

fn everything(store: &RedbStore) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let all = store.scan(Bound::Unbounded, Bound::Unbounded, Order::Ascending, usize::MAX);
    all.unwrap().into_iter().collect()
}

/// Writes batch `n` to a model and gives it: new keys, an overwritten one, a large one, an old one deleted.
fn batch(n: u32, model: &mut BTreeMap<Vec<u8>, Vec<u8>>) -> WriteBatch {
    let mut batch = WriteBatch::new();
    let mut put = |key: Vec<u8>, value: Vec<u8>| {
        batch.put(key.clone(), value.clone());
        model.insert(key, value);
    };
    put(b"last".to_vec(), n.to_be_bytes().to_vec());
    put(n.to_be_bytes().to_vec(), vec![n as u8; 300]);
    put(vec![n as u8 % 8], vec![n as u8; 9_000 * (n as usize % 4)]);
    if let Some(old) = n.checked_sub(10) {
        batch.delete(old.to_be_bytes());
        model.remove(old.to_be_bytes().as_slice());
    }
    batch
}

#[test]
fn leaves_a_prefix_with_all_that_was_flushed() {
    let dir = tempfile::tempdir().unwrap();
    let (mut failed_flushes, mut lost, mut kept_unflushed) = (0, 0, 0);
    for seed in 0..8 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut disk = created(dir.path());
        let mut n = 0;
        // The states a crash may leave, the flushed one first.
        let mut possible = vec![BTreeMap::new()];
        for _ in 0..4 {
            let store = open(&disk, dir.path());
            let found = everything(&store);
            let at = possible.iter().position(|state| *state == found);
            let at = at.unwrap_or_else(|| panic!("seed {seed}: not a prefix, or less than was flushed"));
            lost += possible.len() - 1 - at;
            kept_unflushed += at;
            // What was read once must stay, so it is flushed before more is built on it.
            store.gate.apply(|| Ok(())).unwrap();
            store.flush().unwrap();
            possible = vec![found];
            disk.lock().left = Some(u64::from(rng.next_u32() % 120));
            loop {
                let mut next = possible.last().unwrap().clone();
                if store.apply(batch(n, &mut next)).is_err() {
                    break;
                }
                n += 1;
                possible.push(next);
                if rng.next_u32().is_multiple_of(3) {
                    if store.flush().is_err() {
                        failed_flushes += 1;
                        break;
                    }
                    possible.drain(..possible.len() - 1);
                }
            }
            assert!(matches!(store.flush(), Err(StoreError::Stopped { .. })));
            drop(store);
            disk = disk.found(&mut rng);
        }
    }
    // The test reached what it is for.
    assert!(failed_flushes > 2 && lost > 5 && kept_unflushed > 0, "{failed_flushes} {lost} {kept_unflushed}");
}

#[test]
fn a_flush_that_cannot_sync_is_final() {
    let dir = tempfile::tempdir().unwrap();
    let disk = created(dir.path());
    let store = open(&disk, dir.path());
    store.apply(batch(0, &mut BTreeMap::new())).unwrap();
    disk.lock().left = Some(0);
    assert!(matches!(store.flush(), Err(StoreError::Engine { .. })));
    // Power is back, but the disk may have lost what it was given.
    disk.lock().left = None;
    assert!(matches!(store.flush(), Err(StoreError::Stopped { .. })));
    assert!(matches!(store.get(b"last"), Err(StoreError::Stopped { .. })));
}
