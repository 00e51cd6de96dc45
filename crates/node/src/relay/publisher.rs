//! Publishes the outbox: oldest first, until enough relays were *seen* to hold each event. An OK is no proof: relays say
//! OK to what they don't keep (nostr-rs-relay to a stale replaceable event), so everything is read back.
//!
//! A relay that is gone or silent rests a while: it holds up neither the others nor what they can settle without it.
//!
//! All custodians publish everything. So that not everything is sent n times, each waits for its turn, looks what is
//! there already, and sends what is missing.

use std::collections::{BTreeMap, BTreeSet};
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::Duration;

use concordat_events::{Hash, ValidEvent};
use concordat_store::{Store, StoreError};
use futures::StreamExt;
use nostr::{Filter, Kind};
use openraft::{AsyncRuntime, Instant};
use tokio::sync::watch;

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

/// First rest of a relay that gave no answer; it doubles until one comes.
const REST_FIRST: Duration = Duration::from_secs(1);

/// Longest rest: a relay that came back is used again within this.
const REST_MOST: Duration = Duration::from_secs(30);

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

struct Try<I> {
    /// When it may be tried again.
    at: I,
    failures: u32,
    /// Relays seen to hold it.
    held: BTreeSet<String>,
    /// The event, once it was read: its signature is checked once, not in every round.
    event: Option<ValidEvent>,
}

/// A relay that gave no answer.
struct Rest<I> {
    until: I,
    failures: u32,
}

/// Empties an [`Outbox`] through a [`RelayLink`], in the time of `Rt`.
pub struct Publisher<Rt: AsyncRuntime, S, L> {
    outbox: Outbox<S>,
    link: Arc<L>,
    policy: PublishPolicy,
    tries: BTreeMap<(u64, u16), Try<Rt::Instant>>,
    rests: BTreeMap<String, Rest<Rt::Instant>>,
    status: watch::Sender<OutboxStatus>,
    runtime: PhantomData<fn() -> Rt>,
}

impl<Rt: AsyncRuntime, S: Store, L: RelayLink> Publisher<Rt, S, L> {
    /// A publisher for this queue.
    pub fn new(outbox: Outbox<S>, link: Arc<L>, policy: PublishPolicy) -> Self {
        let relays = policy.relays.iter().map(|relay| (relay.clone(), RelayHealth::default())).collect();
        let status = watch::Sender::new(OutboxStatus { relays, ..OutboxStatus::default() });
        Publisher {
            outbox,
            link,
            policy,
            tries: BTreeMap::new(),
            rests: BTreeMap::new(),
            status,
            runtime: PhantomData,
        }
    }

    /// Follows how it goes.
    pub fn status(&self) -> watch::Receiver<OutboxStatus> {
        self.status.subscribe()
    }

    /// Publishes for ever. Ends only when the store fails, which stops the process.
    pub async fn run(mut self) -> StoreError {
        loop {
            match self.pass(Rt::Instant::now()).await {
                Err(error) => return error,
                Ok(None) => self.outbox.woken().await,
                // Until the next one is due, or there is more.
                Ok(Some(at)) => {
                    let _ = Rt::timeout_at(at, self.outbox.woken()).await;
                }
            }
        }
    }

    /// Publishes until the queue is empty; for the end of a program that wants all it made to be visible.
    pub async fn drain(&mut self) -> Result<(), StoreError> {
        while let Some(at) = self.pass(Rt::Instant::now()).await? {
            Rt::sleep_until(at).await;
        }
        Ok(())
    }

    /// One round over what is due now. Returns when to come again; `None` if the queue is empty.
    pub async fn pass(&mut self, now: Rt::Instant) -> Result<Option<Rt::Instant>, StoreError> {
        let places = self.outbox.places(LOOK)?;
        let present: BTreeSet<_> = places.iter().copied().collect();
        self.tries.retain(|key, _| present.contains(key));
        let mut due = Vec::new();
        for (height, place) in places {
            let at = now + self.policy.delay(height);
            let first = || Try { at, failures: 0, held: BTreeSet::new(), event: None };
            let tried = self.tries.entry((height, place)).or_insert_with(first);
            if tried.at > now || due.len() >= WINDOW {
                continue;
            }
            if tried.event.is_none() {
                tried.event = self.outbox.entry(height, place)?.map(|entry| entry.event);
            }
            due.extend(tried.event.clone().map(|event| OutboxEntry { height, place, event }));
        }
        if !due.is_empty() {
            self.round(&due, now).await?;
        }
        let next = self.tries.values().map(|tried| tried.at).min();
        let waiting = self.tries.len();
        let stuck = self.tries.values().filter(|tried| tried.failures >= STUCK_AFTER).count();
        self.status.send_modify(|status| {
            status.waiting = waiting;
            status.stuck = stuck;
        });
        Ok(next)
    }

    async fn round(&mut self, due: &[OutboxEntry], now: Rt::Instant) -> Result<(), StoreError> {
        let awake = |relay: &&String| self.rests.get(*relay).is_none_or(|rest| rest.until <= now);
        let relays: Vec<String> = self.policy.relays.iter().filter(awake).cloned().collect();
        let mut rounds = Vec::new();
        for relay in &relays {
            let missing: Vec<&ValidEvent> =
                due.iter().filter(|entry| !self.holds(entry, relay)).map(|entry| &entry.event).collect();
            rounds.push(self.one_relay(relay, missing));
        }
        let results = futures::future::join_all(rounds).await;
        for (relay, result) in relays.iter().zip(results) {
            self.note(relay, &result, due);
            self.rest(relay, result.error.as_ref(), now);
        }
        for entry in due {
            let key = (entry.height, entry.place);
            let Some(tried) = self.tries.get_mut(&key) else { continue };
            if tried.held.len() >= self.policy.enough.max(1) {
                self.outbox.remove(entry)?;
                self.tries.remove(&key);
                continue;
            }
            let pause = RETRY_FIRST.saturating_mul(2u32.saturating_pow(tried.failures)).min(RETRY_MOST);
            tried.failures = tried.failures.saturating_add(1);
            tried.at = now + pause;
        }
        Ok(())
    }

    /// Sends one who gave no answer to rest; any answer ends it.
    fn rest(&mut self, relay: &str, error: Option<&RelayError>, now: Rt::Instant) {
        if !error.is_some_and(is_silence) {
            self.rests.remove(relay);
            return;
        }
        let rest = self.rests.entry(relay.to_owned()).or_insert(Rest { until: now, failures: 0 });
        let pause = REST_FIRST.saturating_mul(2u32.saturating_pow(rest.failures)).min(REST_MOST);
        rest.failures = rest.failures.saturating_add(1);
        // The wait for the answer was none: the rest begins when it was given up.
        rest.until = Rt::Instant::now().max(now) + pause;
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
        let sent: Vec<_> = missing.iter().map(|event| self.link.publish(relay, event)).collect();
        let mut answers = futures::stream::iter(sent).buffered(AT_ONCE);
        while let Some(answer) = answers.next().await {
            let Err(error) = answer else { continue };
            let gone = is_silence(&error);
            round.error = Some(error);
            if gone {
                // It wouldn't answer the next question either; what it has taken is seen in the next round.
                return round;
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
        held: &mut BTreeSet<Hash>,
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

    fn note(&mut self, relay: &str, round: &RelayRound, due: &[OutboxEntry]) {
        for entry in due.iter().filter(|entry| round.held.contains(&entry.event.id())) {
            if let Some(tried) = self.tries.get_mut(&(entry.height, entry.place)) {
                tried.held.insert(relay.to_owned());
            }
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
    held: BTreeSet<Hash>,
    error: Option<RelayError>,
}

/// Was there no answer at all?
fn is_silence(error: &RelayError) -> bool {
    matches!(error, RelayError::Unreachable { .. } | RelayError::Timeout { .. })
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
