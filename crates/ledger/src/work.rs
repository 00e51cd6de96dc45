//! The state while a head is executed: an overlay for the leaves, and the machines it has touched, parsed once per head.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use concordat_events::change::Charter;
use concordat_events::kinds::SNAPSHOT;
use concordat_events::{Genesis, Hash, Template};
use concordat_machine::Step;
use concordat_store::{Store, StoreError};
use nostr::Filter;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::cache::Definitions;
use crate::keys;
use crate::layer::{Certified, Overlay, Read};
use crate::limits;
use crate::mail::Mail;
use crate::reason::Refusal;
use crate::record::{self, Claim, Fixed, FixedLeaf, QueuedEffect, QueuedSnapshot, Record};
use crate::vet::{Asker, Birth, Tally, Vetted};

/// What a rule says: done, or refused with a reason. The outer error is the store's.
pub(crate) type Verdict<T = ()> = Result<Result<T, Refusal>, StoreError>;

/// A machine in the hand.
pub(crate) struct Slot {
    pub(crate) fixed: Arc<Fixed>,
    pub(crate) record: Record,
    /// Its entry in the index of timers.
    indexed: Option<u64>,
    changed: bool,
}

impl Slot {
    pub(crate) fn new(fixed: Arc<Fixed>, record: Record) -> Self {
        Slot { fixed, record, indexed: None, changed: true }
    }
}

/// A head being executed.
pub(crate) struct Work<'a, S> {
    pub(crate) genesis: &'a Genesis,
    /// What is in force while this head is executed.
    pub(crate) charter: &'a Charter,
    /// What it puts in force instead.
    pub(crate) next: Option<Charter>,
    pub(crate) definitions: &'a Definitions,
    pub(crate) over: Overlay<'a, Certified<S>>,
    pub(crate) height: u64,
    /// Time of the current batch.
    pub(crate) now_ms: u64,
    /// Timers that the current batch may still fire.
    pub(crate) timers_left: usize,
    /// Messages between machines that wait to be delivered.
    pub(crate) mail: VecDeque<Mail>,
    /// Messages that the current request or timer may still send, and machines that it may still start, together.
    pub(crate) mail_left: usize,
    /// Machines that it may still start.
    pub(crate) starts_left: usize,
    /// Machines that the current batch may still start.
    pub(crate) batch_starts_left: usize,
    /// Is it a timer?
    pub(crate) by_timer: bool,
    machines: BTreeMap<Hash, Slot>,
    pub(crate) touched: BTreeSet<Hash>,
    next_place: Option<u64>,
}

impl<'a, S: Store> Work<'a, S> {
    pub(crate) fn new(
        genesis: &'a Genesis,
        charter: &'a Charter,
        definitions: &'a Definitions,
        certified: &'a Certified<S>,
        height: u64,
    ) -> Self {
        Work {
            genesis,
            charter,
            next: None,
            definitions,
            over: Overlay::new(certified),
            height,
            now_ms: 0,
            timers_left: 0,
            mail: VecDeque::new(),
            mail_left: 0,
            starts_left: 0,
            batch_starts_left: 0,
            by_timer: false,
            machines: BTreeMap::new(),
            touched: BTreeSet::new(),
            next_place: None,
        }
    }

    /// Reads a leaf.
    pub(crate) fn leaf<T: DeserializeOwned>(&self, key: &[u8]) -> Result<Option<T>, StoreError> {
        record::leaf(&self.over, key)
    }

    /// Does a leaf exist?
    pub(crate) fn has(&self, key: &[u8]) -> Result<bool, StoreError> {
        Ok(self.over.get(&keys::leaf(key))?.is_some())
    }

    /// Sets a leaf.
    pub(crate) fn set<T: Serialize>(&mut self, key: &[u8], value: &T) -> Result<(), StoreError> {
        let value = record::encode(key, value)?;
        self.over.put(keys::leaf(key), value);
        Ok(())
    }

    /// Removes a leaf.
    pub(crate) fn remove(&mut self, key: &[u8]) {
        self.over.delete(keys::leaf(key));
    }

    /// Takes a machine into the hand; it must be put back with [`Work::put`].
    pub(crate) fn take(&mut self, id: &Hash) -> Result<Option<Slot>, StoreError> {
        if let Some(slot) = self.machines.remove(id) {
            return Ok(Some(slot));
        }
        let Some(record) = self.leaf::<Record>(&keys::machine_key(id))? else { return Ok(None) };
        let fixed = fixed(self.definitions, &self.over, id)?;
        let indexed = record.next_due_ms();
        Ok(Some(Slot { fixed, record, indexed, changed: false }))
    }

    /// Puts a machine back.
    pub(crate) fn put(&mut self, id: Hash, mut slot: Slot) {
        let due = slot.record.next_due_ms();
        if slot.indexed != due {
            if let Some(old) = slot.indexed {
                self.over.delete(keys::timer(old, &id));
            }
            if let Some(due) = due {
                self.over.put(keys::timer(due, &id), Vec::new());
            }
            slot.indexed = due;
        }
        self.machines.insert(id, slot);
    }

    /// The next place in the queue of due events.
    fn place(&mut self) -> Result<u64, StoreError> {
        let place = match self.next_place {
            Some(place) => place,
            None => self.leaf(keys::QUEUE_NEXT)?.unwrap_or(0),
        };
        self.next_place = Some(place + 1);
        Ok(place)
    }

    /// Makes a step part of the state, or refuses it whole for what it asks for.
    pub(crate) fn commit(&mut self, id: Hash, slot: &mut Slot, step: Step) -> Verdict {
        match self.vet(&Asker::of(id, slot), step, &mut Tally::default())? {
            Ok(vetted) => self.apply(id, slot, vetted).map(Ok),
            Err(refusal) => Ok(Err(refusal)),
        }
    }

    /// Makes a step that was judged part of the state.
    pub(crate) fn apply(&mut self, id: Hash, slot: &mut Slot, step: Vetted) -> Result<(), StoreError> {
        self.keep(&id, step.records)?;
        self.mail_left = self.mail_left.saturating_sub(step.mail.len() + step.births.len());
        self.starts_left = self.starts_left.saturating_sub(step.births.len());
        self.batch_starts_left = self.batch_starts_left.saturating_sub(step.births.len());
        slot.record.sent = slot.record.sent.saturating_add(step.mail.len() as u64);
        slot.record.begun = slot.record.begun.saturating_add(step.births.len() as u64);
        self.mail.extend(step.mail);
        let was_done = slot.record.state.is_done();
        slot.record.state = step.state;
        slot.changed = true;
        self.touched.insert(id);
        for effect in step.effects {
            self.enqueue(slot, effect)?;
        }
        if slot.record.queued.is_none() {
            let place = self.place()?;
            slot.record.queued = Some(place);
            let entry = QueuedSnapshot { machine: id, after: slot.record.snapshot_s };
            self.set(&keys::queue_key(keys::QUEUED_SNAPSHOTS, place), &entry)?;
        }
        if slot.record.state.is_done() && !was_done {
            self.retire(&id, slot)?;
        }
        step.births.into_iter().try_for_each(|birth| self.bear(birth))
    }

    /// Makes a machine part of the state.
    pub(crate) fn bear(&mut self, birth: Birth) -> Result<(), StoreError> {
        let Birth { id, leaf, fixed, event, step } = birth;
        // One that is done once started never takes an input: it isn't indexed and doesn't count.
        let done = step.state.is_done();
        let mut slot = Slot::new(fixed.clone(), Record::new(self.now_ms, step.state.clone()));
        if self.by_timer {
            slot.record.begun_by_timers = limits::STARTS_BY_TIMERS;
        }
        if let Some(event) = event {
            self.enqueue(&mut slot, event)?;
        }
        self.apply(id, &mut slot, step)?;
        if !done {
            for prefix in source_prefixes(&fixed.sources) {
                self.over.put(keys::source(&prefix, &id), Vec::new());
            }
            let author = keys::author_key(&leaf.creator);
            let count: u32 = self.leaf(&author)?.unwrap_or(0);
            self.set(&author, &(count + 1))?;
        }
        self.set(&Self::snapshot_claim(&leaf.d), &Claim { machine: id, at: None, queued: None })?;
        self.set(&keys::definition_key(&id), &leaf)?;
        self.definitions.put(id, fixed);
        self.put(id, slot);
        Ok(())
    }

    /// Is there a machine of this id, in the state or in this head?
    pub(crate) fn knows(&self, id: &Hash) -> Result<bool, StoreError> {
        Ok(self.machines.contains_key(id) || self.has(&keys::machine_key(id))?)
    }

    /// Notes a change that no snapshot shows.
    pub(crate) fn note(slot: &mut Slot) -> &mut Record {
        slot.changed = true;
        &mut slot.record
    }

    /// Queues an effect. Under one (kind, `d`) only the newest counts, so it takes the place of one that still waits.
    fn enqueue(&mut self, slot: &mut Slot, effect: QueuedEffect) -> Result<(), StoreError> {
        let claimed = effect.d().map(|d| keys::claim_key(effect.kind, d));
        let mut place = None;
        if let Some(key) = &claimed {
            let claim = self.leaf::<Claim>(key)?;
            place = claim.as_ref().and_then(|claim| claim.queued);
            if place.is_none() {
                let new = self.place()?;
                let at = claim.and_then(|claim| claim.at);
                self.set(key, &Claim { machine: effect.machine, at, queued: Some(new) })?;
                slot.record.effects += 1;
                place = Some(new);
            }
        }
        let place = match place {
            Some(place) => place,
            None => {
                slot.record.effects += 1;
                self.place()?
            }
        };
        self.set(&keys::queue_key(keys::QUEUED_EFFECTS, place), &effect)
    }

    /// The event that an effect becomes when it is signed at `created_at`.
    pub(crate) fn template(&self, effect: &QueuedEffect, created_at: u64) -> Template {
        Template {
            author: self.genesis.group_key,
            created_at: effect.at.unwrap_or(created_at),
            kind: effect.kind,
            tags: effect.tags.clone(),
            content: effect.content.clone(),
        }
    }

    /// A machine that is done changes nothing any more: it leaves the indexes and its author's quota.
    fn retire(&mut self, id: &Hash, slot: &Slot) -> Result<(), StoreError> {
        for prefix in source_prefixes(&slot.fixed.sources) {
            self.over.delete(keys::source(&prefix, id));
        }
        let key = keys::author_key(&slot.fixed.creator);
        match self.leaf::<u32>(&key)?.unwrap_or(0) {
            0 | 1 => self.remove(&key),
            count => self.set(&key, &(count - 1))?,
        }
        Ok(())
    }

    /// Writes the machines back to their leaves. Call it once, at the end.
    pub(crate) fn write_back(&mut self) -> Result<(), StoreError> {
        for (id, slot) in std::mem::take(&mut self.machines) {
            if slot.changed {
                self.over.put(keys::leaf(&keys::machine_key(&id)), slot.record.canonical_bytes());
            }
        }
        if let Some(place) = self.next_place {
            self.set(keys::QUEUE_NEXT, &place)?;
        }
        Ok(())
    }

    /// The leaf that reserves `d` for a machine's snapshots.
    pub(crate) fn snapshot_claim(d: &str) -> Vec<u8> {
        keys::claim_key(SNAPSHOT, d)
    }
}

/// Where the index holds a machine with these filters: under each pair of kind and author that one of them names.
pub(crate) fn source_prefixes(sources: &[Filter]) -> BTreeSet<Vec<u8>> {
    let mut prefixes = BTreeSet::new();
    for filter in sources {
        // An empty list matches all, as if it weren't there.
        let kinds = filter.kinds.iter().flatten().map(|kind| Some(kind.as_u16()));
        let kinds: Vec<_> =
            if filter.kinds.iter().flatten().next().is_some() { kinds.collect() } else { vec![None] };
        let authors: Vec<_> = filter.authors.iter().flatten().map(Some).collect();
        let authors = if authors.is_empty() { vec![None] } else { authors };
        for kind in kinds {
            prefixes.extend(authors.iter().map(|author| keys::source_prefix(kind, *author)));
        }
    }
    prefixes
}

/// How many pairs these filters name, counted before any is made.
pub(crate) fn source_entries(sources: &[Filter]) -> usize {
    let len = |count: usize| count.max(1);
    let pairs = |filter: &Filter| {
        let kinds = filter.kinds.as_ref().map_or(0, |kinds| kinds.len());
        let authors = filter.authors.as_ref().map_or(0, |authors| authors.len());
        len(kinds).saturating_mul(len(authors))
    };
    sources.iter().map(pairs).fold(0, usize::saturating_add)
}

/// What never changes about a machine, from the cache or from its leaf.
pub(crate) fn fixed<R: Read>(
    definitions: &Definitions,
    read: &R,
    id: &Hash,
) -> Result<Arc<Fixed>, StoreError> {
    if let Some(fixed) = definitions.get(id) {
        return Ok(fixed);
    }
    let key = keys::definition_key(id);
    let leaf: FixedLeaf =
        record::leaf(read, &key)?.ok_or_else(|| keys::corrupt(&key, "a machine without its definition"))?;
    let parsed = match &leaf.of {
        // A machine that was started runs a definition with a text of its own: one step further, never two.
        Some(of) if of != id => fixed(definitions, read, of)?.definition.clone(),
        _ => leaf.definition().map_err(|error| keys::corrupt(&key, &error))?,
    };
    let fixed = Arc::new(leaf.fixed(parsed).map_err(|error| keys::corrupt(&key, &error))?);
    definitions.put(*id, fixed.clone());
    Ok(fixed)
}
