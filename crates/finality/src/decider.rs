//! The decider: one serial task per custodian. It carries out a step's writes and its flush before anything that depends on
//! them leaves, and finishes one decision before the next begins (PROTOCOL 4, 7).

use std::collections::VecDeque;
use std::sync::Arc;

use concordat_store::Store;

use crate::core::{Core, Fatal, Out, Parts};
use crate::effect::{Action, After, Input, Now};
use crate::rules::{Law, Rules};
use crate::status::Status;

/// One custodian: the pure core and the store that it writes to.
pub struct Decider<S: Store, R: Rules = Law> {
    core: Core<S, R>,
    store: Arc<S>,
    me: u16,
    failed: bool,
}

impl<S: Store, R: Rules> Decider<S, R> {
    /// Reads what is durable. Give it [`Input::Start`] first.
    pub fn open(parts: Parts<Arc<S>>) -> Result<Self, Fatal> {
        let (store, me) = (parts.store.clone(), parts.me);
        Ok(Decider { core: Core::open(parts)?, store, me, failed: false })
    }

    /// Takes one input and gives back what the shell has to do, in order; everything that must be durable before it, is.
    ///
    /// # Errors
    /// A [`Fatal`] is final: the process stops, nothing is retried, and what this call had released before is lost with it.
    pub fn handle(&mut self, now: Now, input: Input) -> Result<Vec<Action>, Fatal> {
        if self.failed {
            return Ok(Vec::new());
        }
        let mut actions = Vec::new();
        let mut inputs = VecDeque::from([input]);
        while let Some(input) = inputs.pop_front() {
            let out = self.core.step(now, input).inspect_err(|_| self.failed = true)?;
            self.carry_out(now, out, &mut actions, &mut inputs).inspect_err(|_| self.failed = true)?;
        }
        Ok(actions)
    }

    fn carry_out(
        &mut self,
        now: Now,
        out: Out,
        actions: &mut Vec<Action>,
        inputs: &mut VecDeque<Input>,
    ) -> Result<(), Fatal> {
        let mut outs = VecDeque::from([out]);
        while let Some(Out { writes, dirty, effects, then }) = outs.pop_front() {
            let (before, behind): (Vec<_>, Vec<_>) =
                effects.into_iter().partition(|effect| effect.after == After::Nothing);
            self.release(before.into_iter().map(|effect| effect.action), actions, inputs);
            if !R::FLUSH_BEFORE_SEND {
                self.release(behind.into_iter().map(|effect| effect.action), actions, inputs);
                self.write(writes, dirty)?;
            } else {
                self.write(writes, dirty)?;
                self.release(behind.into_iter().map(|effect| effect.action), actions, inputs);
            }
            for then in then {
                let mut out = self.core.resume(then)?;
                // What comes after a flush may need another one; it is carried out before the next input.
                out.then.retain(|_| true);
                outs.push_back(out);
            }
            let _ = now;
        }
        Ok(())
    }

    fn write(&self, writes: concordat_store::WriteBatch, flush: bool) -> Result<(), Fatal> {
        if !writes.is_empty() {
            self.store.apply(writes)?;
        }
        if flush {
            self.store.flush()?;
        }
        Ok(())
    }

    /// Messages to itself are inputs; everything else is the shell's.
    fn release(
        &self,
        released: impl Iterator<Item = Action>,
        actions: &mut Vec<Action>,
        inputs: &mut VecDeque<Input>,
    ) {
        for action in released {
            match action {
                Action::Send { to, message } if to == self.me => inputs.push_back(Input::Message(message)),
                other => actions.push(other),
            }
        }
    }

    /// When it wants an [`Input::Tick`] at the latest, ms of the clock that never jumps.
    pub fn next_wake(&self) -> u64 {
        self.core.next_wake()
    }

    /// Where this custodian stands.
    pub fn status(&self) -> Status {
        self.core.status()
    }

    /// The ledger, for reading.
    pub fn ledger(&self) -> &concordat_ledger::Ledger<Arc<S>> {
        &self.core.ledger
    }
}
