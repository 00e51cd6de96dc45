//! The store of a custodian, whichever engine its configuration names.

use std::ops::Bound;
use std::path::Path;
use std::sync::{Arc, Weak};

use concordat_store::{Entry, Order, Store, StoreError, WriteBatch};

use super::life::RunError;
use crate::config::{Config, Engine};
use crate::interrupted::step;

/// One store for everything that a custodian keeps: one flush covers the safety record, the state and the log. A type of its
/// own, so that tasks that hold it have no lifetime to name. Copies share the store.
#[derive(Clone)]
pub(crate) struct Db(Arc<dyn Store>);

impl Db {
    /// Opens the store in a directory.
    pub fn open(config: &Config, path: &Path) -> Result<Self, RunError> {
        Ok(match config.storage.engine {
            Engine::Redb => Db(Arc::new(concordat_store::redb::RedbStore::open(path)?)),
            Engine::Sled => Db(Arc::new(concordat_store::sled::SledStore::open(path)?)),
        })
    }
}

impl Db {
    /// Tells whether anybody still has it open.
    pub fn weak(&self) -> Weak<dyn Store> {
        Arc::downgrade(&self.0)
    }
}

impl Store for Db {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.0.get(key)
    }

    fn scan(
        &self,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
        order: Order,
        limit: usize,
    ) -> Result<Vec<Entry>, StoreError> {
        self.0.scan(from, to, order, limit)
    }

    fn apply(&self, batch: WriteBatch) -> Result<(), StoreError> {
        step().map_err(|error| ended(error, "writing"))?;
        self.0.apply(batch)
    }

    fn flush(&self) -> Result<(), StoreError> {
        step().map_err(|error| ended(error, "flushing"))?;
        self.0.flush()
    }
}

fn ended(error: std::io::Error, action: &'static str) -> StoreError {
    StoreError::Engine { engine: "store", action, source: Box::new(error) }
}
