//! Relays in memory and in simulated time that do what a test's script says, from one moment to the next.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use concordat_events::{Hash, ValidEvent};
use nostr::Filter;
use nostr::filter::MatchEventOptions;
use openraft::AsyncRuntime;
use openraft_rt_sim::SimRuntime;
use tokio::sync::{mpsc, watch};

use super::super::{Interest, Received, RelayError, RelayLink};

/// What a relay does at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    /// It keeps what it is sent.
    Good,
    /// It says OK and loses every event that it is sent for the first time.
    Loses,
    /// It says no for good.
    Refuses,
    /// Nobody listens there.
    Down,
    /// It takes connections and answers nothing.
    Silent,
}

struct Relay {
    mood: Mood,
    held: Vec<ValidEvent>,
    /// How often each event was sent to it.
    sent: BTreeMap<Hash, u32>,
}

/// What a relay is told that somebody publishes.
type OnPublish = Box<dyn Fn(&ValidEvent) + Send + Sync>;

/// See the module's header.
pub struct Scripted {
    relays: Mutex<BTreeMap<String, Relay>>,
    deadline: Duration,
    /// Called for every event that leaves.
    on_publish: OnPublish,
}

/// A relay's round trip.
const ROUND_TRIP: Duration = Duration::from_millis(20);

impl Scripted {
    /// `count` good relays; a question without an answer is given up after `deadline`.
    pub fn new(count: usize, deadline: Duration, on_publish: OnPublish) -> Self {
        let relay = || Relay { mood: Mood::Good, held: Vec::new(), sent: BTreeMap::new() };
        let relays = (0..count).map(|n| (Scripted::url(n), relay())).collect();
        Scripted { relays: Mutex::new(relays), deadline, on_publish }
    }

    pub fn url(n: usize) -> String {
        format!("ws://relay{n}")
    }

    pub fn set(&self, n: usize, mood: Mood) {
        self.relays.lock().unwrap().get_mut(&Scripted::url(n)).unwrap().mood = mood;
    }

    /// How many relays give this event back.
    pub fn holding(&self, id: Hash) -> usize {
        let relays = self.relays.lock().unwrap();
        relays.values().filter(|relay| relay.held.iter().any(|event| event.id() == id)).count()
    }

    /// The most often that one event was sent to one relay.
    pub fn most_sent(&self) -> u32 {
        let relays = self.relays.lock().unwrap();
        relays.values().flat_map(|relay| relay.sent.values()).copied().max().unwrap_or(0)
    }

    /// Its mood once the question has arrived.
    async fn arrive(&self, relay: &str) -> Result<Mood, RelayError> {
        SimRuntime::sleep(ROUND_TRIP / 2).await;
        let mood = self.relays.lock().unwrap()[relay].mood;
        let relay = relay.to_owned();
        match mood {
            Mood::Down => Err(RelayError::Unreachable { relay, message: "nobody listens".into() }),
            Mood::Silent => {
                SimRuntime::sleep(self.deadline).await;
                Err(RelayError::Timeout { relay, within: self.deadline })
            }
            mood => Ok(mood),
        }
    }
}

impl RelayLink for Scripted {
    fn relays(&self) -> Vec<String> {
        self.relays.lock().unwrap().keys().cloned().collect()
    }

    fn subscribe(&self, _: watch::Receiver<Interest>) -> mpsc::Receiver<Received> {
        mpsc::channel(1).1
    }

    async fn publish(&self, relay: &str, event: &ValidEvent) -> Result<(), RelayError> {
        (self.on_publish)(event);
        let mood = self.arrive(relay).await?;
        {
            let mut relays = self.relays.lock().unwrap();
            let held = relays.get_mut(relay).unwrap();
            let sent = held.sent.entry(event.id()).or_default();
            *sent += 1;
            let loses = mood == Mood::Loses && *sent == 1;
            if !loses && mood != Mood::Refuses && !held.held.contains(event) {
                held.held.push(event.clone());
            }
        }
        SimRuntime::sleep(ROUND_TRIP / 2).await;
        match mood {
            Mood::Refuses => {
                Err(RelayError::Refused { relay: relay.to_owned(), message: "blocked: no".into() })
            }
            _ => Ok(()),
        }
    }

    async fn fetch(&self, relay: &str, filter: Filter, _: Duration) -> Result<Vec<ValidEvent>, RelayError> {
        self.arrive(relay).await?;
        let found = {
            let relays = self.relays.lock().unwrap();
            let matches = |event: &&ValidEvent| filter.match_event(event.event(), MatchEventOptions::new());
            relays[relay].held.iter().filter(matches).cloned().collect()
        };
        SimRuntime::sleep(ROUND_TRIP / 2).await;
        Ok(found)
    }
}
