//! The events that a head makes due beside its log event: effects in order, then snapshots, oldest due first.
//!
//! At most as many as a head may carry; the rest keep their places in certified state. `created_at` is the head's
//! second and strictly increases per (kind, `d`), because relays keep the lowest id among equals (PROTOCOL 10): who was
//! signed in this second already waits for the next, and is passed over, not overtaken by its own later self.

use std::collections::BTreeSet;

use concordat_events::output::Snapshot;
use concordat_events::{Hash, Template};
use concordat_store::{Entry, Store, StoreError};

use crate::keys;
use crate::layer::Read;
use crate::record::{Claim, QueuedEffect, QueuedSnapshot, decode};
use crate::work::Work;

/// Entries of a queue read at a time.
const PAGE: usize = 128;

/// What is due at a head.
pub(crate) struct Due {
    pub(crate) effects: Vec<Template>,
    snapshots: Vec<DueSnapshot>,
    /// When something queued can next be signed, ms since 1970.
    pub(crate) next_ms: Option<u64>,
}

/// A snapshot that lacks only what the head's id and root give it.
struct DueSnapshot {
    machine: Hash,
    d: String,
    transition: Option<Hash>,
    content: String,
}

impl Due {
    /// The snapshots of the head with this id and root.
    pub(crate) fn snapshots(
        &self,
        group: concordat_events::PublicKey,
        log: Hash,
        head: &concordat_events::Head,
    ) -> impl Iterator<Item = Template> {
        self.snapshots.iter().map(move |due| {
            Snapshot {
                group,
                d: &due.d,
                machine: due.machine,
                transition: due.transition,
                height: head.height,
                log,
                root: head.state_root,
                time_ms: head.time_ms,
                content: &due.content,
            }
            .template()
        })
    }
}

/// What became of an entry of a queue.
enum Fate {
    Signed,
    /// Signed before in this second.
    Waits,
}

impl<S: Store> Work<'_, S> {
    /// Takes from the queues what a head at `time_ms` signs beside `first`, `room` events in all.
    pub(crate) fn take_due(
        &mut self,
        time_ms: u64,
        first: Vec<Template>,
        room: usize,
    ) -> Result<Due, StoreError> {
        let second = time_ms / 1000;
        let mut due = Due { effects: first, snapshots: Vec::new(), next_ms: None };
        let mut ids: BTreeSet<Hash> = due.effects.iter().map(Template::id).collect();
        let (mut waits, mut left) = (false, false);
        for queue in [keys::QUEUED_EFFECTS, keys::QUEUED_SNAPSHOTS] {
            let mut from = keys::leaf(queue);
            'queue: loop {
                let page = self.over.scan(&keys::leaf(queue), &from, PAGE)?;
                let Some((last, _)) = page.last() else { break };
                from = [last.as_slice(), &[0]].concat();
                for entry in &page {
                    if due.effects.len() + due.snapshots.len() >= room {
                        left = true;
                        break 'queue;
                    }
                    let fate = if queue == keys::QUEUED_EFFECTS {
                        self.effect(entry, second, &mut due, &mut ids)?
                    } else {
                        self.snapshot(entry, second, &mut due)?
                    };
                    match fate {
                        Fate::Signed => self.over.delete(entry.0.clone()),
                        Fate::Waits => waits = true,
                    }
                }
            }
        }
        // What lacked room is due now; what waits, with the next second.
        due.next_ms = if left { Some(time_ms) } else { waits.then_some((second + 1) * 1000) };
        Ok(due)
    }

    fn effect(
        &mut self,
        (key, value): &Entry,
        second: u64,
        due: &mut Due,
        ids: &mut BTreeSet<Hash>,
    ) -> Result<Fate, StoreError> {
        let effect: QueuedEffect = decode(key, value)?;
        if let Some(d) = effect.d() {
            let claim_key = keys::claim_key(effect.kind, d);
            let mut claim: Claim =
                self.leaf(&claim_key)?.ok_or_else(|| keys::corrupt(key, "an effect without its claim"))?;
            if claim.at.is_some_and(|at| at >= second) {
                return Ok(Fate::Waits);
            }
            claim.at = Some(second);
            claim.queued = None;
            self.set(&claim_key, &claim)?;
        }
        let template = self.template(&effect, second);
        // Two effects with the same id are the same event, and one signature serves both.
        if ids.insert(template.id()) {
            due.effects.push(template);
        }
        if let Some(mut slot) = self.take(&effect.machine)? {
            let record = Self::note(&mut slot);
            record.effects = record.effects.saturating_sub(1);
            self.put(effect.machine, slot);
        }
        Ok(Fate::Signed)
    }

    fn snapshot(&mut self, (key, value): &Entry, second: u64, due: &mut Due) -> Result<Fate, StoreError> {
        let queued: QueuedSnapshot = decode(key, value)?;
        if queued.after.is_some_and(|after| after >= second) {
            return Ok(Fate::Waits);
        }
        let id = queued.machine;
        let mut slot =
            self.take(&id)?.ok_or_else(|| keys::corrupt(key, "a snapshot of a machine that isn't there"))?;
        let record = Self::note(&mut slot);
        record.snapshot_s = Some(second);
        record.queued = None;
        let content = String::from_utf8(record.state.snapshot_bytes());
        due.snapshots.push(DueSnapshot {
            machine: id,
            d: slot.fixed.d.clone(),
            transition: slot.record.last,
            content: content.map_err(|error| keys::corrupt(key, &error.to_string()))?,
        });
        self.put(id, slot);
        Ok(Fate::Signed)
    }
}
