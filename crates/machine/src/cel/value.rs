//! Values of an expression: borrowed from the context where they can be, so that a guard over a
//! large context costs what it looks at.

use super::eval::Happening;
use crate::context::Context;
use crate::json;
use serde_json::{Map, Value};
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::rc::Rc;

/// A CEL value. Only what JSON has, integers, and bytes, which can't leave an expression: no double,
/// uint, time or type values.
#[derive(Clone, Debug)]
pub(crate) enum Val<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Str(Text<'a>),
    Bytes(Rc<[u8]>),
    List(List<'a>),
    Map(Object<'a>),
}

/// A string, borrowed or made.
#[derive(Clone, Debug)]
pub(crate) enum Text<'a> {
    Ref(&'a str),
    Made(Rc<str>),
}

/// A list, borrowed or made.
#[derive(Clone, Debug)]
pub(crate) enum List<'a> {
    Ref(&'a [Value]),
    Made(Rc<Vec<Val<'a>>>),
}

/// A map, borrowed or made. Iteration is always by sorted keys.
#[derive(Clone, Debug)]
pub(crate) enum Object<'a> {
    Ref(&'a Map<String, Value>),
    Made(Rc<BTreeMap<String, Val<'a>>>),
    /// The context as a whole.
    Context(&'a Context),
    /// The event as a whole.
    Event(&'a Happening<'a>),
}

impl<'a> From<&'a Value> for Val<'a> {
    fn from(value: &'a Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Bool(b) => Self::Bool(*b),
            // Every value in scope was checked to hold integers only; `null` makes a slip an error.
            Value::Number(n) => json::integer(n).map_or(Self::Null, Self::Int),
            Value::String(s) => Self::Str(Text::Ref(s)),
            Value::Array(items) => Self::List(List::Ref(items)),
            Value::Object(map) => Self::Map(Object::Ref(map)),
        }
    }
}

impl<'a> Val<'a> {
    pub(crate) fn text(s: &str) -> Self {
        Self::Str(Text::Made(Rc::from(s)))
    }

    pub(crate) fn bytes(bytes: Vec<u8>) -> Self {
        Self::Bytes(Rc::from(bytes))
    }

    /// A value that nothing else keeps alive.
    pub(crate) fn owned(value: &Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Bool(b) => Self::Bool(*b),
            Value::Number(n) => json::integer(n).map_or(Self::Null, Self::Int),
            Value::String(s) => Self::text(s),
            Value::Array(items) => Self::list(items.iter().map(Self::owned).collect()),
            Value::Object(map) => Self::Map(Object::Made(Rc::new(
                map.iter().map(|(k, v)| (k.clone(), Self::owned(v))).collect(),
            ))),
        }
    }

    pub(crate) fn list(items: Vec<Val<'a>>) -> Self {
        Self::List(List::Made(Rc::new(items)))
    }

    /// The CEL name of the type, for errors.
    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Str(_) => "string",
            Self::Bytes(_) => "bytes",
            Self::List(_) => "list",
            Self::Map(_) => "map",
        }
    }

    /// The JSON value. Integers may still be beyond 2^53: [`json::unfit`] says so.
    pub(crate) fn to_json(&self) -> Value {
        match self {
            Self::Null => Value::Null,
            Self::Bool(b) => Value::Bool(*b),
            Self::Int(n) => Value::from(*n),
            Self::Str(s) => Value::String(s.as_str().to_owned()),
            // Refused before it gets here: bytes have no JSON.
            Self::Bytes(_) => Value::Null,
            Self::List(List::Ref(items)) => Value::Array(items.to_vec()),
            Self::List(List::Made(items)) => Value::Array(items.iter().map(Self::to_json).collect()),
            Self::Map(Object::Ref(map)) => Value::Object((*map).clone()),
            Self::Map(Object::Context(context)) => Value::Object(context.to_json()),
            Self::Map(map @ Object::Event(_)) => {
                Value::Object(map.entries().map(|(k, v)| (k.to_owned(), v.to_json())).collect::<Map<_, _>>())
            }
            Self::Map(Object::Made(map)) => {
                Value::Object(map.iter().map(|(k, v)| (k.clone(), v.to_json())).collect::<Map<_, _>>())
            }
        }
    }
}

impl Text<'_> {
    pub(crate) fn as_str(&self) -> &str {
        match self {
            Self::Ref(s) => s,
            Self::Made(s) => s,
        }
    }
}

impl<'a> List<'a> {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Ref(items) => items.len(),
            Self::Made(items) => items.len(),
        }
    }

    pub(crate) fn get(&self, i: usize) -> Option<Val<'a>> {
        match self {
            Self::Ref(items) => items.get(i).map(Val::from),
            Self::Made(items) => items.get(i).cloned(),
        }
    }
}

/// The members of `event`, sorted.
const EVENT: [&str; 6] = ["created_at", "data", "height", "id", "pubkey", "type"];

impl<'a> Object<'a> {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Ref(map) => map.len(),
            Self::Made(map) => map.len(),
            Self::Context(context) => context.len(),
            Self::Event(_) => EVENT.len(),
        }
    }

    pub(crate) fn get(&self, key: &str) -> Option<Val<'a>> {
        let text = |text: Option<&'a str>| text.map_or(Val::Null, |text| Val::Str(Text::Ref(text)));
        match self {
            Self::Ref(map) => map.get(key).map(Val::from),
            Self::Made(map) => map.get(key).cloned(),
            Self::Context(context) => context.get(key).map(Val::from),
            Self::Event(event) => match key {
                "type" => Some(text(Some(&event.kind))),
                "data" => Some(Val::from(&*event.data)),
                "pubkey" => Some(text(event.pubkey.as_deref())),
                "id" => Some(text(event.id)),
                "created_at" => Some(event.created_at.map_or(Val::Null, Val::Int)),
                "height" => Some(event.height.map_or(Val::Null, Val::Int)),
                _ => None,
            },
        }
    }

    /// The members of `event`.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (&'static str, Val<'a>)> {
        EVENT.into_iter().filter_map(|key| Some((key, self.get(key)?)))
    }

    /// The keys, sorted, as a list: what a macro over a map runs over.
    pub(crate) fn keys(&self) -> List<'a> {
        let mut keys: Vec<Val<'a>> = match self {
            Self::Ref(map) => map.keys().map(|k| Val::Str(Text::Ref(k))).collect(),
            Self::Made(map) => map.keys().map(|k| Val::text(k)).collect(),
            Self::Context(context) => context.iter().map(|(k, _)| Val::Str(Text::Ref(k))).collect(),
            Self::Event(_) => EVENT.into_iter().map(|k| Val::Str(Text::Ref(k))).collect(),
        };
        keys.sort_by(|a, b| match (a, b) {
            (Val::Str(a), Val::Str(b)) => a.as_str().cmp(b.as_str()),
            _ => Ordering::Equal,
        });
        List::Made(Rc::new(keys))
    }
}
