//! Actions: names with params, as nsm definitions hold them (EVENTS 1).
//!
//! Admitted: `cel.assign`, `assignExecutor` (the name nsm clients use), and the built-in `raise`,
//! `publish`, `send`, `start`, `records.put`, `records.remove`, whose params may hold `{"cel":"expr"}` in place of any value.
//! Refused at admission: any other name and any parameter that isn't used.

use crate::cel::{self, Expr, Failure, Meter, Scope, Type};
use crate::guard::{named, only, text};
use crate::json::{Doc, Faults, Place, size};
use crate::limits;
use crate::quote::quote;
use crate::state::canonical;
use crate::step::Effect;
use crate::template::Template;
use serde_json::Value;

/// An admitted action.
#[derive(Clone, Debug)]
pub(crate) enum Action {
    /// Every value is taken from the context before the action, as XState's `assign` does.
    Assign(Vec<(String, Expr)>),
    /// `context.executorPubKey` becomes the signer's key.
    AssignExecutor,
    Raise {
        kind: Template,
        data: Template,
    },
    Publish {
        kind: Template,
        content: Template,
        tags: Template,
    },
    Send {
        to: Template,
        kind: Template,
        data: Template,
    },
    Start {
        definition: Template,
        input: Template,
    },
    RecordPut {
        record: String,
        key: Template,
        value: Template,
    },
    RecordRemove {
        record: String,
        key: Template,
    },
}

impl Action {
    /// Admits one action or a list of them.
    pub(crate) fn admit_all(doc: &Doc, at: &Place, faults: &mut Faults) -> Vec<Self> {
        match doc {
            Doc::List(items) => {
                items.iter().enumerate().filter_map(|(i, d)| Self::admit(d, &at.index(i), faults)).collect()
            }
            one => Self::admit(one, at, faults).into_iter().collect(),
        }
    }

    fn admit(doc: &Doc, at: &Place, faults: &mut Faults) -> Option<Self> {
        let (name, params) = named(doc, "action", at, faults)?;
        let whole = at;
        let at = &at.key("params");
        // A hole in the params as a whole has no names to check.
        let part = |key: &str, default: Value, faults: &mut Faults| match params.and_then(|p| p.get(key)) {
            Some(doc) => Template::admit(doc, &at.key(key), faults),
            None => {
                if default.is_null() && !matches!(key, "data" | "input" | "value") {
                    faults.add(&at.key(key), format!("{name} needs `{key}`"));
                }
                Template::Plain(default)
            }
        };
        match name {
            "cel.assign" => {
                let mut assignments = Vec::new();
                for (key, doc) in params.map(Doc::members).unwrap_or_default() {
                    let Doc::Str(source) = doc else {
                        faults.add(&at.key(key), format!("expected an expression, got {}", doc.kind()));
                        continue;
                    };
                    match cel::compile(source, &faults.names, Type::Any) {
                        Ok(expr) => assignments.push((key.clone(), expr)),
                        Err(e) => faults.add(&at.key(key), e),
                    }
                }
                if assignments.is_empty() {
                    faults.add(at, "cel.assign needs at least one `name: \"expr\"`");
                }
                Some(Self::Assign(assignments))
            }
            "assignExecutor" => Some(Self::AssignExecutor),
            "raise" => {
                only(params, &["type", "data"], at, faults);
                let kind = part("type", Value::Null, faults);
                if let Some(text) = kind.as_text()
                    && let Err(e) = event_type(text)
                {
                    faults.add(&at.key("type"), e);
                }
                let data = part("data", Value::Null, faults);
                Some(Self::Raise { kind, data })
            }
            "publish" => {
                only(params, &["kind", "content", "tags"], at, faults);
                Some(Self::Publish {
                    kind: part("kind", Value::Null, faults),
                    content: part("content", Value::from(""), faults),
                    tags: part("tags", Value::Array(Vec::new()), faults),
                })
            }
            "send" => {
                only(params, &["to", "type", "data"], at, faults);
                Some(Self::Send {
                    to: part("to", Value::Null, faults),
                    kind: part("type", Value::Null, faults),
                    data: part("data", Value::Null, faults),
                })
            }
            "start" => {
                only(params, &["definition", "input"], at, faults);
                let definition = part("definition", Value::Null, faults);
                if let Some(text) = definition.as_text()
                    && !is_id(text)
                {
                    faults.add(
                        &at.key("definition"),
                        "expected the id of a definition: 64 lower-case hex digits",
                    );
                }
                Some(Self::Start { definition, input: part("input", Value::Null, faults) })
            }
            "records.put" => {
                only(params, &["record", "key", "value"], at, faults);
                Some(Self::RecordPut {
                    record: record(params, at, faults)?,
                    key: part("key", Value::Null, faults),
                    value: part("value", Value::Null, faults),
                })
            }
            "records.remove" => {
                only(params, &["record", "key"], at, faults);
                Some(Self::RecordRemove {
                    record: record(params, at, faults)?,
                    key: part("key", Value::Null, faults),
                })
            }
            other => {
                faults.add(
                    whole,
                    format!(
                        "unknown action {}: this engine has cel.assign, assignExecutor, raise, publish, send, \
                         start, records.put, records.remove",
                        quote(other)
                    ),
                );
                None
            }
        }
    }

    /// The effect that a publish, send or start declares; `None` for the other actions.
    pub(crate) fn effect(&self, scope: Scope<'_>, meter: &mut Meter) -> Result<Option<Effect>, Failure> {
        let effect = match self {
            Self::Assign(_)
            | Self::AssignExecutor
            | Self::Raise { .. }
            | Self::RecordPut { .. }
            | Self::RecordRemove { .. } => return Ok(None),
            Self::Publish { kind, content, tags } => Effect::Publish {
                kind: kind
                    .fill(scope, meter)?
                    .as_u64()
                    .and_then(|k| u16::try_from(k).ok())
                    .ok_or_else(|| wrong("kind", "an integer from 0 to 65535"))?,
                content: match content.fill(scope, meter)? {
                    Value::String(s) => s,
                    other => {
                        String::from_utf8(canonical(&other)).map_err(|_| wrong("content", "text or JSON"))?
                    }
                },
                tags: tags_of(tags.fill(scope, meter)?)?,
            },
            Self::Send { to, kind, data } => Effect::Send {
                to: string(to.fill(scope, meter)?, "to")?,
                kind: {
                    let kind = string(kind.fill(scope, meter)?, "type")?;
                    event_type(&kind).map_err(Failure::Error)?;
                    kind
                },
                data: data.fill(scope, meter)?,
            },
            Self::Start { definition, input } => Effect::Start {
                definition: string(definition.fill(scope, meter)?, "definition")?,
                input: input.fill(scope, meter)?,
            },
        };
        Ok(Some(effect))
    }
}

impl Effect {
    /// Bytes of the effect, near enough to bound it.
    pub(crate) fn size(&self) -> usize {
        match self {
            Self::Publish { content, tags, .. } => {
                let tags: usize = tags.iter().map(|t| 3 + t.iter().map(|s| s.len() + 3).sum::<usize>()).sum();
                content.len() + tags
            }
            Self::Send { to, kind, data } => to.len() + kind.len() + size(data),
            Self::Start { definition, input } => definition.len() + size(input),
        }
    }
}

/// The declared record that an action names.
fn record(params: Option<&Doc>, at: &Place, faults: &mut Faults) -> Option<String> {
    let name = text(params, "record", at, faults)?;
    if !faults.names.records.contains(name) {
        faults.add(&at.key("record"), format!("{} isn't declared in `records`", quote(name)));
        return None;
    }
    Some(name.to_owned())
}

/// Is this an event's id as Nostr writes it?
fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// Is this a type that a participant or a `raise` may use?
pub(crate) fn event_type(kind: &str) -> Result<(), String> {
    if kind.is_empty() || kind == "*" || kind.len() > limits::NAME_BYTES {
        return Err(format!("an event type is a name of 1 to {} bytes, and not `*`", limits::NAME_BYTES));
    }
    if kind.starts_with("xstate.") {
        return Err("event types that start with `xstate.` are the engine's own".to_owned());
    }
    Ok(())
}

fn wrong(key: &str, expected: &str) -> Failure {
    Failure::Error(format!("`{key}` must be {expected}"))
}

/// A text parameter.
pub(crate) fn string(value: Value, key: &str) -> Result<String, Failure> {
    match value {
        Value::String(s) => Ok(s),
        _ => Err(wrong(key, "a string")),
    }
}

fn tags_of(value: Value) -> Result<Vec<Vec<String>>, Failure> {
    let Value::Array(tags) = value else {
        return Err(wrong("tags", "a list of lists of strings"));
    };
    tags.into_iter()
        .map(|tag| match tag {
            Value::Array(items) if !items.is_empty() => {
                items.into_iter().map(|s| string(s, "tags")).collect()
            }
            _ => Err(wrong("tags", "a list of lists of strings")),
        })
        .collect()
}
