//! The state machine that openraft applies to: it hands committed wrappers on, in order, and keeps nothing.
//!
//! It is volatile: after a restart openraft applies the log from its beginning and every committed wrapper is delivered
//! again. Snapshots don't exist here; state is synced from certified heads (PROTOCOL 8).

use std::io;

use bytes::Bytes;
use futures::channel::mpsc;
use futures::{SinkExt, Stream, StreamExt};
use openraft::async_runtime::Select2;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::entry::EntryPayload;
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::type_config::TypeConfigExt;
use openraft::type_config::alias::{SnapshotMetaOf, SnapshotOf, StoredMembershipOf, WatchReceiverOf};
use openraft::{AsyncRuntime, OptionalSend};

use super::types::{LogId, TC};

/// A wrapper that the epoch's Raft group committed. Tentative all the same: only a certificate is final.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The epoch.
    pub epoch: u64,
    /// Which wrapper of the epoch, from 0: the batch number. Membership and blank entries don't count.
    pub position: u64,
    /// Its bytes, checked by the guard when they came from outside.
    pub bytes: Bytes,
}

/// Hands on what is applied.
pub struct Delivery<Rt: AsyncRuntime> {
    epoch: u64,
    next: u64,
    out: mpsc::Sender<Committed>,
    closing: WatchReceiverOf<TC<Rt>, bool>,
    applied: Option<LogId>,
    members: StoredMembershipOf<TC<Rt>>,
}

impl<Rt: AsyncRuntime> Delivery<Rt> {
    /// Delivers to `out` until `closing` turns true.
    pub fn new(epoch: u64, out: mpsc::Sender<Committed>, closing: WatchReceiverOf<TC<Rt>, bool>) -> Self {
        Self { epoch, next: 0, out, closing, applied: None, members: Default::default() }
    }

    async fn deliver(&mut self, bytes: Bytes) -> io::Result<()> {
        let stopped = || io::Error::new(io::ErrorKind::BrokenPipe, "nobody takes committed entries any more");
        if *self.closing.borrow_watched() {
            return Err(stopped());
        }
        let item = Committed { epoch: self.epoch, position: self.next, bytes };
        match TC::<Rt>::select2(self.closing.changed(), self.out.send(item)).await {
            Select2::Second(Ok(())) => {
                self.next += 1;
                Ok(())
            }
            Select2::First(_) | Select2::Second(Err(_)) => Err(stopped()),
        }
    }
}

impl<Rt: AsyncRuntime> RaftStateMachine<TC<Rt>> for Delivery<Rt> {
    type SnapshotData = ();
    type SnapshotBuilder = NoSnapshots;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembershipOf<TC<Rt>>), io::Error> {
        Ok((self.applied, self.members.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TC<Rt>>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some(entry) = entries.next().await {
            let (entry, responder) = entry?;
            match entry.payload {
                EntryPayload::Blank => {}
                EntryPayload::Normal(wrapper) => self.deliver(wrapper.0).await?,
                EntryPayload::Membership(members) => {
                    self.members = StoredMembershipOf::<TC<Rt>>::new(Some(entry.log_id), members);
                }
            }
            self.applied = Some(entry.log_id);
            if let Some(responder) = responder {
                responder.send(());
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> NoSnapshots {
        NoSnapshots
    }

    async fn install_snapshot(
        &mut self,
        _meta: &SnapshotMetaOf<TC<Rt>>,
        _snapshot: (),
    ) -> Result<(), io::Error> {
        Err(no_snapshots())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<SnapshotOf<TC<Rt>, ()>>, io::Error> {
        Ok(None)
    }
}

/// Refuses to build a snapshot.
pub struct NoSnapshots;

impl<Rt: AsyncRuntime> RaftSnapshotBuilder<TC<Rt>> for NoSnapshots {
    type SnapshotData = ();

    async fn build_snapshot(&mut self) -> Result<SnapshotOf<TC<Rt>, ()>, io::Error> {
        Err(no_snapshots())
    }
}

fn no_snapshots() -> io::Error {
    io::Error::new(
        io::ErrorKind::Unsupported,
        "an epoch's log has no snapshots: state is synced from certified heads",
    )
}
