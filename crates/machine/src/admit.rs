//! Admission: from a document to a [`Definition`], or to every fault with its place.
//!
//! First all states are numbered, then their transitions are resolved against them. Refuses what
//! the engine can't run and what XState would only stumble over at run time: unknown names,
//! targets that don't exist or exclude each other, repeated ids, states that can't be entered.

use crate::action::Action;
use crate::definition::{After, Definition, Kind, Node, Transition};
use crate::guard::{Guard, only};
use crate::json::{Doc, Faults, Place};
use crate::limits;
use crate::step::Fault;
use crate::target;
use crate::template::Template;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// Properties that don't change what a machine does.
const IGNORED: [&str; 7] = [
    "meta",
    "tags",
    "description",
    "version",
    "title",
    "schemas",
    "types",
];
/// Properties of any state.
const STATE: [&str; 12] = [
    "id", "type", "initial", "states", "on", "always", "after", "entry", "exit", "onDone",
    "output", "history",
];

pub(crate) struct Admission<'d> {
    pub(crate) nodes: Vec<Node>,
    docs: Vec<(&'d Doc, Place)>,
    pub(crate) ids: BTreeMap<String, usize>,
    transitions: Vec<Transition>,
    delays: BTreeMap<String, Template>,
    faults: Faults,
}

/// Admits a document.
pub(crate) fn admit(doc: &Doc) -> Result<Definition, Vec<Fault>> {
    let mut a = Admission {
        nodes: Vec::new(),
        docs: Vec::new(),
        ids: BTreeMap::new(),
        transitions: Vec::new(),
        delays: BTreeMap::new(),
        faults: Faults::default(),
    };
    let root = Place::default();
    a.state(doc, &root, None, "(machine)", 0);
    if a.faults.is_empty() {
        a.delays(doc, &root);
        for i in 0..a.nodes.len() {
            a.behaviour(i);
        }
    }
    let context = match doc.get("context") {
        None => Map::new(),
        Some(context @ Doc::Map(_)) => {
            match context.to_value(&root.key("context"), &mut a.faults) {
                Value::Object(map) => map,
                _ => Map::new(),
            }
        }
        Some(other) => {
            a.faults.add(
                &root.key("context"),
                format!("expected an object, got {}", other.kind()),
            );
            Map::new()
        }
    };
    if a.faults.is_empty() {
        Ok(Definition {
            nodes: a.nodes,
            transitions: a.transitions,
            context,
        })
    } else {
        Err(a.faults.into_vec())
    }
}

impl<'d> Admission<'d> {
    /// Numbers a state and those below it.
    fn state(
        &mut self,
        doc: &'d Doc,
        at: &Place,
        parent: Option<usize>,
        key: &str,
        depth: usize,
    ) -> Option<usize> {
        if !matches!(doc, Doc::Map(_)) {
            let what = if parent.is_none() { "machine" } else { "state" };
            self.faults
                .add(at, format!("a {what} is an object, got {}", doc.kind()));
            return None;
        }
        if depth > limits::STATE_DEPTH || self.nodes.len() >= limits::STATES {
            self.faults.add(
                at,
                format!(
                    "a machine has at most {} states, {} deep",
                    limits::STATES,
                    limits::STATE_DEPTH
                ),
            );
            return None;
        }
        let states: &'d [(String, Doc)] = match doc.get("states") {
            None => &[],
            Some(Doc::Map(members)) => members,
            Some(other) => {
                self.faults.add(
                    &at.key("states"),
                    format!("expected an object, got {}", other.kind()),
                );
                &[]
            }
        };
        let kind = self.kind(doc, at, parent, !states.is_empty());
        self.properties(doc, at, parent, kind);
        let id = self.id(doc, at, parent, key);
        let i = self.nodes.len();
        if self.ids.insert(id.clone(), i).is_some() {
            self.faults.add(at, format!("the id {id:?} is taken"));
        }
        self.nodes.push(Node {
            id,
            key: key.to_owned(),
            parent,
            end: i + 1,
            kind,
            children: Vec::new(),
            initial: None,
            initial_actions: Vec::new(),
            entry: Vec::new(),
            exit: Vec::new(),
            afters: Vec::new(),
            on: Vec::new(),
            always: Vec::new(),
            output: None,
            history_default: Vec::new(),
        });
        self.docs.push((doc, at.clone()));
        let below = at.key("states");
        let mut children = Vec::new();
        for (key, doc) in states {
            let at = below.key(key);
            if key.is_empty() || key.len() > limits::NAME_BYTES {
                self.faults.add(
                    &at,
                    format!("a state's key has 1 to {} bytes", limits::NAME_BYTES),
                );
                continue;
            }
            children.extend(self.state(doc, &at, Some(i), key, depth + 1));
        }
        let end = self.nodes.len();
        if let Some(node) = self.nodes.get_mut(i) {
            node.children = children;
            node.end = end;
        }
        Some(i)
    }

    fn id(&mut self, doc: &Doc, at: &Place, parent: Option<usize>, key: &str) -> String {
        let id = match doc.get("id") {
            Some(Doc::Str(id)) if !id.is_empty() => id.clone(),
            None => match parent {
                None => key.to_owned(),
                Some(parent) => {
                    // XState's default is the machine's id and the path of keys, whatever the
                    // ids of the states between are.
                    let mut path = vec![key.to_owned()];
                    let mut next = Some(parent);
                    while let Some(node) = next.and_then(|p| self.nodes.get(p)) {
                        path.push(match node.parent {
                            Some(_) => node.key.clone(),
                            None => node.id.clone(),
                        });
                        next = node.parent;
                    }
                    path.reverse();
                    path.join(".")
                }
            },
            Some(_) => {
                self.faults.add(&at.key("id"), "expected a name");
                key.to_owned()
            }
        };
        if id.len() > limits::NAME_BYTES {
            self.faults.add(
                at,
                format!("an id has at most {} bytes, got {}", limits::NAME_BYTES, id.len()),
            );
        }
        id
    }

    fn kind(&mut self, doc: &Doc, at: &Place, parent: Option<usize>, nested: bool) -> Kind {
        let deep = match doc.get("history") {
            None | Some(Doc::Bool(false)) => None,
            Some(Doc::Bool(true)) => Some(false),
            Some(Doc::Str(s)) if s == "shallow" => Some(false),
            Some(Doc::Str(s)) if s == "deep" => Some(true),
            Some(_) => {
                self.faults
                    .add(&at.key("history"), "expected \"shallow\" or \"deep\"");
                None
            }
        };
        let kind = match doc.get("type") {
            None if nested => Kind::Compound,
            None => deep.map_or(Kind::Atomic, |deep| Kind::History { deep }),
            Some(Doc::Str(s)) => match s.as_str() {
                "atomic" => Kind::Atomic,
                "compound" => Kind::Compound,
                "parallel" => Kind::Parallel,
                "final" => Kind::Final,
                "history" => Kind::History {
                    deep: deep.unwrap_or(false),
                },
                other => {
                    self.faults.add(
                        &at.key("type"),
                        format!(
                            "unknown type {other:?}: expected atomic, compound, parallel, final \
                             or history"
                        ),
                    );
                    Kind::Atomic
                }
            },
            Some(other) => {
                self.faults.add(
                    &at.key("type"),
                    format!("expected a string, got {}", other.kind()),
                );
                Kind::Atomic
            }
        };
        let may_nest = matches!(kind, Kind::Compound | Kind::Parallel);
        if may_nest != nested {
            self.faults.add(
                at,
                if nested {
                    "a final, history or atomic state has no states"
                } else {
                    "a compound or parallel state needs states"
                },
            );
        }
        if deep.is_some() && !matches!(kind, Kind::History { .. }) {
            self.faults
                .add(&at.key("history"), "only a history state has this");
        }
        if parent.is_none() && matches!(kind, Kind::Final | Kind::History { .. }) {
            self.faults.add(
                &at.key("type"),
                "the machine itself is not a final or history state",
            );
        }
        kind
    }

    fn properties(&mut self, doc: &Doc, at: &Place, parent: Option<usize>, kind: Kind) {
        for (key, value) in doc.members() {
            let key = key.as_str();
            let known = match kind {
                Kind::History { .. } => matches!(key, "id" | "type" | "history" | "target"),
                _ => {
                    STATE.contains(&key)
                        || (parent.is_none() && matches!(key, "context" | "delays" | "$schema"))
                }
            };
            if known || IGNORED.contains(&key) || (key == "invoke" && *value == Doc::List(vec![]))
            {
                continue;
            }
            let message = match key {
                "invoke" | "spawn" | "activities" => {
                    "actors are not supported: a machine is a pure function of its events; use \
                     `send`, `start` or a `source` tag"
                }
                "context" | "delays" => "only the machine itself has this",
                _ => "unknown property",
            };
            self.faults.add(&at.key(key), message);
        }
        if doc.get("output").is_some() && parent.is_some() && kind != Kind::Final {
            self.faults.add(
                &at.key("output"),
                "only a final state or the machine itself has an output",
            );
        }
        if doc.get("initial").is_some() && kind != Kind::Compound {
            self.faults
                .add(&at.key("initial"), "only a compound state has an initial state");
        }
    }

    fn delays(&mut self, doc: &Doc, root: &Place) {
        let at = root.key("delays");
        match doc.get("delays") {
            None => {}
            Some(Doc::Map(members)) => {
                for (name, doc) in members {
                    let at = at.key(name);
                    let named = name
                        .bytes()
                        .all(|b| b.is_ascii_alphanumeric() || b == b'_')
                        && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
                        && name != "Infinity";
                    if !named || name.len() > limits::NAME_BYTES {
                        self.faults
                            .add(&at, "a delay's name has letters, digits and _ only");
                    }
                    let delay = Template::admit(doc, &at, &mut self.faults);
                    if !matches!(delay, Template::Cel(_) | Template::Plain(Value::Number(_))) {
                        self.faults
                            .add(&at, "a delay is milliseconds or {\"cel\":\"expr\"}");
                    }
                    self.delays.insert(name.clone(), delay);
                }
            }
            Some(other) => self
                .faults
                .add(&at, format!("expected an object, got {}", other.kind())),
        }
    }

    /// Everything of a state that refers to other states.
    fn behaviour(&mut self, i: usize) {
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
        let output = doc
            .get("output")
            .map(|d| Template::admit(d, &at.key("output"), &mut self.faults));
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
                    self.faults
                        .add(&at, "a state with states needs an initial state");
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
            Some(node) if !matches!(node.kind, Kind::History { .. }) => {}
            _ => self.faults.add(
                &at,
                format!("{key:?} is not the key of a state that can be entered in `states`"),
            ),
        }
        (child, actions)
    }

    fn history_default(&mut self, i: usize, doc: &Doc, at: &Place) {
        let at = at.key("target");
        let texts = match doc.get("target") {
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
            self.faults.add(
                &at,
                "expected states below the history state's parent that can be active together",
            );
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
            Some(other) => self.faults.add(
                &at.key("on"),
                format!("expected an object, got {}", other.kind()),
            ),
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

    fn after(
        &mut self,
        i: usize,
        doc: &Doc,
        at: &Place,
        on: &mut Vec<(String, Vec<usize>)>,
    ) -> Vec<After> {
        let at = at.key("after");
        let members = match doc.get("after") {
            None => return Vec::new(),
            Some(Doc::Map(members)) => members,
            Some(other) => {
                self.faults
                    .add(&at, format!("expected an object, got {}", other.kind()));
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
                    self.faults.add(
                        &at,
                        "expected milliseconds (a whole number) or a name from `delays`",
                    );
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
            self.faults.add(
                at,
                format!("a machine has at most {} transitions", limits::TRANSITIONS),
            );
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
                self.faults
                    .add(at, format!("expected a transition, got {}", other.kind()));
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
                self.faults.add(
                    &at.key("reenter"),
                    format!("expected a boolean, got {}", other.kind()),
                );
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
        self.transitions.push(Transition {
            source: i,
            targets,
            guard,
            actions,
            reenter,
        });
        Some(self.transitions.len() - 1)
    }

    fn targets(&mut self, i: usize, config: &Doc, at: &Place) -> Vec<usize> {
        let Some(texts) = texts(config) else {
            self.faults
                .add(at, format!("expected a target, got {}", config.kind()));
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
            self.faults.add(
                at,
                "several targets must lie in different regions of a parallel state",
            );
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
