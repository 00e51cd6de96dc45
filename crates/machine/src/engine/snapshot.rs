//! Between a [`State`] and a machine in the middle of a step.
//!
//! Promises: `finish` and `load` are inverse. Refuses: a state whose ids, timers or configuration
//! this definition can't have; `load` says `bad_state`, so a state read from elsewhere can't put
//! the engine where no step leads.

use super::macrostep::{Pending, Run, too_large};
use super::sets::History;
use crate::definition::{Definition, Kind};
use crate::limits;
use crate::records::{Ledger, Records};
use crate::state::State;
use crate::step::{Reason, Rejection, Step, Timer};
use serde_json::{Map, Value, json};
use std::sync::OnceLock;

impl<'d> Run<'d> {
    /// Takes a state up again.
    pub(crate) fn load(
        def: &'d Definition,
        state: &'d State,
        now_ms: u64,
        records: &'d dyn Records,
    ) -> Result<Self, Rejection> {
        let bad = |what: &str| Rejection::new(Reason::BadState, what.to_owned());
        let mut run = Self::blank(def, now_ms, state.creator.clone(), records);
        run.records = Ledger::read(&def.records, state.records.as_ref(), records)
            .ok_or_else(|| bad("records that the definition doesn't have"))?;
        run.done = state.done;
        run.output = state.output.clone();
        run.context = state.context.clone();
        run.active = state
            .order
            .iter()
            .map(|id| def.find(id).ok_or_else(|| bad("an unknown active state")))
            .collect::<Result<_, _>>()?;
        run.history = history(def, &state.history).ok_or_else(|| bad("an unknown history"))?;
        run.timers = state
            .timers
            .iter()
            .map(|t| pending(def, t).ok_or_else(|| bad("an unknown timer")))
            .collect::<Result<_, _>>()?;
        let timers_live = run.timers.iter().all(|t| run.active.contains(&t.node));
        if !run.is_legal() || !timers_live || state.value != run.value(0) {
            return Err(bad("active states that can't be active together"));
        }
        Ok(run)
    }

    /// The state and effects after a step.
    pub(crate) fn finish(mut self) -> Result<Step, Rejection> {
        self.timers.sort_unstable();
        let def = self.def;
        let id = |i: usize| def.node(i).map_or("", |n| n.id.as_str()).to_owned();
        let history: Map<String, Value> = self
            .history
            .iter()
            .map(|(&h, states)| {
                let states: Vec<Value> = states.iter().map(|&s| json!({ "id": id(s) })).collect();
                (id(h), Value::Array(states))
            })
            .collect();
        let state = State {
            done: self.done,
            value: self.value(0),
            history,
            context: std::mem::take(&mut self.context),
            output: self.output.take(),
            records: self.records.snapshot(),
            timers: self
                .timers
                .iter()
                .filter_map(|t| {
                    Some(Timer { id: def.node(t.node)?.afters.get(t.after)?.event.clone(), due_ms: t.due_ms })
                })
                .collect(),
            order: self.active.iter().map(|&i| id(i)).collect(),
            creator: self.creator,
            whole: OnceLock::new(),
        };
        let size = state.snapshot_len();
        if size > limits::SNAPSHOT_BYTES {
            return Err(too_large(size));
        }
        Ok(Step { state, effects: self.effects, records: self.records.into_changes() })
    }

    /// XState's state value of a state: `{}` of an atomic one, the child's key of a compound one
    /// with an atomic child, else an object.
    pub(crate) fn value(&self, i: usize) -> Value {
        let children = self.active_children(i);
        if let (Kind::Compound, [child]) = (self.def.kind(i), children.as_slice())
            && self.def.is_leaf(*child)
        {
            return self.def.node(*child).map_or(Value::Null, |n| Value::String(n.key.clone()));
        }
        Value::Object(
            children
                .into_iter()
                .filter_map(|c| Some((self.def.node(c)?.key.clone(), self.value(c))))
                .collect(),
        )
    }

    /// Is the configuration one that the statechart can have?
    pub(super) fn is_legal(&self) -> bool {
        let def = self.def;
        let mut seen = vec![false; def.nodes.len()];
        for &i in &self.active {
            match seen.get_mut(i) {
                Some(slot) if !*slot => *slot = true,
                _ => return false,
            }
        }
        let has = |i: usize| seen.get(i).copied().unwrap_or(false);
        has(0)
            && self.active.iter().all(|&i| {
                let active = def.children(i).filter(|&c| has(c)).count();
                def.parent(i).is_none_or(has)
                    && match def.kind(i) {
                        Kind::Compound => active == 1,
                        Kind::Parallel => active == def.children(i).count(),
                        Kind::Atomic | Kind::Final => active == 0,
                        Kind::History { .. } => false,
                    }
            })
    }
}

fn history(def: &Definition, remembered: &Map<String, Value>) -> Option<History> {
    let mut history = History::new();
    for (id, states) in remembered {
        let h = def.find(id).filter(|&h| def.is_history(h))?;
        let parent = def.parent(h)?;
        let states: Vec<usize> = states
            .as_array()?
            .iter()
            .map(|s| {
                def.find(s.get("id")?.as_str()?)
                    .filter(|&s| def.is_descendant(s, Some(parent)) && !def.is_history(s))
            })
            .collect::<Option<_>>()?;
        history.insert(h, states);
    }
    Some(history)
}

fn pending(def: &Definition, timer: &Timer) -> Option<Pending> {
    let &(node, after) = def.timers.get(&timer.id)?;
    Some(Pending { due_ms: timer.due_ms, node, after })
}
