//! The guard's check of log entries, by the rules of `finality`: each entry is checked once, then kept until it is delivered.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use concordat_finality::message::Body;
use concordat_finality::wrapper::check_entry;
use concordat_finality::{Context, Msg};

use super::hash;
use crate::order::WrapperCheck;

#[derive(Default)]
struct Checked {
    /// Entries that wait to be delivered, by their place.
    entries: BTreeMap<u64, Msg>,
    /// Custodians that the epoch's start names.
    named: BTreeSet<u16>,
}

/// See the module's header.
pub(super) struct EntryCheck {
    context: Arc<Context>,
    checked: Mutex<Checked>,
}

impl EntryCheck {
    pub fn new(context: Arc<Context>) -> Self {
        EntryCheck { context, checked: Mutex::default() }
    }

    fn checked(&self) -> MutexGuard<'_, Checked> {
        self.checked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes an entry that was made here: it needs no second check.
    pub fn put(&self, number: u64, entry: Msg) {
        self.checked().entries.insert(number, entry);
    }

    /// The entry of a place, if it was checked since the group was opened.
    pub fn take(&self, number: u64) -> Option<Msg> {
        self.checked().entries.remove(&number)
    }

    /// An entry that stood in the own log, read again.
    pub fn reread(&self, bytes: &[u8]) -> Option<Msg> {
        use prost::Message as _;
        let envelope = concordat_finality::wire::Envelope::decode(bytes).ok()?;
        concordat_finality::Message::check(&self.context, envelope).ok()
    }
}

impl WrapperCheck for EntryCheck {
    fn check(
        &self,
        epoch: u64,
        position: u64,
        previous: Option<&[u8; 32]>,
        bytes: &[u8],
    ) -> Result<[u8; 32], String> {
        let named = {
            let checked = self.checked();
            if let Some(entry) = checked.entries.get(&position).filter(|entry| entry.to_bytes() == bytes) {
                return Ok(*entry.digest.as_bytes());
            }
            checked.named.clone()
        };
        let previous = previous.map(hash);
        let entry = check_entry(&self.context, &named, epoch, position, previous.as_ref(), bytes)
            .map_err(|error| error.to_string())?;
        let digest = *entry.digest.as_bytes();
        let mut checked = self.checked();
        if let Body::EpochStart(start) = &entry.body {
            checked.named.extend(start.evidence.iter().map(|evidence| evidence.finding.culprit));
        }
        checked.entries.insert(position, entry);
        Ok(digest)
    }
}
