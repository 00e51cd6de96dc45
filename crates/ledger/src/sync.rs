//! State for a custodian that is far behind or new (PROTOCOL 8), in chunks: each is a whole subtree of the state tree with the
//! hashes beside its path, so that it is complete and true, or refused, by itself.
//!
//! Promises: what takes the place of a state has the root of a certified head, and until then the old one stays; indexes and
//! due times are derived from the leaves, so the ledger goes on like the one it came from; memory holds one chunk. The caller
//! vouches for the head: it checked the group's signature on its log event. Chunks come from anybody.
//! Refuses: chunks that don't begin where the last one ended, leave leaves out, add or change one.

use concordat_events::genesis::GenesisError;
use concordat_events::{Charter, Hash, Head};
use concordat_store::{Entry, Store, StoreError, WriteBatch};

use crate::charter;
use crate::draft::{StoredTip, Tip};
use crate::error::{ChunkError, OpenError, RestoreError};
use crate::keys;
use crate::layer::{Overlay, Read, Writes};
use crate::ledger::Ledger;
use crate::limits::{CHUNK_BYTES, CHUNK_LEAVES, LEAF_BYTES, PAGE, PROOF_DEPTH};
use crate::record::{Claim, FixedLeaf, QueuedEffect, QueuedSnapshot, Record, decode, leaf};
use crate::tree::{self, bit, inner_hash, shared_bits};
use crate::work;

/// A subtree of a state: all leaves whose places begin like the one that was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chunk {
    /// The hashes beside its path, from the root down; as many as bits of the place that its leaves share.
    pub beside: Vec<Hash>,
    /// Its leaves, in the order of their places.
    pub leaves: Vec<Entry>,
}

impl Chunk {
    /// Checks the chunk at `from` against a state root. Gives the place where the next one begins; `None` after the last.
    ///
    /// # Errors
    /// See [`ChunkError`].
    pub fn check(&self, root: &Hash, from: &Hash) -> Result<Option<Hash>, ChunkError> {
        let depth = self.beside.len();
        if depth > PROOF_DEPTH || (depth..PROOF_DEPTH).any(|at| bit(from, at)) {
            return Err(ChunkError::Place);
        }
        let bytes: usize = self.leaves.iter().map(|(key, value)| key.len() + value.len()).sum();
        let oversized = self.leaves.iter().any(|(key, value)| key.len() + value.len() > LEAF_BYTES);
        if self.leaves.len() > CHUNK_LEAVES || oversized || (self.leaves.len() > 1 && bytes > CHUNK_BYTES) {
            return Err(ChunkError::TooLarge { leaves: self.leaves.len(), bytes });
        }
        let leaves = self.hashed();
        let ordered = leaves.windows(2).all(|pair| matches!(pair, [a, b] if a.0 < b.0));
        if !ordered || leaves.iter().any(|(place, _)| shared_bits(place, from) < depth) {
            return Err(ChunkError::Stray);
        }
        let mut hash = tree::subtree_hash(&leaves, depth);
        for (at, beside) in self.beside.iter().enumerate().rev() {
            hash = if bit(from, at) { inner_hash(beside, &hash) } else { inner_hash(&hash, beside) };
        }
        if hash != *root {
            return Err(ChunkError::Root { got: hash, expected: *root });
        }
        Ok(after(from, depth))
    }

    fn hashed(&self) -> Vec<(Hash, Hash)> {
        self.leaves.iter().map(|(key, value)| (tree::place(key), tree::value_hash(value))).collect()
    }
}

/// The first place after all those that share the first `depth` bits of `from`; `None` if there is none.
fn after(from: &Hash, depth: usize) -> Option<Hash> {
    let mut bytes = *from.as_bytes();
    for at in (0..depth).rev() {
        let (byte, mask) = (bytes.get_mut(at / 8)?, 0x80u8 >> (at % 8));
        if *byte & mask == 0 {
            *byte |= mask;
            return Some(Hash::from_bytes(bytes));
        }
        *byte &= !mask;
    }
    None
}

/// Cuts the chunk at `from`: the largest subtree that begins there and isn't too large.
fn cut<R: Read>(read: &R, from: &Hash) -> Result<Chunk, StoreError> {
    let least = (0..PROOF_DEPTH).rev().find(|at| bit(from, *at)).map_or(0, |at| at + 1);
    let (mut leaves, mut bytes, mut beyond) = (Vec::new(), 0, None);
    let mut next = keys::placed(from);
    'pages: loop {
        let page = read.scan(keys::PLACE_PREFIX, &next, PAGE)?;
        let Some((last, _)) = page.last() else { break };
        next = [last.as_slice(), &[0]].concat();
        for (at, key) in &page {
            let place = keys::place_of(at).ok_or_else(|| keys::corrupt(at, "expected a place"))?;
            let value = read.get(&keys::leaf(key))?;
            let value = value.ok_or_else(|| keys::corrupt(key, "the index names a leaf that isn't there"))?;
            bytes += key.len() + value.len();
            if !leaves.is_empty() && (bytes > CHUNK_BYTES || leaves.len() >= CHUNK_LEAVES) {
                beyond = Some(place);
                break 'pages;
            }
            leaves.push((place, key.clone(), value));
        }
    }
    // The first leaf that found no room lies outside.
    let depth = beyond.map_or(0, |place| shared_bits(&place, from) + 1).max(least);
    let mut beside = Vec::new();
    let (path, _) = tree::walk(read, from)?;
    beside.extend(path.into_iter().take(depth));
    let depth = beside.len();
    let inside = leaves.into_iter().take_while(|(place, ..)| shared_bits(place, from) >= depth);
    Ok(Chunk { beside, leaves: inside.map(|(_, key, value)| (key, value)).collect() })
}

/// How far the state of another head has been taken in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Landing {
    root: Hash,
    next: Option<Hash>,
}

impl Landing {
    /// The place at which the next chunk begins; `None` once all are in.
    pub fn next(&self) -> Option<Hash> {
        self.next
    }
}

impl<S: Store> Ledger<S> {
    /// Keeps the state of the certified head readable in chunks while the ledger goes on; one at a time.
    pub fn freeze(&mut self) {
        if let Some(height) = self.tip().map(|tip| tip.height) {
            self.certified_mut().freeze(height);
        }
    }

    /// The height of the state that is kept readable. It is let go by itself when too much has changed since.
    pub fn frozen(&self) -> Option<u64> {
        self.certified().frozen_height()
    }

    /// Lets the kept state go.
    pub fn thaw(&mut self) {
        self.certified_mut().thaw();
    }

    /// The chunk of the kept state that begins at `from`: zero for the first, then what [`Chunk::check`] gave.
    pub fn chunk(&self, from: &Hash) -> Result<Option<Chunk>, StoreError> {
        self.certified().frozen().map(|frozen| cut(&frozen, from)).transpose()
    }

    /// Begins to take in the state with this root; what an earlier attempt has left is removed by the writes.
    pub fn begin_landing(&self, root: Hash) -> (Landing, WriteBatch) {
        (Landing { root, next: Some(Hash::ZERO) }, self.certified().clear_spare())
    }

    /// Takes the next chunk in, beside the own state, which stays as it is. The caller applies the writes before the next one.
    ///
    /// # Errors
    /// A chunk that is refused leaves everything as it was.
    pub fn land(&self, landing: &mut Landing, chunk: Chunk) -> Result<WriteBatch, ChunkError> {
        let from = landing.next.ok_or(ChunkError::Place)?;
        landing.next = chunk.check(&landing.root, &from)?;
        let spare = self.certified().spare();
        let mut over = Overlay::new(&spare);
        tree::plant(&mut over, &from, &chunk.hashed(), &chunk.beside);
        for (key, value) in chunk.leaves {
            over.put(keys::placed(&tree::place(&key)), key.clone());
            over.put(keys::leaf(&key), value);
        }
        Ok(self.certified().spare_batch(over.writes))
    }

    /// The state that was taken in whole becomes the certified one. The caller applies and flushes the writes at once, with its
    /// own record of the certificate.
    ///
    /// # Errors
    /// [`RestoreError::Stale`] unless the head lies above the certified one, [`RestoreError::Incomplete`] if a chunk is
    /// missing, [`RestoreError::Root`] if it is another head's state.
    pub fn adopt(&mut self, landing: &Landing, head: &Head) -> Result<WriteBatch, RestoreError> {
        if head.cluster != self.cluster() {
            return Err(OpenError::OtherCluster { stored: head.cluster, expected: self.cluster() }.into());
        }
        if head.height < self.next_height() {
            return Err(RestoreError::Stale { height: head.height, next: self.next_height() });
        }
        if let Some(next) = landing.next {
            return Err(RestoreError::Incomplete { next });
        }
        let (writes, tip, next_due_ms, charter) = self.landed(head)?;
        let batch = self.certified_mut().move_over(head.height, writes);
        self.set_tip(tip, next_due_ms, charter);
        Ok(batch)
    }

    /// What the landed state still lacks.
    fn landed(&self, head: &Head) -> Result<(Writes, Tip, Option<u64>, Charter), RestoreError> {
        let spare = self.certified().spare();
        let got = tree::root(&spare)?;
        if got != head.state_root {
            return Err(RestoreError::Root { got, expected: head.state_root });
        }
        let charter = charter::in_force(&spare, self.genesis())?;
        if charter.roster_hash != head.roster {
            let error = keys::corrupt(keys::ROSTER, "the head names another roster than its state");
            return Err(OpenError::Store(error).into());
        }
        let mut over = Overlay::new(&spare);
        index(&mut over)?;
        let next_due_ms = next_due(&over, head.time_ms)?;
        let log = head
            .log_event(self.group(), self.genesis().kinds.log)
            .map_err(|error| OpenError::Genesis(GenesisError::Json(error)))?;
        let id = log.id();
        over.put(keys::TIP.to_vec(), StoredTip::new(id, head, next_due_ms).encode()?);
        let tip = Tip { height: head.height, id, time_ms: head.time_ms, head: head.clone() };
        Ok((over.writes, tip, next_due_ms, charter))
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
