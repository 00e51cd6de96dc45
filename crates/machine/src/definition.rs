//! An admitted definition: the statechart as the engine runs it.
//!
//! Promises: every target, name and expression in it is resolved, so nothing can be missing at run
//! time; states are numbered in document order (XState's `order`), so a state's descendants are
//! the numbers that follow it, up to `end`.

use crate::action::Action;
use crate::admit;
use crate::context::Context;
use crate::guard::Guard;
use crate::json::Doc;
use crate::state::State;
use crate::step::Fault;
use crate::template::Template;
use serde_json::{Map, Value};
use std::collections::{BTreeSet, HashMap};

/// A machine definition (the content of a 7500 event) that this engine can run.
#[derive(Clone, Debug)]
pub struct Definition {
    pub(crate) nodes: Vec<Node>,
    pub(crate) transitions: Vec<Transition>,
    /// What is always the same in the initial context: shared by all machines that run this definition.
    pub(crate) base: Context,
    /// The rest of the initial context: holes are filled from the input.
    pub(crate) context: Vec<(String, Template)>,
    /// Does any expression ask for `state`? Else nobody makes the list of ids.
    pub(crate) uses_state: bool,
    /// Names of the declared records, sorted.
    pub(crate) records: Vec<String>,
    pub(crate) ids: HashMap<String, usize>,
    /// The event of each timer, to the state and the place among its `after`.
    pub(crate) timers: HashMap<String, (usize, usize)>,
}

/// A state.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) id: String,
    pub(crate) key: String,
    pub(crate) parent: Option<usize>,
    /// One past the last descendant.
    pub(crate) end: usize,
    pub(crate) kind: Kind,
    /// In document order, history states included.
    pub(crate) children: Vec<usize>,
    pub(crate) initial: Option<usize>,
    pub(crate) initial_actions: Vec<Action>,
    pub(crate) entry: Vec<Action>,
    pub(crate) exit: Vec<Action>,
    pub(crate) afters: Vec<After>,
    /// Event descriptor to transitions, in the order XState's map has them.
    pub(crate) on: Vec<(String, Vec<usize>)>,
    pub(crate) always: Vec<usize>,
    /// Of a final state, or of the machine.
    pub(crate) output: Option<Template>,
    /// Of a history state: where it leads before there is a history.
    pub(crate) history_default: Vec<usize>,
    pub(crate) tags: Vec<String>,
    pub(crate) meta: Option<Value>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Atomic,
    Compound,
    Parallel,
    Final,
    History { deep: bool },
}

/// A delayed event that a state schedules when it is entered.
#[derive(Clone, Debug)]
pub(crate) struct After {
    /// `xstate.after.<delay>.<state id>`.
    pub(crate) event: String,
    /// Milliseconds.
    pub(crate) delay: Template,
}

/// A transition.
#[derive(Clone, Debug)]
pub(crate) struct Transition {
    pub(crate) source: usize,
    /// Empty: the active states stay.
    pub(crate) targets: Vec<usize>,
    pub(crate) guard: Option<Guard>,
    pub(crate) actions: Vec<Action>,
    pub(crate) reenter: bool,
}

impl Definition {
    /// Admits a definition: XState v5 machine JSON.
    ///
    /// # Errors
    /// Every fault with its place. Whatever this engine can't run (`invoke`, spawned actors,
    /// functions, unknown guards, actions, properties and names) is a fault, never ignored;
    /// `description`, `version`, `title`, `schemas`, `types` and `$schema` are ignored, because they
    /// don't change what a machine does; `tags` and `meta` are kept ([`Self::tags`],
    /// [`Self::meta`]).
    pub fn parse(json: &str) -> Result<Self, Vec<Fault>> {
        let doc = Doc::parse(json).map_err(|fault| vec![fault])?;
        admit::admit(&doc)
    }

    /// The machine's `id`; `(machine)` if it has none, as in XState.
    pub fn id(&self) -> &str {
        self.nodes.first().map_or("(machine)", |n| n.id.as_str())
    }

    /// The names of the declared records, sorted.
    pub fn records(&self) -> &[String] {
        &self.records
    }

    /// The tags of the active states, sorted; XState's `snapshot.tags`. Empty if the state isn't one
    /// of this definition.
    pub fn tags(&self, state: &State) -> Vec<String> {
        let active = state.order.iter().filter_map(|id| self.find(id)).filter_map(|i| self.node(i));
        let tags: BTreeSet<&String> = active.flat_map(|n| &n.tags).collect();
        tags.into_iter().cloned().collect()
    }

    /// The `meta` of the active states by their ids; XState's `snapshot.getMeta()`.
    pub fn meta(&self, state: &State) -> Map<String, Value> {
        let active = state.order.iter().filter_map(|id| self.find(id)).filter_map(|i| self.node(i));
        active.filter_map(|n| Some((n.id.clone(), n.meta.clone()?))).collect()
    }

    pub(crate) fn node(&self, i: usize) -> Option<&Node> {
        self.nodes.get(i)
    }

    pub(crate) fn find(&self, id: &str) -> Option<usize> {
        self.ids.get(id).copied()
    }

    pub(crate) fn kind(&self, i: usize) -> Kind {
        self.node(i).map_or(Kind::Atomic, |n| n.kind)
    }

    pub(crate) fn parent(&self, i: usize) -> Option<usize> {
        self.node(i).and_then(|n| n.parent)
    }

    /// Is `i` below `ancestor`? Below nothing is everything, as in XState.
    pub(crate) fn is_descendant(&self, i: usize, ancestor: Option<usize>) -> bool {
        match ancestor {
            None => true,
            Some(a) => i > a && self.node(a).is_some_and(|n| i < n.end),
        }
    }

    pub(crate) fn is_history(&self, i: usize) -> bool {
        matches!(self.kind(i), Kind::History { .. })
    }

    pub(crate) fn is_leaf(&self, i: usize) -> bool {
        matches!(self.kind(i), Kind::Atomic | Kind::Final)
    }

    /// The children that can be active.
    pub(crate) fn children(&self, i: usize) -> impl Iterator<Item = usize> {
        self.node(i)
            .map(|n| n.children.as_slice())
            .unwrap_or_default()
            .iter()
            .copied()
            .filter(|&c| !self.is_history(c))
    }

    /// The ancestors of `i`, nearest first, up to but without `until`.
    pub(crate) fn ancestors(&self, i: usize, until: Option<usize>) -> Vec<usize> {
        let mut found = Vec::new();
        if until == Some(i) {
            return found;
        }
        let mut next = self.parent(i);
        while let Some(a) = next.filter(|&a| until != Some(a)) {
            found.push(a);
            next = self.parent(a);
        }
        found
    }

    /// The output of the machine itself.
    pub(crate) fn output(&self) -> Option<&Template> {
        self.nodes.first().and_then(|n| n.output.as_ref())
    }
}
