//! A machine's records (EVENTS 1): each key is a leaf of the state tree, so that a proof shows its value or its absence.

use std::cell::RefCell;
use std::fmt;

use concordat_events::Hash;
use concordat_machine::{RecordChange, Records};
use concordat_store::{Store, StoreError};
use serde_json::Value;

use crate::keys;
use crate::layer::Read;
use crate::record;
use crate::work::Work;

/// The records of one machine, read from the leaves.
pub(crate) struct Kept<'a, R> {
    read: &'a R,
    machine: Hash,
    /// The engine knows no errors of a store: the first one waits here.
    failed: RefCell<Option<StoreError>>,
}

impl<'a, R: Read> Kept<'a, R> {
    pub(crate) fn new(read: &'a R, machine: Hash) -> Self {
        Kept { read, machine, failed: RefCell::new(None) }
    }

    /// Must be asked before what came of the reading is used.
    pub(crate) fn check(self) -> Result<(), StoreError> {
        self.failed.into_inner().map_or(Ok(()), Err)
    }
}

impl<R> fmt::Debug for Kept<'_, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kept").field("machine", &self.machine).finish_non_exhaustive()
    }
}

impl<R: Read> Records for Kept<'_, R> {
    fn get(&self, name: &str, key: &str) -> Option<Value> {
        match record::leaf(self.read, &keys::record_key(&self.machine, name, key)) {
            Ok(value) => value,
            Err(error) => {
                self.failed.borrow_mut().get_or_insert(error);
                None
            }
        }
    }
}

impl<S: Store> Work<'_, S> {
    /// Makes what a step changed part of the state.
    pub(crate) fn keep(&mut self, machine: &Hash, changes: Vec<RecordChange>) -> Result<(), StoreError> {
        for RecordChange { record, key, value } in changes {
            let leaf = keys::record_key(machine, &record, &key);
            match value {
                Some(value) => self.set(&leaf, &value)?,
                None => self.remove(&leaf),
            }
        }
        Ok(())
    }
}
