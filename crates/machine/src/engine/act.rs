//! Actions and timers: what a step does besides moving.

use super::macrostep::{Pending, Run, Signal, rejection, too_large};
use crate::action::{self, Action};
use crate::cel;
use crate::json;
use crate::limits;
use crate::step::{Reason, Rejection};
use serde_json::{Value, json};

impl Run<'_> {
    pub(super) fn set_timers(&mut self, i: usize, signal: &Signal<'_>) -> Result<(), Rejection> {
        let def = self.def;
        let Some(node) = def.node(i) else {
            return Ok(());
        };
        for (n, after) in node.afters.iter().enumerate() {
            let state = self.state_ids();
            let (scope, meter) = self.scope(signal, &state);
            let bad = |why: String| Rejection::new(Reason::TimerError, format!("{}: {why}", after.event));
            let delay =
                after.delay.fill(scope, meter).map_err(|f| rejection(f, Reason::TimerError, &after.event))?;
            let delay = delay.as_i64().ok_or_else(|| bad(format!("expected milliseconds, got {delay}")))?;
            // At least 1 ms, as in Node: a timer that a step sets is never due within that step's
            // batch, so that firing what is due always ends.
            let delay_ms = u64::try_from(delay).unwrap_or(0).max(1);
            let due_ms = self
                .now_ms
                .checked_add(delay_ms)
                .filter(|&due| due <= limits::INTEGER.unsigned_abs())
                .ok_or_else(|| bad(format!("{delay} ms from now is beyond 2^53")))?;
            self.timers.retain(|t| (t.node, t.after) != (i, n));
            if self.timers.len() >= limits::TIMERS {
                return Err(Rejection::new(
                    Reason::StepLimit,
                    format!("at most {} timers wait at once", limits::TIMERS),
                ));
            }
            self.timers.push(Pending { due_ms, node: i, after: n });
        }
        Ok(())
    }

    pub(super) fn actions(&mut self, actions: &[Action], signal: &Signal<'_>) -> Result<(), Rejection> {
        actions.iter().try_for_each(|a| self.action(a, signal))
    }

    fn action(&mut self, action: &Action, signal: &Signal<'_>) -> Result<(), Rejection> {
        let state = self.state_ids();
        let (scope, meter) = self.scope(signal, &state);
        match action {
            Action::Assign(assignments) => {
                let mut made = Vec::with_capacity(assignments.len());
                for (key, expr) in assignments {
                    let value =
                        cel::eval(expr, scope, meter).map_err(|f| rejection(f, Reason::AssignError, key))?;
                    if let Some(why) = json::unfit(&value, 1) {
                        return Err(Rejection::new(Reason::AssignError, format!("{key}: {why}")));
                    }
                    made.push((key.clone(), value));
                }
                self.assign(made)
            }
            Action::AssignExecutor => match &signal.pubkey {
                None => Err(Rejection::new(Reason::AssignError, "assignExecutor needs a signed event")),
                Some(key) => self.assign(vec![("executorPubKey".to_owned(), json!(key))]),
            },
            Action::Raise { kind, data } => {
                let failed = |f| rejection(f, Reason::EffectError, "raise");
                let kind = kind.fill(scope, meter).and_then(|v| action::string(v, "type")).map_err(failed)?;
                action::event_type(&kind)
                    .map_err(|e| Rejection::new(Reason::EffectError, format!("raise: {e}")))?;
                let data = data.fill(scope, meter).map_err(failed)?;
                self.raise(Signal::internal(kind, data))
            }
            Action::RecordPut { record, key, value } => {
                let failed = |f| rejection(f, Reason::RecordError, record);
                let key = key.fill(scope, meter).and_then(|v| action::string(v, "key")).map_err(failed)?;
                let value = value.fill(scope, meter).map_err(failed)?;
                self.change_record(record, &key, Some(value))
            }
            Action::RecordRemove { record, key } => {
                let failed = |f| rejection(f, Reason::RecordError, record);
                let key = key.fill(scope, meter).and_then(|v| action::string(v, "key")).map_err(failed)?;
                self.change_record(record, &key, None)
            }
            other => {
                let effect =
                    other.effect(scope, meter).map_err(|f| rejection(f, Reason::EffectError, "params"))?;
                let Some(effect) = effect else {
                    return Ok(());
                };
                if effect.size() > limits::EFFECT_BYTES {
                    return Err(Rejection::new(
                        Reason::TooLarge,
                        format!("an effect has at most {} bytes", limits::EFFECT_BYTES),
                    ));
                }
                if self.effects.len() >= limits::EFFECTS {
                    return Err(Rejection::new(
                        Reason::StepLimit,
                        format!("a step has at most {} effects", limits::EFFECTS),
                    ));
                }
                self.effects.push(effect);
                Ok(())
            }
        }
    }

    fn change_record(&mut self, record: &str, key: &str, value: Option<Value>) -> Result<(), Rejection> {
        self.changed = true;
        let failed = |f| rejection(f, Reason::RecordError, record);
        self.meter.charge_step(limits::COST_RECORD_WRITE).map_err(failed)?;
        self.records.change(record, key, value).map_err(failed)
    }

    fn assign(&mut self, values: Vec<(String, Value)>) -> Result<(), Rejection> {
        self.changed = true;
        for (key, value) in values {
            self.context.insert(&key, value);
        }
        let size = self.context.size();
        if size > limits::SNAPSHOT_BYTES * 2 {
            return Err(too_large(size));
        }
        self.meter.charge_step((size / 64) as u64).map_err(|f| rejection(f, Reason::StepLimit, "assign"))
    }
}
