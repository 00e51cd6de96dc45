//! Where certified heads go: to the way out, which publishes them, to the users who wait for a request, to whoever watches a
//! machine, and back to the intake, which learns of new machines.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use concordat_events::request::Route;
use concordat_events::{Hash, PublicKey, ValidEvent};
use concordat_finality::{Certified, Decider, Published};
use concordat_store::Store;
use tokio::sync::{broadcast, mpsc, oneshot, watch};

use super::life::{Life, RunError};
use crate::client::CertifiedOutcome;
use crate::relay::{Intake, Interest, Port};

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
    port: Port,
    group: PublicKey,
    state: Mutex<State>,
    heads: broadcast::Sender<Arc<Published>>,
    interest: watch::Sender<Interest>,
    since: u64,
    life: mpsc::UnboundedSender<Life>,
}

struct State {
    intake: Intake,
    waiting: BTreeMap<Hash, Vec<oneshot::Sender<CertifiedOutcome>>>,
    /// Inputs that came before their machine was certified.
    ready: VecDeque<ValidEvent>,
}

impl Outlet {
    pub fn new(
        port: Port,
        group: PublicKey,
        interest: watch::Sender<Interest>,
        since: u64,
        life: mpsc::UnboundedSender<Life>,
    ) -> Self {
        let state = State { intake: Intake::new(group), waiting: BTreeMap::new(), ready: VecDeque::new() };
        let heads = broadcast::Sender::new(WATCHED);
        let state = Mutex::new(state);
        Outlet { shared: Arc::new(Shared { port, group, state, heads, interest, since, life }) }
    }

    /// At the start: the machines that run.
    pub fn catch_up<S: Store>(&self, decider: &Decider<S>) -> Result<(), RunError> {
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
        self.shared.port.on_relay(event.id());
        self.shared.state().intake.take(event)
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
        shared.port.certified(&head);
        let _ = shared.heads.send(Arc::new(head.into_inner()));
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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
