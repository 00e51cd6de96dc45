//! The Raft group of the running epoch: opened, fed and closed as the decider says. One at a time.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use bytes::Bytes;
use concordat_finality::{Action, Context, Input, Msg};
use futures::channel::{mpsc, oneshot};
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use openraft::async_runtime::{Instant, Select3};
use openraft::{AsyncRuntime, OptionalSend};

use super::entries::EntryCheck;
use super::{Inbox, Outside};
use crate::order::{self, Group, GroupConfig, Health, IntakeError, OpenError, OrderedLog, Timing};
use crate::transport::RaftCall;

type Log<O> = Group<<O as Outside>::Rt, <O as Outside>::Store, <O as Outside>::Flusher, <O as Outside>::Link>;
type Handle<O, T> = <<O as Outside>::Rt as AsyncRuntime>::JoinHandle<T>;

/// What the decider wants of the groups, in its order.
pub type Orders = mpsc::UnboundedReceiver<Action>;

/// The way from the decider to its groups.
pub fn orders() -> (mpsc::UnboundedSender<Action>, Orders) {
    mpsc::unbounded()
}

/// What the groups of a custodian need.
pub struct Setting<O: Outside> {
    /// The cluster.
    pub context: Arc<Context>,
    /// This custodian's number.
    pub me: u16,
    /// Where the log is kept: the custodian's one store.
    pub store: O::Store,
    /// Makes the log durable.
    pub flusher: O::Flusher,
    /// The way to the other custodians' groups.
    pub link: O::Link,
    /// The decider.
    pub inbox: O::Inbox,
    /// The groups' times.
    pub timing: Timing,
}

/// How the log of the running epoch is, asked of the core itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogHealth {
    /// Whose log.
    pub epoch: u64,
    /// What its core says.
    pub health: Health,
    /// How often the guard refused what, by peer and reason.
    pub refusals: BTreeMap<(u16, &'static str), u64>,
}

/// An open group with the tasks around it.
struct Open<O: Outside> {
    epoch: u64,
    log: Log<O>,
    check: Arc<EntryCheck>,
    appends: mpsc::UnboundedSender<(u64, Msg)>,
    /// Nothing of a closed group reaches the decider.
    closed: Arc<AtomicBool>,
}

struct Shared<O: Outside> {
    setting: Setting<O>,
    open: RwLock<Option<(u64, Log<O>)>>,
    failed: Mutex<Option<oneshot::Sender<()>>>,
}

/// A handle to the group task. Copies are one.
pub struct Groups<O: Outside> {
    shared: Arc<Shared<O>>,
    stop: Arc<Mutex<Option<oneshot::Sender<()>>>>,
    task: Arc<Mutex<Option<Handle<O, ()>>>>,
}

impl<O: Outside> Clone for Groups<O> {
    fn clone(&self) -> Self {
        Groups { shared: self.shared.clone(), stop: self.stop.clone(), task: self.task.clone() }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<O: Outside> Groups<O> {
    /// Starts the task. The receiver resolves when the store under a log has failed, which ends the process.
    pub fn start(setting: Setting<O>, orders: Orders) -> (Self, oneshot::Receiver<()>) {
        let (failed, failure) = oneshot::channel();
        let (stop, stopped) = oneshot::channel();
        let shared = Arc::new(Shared { setting, open: RwLock::new(None), failed: Mutex::new(Some(failed)) });
        let task = O::Rt::spawn(shared.clone().run(orders, stopped));
        let groups =
            Groups { shared, stop: Arc::new(Mutex::new(Some(stop))), task: Arc::new(Mutex::new(Some(task))) };
        (groups, failure)
    }

    /// A peer's request to the log of an epoch.
    ///
    /// # Errors
    /// Why there is no reply; to the sender a lost message.
    pub async fn raft(&self, from: u16, call: RaftCall, request: Bytes) -> Result<Bytes, String> {
        let epoch = order::epoch_of(&request).map_err(|error| error.to_string())?;
        let log = match self.shared.running() {
            Some((running, log)) if running == epoch => log,
            _ => return Err(format!("the log of epoch {epoch} isn't open here")),
        };
        let answer: Result<Bytes, IntakeError> = match call {
            RaftCall::Append => log.on_append(from, request).await,
            RaftCall::Vote => log.on_vote(from, request).await,
        };
        answer.map_err(|error| error.to_string())
    }

    /// How the running epoch's log is. Nothing while none is open.
    pub async fn health(&self) -> Option<LogHealth> {
        let (epoch, log) = self.shared.running()?;
        let health = log.health(self.shared.setting.timing.leader_timeout).await;
        Some(LogHealth { epoch, health, refusals: log.refusals() })
    }

    /// Closes the open group and ends the task.
    pub async fn close(&self) {
        if let Some(stop) = lock(&self.stop).take() {
            let _ = stop.send(());
        }
        let task = lock(&self.task).take();
        if let Some(task) = task {
            let _ = task.await;
        }
    }
}

impl<O: Outside> Shared<O> {
    fn running(&self) -> Option<(u64, Log<O>)> {
        self.open.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_running(&self, running: Option<(u64, Log<O>)>) {
        *self.open.write().unwrap_or_else(PoisonError::into_inner) = running;
    }

    fn fail(&self, error: &dyn std::fmt::Display) {
        tracing::error!(%error, "the ordered log");
        if let Some(failed) = lock(&self.failed).take() {
            let _ = failed.send(());
        }
    }

    async fn run(self: Arc<Self>, mut orders: Orders, mut stopped: oneshot::Receiver<()>) {
        let mut open: Option<Open<O>> = None;
        let mut closing = FuturesUnordered::new();
        let pause = self.setting.timing.leader_timeout;
        let mut look = <O::Rt as AsyncRuntime>::Instant::now() + pause;
        loop {
            // Groups that have ended meanwhile are forgotten.
            while let Some(Some(_)) = closing.next().now_or_never() {}
            let next = O::Rt::select3(&mut stopped, orders.next(), O::Rt::sleep_until(look)).await;
            let action = match next {
                Select3::Second(action) => action,
                Select3::Third(()) => {
                    self.look_after(open.as_ref()).await;
                    look = <O::Rt as AsyncRuntime>::Instant::now() + pause;
                    continue;
                }
                Select3::First(_) => None,
            };
            match action {
                Some(Action::OpenGroup { epoch, leader, lead }) => {
                    let same = open.as_ref().is_some_and(|open| open.epoch == epoch);
                    if let Some(ending) = self.close(open.take(), None) {
                        // A rebuilt group takes over its epoch's log: the dead one must have let go of it. Another
                        // epoch doesn't wait: nothing of a closed group votes, and votes are what counts.
                        if same {
                            let _ = ending.await;
                        } else {
                            closing.push(ending);
                        }
                    }
                    open = self.open(epoch, leader, lead).await;
                }
                Some(Action::CloseGroup { epoch }) => {
                    if open.as_ref().is_some_and(|open| open.epoch == epoch) {
                        closing.extend(self.close(open.take(), Some(epoch)));
                    }
                }
                Some(Action::Append { epoch, number, entry }) => {
                    if let Some(open) = open.as_ref().filter(|open| open.epoch == epoch) {
                        open.check.put(number, entry.clone());
                        let _ = open.appends.unbounded_send((number, entry));
                    }
                }
                Some(_) => {}
                None => {
                    closing.extend(self.close(open.take(), None));
                    while closing.next().await.is_some() {}
                    return;
                }
            }
        }
    }

    /// A dead core is a resignation and a rebuilt group, never a dead custodian (PROTOCOL 6).
    async fn look_after(&self, open: Option<&Open<O>>) {
        let Some(open) = open else { return };
        if let Health::Dead { why } = open.log.health(self.setting.timing.leader_timeout).await {
            tracing::error!(epoch = open.epoch, %why, "the log's core is dead");
            self.setting.inbox.input(Input::GroupFailed { epoch: open.epoch }).await;
        }
    }

    async fn open(&self, epoch: u64, leader: u16, lead: bool) -> Option<Open<O>> {
        let Setting { context, me, store, flusher, link, inbox, timing } = &self.setting;
        let members = context.roster.numbers().collect();
        let config = GroupConfig { epoch, me: *me, leader, members, lead, timing: *timing };
        let check = Arc::new(EntryCheck::new(context.clone()));
        // What stands committed in the log comes out while it is being opened: it is read from the beginning.
        let (out, deliveries) = order::deliveries();
        let closed = Arc::new(AtomicBool::new(false));
        detach(O::Rt::spawn(deliver(epoch, deliveries, check.clone(), closed.clone(), inbox.clone())));
        let opened =
            Log::<O>::open(config, store.clone(), flusher.clone(), link.clone(), check.clone(), out).await;
        let log = match opened {
            Ok(log) => log,
            Err(error) => {
                closed.store(true, Ordering::Release);
                if matches!(error, OpenError::Store { .. }) {
                    self.fail(&error);
                } else {
                    tracing::error!(%error, "the ordered log");
                    inbox.input(Input::GroupFailed { epoch }).await;
                }
                return None;
            }
        };
        self.set_running(Some((epoch, log.clone())));
        let (appends, to_append) = mpsc::unbounded();
        detach(O::Rt::spawn(append(epoch, to_append, log.clone())));
        Some(Open { epoch, log, check, appends, closed })
    }

    /// Closes a group; what a finished epoch leaves is erased.
    fn close(self: &Arc<Self>, open: Option<Open<O>>, finished: Option<u64>) -> Option<Handle<O, ()>> {
        let Open { log, closed, .. } = open?;
        closed.store(true, Ordering::Release);
        self.set_running(None);
        let shared = self.clone();
        Some(O::Rt::spawn(async move {
            log.close().await;
            if let Some(epoch) = finished
                && let Err(error) = order::erase(&shared.setting.store, epoch)
            {
                shared.fail(&error);
            }
        }))
    }
}

/// A task that ends by itself when its group does.
fn detach<T: OptionalSend>(_task: T) {}

/// Hands committed entries to the decider, until the group ends.
async fn deliver<I: Inbox>(
    epoch: u64,
    mut deliveries: order::Deliveries,
    check: Arc<EntryCheck>,
    closed: Arc<AtomicBool>,
    inbox: I,
) {
    while let Some(committed) = deliveries.next().await {
        // Checked by the guard when it came; after a restart it is read again.
        let entry = check.take(committed.position).or_else(|| check.reread(&committed.bytes));
        if closed.load(Ordering::Acquire) {
            return;
        }
        if let Some(entry) = entry {
            inbox.input(Input::Ordered { epoch, entry }).await;
        }
    }
}

/// Gives the leader's entries to Raft in their order, until the group ends.
async fn append<L: OrderedLog>(epoch: u64, mut entries: mpsc::UnboundedReceiver<(u64, Msg)>, log: L) {
    while let Some((number, entry)) = entries.next().await {
        if let Err(error) = log.append(Bytes::from(entry.to_bytes())).await {
            tracing::warn!(epoch, number, %error, "an entry wasn't appended");
            return;
        }
    }
}
