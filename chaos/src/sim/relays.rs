//! Relays: they keep events as NIP-01 says, go down and come back, and hand requests to whoever listens. What custodians publish
//! is shown to the world first.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use concordat_events::{Hash, ValidEvent};
use concordat_node::order::AsyncRuntime;
use concordat_node::relay::{Interest, Received, RelayError, RelayLink};
use nostr::Filter;
use nostr::filter::MatchEventOptions;
use openraft_rt_sim::SimRuntime;
use tokio::sync::{mpsc, watch};

use super::outside::{Mail, Post};

/// Half a relay's round trip.
const WAY: Duration = Duration::from_millis(15);

/// How often a listener gets what is new.
const LISTEN: Duration = Duration::from_millis(120);

/// One relay.
#[derive(Default)]
struct Relay {
    down: bool,
    /// Every event in the order of its coming; what was replaced is marked.
    log: Vec<ValidEvent>,
    held: BTreeSet<Hash>,
    /// The newest of each address.
    newest: BTreeMap<(String, u16, String), (u64, Hash)>,
}

impl Relay {
    /// Takes an event as NIP-01 says: of one address the newest stays, of equally old ones the lowest id.
    fn take(&mut self, event: &ValidEvent) {
        if self.held.contains(&event.id()) {
            return;
        }
        let addressable = (30_000..40_000).contains(&event.kind());
        if addressable || (10_000..20_000).contains(&event.kind()) {
            let d = event.tag("d").filter(|_| addressable).unwrap_or_default().to_owned();
            let address = (event.author().to_hex(), event.kind(), d);
            let at = event.created_at();
            if let Some((known, id)) = self.newest.get(&address) {
                if *known > at || (*known == at && *id < event.id()) {
                    return;
                }
                self.held.remove(id);
            }
            self.newest.insert(address, (at, event.id()));
        }
        self.held.insert(event.id());
        self.log.push(event.clone());
    }

    fn stored(&self) -> impl Iterator<Item = &ValidEvent> {
        self.log.iter().filter(|event| self.held.contains(&event.id()))
    }
}

/// All relays of a run. Copies are one.
#[derive(Clone)]
pub struct Relays {
    relays: Arc<Mutex<Vec<Relay>>>,
    post: Arc<Post>,
}

fn index(url: &str) -> Option<usize> {
    url.strip_prefix("ws://relay")?.parse().ok()
}

fn matches(filter: &Filter, event: &ValidEvent) -> bool {
    filter.match_event(event.event(), MatchEventOptions::new())
}

impl Relays {
    /// `count` relays that hold nothing.
    pub fn new(count: usize, post: Arc<Post>) -> Self {
        let relays = (0..count).map(|_| Relay::default()).collect();
        Relays { relays: Arc::new(Mutex::new(relays)), post }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Relay>> {
        self.relays.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a relay go down, or come back.
    pub fn set_down(&self, which: usize, down: bool) {
        if let Some(relay) = self.lock().get_mut(which) {
            relay.down = down;
        }
    }

    /// A user publishes an event, to every relay that is there.
    pub fn publish_all(&self, event: &ValidEvent) {
        for relay in self.lock().iter_mut().filter(|relay| !relay.down) {
            relay.take(event);
        }
    }

    /// Everything that any relay holds.
    pub fn everything(&self) -> Vec<ValidEvent> {
        let mut all = BTreeMap::new();
        for relay in self.lock().iter() {
            all.extend(relay.stored().map(|event| (event.id(), event.clone())));
        }
        all.into_values().collect()
    }

    async fn arrive(&self, url: &str) -> Result<usize, RelayError> {
        SimRuntime::sleep(WAY).await;
        let which = index(url).ok_or_else(|| RelayError::Unknown { relay: url.into() })?;
        match self.lock().get(which) {
            Some(relay) if !relay.down => Ok(which),
            Some(_) => Err(RelayError::Unreachable { relay: url.into(), message: "nobody listens".into() }),
            None => Err(RelayError::Unknown { relay: url.into() }),
        }
    }

    /// What a listener hasn't got yet, from place `from` of each relay's log on.
    fn fresh(&self, from: &mut [usize], interest: &Interest) -> Vec<Received> {
        let mut fresh = Vec::new();
        for (which, (relay, from)) in self.lock().iter().zip(from.iter_mut()).enumerate() {
            if relay.down {
                continue;
            }
            let new = relay.log.iter().skip(*from);
            let wanted = new.filter(|event| interest.filters.iter().any(|filter| matches(filter, event)));
            fresh.extend(
                wanted.map(|event| Received { relay: format!("ws://relay{which}"), event: event.clone() }),
            );
            *from = relay.log.len();
        }
        fresh
    }
}

impl RelayLink for Relays {
    fn relays(&self) -> Vec<String> {
        (0..self.lock().len()).map(|which| format!("ws://relay{which}")).collect()
    }

    fn subscribe(&self, mut interest: watch::Receiver<Interest>) -> mpsc::Receiver<Received> {
        let (sender, receiver) = mpsc::channel(1024);
        let relays = self.clone();
        SimRuntime::spawn(async move {
            let mut from = vec![0; relays.lock().len()];
            while !sender.is_closed() {
                if interest.has_changed().unwrap_or(false) {
                    // What is stored may match now.
                    from.fill(0);
                }
                let wanted = interest.borrow_and_update().clone();
                for received in relays.fresh(&mut from, &wanted) {
                    if sender.send(received).await.is_err() {
                        return;
                    }
                }
                SimRuntime::sleep(LISTEN).await;
            }
        });
        receiver
    }

    async fn publish(&self, relay: &str, event: &ValidEvent) -> Result<(), RelayError> {
        self.post.put(Mail::Published(event.clone()));
        let which = self.arrive(relay).await?;
        if let Some(relay) = self.lock().get_mut(which) {
            relay.take(event);
        }
        SimRuntime::sleep(WAY).await;
        Ok(())
    }

    async fn fetch(&self, relay: &str, filter: Filter, _: Duration) -> Result<Vec<ValidEvent>, RelayError> {
        let which = self.arrive(relay).await?;
        let found = match self.lock().get(which) {
            Some(relay) => relay.stored().filter(|event| matches(&filter, event)).cloned().collect(),
            None => Vec::new(),
        };
        SimRuntime::sleep(WAY).await;
        Ok(found)
    }
}
