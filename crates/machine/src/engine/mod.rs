//! The engine: start, send, fire. XState v5's macrostep, bounded.
//!
//! Promises: the same snapshot as XState v5 for the same definition and events (the recorded
//! expectations in `tests/xstate` say so); a rejected event changes nothing; every call ends
//! within [`crate::limits`]. Refuses: events of the engine's own types from outside, and whatever
//! a [`Reason`] names.

mod act;
mod macrostep;
mod restore;
mod select;
mod sets;
mod snapshot;

use crate::action;
use crate::definition::Definition;
use crate::json;
use crate::limits;
use crate::records::{NoRecords, Records};
use crate::state::State;
use crate::step::{Event, Fired, Reason, Rejection, Step};
use macrostep::{Run, Signal};
use serde_json::Value;
use std::borrow::Cow;

impl Definition {
    /// Starts a machine: enters the initial states at `now_ms` (batch time, ms since the Unix
    /// epoch). `creator` is the author of the definition, in hex; it is the `pubkey` of the start
    /// event and who `isCreator` means where the context has no `creatorPubKey`.
    ///
    /// # Errors
    /// An action of the start failed, or it broke a limit: the machine doesn't come into being.
    pub fn start(&self, now_ms: u64, creator: Option<&str>) -> Result<Step, Rejection> {
        self.start_with(now_ms, creator, &Value::Null)
    }

    /// The same with an input: `input` in the expressions of the initial context, and `event.data`
    /// of the start event. Its numbers must be integers within +-(2^53-1).
    ///
    /// # Errors
    /// As [`Self::start`]; an input that may not be one is [`Reason::BadEvent`].
    pub fn start_with(&self, now_ms: u64, creator: Option<&str>, input: &Value) -> Result<Step, Rejection> {
        if let Some(why) = json::unfit(input, 0) {
            return Err(Rejection::new(Reason::BadEvent, format!("the input: {why}")));
        }
        if json::size(input) > limits::DATA_BYTES {
            let most = limits::DATA_BYTES;
            return Err(Rejection::new(Reason::TooLarge, format!("an input has at most {most} bytes")));
        }
        let mut run = Run::blank(self, now_ms, creator.map(str::to_owned), &NoRecords);
        run.init(input)?;
        run.finish()
    }

    /// [`Self::send_with`] for a machine without records.
    ///
    /// # Errors
    /// The rejection; the state stays as it was.
    pub fn send(&self, state: &State, event: &Event, now_ms: u64) -> Result<Step, Rejection> {
        self.send_with(state, event, now_ms, &NoRecords)
    }

    /// Runs one event at `now_ms` (batch time). Due timers come first: see [`Self::fire_due`].
    ///
    /// # Errors
    /// The rejection; the state stays as it was.
    pub fn send_with(
        &self,
        state: &State,
        event: &Event,
        now_ms: u64,
        records: &dyn Records,
    ) -> Result<Step, Rejection> {
        let bad = |detail| Rejection::new(Reason::BadEvent, detail);
        action::event_type(&event.kind).map_err(bad)?;
        if let Some(why) = json::unfit(&event.data, 0) {
            return Err(bad(format!("the payload: {why}")));
        }
        if json::size(&event.data) > limits::DATA_BYTES {
            return Err(Rejection::new(
                Reason::TooLarge,
                format!("a payload has at most {} bytes", limits::DATA_BYTES),
            ));
        }
        if let Some(at) = event.created_at
            && at.unsigned_abs() > limits::INTEGER.unsigned_abs()
        {
            return Err(bad(format!("created_at {at} is beyond 2^53")));
        }
        let mut run = Run::load(self, state, now_ms, records)?;
        run.event(Signal {
            kind: Cow::Borrowed(&event.kind),
            data: Cow::Borrowed(&event.data),
            pubkey: event.pubkey.as_deref().map(Cow::Borrowed),
            id: event.id.as_deref(),
            created_at: event.created_at,
            height: event.height.map(|height| i64::try_from(height).unwrap_or(limits::INTEGER)),
        })?;
        run.finish()
    }

    /// [`Self::fire_due_with`] for a machine without records.
    ///
    /// # Errors
    /// Only if the state isn't one of this definition.
    pub fn fire_due(&self, state: &State, now_ms: u64) -> Result<Option<Fired>, Rejection> {
        self.fire_due_with(state, now_ms, &NoRecords)
    }

    /// Fires the earliest timer if it is due at `now_ms`: a step of its own, with the timer's id
    /// as event type. Call it until it gives `None`, before each event and each batch; that ends,
    /// because a timer set at `now_ms` is due 1 ms later at the earliest.
    ///
    /// # Errors
    /// Only if the state isn't one of this definition. A timer whose step is rejected is used up
    /// all the same: [`Fired::rejection`].
    pub fn fire_due_with(
        &self,
        state: &State,
        now_ms: u64,
        records: &dyn Records,
    ) -> Result<Option<Fired>, Rejection> {
        let Some(timer) = state.timers.first().filter(|t| t.due_ms <= now_ms) else {
            return Ok(None);
        };
        let timer = timer.clone();
        let mut rest = state.clone();
        rest.timers.remove(0);
        let mut run = Run::load(self, &rest, now_ms, records)?;
        let outcome = run.event(Signal::internal(timer.id.clone(), Value::Null)).and_then(|()| run.finish());
        Ok(Some(match outcome {
            Ok(step) => Fired { timer, step, rejection: None },
            Err(rejection) => {
                let step = Step { state: rest, effects: Vec::new(), records: Vec::new() };
                Fired { timer, step, rejection: Some(rejection) }
            }
        }))
    }

    /// The ids of the active atomic and final states, sorted: the state's own `id` where the
    /// definition gives one, else `<machine id>.<path>`. Empty if the state isn't one of this
    /// definition.
    pub fn active(&self, state: &State) -> Vec<String> {
        let mut ids: Vec<String> =
            state.order.iter().filter(|id| self.find(id).is_some_and(|i| self.is_leaf(i))).cloned().collect();
        ids.sort();
        ids
    }
}
