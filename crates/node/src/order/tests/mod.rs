//! Tests of the ordered log: groups of several custodians in one process, on tokio and on the simulated runtime.

mod byzantine;
mod log_suite;
mod rules;
mod stories;
mod weaknesses;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use concordat_store::memory::MemoryStore;
use futures::StreamExt;
use openraft::AsyncRuntime;
use openraft_rt_sim::SimRuntime;
use openraft_rt_tokio::TokioRuntime;
use sha2::{Digest, Sha256};
use tokio::sync::watch;

use super::*;

/// Deliveries that a test may leave unread.
const UNREAD: usize = 512;

pub type Store = Arc<MemoryStore>;
pub type TestGroup<Rt, G = Guarded> = Group<Rt, Store, Arc<InlineFlusher<Store>>, Link<Rt, G>, G>;

/// A runtime of these tests. Where a claim is about silence over a time, that time passes in the simulated one only: tests
/// wait for what happens, never for a clock on a wall.
pub trait Clock: AsyncRuntime {
    /// Lets this time pass where it costs nothing.
    fn pass(time: Duration) -> impl Future<Output = ()> + Send;
}

impl Clock for SimRuntime {
    fn pass(time: Duration) -> impl Future<Output = ()> + Send {
        SimRuntime::sleep(time)
    }
}

impl Clock for TokioRuntime {
    fn pass(_: Duration) -> impl Future<Output = ()> + Send {
        tokio::task::yield_now()
    }
}

/// A reply to a request, which is one for a vote or an append.
pub type Lie = Arc<dyn Fn(&Bytes, bool) -> Bytes + Send + Sync>;

/// All groups of a test, by epoch and custodian, and who is cut off.
pub struct Net<Rt: AsyncRuntime, G = Guarded> {
    pub groups: Mutex<BTreeMap<(u64, u16), TestGroup<Rt, G>>>,
    pub cut: Mutex<BTreeSet<u16>>,
    /// One who answers whatever the test wants.
    pub liar: Mutex<Option<(u16, Lie)>>,
    /// How many requests were sent, lost ones too.
    pub sent: watch::Sender<u64>,
    /// Requests that arrived, as (epoch, from, to).
    pub arrived: Mutex<Vec<(u64, u16, u16)>>,
}

/// What a message takes in simulated time.
const HOP: Duration = Duration::from_millis(1);

/// A custodian's way to the others.
pub struct Link<Rt: AsyncRuntime, G = Guarded> {
    pub net: Arc<Net<Rt, G>>,
    pub me: u16,
}

impl<Rt: Clock, G: GuardRules> Link<Rt, G> {
    async fn carry(&self, peer: u16, request: Bytes, vote: bool) -> Result<Bytes, LinkError> {
        let lost = |why: &str| LinkError { peer, why: why.into() };
        self.net.sent.send_modify(|count| *count += 1);
        Rt::pass(HOP).await;
        let cut = |net: &Net<Rt, G>| {
            let cut = net.cut.lock().unwrap();
            cut.contains(&self.me) || cut.contains(&peer)
        };
        if cut(&self.net) {
            return Err(lost("cut off"));
        }
        let lie = self
            .net
            .liar
            .lock()
            .unwrap()
            .as_ref()
            .filter(|(liar, _)| *liar == peer)
            .map(|(_, lie)| lie.clone());
        if let Some(lie) = lie {
            Rt::pass(HOP).await;
            return Ok(lie(&request, vote));
        }
        let epoch = epoch_of(&request).map_err(|e| lost(&e.to_string()))?;
        let group =
            self.net.groups.lock().unwrap().get(&(epoch, peer)).cloned().ok_or_else(|| lost("no group"))?;
        self.net.arrived.lock().unwrap().push((epoch, self.me, peer));
        let reply = if vote {
            group.on_vote(self.me, request).await
        } else {
            group.on_append(self.me, request).await
        };
        Rt::pass(HOP).await;
        if cut(&self.net) {
            return Err(lost("cut off"));
        }
        reply.map_err(|e| lost(&e.to_string()))
    }
}

impl<Rt: Clock, G: GuardRules> RaftLink for Link<Rt, G> {
    async fn append(&self, peer: u16, request: Bytes) -> Result<Bytes, LinkError> {
        self.carry(peer, request, false).await
    }

    async fn vote(&self, peer: u16, request: Bytes) -> Result<Bytes, LinkError> {
        self.carry(peer, request, true).await
    }
}

/// A wrapper of these tests: its number, its predecessor's hash, then anything.
pub fn wrap(epoch: u64, position: u64, previous: Option<&[u8; 32]>, body: &[u8]) -> Bytes {
    let mut bytes = epoch.to_be_bytes().to_vec();
    bytes.extend(position.to_be_bytes());
    bytes.extend(previous.unwrap_or(&[0; 32]));
    bytes.extend(body);
    bytes.into()
}

pub fn hash(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

/// A chain of wrappers.
pub fn chain(epoch: u64, length: u64) -> Vec<Bytes> {
    let mut all: Vec<Bytes> = Vec::new();
    for position in 0..length {
        let previous = all.last().map(|last| hash(last));
        all.push(wrap(epoch, position, previous.as_ref(), format!("batch {position}").as_bytes()));
    }
    all
}

/// Position and bytes held, bytes offered.
type Contradictions = Vec<(u64, Vec<u8>, Vec<u8>)>;

/// Checks the wrappers of these tests.
#[derive(Default)]
pub struct Chained {
    pub contradictions: Mutex<Contradictions>,
}

impl WrapperCheck for Chained {
    fn check(
        &self,
        epoch: u64,
        position: u64,
        previous: Option<&[u8; 32]>,
        bytes: &[u8],
    ) -> Result<[u8; 32], String> {
        let body = bytes.get(48..).ok_or("too short")?;
        if bytes != wrap(epoch, position, previous, body) {
            return Err("it doesn't continue the chain".into());
        }
        Ok(hash(bytes))
    }

    fn contradiction(&self, _epoch: u64, position: u64, held: &[u8], offered: &[u8]) {
        self.contradictions.lock().unwrap().push((position, held.to_vec(), offered.to_vec()));
    }
}

pub fn fast() -> Timing {
    Timing {
        heartbeat: Duration::from_millis(100),
        leader_timeout: Duration::from_millis(600),
        request: Duration::from_millis(500),
    }
}

/// Custodians 1 to n, each with a store that outlives its groups.
pub struct Cluster<Rt: AsyncRuntime, G = Guarded> {
    pub net: Arc<Net<Rt, G>>,
    pub stores: BTreeMap<u16, Store>,
    pub check: Arc<Chained>,
}

impl<Rt: Clock> Cluster<Rt> {
    pub fn new(n: u16) -> Self {
        Self::of(n)
    }
}

impl<Rt: Clock, G: GuardRules> Cluster<Rt, G> {
    /// With the guard in or out.
    pub fn of(n: u16) -> Self {
        let net = Net {
            groups: Mutex::default(),
            cut: Mutex::default(),
            liar: Mutex::default(),
            sent: watch::Sender::new(0),
            arrived: Mutex::default(),
        };
        Self {
            net: Arc::new(net),
            stores: (1..=n).map(|me| (me, Arc::new(MemoryStore::new()))).collect(),
            check: Arc::default(),
        }
    }

    pub fn config(&self, epoch: u64, me: u16, leader: u16) -> GroupConfig {
        let members = self.stores.keys().copied().collect();
        GroupConfig { epoch, me, leader, members, lead: true, timing: fast() }
    }

    pub async fn open_with(&self, config: GroupConfig) -> Result<(TestGroup<Rt, G>, Deliveries), OpenError> {
        let (out, deliveries) = futures::channel::mpsc::channel(UNREAD);
        Ok((self.open_into(config, out).await?, deliveries))
    }

    pub async fn open_into(
        &self,
        config: GroupConfig,
        out: futures::channel::mpsc::Sender<Committed>,
    ) -> Result<TestGroup<Rt, G>, OpenError> {
        let (epoch, me) = (config.epoch, config.me);
        let store = self.stores[&me].clone();
        let flusher = Arc::new(InlineFlusher::new(store.clone()));
        let link = Link { net: self.net.clone(), me };
        let group = Group::open(config, store, flusher, link, self.check.clone(), out).await?;
        self.net.groups.lock().unwrap().insert((epoch, me), group.clone());
        Ok(group)
    }

    pub async fn open(&self, epoch: u64, me: u16, leader: u16) -> (TestGroup<Rt, G>, Deliveries) {
        self.open_with(self.config(epoch, me, leader)).await.unwrap()
    }

    /// Everybody's group of `epoch`, led by `leader`.
    pub async fn open_all(&self, epoch: u64, leader: u16) -> BTreeMap<u16, (TestGroup<Rt, G>, Deliveries)> {
        let mut all = BTreeMap::new();
        for me in self.stores.keys().copied() {
            all.insert(me, self.open(epoch, me, leader).await);
        }
        all
    }

    /// `peer` answers what the test wants from now on.
    pub fn lies(&self, peer: u16, lie: impl Fn(&Bytes, bool) -> Bytes + Send + Sync + 'static) {
        *self.net.liar.lock().unwrap() = Some((peer, Arc::new(lie)));
    }

    pub fn cut(&self, me: u16) {
        self.net.cut.lock().unwrap().insert(me);
    }

    pub fn heal(&self) {
        self.net.cut.lock().unwrap().clear();
    }
}

/// The next `count` deliveries, which must be batches `from` on of `epoch` with the bytes of `chain`.
pub async fn expect(deliveries: &mut Deliveries, epoch: u64, chain: &[Bytes], from: usize) {
    for (position, bytes) in chain.iter().enumerate().skip(from) {
        let item = deliveries.next().await.expect("the group is open");
        assert_eq!(item, Committed { epoch, position: position as u64, bytes: bytes.clone() });
    }
}
