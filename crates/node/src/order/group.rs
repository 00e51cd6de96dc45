//! One epoch's Raft group in this process: opened, asked, closed.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use concordat_store::Store;
use futures::SinkExt;
use futures::channel::{mpsc, oneshot};
use openraft::async_runtime::MpscSender;
use openraft::type_config::TypeConfigExt;
use openraft::type_config::alias::{JoinHandleOf, MpscSenderOf, MutexOf};
use openraft::{AsyncRuntime, Config, Raft, ServerState, SnapshotPolicy};
use tokio::sync::watch;

use super::delivery::{Committed, Delivery};
use super::flusher::Flusher;
use super::guard::{self, GuardRules, Guarded, Identity, Reason, Refusals, Tip, WrapperCheck};
use super::lead::{self, Order};
use super::link::{Links, Outward, RaftLink};
use super::storage::{Log, LogStore};
use super::types::{TC, Watched};
use super::wire::Content;
use super::{GroupConfig, Health, OpenError, OrderError, OrderedLog, Timing};
use crate::limits;

/// The log group of one epoch: a cheap handle, all clones of which are the same group.
pub struct Group<Rt: AsyncRuntime, S, F, L, G = Guarded> {
    pub(super) shared: Arc<Shared<Rt, S, F, L, G>>,
}

impl<Rt: AsyncRuntime, S, F, L, G> Clone for Group<Rt, S, F, L, G> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone() }
    }
}

/// What the handles and tasks of a group share.
pub(super) struct Shared<Rt: AsyncRuntime, S, F, L, G> {
    pub identity: Identity,
    pub timing: Timing,
    pub log: Arc<Log<Rt, S, F>>,
    /// `None` for a leader that restarted.
    pub raft: Option<Raft<TC<Rt>, Delivery<Rt>>>,
    pub check: Arc<dyn WrapperCheck>,
    pub refusals: Arc<Refusals>,
    /// The end of the checked chain; its lock makes appends pass one at a time.
    pub tip: MutexOf<TC<Rt>, Tip>,
    /// Appends at the guard.
    pub waiting: AtomicUsize,
    /// How many batches, from the first on, were prepared.
    pub prepared: AtomicU64,
    pub closed: AtomicBool,
    pub closing: Watched<Rt, bool>,
    /// Only while this custodian leads.
    orders: Option<MpscSenderOf<TC<Rt>, Order>>,
    tasks: Mutex<Vec<JoinHandleOf<TC<Rt>, ()>>>,
    /// The leader's and followers' way out, and the guard's rules; kept so that their types are named.
    _types: std::marker::PhantomData<fn() -> (L, G)>,
}

impl<Rt, S, F, L, G> Group<Rt, S, F, L, G>
where
    Rt: AsyncRuntime,
    S: Store,
    F: Flusher,
    L: RaftLink,
    G: GuardRules,
{
    /// Opens the group of `config.epoch`; its committed wrappers go to `out`.
    ///
    /// The log that stands in the store is checked again, and what of it was known to be committed is delivered first: before this
    /// returns, so somebody must read `out`'s other end meanwhile. A log longer than the queue would never open else.
    /// The leader starts to ask for votes at once and goes on until it leads.
    ///
    /// # Errors
    /// [`OpenError`]. A store error means that the process must stop.
    pub async fn open(
        config: GroupConfig,
        store: S,
        flusher: F,
        link: L,
        check: Arc<dyn WrapperCheck>,
        out: mpsc::Sender<Committed>,
    ) -> Result<Self, OpenError> {
        let epoch = config.epoch;
        let members = validate(&config)?;
        let stored = |source| OpenError::Store { epoch, source };
        let log = Arc::new(Log::<Rt, S, F>::open(store, flusher, epoch).map_err(stored)?);
        let first = guard::first_entry(&members);
        match log.item(0).map_err(stored)? {
            None => log.begin(first).await.map_err(stored)?,
            Some(held) if held == first => {}
            Some(_) => return Err(OpenError::OtherMembers { epoch }),
        }
        let leads = config.me == config.leader;
        if leads && config.lead && (log.wrappers() > 0 || log.vote().map_err(stored)?.is_some()) {
            return Err(OpenError::AlreadyLed { epoch });
        }

        let identity = Identity { epoch, me: config.me, leader: config.leader };
        let refusals = Arc::new(Refusals::default());
        let closing = Watched::<Rt, bool>::new(false);
        let closed = closing.subscribe();
        let raft = if leads && !config.lead {
            None
        } else {
            let links = Links {
                shared: Arc::new(Outward {
                    epoch,
                    link,
                    deadline: config.timing.request,
                    refusals: refusals.clone(),
                    acknowledged: Mutex::default(),
                }),
                closing: closed.clone(),
                rules: std::marker::PhantomData::<fn() -> G>,
            };
            let delivery = Delivery::new(epoch, out.clone(), closed);
            let settings = Arc::new(settings(&config).map_err(|why| OpenError::Core { epoch, why })?);
            let raft =
                Raft::new(u64::from(config.me), settings, links, LogStore(log.clone()), delivery).await;
            Some(raft.map_err(|error| OpenError::Core { epoch, why: error.to_string() })?)
        };
        let orders = (leads && config.lead).then(|| TC::<Rt>::mpsc(limits::ORDER_QUEUE));
        let (orders, ordered) = orders.map_or((None, None), |(send, receive)| (Some(send), Some(receive)));
        let shared = Arc::new(Shared {
            identity,
            timing: config.timing,
            log,
            raft,
            check,
            refusals,
            tip: TC::<Rt>::mutex(Tip::default()),
            waiting: AtomicUsize::new(0),
            prepared: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            closing,
            orders,
            tasks: Mutex::default(),
            _types: std::marker::PhantomData,
        });
        let group = Self { shared };
        if let Err(error) = group.start(ordered, out).await {
            group.close().await;
            return Err(error);
        }
        Ok(group)
    }

    async fn start(
        &self,
        ordered: Option<lead::Orders<Rt>>,
        out: mpsc::Sender<Committed>,
    ) -> Result<(), OpenError> {
        let shared = &self.shared;
        let epoch = shared.identity.epoch;
        {
            use openraft::async_runtime::mutex::Mutex as _;
            let mut tip = shared.tip.lock().await;
            *tip = shared
                .walk(*tip)
                .map_err(|source| OpenError::Store { epoch, source })?
                .map_err(|reason| OpenError::Damaged { epoch, reason })?;
        }
        let mut tasks = shared.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(ordered) = ordered {
            tasks.push(TC::<Rt>::spawn(lead::campaign(shared.clone())));
            tasks.push(TC::<Rt>::spawn(lead::append_orders(shared.clone(), ordered)));
        }
        if shared.raft.is_none() {
            tasks.push(TC::<Rt>::spawn(serve_committed(shared.clone(), out)));
        }
        Ok(())
    }

    /// How many batches, from the first on, this custodian has prepared: a cut below is told apart from others.
    ///
    /// `position` is the batch number of the last one. A lower number than before changes nothing.
    pub fn set_prepared(&self, position: u64) {
        self.shared.prepared.fetch_max(position.saturating_add(1), Ordering::AcqRel);
    }

    /// How often the guard refused what, by peer and [`Reason::name`].
    pub fn refusals(&self) -> BTreeMap<(u16, &'static str), u64> {
        self.shared.refusals.snapshot()
    }

    /// Changes with each refusal of the guard: how many there were.
    pub fn watch_refusals(&self) -> watch::Receiver<u64> {
        self.shared.refusals.watch()
    }

    /// Wrappers in the own log, from batch number `position` on, at most `most`, committed or not: to serve others.
    ///
    /// # Errors
    /// When the store fails, which stops the process.
    pub fn wrappers(&self, position: u64, most: usize) -> io::Result<Vec<Bytes>> {
        self.shared.log.wrappers_from(position, most)
    }
}

impl<Rt, S, F, L, G> Shared<Rt, S, F, L, G>
where
    Rt: AsyncRuntime,
    S: Store,
    F: Flusher,
    L: RaftLink,
    G: GuardRules,
{
    /// The core, while it runs.
    pub fn running(&self) -> Option<&Raft<TC<Rt>, Delivery<Rt>>> {
        self.raft.as_ref().filter(|_| !self.closed.load(Ordering::Acquire))
    }

    /// Goes on from `tip` to the end of the log, checking every wrapper.
    pub fn walk(&self, mut tip: Tip) -> io::Result<Result<Tip, Reason>> {
        loop {
            let from = tip.last.map_or(0, |at| at.index + 1);
            let page = self.log.items(from, u64::MAX, limits::LOG_PAGE)?;
            tip = match guard::walk(tip, self.identity.epoch, &page, &*self.check) {
                Ok(tip) => tip,
                Err(reason) => return Ok(Err(reason)),
            };
            if page.len() < limits::LOG_PAGE {
                return Ok(Ok(tip));
            }
        }
    }
}

/// Delivers what a log without a core knows to be committed.
async fn serve_committed<Rt, S, F, L, G>(
    shared: Arc<Shared<Rt, S, F, L, G>>,
    mut out: mpsc::Sender<Committed>,
) where
    Rt: AsyncRuntime,
    S: Store,
    F: Flusher,
    L: RaftLink,
    G: GuardRules,
{
    use openraft::async_runtime::watch::WatchReceiver;
    let epoch = shared.identity.epoch;
    let mut closing = shared.closing.subscribe();
    let Ok(Some(committed)) = shared.log.committed() else { return };
    let (mut next, mut position) = (0, 0);
    while next <= committed.index && !*closing.borrow_watched() {
        let Ok(page) = shared.log.items(next, committed.index + 1, 8) else { return };
        if page.is_empty() {
            return;
        }
        for item in page {
            next = item.at.index + 1;
            if let Content::Wrapper(bytes) = item.content {
                let sent = out.send(Committed { epoch, position, bytes });
                if !matches!(
                    TC::<Rt>::select2(closing.changed(), sent).await,
                    openraft::async_runtime::Select2::Second(Ok(()))
                ) {
                    return;
                }
                position += 1;
            }
        }
    }
}

impl<Rt, S, F, L, G> OrderedLog for Group<Rt, S, F, L, G>
where
    Rt: AsyncRuntime,
    S: Store,
    F: Flusher,
    L: RaftLink,
    G: GuardRules,
{
    async fn append(&self, entry: Bytes) -> Result<(), OrderError> {
        let Identity { epoch, me, leader } = self.shared.identity;
        if me != leader {
            return Err(OrderError::NotLeader { epoch, leader });
        }
        let Some(orders) = &self.shared.orders else { return Err(OrderError::ReadOnly { epoch }) };
        if entry.len() > limits::MAX_WRAPPER_BYTES {
            return Err(OrderError::TooLarge { got: entry.len(), most: limits::MAX_WRAPPER_BYTES });
        }
        let closed = || OrderError::Closed { epoch };
        let (done, answer) = oneshot::channel();
        orders.send(Order { entry, done }).await.map_err(|_| closed())?;
        answer.await.unwrap_or_else(|_| Err(closed()))
    }

    async fn health(&self, deadline: Duration) -> Health {
        if self.shared.closed.load(Ordering::Acquire) {
            return Health::Closed;
        }
        let Some(raft) = &self.shared.raft else { return Health::ReadOnly };
        let wrappers = self.shared.log.wrappers();
        let asked = raft.with_raft_state(|state| {
            (state.server_state == ServerState::Leader, super::wire::Vote::from(*state.vote_ref()).term)
        });
        match TC::<Rt>::timeout(deadline, asked).await {
            Ok(Ok((leading, term))) => Health::Alive { leading, term, wrappers },
            Ok(Err(error)) => Health::Dead { why: error.to_string() },
            Err(_) => Health::Silent,
        }
    }

    async fn close(self) {
        self.shared.closed.store(true, Ordering::Release);
        self.shared.closing.set(true);
        if let Some(raft) = &self.shared.raft {
            // Only fails if the core panicked, and then it is stopped as well.
            let _ = raft.shutdown().await;
        }
        self.shared.log.close();
        let tasks: Vec<_> = {
            let mut tasks = self.shared.tasks.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::take(&mut *tasks)
        };
        for task in tasks {
            let _ = task.await;
        }
    }
}

fn validate(config: &GroupConfig) -> Result<BTreeSet<u16>, OpenError> {
    let wrong = |why: String| OpenError::Config { epoch: config.epoch, why };
    let members: BTreeSet<u16> = config.members.iter().copied().collect();
    if members.len() != config.members.len() {
        return Err(wrong("a member is named twice".into()));
    }
    if members.len() > limits::MAX_MEMBERS {
        return Err(wrong(format!("{} members; at most {} are allowed", members.len(), limits::MAX_MEMBERS)));
    }
    for (who, number) in [("this custodian", config.me), ("its leader", config.leader)] {
        if !members.contains(&number) {
            return Err(wrong(format!("{who}, {number}, is no member")));
        }
    }
    Ok(members)
}

/// openraft's settings; all that matter are spelled out.
fn settings(config: &GroupConfig) -> Result<Config, String> {
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let lease = millis(config.timing.leader_timeout);
    let settings = Config {
        cluster_name: format!("epoch {}", config.epoch),
        heartbeat_interval: millis(config.timing.heartbeat),
        election_timeout_min: lease.saturating_sub(1),
        election_timeout_max: lease,
        max_payload_entries: limits::MAX_APPEND_ENTRIES as u64,
        // No snapshots: an epoch's log is kept until the epoch ends, however far behind a follower is.
        snapshot_policy: SnapshotPolicy::Never,
        replication_lag_threshold: u64::MAX,
        // Batches reach the followers before the leader's own flush is done; it flushed them itself before.
        broadcast_submitted_on_append: Some(true),
        // The epoch decides who leads.
        enable_elect: false,
        enable_pre_vote: Some(false),
        // Short first, because at an epoch's start the others open their groups a moment later.
        backoff: "5ms 10ms 20ms ...500ms".to_owned(),
        ..Config::default()
    };
    settings.validate().map_err(|error| error.to_string())
}
