//! The default engine: [redb](https://docs.rs/redb), a copy-on-write B-tree in one file.
//!
//! Promises what [`Store`] promises. `apply` is a commit with `Durability::None`, which costs no system call of
//! syncing; `flush` is an empty commit with `Durability::Immediate`, which by redb's documentation and source
//! (`WriteTransaction::durable_commit`) makes all commits before it durable, in one step: after a crash either all of
//! them are there or, if it wasn't finished, none. A prefix in both cases. Threads that flush at the same time share
//! one sync.
//!
//! Both take redb's one write lock: an `apply` waits while a `flush` syncs. Reads never wait.

use crate::gate::Gate;
use crate::{Entry, Op, Order, Store, StoreError, WriteBatch, bounds, directory};
use redb::{
    Builder, Database, DatabaseError, Durability, ReadOnlyTable, ReadableDatabase, ReadableTable,
    TableDefinition, WriteTransaction,
};
use std::io;
use std::ops::Bound;
use std::path::Path;

const ENGINE: &str = "redb";

/// The database in its directory.
const FILE: &str = "concordat.redb";

/// The database while it is being made: redb refuses a file whose creation was cut off, so it gets its name last.
const UNFINISHED: &str = "concordat.redb.new";

const TABLE: TableDefinition<'static, &[u8], &[u8]> = TableDefinition::new("concordat");

/// Bytes of pages kept in memory. The default of 1 GiB would let an idle custodian grow far above the 60 MiB that it
/// is allowed; the heads, locks and timers read all the time fit many times, and the kernel caches the file anyway.
const CACHE: usize = 12 << 20;

/// A store in a redb file.
pub struct RedbStore {
    db: Database,
    gate: Gate,
    /// Holds the directory. Dropped after `db`, which still writes when it is closed.
    _lock: directory::Lock,
}

impl RedbStore {
    /// Opens the database in `dir`, or creates both.
    ///
    /// # Errors
    /// [`StoreError::InUse`] if another process has it open; [`StoreError::Engine`] if it can't be read: a damaged
    /// file is never replaced by an empty one.
    pub fn open(dir: &Path) -> Result<Self, StoreError> {
        let lock = directory::open(ENGINE, dir)?;
        let path = dir.join(FILE);
        let exists =
            path.try_exists().map_err(|e| directory::io_error(ENGINE, "looking for the database", e))?;
        let db = if exists {
            Self::builder().open(path).map_err(|e| open_error(dir, "opening", e))?
        } else {
            Self::create(dir)?
        };
        Ok(Self { db, gate: Gate::new(ENGINE), _lock: lock })
    }

    fn builder() -> Builder {
        let mut builder = Builder::new();
        builder.set_cache_size(CACHE);
        builder
    }

    /// Makes an empty database that is there completely or not at all.
    fn create(dir: &Path) -> Result<Database, StoreError> {
        let creating = |e| directory::io_error(ENGINE, "creating", e);
        let unfinished = dir.join(UNFINISHED);
        match std::fs::remove_file(&unfinished) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(creating(e)),
            _ => {}
        }
        let db = Self::builder().create(&unfinished).map_err(|e| open_error(dir, "creating", e))?;
        make_table(&db).map_err(|e| engine_error("creating", e))?;
        std::fs::rename(&unfinished, dir.join(FILE)).map_err(creating)?;
        directory::sync(dir).map_err(creating)?;
        Ok(db)
    }

    fn read(&self) -> Result<ReadOnlyTable<&'static [u8], &'static [u8]>, redb::Error> {
        Ok(self.db.begin_read()?.open_table(TABLE)?)
    }

    fn write(&self, batch: &WriteBatch) -> Result<(), redb::Error> {
        let txn = begin(&self.db, Durability::None)?;
        {
            let mut table = txn.open_table(TABLE)?;
            for op in batch.ops() {
                match op {
                    Op::Put(key, value) => {
                        table.insert(key.as_slice(), value.as_slice())?;
                    }
                    Op::Delete(key) => {
                        table.remove(key.as_slice())?;
                    }
                    Op::DeleteRange(from, to) => {
                        if !bounds::is_empty_span(from, to) {
                            table.retain_in(from.as_slice()..to.as_slice(), |_, _| false)?;
                        }
                    }
                }
            }
        }
        Ok(txn.commit()?)
    }

    fn sync(&self) -> Result<(), redb::Error> {
        Ok(begin(&self.db, Durability::Immediate)?.commit()?)
    }

    fn get_owned(&self, key: &[u8]) -> Result<Option<Vec<u8>>, redb::Error> {
        Ok(self.read()?.get(key)?.map(|guard| guard.value().to_vec()))
    }

    fn collect(
        &self,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        order: Order,
        limit: usize,
    ) -> Result<Vec<Entry>, redb::Error> {
        // The table keeps its snapshot alive for the range.
        let table = self.read()?;
        let mut range = ReadableTable::range::<&[u8]>(&table, (from, to))?;
        let mut entries = Vec::new();
        while entries.len() < limit {
            let next = match order {
                Order::Ascending => range.next(),
                Order::Descending => range.next_back(),
            };
            let Some(next) = next else { break };
            let (key, value) = next?;
            entries.push((key.value().to_vec(), value.value().to_vec()));
        }
        Ok(entries)
    }
}

/// Makes the table, which reads need to exist.
fn make_table(db: &Database) -> Result<(), redb::Error> {
    let txn = begin(db, Durability::Immediate)?;
    txn.open_table(TABLE)?;
    Ok(txn.commit()?)
}

/// Begins a write.
///
/// Durable commits are two-phase: pages first, synced; then the byte that makes them current, synced again. redb's
/// default writes both and syncs once, and finds out after a crash, by XXH3 checksums, whether all of it arrived. That
/// hash is not cryptographic, and part of what we store was written by participants and relays, so "the last flush was
/// whole" would rest on nobody crafting a page. Single-phase commits also had the one bug that could lose a durable
/// transaction without a word (redb issue 1290, fixed in 4.2), and a lost safety record is a second signature for the
/// same height. The price is a second sync per flush, shared by all who wait for it.
fn begin(db: &Database, durability: Durability) -> Result<WriteTransaction, redb::Error> {
    let mut txn = db.begin_write()?;
    txn.set_durability(durability)?;
    txn.set_two_phase_commit(true);
    Ok(txn)
}

fn engine_error(action: &'static str, error: redb::Error) -> StoreError {
    match error {
        redb::Error::Io(e) => directory::io_error(ENGINE, action, e),
        e => StoreError::Engine { engine: ENGINE, action, source: Box::new(e) },
    }
}

fn open_error(dir: &Path, action: &'static str, error: DatabaseError) -> StoreError {
    match error {
        DatabaseError::DatabaseAlreadyOpen => directory::in_use(dir),
        e => engine_error(action, e.into()),
    }
}

impl Store for RedbStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.gate.check()?;
        self.get_owned(key).map_err(|e| engine_error("reading", e))
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
        self.collect(from, to, order, limit).map_err(|e| engine_error("scanning", e))
    }

    fn apply(&self, batch: WriteBatch) -> Result<(), StoreError> {
        self.gate.apply(|| self.write(&batch).map_err(|e| engine_error("writing", e)))
    }

    fn flush(&self) -> Result<(), StoreError> {
        self.gate.flush(|| self.sync().map_err(|e| engine_error("flushing", e)))
    }
}

#[cfg(test)]
mod power_loss;
