//! A machine's context: a map whose values are shared between the states of a machine.
//!
//! Promises: a step that assigns one value copies that value, not the context; sizes are those of the values, counted once
//! when a value is put in. Refuses nothing: what may be a value is decided before.

use crate::json;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde::ser::{Serialize, Serializer};
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

/// The context.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Context(Arc<Members>);

/// Keys, sorted by their bytes, and the value of each. Machines have few keys and hardly ever get another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Members {
    keys: Arc<Vec<Box<str>>>,
    values: Vec<Arc<Held>>,
}

/// A value and its sizes.
#[derive(Debug, PartialEq, Eq)]
struct Held {
    value: Value,
    /// As [`json::size`] counts.
    size: usize,
    /// As [`json::canonical_len`] counts.
    len: usize,
}

impl Held {
    fn new(value: Value) -> Self {
        Held { size: json::size(&value), len: json::canonical_len(&value), value }
    }
}

impl Context {
    fn find(&self, key: &str) -> Result<usize, usize> {
        self.0.keys.binary_search_by(|other| (**other).cmp(key))
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Value> {
        self.0.values.get(self.find(key).ok()?).map(|held| &held.value)
    }

    pub(crate) fn insert(&mut self, key: &str, value: Value) {
        let held = Arc::new(Held::new(value));
        let found = self.find(key);
        let members = Arc::make_mut(&mut self.0);
        match found {
            Ok(at) => {
                if let Some(slot) = members.values.get_mut(at) {
                    *slot = held;
                }
            }
            Err(at) => {
                Arc::make_mut(&mut members.keys).insert(at, Box::from(key));
                members.values.insert(at, held);
            }
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.0.values.len()
    }

    fn members(&self) -> impl Iterator<Item = (&str, &Held)> {
        self.0.keys.iter().map(|key| &**key).zip(self.0.values.iter().map(|held| &**held))
    }

    /// Sorted by the keys' bytes.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.members().map(|(key, held)| (key, &held.value))
    }

    /// Bytes, near enough to bound growth within a step.
    pub(crate) fn size(&self) -> usize {
        self.members().map(|(key, held)| key.len() + held.size).sum()
    }

    /// Bytes of its RFC 8785 form.
    pub(crate) fn canonical_len(&self) -> usize {
        let members = self.members().map(|(key, held)| json::text_len(key) + 1 + held.len).sum::<usize>();
        2 + self.len().saturating_sub(1) + members
    }

    pub(crate) fn to_json(&self) -> Map<String, Value> {
        self.iter().map(|(key, value)| (key.to_owned(), value.clone())).collect()
    }
}

impl Serialize for Context {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_map(self.iter())
    }
}

impl<'de> Deserialize<'de> for Context {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Context;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a context")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Context, A::Error> {
                let mut context = Context::default();
                // Keys come sorted, so that each goes to the end.
                while let Some((key, value)) = map.next_entry::<Cow<'_, str>, Value>()? {
                    context.insert(&key, value);
                }
                Ok(context)
            }
        }
        d.deserialize_map(Reader)
    }
}

#[cfg(test)]
impl Context {
    pub(crate) fn from_map(map: Map<String, Value>) -> Self {
        serde_json::from_value(Value::Object(map)).unwrap()
    }
}
