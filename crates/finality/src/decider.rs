//! The decider: one serial task per custodian. It carries out a step's writes and its flush before anything that depends on
//! them leaves, and finishes one decision before the next begins (PROTOCOL 4, 7).

use std::collections::VecDeque;
use std::sync::Arc;

use concordat_store::{Store, WriteBatch};

use crate::certified::{Certified, Published};
use crate::core::{Core, Fatal, Out, Parts};
use crate::effect::{Action, After, Effect, Input, Now};
use crate::evidence::Evidence;
use crate::record;
use crate::rules::{Law, Rule, Rules};
use crate::status::Status;

/// One custodian: the pure core and the store that it writes to.
pub struct Decider<S: Store, R: Rules = Law> {
    pub(crate) core: Core<S, R>,
    pub(crate) store: Arc<S>,
    pub(crate) me: u16,
    pub(crate) failed: bool,
}

impl<S: Store, R: Rules> Decider<S, R> {
    /// Reads what is durable. Give it [`Input::Start`] first.
    pub fn open(parts: Parts<Arc<S>, R::Scheme>) -> Result<Self, Fatal> {
        let (store, me) = (parts.store.clone(), parts.me);
        Ok(Decider { core: Core::open(parts)?, store, me, failed: false })
    }

    /// Takes one input. What the shell has to do is handed to `sink` in order, and only once everything is durable that
    /// must be durable before it: what `sink` was given before an error has left, as it would have in a crash.
    ///
    /// # Errors
    /// A [`Fatal`] is final: the process stops and nothing is retried.
    pub fn handle(&mut self, now: Now, input: Input, sink: &mut dyn FnMut(Action)) -> Result<(), Fatal> {
        if self.failed {
            return Ok(());
        }
        let result = self.decide(now, input, sink);
        self.failed = result.is_err();
        result
    }

    fn decide(&mut self, now: Now, input: Input, sink: &mut dyn FnMut(Action)) -> Result<(), Fatal> {
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            let (mut left, mut late) = (VecDeque::new(), Vec::new());
            let mut out = self.core.step(now, input)?;
            loop {
                let Out { writes, dirty, effects, then } = out;
                let (first, last): (Vec<_>, Vec<_>) =
                    effects.into_iter().partition(|effect| effect.after == After::Nothing);
                let mut release = |effects: Vec<Effect>| {
                    for effect in effects {
                        match effect.action {
                            // Messages to itself are inputs; everything else is the shell's.
                            Action::Send { to, message } if to == self.me => {
                                inputs.push_back(Input::Message(message))
                            }
                            other => sink(other),
                        }
                    }
                };
                release(first);
                if R::keeps(Rule::FlushBeforeSend) {
                    write(self.store.as_ref(), writes, dirty)?;
                    release(last);
                } else {
                    release(last);
                    late.push((writes, dirty));
                }
                // What is left to do after the flush is part of the same decision: it is carried out before the next input,
                // one piece after the other, each flushed before the next reads anything.
                left.extend(then);
                let Some(then) = left.pop_front() else { break };
                out = self.core.resume(then)?;
            }
            for (writes, dirty) in late {
                write(self.store.as_ref(), writes, dirty)?;
            }
        }
        Ok(())
    }

    /// When it wants an [`Input::Tick`] at the latest, ms of the clock that never jumps.
    pub fn next_wake(&self) -> u64 {
        self.core.next_wake()
    }

    /// Where this custodian stands.
    pub fn status(&self) -> Status {
        self.core.status()
    }

    /// Everything that a certified head lets out, for a shell that has to publish it (again) after a restart.
    pub fn published(&self, height: u64) -> Result<Option<Certified<Published>>, Fatal> {
        Ok(record::published(&self.store, &self.core.context, height)?)
    }

    /// What it holds against others: one piece for each custodian named (see [`crate::evidence::check`]).
    pub fn evidence(&self) -> impl Iterator<Item = &Evidence> {
        self.core.evidence.values()
    }

    /// The ledger, for reading.
    pub fn ledger(&self) -> &concordat_ledger::Ledger<Arc<S>> {
        &self.core.ledger
    }
}

fn write<S: Store>(store: &S, writes: WriteBatch, flush: bool) -> Result<(), Fatal> {
    if !writes.is_empty() {
        store.apply(writes)?;
    }
    if flush {
        store.flush()?;
    }
    Ok(())
}
