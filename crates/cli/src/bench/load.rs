//! Clients that send as fast as they get answers.
//!
//! Promises: every request is signed by a key of its own, made for it; it counts when a log event of the group names it, whose
//! id and signature were checked here. Refuses to count what a relay or a custodian merely says.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use concordat_events::kinds::{DEFINITION, INPUT};
use concordat_events::request::{definition_tags, input_tags};
use concordat_events::{Hash, Head, Mode, PublicKey, ValidEvent};
use concordat_node::client::Client;
use nostr::{Filter, Keys, Kind};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{Duration, timeout};

use super::Latencies;
use crate::commands::send::sign;
use crate::failure::Failure;
use crate::limits::{BENCH_ANSWER, BENCH_MACHINES};
use crate::user::Group;
use crate::user::custodians::failure;
use crate::user::outcome::{naming, settle};

/// A machine that counts: one small transition a request.
const COUNTER: &str = r#"{"id":"counter","initial":"on","context":{"n":0},"states":{"on":{"on":{"ADD":{"actions":{"type":"cel.assign","params":{"n":"context.n + event.data.by"}}}}}}}"#;

/// Which way requests take.
#[derive(Clone)]
pub enum Way {
    /// Through the relay.
    Relay,
    /// To custodians' client ports, by turns.
    Client(Vec<Client>),
}

/// What a phase of the load gave.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// From request to certified outcome.
    pub latencies: Latencies,
    /// Requests that the group rejected; they are certified too, and counted.
    pub rejected: usize,
    /// Requests without an outcome in time.
    pub unanswered: usize,
    /// Heads seen in this phase.
    pub heads: usize,
    /// How long it took.
    pub took: Duration,
}

type Waiting = HashMap<Hash, oneshot::Sender<bool>>;

/// What is shared by all clients.
pub struct Load {
    group: Group,
    kind: u16,
    machines: Vec<Hash>,
    way: Way,
    seen: Arc<Mutex<Seen>>,
}

/// Log events as they come from the relay.
#[derive(Default)]
struct Seen {
    waiting: Waiting,
    heights: HashSet<u64>,
}

impl Load {
    /// Publishes the machines, and listens to the group's log from here on.
    pub async fn prepare(group: Group, kind: u16, way: Way) -> Result<Arc<Self>, Failure> {
        let mut machines = Vec::new();
        let keys = Keys::generate();
        for number in 0..BENCH_MACHINES {
            let tags = definition_tags(&group.key, &format!("bench:{number}"), None, Mode::Sequenced);
            let request = sign(&keys, DEFINITION, tags, COUNTER)?;
            let settled = settle(&group, kind, &request, request.id(), |_| {}).await?;
            if let Some(refusal) = settled.refusal() {
                return Err(refusal);
            }
            machines.push(request.id());
        }
        let seen = Arc::new(Mutex::new(Seen::default()));
        let mut feed =
            group.relays.follow(Filter::new().kind(Kind::from_u16(kind)).author(group.key)).await?;
        let (key, shared) = (group.key, Arc::clone(&seen));
        tokio::spawn(async move {
            while let Some(event) = feed.next().await {
                take(&event, key, kind, &mut shared.lock().unwrap_or_else(PoisonError::into_inner));
            }
        });
        Ok(Arc::new(Load { group, kind, machines, way, seen }))
    }

    /// Runs `clients` clients for `time`. Each sends its next request when it has the outcome of the one before.
    pub async fn run(self: &Arc<Self>, clients: usize, time: Duration) -> Result<Measured, Failure> {
        self.seen().heights.clear();
        let began = Instant::now();
        let mut running = JoinSet::new();
        for number in 0..clients {
            let load = Arc::clone(self);
            running.spawn(async move { load.client(number, began + time).await });
        }
        let mut all = Measured::default();
        while let Some(joined) = running.join_next().await {
            let one = joined
                .map_err(|error| Failure::check("client", format!("a client failed: {error}"), ""))??;
            all.latencies.join(one.latencies);
            all.rejected += one.rejected;
            all.unanswered += one.unanswered;
        }
        all.took = began.elapsed();
        all.heads = self.seen().heights.len();
        Ok(all)
    }

    async fn client(&self, number: usize, until: Instant) -> Result<Measured, Failure> {
        let mut measured = Measured::default();
        let mut turn = number;
        while Instant::now() < until {
            let machine = self.machines.get(turn % self.machines.len().max(1)).copied().unwrap_or(Hash::ZERO);
            let request = sign(&Keys::generate(), INPUT, input_tags(machine, "ADD", None), r#"{"by":1}"#)?;
            let began = Instant::now();
            let answered = timeout(BENCH_ANSWER, self.one(turn, &request)).await;
            match answered {
                Ok(accepted) => {
                    measured.latencies.add(began.elapsed());
                    measured.rejected += usize::from(!accepted?);
                }
                Err(_) => {
                    self.seen().waiting.remove(&request.id());
                    measured.unanswered += 1;
                }
            }
            turn += 1;
        }
        Ok(measured)
    }

    /// Sends one request and waits for its certified outcome: was it accepted?
    async fn one(&self, turn: usize, request: &ValidEvent) -> Result<bool, Failure> {
        let client = match &self.way {
            Way::Relay => None,
            Way::Client(clients) => clients.get(turn % clients.len().max(1)),
        };
        if let Some(client) = client {
            let log = client.send(request).await.map_err(failure)?.log_event;
            let (_, head, outcome) =
                naming(&log, self.group.key, self.kind, request.id()).ok_or_else(|| {
                    Failure::check(
                        "bad_answer",
                        "a custodian shows a log event that doesn't settle the request",
                        "",
                    )
                })?;
            self.seen().heights.insert(head.height);
            return Ok(outcome.reason().is_none());
        }
        let (sender, outcome) = oneshot::channel();
        self.seen().waiting.insert(request.id(), sender);
        self.group.relays.publish(request.event()).await?;
        outcome.await.map_err(|_| Failure::check("listener", "the log is no longer listened to", ""))
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Wakes whoever waits for what this log event settles.
fn take(event: &ValidEvent, group: PublicKey, kind: u16, seen: &mut Seen) {
    if event.author() != group || event.kind() != kind {
        return;
    }
    let Ok(head) = Head::from_log_event(event) else { return };
    seen.heights.insert(head.height);
    for (id, outcome) in &head.outcomes {
        if let Some(waiting) = seen.waiting.remove(id) {
            // A client that gave up isn't there any more.
            let _ = waiting.send(outcome.reason().is_none());
        }
    }
}
