//! Admission: from a document to a [`Definition`], or to every fault with its place.
//!
//! First all states are numbered, then their transitions are resolved against them. Refuses what
//! the engine can't run and what XState would only stumble over at run time: unknown names,
//! targets that don't exist or exclude each other, repeated ids, states that can't be entered.

use crate::cel::{self, Type};
use crate::context::Context;
use crate::definition::{Definition, Kind, Node, Transition};
use crate::guard::only;
use crate::json::{Doc, Faults, Place};
use crate::limits;
use crate::quote::quote;
use crate::step::Fault;
use crate::template::Template;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// Properties that don't change what a machine does.
const IGNORED: [&str; 5] = ["description", "version", "title", "schemas", "types"];
/// Properties of any state.
const STATE: [&str; 14] = [
    "tags", "meta", "id", "type", "initial", "states", "on", "always", "after", "entry", "exit", "onDone",
    "output", "history",
];

pub(crate) struct Admission<'d> {
    pub(crate) nodes: Vec<Node>,
    pub(crate) docs: Vec<(&'d Doc, Place)>,
    pub(crate) ids: BTreeMap<String, usize>,
    pub(crate) transitions: Vec<Transition>,
    pub(crate) delays: BTreeMap<String, Template>,
    pub(crate) faults: Faults,
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
    a.names(doc, &root);
    a.state(doc, &root, None, "(machine)", 0);
    if a.faults.is_empty() {
        a.delays(doc, &root);
        for i in 0..a.nodes.len() {
            a.behaviour(i);
        }
    }
    let context = match doc.get("context") {
        None => Vec::new(),
        Some(Doc::Map(members)) => a.context(members, &root.key("context")),
        Some(other) => {
            a.faults.add(&root.key("context"), format!("expected an object, got {}", other.kind()));
            Vec::new()
        }
    };
    let mut base = Context::default();
    let context: Vec<_> = context
        .into_iter()
        .filter(|(key, template)| match template.as_value() {
            Some(value) => {
                base.insert(key, value.clone());
                false
            }
            None => true,
        })
        .collect();
    if a.faults.is_empty() {
        let timer = |(i, n): (usize, &Node)| -> Vec<(String, (usize, usize))> {
            n.afters.iter().enumerate().map(|(k, after)| (after.event.clone(), (i, k))).collect()
        };
        let timers = a.nodes.iter().enumerate().flat_map(timer).collect();
        Ok(Definition {
            nodes: a.nodes,
            transitions: a.transitions,
            base,
            context,
            uses_state: a.faults.names.uses_state.get(),
            records: a.faults.names.records.into_iter().collect(),
            ids: a.ids.into_iter().collect(),
            timers,
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
            self.faults.add(at, format!("a {what} is an object, got {}", doc.kind()));
            return None;
        }
        if depth > limits::STATE_DEPTH || self.nodes.len() >= limits::STATES {
            self.faults.add(
                at,
                format!("a machine has at most {} states, {} deep", limits::STATES, limits::STATE_DEPTH),
            );
            return None;
        }
        let states: &'d [(String, Doc)] = match doc.get("states") {
            None => &[],
            Some(Doc::Map(members)) => members,
            Some(other) => {
                self.faults.add(&at.key("states"), format!("expected an object, got {}", other.kind()));
                &[]
            }
        };
        let kind = self.kind(doc, at, parent, !states.is_empty());
        self.properties(doc, at, parent, kind);
        let id = self.id(doc, at, parent, key);
        let tags = self.tags(doc, at);
        let i = self.nodes.len();
        if self.ids.insert(id.clone(), i).is_some() {
            self.faults.add(at, format!("the id {} is taken", quote(&id)));
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
            tags,
            meta: doc.get("meta").map(Doc::to_loose),
        });
        self.docs.push((doc, at.clone()));
        let below = at.key("states");
        let mut children = Vec::new();
        for (key, doc) in states {
            let at = below.key(key);
            if key.is_empty() || key.len() > limits::NAME_BYTES {
                self.faults.add(&at, format!("a state's key has 1 to {} bytes", limits::NAME_BYTES));
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

    fn tags(&mut self, doc: &Doc, at: &Place) -> Vec<String> {
        let items = match doc.get("tags") {
            None => return Vec::new(),
            Some(Doc::List(items)) => items.as_slice(),
            Some(one) => std::slice::from_ref(one),
        };
        let tags = items.iter().map(|item| match item {
            Doc::Str(tag) if tag.len() <= limits::NAME_BYTES => Some(tag.clone()),
            _ => None,
        });
        tags.collect::<Option<_>>().unwrap_or_else(|| {
            self.faults
                .add(&at.key("tags"), format!("tags are names of at most {} bytes", limits::NAME_BYTES));
            Vec::new()
        })
    }

    /// The names that expressions may use: whatever the context can have, and the records.
    fn names(&mut self, doc: &Doc, root: &Place) {
        let names = &mut self.faults.names;
        names
            .context
            .extend(doc.get("context").map(Doc::members).unwrap_or_default().iter().map(|(k, _)| k.clone()));
        assigned(doc, &mut names.context);
        let at = root.key("records");
        match doc.get("records") {
            None => {}
            Some(Doc::Map(members)) => {
                if members.len() > limits::RECORDS {
                    self.faults.add(&at, format!("a machine has at most {} records", limits::RECORDS));
                }
                for (name, config) in members {
                    let at = at.key(name);
                    let named = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
                        && name.starts_with(|c: char| c.is_ascii_alphabetic())
                        && name.len() <= limits::NAME_BYTES;
                    if !named {
                        self.faults.add(&at, "a record's name has letters, digits and _ only");
                    }
                    if !matches!(config, Doc::Map(_)) {
                        self.faults.add(&at, format!("expected an object, got {}", config.kind()));
                    }
                    only(Some(config), &["description"], &at, &mut self.faults);
                    self.faults.names.records.insert(name.clone());
                }
            }
            Some(other) => self.faults.add(&at, format!("expected an object, got {}", other.kind())),
        }
    }

    fn context(&mut self, members: &[(String, Doc)], at: &Place) -> Vec<(String, Template)> {
        self.faults.names.at_start = true;
        let context = members
            .iter()
            .map(|(key, doc)| (key.clone(), Template::admit(doc, &at.key(key), &mut self.faults)))
            .collect();
        self.faults.names.at_start = false;
        context
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
            self.faults.add(at, format!("an id has at most {} bytes, got {}", limits::NAME_BYTES, id.len()));
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
                self.faults.add(&at.key("history"), "expected \"shallow\" or \"deep\"");
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
                "history" => Kind::History { deep: deep.unwrap_or(false) },
                other => {
                    self.faults.add(
                        &at.key("type"),
                        format!(
                            "unknown type {}: expected atomic, compound, parallel, final \
                             or history",
                            quote(other)
                        ),
                    );
                    Kind::Atomic
                }
            },
            Some(other) => {
                self.faults.add(&at.key("type"), format!("expected a string, got {}", other.kind()));
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
            self.faults.add(&at.key("history"), "only a history state has this");
        }
        if parent.is_none() && matches!(kind, Kind::Final | Kind::History { .. }) {
            self.faults.add(&at.key("type"), "the machine itself is not a final or history state");
        }
        kind
    }

    fn properties(&mut self, doc: &Doc, at: &Place, parent: Option<usize>, kind: Kind) {
        for (key, value) in doc.members() {
            let key = key.as_str();
            let known = match kind {
                Kind::History { .. } => matches!(key, "id" | "type" | "history" | "target" | "tags" | "meta"),
                _ => {
                    STATE.contains(&key)
                        || (parent.is_none() && matches!(key, "context" | "delays" | "records" | "$schema"))
                }
            };
            if known || IGNORED.contains(&key) || (key == "invoke" && *value == Doc::List(vec![])) {
                continue;
            }
            let message = match key {
                "invoke" | "spawn" | "activities" => {
                    "actors are not supported: a machine is a pure function of its events; use \
                     `send`, `start` or a `source` tag"
                }
                "context" | "delays" | "records" => "only the machine itself has this",
                _ => "unknown property",
            };
            self.faults.add(&at.key(key), message);
        }
        if doc.get("output").is_some() && parent.is_some() && kind != Kind::Final {
            self.faults.add(&at.key("output"), "only a final state or the machine itself has an output");
        }
        if doc.get("initial").is_some() && kind != Kind::Compound {
            self.faults.add(&at.key("initial"), "only a compound state has an initial state");
        }
    }

    fn delays(&mut self, doc: &Doc, root: &Place) {
        let at = root.key("delays");
        match doc.get("delays") {
            None => {}
            Some(Doc::Map(members)) => {
                for (name, doc) in members {
                    let at = at.key(name);
                    let named = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
                        && name.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
                        && name != "Infinity";
                    if !named || name.len() > limits::NAME_BYTES {
                        self.faults.add(&at, "a delay's name has letters, digits and _ only");
                    }
                    let delay = Template::admit(doc, &at, &mut self.faults);
                    if !matches!(delay, Template::Cel(_) | Template::Plain(Value::Number(_))) {
                        self.faults.add(&at, "a delay is milliseconds or {\"cel\":\"expr\"}");
                    }
                    if let Template::Cel(expr) = &delay
                        && let Err(e) = cel::check(expr, Type::Int)
                    {
                        self.faults.add(&at.key("cel"), e);
                    }
                    self.delays.insert(name.clone(), delay);
                }
            }
            Some(other) => self.faults.add(&at, format!("expected an object, got {}", other.kind())),
        }
    }
}

/// Every key that an action anywhere in the document can assign.
fn assigned(doc: &Doc, keys: &mut BTreeSet<String>) {
    match doc {
        Doc::Str(name) if name == "assignExecutor" => {
            keys.insert("executorPubKey".to_owned());
        }
        Doc::List(items) => items.iter().for_each(|d| assigned(d, keys)),
        Doc::Map(members) => {
            if doc.get("type") == Some(&Doc::Str("cel.assign".to_owned())) {
                let params = doc.get("params").map(Doc::members).unwrap_or_default();
                keys.extend(params.iter().map(|(k, _)| k.clone()));
            }
            members.iter().for_each(|(_, d)| assigned(d, keys));
        }
        _ => {}
    }
}
