//! What only the leader of an epoch does: it asks for votes until it leads, and feeds its wrappers to Raft in order.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use concordat_store::Store;
use futures::StreamExt;
use futures::channel::oneshot;
use openraft::async_runtime::mutex::Mutex;
use openraft::async_runtime::watch::WatchReceiver;
use openraft::async_runtime::{MpscReceiver, Select2, Select3};
use openraft::type_config::TypeConfigExt;
use openraft::type_config::alias::MpscReceiverOf;
use openraft::{AsyncRuntime, ServerState};

use super::OrderError;
use super::flusher::Flusher;
use super::group::Shared;
use super::guard::{self, GuardRules, Reason};
use super::link::RaftLink;
use super::types::{TC, Wrapper};
use super::wire::{At, Content, Item, Vote};
use crate::limits;

/// A wrapper on its way into the log.
pub(super) struct Order {
    pub entry: Bytes,
    pub done: oneshot::Sender<Result<(), OrderError>>,
}

/// Where orders come from.
pub(super) type Orders<Rt> = MpscReceiverOf<TC<Rt>, Order>;

/// First pause after a write refused for want of a majority; it doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(5);

/// Asks for votes until this custodian leads, and again should it not: a core whose peers were unreachable stays a
/// candidate for ever by itself. Ends with the group.
pub(super) async fn campaign<Rt, S, F, L, G>(shared: Arc<Shared<Rt, S, F, L, G>>)
where
    Rt: AsyncRuntime,
    S: Store,
    F: Flusher,
    L: RaftLink,
    G: GuardRules,
{
    let mut closing = shared.closing.subscribe();
    // Often enough that an epoch starts soon after its members, seldom enough that a term isn't wasted on each.
    let first = shared.timing.heartbeat / 10;
    let mut pause = first;
    while let Some(raft) = shared.running() {
        let asked = raft
            .with_raft_state(|state| {
                (state.server_state == ServerState::Leader, Vote::from(*state.vote_ref()).term)
            })
            .await;
        // A dead core is for `health` to tell.
        let Ok((leads, term)) = asked else { return };
        if leads {
            pause = shared.timing.leader_timeout;
        } else if (G::CHECKS && term >= limits::MAX_TERM) || raft.trigger().elect(false).await.is_err() {
            // Nobody would take a higher term: the epoch has failed, complaints end it.
            return;
        }
        let _ = TC::<Rt>::select2(closing.changed(), TC::<Rt>::sleep(pause)).await;
        pause = (pause * 2).min(shared.timing.leader_timeout);
    }
}

/// Feeds orders to Raft in their order, many at a time, each group only once the one before stands in the log.
pub(super) async fn append_orders<Rt, S, F, L, G>(shared: Arc<Shared<Rt, S, F, L, G>>, mut orders: Orders<Rt>)
where
    Rt: AsyncRuntime,
    S: Store,
    F: Flusher,
    L: RaftLink,
    G: GuardRules,
{
    let epoch = shared.identity.epoch;
    let mut closing = shared.closing.subscribe();
    loop {
        // A group that was closed before this task first ran has nothing more to announce: `changed` would wait for ever.
        if shared.closed.load(Ordering::Acquire) {
            break;
        }
        let first = match TC::<Rt>::select2(closing.changed(), orders.recv()).await {
            Select2::Second(Some(order)) => order,
            Select2::First(_) | Select2::Second(None) => break,
        };
        let mut group = vec![first];
        while group.len() < limits::ORDER_QUEUE
            && let Ok(order) = orders.try_recv()
        {
            group.push(order);
        }
        let group = check(&shared, group).await;
        let result = if group.is_empty() { Ok(()) } else { hand_over(&shared, &group).await };
        let failed = result.is_err();
        for order in group {
            // One who no longer waits needs no answer.
            let _ = order.done.send(result.clone());
        }
        if failed {
            break;
        }
    }
    // What waits still is answered by the channel's end; say why where the group was closed in good order.
    while let Ok(order) = orders.try_recv() {
        let _ = order.done.send(Err(OrderError::Closed { epoch }));
    }
}

/// Takes out what doesn't continue the own chain: a wrapper out of place would end the epoch.
async fn check<Rt, S, F, L, G>(shared: &Shared<Rt, S, F, L, G>, group: Vec<Order>) -> Vec<Order>
where
    Rt: AsyncRuntime,
    S: Store,
    F: Flusher,
    L: RaftLink,
    G: GuardRules,
{
    let mut tip = shared.tip.lock().await;
    let mut passed = Vec::with_capacity(group.len());
    for order in group {
        // Where it will stand isn't known yet; the leader's tip is only used for the chain.
        let at = tip.last.unwrap_or(At { term: 0, index: 0 });
        let item = Item { at, content: Content::Wrapper(order.entry.clone()) };
        match guard::walk(*tip, shared.identity.epoch, &[item], &*shared.check) {
            Ok(next) => {
                *tip = next;
                passed.push(order);
            }
            Err(reason) => {
                let position = tip.wrappers;
                let why = match reason {
                    Reason::Wrapper { why, .. } => why,
                    other => other.to_string(),
                };
                let _ = order.done.send(Err(OrderError::Wrapper { position, why }));
            }
        }
    }
    passed
}

/// Writes a group of orders and returns once they stand in the own log. Waits while no majority answers.
async fn hand_over<Rt, S, F, L, G>(shared: &Shared<Rt, S, F, L, G>, group: &[Order]) -> Result<(), OrderError>
where
    Rt: AsyncRuntime,
    S: Store,
    F: Flusher,
    L: RaftLink,
    G: GuardRules,
{
    let epoch = shared.identity.epoch;
    let mut closing = shared.closing.subscribe();
    let mut grown = shared.log.watch_wrappers();
    let wanted = shared.log.wrappers() + group.len() as u64;
    let mut pause = FIRST_PAUSE;
    loop {
        let raft = shared.running().ok_or(OrderError::Closed { epoch })?;
        let entries: Vec<_> = group.iter().map(|order| Wrapper(order.entry.clone())).collect();
        let dead = |error: &dyn std::fmt::Display| OrderError::Dead { epoch, why: error.to_string() };
        // All of a group is taken or nothing of it.
        let mut results = raft.client_write_many(entries).await.map_err(|error| dead(&error))?;
        let refused = loop {
            if shared.log.wrappers() >= wanted {
                return Ok(());
            }
            match TC::<Rt>::select3(closing.changed(), grown.changed(), results.next()).await {
                Select3::First(_) => return Err(OrderError::Closed { epoch }),
                Select3::Second(Ok(())) => {}
                Select3::Third(Some(Ok(Err(refused)))) => break refused.to_string(),
                // Committed already.
                Select3::Third(Some(Ok(Ok(_)))) => return Ok(()),
                Select3::Third(Some(Err(error))) => return Err(dead(&error)),
                Select3::Second(Err(_)) | Select3::Third(None) => {
                    return Err(if shared.closed.load(Ordering::Acquire) {
                        OrderError::Closed { epoch }
                    } else {
                        dead(&"it gave no answer")
                    });
                }
            }
        };
        // Not leading yet, or without a majority's answer for too long.
        tracing::debug!(epoch, refused, "the log group doesn't take batches yet");
        let _ = TC::<Rt>::select2(closing.changed(), TC::<Rt>::sleep(pause)).await;
        pause = (pause * 2).min(shared.timing.heartbeat);
    }
}
