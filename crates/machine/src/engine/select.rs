//! Which transitions an event enables: XState's selection and the guards.
//!
//! Promises: a guard that fails or costs too much rejects the whole step; it never counts as false.

use super::macrostep::{Run, Signal, rejection};
use super::sets::without_conflicts;
use crate::cel;
use crate::definition::Definition;
use crate::guard::{Guard, Role, StateIn, matches_state};
use crate::json;
use crate::step::{Reason, Rejection};
use serde_json::Value;

impl Run<'_> {
    /// The transitions for an event, and whether any state has one whose guard may be false.
    pub(super) fn select(&mut self, signal: &Signal<'_>) -> Result<(Vec<usize>, bool), Rejection> {
        let mut candidates = false;
        let enabled = self.select_in(0, signal, &mut candidates)?;
        Ok((enabled, candidates))
    }

    fn select_in(
        &mut self,
        i: usize,
        signal: &Signal<'_>,
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
        if children.len() > 1 {
            json::js_order(&mut children, |(key, _)| key);
        }
        children.into_iter().map(|(_, c)| c).collect()
    }

    pub(super) fn select_always(&mut self, signal: &Signal<'_>) -> Result<Vec<usize>, Rejection> {
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

    fn passes(&mut self, t: usize, signal: &Signal<'_>) -> Result<bool, Rejection> {
        let def = self.def;
        match def.transitions.get(t).and_then(|t| t.guard.as_ref()) {
            None => Ok(true),
            Some(guard) => {
                let state = self.state_ids();
                self.guard(guard, signal, &state)
            }
        }
    }

    fn guard(&mut self, guard: &Guard, signal: &Signal<'_>, state: &Value) -> Result<bool, Rejection> {
        self.meter.charge_step(1).map_err(|f| rejection(f, Reason::GuardCost, "guards"))?;
        match guard {
            Guard::Cel(expr, _) => {
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
    kind.strip_prefix(stem).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}
