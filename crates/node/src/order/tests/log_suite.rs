//! openraft's own suite for log storages, on every engine, with flushes on a thread of their own.

use std::io;
use std::path::Path;

use concordat_store::redb::RedbStore;
use concordat_store::sled::SledStore;
use futures::{Stream, StreamExt};
use openraft::entry::EntryPayload;
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine, Snapshot, SnapshotMeta};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::type_config::alias::{SnapshotMetaOf, SnapshotOf, StoredMembershipOf};
use openraft::{OptionalSend, StorageError};

use super::super::storage::{Log, LogStore};
use super::super::types::{LogId, TC};
use super::*;

type C = TC<TokioRuntime>;

/// A state machine with snapshots, which the suite wants and an epoch's log doesn't have.
#[derive(Clone, Default)]
struct Machine {
    applied: Option<LogId>,
    members: StoredMembershipOf<C>,
    snapshot: Arc<Mutex<Option<SnapshotMetaOf<C>>>>,
}

impl RaftSnapshotBuilder<C> for Machine {
    type SnapshotData = ();

    async fn build_snapshot(&mut self) -> Result<SnapshotOf<C, ()>, io::Error> {
        let meta = SnapshotMeta { last_log_id: self.applied, last_membership: self.members.clone() };
        *self.snapshot.lock().unwrap() = Some(meta.clone());
        Ok(Snapshot { meta, snapshot: () })
    }
}

impl RaftStateMachine<C> for Machine {
    type SnapshotData = ();
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembershipOf<C>), io::Error> {
        Ok((self.applied, self.members.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<C>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some(entry) = entries.next().await {
            let (entry, _) = entry?;
            self.applied = Some(entry.log_id);
            if let EntryPayload::Membership(members) = entry.payload {
                self.members = StoredMembershipOf::<C>::new(Some(entry.log_id), members);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMetaOf<C>, _snapshot: ()) -> Result<(), io::Error> {
        self.applied = meta.last_log_id;
        self.members = meta.last_membership.clone();
        *self.snapshot.lock().unwrap() = Some(meta.clone());
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<SnapshotOf<C, ()>>, io::Error> {
        Ok(self.snapshot.lock().unwrap().clone().map(|meta| Snapshot { meta, snapshot: () }))
    }
}

struct OnMemory;

type Built<S, G> = Result<(G, LogStore<TokioRuntime, Arc<S>, ThreadFlusher>, Machine), StorageError<C>>;

fn log<S: concordat_store::Store>(store: S) -> LogStore<TokioRuntime, Arc<S>, ThreadFlusher> {
    let store = Arc::new(store);
    let flusher = ThreadFlusher::start(store.clone()).unwrap();
    LogStore(Arc::new(Log::open(store, flusher, 3).unwrap()))
}

impl StoreBuilder<C, LogStore<TokioRuntime, Arc<MemoryStore>, ThreadFlusher>, Machine, ()> for OnMemory {
    async fn build(&self) -> Built<MemoryStore, ()> {
        Ok(((), log(MemoryStore::new()), Machine::default()))
    }
}

/// An engine on disk, opened in a directory of its own.
struct OnDisk<S>(fn(&Path) -> S);

impl<S: concordat_store::Store>
    StoreBuilder<C, LogStore<TokioRuntime, Arc<S>, ThreadFlusher>, Machine, tempfile::TempDir> for OnDisk<S>
{
    async fn build(&self) -> Built<S, tempfile::TempDir> {
        let dir = tempfile::tempdir().unwrap();
        let store = (self.0)(dir.path());
        Ok((dir, log(store), Machine::default()))
    }
}

#[test]
fn passes_on_the_memory_store() {
    TokioRuntime::run(async { Suite::test_all(OnMemory).await }).unwrap();
}

#[test]
fn passes_on_redb() {
    let engine = OnDisk(|dir| RedbStore::open(dir).unwrap());
    TokioRuntime::run(async { Suite::test_all(engine).await }).unwrap();
}

#[test]
fn passes_on_sled() {
    let engine = OnDisk(|dir| SledStore::open(dir).unwrap());
    TokioRuntime::run(async { Suite::test_all(engine).await }).unwrap();
}

#[test]
fn the_log_is_the_same_after_a_crash_that_lost_what_was_not_flushed() {
    TokioRuntime::run(async {
        let cluster = Cluster::<TokioRuntime>::new(1);
        let (group, mut deliveries) = cluster.open(4, 1, 1).await;
        let chain = chain(4, 5);
        for entry in &chain {
            group.append(entry.clone()).await.unwrap();
        }
        // Delivered is committed is flushed, in a group of one.
        expect(&mut deliveries, 4, &chain, 0).await;
        group.close().await;
        let crashed = Arc::new(cluster.stores[&1].lose_unflushed());
        let flusher = Arc::new(InlineFlusher::new(crashed.clone()));
        let log = Log::<TokioRuntime, _, _>::open(crashed, flusher, 4).unwrap();
        assert_eq!(log.wrappers_from(0, 100).unwrap(), chain);
        assert_eq!(log.wrappers_from(3, 1).unwrap(), chain[3..4]);
        assert_eq!(log.position(2), 0);
        assert!(log.vote().unwrap().unwrap().committed);
    });
}

#[test]
fn a_thread_flusher_shares_flushes_and_stays_failed() {
    TokioRuntime::run(async {
        let store = Arc::new(MemoryStore::new());
        let flusher = ThreadFlusher::start(store.clone()).unwrap();
        let mut batch = concordat_store::WriteBatch::new();
        batch.put(*b"key", *b"value");
        concordat_store::Store::apply(&store, batch).unwrap();
        flusher.flush().await.unwrap();
        assert_eq!(store.unflushed(), 0);
        store.fail_next_flush();
        let first = flusher.flush().await.unwrap_err();
        let second = flusher.flush().await.unwrap_err();
        assert_eq!(first.0, second.0);
    });
}
