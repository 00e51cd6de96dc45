//! The Raft group of the running epoch: opened, fed and closed as the decider says. One at a time.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use bytes::Bytes;
use concordat_events::Hash;
use concordat_finality::wrapper::check_entry;
use concordat_finality::{Action, Context, Input, Msg};
use futures::StreamExt;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::db::Db;
use super::desk::Desk;
use super::life::RunError;
use crate::config::Config;
use crate::order::{
    self, Group, GroupConfig, Health, IntakeError, OpenError, OrderedLog, ThreadFlusher, Timing,
    TokioRuntime, WrapperCheck,
};
use crate::transport::{Peers, RaftCall};

type Log = Group<TokioRuntime, Db, Arc<ThreadFlusher>, Peers>;

/// Entries that were checked and wait to be delivered; each is checked once.
#[derive(Default)]
struct Checked {
    entries: HashMap<u64, Msg>,
    /// Custodians that the epoch's start names.
    named: BTreeSet<u16>,
}

/// The guard's check of entries, by the rules of `finality`.
struct EntryCheck {
    context: Arc<Context>,
    checked: Mutex<Checked>,
}

impl EntryCheck {
    fn put(&self, number: u64, entry: Msg) {
        self.checked.lock().unwrap_or_else(PoisonError::into_inner).entries.insert(number, entry);
    }

    fn take(&self, number: u64) -> Option<Msg> {
        self.checked.lock().unwrap_or_else(PoisonError::into_inner).entries.remove(&number)
    }
}

impl WrapperCheck for EntryCheck {
    fn check(
        &self,
        epoch: u64,
        position: u64,
        previous: Option<&[u8; 32]>,
        bytes: &[u8],
    ) -> Result<[u8; 32], String> {
        let named = {
            let checked = self.checked.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(entry) = checked.entries.get(&position).filter(|entry| entry.to_bytes() == bytes) {
                return Ok(*entry.digest.as_bytes());
            }
            checked.named.clone()
        };
        let previous = previous.map(|bytes| Hash::from_bytes(*bytes));
        let entry = check_entry(&self.context, &named, epoch, position, previous.as_ref(), bytes)
            .map_err(|error| error.to_string())?;
        let digest = *entry.digest.as_bytes();
        if let concordat_finality::message::Body::EpochStart(start) = &entry.body {
            let mut checked = self.checked.lock().unwrap_or_else(PoisonError::into_inner);
            checked.named.extend(start.evidence.iter().map(|evidence| evidence.signer));
        }
        self.put(position, entry);
        Ok(digest)
    }
}

/// An open group with the tasks around it.
struct Open {
    epoch: u64,
    log: Log,
    check: Arc<EntryCheck>,
    appends: mpsc::UnboundedSender<(u64, Msg)>,
    tasks: Vec<JoinHandle<()>>,
}

struct Shared {
    context: Arc<Context>,
    me: u16,
    db: Db,
    peers: Peers,
    desk: Desk,
    flusher: Arc<ThreadFlusher>,
    timing: Timing,
    open: RwLock<Option<(u64, Log)>>,
    stop: CancellationToken,
    /// Groups that are ending.
    closing: TaskTracker,
    failed: Notify,
}

/// A handle to the group task.
#[derive(Clone)]
pub(crate) struct Groups {
    shared: Arc<Shared>,
    task: Arc<Mutex<Option<JoinHandle<()>>>>,
}

impl Groups {
    pub fn start(
        context: Arc<Context>,
        me: u16,
        config: &Config,
        db: Db,
        peers: Peers,
        desk: Desk,
        orders: mpsc::UnboundedReceiver<Action>,
    ) -> Result<Self, RunError> {
        let flusher = ThreadFlusher::start(db.clone())
            .map_err(|error| RunError::Internal(format!("no thread for the flusher: {error}")))?;
        let timing = Timing {
            heartbeat: config.timeouts.heartbeat(),
            leader_timeout: config.timeouts.epoch(),
            ..Timing::default()
        };
        let shared = Arc::new(Shared {
            context,
            me,
            db,
            peers,
            desk,
            flusher: Arc::new(flusher),
            timing,
            open: RwLock::new(None),
            stop: CancellationToken::new(),
            closing: TaskTracker::new(),
            failed: Notify::new(),
        });
        let task = tokio::spawn(shared.clone().run(orders));
        Ok(Groups { shared, task: Arc::new(Mutex::new(Some(task))) })
    }

    /// The group that a request of a peer is for.
    pub async fn raft(&self, from: u16, call: RaftCall, request: Bytes) -> Result<Bytes, String> {
        let epoch = order::epoch_of(&request).map_err(|error| error.to_string())?;
        let log = {
            let open = self.shared.open.read().unwrap_or_else(PoisonError::into_inner);
            match open.as_ref() {
                Some((running, log)) if *running == epoch => log.clone(),
                _ => return Err(format!("the log of epoch {epoch} isn't open here")),
            }
        };
        let answer: Result<Bytes, IntakeError> = match call {
            RaftCall::Append => log.on_append(from, request).await,
            RaftCall::Vote => log.on_vote(from, request).await,
        };
        answer.map_err(|error| error.to_string())
    }

    /// Resolves when the store under a log has failed.
    pub async fn failed(&self) {
        self.shared.failed.notified().await;
    }

    /// Closes the open group and ends the task.
    pub async fn close(&self) {
        self.shared.stop.cancel();
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(task) = task {
            let _ = task.await;
        }
    }
}

impl Shared {
    async fn run(self: Arc<Self>, mut orders: mpsc::UnboundedReceiver<Action>) {
        let mut open: Option<Open> = None;
        let mut health = tokio::time::interval(self.timing.leader_timeout);
        let stopped = self.stop.clone().cancelled_owned();
        tokio::pin!(stopped);
        loop {
            let action = tokio::select! {
                action = orders.recv() => action,
                _ = health.tick() => {
                    self.look_after(open.as_ref()).await;
                    continue;
                }
                () = &mut stopped => None,
            };
            match action {
                Some(Action::OpenGroup { epoch, leader, lead }) => {
                    let same = open.as_ref().is_some_and(|open| open.epoch == epoch);
                    // A rebuilt group takes over its epoch's log: the dead one must have let go of it.
                    if let Some(ending) = self.close(open.take(), None)
                        && same
                    {
                        let _ = ending.await;
                    }
                    open = self.open(epoch, leader, lead).await;
                }
                Some(Action::CloseGroup { epoch }) => {
                    if open.as_ref().is_some_and(|open| open.epoch == epoch) {
                        self.close(open.take(), Some(epoch));
                    }
                }
                Some(Action::Append { epoch, number, entry }) => {
                    if let Some(open) = open.as_ref().filter(|open| open.epoch == epoch) {
                        // Made here a moment ago: it needs no second check.
                        open.check.put(number, entry.clone());
                        let _ = open.appends.send((number, entry));
                    }
                }
                Some(_) => {}
                None => {
                    self.close(open.take(), None);
                    self.closing.close();
                    self.closing.wait().await;
                    return;
                }
            }
        }
    }

    /// A dead core is a resignation and a rebuilt group, never a dead custodian (PROTOCOL 6).
    async fn look_after(&self, open: Option<&Open>) {
        let Some(open) = open else { return };
        if let Health::Dead { why } = open.log.health(self.timing.leader_timeout).await {
            tracing::error!(epoch = open.epoch, %why, "the log's core is dead");
            self.desk.input(Input::GroupFailed { epoch: open.epoch }).await;
        }
    }

    async fn open(&self, epoch: u64, leader: u16, lead: bool) -> Option<Open> {
        let config = GroupConfig {
            epoch,
            me: self.me,
            leader,
            members: self.context.roster.numbers().collect(),
            lead,
            timing: self.timing,
        };
        let check = Arc::new(EntryCheck { context: self.context.clone(), checked: Mutex::default() });
        let opened =
            Log::open(config, self.db.clone(), self.flusher.clone(), self.peers.clone(), check.clone()).await;
        let (log, mut deliveries) = match opened {
            Ok(opened) => opened,
            Err(error @ OpenError::Store { .. }) => {
                tracing::error!(%error, "the ordered log");
                self.failed.notify_one();
                return None;
            }
            Err(error) => {
                tracing::error!(%error, "the ordered log");
                self.desk.input(Input::GroupFailed { epoch }).await;
                return None;
            }
        };
        *self.open.write().unwrap_or_else(PoisonError::into_inner) = Some((epoch, log.clone()));
        let (desk, checked, context) = (self.desk.clone(), check.clone(), self.context.clone());
        let delivering = tokio::spawn(async move {
            while let Some(committed) = deliveries.next().await {
                let entry = match checked.take(committed.position) {
                    Some(entry) => Some(entry),
                    // Checked by the guard when it came; after a restart it is read again.
                    None => reread(&context, &committed.bytes),
                };
                if let Some(entry) = entry {
                    desk.input(Input::Ordered { epoch, entry }).await;
                }
            }
        });
        let (appends, mut to_append) = mpsc::unbounded_channel::<(u64, Msg)>();
        let appender = log.clone();
        let appending = tokio::spawn(async move {
            while let Some((number, entry)) = to_append.recv().await {
                if let Err(error) = appender.append(Bytes::from(entry.to_bytes())).await {
                    tracing::warn!(epoch, number, %error, "an entry wasn't appended");
                    return;
                }
            }
        });
        Some(Open { epoch, log, check, appends, tasks: vec![delivering, appending] })
    }

    /// Closes a group; what a finished epoch leaves is erased.
    fn close(self: &Arc<Self>, open: Option<Open>, finished: Option<u64>) -> Option<JoinHandle<()>> {
        let open = open?;
        *self.open.write().unwrap_or_else(PoisonError::into_inner) = None;
        for task in &open.tasks {
            task.abort();
        }
        // The next epoch doesn't wait for it: nothing of a closed group votes, and votes are what counts.
        let shared = self.clone();
        Some(self.closing.spawn(async move {
            open.log.close().await;
            if let Some(epoch) = finished
                && let Err(error) = order::erase(&shared.db, epoch)
            {
                tracing::error!(%error, "the ordered log");
                shared.failed.notify_one();
            }
        }))
    }
}

/// Reads an entry that stood in the own log.
fn reread(context: &Context, bytes: &[u8]) -> Option<Msg> {
    use prost::Message as _;
    let envelope = concordat_finality::wire::Envelope::decode(bytes).ok()?;
    concordat_finality::Message::check(context, envelope).ok()
}
