//! Requests that wait for a certificate: one queue per custodian, drained round robin, bounded per author and custodian.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};

use concordat_events::hash::Hash;
use concordat_events::{PublicKey, ValidEvent};

use crate::limits::{FORWARD_LONGEST, POOL_BYTES, POOL_PER_AUTHOR, POOL_PER_CUSTODIAN};

/// Ids that have left a queue before it is swept.
const SWEEP: usize = 256;

/// A waiting request.
#[derive(Clone, Debug)]
struct Waiting {
    event: ValidEvent,
    /// Whose queue it stands in: the custodian that took it in.
    from: u16,
    /// When it came, ms.
    since_ms: u64,
    /// Is it in a batch of the running epoch?
    ordered: bool,
    /// How long the pause was since it was sent to the running epoch's leader before, ms; 0 if it wasn't.
    pause_ms: u64,
}

/// The pool of one custodian.
#[derive(Clone, Debug, Default)]
pub struct Pool {
    waiting: HashMap<Hash, Waiting>,
    /// Ids that aren't in a batch yet, per custodian. May hold ids that have left since; they are skipped.
    queues: BTreeMap<u16, VecDeque<Hash>>,
    counts: HashMap<u16, usize>,
    bytes: HashMap<u16, usize>,
    authors: HashMap<(u16, PublicKey), usize>,
    unordered: usize,
    /// Own requests by the time at which they are sent to the leader.
    forward: BTreeSet<(u64, Hash)>,
    /// Own requests by the time at which they came.
    own: BTreeSet<(u64, Hash)>,
    /// Ordered in the running epoch before they came in here.
    early: HashSet<Hash>,
    /// The queue that is drained next.
    turn: u16,
}

impl Pool {
    /// Takes a request in from custodian `from` (`own`: this one's intake). `false` if it is known or its queue is full.
    pub fn add(&mut self, event: ValidEvent, from: u16, now_ms: u64, forward_at: Option<u64>) -> bool {
        let id = event.id();
        if self.waiting.contains_key(&id) {
            return false;
        }
        let author = (from, event.author());
        let size = event.json().len();
        // Looked up, not made: what is refused leaves nothing behind.
        if self.authors.get(&author).is_some_and(|count| *count >= POOL_PER_AUTHOR)
            || self.counts.get(&from).is_some_and(|count| *count >= POOL_PER_CUSTODIAN)
            || self.bytes.get(&from).is_some_and(|bytes| bytes + size > POOL_BYTES)
        {
            return false;
        }
        *self.authors.entry(author).or_default() += 1;
        *self.counts.entry(from).or_default() += 1;
        *self.bytes.entry(from).or_default() += size;
        let ordered = self.early.remove(&id);
        if !ordered {
            self.unordered += 1;
            self.queues.entry(from).or_default().push_back(id);
        }
        if let Some(at) = forward_at {
            self.forward.insert((at, id));
            self.own.insert((now_ms, id));
        }
        self.waiting.insert(id, Waiting { event, from, since_ms: now_ms, ordered, pause_ms: 0 });
        true
    }

    /// The next request to order, taken round robin from the custodians' queues.
    pub fn take_next(&mut self) -> Option<ValidEvent> {
        let turns: Vec<u16> = self
            .queues
            .range(self.turn..)
            .chain(self.queues.range(..self.turn))
            .map(|(number, _)| *number)
            .collect();
        for number in turns {
            let Some(queue) = self.queues.get_mut(&number) else { continue };
            while let Some(id) = queue.pop_front() {
                if let Some(waiting) = self.waiting.get_mut(&id).filter(|waiting| !waiting.ordered) {
                    waiting.ordered = true;
                    self.unordered = self.unordered.saturating_sub(1);
                    self.turn = number.saturating_add(1);
                    return Some(waiting.event.clone());
                }
            }
        }
        None
    }

    /// Puts a request back that was taken by [`Pool::take_next`] and didn't fit.
    pub fn put_back(&mut self, id: &Hash) {
        if let Some(waiting) = self.waiting.get_mut(id).filter(|waiting| waiting.ordered) {
            waiting.ordered = false;
            self.unordered += 1;
            self.queues.entry(waiting.from).or_default().push_front(*id);
        }
    }

    /// A request stands in a batch of the running epoch.
    pub fn mark_ordered(&mut self, id: Hash) {
        match self.waiting.get_mut(&id) {
            Some(waiting) if !waiting.ordered => {
                waiting.ordered = true;
                self.unordered = self.unordered.saturating_sub(1);
            }
            Some(_) => {}
            None => {
                if self.early.len() < POOL_PER_CUSTODIAN {
                    self.early.insert(id);
                }
            }
        }
    }

    /// A new epoch: nothing is ordered in it yet, and its leader has to be told again at `at_ms`.
    pub fn new_epoch(&mut self, at_ms: u64) {
        self.early.clear();
        self.queues.clear();
        let mut all: Vec<(u64, Hash, u16)> =
            self.waiting.iter().map(|(id, waiting)| (waiting.since_ms, *id, waiting.from)).collect();
        all.sort();
        for (_, id, from) in all {
            self.queues.entry(from).or_default().push_back(id);
        }
        for waiting in self.waiting.values_mut() {
            (waiting.ordered, waiting.pause_ms) = (false, 0);
        }
        self.unordered = self.waiting.len();
        self.forward = self.own.iter().map(|(_, id)| (at_ms, *id)).collect();
    }

    /// A request is certified, or can't be any more. Gives when it came in.
    pub fn remove(&mut self, id: &Hash) -> Option<u64> {
        self.early.remove(id);
        let waiting = self.waiting.remove(id)?;
        if !waiting.ordered {
            self.unordered = self.unordered.saturating_sub(1);
        }
        self.own.remove(&(waiting.since_ms, *id));
        let mut left = 0;
        if let Some(count) = self.counts.get_mut(&waiting.from) {
            *count = count.saturating_sub(1);
            left = *count;
        }
        if let Some(bytes) = self.bytes.get_mut(&waiting.from) {
            *bytes = bytes.saturating_sub(waiting.event.json().len());
        }
        // Who doesn't lead takes nothing out of the queues: what has left them is swept out now and then.
        if let Some(queue) = self.queues.get_mut(&waiting.from)
            && queue.len() > 2 * left + SWEEP
        {
            let waiting = &self.waiting;
            queue.retain(|id| waiting.get(id).is_some_and(|waiting| !waiting.ordered));
        }
        let author = (waiting.from, waiting.event.author());
        if let Some(count) = self.authors.get_mut(&author) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.authors.remove(&author);
            }
        }
        Some(waiting.since_ms)
    }

    /// A request of the pool: its signature needs no second check.
    pub fn get(&self, id: &Hash) -> Option<&ValidEvent> {
        self.waiting.get(id).map(|waiting| &waiting.event)
    }

    /// The ids of all that wait.
    pub fn ids(&self) -> impl Iterator<Item = Hash> {
        self.waiting.keys().copied()
    }

    /// Does nothing wait?
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// How many requests wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Is there anything that isn't in a batch yet?
    pub fn has_unordered(&self) -> bool {
        self.unordered > 0
    }

    /// Own requests that are due to be sent to the leader and that no batch holds yet. With `again_ms`, the first pause, each is due
    /// again after pauses that double: what was sent may be lost with its connection, and nobody else may know of it.
    pub fn to_forward(&mut self, now_ms: u64, again_ms: Option<u64>) -> Vec<ValidEvent> {
        let mut due = Vec::new();
        while let Some((at, id)) = self.forward.first().copied().filter(|(at, _)| *at <= now_ms) {
            self.forward.remove(&(at, id));
            let Some(waiting) = self.waiting.get_mut(&id).filter(|waiting| !waiting.ordered) else {
                continue;
            };
            due.push(waiting.event.clone());
            if let Some(first) = again_ms {
                let first = first.max(1);
                waiting.pause_ms = (waiting.pause_ms * 2).clamp(first, first * FORWARD_LONGEST);
                self.forward.insert((now_ms + waiting.pause_ms, id));
            }
        }
        due
    }

    /// When the next request is to be forwarded.
    pub fn next_forward(&self) -> Option<u64> {
        self.forward.first().map(|(at, _)| *at)
    }

    /// When the oldest own request came in.
    pub fn oldest_own(&self) -> Option<(u64, Hash)> {
        self.own.first().copied()
    }

    /// What an explorer tells states apart by: what waits and what is ordered, not since when.
    pub(crate) fn digest(&self) -> Vec<(Hash, u8)> {
        let waiting = self.waiting.iter().map(|(id, waiting)| (*id, waiting.ordered.into()));
        let mut parts: Vec<(Hash, u8)> = waiting.chain(self.early.iter().map(|id| (*id, 2))).collect();
        parts.sort_unstable();
        parts
    }

    /// Requests, oldest own ones first, at most `limit`.
    pub fn own(&self, limit: usize) -> Vec<ValidEvent> {
        self.own.iter().take(limit).filter_map(|(_, id)| self.get(id).cloned()).collect()
    }
}
