//! openraft's way out: requests through a [`RaftLink`], replies back through the guard.

use std::collections::BTreeMap;
use std::future::Future;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::RPCOption;
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
};
use openraft::type_config::TypeConfigExt;
use openraft::type_config::alias::{SnapshotOf, VoteOf, WatchReceiverOf};
use openraft::{AnyError, AsyncRuntime, OptionalSend, RaftNetworkFactory, RaftNetworkV2};

use super::guard::{self, GuardRules, Reason, Refusals, SentAppend};
use super::types::{Ballot, LogId, TC};
use super::wire::{Append, AppendReply, Ask, AskReply, At, Item};

/// A request didn't reach the peer, or no answer came back.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("custodian {peer} gave no answer: {why}")]
pub struct LinkError {
    /// The peer.
    pub peer: u16,
    /// What happened.
    pub why: String,
}

/// Carries a log group's requests to a peer and its reply back: tonic in a custodian, a channel in the simulator.
///
/// The request bytes name the epoch ([`super::epoch_of`]); the other side hands them to its group of that epoch.
pub trait RaftLink: Send + Sync + 'static {
    /// Sends an append to `peer` and waits for the reply.
    fn append(&self, peer: u16, request: Bytes) -> impl Future<Output = Result<Bytes, LinkError>> + Send;

    /// Sends a request for a vote to `peer` and waits for the reply.
    fn vote(&self, peer: u16, request: Bytes) -> impl Future<Output = Result<Bytes, LinkError>> + Send;
}

impl<L: RaftLink> RaftLink for Arc<L> {
    fn append(&self, peer: u16, request: Bytes) -> impl Future<Output = Result<Bytes, LinkError>> + Send {
        (**self).append(peer, request)
    }

    fn vote(&self, peer: u16, request: Bytes) -> impl Future<Output = Result<Bytes, LinkError>> + Send {
        (**self).vote(peer, request)
    }
}

/// What all connections of a group share.
pub(super) struct Outward<L> {
    pub epoch: u64,
    pub link: L,
    pub deadline: Duration,
    pub refusals: Arc<Refusals>,
    /// The last entry that each peer acknowledged.
    pub acknowledged: Mutex<BTreeMap<u16, At>>,
}

impl<L> Outward<L> {
    fn acknowledged(&self, peer: u16) -> Option<At> {
        self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner).get(&peer).copied()
    }

    fn acknowledge(&self, peer: u16, at: At) {
        let mut all = self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
        let held = all.entry(peer).or_insert(at);
        *held = (*held).max(at);
    }
}

/// Makes openraft's connections.
pub(super) struct Links<Rt: AsyncRuntime, L, G> {
    pub shared: Arc<Outward<L>>,
    pub closing: WatchReceiverOf<TC<Rt>, bool>,
    pub rules: PhantomData<fn() -> G>,
}

/// openraft's connection to one peer.
pub(super) struct Connection<Rt: AsyncRuntime, L, G> {
    peer: Result<u16, u64>,
    shared: Arc<Outward<L>>,
    closing: WatchReceiverOf<TC<Rt>, bool>,
    rules: PhantomData<fn() -> G>,
}

impl<Rt: AsyncRuntime, L: RaftLink, G: GuardRules> RaftNetworkFactory<TC<Rt>> for Links<Rt, L, G> {
    type Network = Connection<Rt, L, G>;

    async fn new_client(&mut self, target: u64, _node: &()) -> Connection<Rt, L, G> {
        Connection {
            peer: u16::try_from(target).map_err(|_| target),
            shared: self.shared.clone(),
            closing: self.closing.clone(),
            rules: PhantomData,
        }
    }
}

fn lost<C: openraft::RaftTypeConfig>(why: impl std::fmt::Display) -> RPCError<C> {
    RPCError::Network(NetworkError::new(&AnyError::error(why)))
}

fn unreachable<C: openraft::RaftTypeConfig>(why: impl std::fmt::Display) -> RPCError<C> {
    RPCError::Unreachable(Unreachable::new(&AnyError::error(why)))
}

impl<Rt: AsyncRuntime, L: RaftLink, G: GuardRules> Connection<Rt, L, G> {
    /// Nothing leaves a group that ended.
    fn peer(&self) -> Result<u16, RPCError<TC<Rt>>> {
        if *self.closing.borrow_watched() {
            return Err(unreachable("the epoch's log group is closed"));
        }
        self.peer.map_err(|number| unreachable(format!("{number} is no custodian's number")))
    }

    async fn call(
        &self,
        peer: u16,
        answer: impl Future<Output = Result<Bytes, LinkError>> + Send,
    ) -> Result<Bytes, RPCError<TC<Rt>>> {
        match TC::<Rt>::timeout(self.shared.deadline, answer).await {
            Ok(Ok(reply)) => Ok(reply),
            // Unreachable makes openraft back off; a custodian that is down shouldn't be called in a loop.
            Ok(Err(error)) => Err(unreachable(error)),
            Err(_) => Err(lost(format!("custodian {peer} did not answer in {:?}", self.shared.deadline))),
        }
    }

    fn refuse(&self, peer: u16, reason: Reason) -> RPCError<TC<Rt>> {
        // Backed off from as well: one who answers nonsense is as good as unreachable.
        unreachable(self.shared.refusals.count(peer, reason))
    }
}

impl<Rt: AsyncRuntime, L: RaftLink, G: GuardRules> RaftNetworkV2<TC<Rt>> for Connection<Rt, L, G> {
    type SnapshotData = ();

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TC<Rt>>,
        _option: RPCOption,
    ) -> Result<AppendEntriesResponse<TC<Rt>>, RPCError<TC<Rt>>> {
        let peer = self.peer()?;
        let append = Append {
            epoch: self.shared.epoch,
            vote: rpc.vote.into(),
            previous: rpc.prev_log_id.map(At::from),
            items: rpc.entries.into_iter().map(Item::from).collect(),
            committed: rpc.leader_commit.map(At::from),
        };
        let sent = SentAppend::of(&append);
        let reply = self.call(peer, self.shared.link.append(peer, append.encode())).await?;
        let reply = AppendReply::parse(reply).map_err(|error| self.refuse(peer, error.into()))?;
        if G::CHECKS {
            sent.reply(&reply, self.shared.acknowledged(peer)).map_err(|reason| self.refuse(peer, reason))?;
        }
        match reply {
            AppendReply::Success => {
                if let Some(last) = sent.last() {
                    self.shared.acknowledge(peer, last);
                }
                Ok(AppendEntriesResponse::Success)
            }
            AppendReply::Partial(at) => {
                self.shared.acknowledge(peer, at);
                Ok(AppendEntriesResponse::PartialSuccess(Some(LogId::from(at))))
            }
            AppendReply::Conflict => Ok(AppendEntriesResponse::Conflict),
            AppendReply::HigherVote(vote) => Ok(AppendEntriesResponse::HigherVote(vote.into())),
        }
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TC<Rt>>,
        _option: RPCOption,
    ) -> Result<VoteResponse<TC<Rt>>, RPCError<TC<Rt>>> {
        let peer = self.peer()?;
        let ask = Ask {
            epoch: self.shared.epoch,
            vote: rpc.vote.into(),
            last: rpc.last_log_id.map(At::from),
            transfer: rpc.leadership_transfer,
        };
        let reply = self.call(peer, self.shared.link.vote(peer, ask.encode())).await?;
        let reply = AskReply::parse(reply).map_err(|error| self.refuse(peer, error.into()))?;
        if G::CHECKS {
            guard::ask_reply(&ask, &reply).map_err(|reason| self.refuse(peer, reason))?;
        }
        Ok(VoteResponse::new(Ballot::from(reply.vote), reply.last.map(LogId::from), reply.granted))
    }

    async fn full_snapshot(
        &mut self,
        _vote: VoteOf<TC<Rt>>,
        _snapshot: SnapshotOf<TC<Rt>, ()>,
        _cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TC<Rt>>, StreamingError<TC<Rt>>> {
        Err(StreamingError::Unreachable(Unreachable::new(&AnyError::error(
            "an epoch's log has no snapshots",
        ))))
    }
}
