//! What goes with a report, so that all plan alike: the batches behind the sender's vote and lock, and its newest certified heads for
//! those who are behind. A vote counts only if its batches give its head; that is computed here, in memory, on top of the own state.
//!
//! Promises: nothing is written to the custodian's store; nothing counts that the group hasn't signed or that isn't named by its hash.
//! Refuses: to guess about a vote whose height it hasn't reached.

use std::collections::BTreeMap;

use concordat_events::batch::Batch;
use concordat_events::hash::Hash;
use concordat_ledger::{ExecuteError, Ledger};
use concordat_store::{Store, StoreError, WriteBatch};
use prost::Message as _;

use super::over::Over;
use super::{Plan, RecoverError, Report};
use crate::context::Context;
use crate::message::{CertifiedHead, Vote};
use crate::read::{batch_from_wire, batch_to_wire};
use crate::record;
use crate::wire;

/// What goes with a report. Whoever carries it may leave out of it, but can't put anything in: heads are signed by the group,
/// batches are named by their hash.
#[derive(Clone, Debug, Default)]
pub struct Attached {
    /// Certified heads in order.
    pub heads: Vec<wire::CertifiedHead>,
    /// The batches behind vote and lock.
    pub batches: Vec<wire::Batch>,
}

/// What goes with a report: the certified heads from height `from` on, or the newest ones of together `most` bytes.
///
/// # Errors
/// [`RecoverError::NoBatch`] if the own vote can't be shown whole, [`RecoverError::NoHead`] if `from` is a height whose head isn't
/// kept here.
pub fn attach<S: Store>(
    store: &S,
    context: &Context,
    report: &Report,
    from: Option<u64>,
    most: usize,
) -> Result<Attached, RecoverError> {
    let next = report.next_height();
    let mut attached = Attached::default();
    let mut seen = BTreeMap::new();
    let voted = report.prepared.filter(|vote| vote.height == next).map(|_| &report.batch_hashes);
    for hash in voted.into_iter().flatten() {
        let batch = record::get_batch(store, context, hash)?.ok_or(RecoverError::NoBatch { hash: *hash })?;
        seen.insert(*hash, batch_to_wire(&batch));
    }
    let locked = report.lock.as_ref().filter(|lock| lock.vote.height == next).map(|lock| &lock.batch_hashes);
    for hash in locked.into_iter().flatten() {
        if let Some(batch) = record::get_batch(store, context, hash)? {
            seen.insert(*hash, batch_to_wire(&batch));
        }
    }
    attached.batches = seen.into_values().collect();
    let mut size = 0;
    for height in (from.unwrap_or(0)..next).rev() {
        let Some(mut head) = record::get_head_bytes(store, height)? else {
            // Who once took over the state of a head has none before it.
            match from {
                Some(_) => return Err(RecoverError::NoHead { height }),
                None => break,
            }
        };
        head.events.clear();
        size += head.encoded_len();
        if from.is_none() && size > most {
            break;
        }
        attached.heads.push(head);
    }
    attached.heads.reverse();
    Ok(attached)
}

/// The state that votes are judged on: the own one, and on top of it what came with the reports.
pub struct Replay<S: Store> {
    store: S,
    context: Context,
    ledger: Ledger<std::sync::Arc<Over<S>>>,
    batches: BTreeMap<Hash, Batch>,
}

impl<S: Store + Clone> Replay<S> {
    /// Follows the certified heads among `attached` from the own one on.
    ///
    /// # Errors
    /// Those of the store and of reading what is attached, and [`RecoverError::Diverged`] if the own state isn't the one that the
    /// group has signed.
    pub fn open(store: S, context: &Context, attached: &[Attached]) -> Result<Self, RecoverError> {
        let over = std::sync::Arc::new(Over::new(store.clone()));
        let mut ledger = Ledger::open(over.clone(), context.genesis.clone())?;
        let mut batches = BTreeMap::new();
        for batch in attached.iter().flat_map(|attached| &attached.batches) {
            let batch = batch_from_wire(context, batch)?;
            batches.insert(batch.hash(), batch);
        }
        let mut heads: BTreeMap<u64, CertifiedHead> = BTreeMap::new();
        for head in attached.iter().flat_map(|attached| &attached.heads) {
            let head = CertifiedHead::from_wire(context, head)?;
            heads.entry(head.certificate.head.height).or_insert(head);
        }
        while let Some(head) = heads.remove(&ledger.next_height()) {
            let draft = match ledger.execute(&head.batches) {
                Ok(draft) => draft,
                Err(error) => return Err(executing(error)),
            };
            let (height, certified) = (head.certificate.head.height, head.certificate.log.id());
            if draft.id != certified {
                return Err(RecoverError::Diverged { height, certified, computed: draft.id });
            }
            let writes = ledger.install(draft).map_err(|error| RecoverError::Stale(error.to_string()))?;
            over.apply(writes)?;
        }
        Ok(Replay { store, context: context.clone(), ledger, batches })
    }

    /// The height that comes next on the state that was reached.
    pub fn next_height(&self) -> u64 {
        self.ledger.next_height()
    }

    /// Do these batches give the head of this vote?
    ///
    /// # Errors
    /// [`RecoverError::Behind`] if the state below that head couldn't be reached.
    pub fn rebuilds(&self, vote: &Vote, hashes: &[Hash]) -> Result<bool, RecoverError> {
        if vote.height != self.ledger.next_height() {
            let next = self.ledger.next_height();
            return Err(RecoverError::Behind { next, needed: vote.height });
        }
        let mut batches = Vec::new();
        for hash in hashes {
            let batch = match self.batches.get(hash) {
                Some(batch) => Some(batch.clone()),
                None => record::get_batch(&self.store, &self.context, hash)?,
            };
            // Who voted honestly has shown them all.
            let Some(batch) = batch else { return Ok(false) };
            batches.push(batch);
        }
        match self.ledger.execute(&batches) {
            Ok(draft) => Ok(draft.id == vote.id),
            Err(error @ (ExecuteError::Store(_) | ExecuteError::Unsupported { .. })) => Err(executing(error)),
            Err(_) => Ok(false),
        }
    }

    /// Puts the batches behind the head that the plan forces where this custodian's next run finds them.
    ///
    /// # Errors
    /// Those of the store.
    pub fn keep_batches(&self, plan: &Plan) -> Result<(), StoreError> {
        let mut writes = WriteBatch::new();
        for hash in plan.forced_batches() {
            if let Some(batch) = self.batches.get(&hash) {
                record::put_batch(&mut writes, batch);
            }
        }
        if writes.is_empty() {
            return Ok(());
        }
        self.store.apply(writes)?;
        self.store.flush()
    }
}

fn executing(error: ExecuteError) -> RecoverError {
    match error {
        ExecuteError::Store(error) => RecoverError::Store(error),
        other => RecoverError::Stale(other.to_string()),
    }
}
