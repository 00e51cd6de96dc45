//! Where certified heads go: into the durable outbox, to the users who wait for a request, to whoever watches a machine, and
//! back to the intake, which learns of new machines.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use concordat_events::request::Route;
use concordat_events::{Hash, PublicKey, ValidEvent};
use concordat_finality::{Certified, Decider, Published};
use concordat_store::{Store, StoreError};
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use super::db::Db;
use super::life::{Life, RunError};
use crate::client::CertifiedOutcome;
use crate::relay::{Intake, Interest, Outbox};

/// The height up to which heads were put into the outbox.
const CURSOR: &[u8] = b"n/outbox";

/// Requests that relays brought; what they have needn't be published again.
const ON_RELAYS: usize = 50_000;

/// Users that may wait at once.
const WAITING: usize = 10_000;

/// Heads that a slow watcher may be behind before it is told to look again.
const WATCHED: usize = 64;

/// See the module's header. Copies share one state.
#[derive(Clone)]
pub(crate) struct Outlet {
    shared: Arc<Shared>,
}

struct Shared {
    db: Db,
    outbox: Outbox<Db>,
    group: PublicKey,
    state: Mutex<State>,
    heads: broadcast::Sender<Arc<Published>>,
    interest: watch::Sender<Interest>,
    since: u64,
    life: mpsc::UnboundedSender<Life>,
    /// Heads on their way to the outbox, flushed off the decider's thread.
    queue: std::sync::mpsc::Sender<Certified<Published>>,
}

struct State {
    intake: Intake,
    on_relays: HashSet<Hash>,
    order: VecDeque<Hash>,
    waiting: HashMap<Hash, Vec<oneshot::Sender<CertifiedOutcome>>>,
    /// Inputs that came before their machine was certified.
    ready: VecDeque<ValidEvent>,
}

impl Outlet {
    pub fn new(
        db: Db,
        outbox: Outbox<Db>,
        group: PublicKey,
        interest: watch::Sender<Interest>,
        since: u64,
        life: mpsc::UnboundedSender<Life>,
    ) -> Self {
        let (queue, queued) = std::sync::mpsc::channel();
        let state = State {
            intake: Intake::new(group),
            on_relays: HashSet::new(),
            order: VecDeque::new(),
            waiting: HashMap::new(),
            ready: VecDeque::new(),
        };
        let shared = Arc::new(Shared {
            db,
            outbox,
            group,
            state: Mutex::new(state),
            heads: broadcast::Sender::new(WATCHED),
            interest,
            since,
            life,
            queue,
        });
        let outlet = Outlet { shared };
        let worker = Arc::downgrade(&outlet.shared);
        // Ends when the last handle is gone; a store that fails here fails the decider's next write too.
        std::thread::spawn(move || {
            while let Ok(head) = queued.recv() {
                let Some(shared) = worker.upgrade() else { return };
                if let Err(error) = shared.enqueue(&head) {
                    tracing::error!(%error, "the outbox");
                    return;
                }
            }
        });
        outlet
    }

    /// At the start: heads that were certified and never reached the outbox, and the machines that run.
    pub fn catch_up(&self, decider: &Decider<Db>) -> Result<(), RunError> {
        let tip = decider.ledger().tip().map(|tip| tip.height);
        if let Some(tip) = tip {
            let mut height = self.shared.cursor()?.map_or(0, |cursor| cursor + 1);
            while height <= tip {
                if let Some(head) = decider.published(height).map_err(RunError::fatal)? {
                    self.shared.enqueue(&head)?;
                }
                height += 1;
            }
        }
        let mut after = None;
        loop {
            let page = decider.ledger().machines(after.as_ref(), 256)?;
            let Some(last) = page.last() else { break };
            after = Some(last.id);
            let mut state = self.shared.state();
            for machine in page {
                let sources = decider.ledger().sources(&machine.id)?;
                state.intake.started(machine.id, sources);
            }
        }
        self.shared.tell_interest();
        Ok(())
    }

    /// The request in an event from a relay, if it is one that wasn't taken before.
    pub fn take(&self, event: ValidEvent) -> Option<ValidEvent> {
        let mut state = self.shared.state();
        state.note_on_relay(event.id());
        state.intake.take(event)
    }

    /// Inputs whose machine has been certified since they came.
    pub fn ready(&self) -> Vec<ValidEvent> {
        self.shared.state().ready.drain(..).collect()
    }

    /// Waits for a request's certified outcome. `None` if too many wait.
    pub fn wait_for(&self, request: Hash) -> Option<oneshot::Receiver<CertifiedOutcome>> {
        let mut state = self.shared.state();
        if state.waiting.len() >= WAITING {
            state.waiting.retain(|_, waiting| waiting.iter().any(|sender| !sender.is_closed()));
            if state.waiting.len() >= WAITING {
                return None;
            }
        }
        let (sender, receiver) = oneshot::channel();
        state.waiting.entry(request).or_default().push(sender);
        Some(receiver)
    }

    /// Certified heads from now on.
    pub fn heads(&self) -> broadcast::Receiver<Arc<Published>> {
        self.shared.heads.subscribe()
    }

    /// A head was certified. Called on the decider's thread: never blocks.
    pub fn certified(&self, head: Certified<Published>) {
        let shared = &self.shared;
        let _ = shared.life.send(Life::Certified {
            height: head.head.height,
            id: head.log().map(|log| log.id().to_hex()).unwrap_or_default(),
            requests: head.requests.len(),
        });
        shared.learn_machines(&head);
        shared.answer(&head);
        let _ = shared.heads.send(Arc::new((*head).clone()));
        let _ = shared.queue.send(head);
    }
}

impl State {
    fn note_on_relay(&mut self, id: Hash) {
        if self.on_relays.insert(id) {
            self.order.push_back(id);
            if self.order.len() > ON_RELAYS
                && let Some(oldest) = self.order.pop_front()
            {
                self.on_relays.remove(&oldest);
            }
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cursor(&self) -> Result<Option<u64>, StoreError> {
        let stored = self.db.get(CURSOR)?;
        Ok(stored.and_then(|bytes| bytes.try_into().ok()).map(u64::from_be_bytes))
    }

    /// The outbox entry is durable before anything is published (PROTOCOL 7).
    fn enqueue(&self, head: &Certified<Published>) -> Result<(), StoreError> {
        let height = head.head.height;
        let mut events = head.events.clone();
        {
            let state = self.state();
            events
                .extend(head.requests.iter().filter(|event| !state.on_relays.contains(&event.id())).cloned());
        }
        let mut batch = Outbox::<Db>::enqueue(height, &events);
        batch.put(CURSOR, height.to_be_bytes().to_vec());
        self.db.apply(batch)?;
        self.db.flush()?;
        self.outbox.wake();
        Ok(())
    }

    fn learn_machines(&self, head: &Published) {
        let mut learnt = false;
        for (request, (_, outcome)) in head.requests.iter().zip(&head.head.outcomes) {
            if outcome.reason().is_none()
                && let Ok(Route::Definition(definition)) = Route::of(request, &self.group)
            {
                let mut state = self.state();
                let ready = state.intake.started(request.id(), definition.sources);
                state.ready.extend(ready);
                learnt = true;
            }
        }
        if learnt {
            self.tell_interest();
        }
    }

    fn tell_interest(&self) {
        let filters = self.state().intake.filters();
        let since = self.since;
        self.interest.send_if_modified(|interest| {
            let next = Interest { filters, since };
            let changed = *interest != next;
            *interest = next;
            changed
        });
    }

    fn answer(&self, head: &Published) {
        let Some(log) = head.log() else { return };
        let mut state = self.state();
        for (request, outcome) in &head.head.outcomes {
            let Some(waiting) = state.waiting.remove(request) else { continue };
            let machine = head.requests.iter().find(|event| event.id() == *request).and_then(|event| {
                match Route::of(event, &self.group) {
                    Ok(Route::Definition(_)) => Some(event.id()),
                    Ok(Route::Input(input)) => Some(input.machine),
                    _ => None,
                }
            });
            let state = machine.and_then(|machine| {
                let snapshot =
                    head.events.iter().find(|event| event.tag("e") == Some(machine.to_hex().as_str()));
                snapshot.filter(|event| event.kind() == concordat_events::kinds::SNAPSHOT)
            });
            for sender in waiting {
                let _ = sender.send(CertifiedOutcome {
                    request: *request,
                    rejected: outcome.reason().map(str::to_owned),
                    height: head.head.height,
                    log_event: log.clone(),
                    state: state.map(|event| event.content().to_owned()),
                });
            }
        }
    }
}
