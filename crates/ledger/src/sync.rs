//! State for a custodian that is far behind or new (PROTOCOL 8): leaves out of one ledger, a whole state into another.
//!
//! Promises: what is restored has the root of the certified head, or nothing is; indexes and due times are derived from
//! the leaves, so a restored ledger goes on like the one it came from. The caller vouches for the head: it checked the
//! group's signature on its log event. Leaves come from anybody.

use concordat_events::genesis::GenesisError;
use concordat_events::{Genesis, Hash, Head};
use concordat_store::{Entry, Store, StoreError, WriteBatch};

use crate::draft::StoredTip;
use crate::error::{OpenError, RestoreError};
use crate::keys;
use crate::layer::{Certified, Overlay, Read};
use crate::ledger::Ledger;
use crate::limits::{LEAF_BYTES, PAGE};
use crate::record::{Claim, FixedLeaf, QueuedEffect, QueuedSnapshot, Record, decode, leaf};
use crate::{tree, work};

impl<S: Store> Ledger<S> {
    /// State leaves in the order of their keys, from the one after `after`: at most `limit`, and 256. All pages must be
    /// read at one tip to restore from them.
    pub fn leaves(&self, after: Option<&[u8]>, limit: usize) -> Result<Vec<Entry>, StoreError> {
        let from = after.map_or_else(Vec::new, |key| [&keys::leaf(key), &[0][..]].concat());
        let mut entries = self.certified().scan(&keys::leaf(b""), &from, limit.min(PAGE))?;
        for (key, _) in &mut entries {
            key.drain(..1);
        }
        Ok(entries)
    }

    /// Builds the state of a certified head from its leaves, for an empty store. The caller applies and flushes the
    /// batch, then opens the ledger.
    ///
    /// # Errors
    /// [`RestoreError::Root`] if the leaves aren't those of this head: one is missing, changed or too many.
    pub fn restore(
        store: S,
        genesis: &Genesis,
        head: &Head,
        leaves: impl IntoIterator<Item = Entry>,
    ) -> Result<WriteBatch, RestoreError> {
        genesis.check().map_err(OpenError::Genesis)?;
        let cluster = genesis.cluster().map_err(OpenError::Genesis)?;
        if head.cluster != cluster {
            return Err(OpenError::OtherCluster { stored: head.cluster, expected: cluster }.into());
        }
        let mut certified = Certified::new(store);
        if certified.stored(keys::TIP)?.is_some() {
            return Err(RestoreError::NotEmpty);
        }
        let mut over = Overlay::new(&certified);
        let mut changes = Vec::new();
        for (key, value) in leaves {
            if key.len().saturating_add(value.len()) > LEAF_BYTES {
                return Err(RestoreError::TooLarge { got: key.len().saturating_add(value.len()) });
            }
            changes.push((tree::place(&key), Some(tree::value_hash(&value))));
            over.put(keys::leaf(&key), value);
        }
        // One place twice would be two leaves of one key; the first wins here and the root tells.
        changes.sort_unstable();
        changes.dedup_by_key(|(place, _)| *place);
        let got = tree::update(&mut over, changes)?;
        if got != head.state_root {
            return Err(RestoreError::Root { got, expected: head.state_root });
        }
        // From here on the leaves are certified, so what they say can be relied on.
        index(&mut over)?;
        let next_due_ms = next_due(&over, head.time_ms)?;
        let log = head
            .log_event(genesis.group_key, genesis.kinds.log)
            .map_err(|error| OpenError::Genesis(GenesisError::Json(error)))?;
        over.put(keys::TIP.to_vec(), StoredTip::new(log.id(), head, next_due_ms).encode()?);
        let writes = over.writes;
        Ok(certified.install(head.height, writes))
    }
}

/// Calls `each` with every leaf under `prefix`.
fn each_leaf<R: Read>(
    read: &R,
    prefix: &[u8],
    mut each: impl FnMut(&[u8], &[u8]) -> Result<(), StoreError>,
) -> Result<(), StoreError> {
    let prefix = keys::leaf(prefix);
    let mut from = prefix.clone();
    loop {
        let page = read.scan(&prefix, &from, PAGE)?;
        let Some((last, _)) = page.last() else { return Ok(()) };
        from = [last.as_slice(), &[0]].concat();
        for (key, value) in &page {
            each(key, value)?;
        }
    }
}

/// Derives the indexes of timers and sources from the machines.
fn index<R: Read>(over: &mut Overlay<'_, R>) -> Result<(), StoreError> {
    let mut entries = Vec::new();
    let prefix = keys::leaf(keys::MACHINES);
    each_leaf(over, keys::MACHINES, |key, value| {
        let hex = key.strip_prefix(prefix.as_slice()).and_then(|hex| std::str::from_utf8(hex).ok());
        let id = hex.and_then(Hash::from_hex).ok_or_else(|| keys::corrupt(key, "expected a machine's id"))?;
        let record: Record = decode(key, value)?;
        entries.extend(record.next_due_ms().map(|due| keys::timer(due, &id)));
        if !record.state.is_done() {
            let fixed: FixedLeaf = leaf(over, &keys::definition_key(&id))?
                .ok_or_else(|| keys::corrupt(key, "a machine without its definition"))?;
            let sources = fixed.filters().map_err(|error| keys::corrupt(key, &error))?;
            entries.extend(work::source_prefixes(&sources).iter().map(|prefix| keys::source(prefix, &id)));
        }
        Ok(())
    })?;
    for entry in entries {
        over.put(entry, Vec::new());
    }
    Ok(())
}

/// When the state first needs a batch, as execution would have said.
fn next_due<R: Read>(read: &R, time_ms: u64) -> Result<Option<u64>, StoreError> {
    let second = time_ms / 1000;
    let (mut left, mut waits) = (false, false);
    let mut note = |after: Option<u64>| match after.is_some_and(|after| after >= second) {
        true => waits = true,
        false => left = true,
    };
    each_leaf(read, keys::QUEUED_EFFECTS, |key, value| {
        let effect: QueuedEffect = decode(key, value)?;
        let claim: Option<Claim> = match effect.d() {
            Some(d) => leaf(read, &keys::claim_key(effect.kind, d))?,
            None => None,
        };
        note(claim.and_then(|claim| claim.at));
        Ok(())
    })?;
    each_leaf(read, keys::QUEUED_SNAPSHOTS, |key, value| {
        note(decode::<QueuedSnapshot>(key, value)?.after);
        Ok(())
    })?;
    let queued = if left { Some(time_ms) } else { waits.then_some((second + 1) * 1000) };
    let timer = read.scan(keys::TIMER_PREFIX, &[], 1)?;
    let timer = timer.first().and_then(|(key, _)| keys::timer_of(key)).map(|(due, _)| due);
    Ok([timer, queued].into_iter().flatten().min())
}
