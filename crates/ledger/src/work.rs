//! The state while a head is executed: an overlay for the leaves, and the machines it has touched, parsed once per head.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use concordat_events::change::Charter;
use concordat_events::kinds::{SNAPSHOT, allowed_effect};
use concordat_events::limits::{EVENT_BYTES, EVENT_TAGS, MAX_INTEGER, NAME_BYTES};
use concordat_events::{Genesis, Hash, Template};
use concordat_machine::{Effect, Step};
use concordat_store::{Store, StoreError};
use nostr::Filter;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::cache::Definitions;
use crate::keys;
use crate::layer::{Certified, Overlay, Read};
use crate::limits;
use crate::mail::{Mail, mail_id};
use crate::reason::Refusal;
use crate::record::{self, Claim, Fixed, FixedLeaf, QueuedEffect, QueuedSnapshot, Record};

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
    /// Messages that the current request or timer may still send.
    pub(crate) mail_left: usize,
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

    /// Makes a step part of the state, or refuses it whole for what it asks the group to sign.
    pub(crate) fn commit(&mut self, id: Hash, slot: &mut Slot, step: Step) -> Verdict {
        let (effects, mail) = match self.vet(id, slot, step.effects)? {
            Ok(vetted) => vetted,
            Err(refusal) => return Ok(Err(refusal)),
        };
        self.keep(&id, step.records)?;
        self.mail_left = self.mail_left.saturating_sub(mail.len());
        slot.record.sent = slot.record.sent.saturating_add(mail.len() as u64);
        self.mail.extend(mail);
        let was_done = slot.record.state.is_done();
        slot.record.state = step.state;
        slot.changed = true;
        self.touched.insert(id);
        for effect in effects {
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
        Ok(Ok(()))
    }

    /// Notes a change that no snapshot shows.
    pub(crate) fn note(slot: &mut Slot) -> &mut Record {
        slot.changed = true;
        &mut slot.record
    }

    /// Checks what a step wants signed. Nothing is written yet.
    fn vet(&self, id: Hash, slot: &Slot, effects: Vec<Effect>) -> Verdict<(Vec<QueuedEffect>, Vec<Mail>)> {
        let (mut vetted, mut mail) = (Vec::new(), Vec::new());
        for effect in effects {
            let (kind, content, tags) = match effect {
                Effect::Publish { kind, content, tags } => (kind, content, tags),
                Effect::Send { to, kind, data } => {
                    let known = match Hash::from_hex(&to) {
                        Some(to) if to == id || self.machines.contains_key(&to) => Some(to),
                        Some(to) => self.has(&keys::machine_key(&to))?.then_some(to),
                        None => None,
                    };
                    let Some(to) = known else { return Ok(Err(Refusal::UnknownMachine)) };
                    if mail.len() >= self.mail_left {
                        return Ok(Err(Refusal::Busy));
                    }
                    let n = slot.record.sent.saturating_add(mail.len() as u64);
                    mail.push(Mail { from: id, to, kind, data, id: mail_id(&id, n) });
                    continue;
                }
                // Definitions that could ask for this are refused at admission; none gets here.
                Effect::Start { .. } => {
                    return Ok(Err(Refusal::Machine(concordat_machine::Reason::EffectError)));
                }
            };
            if !allowed_effect(kind) || kind == self.genesis.kinds.log {
                return Ok(Err(Refusal::ForbiddenKind));
            }
            let effect = QueuedEffect { machine: id, kind, tags, content };
            if effect.tags.len() > EVENT_TAGS
                || self.template(&effect, MAX_INTEGER.unsigned_abs()).signed_size() > EVENT_BYTES
            {
                return Ok(Err(Refusal::TooLarge));
            }
            if let Some(d) = effect.d() {
                if d.len() > NAME_BYTES {
                    return Ok(Err(Refusal::TooLarge));
                }
                let claim: Option<Claim> = self.leaf(&keys::claim_key(kind, d))?;
                if claim.is_some_and(|claim| claim.machine != id) {
                    return Ok(Err(Refusal::DTaken));
                }
            }
            vetted.push(effect);
        }
        let new = u32::try_from(vetted.len()).unwrap_or(u32::MAX);
        if new > 0 && slot.record.effects.saturating_add(new) > limits::QUEUED_EFFECTS {
            return Ok(Err(Refusal::Busy));
        }
        Ok(Ok((vetted, mail)))
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
            created_at,
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
                self.set(&keys::machine_key(&id), &slot.record)?;
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
    let fixed = Arc::new(leaf.parse().map_err(|error| keys::corrupt(&key, &error))?);
    definitions.put(*id, fixed.clone());
    Ok(fixed)
}
