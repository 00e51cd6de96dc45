//! Guards: names with params, as nsm definitions hold them (EVENTS 1).
//!
//! Admitted: `cel`, the role names of nsm clients (facts of the nsm text: `isCreator`, ...), and
//! `and`, `or`, `not`, `stateIn`, whose meaning is XState's. Refused at admission: any other name
//! and any parameter that isn't used.

use crate::cel::{self, Expr, Type};
use crate::json::{Doc, Faults, Place};
use crate::quote::quote;
use serde_json::Value;

/// An admitted guard.
#[derive(Clone, Debug)]
pub(crate) enum Guard {
    /// Compiled, and as it is written.
    Cel(Expr, String),
    Role(Role),
    And(Vec<Guard>),
    Or(Vec<Guard>),
    Not(Box<Guard>),
    StateIn(StateIn),
}

/// Which state `stateIn` asks for.
#[derive(Clone, Debug)]
pub(crate) enum StateIn {
    /// `#id` or `#id.path`: written as it was until targets can be resolved.
    Id(String),
    /// The resolved node.
    Node(usize),
    /// A state value, matched as XState's `matches` does.
    Value(Value),
}

/// Who signed the event, by the context keys that nsm clients use. An event that nobody signed has
/// no role, `isNotCreator` included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Creator,
    NotCreator,
    Executor,
    Receiver,
    CreatorOrExecutor,
    Oracle,
}

impl Guard {
    /// Admits a guard; `None` if a fault was found.
    pub(crate) fn admit(doc: &Doc, at: &Place, faults: &mut Faults) -> Option<Self> {
        let (name, params) = named(doc, "guard", at, faults)?;
        let whole = at;
        let at = at.key("params");
        let role = match name {
            "isCreator" => Some(Role::Creator),
            "isNotCreator" => Some(Role::NotCreator),
            "isExecutor" => Some(Role::Executor),
            "isReceiver" => Some(Role::Receiver),
            "isCreatorOrExecutor" => Some(Role::CreatorOrExecutor),
            "isOracle" => Some(Role::Oracle),
            _ => None,
        };
        if let Some(role) = role {
            return Some(Self::Role(role));
        }
        match name {
            "cel" => {
                only(params, &["expr"], &at, faults);
                let source = text(params, "expr", &at, faults)?;
                match cel::compile(source, &faults.names, Type::Bool) {
                    Ok(expr) => Some(Self::Cel(expr, source.to_owned())),
                    Err(e) => {
                        faults.add(&at.key("expr"), e);
                        None
                    }
                }
            }
            "and" | "or" => {
                only(params, &["guards"], &at, faults);
                let at = at.key("guards");
                let Some(Doc::List(guards)) = params.and_then(|p| p.get("guards")) else {
                    faults.add(&at, "expected a list of guards");
                    return None;
                };
                let guards: Vec<_> = guards
                    .iter()
                    .enumerate()
                    .filter_map(|(i, g)| Self::admit(g, &at.index(i), faults))
                    .collect();
                Some(if name == "and" { Self::And(guards) } else { Self::Or(guards) })
            }
            "not" => {
                only(params, &["guard"], &at, faults);
                let at = at.key("guard");
                let Some(guard) = params.and_then(|p| p.get("guard")) else {
                    faults.add(&at, "expected a guard");
                    return None;
                };
                Self::admit(guard, &at, faults).map(|g| Self::Not(Box::new(g)))
            }
            "stateIn" => {
                only(params, &["state"], &at, faults);
                let at = at.key("state");
                match params.and_then(|p| p.get("state")) {
                    Some(Doc::Str(id)) if id.starts_with('#') => Some(Self::StateIn(StateIn::Id(id.clone()))),
                    Some(Doc::Str(path)) => Some(Self::StateIn(StateIn::Value(Value::String(path.clone())))),
                    Some(value @ Doc::Map(_)) => {
                        Some(Self::StateIn(StateIn::Value(value.to_value(&at, faults))))
                    }
                    _ => {
                        faults.add(&at, "expected `#id`, a path or a state value");
                        None
                    }
                }
            }
            other => {
                faults.add(
                    whole,
                    format!(
                        "unknown guard {}: this engine has cel, isCreator, isNotCreator, \
                         isExecutor, isReceiver, isCreatorOrExecutor, isOracle, and, or, not, \
                         stateIn",
                        quote(other)
                    ),
                );
                None
            }
        }
    }

    /// Resolves `#id` in every `stateIn`.
    pub(crate) fn resolve(&mut self, find: &impl Fn(&str) -> Result<usize, String>) -> Result<(), String> {
        match self {
            Self::And(guards) | Self::Or(guards) => guards.iter_mut().try_for_each(|g| g.resolve(find)),
            Self::Not(guard) => guard.resolve(find),
            Self::StateIn(state) => {
                if let StateIn::Id(id) = state {
                    *state = StateIn::Node(find(id)?);
                }
                Ok(())
            }
            Self::Cel(..) | Self::Role(_) => Ok(()),
        }
    }
}

/// Splits `a.b\.c` into its segments, as XState does.
pub(crate) fn state_path(path: &str) -> Vec<String> {
    let (mut segments, mut segment, mut chars) = (Vec::new(), String::new(), path.chars());
    while let Some(c) = chars.next() {
        match c {
            '\\' => segment.extend(chars.next()),
            '.' => segments.push(std::mem::take(&mut segment)),
            c => segment.push(c),
        }
    }
    segments.push(segment);
    segments
}

/// `["a","b"]` as the state value `{"a":"b"}`.
fn path_value(path: &[String]) -> Value {
    let mut rev = path.iter().rev();
    let last = Value::String(rev.next().cloned().unwrap_or_default());
    rev.fold(last, |inner, key| Value::Object([(key.clone(), inner)].into_iter().collect()))
}

/// Does the state value `actual` match `wanted`? XState's `matchesState`, which reads every string on
/// both sides as a path: a key with a dot in it matches nothing that is written without.
pub(crate) fn matches_state(wanted: &Value, actual: &Value) -> bool {
    let read = |value: &Value| match value {
        Value::String(path) => path_value(&state_path(path)),
        other => other.clone(),
    };
    match (&read(wanted), &read(actual)) {
        (Value::String(w), Value::String(a)) => w == a,
        (Value::String(w), Value::Object(a)) => a.contains_key(w),
        (Value::Object(w), Value::Object(a)) => {
            w.iter().all(|(k, w)| a.get(k).is_some_and(|a| matches_state(w, a)))
        }
        _ => false,
    }
}

/// `"name"` or `{"type":"name","params":{..}}`.
pub(crate) fn named<'d>(
    doc: &'d Doc,
    what: &str,
    at: &Place,
    faults: &mut Faults,
) -> Option<(&'d str, Option<&'d Doc>)> {
    if let Doc::Str(name) = doc {
        return Some((name, None));
    }
    let Some(Doc::Str(name)) = doc.get("type") else {
        faults.add(at, format!("a {what} is a name or {{\"type\",\"params\"}}, got {}", doc.kind()));
        return None;
    };
    only(Some(doc), &["type", "params"], at, faults);
    let params = doc.get("params");
    if let Some(params) = params
        && !matches!(params, Doc::Map(_))
    {
        faults.add(&at.key("params"), format!("expected an object, got {}", params.kind()));
        return None;
    }
    Some((name, params))
}

/// Reports members that nothing reads.
pub(crate) fn only(doc: Option<&Doc>, known: &[&str], at: &Place, faults: &mut Faults) {
    for (key, _) in doc.map(Doc::members).unwrap_or_default() {
        if !known.contains(&key.as_str()) {
            faults.add(&at.key(key), format!("unknown property; expected {}", known.join(", ")));
        }
    }
}

/// A required text parameter.
pub(crate) fn text<'d>(
    params: Option<&'d Doc>,
    key: &str,
    at: &Place,
    faults: &mut Faults,
) -> Option<&'d str> {
    match params.and_then(|p| p.get(key)) {
        Some(Doc::Str(s)) => Some(s),
        other => {
            faults
                .add(&at.key(key), format!("expected a string, got {}", other.map_or("nothing", Doc::kind)));
            None
        }
    }
}
