//! Far behind or new (PROTOCOL 8): instead of every head since, the state of one certified head is fetched in chunks.
//!
//! Promises: a chunk is checked against the root that the group signed before anything of it is written; the own state stays
//! until the other is whole; one peer is asked at a time, one chunk is in memory; a peer that lies, falls silent or drips is
//! passed over. Refuses: a state at or below the own certified height.

use concordat_events::batch::batches_root;
use concordat_events::head::Head;
use concordat_events::{Batch, Hash, ValidEvent};
use concordat_ledger::{Landing, RestoreError};
use concordat_store::Store;
use std::collections::BTreeSet;

use crate::certified::{Certified, Published};
use crate::core::{Core, Fatal};
use crate::effect::{Action, After, Alarm};
use crate::limits::{FETCH_STATE_MS, FROZEN_MS, STATE_RESTARTS};
use crate::message::{Body, CertifiedHead, FetchState, Heads, Kind, State};
use crate::record;
use crate::rules::Rules;
use crate::wire;

/// Timeouts after which a chunk isn't waited for any more: it is large.
const PATIENCE: u64 = 4;

/// Timeouts for which a state is kept that nobody asks for any more.
pub(crate) const IDLE: u64 = 8;

/// The states of other heads, as they are fetched and served.
#[derive(Clone, Debug, Default)]
pub(crate) struct Far {
    fetch: Option<Fetch>,
    /// Peers that lied or fell silent: asked again when there is nobody else.
    shunned: BTreeSet<u16>,
    /// How often a peer has named another head.
    restarts: u32,
    /// Since when a state is kept for others, and when it was last asked for, ms.
    served: Option<(u64, u64)>,
}

/// The state that is being fetched.
#[derive(Clone, Debug)]
struct Fetch {
    from: u16,
    log: Hash,
    head: Head,
    landing: Landing,
    since_ms: u64,
    asked_ms: u64,
}

impl Far {
    /// When something is due, ms.
    pub fn next_ms(&self, timeout_ms: u64) -> Option<u64> {
        let fetch = self.fetch.as_ref().map(|fetch| fetch.asked_ms + PATIENCE * timeout_ms);
        let served = self.served.map(|(_, used)| used + IDLE * timeout_ms);
        [fetch, served].into_iter().flatten().min()
    }
}

impl<S: Store, R: Rules> Core<S, R> {
    /// Names the head whose state this custodian serves: the one kept for others, or the newest.
    pub(crate) fn show_newest(&mut self, to: u16) -> Result<(), Fatal> {
        let Some(height) = self.ledger.frozen().or(self.ledger.tip().map(|tip| tip.height)) else {
            return Ok(());
        };
        let stored = record::get_head_bytes(&self.store, height)?;
        let Some(certificate) = stored.and_then(|head| head.certificate) else { return Ok(()) };
        let body = wire::Heads { heads: Vec::new(), newest: certificate.log_event };
        let message = self.seal_own(Kind::Heads, &body, Vec::new(), |_| Body::Heads(Heads::default()));
        if let Some(message) = message {
            self.send(to, message);
        }
        Ok(())
    }

    /// Answers with a chunk of the state that is kept, or begins to keep the newest.
    pub(crate) fn on_fetch_state(&mut self, to: u16, asked: FetchState) -> Result<(), Fatal> {
        let now = self.now.mono_ms;
        let tip = self.ledger.tip().map(|tip| tip.height);
        if self.ledger.frozen() != Some(asked.height) {
            // One at a time: who comes later is told of the one that is there.
            if self.ledger.frozen().is_some() || tip != Some(asked.height) {
                return self.show_newest(to);
            }
            self.ledger.freeze();
            self.far.served = Some((now, now));
        }
        if let Some((_, used)) = &mut self.far.served {
            *used = now;
        }
        let Some(chunk) = self.ledger.chunk(&asked.place)? else { return Ok(()) };
        let body = wire::State {
            height: asked.height,
            place: asked.place.as_bytes().to_vec(),
            beside: chunk.beside.iter().map(|hash| hash.as_bytes().to_vec()).collect(),
            leaves: chunk.leaves.into_iter().map(|(key, value)| wire::Leaf { key, value }).collect(),
        };
        let message = self.seal_own(Kind::State, &body, Vec::new(), |_| {
            Body::State(State { asked, chunk: concordat_ledger::Chunk::default() })
        });
        if let Some(message) = message {
            self.send(to, message);
        }
        Ok(())
    }

    /// A peer says that heads alone won't do, and whose state it serves. The group signed that head.
    pub(crate) fn on_newest(&mut self, from: u16, log: &ValidEvent, head: &Head) {
        if head.height < self.next_height() {
            return;
        }
        if let Some(fetch) = &self.far.fetch {
            // The state being fetched is gone where it came from; elsewhere nothing is asked for meanwhile.
            if fetch.from != from || fetch.head.height == head.height {
                return;
            }
            self.far.restarts += 1;
            if self.far.restarts > STATE_RESTARTS {
                return self.shun(from);
            }
        }
        if self.far.shunned.contains(&from) {
            let others: Vec<u16> = self.others().collect();
            if !others.iter().all(|peer| self.far.shunned.contains(peer)) {
                return;
            }
            self.far.shunned.clear();
        }
        let (landing, clear) = self.ledger.begin_landing(head.state_root);
        self.out.writes.append(clear);
        let now = self.now.mono_ms;
        self.far.fetch =
            Some(Fetch { from, log: log.id(), head: head.clone(), landing, since_ms: now, asked_ms: now });
        self.fetch_more();
    }

    /// Asks for the next chunk, or for the head itself once all are in.
    fn fetch_more(&mut self) {
        let now = self.now.mono_ms;
        let Some(fetch) = &mut self.far.fetch else { return };
        fetch.asked_ms = now;
        let (to, height) = (fetch.from, fetch.head.height);
        let message = match fetch.landing.next() {
            Some(place) => {
                let body = wire::FetchState { height, place: place.as_bytes().to_vec() };
                self.seal(Kind::FetchState, &body, Vec::new())
            }
            None => self.seal(Kind::FetchHeads, &wire::FetchHeads { from: height }, Vec::new()),
        };
        if let Some(message) = message {
            self.send(to, message);
        }
    }

    /// A chunk came in: checked against the root before anything of it is kept.
    pub(crate) fn on_state(&mut self, from: u16, state: &State) {
        let Some(fetch) = &mut self.far.fetch else { return };
        let expected = fetch.from == from
            && fetch.head.height == state.asked.height
            && fetch.landing.next() == Some(state.asked.place);
        if !expected {
            return;
        }
        match self.ledger.land(&mut fetch.landing, state.chunk.clone()) {
            Ok(writes) => {
                self.out.writes.append(writes);
                self.fetch_more();
            }
            Err(error) => {
                let (height, message) = (state.asked.height, error.to_string());
                self.alarm(Alarm::BadState { culprit: from, height, message });
                self.shun(from);
            }
        }
    }

    /// The head of a state that is whole: both take the place of the own ones, in one flush.
    pub(crate) fn try_adopt_state(&mut self, from: u16, shown: &CertifiedHead) -> Result<(), Fatal> {
        let Some(fetch) = self.far.fetch.as_ref().filter(|fetch| fetch.landing.next().is_none()) else {
            return Ok(());
        };
        let hashes: Vec<Hash> = shown.batches.iter().map(Batch::hash).collect();
        let same = shown.certificate.log.id() == fetch.log
            && batches_root(&hashes) == fetch.head.batches_root
            && fetch.from == from;
        if !same {
            return Ok(());
        }
        let Some(fetch) = self.far.fetch.take() else { return Ok(()) };
        let writes = match self.ledger.adopt(&fetch.landing, &fetch.head) {
            Ok(writes) => writes,
            Err(RestoreError::Store(error)) => return Err(error.into()),
            // It was overtaken by heads that were replayed meanwhile.
            Err(_) => return Ok(()),
        };
        (self.far.restarts, self.far.shunned) = (0, BTreeSet::new());
        // Only the log event is known to be what the group signed: the others are those of who executed the head.
        let events = vec![shown.certificate.log.clone()];
        let requests = shown.batches.iter().flat_map(|batch| batch.requests.iter().cloned()).collect();
        let published = Published { head: fetch.head.clone(), events, requests };
        record::put_head(&mut self.out.writes, shown, &published.events);
        record::drop_batches(&mut self.out.writes);
        self.out.writes.append(writes);
        self.epoch.jumped(self.next_height());
        self.settle(fetch.head.height, shown, &published);
        self.last = Some(shown.clone());
        self.repeat_certificate();
        self.effect(After::Flush, Action::Certified(Box::new(Certified::new(published))));
        self.hand_over();
        Ok(())
    }

    /// Passes over a peer, and asks the others what they have.
    fn shun(&mut self, peer: u16) {
        self.far.fetch = None;
        self.far.restarts = 0;
        self.far.shunned.insert(peer);
        for other in self.others() {
            self.ask_for_heads(other);
        }
    }

    /// Chunks that don't come, peers that drip, and a state that nobody fetches any more.
    pub(crate) fn watch_state(&mut self) {
        let (now, timeout) = (self.now.mono_ms, self.timeout());
        if let Some(fetch) = &self.far.fetch {
            let silent = now >= fetch.asked_ms + PATIENCE * timeout;
            if silent || now >= fetch.since_ms + FETCH_STATE_MS {
                self.shun(fetch.from);
            }
        }
        if let Some((since, used)) = self.far.served
            && (now >= used + IDLE * timeout || now >= since + FROZEN_MS)
        {
            self.far.served = None;
            self.ledger.thaw();
        }
    }
}
