//! One macrostep: from an event to rest, in XState's order.
//!
//! A microstep leaves states (deepest last-in-document first), runs the transitions' actions, then
//! enters states in document order; `always` transitions and raised events follow until nothing
//! is enabled. Where XState compares object identity to see whether something changed, `changed`
//! here is set by the same causes.

use super::sets::{Entry, History, exit_set, without_conflicts};
use crate::action::{self, Action};
use crate::cel::{self, Failure, Meter, Scope};
use crate::definition::{Definition, Kind, Transition};
use crate::guard::{Guard, Role, StateIn, matches_state};
use crate::json;
use crate::limits;
use crate::step::{Effect, Reason, Rejection};
use serde_json::{Map, Value, json};
use std::collections::VecDeque;

/// An event inside the engine.
#[derive(Clone, Debug)]
pub(crate) struct Signal {
    pub(crate) kind: String,
    pub(crate) pubkey: Option<String>,
    /// What CEL sees as `event`.
    pub(crate) scope: Value,
}

impl Signal {
    /// An event of the engine's own, or a raised one: nobody signed it.
    pub(crate) fn internal(kind: &str, data: Value) -> Self {
        Self {
            kind: kind.to_owned(),
            pubkey: None,
            scope: json!({
                "type": kind,
                "data": data,
                "pubkey": null,
                "id": null,
                "created_at": null,
            }),
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
    pub(crate) context: Map<String, Value>,
    /// The active states, in the order of XState's set.
    pub(crate) active: Vec<usize>,
    pub(crate) history: History,
    pub(crate) done: bool,
    pub(crate) output: Option<Value>,
    pub(crate) timers: Vec<Pending>,
    pub(crate) effects: Vec<Effect>,
    pub(crate) meter: Meter,
    raised: VecDeque<Signal>,
    changed: bool,
    microsteps: usize,
}

impl<'d> Run<'d> {
    /// A machine that hasn't started.
    pub(crate) fn blank(def: &'d Definition, now_ms: u64, creator: Option<String>) -> Self {
        Self {
            def,
            now_ms,
            creator,
            context: def.context.clone(),
            active: vec![0],
            history: History::new(),
            done: false,
            output: None,
            timers: Vec::new(),
            effects: Vec::new(),
            meter: Meter::new(),
            raised: VecDeque::new(),
            changed: false,
            microsteps: 0,
        }
    }

    /// Enters the initial states and comes to rest.
    pub(crate) fn init(&mut self) -> Result<(), Rejection> {
        let mut signal = Signal::internal("xstate.init", Value::Null);
        signal.pubkey.clone_from(&self.creator);
        if let Value::Object(scope) = &mut signal.scope {
            scope.insert("pubkey".to_owned(), json!(self.creator));
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
        let initial = Transition {
            source: 0,
            targets,
            guard: None,
            actions: Vec::new(),
            reenter: true,
        };
        self.microstep(&[&initial], &signal, true)?;
        self.settle(signal).map(|_| ())
    }

    /// Takes one event and comes to rest.
    pub(crate) fn event(&mut self, signal: Signal) -> Result<(), Rejection> {
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
                Rejection::new(
                    Reason::UnknownEvent,
                    format!("no active state has a transition for {kind:?}"),
                )
            });
        }
        Ok(())
    }

    /// Runs `always` transitions and raised events until nothing is enabled; says whether any
    /// transition was taken.
    fn settle(&mut self, mut signal: Signal) -> Result<bool, Rejection> {
        let (mut eventless, mut moved) = (true, false);
        while !self.done {
            let mut enabled = if eventless {
                self.select_always(&signal)?
            } else {
                Vec::new()
            };
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

    fn take(&mut self, enabled: &[usize], signal: &Signal) -> Result<(), Rejection> {
        let def = self.def;
        self.microsteps += 1;
        let work = (self.active.len() * (1 + enabled.len())) as u64;
        if self.microsteps > limits::MICROSTEPS || self.meter.charge_step(work).is_err() {
            return Err(Rejection::new(
                Reason::StepLimit,
                format!(
                    "no rest within {} microsteps: a cycle of `always` or `raise`?",
                    limits::MICROSTEPS
                ),
            ));
        }
        if enabled.is_empty() {
            return Ok(());
        }
        let kept = without_conflicts(def, enabled, &self.active, &self.history);
        let transitions: Vec<&Transition> = kept
            .iter()
            .filter_map(|&i| def.transitions.get(i))
            .collect();
        self.microstep(&transitions, signal, false)
    }

    fn microstep(
        &mut self,
        transitions: &[&Transition],
        signal: &Signal,
        initial: bool,
    ) -> Result<(), Rejection> {
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
        let same = before.len() == self.active.len()
            && before.iter().all(|i| self.active.contains(i));
        if same && !remembers && !self.done {
            self.active = before;
        } else {
            self.changed = true;
        }
        Ok(())
    }

    /// Leaves states; says whether a history state remembered something.
    fn leave(&mut self, transitions: &[&Transition], signal: &Signal) -> Result<bool, Rejection> {
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
        }
        // Entering reads the new history, leaving read the old one.
        self.history.extend(remembered);
        Ok(remembers)
    }

    fn exit_actions(&mut self, i: usize, signal: &Signal) -> Result<(), Rejection> {
        let def = self.def;
        if let Some(node) = def.node(i) {
            self.actions(&node.exit, signal)?;
        }
        self.timers.retain(|t| t.node != i);
        Ok(())
    }

    fn enter(&mut self, transitions: &[&Transition], signal: &Signal) -> Result<(), Rejection> {
        let def = self.def;
        let history = self.history.clone();
        let entry = Entry::compute(def, transitions, &history);
        let mut completed: Vec<usize> = Vec::new();
        for i in entry.enter.iter() {
            let Some(node) = def.node(i) else { continue };
            if !self.active.contains(&i) {
                self.active.push(i);
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
        signal: &Signal,
        completed: &mut Vec<usize>,
    ) -> Result<(), Rejection> {
        let def = self.def;
        let Some(node) = def.node(i) else {
            return Ok(());
        };
        let parent = node.parent;
        let parallel = |p: &usize| def.kind(*p) == Kind::Parallel;
        let mut ancestor = parent
            .filter(parallel)
            .or_else(|| parent.and_then(|p| def.parent(p)));
        let mut completion = ancestor.unwrap_or(i);
        if let Some(p) = parent.filter(|&p| def.kind(p) == Kind::Compound) {
            let data = self.output_of(i, signal)?;
            self.raise_done(p, data)?;
        }
        while let Some(a) = ancestor.filter(|a| {
            parallel(a) && !completed.contains(a) && self.is_final(*a)
        }) {
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
            let event = Signal::internal(&format!("xstate.done.state.{id}"), data);
            let state = self.state_ids();
            let (scope, meter) = self.scope(&event, &state);
            let value = output
                .fill(scope, meter)
                .map_err(|f| rejection(f, Reason::OutputError, "output"))?;
            self.output = Some(value);
        }
        Ok(())
    }

    fn output_of(&mut self, i: usize, signal: &Signal) -> Result<Value, Rejection> {
        let def = self.def;
        match def.node(i).and_then(|n| n.output.as_ref()) {
            None => Ok(Value::Null),
            Some(output) => {
                let state = self.state_ids();
                let (scope, meter) = self.scope(signal, &state);
                output
                    .fill(scope, meter)
                    .map_err(|f| rejection(f, Reason::OutputError, "output"))
            }
        }
    }

    fn raise_done(&mut self, i: usize, data: Value) -> Result<(), Rejection> {
        let id = self.def.node(i).map_or("", |n| n.id.as_str());
        self.raise(Signal::internal(&format!("xstate.done.state.{id}"), data))
    }

    fn raise(&mut self, signal: Signal) -> Result<(), Rejection> {
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
            Kind::Compound => def
                .children(i)
                .any(|c| def.kind(c) == Kind::Final && self.active.contains(&c)),
            Kind::Parallel => def.children(i).all(|c| self.is_final(c)),
            kind => kind == Kind::Final,
        }
    }

    fn set_timers(&mut self, i: usize, signal: &Signal) -> Result<(), Rejection> {
        let def = self.def;
        let Some(node) = def.node(i) else {
            return Ok(());
        };
        for (n, after) in node.afters.iter().enumerate() {
            let state = self.state_ids();
            let (scope, meter) = self.scope(signal, &state);
            let bad = |why: String| {
                Rejection::new(Reason::TimerError, format!("{}: {why}", after.event))
            };
            let delay = after
                .delay
                .fill(scope, meter)
                .map_err(|f| rejection(f, Reason::TimerError, &after.event))?;
            let delay = delay
                .as_i64()
                .ok_or_else(|| bad(format!("expected milliseconds, got {delay}")))?;
            // A time that has passed already is due now.
            let due_ms = self
                .now_ms
                .checked_add(u64::try_from(delay).unwrap_or(0))
                .filter(|&due| due <= limits::INTEGER.unsigned_abs())
                .ok_or_else(|| bad(format!("{delay} ms from now is beyond 2^53")))?;
            self.timers.retain(|t| (t.node, t.after) != (i, n));
            if self.timers.len() >= limits::TIMERS {
                return Err(Rejection::new(
                    Reason::StepLimit,
                    format!("at most {} timers wait at once", limits::TIMERS),
                ));
            }
            self.timers.push(Pending {
                due_ms,
                node: i,
                after: n,
            });
        }
        Ok(())
    }

    fn actions(&mut self, actions: &[Action], signal: &Signal) -> Result<(), Rejection> {
        actions.iter().try_for_each(|a| self.action(a, signal))
    }

    fn action(&mut self, action: &Action, signal: &Signal) -> Result<(), Rejection> {
        let state = self.state_ids();
        let (scope, meter) = self.scope(signal, &state);
        match action {
            Action::Assign(assignments) => {
                let mut made = Vec::with_capacity(assignments.len());
                for (key, expr) in assignments {
                    let value = cel::eval(expr, scope, meter)
                        .map_err(|f| rejection(f, Reason::AssignError, key))?;
                    if let Some(why) = json::unfit(&value, 1) {
                        return Err(Rejection::new(
                            Reason::AssignError,
                            format!("{key}: {why}"),
                        ));
                    }
                    made.push((key.clone(), value));
                }
                self.assign(made)
            }
            Action::AssignExecutor => match &signal.pubkey {
                None => Err(Rejection::new(
                    Reason::AssignError,
                    "assignExecutor needs a signed event",
                )),
                Some(key) => self.assign(vec![("executorPubKey".to_owned(), json!(key))]),
            },
            Action::Raise { kind, data } => {
                let failed = |f| rejection(f, Reason::EffectError, "raise");
                let kind = kind
                    .fill(scope, meter)
                    .and_then(|v| action::string(v, "type"))
                    .map_err(failed)?;
                action::event_type(&kind)
                    .map_err(|e| Rejection::new(Reason::EffectError, format!("raise: {e}")))?;
                let data = data.fill(scope, meter).map_err(failed)?;
                self.raise(Signal::internal(&kind, data))
            }
            other => {
                let effect = other
                    .effect(scope, meter)
                    .map_err(|f| rejection(f, Reason::EffectError, "params"))?;
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

    fn assign(&mut self, values: Vec<(String, Value)>) -> Result<(), Rejection> {
        self.changed = true;
        self.context.extend(values);
        let size: usize = self
            .context
            .iter()
            .map(|(k, v)| k.len() + json::size(v))
            .sum();
        if size > limits::SNAPSHOT_BYTES * 2 {
            return Err(too_large(size));
        }
        self.meter
            .charge_step((size / 64) as u64)
            .map_err(|f| rejection(f, Reason::StepLimit, "assign"))
    }

    /// The transitions for an event, and whether any state has one whose guard may be false.
    fn select(&mut self, signal: &Signal) -> Result<(Vec<usize>, bool), Rejection> {
        let mut candidates = false;
        let enabled = self.select_in(0, signal, &mut candidates)?;
        Ok((enabled, candidates))
    }

    fn select_in(
        &mut self,
        i: usize,
        signal: &Signal,
        candidates: &mut bool,
    ) -> Result<Vec<usize>, Rejection> {
        let def = self.def;
        let mut enabled = Vec::new();
        for child in self.active_children(i) {
            enabled.extend(self.select_in(child, signal, candidates)?);
        }
        if !enabled.is_empty() {
            return Ok(enabled);
        }
        for t in candidates_of(def, i, &signal.kind) {
            *candidates = true;
            if self.passes(t, signal)? {
                return Ok(vec![t]);
            }
        }
        Ok(Vec::new())
    }

    /// The active children, in the order of the keys of XState's state value.
    pub(crate) fn active_children(&self, i: usize) -> Vec<usize> {
        let def = self.def;
        let mut children: Vec<(&str, usize)> = self
            .active
            .iter()
            .filter(|&&c| c != 0 && def.parent(c) == Some(i))
            .filter_map(|&c| def.node(c).map(|n| (n.key.as_str(), c)))
            .collect();
        json::js_order(&mut children, |(key, _)| key);
        children.into_iter().map(|(_, c)| c).collect()
    }

    fn select_always(&mut self, signal: &Signal) -> Result<Vec<usize>, Rejection> {
        let def = self.def;
        let mut enabled: Vec<usize> = Vec::new();
        for leaf in self.active.clone() {
            if !def.is_leaf(leaf) {
                continue;
            }
            let chain = std::iter::once(leaf).chain(def.ancestors(leaf, None));
            'chain: for i in chain {
                for &t in def.node(i).map(|n| n.always.as_slice()).unwrap_or_default() {
                    if self.passes(t, signal)? {
                        if !enabled.contains(&t) {
                            enabled.push(t);
                        }
                        break 'chain;
                    }
                }
            }
        }
        Ok(without_conflicts(def, &enabled, &self.active, &self.history))
    }

    fn passes(&mut self, t: usize, signal: &Signal) -> Result<bool, Rejection> {
        let def = self.def;
        match def.transitions.get(t).and_then(|t| t.guard.as_ref()) {
            None => Ok(true),
            Some(guard) => {
                let state = self.state_ids();
                self.guard(guard, signal, &state)
            }
        }
    }

    fn guard(
        &mut self,
        guard: &Guard,
        signal: &Signal,
        state: &Value,
    ) -> Result<bool, Rejection> {
        match guard {
            Guard::Cel(expr) => {
                let (scope, meter) = self.scope(signal, state);
                match cel::eval(expr, scope, meter) {
                    Ok(Value::Bool(b)) => Ok(b),
                    Ok(other) => Err(Rejection::new(
                        Reason::GuardError,
                        format!("a guard is true or false, got {other}"),
                    )),
                    Err(f) => Err(rejection(f, Reason::GuardError, "guard")),
                }
            }
            Guard::Role(role) => Ok(self.role(*role, signal.pubkey.as_deref())),
            Guard::And(guards) => {
                for g in guards {
                    if !self.guard(g, signal, state)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            Guard::Or(guards) => {
                for g in guards {
                    if self.guard(g, signal, state)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            Guard::Not(g) => Ok(!self.guard(g, signal, state)?),
            Guard::StateIn(StateIn::Node(i)) => Ok(self.active.contains(i)),
            Guard::StateIn(StateIn::Value(wanted)) => Ok(matches_state(wanted, &self.value(0))),
            // Resolved at admission.
            Guard::StateIn(StateIn::Id(_)) => Ok(false),
        }
    }

    fn role(&self, role: Role, signer: Option<&str>) -> bool {
        let Some(signer) = signer else {
            return false;
        };
        let named = |key: &str| self.context.get(key).and_then(Value::as_str);
        let creator = || named("creatorPubKey").or(self.creator.as_deref()) == Some(signer);
        let executor = || named("executorPubKey") == Some(signer);
        match role {
            Role::Creator => creator(),
            Role::NotCreator => !creator(),
            Role::Executor => executor(),
            Role::Receiver => named("receiverPubKey") == Some(signer),
            Role::CreatorOrExecutor => creator() || executor(),
            Role::Oracle => named("oraclePubKey") == Some(signer),
        }
    }

    fn scope<'a>(&'a mut self, signal: &'a Signal, state: &'a Value) -> (Scope<'a>, &'a mut Meter) {
        let scope = Scope {
            context: &self.context,
            event: &signal.scope,
            now: i64::try_from(self.now_ms / 1000).unwrap_or(limits::INTEGER),
            state,
        };
        (scope, &mut self.meter)
    }

    /// Ids of the active atomic and final states, sorted: `state` in CEL.
    fn state_ids(&self) -> Value {
        let mut ids: Vec<&str> = self
            .active
            .iter()
            .filter(|&&i| self.def.is_leaf(i))
            .filter_map(|&i| self.def.node(i).map(|n| n.id.as_str()))
            .collect();
        ids.sort_unstable();
        json!(ids)
    }
}

/// The transitions of a state for an event type: the exact descriptor first, then wildcards, the
/// longest first.
fn candidates_of(def: &Definition, i: usize, kind: &str) -> Vec<usize> {
    let Some(node) = def.node(i) else {
        return Vec::new();
    };
    let mut exact = Vec::new();
    let mut wild: Vec<(usize, &[usize])> = Vec::new();
    for (descriptor, transitions) in &node.on {
        if descriptor == kind {
            exact.extend(transitions);
        } else if wildcard_matches(descriptor, kind) {
            wild.push((descriptor.encode_utf16().count(), transitions));
        }
    }
    wild.sort_by_key(|(length, _)| std::cmp::Reverse(*length));
    exact.extend(wild.into_iter().flat_map(|(_, t)| t));
    exact
}

/// Does `*` or `a.b.*` match the type? `a.*` matches `a`, `a.b` and `a.b.c`.
fn wildcard_matches(descriptor: &str, kind: &str) -> bool {
    if descriptor == "*" {
        return true;
    }
    let Some(stem) = descriptor.strip_suffix(".*") else {
        return false;
    };
    kind.strip_prefix(stem)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

pub(crate) fn too_large(size: usize) -> Rejection {
    Rejection::new(
        Reason::TooLarge,
        format!(
            "a snapshot has at most {} bytes, this one would have {size}",
            limits::SNAPSHOT_BYTES
        ),
    )
}

fn rejection(failure: Failure, error: Reason, place: &str) -> Rejection {
    match failure {
        Failure::Cost(detail) => {
            Rejection::new(Reason::GuardCost, format!("{place}: {detail}"))
        }
        Failure::Error(detail) => Rejection::new(error, format!("{place}: {detail}")),
    }
}
