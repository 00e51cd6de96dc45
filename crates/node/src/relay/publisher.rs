//! Publishes the outbox: oldest first, until enough relays were *seen* to hold each event. An OK is no proof: relays say
//! OK to what they don't keep (nostr-rs-relay to a stale replaceable event), so everything is read back.
//!
//! All custodians publish everything. So that not everything is sent n times, each waits for its turn, looks what is
//! there already, and sends what is missing.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use concordat_events::{Hash, ValidEvent};
use concordat_store::{Store, StoreError};
use futures::StreamExt;
use nostr::{Filter, Kind};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::outbox::{Outbox, OutboxEntry};
use super::{RelayError, RelayLink};

/// Entries handled at a time: one question with so many ids is short, and relays serve 500 events an answer.
const WINDOW: usize = 64;

/// Entries looked at for some that may be tried now: those that a relay refuses must not block the rest.
const LOOK: usize = 4_096;

/// First pause before an entry is tried again; it doubles.
const RETRY_FIRST: Duration = Duration::from_secs(1);

/// Longest pause.
const RETRY_MOST: Duration = Duration::from_secs(300);

/// Events on their way to one relay: hides its round trip, and stays below what relays take as a flood.
const AT_ONCE: usize = 16;

/// Failed rounds after which an entry is reported as stuck.
const STUCK_AFTER: u32 = 5;

/// How publishing goes.
#[derive(Clone, Debug)]
pub struct PublishPolicy {
    /// Relays to write to: m of them.
    pub relays: Vec<String>,
    /// How many must hold an event: j.
    pub enough: usize,
    /// How many custodians' turns come before ours at height 0, and how many custodians there are. The turns rotate with
    /// the height.
    pub turn: (u64, u64),
    /// How long a turn is: a relay's round trip.
    pub stagger: Duration,
    /// Wait for one answer.
    pub deadline: Duration,
}

impl PublishPolicy {
    /// More than half of the relays, so that a reader who asks half of them finds everything.
    pub fn new(relays: Vec<String>, place: usize, custodians: usize) -> Self {
        PublishPolicy {
            enough: relays.len() / 2 + 1,
            relays,
            turn: (place as u64, (custodians as u64).max(1)),
            stagger: Duration::from_millis(400),
            deadline: Duration::from_secs(10),
        }
    }

    fn delay(&self, height: u64) -> Duration {
        let (place, custodians) = self.turn;
        let turns = place.wrapping_add(height).checked_rem(custodians).unwrap_or(0);
        self.stagger.saturating_mul(u32::try_from(turns).unwrap_or(u32::MAX))
    }
}

/// One relay as the publisher sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RelayHealth {
    /// Events seen to be held since the start.
    pub held: u64,
    /// The last error, gone with the next success.
    pub error: Option<String>,
    /// It refuses events for good: what it says. An operator must act.
    pub refuses: Option<String>,
}

/// How the outbox is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OutboxStatus {
    /// Each relay.
    pub relays: BTreeMap<String, RelayHealth>,
    /// Entries waiting, as far as was looked.
    pub waiting: usize,
    /// Entries that failed several times.
    pub stuck: usize,
}

#[derive(Default)]
struct Try {
    /// When it may be tried again; none before its first turn.
    at: Option<Instant>,
    failures: u32,
    /// Relays seen to hold it.
    held: HashSet<String>,
}

/// Empties an [`Outbox`] through a [`RelayLink`].
pub struct Publisher<S, L> {
    outbox: Outbox<S>,
    link: Arc<L>,
    policy: PublishPolicy,
    tries: HashMap<(u64, u16), Try>,
    status: watch::Sender<OutboxStatus>,
}

impl<S: Store, L: RelayLink> Publisher<S, L> {
    /// A publisher for this queue.
    pub fn new(outbox: Outbox<S>, link: Arc<L>, policy: PublishPolicy) -> Self {
        let relays = policy.relays.iter().map(|relay| (relay.clone(), RelayHealth::default())).collect();
        let status = watch::Sender::new(OutboxStatus { relays, ..OutboxStatus::default() });
        Publisher { outbox, link, policy, tries: HashMap::new(), status }
    }

    /// Follows how it goes.
    pub fn status(&self) -> watch::Receiver<OutboxStatus> {
        self.status.subscribe()
    }

    /// Publishes for ever. Ends only when the store fails, which stops the process.
    pub async fn run(mut self) -> StoreError {
        loop {
            match self.pass(Instant::now()).await {
                Err(error) => return error,
                Ok(None) => self.outbox.woken().await,
                // Until the next one is due, or there is more.
                Ok(Some(at)) => {
                    let _ = timeout_at(at, self.outbox.woken()).await;
                }
            }
        }
    }

    /// Publishes until the queue is empty; for the end of a program that wants all it made to be visible.
    pub async fn drain(&mut self) -> Result<(), StoreError> {
        while let Some(at) = self.pass(Instant::now()).await? {
            sleep_until(at).await;
        }
        Ok(())
    }

    /// One round over what is due now. Returns when to come again; `None` if the queue is empty.
    pub async fn pass(&mut self, now: Instant) -> Result<Option<Instant>, StoreError> {
        let entries = self.outbox.oldest(LOOK)?;
        let present: HashSet<_> = entries.iter().map(|entry| (entry.height, entry.place)).collect();
        self.tries.retain(|key, _| present.contains(key));
        for entry in &entries {
            let tried = self.tries.entry((entry.height, entry.place)).or_default();
            tried.at.get_or_insert(now + self.policy.delay(entry.height));
        }
        let due: Vec<&OutboxEntry> =
            entries.iter().filter(|entry| self.at(entry) <= Some(now)).take(WINDOW).collect();
        if !due.is_empty() {
            self.round(&due, now).await?;
        }
        let left: Vec<Instant> = self.tries.values().filter_map(|tried| tried.at).collect();
        let stuck = self.tries.values().filter(|tried| tried.failures >= STUCK_AFTER).count();
        self.status.send_modify(|status| {
            status.waiting = left.len();
            status.stuck = stuck;
        });
        Ok(left.into_iter().min())
    }

    fn at(&self, entry: &OutboxEntry) -> Option<Instant> {
        self.tries.get(&(entry.height, entry.place)).and_then(|tried| tried.at)
    }

    async fn round(&mut self, due: &[&OutboxEntry], now: Instant) -> Result<(), StoreError> {
        let relays = self.policy.relays.clone();
        let rounds = relays.iter().map(|relay| {
            let missing: Vec<&ValidEvent> =
                due.iter().filter(|entry| !self.holds(entry, relay)).map(|entry| &entry.event).collect();
            self.one_relay(relay, missing)
        });
        let results = futures::future::join_all(rounds).await;
        for (relay, result) in relays.iter().zip(results) {
            self.note(relay, &result, due);
        }
        for entry in due {
            let key = (entry.height, entry.place);
            let tried = self.tries.entry(key).or_default();
            if tried.held.len() >= self.policy.enough.max(1) {
                self.outbox.remove(entry)?;
                self.tries.remove(&key);
                continue;
            }
            let pause = RETRY_FIRST.saturating_mul(2u32.saturating_pow(tried.failures)).min(RETRY_MOST);
            tried.failures = tried.failures.saturating_add(1);
            tried.at = Some(now + pause);
        }
        Ok(())
    }

    fn holds(&self, entry: &OutboxEntry, relay: &str) -> bool {
        self.tries.get(&(entry.height, entry.place)).is_some_and(|tried| tried.held.contains(relay))
    }

    /// Looks what is there, sends what is missing, reads back. The ids that the relay holds, or something newer in
    /// their place; and what went wrong.
    async fn one_relay(&self, relay: &str, events: Vec<&ValidEvent>) -> RelayRound {
        let mut round = RelayRound::default();
        if events.is_empty() {
            return round;
        }
        if let Err(error) = self.look(relay, &events, &mut round.held).await {
            round.error = Some(error);
            return round;
        }
        let missing: Vec<&ValidEvent> =
            events.iter().copied().filter(|event| !round.held.contains(&event.id())).collect();
        let mut answers =
            futures::stream::iter(&missing).map(|event| self.link.publish(relay, event)).buffered(AT_ONCE);
        while let Some(answer) = answers.next().await {
            let Err(error) = answer else { continue };
            let gone = matches!(error, RelayError::Unreachable { .. } | RelayError::Timeout { .. });
            round.error = Some(error);
            if gone {
                break;
            }
        }
        drop(answers);
        // A refusal may mean that something newer is there, an OK that nothing is: what counts is what reads back.
        if let Err(error) = self.look(relay, &missing, &mut round.held).await {
            round.error = Some(error);
        } else if events.iter().all(|event| round.held.contains(&event.id())) {
            round.error = None;
        } else if round.error.is_none() {
            let message = "said OK to an event that it doesn't give back".to_owned();
            round.error = Some(RelayError::Later { relay: relay.to_owned(), message });
        }
        round
    }

    /// Adds the ids of those events that a relay holds, or has replaced by something newer.
    async fn look(
        &self,
        relay: &str,
        events: &[&ValidEvent],
        held: &mut HashSet<Hash>,
    ) -> Result<(), RelayError> {
        if events.is_empty() {
            return Ok(());
        }
        let ids = events.iter().map(|event| nostr::EventId::from(event.id()));
        let found = self.link.fetch(relay, Filter::new().ids(ids), self.policy.deadline).await?;
        held.extend(found.iter().map(ValidEvent::id));
        for event in events.iter().filter(|event| is_replaceable(event)) {
            if held.contains(&event.id()) {
                continue;
            }
            // One question each: relays answer several `d` values at once wrongly (the embedded one did).
            let mut filter = Filter::new().author(event.author()).kind(Kind::from_u16(event.kind()));
            if let Some(d) = event.tag("d") {
                filter = filter.identifier(d);
            }
            let found = self.link.fetch(relay, filter, self.policy.deadline).await?;
            if found.iter().any(|newer| supersedes(newer, event)) {
                held.insert(event.id());
            }
        }
        Ok(())
    }

    fn note(&mut self, relay: &str, round: &RelayRound, due: &[&OutboxEntry]) {
        for entry in due.iter().filter(|entry| round.held.contains(&entry.event.id())) {
            self.tries.entry((entry.height, entry.place)).or_default().held.insert(relay.to_owned());
        }
        if let Some(error) = &round.error {
            tracing::warn!(%error, "publishing");
        }
        self.status.send_modify(|status| {
            let health = status.relays.entry(relay.to_owned()).or_default();
            health.held = health.held.saturating_add(round.held.len() as u64);
            health.error = round.error.as_ref().map(ToString::to_string);
            match &round.error {
                Some(error) if error.is_final() => health.refuses = Some(error.to_string()),
                None if !round.held.is_empty() => health.refuses = None,
                _ => {}
            }
        });
    }
}

#[derive(Default)]
struct RelayRound {
    held: HashSet<Hash>,
    error: Option<RelayError>,
}

/// Does a relay keep only the newest event of this kind (NIP-01)?
fn is_replaceable(event: &ValidEvent) -> bool {
    let kind = Kind::from_u16(event.kind());
    kind.is_replaceable() || kind.is_addressable()
}

/// Does `newer` stand in the place of `event` (NIP-01: the later one; of two of one second the lower id)?
fn supersedes(newer: &ValidEvent, event: &ValidEvent) -> bool {
    newer.author() == event.author()
        && newer.kind() == event.kind()
        && newer.tag("d") == event.tag("d")
        && (newer.created_at(), event.id()) > (event.created_at(), newer.id())
}
