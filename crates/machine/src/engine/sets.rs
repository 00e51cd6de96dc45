//! Which states a set of transitions leaves and enters: XState's algorithm (SCXML's microstep),
//! function by function, on numbered states.

use crate::definition::{Definition, Kind, Transition};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// What each history state remembers, in XState's order.
pub(crate) type History = BTreeMap<usize, Vec<usize>>;

/// A set of states.
#[derive(Clone, Debug)]
pub(crate) struct Set(Vec<bool>);

impl Set {
    pub(crate) fn new(def: &Definition) -> Self {
        Self(vec![false; def.nodes.len()])
    }

    pub(crate) fn add(&mut self, i: usize) {
        if let Some(slot) = self.0.get_mut(i) {
            *slot = true;
        }
    }

    pub(crate) fn has(&self, i: usize) -> bool {
        self.0.get(i).copied().unwrap_or(false)
    }

    /// In document order.
    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = usize> {
        self.0.iter().enumerate().filter_map(|(i, &has)| has.then_some(i))
    }

    fn meets(&self, other: &Self) -> bool {
        self.0.iter().zip(&other.0).any(|(a, b)| *a && *b)
    }

    fn has_below(&self, def: &Definition, ancestor: usize) -> bool {
        let end = def.node(ancestor).map_or(ancestor, |n| n.end);
        self.0.get(ancestor + 1..end).is_some_and(|below| below.contains(&true))
    }
}

/// Where a history state leads before there is a history, and whether that is its parent's
/// initial state.
fn history_default(def: &Definition, i: usize) -> (Vec<usize>, bool) {
    let Some(node) = def.node(i) else {
        return (Vec::new(), false);
    };
    if !node.history_default.is_empty() {
        return (node.history_default.clone(), false);
    }
    match node.parent {
        Some(p) if def.kind(p) == Kind::Parallel => (vec![p], false),
        Some(p) => (def.node(p).and_then(|n| n.initial).into_iter().collect(), true),
        None => (Vec::new(), false),
    }
}

/// The targets with histories resolved.
fn effective_targets<'t>(def: &Definition, t: &'t Transition, history: &History) -> Cow<'t, [usize]> {
    // Nearly all have one, which is no history.
    if let [] | [_] = t.targets.as_slice()
        && !t.targets.iter().any(|&target| def.is_history(target))
    {
        return Cow::Borrowed(&t.targets);
    }
    let mut found = Vec::new();
    for &target in &t.targets {
        let add: Vec<usize> = if !def.is_history(target) {
            vec![target]
        } else if let Some(remembered) = history.get(&target) {
            remembered.clone()
        } else {
            history_default(def, target).0
        };
        for s in add {
            if !found.contains(&s) {
                found.push(s);
            }
        }
    }
    Cow::Owned(found)
}

/// The state within which a transition happens; `None` for one that leaves the whole machine.
fn domain(def: &Definition, t: &Transition, history: &History) -> Option<usize> {
    let targets = effective_targets(def, t, history);
    let inside = |&s: &usize| s == t.source || def.is_descendant(s, Some(t.source));
    if !t.reenter && targets.iter().all(inside) {
        return Some(t.source);
    }
    // The least common ancestor of targets and source.
    let (head, tail) = targets.split_first().map_or((t.source, &[][..]), |(head, tail)| (*head, tail));
    let mut next = def.parent(head);
    let mut common = None;
    while let Some(a) = next {
        if tail.iter().chain([&t.source]).all(|&s| def.is_descendant(s, Some(a))) {
            common = Some(a);
            break;
        }
        next = def.parent(a);
    }
    match common {
        Some(a) => Some(a),
        None if t.reenter => None,
        None => Some(0),
    }
}

/// The active states that these transitions leave.
pub(crate) fn exit_set(
    def: &Definition,
    transitions: &[&Transition],
    active: &[usize],
    history: &History,
) -> Set {
    let mut set = Set::new(def);
    for t in transitions {
        if t.targets.is_empty() {
            continue;
        }
        let domain = domain(def, t, history);
        if t.reenter && domain == Some(t.source) {
            set.add(t.source);
        }
        for &s in active {
            if def.is_descendant(s, domain) {
                set.add(s);
            }
        }
    }
    set
}

/// Drops transitions that would leave the same states: the deeper source wins, else the first.
pub(crate) fn without_conflicts(
    def: &Definition,
    enabled: &[usize],
    active: &[usize],
    history: &History,
) -> Vec<usize> {
    // Nothing to conflict with.
    if let [] | [_] = enabled {
        return enabled.to_vec();
    }
    let mut kept: Vec<(usize, &Transition, Set)> = Vec::new();
    for &i in enabled {
        let Some(t) = def.transitions.get(i) else {
            continue;
        };
        if kept.iter().any(|(k, ..)| *k == i) {
            continue;
        }
        let exits = exit_set(def, &[t], active, history);
        let (mut preempted, mut remove) = (false, Vec::new());
        for (k, other, other_exits) in &kept {
            if exits.meets(other_exits) {
                if def.is_descendant(t.source, Some(other.source)) {
                    remove.push(*k);
                } else {
                    preempted = true;
                    break;
                }
            }
        }
        if !preempted {
            kept.retain(|(k, ..)| !remove.contains(k));
            kept.push((i, t, exits));
        }
    }
    kept.into_iter().map(|(i, ..)| i).collect()
}

/// The states that transitions enter, and those of them that are entered by default, so that the
/// actions of their initial transition run.
pub(crate) struct Entry<'d> {
    def: &'d Definition,
    history: &'d History,
    pub(crate) enter: Set,
    pub(crate) by_default: Set,
}

impl<'d> Entry<'d> {
    pub(crate) fn compute(def: &'d Definition, transitions: &[&Transition], history: &'d History) -> Self {
        let mut entry = Self { def, history, enter: Set::new(def), by_default: Set::new(def) };
        for t in transitions {
            let domain = domain(def, t, history);
            for &s in &t.targets {
                if !def.is_history(s) && (t.source != s || Some(t.source) != domain || t.reenter) {
                    entry.enter.add(s);
                    entry.by_default.add(s);
                }
                entry.descendants(s);
            }
            let bound = if t.source == 0 && t.reenter { None } else { domain };
            for &s in effective_targets(def, t, history).iter() {
                let mut ancestors = def.ancestors(s, domain);
                if let Some(d) = domain
                    && def.kind(d) == Kind::Parallel
                {
                    ancestors.push(d);
                }
                entry.ancestors(&ancestors, bound);
            }
        }
        entry
    }

    fn descendants(&mut self, i: usize) {
        let def = self.def;
        match def.kind(i) {
            Kind::History { .. } => {
                let parent = def.parent(i);
                let (targets, is_initial) = match self.history.get(&i) {
                    Some(remembered) => (remembered.clone(), false),
                    None => history_default(def, i),
                };
                for &s in &targets {
                    self.enter.add(s);
                    if is_initial && let Some(p) = parent {
                        self.by_default.add(p);
                    }
                    self.descendants(s);
                }
                for s in targets {
                    self.ancestors(&def.ancestors(s, parent), None);
                }
            }
            Kind::Compound => {
                if let Some(initial) = def.node(i).and_then(|n| n.initial) {
                    if !def.is_history(initial) {
                        self.enter.add(initial);
                        self.by_default.add(initial);
                    }
                    self.descendants(initial);
                }
            }
            Kind::Parallel => {
                for child in def.children(i) {
                    if !self.enter.has_below(def, child) {
                        self.enter.add(child);
                        self.by_default.add(child);
                        self.descendants(child);
                    }
                }
            }
            Kind::Atomic | Kind::Final => {}
        }
    }

    fn ancestors(&mut self, ancestors: &[usize], bound: Option<usize>) {
        let def = self.def;
        for &a in ancestors {
            if def.is_descendant(a, bound) {
                self.enter.add(a);
            }
            if def.kind(a) == Kind::Parallel {
                for child in def.children(a) {
                    if !self.enter.has_below(def, child) {
                        self.enter.add(child);
                        self.descendants(child);
                    }
                }
            }
        }
    }
}
