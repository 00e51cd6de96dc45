//! The alternative engine: [sled](https://docs.rs/sled) 0.34, a log-structured tree.
//!
//! Promises what [`Store`] promises, with help. sled has had no release since 2021, and on Linux its `flush` only calls
//! `sync_file_range`, which starts no write of file metadata and leaves the data in the drive's cache: after power
//! loss, "flushed" entries can be gone. So `SledFiles` calls fdatasync on sled's files itself before a flush is
//! acknowledged.
//!
//! Where it is weaker than redb: a value or node above 128 KiB lives in a file of its own ("blob"), which sled writes
//! without syncing while its log goes ahead. Flushed batches are safe (the blobs are synced first), but of the batches
//! *not* flushed a power loss may take a large one and keep a later small one. redb has no such case.

use crate::gate::Gate;
use crate::{Entry, Op, Order, Store, StoreError, WriteBatch, bounds, directory};
use sled::{Batch, Config, Db, IVec, Mode};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

const ENGINE: &str = "sled";

/// sled's own directory inside the data directory.
const DIRECTORY: &str = "concordat.sled";

/// Bytes of pages kept in memory; the default is 1 GiB, see the same constant of the redb engine.
const CACHE: u64 = 12 << 20;

/// How sled 0.34.7 says that its file is locked; the kind of the error is `Other`.
const LOCKED: &str = "could not acquire lock";

/// How long sled's threads may hold the file of a dropped database. They have nothing left to do but end.
const LINGER: Duration = Duration::from_secs(2);

/// A store in a sled database.
pub struct SledStore {
    db: Db,
    gate: Gate,
    /// sled's iterators are no snapshots: a scan beside a batch would see half of it. Batches write, scans read.
    batches: RwLock<()>,
    files: SledFiles,
    /// Holds the directory. Dropped after `db`, which still writes when it is closed.
    _lock: directory::Lock,
}

impl SledStore {
    /// Opens the database in `dir`, or creates both.
    ///
    /// # Errors
    /// [`StoreError::InUse`] if another process has it open; [`StoreError::Engine`] if it can't be read.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        let lock = directory::open(ENGINE, dir)?;
        let path = dir.join(DIRECTORY);
        directory::create(&path).map_err(|e| directory::io_error(ENGINE, "creating", e))?;
        let db = start(dir, &path)?;
        let files =
            SledFiles::open(&path).map_err(|e| directory::io_error(ENGINE, "syncing after opening", e))?;
        Ok(Self { db, gate: Gate::new(ENGINE), batches: RwLock::new(()), files, _lock: lock })
    }

    fn write(&self, batch: WriteBatch) -> Result<(), StoreError> {
        let _alone = self.batches.write().map_err(|_| stopped())?;
        let writes = self.resolve(batch).map_err(|e| engine_error("deleting a range", e))?;
        let mut batch = Batch::default();
        for (key, value) in writes {
            match value {
                Some(value) => batch.insert(key, value),
                None => batch.remove(key),
            }
        }
        self.db.apply_batch(batch).map_err(|e| engine_error("writing", e))
    }

    /// What a batch comes to, key by key: sled's batches have neither ranges nor an order.
    fn resolve(&self, batch: WriteBatch) -> sled::Result<BTreeMap<IVec, Option<Vec<u8>>>> {
        let mut writes = BTreeMap::new();
        for op in batch.into_ops() {
            match op {
                Op::Put(key, value) => {
                    writes.insert(IVec::from(key), Some(value));
                }
                Op::Delete(key) => {
                    writes.insert(IVec::from(key), None);
                }
                Op::DeleteRange(from, to) if !bounds::is_empty_span(&from, &to) => {
                    for (_, value) in
                        writes.range_mut::<[u8], _>((Bound::Included(&*from), Bound::Excluded(&*to)))
                    {
                        *value = None;
                    }
                    for key in self.db.range(from..to).keys() {
                        writes.insert(key?, None);
                    }
                }
                Op::DeleteRange(..) => {}
            }
        }
        Ok(writes)
    }

    fn sync(&self) -> Result<(), StoreError> {
        // Blobs before the log that points to them.
        self.files.sync_blobs().map_err(|e| directory::io_error(ENGINE, "syncing large values", e))?;
        self.db.flush().map_err(|e| engine_error("flushing", e))?;
        self.files.sync_log().map_err(|e| directory::io_error(ENGINE, "syncing the log", e))
    }
}

/// Starts sled on its directory `path`, while we hold `dir`.
///
/// When a database is dropped, sled's writer threads keep its file, and with it sled's own lock, for a moment longer.
/// Our lock says that no other custodian is there, so a reopening in one process waits for them; whoever holds sled's
/// lock after that is a stranger.
fn start(dir: &Path, path: &Path) -> Result<Db, StoreError> {
    let deadline = Instant::now() + LINGER;
    loop {
        let opened = Config::new()
            .path(path)
            .cache_capacity(CACHE)
            .mode(Mode::LowSpace)
            // No thread that syncs on its own and drops the error: a failed sync must reach the caller (it would only
            // be logged there). sled also frees segments while it writes, so nothing else is lost with it.
            .flush_every_ms(None)
            .open();
        match opened {
            Err(sled::Error::Io(e)) if e.to_string().starts_with(LOCKED) => {
                if Instant::now() >= deadline {
                    return Err(directory::in_use(dir));
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            opened => return opened.map_err(|e| engine_error("opening", e)),
        }
    }
}

/// sled's files, as far as they change while it runs.
///
/// `snap.*` and `conf` are written only while sled opens.
struct SledFiles {
    /// sled's log. Our own handle, open from the start: the kernel reports a failed write once to every open handle, so
    /// nobody else's sync can take the error from us.
    log: File,
    /// Where the blobs are.
    blobs: PathBuf,
    /// Blobs known to be on disk. They are written once and never changed.
    synced: Mutex<BTreeSet<OsString>>,
}

impl SledFiles {
    /// Takes hold of the files of the database in `dir` and syncs what opening it has written.
    fn open(dir: &Path) -> io::Result<Self> {
        File::open(dir.join("conf"))?.sync_all()?;
        let log = File::options().read(true).write(true).open(dir.join("db"))?;
        log.sync_all()?;
        let files = Self { log, blobs: dir.join("blobs"), synced: Mutex::new(BTreeSet::new()) };
        files.sync_blobs()?;
        directory::sync(&files.blobs)?;
        directory::sync(dir)?;
        Ok(files)
    }

    /// fdatasync, which also writes the file's length.
    fn sync_log(&self) -> io::Result<()> {
        self.log.sync_data()
    }

    /// Syncs the blobs that came since the last call, and their names.
    fn sync_blobs(&self) -> io::Result<()> {
        // A panic can't leave the set wrong: a name goes in after its sync.
        let mut synced = self.synced.lock().unwrap_or_else(PoisonError::into_inner);
        let mut present = BTreeSet::new();
        for entry in std::fs::read_dir(&self.blobs)? {
            present.insert(entry?.file_name());
        }
        let mut new = present.difference(&synced).peekable();
        if new.peek().is_some() {
            for name in new {
                match File::open(self.blobs.join(name)) {
                    Ok(blob) => blob.sync_all()?,
                    // sled removed it since we looked: its value was overwritten.
                    Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                    Err(e) => return Err(e),
                }
            }
            directory::sync(&self.blobs)?;
        }
        *synced = present;
        Ok(())
    }
}

fn stopped() -> StoreError {
    StoreError::Stopped { engine: ENGINE }
}

fn engine_error(action: &'static str, error: sled::Error) -> StoreError {
    match error {
        sled::Error::Io(e) => directory::io_error(ENGINE, action, e),
        e => StoreError::Engine { engine: ENGINE, action, source: Box::new(e) },
    }
}

impl Store for SledStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.gate.check()?;
        let value = self.db.get(key).map_err(|e| engine_error("reading", e))?;
        Ok(value.map(|value| value.to_vec()))
    }

    fn scan(
        &self,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        order: Order,
        limit: usize,
    ) -> Result<Vec<Entry>, StoreError> {
        self.gate.check()?;
        if bounds::is_empty(from, to) {
            return Ok(Vec::new());
        }
        let _no_batch = self.batches.read().map_err(|_| stopped())?;
        let range = self.db.range::<&[u8], _>((from, to));
        let owned = |entry: sled::Result<(IVec, IVec)>| {
            entry.map(|(key, value)| (key.to_vec(), value.to_vec())).map_err(|e| engine_error("scanning", e))
        };
        match order {
            Order::Ascending => range.take(limit).map(owned).collect(),
            Order::Descending => range.rev().take(limit).map(owned).collect(),
        }
    }

    fn apply(&self, batch: WriteBatch) -> Result<(), StoreError> {
        self.gate.apply(|| self.write(batch))
    }

    fn flush(&self) -> Result<(), StoreError> {
        self.gate.flush(|| self.sync())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, symlink};

    /// A file whose fsync fails (EINVAL).
    const UNSYNCABLE: &str = "/dev/null";

    fn put(store: &SledStore, key: &[u8], value: Vec<u8>) {
        let mut batch = WriteBatch::new();
        batch.put(key, value);
        store.apply(batch).unwrap();
    }

    fn flush_fails_for_good(store: &SledStore) {
        assert!(matches!(store.flush(), Err(StoreError::Engine { .. })));
        assert!(matches!(store.flush(), Err(StoreError::Stopped { .. })));
        assert!(matches!(store.get(b"k"), Err(StoreError::Stopped { .. })));
    }

    #[test]
    fn the_handle_is_that_of_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let store = SledStore::open(dir.path()).unwrap();
        let log = std::fs::metadata(dir.path().join(DIRECTORY).join("db")).unwrap();
        assert_eq!(store.files.log.metadata().unwrap().ino(), log.ino());
    }

    #[test]
    fn a_flush_syncs_the_log() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = SledStore::open(dir.path()).unwrap();
        put(&store, b"k", vec![1]);
        store.flush().unwrap();
        put(&store, b"k", vec![2]);
        store.files.log = File::open(UNSYNCABLE).unwrap();
        flush_fails_for_good(&store);
    }

    #[test]
    fn a_flush_syncs_new_blobs() {
        let dir = tempfile::tempdir().unwrap();
        let store = SledStore::open(dir.path()).unwrap();
        put(&store, b"k", vec![1; 300_000]);
        let blobs = std::fs::read_dir(&store.files.blobs).unwrap().count();
        assert!(blobs > 0);
        store.flush().unwrap();
        assert_eq!(store.files.synced.lock().unwrap().len(), blobs);

        put(&store, b"k", vec![2]);
        symlink(UNSYNCABLE, store.files.blobs.join("1")).unwrap();
        flush_fails_for_good(&store);
    }
}
