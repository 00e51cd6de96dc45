//! One macrostep: from an event to rest, in XState's order.
//!
//! A microstep leaves states (deepest last-in-document first), runs the transitions' actions, then
//! enters states in document order; `always` transitions and raised events follow until nothing
//! is enabled. Where XState compares object identity to see whether something changed, `changed`
//! here is set by the same causes.

use super::sets::{Entry, History, exit_set, without_conflicts};
use crate::cel::{Failure, Happening, Meter, Scope};
use crate::context::Context;
use crate::definition::{Definition, Kind, Transition};
use crate::limits;
use crate::records::{Ledger, Records};
use crate::step::{Effect, Reason, Rejection};
use serde_json::Value;
use std::borrow::Cow;
use std::collections::VecDeque;
use std::rc::Rc;

/// An event inside the engine.
pub(crate) type Signal<'e> = Happening<'e>;

impl Signal<'_> {
    /// An event of the engine's own, or a raised one: nobody signed it.
    pub(crate) fn internal(kind: String, data: Value) -> Self {
        Self {
            kind: Cow::Owned(kind),
            data: Cow::Owned(data),
            pubkey: None,
            id: None,
            created_at: None,
            height: None,
        }
    }
}

/// A pending timer: when, and the state and its `after` that set it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Pending {
    pub(crate) due_ms: u64,
    pub(crate) node: usize,
    pub(crate) after: usize,
}

/// A machine in the middle of a step.
#[derive(Debug)]
pub(crate) struct Run<'d> {
    pub(crate) def: &'d Definition,
    pub(crate) now_ms: u64,
    pub(crate) creator: Option<String>,
    pub(crate) context: Context,
    /// The active states, in the order of XState's set.
    pub(crate) active: Vec<usize>,
    pub(crate) history: History,
    pub(crate) done: bool,
    pub(crate) output: Option<Value>,
    pub(crate) timers: Vec<Pending>,
    pub(crate) effects: Vec<Effect>,
    pub(crate) meter: Meter,
    pub(crate) records: Ledger<'d>,
    raised: VecDeque<Signal<'static>>,
    pub(super) changed: bool,
    microsteps: usize,
    /// What CEL sees as `state`, until a state is entered or left.
    ids: Option<Rc<Value>>,
}

impl<'d> Run<'d> {
    /// A machine that hasn't started.
    pub(crate) fn blank(
        def: &'d Definition,
        now_ms: u64,
        creator: Option<String>,
        records: &'d dyn Records,
    ) -> Self {
        Self {
            def,
            now_ms,
            creator,
            context: Context::default(),
            active: vec![0],
            history: History::new(),
            done: false,
            output: None,
            timers: Vec::new(),
            effects: Vec::new(),
            meter: Meter::new(),
            records: Ledger::empty(&def.records, records),
            raised: VecDeque::new(),
            changed: false,
            microsteps: 0,
            ids: None,
        }
    }

    /// Makes the initial context from the input, enters the initial states and comes to rest.
    pub(crate) fn init(&mut self, input: &Value) -> Result<(), Rejection> {
        let mut signal = Signal::internal("xstate.init".to_owned(), input.clone());
        signal.pubkey = self.creator.clone().map(Cow::Owned);
        let def = self.def;
        self.context = def.base.clone();
        for (key, value) in &def.context {
            let (scope, meter) = self.scope(&signal, &Value::Null);
            let scope = Scope { input, ..scope };
            let filled = value.fill(scope, meter).map_err(|f| rejection(f, Reason::AssignError, key))?;
            self.context.insert(key, filled);
        }
        let mut targets = vec![0];
        let mut next = 0;
        while let Some(&i) = targets.get(next) {
            match self.def.kind(i) {
                Kind::Compound => targets.extend(self.def.node(i).and_then(|n| n.initial)),
                Kind::Parallel => targets.extend(self.def.children(i)),
                _ => {}
            }
            next += 1;
        }
        // XState's set is in depth-first order; for entry only membership counts.
        let initial = Transition { source: 0, targets, guard: None, actions: Vec::new(), reenter: true };
        self.microstep(&[&initial], &signal, true)?;
        self.settle(signal).map(|_| ())
    }

    /// Takes one event and comes to rest.
    pub(crate) fn event(&mut self, signal: Signal<'_>) -> Result<(), Rejection> {
        if self.done {
            return Err(Rejection::new(Reason::Done, "the machine has ended"));
        }
        let (enabled, candidates) = self.select(&signal)?;
        self.take(&enabled, &signal)?;
        let kind = signal.kind.clone();
        let moved = self.settle(signal)?;
        if enabled.is_empty() && !moved {
            return Err(if candidates {
                Rejection::new(Reason::GuardFalse, format!("no guard passed for {kind:?}"))
            } else {
                Rejection::new(Reason::UnknownEvent, format!("no active state has a transition for {kind:?}"))
            });
        }
        Ok(())
    }

    /// Runs `always` transitions and raised events until nothing is enabled; says whether any
    /// transition was taken.
    fn settle(&mut self, mut signal: Signal<'_>) -> Result<bool, Rejection> {
        let (mut eventless, mut moved) = (true, false);
        while !self.done {
            let mut enabled = if eventless { self.select_always(&signal)? } else { Vec::new() };
            let was_always = !enabled.is_empty();
            if !was_always {
                let Some(next) = self.raised.pop_front() else {
                    break;
                };
                signal = next;
                enabled = self.select(&signal)?.0;
            }
            moved |= !enabled.is_empty();
            self.changed = false;
            self.take(&enabled, &signal)?;
            // An eventless step that changed nothing isn't tried again before another event.
            eventless = !was_always || self.changed;
        }
        Ok(moved)
    }

    fn take(&mut self, enabled: &[usize], signal: &Signal<'_>) -> Result<(), Rejection> {
        let def = self.def;
        self.microsteps += 1;
        let work = (self.active.len() * (1 + enabled.len())) as u64;
        if self.microsteps > limits::MICROSTEPS || self.meter.charge_step(work).is_err() {
            return Err(Rejection::new(
                Reason::StepLimit,
                format!("no rest within {} microsteps: a cycle of `always` or `raise`?", limits::MICROSTEPS),
            ));
        }
        if enabled.is_empty() {
            return Ok(());
        }
        let kept = without_conflicts(def, enabled, &self.active, &self.history);
        let transitions: Vec<&Transition> = kept.iter().filter_map(|&i| def.transitions.get(i)).collect();
        self.microstep(&transitions, signal, false)
    }

    fn microstep(
        &mut self,
        transitions: &[&Transition],
        signal: &Signal<'_>,
        initial: bool,
    ) -> Result<(), Rejection> {
        // Without a target nothing is left or entered.
        if transitions.iter().all(|t| t.targets.is_empty()) {
            return transitions.iter().try_for_each(|t| self.actions(&t.actions, signal));
        }
        let before = self.active.clone();
        let mut remembers = false;
        if !initial {
            remembers = self.leave(transitions, signal)?;
        }
        for t in transitions {
            self.actions(&t.actions, signal)?;
        }
        self.enter(transitions, signal)?;
        if self.done {
            self.changed = true;
            self.active.sort_unstable_by(|a, b| b.cmp(a));
            for i in self.active.clone() {
                self.exit_actions(i, signal)?;
            }
        }
        // Two regions that take conflicting transitions at once can lead XState to two active
        // children of a compound state; such a step is refused here.
        if !self.is_legal() {
            return Err(Rejection::new(
                Reason::BadState,
                "the step would lead to states that can't be active together",
            ));
        }
        let same = before.len() == self.active.len() && before.iter().all(|i| self.active.contains(i));
        if same && !remembers && !self.done {
            self.active = before;
        } else {
            self.changed = true;
        }
        Ok(())
    }

    /// Leaves states; says whether a history state remembered something.
    fn leave(&mut self, transitions: &[&Transition], signal: &Signal<'_>) -> Result<bool, Rejection> {
        let def = self.def;
        let exits = exit_set(def, transitions, &self.active, &self.history);
        let mut remembered = Vec::new();
        for i in exits.iter().rev() {
            for &h in def.node(i).map(|n| n.children.as_slice()).unwrap_or_default() {
                let Kind::History { deep } = def.kind(h) else {
                    continue;
                };
                let states = self.active.iter().copied().filter(|&s| {
                    if deep {
                        def.is_leaf(s) && def.is_descendant(s, Some(i))
                    } else {
                        def.parent(s) == Some(i)
                    }
                });
                remembered.push((h, states.collect()));
            }
        }
        let remembers = !remembered.is_empty();
        for i in exits.iter().rev() {
            self.exit_actions(i, signal)?;
            self.active.retain(|&s| s != i);
            self.ids = None;
        }
        // Entering reads the new history, leaving read the old one.
        self.history.extend(remembered);
        Ok(remembers)
    }

    fn exit_actions(&mut self, i: usize, signal: &Signal<'_>) -> Result<(), Rejection> {
        let def = self.def;
        if let Some(node) = def.node(i) {
            self.actions(&node.exit, signal)?;
        }
        self.timers.retain(|t| t.node != i);
        Ok(())
    }

    fn enter(&mut self, transitions: &[&Transition], signal: &Signal<'_>) -> Result<(), Rejection> {
        let def = self.def;
        let history = self.history.clone();
        let entry = Entry::compute(def, transitions, &history);
        let mut completed: Vec<usize> = Vec::new();
        for i in entry.enter.iter() {
            let Some(node) = def.node(i) else { continue };
            if !self.active.contains(&i) {
                self.active.push(i);
                self.ids = None;
            }
            self.actions(&node.entry, signal)?;
            self.set_timers(i, signal)?;
            if entry.by_default.has(i) {
                self.actions(&node.initial_actions, signal)?;
            }
            if node.kind == Kind::Final {
                self.reach_final(i, signal, &mut completed)?;
            }
        }
        Ok(())
    }

    fn reach_final(
        &mut self,
        i: usize,
        signal: &Signal<'_>,
        completed: &mut Vec<usize>,
    ) -> Result<(), Rejection> {
        let def = self.def;
        let Some(node) = def.node(i) else {
            return Ok(());
        };
        let parent = node.parent;
        let parallel = |p: &usize| def.kind(*p) == Kind::Parallel;
        let mut ancestor = parent.filter(parallel).or_else(|| parent.and_then(|p| def.parent(p)));
        let mut completion = ancestor.unwrap_or(i);
        if let Some(p) = parent.filter(|&p| def.kind(p) == Kind::Compound) {
            let data = self.output_of(i, signal)?;
            self.raise_done(p, data)?;
        }
        while let Some(a) = ancestor.filter(|a| parallel(a) && !completed.contains(a) && self.is_final(*a)) {
            completed.push(a);
            self.raise_done(a, Value::Null)?;
            completion = a;
            ancestor = def.parent(a);
        }
        if ancestor.is_some() {
            return Ok(());
        }
        self.done = true;
        if let Some(output) = def.output() {
            let data = match completion {
                0 => Value::Null,
                c => self.output_of(c, signal)?,
            };
            let id = def.node(completion).map_or("", |n| n.id.as_str());
            let event = Signal::internal(format!("xstate.done.state.{id}"), data);
            let state = self.state_ids();
            let (scope, meter) = self.scope(&event, &state);
            let value = output.fill(scope, meter).map_err(|f| rejection(f, Reason::OutputError, "output"))?;
            self.output = Some(value);
        }
        Ok(())
    }

    fn output_of(&mut self, i: usize, signal: &Signal<'_>) -> Result<Value, Rejection> {
        let def = self.def;
        match def.node(i).and_then(|n| n.output.as_ref()) {
            None => Ok(Value::Null),
            Some(output) => {
                let state = self.state_ids();
                let (scope, meter) = self.scope(signal, &state);
                output.fill(scope, meter).map_err(|f| rejection(f, Reason::OutputError, "output"))
            }
        }
    }

    fn raise_done(&mut self, i: usize, data: Value) -> Result<(), Rejection> {
        let id = self.def.node(i).map_or("", |n| n.id.as_str());
        self.raise(Signal::internal(format!("xstate.done.state.{id}"), data))
    }

    pub(super) fn raise(&mut self, signal: Signal<'static>) -> Result<(), Rejection> {
        if self.raised.len() >= limits::RAISED {
            return Err(Rejection::new(
                Reason::StepLimit,
                format!("at most {} raised events wait at once", limits::RAISED),
            ));
        }
        self.raised.push_back(signal);
        Ok(())
    }

    /// XState's `isInFinalState`.
    fn is_final(&self, i: usize) -> bool {
        let def = self.def;
        match def.kind(i) {
            Kind::Compound => def.children(i).any(|c| def.kind(c) == Kind::Final && self.active.contains(&c)),
            Kind::Parallel => def.children(i).all(|c| self.is_final(c)),
            kind => kind == Kind::Final,
        }
    }

    pub(super) fn scope<'a>(
        &'a mut self,
        signal: &'a Signal<'_>,
        state: &'a Value,
    ) -> (Scope<'a>, &'a mut Meter) {
        let scope = Scope {
            context: &self.context,
            event: signal,
            now: i64::try_from(self.now_ms / 1000).unwrap_or(limits::INTEGER),
            state,
            input: &Value::Null,
            records: &self.records,
        };
        (scope, &mut self.meter)
    }

    /// Ids of the active atomic and final states, sorted: `state` in CEL.
    pub(super) fn state_ids(&mut self) -> Rc<Value> {
        if let Some(ids) = &self.ids {
            return Rc::clone(ids);
        }
        if !self.def.uses_state {
            let none = Rc::new(Value::Null);
            self.ids = Some(Rc::clone(&none));
            return none;
        }
        let mut found: Vec<&str> = self
            .active
            .iter()
            .filter(|&&i| self.def.is_leaf(i))
            .filter_map(|&i| self.def.node(i).map(|n| n.id.as_str()))
            .collect();
        found.sort_unstable();
        let ids = Rc::new(Value::Array(found.into_iter().map(Value::from).collect()));
        self.ids = Some(Rc::clone(&ids));
        ids
    }
}

pub(crate) fn too_large(size: usize) -> Rejection {
    Rejection::new(
        Reason::TooLarge,
        format!("a snapshot has at most {} bytes, this one would have {size}", limits::SNAPSHOT_BYTES),
    )
}

pub(crate) fn rejection(failure: Failure, error: Reason, place: &str) -> Rejection {
    match failure {
        Failure::Cost(detail) => Rejection::new(Reason::GuardCost, format!("{place}: {detail}")),
        Failure::Error(detail) => Rejection::new(error, format!("{place}: {detail}")),
        Failure::Refused(code) => Rejection::new(Reason::Refused(code), place),
        Failure::Oracle(fault) => Rejection::new(Reason::Oracle(fault), format!("{place}: {fault}")),
    }
}
