//! Admission, second part: what states do, resolved against all states of the definition.
//!
//! Refuses targets that don't exist or exclude each other, descriptors that never match, delays
//! without a name or number, and transitions beyond [`limits::TRANSITIONS`].

use crate::action::Action;
use crate::admit::Admission;
use crate::definition::{After, Kind, Node, Transition};
use crate::guard::{Guard, only};
use crate::json::{Doc, Place};
use crate::limits;
use crate::quote::quote;
use crate::target;
use crate::template::Template;
use serde_json::Value;

impl Admission<'_> {
    /// Everything of a state that refers to other states.
    pub(crate) fn behaviour(&mut self, i: usize) {
        let Some((doc, at)) = self.docs.get(i).cloned() else {
            return;
        };
        if let Some(Kind::History { .. }) = self.nodes.get(i).map(|n| n.kind) {
            self.history_default(i, doc, &at);
            return;
        }
        let (initial, initial_actions) = self.initial(i, doc, &at);
        let entry = self.actions(doc, "entry", &at);
        let exit = self.actions(doc, "exit", &at);
        let mut on = self.on(i, doc, &at);
        let afters = self.after(i, doc, &at, &mut on);
        let always = match doc.get("always") {
            None => Vec::new(),
            Some(config) => self.transitions(i, config, &at.key("always"), true),
        };
        let output = doc.get("output").map(|d| Template::admit(d, &at.key("output"), &mut self.faults));
        if let Some(node) = self.nodes.get_mut(i) {
            node.initial = initial;
            node.initial_actions = initial_actions;
            node.entry = entry;
            node.exit = exit;
            node.on = on;
            node.afters = afters;
            node.always = always;
            node.output = output;
        }
    }

    fn actions(&mut self, doc: &Doc, key: &str, at: &Place) -> Vec<Action> {
        match doc.get(key) {
            None => Vec::new(),
            Some(actions) => Action::admit_all(actions, &at.key(key), &mut self.faults),
        }
    }

    fn initial(&mut self, i: usize, doc: &Doc, at: &Place) -> (Option<usize>, Vec<Action>) {
        let at = at.key("initial");
        let (key, actions) = match doc.get("initial") {
            None => {
                if self.nodes.get(i).is_some_and(|n| n.kind == Kind::Compound) {
                    self.faults.add(&at, "a state with states needs an initial state");
                }
                return (None, Vec::new());
            }
            Some(Doc::Str(key)) => (key, Vec::new()),
            Some(config) => {
                let known = ["target", "actions", "description", "meta"];
                only(Some(config), &known, &at, &mut self.faults);
                let Some(Doc::Str(key)) = config.get("target") else {
                    self.faults.add(&at, "expected the key of a state in `states`");
                    return (None, Vec::new());
                };
                (key, self.actions(config, "actions", &at))
            }
        };
        let child = target::child(&self.nodes, i, key);
        match child.and_then(|c| self.nodes.get(c)) {
            // Without a default it would lead to itself.
            Some(Node { kind: Kind::History { .. }, .. })
                if child.and_then(|c| self.docs.get(c)).is_some_and(|(d, _)| d.get("target").is_none()) =>
            {
                self.faults
                    .add(&at, format!("the history state {} needs a `target` to be initial", quote(key)));
            }
            Some(_) => {}
            None => self.faults.add(&at, format!("{} is not the key of a state in `states`", quote(key))),
        }
        (child, actions)
    }

    fn history_default(&mut self, i: usize, doc: &Doc, at: &Place) {
        let at = at.key("target");
        let initial = self.nodes.get(i).and_then(|n| self.nodes.get(n.parent?)).and_then(|p| p.initial);
        let leads_to_history =
            initial.and_then(|s| self.nodes.get(s)).is_some_and(|n| matches!(n.kind, Kind::History { .. }));
        let texts = match doc.get("target") {
            None if leads_to_history => {
                // XState would make the other history state itself active.
                self.faults.add(&at, "needed, because its parent's initial state is a history state");
                return;
            }
            None => return,
            Some(config) => texts(config),
        };
        let parent = self.nodes.get(i).and_then(|n| n.parent).unwrap_or(0);
        let mut targets = Vec::new();
        for text in texts.unwrap_or_default() {
            match target::by_path(self, parent, text) {
                Ok(t) => targets.push(t),
                Err(e) => self.faults.add(&at, e),
            }
        }
        let inside = targets.iter().all(|&t| {
            self.nodes.get(parent).is_some_and(|p| t > parent && t < p.end)
                && !matches!(self.nodes.get(t).map(|n| n.kind), Some(Kind::History { .. }))
        });
        if targets.is_empty() || !inside || !target::compatible(&self.nodes, &targets) {
            self.faults
                .add(&at, "expected states below the history state's parent that can be active together");
        }
        if let Some(node) = self.nodes.get_mut(i) {
            node.history_default = targets;
        }
    }

    fn on(&mut self, i: usize, doc: &Doc, at: &Place) -> Vec<(String, Vec<usize>)> {
        let mut on: Vec<(String, Vec<usize>)> = Vec::new();
        match doc.get("on") {
            None => {}
            Some(Doc::Map(members)) => {
                let at = at.key("on");
                for (descriptor, config) in members {
                    let at = at.key(descriptor);
                    let stem = descriptor.strip_suffix(".*").unwrap_or(descriptor);
                    if descriptor.is_empty()
                        || descriptor.len() > limits::NAME_BYTES * 2
                        || (stem.contains('*') && descriptor != "*")
                    {
                        self.faults.add(
                            &at,
                            "an event descriptor is a type, `*`, or ends with `.*`; use `always` \
                             for eventless transitions",
                        );
                    }
                    let transitions = self.transitions(i, config, &at, true);
                    on.push((descriptor.clone(), transitions));
                }
            }
            Some(other) => {
                self.faults.add(&at.key("on"), format!("expected an object, got {}", other.kind()))
            }
        }
        if let Some(config) = doc.get("onDone") {
            let id = self.nodes.get(i).map_or("", |n| n.id.as_str());
            let event = format!("xstate.done.state.{id}");
            let transitions = self.transitions(i, config, &at.key("onDone"), true);
            // XState's map: an entry that is there keeps its place.
            match on.iter_mut().find(|(d, _)| *d == event) {
                Some(entry) => entry.1 = transitions,
                None => on.push((event, transitions)),
            }
        }
        on
    }

    fn after(&mut self, i: usize, doc: &Doc, at: &Place, on: &mut Vec<(String, Vec<usize>)>) -> Vec<After> {
        let at = at.key("after");
        let members = match doc.get("after") {
            None => return Vec::new(),
            Some(Doc::Map(members)) => members,
            Some(other) => {
                self.faults.add(&at, format!("expected an object, got {}", other.kind()));
                return Vec::new();
            }
        };
        let mut afters = Vec::new();
        for (key, config) in members {
            let at = at.key(key);
            let ms = key
                .parse::<i64>()
                .ok()
                .filter(|n| (0..=limits::INTEGER).contains(n) && n.to_string() == *key);
            let delay = match (ms, self.delays.get(key)) {
                (Some(ms), _) => Template::Plain(Value::from(ms)),
                (None, Some(delay)) => delay.clone(),
                (None, None) => {
                    self.faults.add(&at, "expected milliseconds (a whole number) or a name from `delays`");
                    continue;
                }
            };
            let id = self.nodes.get(i).map_or("", |n| n.id.as_str());
            let event = format!("xstate.after.{key}.{id}");
            // XState spreads the items of a list here, so a string in it would fall apart.
            let transitions = self.transitions(i, config, &at, !matches!(config, Doc::List(_)));
            match on.iter_mut().find(|(d, _)| *d == event) {
                Some(entry) => entry.1.extend(transitions),
                None => on.push((event.clone(), transitions)),
            }
            afters.push(After { event, delay });
        }
        afters
    }

    /// One transition or a list of them, of state `i`.
    fn transitions(&mut self, i: usize, config: &Doc, at: &Place, texts: bool) -> Vec<usize> {
        match config {
            Doc::List(items) => items
                .iter()
                .enumerate()
                .filter_map(|(n, item)| self.transition(i, item, &at.index(n), texts))
                .collect(),
            one => self.transition(i, one, at, texts).into_iter().collect(),
        }
    }

    fn transition(&mut self, i: usize, config: &Doc, at: &Place, text: bool) -> Option<usize> {
        if self.transitions.len() >= limits::TRANSITIONS {
            self.faults.add(at, format!("a machine has at most {} transitions", limits::TRANSITIONS));
            return None;
        }
        let (target, place) = match config {
            Doc::Str(_) if text => (Some(config), at.clone()),
            Doc::Map(_) => {
                let known = ["target", "guard", "actions", "reenter", "description", "meta"];
                only(Some(config), &known, at, &mut self.faults);
                (config.get("target"), at.key("target"))
            }
            other => {
                self.faults.add(at, format!("expected a transition, got {}", other.kind()));
                return None;
            }
        };
        let targets = match target {
            None => Vec::new(),
            Some(config) => self.targets(i, config, &place),
        };
        let reenter = match config.get("reenter") {
            None => false,
            Some(Doc::Bool(b)) => *b,
            Some(other) => {
                self.faults.add(&at.key("reenter"), format!("expected a boolean, got {}", other.kind()));
                false
            }
        };
        let guard = config.get("guard").and_then(|doc| {
            let at = at.key("guard");
            let mut guard = Guard::admit(doc, &at, &mut self.faults)?;
            let resolved = guard.resolve(&|id| target::by_id(self, id));
            if let Err(e) = resolved {
                self.faults.add(&at, e);
            }
            Some(guard)
        });
        let actions = self.actions(config, "actions", at);
        self.transitions.push(Transition { source: i, targets, guard, actions, reenter });
        Some(self.transitions.len() - 1)
    }

    fn targets(&mut self, i: usize, config: &Doc, at: &Place) -> Vec<usize> {
        let Some(texts) = texts(config) else {
            self.faults.add(at, format!("expected a target, got {}", config.kind()));
            return Vec::new();
        };
        if matches!(config, Doc::Str(s) if s.is_empty()) {
            return Vec::new();
        }
        let mut targets = Vec::new();
        for text in texts {
            match target::resolve(self, i, text) {
                Ok(t) => targets.push(t),
                Err(e) => self.faults.add(at, e),
            }
        }
        if !target::compatible(&self.nodes, &targets) {
            self.faults.add(at, "several targets must lie in different regions of a parallel state");
        }
        targets
    }
}

/// A string or a list of strings.
fn texts(doc: &Doc) -> Option<Vec<&str>> {
    match doc {
        Doc::Str(s) => Some(vec![s]),
        Doc::List(items) => items
            .iter()
            .map(|d| match d {
                Doc::Str(s) => Some(s.as_str()),
                _ => None,
            })
            .collect(),
        _ => None,
    }
}
