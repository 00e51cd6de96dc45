//! From XState's persisted snapshot to a [`State`].
//!
//! Promises: what goes on from here is what XState goes on with when it restores the same JSON; its
//! regions act in the order that it takes from the snapshot. XState's snapshot has no timers and
//! neither has the state. Refuses a value that isn't a whole configuration of the definition.

use super::macrostep::Run;
use crate::definition::{Definition, Kind};
use crate::guard::state_path;
use crate::json;
use crate::records::NoRecords;
use crate::state::State;
use crate::step::{Reason, Rejection};
use serde_json::{Map, Value};

impl Definition {
    /// Takes up XState's persisted snapshot; for a machine with records also the member `records`
    /// that this engine adds to it.
    ///
    /// # Errors
    /// [`Reason::BadState`] if it isn't a snapshot of this definition.
    pub fn restore(&self, snapshot: &Value, creator: Option<&str>) -> Result<State, Rejection> {
        let bad = || Rejection::new(Reason::BadState, "not a snapshot of this definition");
        let mut order = Vec::new();
        self.configuration(0, snapshot.get("value").ok_or_else(bad)?, &mut order).ok_or_else(bad)?;
        let id = |&i: &usize| self.node(i).map_or_else(String::new, |n| n.id.clone());
        if json::unfit(snapshot, 0).is_some() {
            return Err(bad());
        }
        let mut state = State::from_snapshot(snapshot.clone()).ok_or_else(bad)?;
        self.forget_unnamed(&mut state.history);
        state.order = order.iter().map(id).collect();
        state.creator = creator.map(str::to_owned);
        Run::load(self, &state, 0, &NoRecords)?;
        Ok(state)
    }

    /// XState looks remembered states up as if their ids were targets, and forgets those it doesn't
    /// find so: states with a dot in an id or key.
    fn forget_unnamed(&self, history: &mut Map<String, Value>) {
        for states in history.values_mut().filter_map(Value::as_array_mut) {
            states.retain(|state| {
                state.get("id").and_then(Value::as_str).is_some_and(|id| self.named(id).is_some())
            });
        }
        history.retain(|_, states| states.as_array().is_none_or(|s| !s.is_empty()));
    }

    /// XState's `getStateNodeById`.
    fn named(&self, id: &str) -> Option<usize> {
        let path = state_path(id);
        let (head, rest) = path.split_first()?;
        rest.iter().take_while(|key| !key.is_empty()).try_fold(self.find(head)?, |at, key| {
            let children = &self.node(at)?.children;
            children.iter().copied().find(|&c| self.node(c).is_some_and(|n| n.key == *key))
        })
    }

    /// XState's `getStateNodes`: a state, its active children, then what is below each of them.
    fn configuration(&self, i: usize, value: &Value, order: &mut Vec<usize>) -> Option<()> {
        let mut push = |i: usize| {
            if !order.contains(&i) {
                order.push(i);
            }
        };
        push(i);
        let child = |key: &str| {
            let children = &self.node(i)?.children;
            children.iter().copied().find(|&c| self.node(c).is_some_and(|n| n.key == key))
        };
        match value {
            Value::String(key) => {
                push(child(key).filter(|&c| self.is_leaf(c))?);
                Some(())
            }
            Value::Object(map) => {
                let mut below: Vec<(&String, &Value)> = map.iter().collect();
                below.sort_by(|(a, _), (b, _)| a.encode_utf16().cmp(b.encode_utf16()));
                json::js_order(&mut below, |(key, _)| key);
                if self.kind(i) == Kind::Compound && below.len() != 1 {
                    return None;
                }
                let below: Vec<(usize, &Value)> =
                    below.into_iter().map(|(key, v)| Some((child(key)?, v))).collect::<Option<_>>()?;
                below.iter().for_each(|&(c, _)| push(c));
                below.into_iter().try_for_each(|(c, v)| self.configuration(c, v, order))
            }
            _ => None,
        }
    }
}
