//! A second custodian that differs from the first in nothing: for explorers that try more than one input in one state. Only a
//! scheme whose secrets may be copied has it, so never production's.

use std::sync::Arc;

use concordat_store::Store;

use crate::context::Identity;
use crate::core::{Core, Entropy, Out};
use crate::decider::Decider;
use crate::rules::Rules;
use crate::scheme::Scheme;

impl<S: Store, R: Rules> Decider<S, R> {
    /// The same custodian over `store`, which must hold what the own store holds. Identity and entropy are the same ones, or
    /// stand for them.
    pub fn fork(&self, store: Arc<S>, identity: Box<dyn Identity>, entropy: Box<dyn Entropy>) -> Self
    where
        <R::Scheme as Scheme>::KeyShare: Clone,
        <R::Scheme as Scheme>::GroupKeys: Clone,
        <R::Scheme as Scheme>::Nonce: Clone,
    {
        let core = &self.core;
        Decider {
            core: Core {
                context: core.context.clone(),
                me: core.me,
                identity,
                share: core.share.clone(),
                keys: core.keys.clone(),
                timing: core.timing,
                store: store.clone(),
                ledger: core.ledger.fork(store.clone()),
                record: core.record.clone(),
                last: core.last.clone(),
                evidence: core.evidence.clone(),
                witnessed: core.witnessed.clone(),
                claims: core.claims.clone(),
                unflushed_claims: core.unflushed_claims.clone(),
                unflushed_since: core.unflushed_since,
                pool: core.pool.clone(),
                epoch: core.epoch.clone(),
                round: core.round.clone(),
                start: core.start.clone(),
                repeats: core.repeats.clone(),
                spread: core.spread.clone(),
                down: core.down.clone(),
                grants: core.grants.clone(),
                complaints: core.complaints.clone(),
                now: core.now,
                entropy,
                // Nothing is left in it between two inputs.
                out: Out::default(),
                boot: core.boot.clone(),
                not_restored: core.not_restored,
                streak: core.streak,
                pace: core.pace.clone(),
                resumes: core.resumes.clone(),
                relayed: core.relayed.clone(),
                far: core.far.clone(),
                resigned: core.resigned,
                done: core.done,
                asked: core.asked.clone(),
                rules: std::marker::PhantomData,
            },
            store,
            me: self.me,
            failed: self.failed,
        }
    }
}
