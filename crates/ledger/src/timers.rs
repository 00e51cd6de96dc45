//! Timers fire by batch time, before a batch's requests: oldest due first, then by machine id.
//!
//! Bounded per batch; what is left over fires with the next batch, and a request to a machine whose own due timers
//! haven't fired is refused as `busy` rather than let in ahead of them.

use concordat_events::Hash;
use concordat_machine::State;
use concordat_store::{Store, StoreError};

use crate::kept::Kept;
use crate::keys;
use crate::layer::Read;
use crate::limits::{
    MAIL_PER_REQUEST, STARTS_BY_TIMERS, STARTS_PER_BATCH, STARTS_PER_REQUEST, TIMER_REST_MS, TIMER_STREAK,
    TIMERS_PER_BATCH,
};
use crate::reason::Refusal;
use crate::work::{Slot, Work};

impl<S: Store> Work<'_, S> {
    /// Begins a batch: its time, and the timers due by then.
    pub(crate) fn begin(&mut self, now_ms: u64) -> Result<(), StoreError> {
        self.now_ms = now_ms;
        self.timers_left = TIMERS_PER_BATCH;
        self.batch_starts_left = STARTS_PER_BATCH;
        self.by_timer = true;
        // In rounds: a machine may have several due, and one set by a timer that fired comes after all that were due.
        while self.timers_left > 0 {
            let due = self.due()?;
            if due.is_empty() {
                break;
            }
            for id in due {
                let key = keys::machine_key(&id);
                let missing = || keys::corrupt(&key, "the index of timers names a machine that isn't there");
                let mut slot = self.take(&id)?.ok_or_else(missing)?;
                let left = STARTS_BY_TIMERS.saturating_sub(slot.record.begun_by_timers);
                let starts = STARTS_PER_REQUEST.min(usize::try_from(left).unwrap_or(usize::MAX));
                self.starts_left = starts;
                let fired = self.fire(id, &mut slot);
                self.put(id, slot);
                fired?;
                self.deliver()?;
                let begun = u32::try_from(starts - self.starts_left).unwrap_or(u32::MAX);
                // What its messages made others start counts as its own.
                if begun > 0
                    && let Some(mut slot) = self.take(&id)?
                {
                    let record = Self::note(&mut slot);
                    record.begun_by_timers = record.begun_by_timers.saturating_add(begun);
                    self.put(id, slot);
                }
            }
        }
        self.by_timer = false;
        Ok(())
    }

    /// The machines with due timers, as many as may still fire.
    fn due(&self) -> Result<Vec<Hash>, StoreError> {
        let mut machines = Vec::new();
        for (key, _) in self.over.scan(keys::TIMER_PREFIX, &[], self.timers_left)? {
            let timer = keys::timer_of(&key).ok_or_else(|| keys::corrupt(&key, "expected a timer's key"))?;
            if timer.0 > self.now_ms {
                break;
            }
            machines.push(timer.1);
        }
        Ok(machines)
    }

    /// Does this machine owe a timer that was due by now? The batch had none left to fire, or the machine rests; either
    /// way it doesn't know yet of a deadline that has passed.
    pub(crate) fn owes_timer(&self, slot: &Slot) -> bool {
        let state = &slot.record.state;
        !state.is_done() && state.next_due_ms().is_some_and(|due| due <= self.now_ms)
    }

    /// Fires a machine's first due timer. It is used up whatever comes of it.
    fn fire(&mut self, id: Hash, slot: &mut Slot) -> Result<(), StoreError> {
        self.timers_left = self.timers_left.saturating_sub(1);
        let key = keys::machine_key(&id);
        self.mail_left = MAIL_PER_REQUEST;
        let kept = Kept::new(&self.over, id);
        let fired = slot.fixed.definition.fire_due_with(&slot.record.state, self.now_ms, &kept);
        kept.check()?;
        let fired = fired
            .map_err(|rejection| keys::corrupt(&key, &rejection.to_string()))?
            .ok_or_else(|| keys::corrupt(&key, "the index names a timer that the machine doesn't have"))?;
        let without = without_first_timer(&slot.record.state)
            .ok_or_else(|| keys::corrupt(&key, "expected a state with a timer"))?;
        let refused = if let Some(rejection) = fired.rejection {
            Self::note(slot).state = fired.step.state;
            Some(rejection.into())
        } else {
            let refused = self.commit(id, slot, fired.step)?.err();
            if refused.is_some() {
                // What it asked for is refused, so the step didn't happen.
                Self::note(slot).state = without;
            }
            refused
        };
        let now_ms = self.now_ms;
        let record = Self::note(slot);
        record.timer_refused = refused.map(|refusal: Refusal| refusal.code().to_owned());
        record.timer_streak = record.timer_streak.saturating_add(1);
        record.rest_until_ms = (record.timer_streak >= TIMER_STREAK).then(|| now_ms + TIMER_REST_MS);
        Ok(())
    }
}

/// The state with its first timer used up and nothing else changed.
fn without_first_timer(state: &State) -> Option<State> {
    let mut value = serde_json::to_value(state).ok()?;
    let timers = value.get_mut("timers")?.as_array_mut()?;
    if timers.is_empty() {
        return None;
    }
    timers.remove(0);
    serde_json::from_value(value).ok()
}
