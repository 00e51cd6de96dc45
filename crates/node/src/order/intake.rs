//! Requests of other custodians on their way to openraft: parsed, guarded, then handed over one at a time.
//!
//! Each runs to its end in a task of its own: a caller that hangs up must not leave an append half judged.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use concordat_store::Store;
use openraft::AsyncRuntime;
use openraft::async_runtime::mutex::Mutex;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, VoteRequest};
use openraft::type_config::TypeConfigExt;

use super::flusher::Flusher;
use super::group::{Group, Shared};
use super::guard::{GuardRules, Held, Reason, Refused, Tip};
use super::link::RaftLink;
use super::storage::Log;
use super::types::{Ballot, LogEntry, LogId, TC};
use super::wire::{Append, AppendReply, Ask, AskReply, At, Item};
use crate::limits;

/// Why a request got no reply. The sender sees a lost message.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IntakeError {
    /// The guard refused it.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The group is closed, dead or read-only.
    #[error("the log group of epoch {epoch} takes no requests: {why}")]
    Unavailable {
        /// The epoch.
        epoch: u64,
        /// Why.
        why: String,
    },
}

/// The guard's view of the log.
struct View<'a, Rt: AsyncRuntime, S, F>(&'a Log<Rt, S, F>);

impl<Rt: AsyncRuntime, S: Store, F: Flusher> Held for View<'_, Rt, S, F> {
    fn item(&self, index: u64) -> Result<Option<Item>, Reason> {
        self.0.item(index).map_err(|error| Reason::Unreadable(error.to_string()))
    }

    fn position(&self, index: u64) -> u64 {
        self.0.position(index)
    }
}

impl<Rt, S, F, L, G> Group<Rt, S, F, L, G>
where
    Rt: AsyncRuntime,
    S: Store,
    F: Flusher,
    L: RaftLink,
    G: GuardRules,
{
    /// An append that `from` sent, as its certificate says. Returns the reply's bytes.
    ///
    /// # Errors
    /// Refused by the guard, or the group takes no requests: to the sender a lost message.
    pub async fn on_append(&self, from: u16, request: Bytes) -> Result<Bytes, IntakeError> {
        let shared = self.shared.clone();
        let done = TC::<Rt>::spawn(async move { shared.take_append(from, request).await });
        done.await.unwrap_or_else(|error| Err(self.shared.unavailable(error)))
    }

    /// A request for a vote that `from` sent, as its certificate says. Returns the reply's bytes.
    ///
    /// # Errors
    /// Refused by the guard, or the group takes no requests: to the sender a lost message.
    pub async fn on_vote(&self, from: u16, request: Bytes) -> Result<Bytes, IntakeError> {
        let shared = self.shared.clone();
        let done = TC::<Rt>::spawn(async move { shared.take_vote(from, request).await });
        done.await.unwrap_or_else(|error| Err(self.shared.unavailable(error)))
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
    fn unavailable(&self, why: impl std::fmt::Display) -> IntakeError {
        IntakeError::Unavailable { epoch: self.identity.epoch, why: why.to_string() }
    }

    fn refuse(&self, from: u16, reason: Reason) -> IntakeError {
        IntakeError::Refused(self.refusals.count(from, reason))
    }

    async fn take_append(&self, from: u16, request: Bytes) -> Result<Bytes, IntakeError> {
        let append = Append::parse(request).map_err(|error| self.refuse(from, error.into()))?;
        if G::CHECKS {
            self.identity.append(from, &append).map_err(|reason| self.refuse(from, reason))?;
        }
        let waiting = self.waiting.fetch_add(1, Ordering::AcqRel);
        let result = if waiting < limits::MAX_WAITING_APPENDS {
            self.hand_over(from, append).await
        } else {
            Err(self.refuse(from, Reason::Flood))
        };
        self.waiting.fetch_sub(1, Ordering::AcqRel);
        result
    }

    async fn hand_over(&self, from: u16, append: Append) -> Result<Bytes, IntakeError> {
        // Held until the core has answered: what the guard judged against must still stand when the core acts.
        let mut tip = self.tip.lock().await;
        let Some(raft) = self.running() else { return Err(self.unavailable("it doesn't run")) };
        let mut after = *tip;
        if G::CHECKS {
            after = self.judge(from, &append, &mut tip)?;
        }
        let request = AppendEntriesRequest {
            vote: Ballot::from(append.vote),
            prev_log_id: append.previous.map(LogId::from),
            entries: append.items.into_iter().map(LogEntry::from).collect(),
            leader_commit: append.committed.map(LogId::from),
        };
        let reply = match raft.append_entries(request).await.map_err(|error| self.unavailable(error))? {
            AppendEntriesResponse::Success => {
                *tip = after;
                AppendReply::Success
            }
            AppendEntriesResponse::PartialSuccess(at) => {
                // openraft's core gives no such answer.
                return Err(self.unavailable(format!("it took only a part, up to {at:?}")));
            }
            AppendEntriesResponse::Conflict => AppendReply::Conflict,
            AppendEntriesResponse::HigherVote(vote) => AppendReply::HigherVote(vote.into()),
        };
        Ok(reply.encode())
    }

    /// The guard's word on an append. `tip` is brought up to what the log holds.
    fn judge(&self, from: u16, append: &Append, tip: &mut Tip) -> Result<Tip, IntakeError> {
        // They differ only if the core took an append and died over the answer.
        if tip.last != self.log.last() {
            let unreadable = |error: std::io::Error| self.refuse(from, Reason::Unreadable(error.to_string()));
            *tip = self.walk(*tip).map_err(unreadable)?.map_err(|reason| self.refuse(from, reason))?;
        }
        let prepared = self.prepared.load(Ordering::Acquire);
        let after = self
            .identity
            .append_to(append, *tip, prepared, &*self.check, &View(&self.log))
            .map_err(|reason| self.refuse(from, reason))?;
        // The core keeps the commit whatever it does with the entries.
        tip.claimed = after.claimed;
        Ok(after)
    }

    async fn take_vote(&self, from: u16, request: Bytes) -> Result<Bytes, IntakeError> {
        let ask = Ask::parse(request).map_err(|error| self.refuse(from, error.into()))?;
        if G::CHECKS {
            self.identity.ask(from, &ask).map_err(|reason| self.refuse(from, reason))?;
        }
        let Some(raft) = self.running() else { return Err(self.unavailable("it doesn't run")) };
        let request = VoteRequest {
            vote: Ballot::from(ask.vote),
            last_log_id: ask.last.map(LogId::from),
            leadership_transfer: ask.transfer,
        };
        let reply = raft.vote(request).await.map_err(|error| self.unavailable(error))?;
        let reply = AskReply {
            vote: reply.vote.into(),
            granted: reply.vote_granted,
            last: reply.last_log_id.map(At::from),
        };
        Ok(reply.encode())
    }
}
