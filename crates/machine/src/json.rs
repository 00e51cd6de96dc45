//! A definition's JSON as it is written: keys in order, with faults that know their place.
//!
//! Promises: member order is kept and then put in the order JavaScript would list it in (array
//! indices first), because XState's order of states and transitions is that order. Refuses:
//! repeated keys, `__proto__` (both mean something else in JavaScript) and nesting beyond
//! [`limits::JSON_DEPTH`]. Numbers are refused where they are used, in [`Doc::to_value`].

use crate::cel::Names;
use crate::limits;
use crate::quote::{cut, quote};
use crate::step::Fault;
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use std::collections::BTreeSet;
use std::fmt;

/// A JSON value of a definition.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Doc {
    Null,
    Bool(bool),
    Int(i64),
    /// A number that isn't an integer within +-(2^53-1), as serde_json prints it.
    BadNumber(String),
    Str(String),
    List(Vec<Doc>),
    Map(Vec<(String, Doc)>),
}

impl Doc {
    pub(crate) fn parse(text: &str) -> Result<Self, Fault> {
        if text.len() > limits::DEFINITION_BYTES {
            return Err(Fault {
                path: String::new(),
                message: format!(
                    "a definition has at most {} bytes, this one has {}",
                    limits::DEFINITION_BYTES,
                    text.len()
                ),
            });
        }
        let doc: Self = serde_json::from_str(text)
            .map_err(|e| Fault { path: String::new(), message: format!("not the JSON of a machine: {e}") })?;
        if doc.depth() > limits::JSON_DEPTH {
            return Err(Fault {
                path: String::new(),
                message: format!("JSON nested deeper than {}", limits::JSON_DEPTH),
            });
        }
        Ok(doc)
    }

    fn depth(&self) -> usize {
        match self {
            Self::List(items) => 1 + items.iter().map(Self::depth).max().unwrap_or(0),
            Self::Map(members) => 1 + members.iter().map(|(_, v)| v.depth()).max().unwrap_or(0),
            _ => 0,
        }
    }

    pub(crate) fn get(&self, key: &str) -> Option<&Self> {
        match self {
            Self::Map(members) => members.iter().find(|(k, _)| k == key).map(|(_, v)| v),
            _ => None,
        }
    }

    pub(crate) fn members(&self) -> &[(String, Self)] {
        match self {
            Self::Map(members) => members,
            _ => &[],
        }
    }

    pub(crate) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "a boolean",
            Self::Int(_) => "an integer",
            Self::BadNumber(_) => "a number that isn't an integer within +-(2^53-1)",
            Self::Str(_) => "a string",
            Self::List(_) => "a list",
            Self::Map(_) => "an object",
        }
    }

    /// The plain JSON value.
    pub(crate) fn to_value(&self, at: &Place, faults: &mut Faults) -> Value {
        match self {
            Self::Null => Value::Null,
            Self::Bool(b) => Value::Bool(*b),
            Self::Int(n) => Value::from(*n),
            Self::BadNumber(n) => {
                faults.add(at, format!("numbers are integers within +-(2^53-1), got {n}"));
                Value::Null
            }
            Self::Str(s) => Value::String(s.clone()),
            Self::List(items) => Value::Array(
                items.iter().enumerate().map(|(i, d)| d.to_value(&at.index(i), faults)).collect(),
            ),
            Self::Map(members) => Value::Object(
                members
                    .iter()
                    .map(|(k, d)| (k.clone(), d.to_value(&at.key(k), faults)))
                    .collect::<Map<_, _>>(),
            ),
        }
    }
}

impl Doc {
    /// The plain JSON value, numbers of any kind: for what never enters the state.
    pub(crate) fn to_loose(&self) -> Value {
        match self {
            Self::Null => Value::Null,
            Self::Bool(b) => Value::Bool(*b),
            Self::Int(n) => Value::from(*n),
            Self::BadNumber(n) => n.parse::<f64>().map_or(Value::Null, Value::from),
            Self::Str(s) => Value::String(s.clone()),
            Self::List(items) => Value::Array(items.iter().map(Self::to_loose).collect()),
            Self::Map(members) => {
                Value::Object(members.iter().map(|(k, d)| (k.clone(), d.to_loose())).collect::<Map<_, _>>())
            }
        }
    }
}

/// A JSON pointer under construction (RFC 6901).
#[derive(Clone, Debug, Default)]
pub(crate) struct Place(String);

impl Place {
    pub(crate) fn key(&self, key: &str) -> Self {
        let short: String = key.chars().take(limits::NAME_BYTES).collect();
        Self(format!("{}/{}", self.0, short.replace('~', "~0").replace('/', "~1")))
    }

    pub(crate) fn index(&self, i: usize) -> Self {
        Self(format!("{}/{i}", self.0))
    }
}

/// What admission carries along: the faults found so far, at most [`limits::FAULTS`], and the names
/// that expressions may use.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    found: Vec<Fault>,
    pub(crate) names: Names,
}

impl Faults {
    pub(crate) fn add(&mut self, at: &Place, message: impl Into<String>) {
        if self.found.len() < limits::FAULTS {
            let most = limits::FAULT_BYTES;
            self.found.push(Fault { path: cut(at.0.clone(), most), message: cut(message.into(), most) });
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    pub(crate) fn into_vec(self) -> Vec<Fault> {
        self.found
    }
}

/// JavaScript lists keys that are array indices first, by number, then the others as written.
fn array_index(key: &str) -> Option<u32> {
    let n: u32 = key.parse().ok()?;
    (n != u32::MAX && n.to_string() == key).then_some(n)
}

/// Sorts the way JavaScript would list the keys; stable for the others.
pub(crate) fn js_order<T>(items: &mut [T], key: impl Fn(&T) -> &str) {
    items.sort_by_key(|item| array_index(key(item)).map_or((1, 0), |n| (0, n)));
}

/// The integer, if a JSON number is one within +-(2^53-1) and is written as one.
pub(crate) fn integer(n: &serde_json::Number) -> Option<i64> {
    // Not `abs`: the smallest integer has none, and a wrapped one would pass.
    n.as_i64().filter(|n| n.unsigned_abs() <= limits::INTEGER.unsigned_abs())
}

/// Why a value may not enter a context or an event: a bad number, or nesting. `None` if it may.
pub(crate) fn unfit(value: &Value, depth: usize) -> Option<String> {
    if depth > limits::JSON_DEPTH {
        return Some(format!("nested deeper than {}", limits::JSON_DEPTH));
    }
    match value {
        Value::Number(n) if integer(n).is_none() => {
            Some(format!("numbers are integers within +-(2^53-1), got {n}"))
        }
        Value::Array(items) => items.iter().find_map(|v| unfit(v, depth + 1)),
        Value::Object(map) => map.values().find_map(|v| unfit(v, depth + 1)),
        _ => None,
    }
}

/// Bytes of a value, near enough to its RFC 8785 form to bound growth within a step.
pub(crate) fn size(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) => 5,
        Value::Number(_) => 17,
        Value::String(s) => s.len() + 2,
        Value::Array(items) => 2 + items.iter().map(|v| 1 + size(v)).sum::<usize>(),
        Value::Object(map) => 2 + map.iter().map(|(k, v)| k.len() + 4 + size(v)).sum::<usize>(),
    }
}

/// Bytes of a value's RFC 8785 form, without making it: numbers are integers here.
pub(crate) fn canonical_len(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(true) => 4,
        Value::Bool(false) => 5,
        Value::Number(n) => {
            let n = n.as_i64().unwrap_or(i64::MIN);
            usize::from(n < 0) + n.unsigned_abs().checked_ilog10().unwrap_or(0) as usize + 1
        }
        Value::String(s) => text_len(s),
        Value::Array(items) => {
            2 + items.len().saturating_sub(1) + items.iter().map(canonical_len).sum::<usize>()
        }
        Value::Object(map) => {
            let members = map.iter().map(|(k, v)| text_len(k) + 1 + canonical_len(v)).sum::<usize>();
            2 + map.len().saturating_sub(1) + members
        }
    }
}

/// Bytes of a string's RFC 8785 form.
pub(crate) fn text_len(text: &str) -> usize {
    let special = |b: &u8| matches!(b, b'"' | b'\\' | 0..0x20);
    // Nearly every string has none; counting them all at once is what a processor does well.
    if text.as_bytes().iter().filter(|b| special(b)).count() == 0 {
        return 2 + text.len();
    }
    let byte = |b: u8| match b {
        b'"' | b'\\' | 0x08 | 0x09 | 0x0a | 0x0c | 0x0d => 2,
        0..0x20 => 6,
        _ => 1,
    };
    2 + text.bytes().map(byte).sum::<usize>()
}

impl<'de> Deserialize<'de> for Doc {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct DocVisitor;
        impl<'de> Visitor<'de> for DocVisitor {
            type Value = Doc;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("JSON")
            }
            fn visit_unit<E>(self) -> Result<Doc, E> {
                Ok(Doc::Null)
            }
            fn visit_bool<E>(self, v: bool) -> Result<Doc, E> {
                Ok(Doc::Bool(v))
            }
            fn visit_i64<E>(self, v: i64) -> Result<Doc, E> {
                Ok(if v.unsigned_abs() <= limits::INTEGER.unsigned_abs() {
                    Doc::Int(v)
                } else {
                    Doc::BadNumber(v.to_string())
                })
            }
            fn visit_u64<E: de::Error>(self, v: u64) -> Result<Doc, E> {
                match i64::try_from(v) {
                    Ok(v) => self.visit_i64(v),
                    Err(_) => Ok(Doc::BadNumber(v.to_string())),
                }
            }
            fn visit_f64<E>(self, v: f64) -> Result<Doc, E> {
                Ok(Doc::BadNumber(format!("{v:?}")))
            }
            fn visit_str<E>(self, v: &str) -> Result<Doc, E> {
                Ok(Doc::Str(v.to_owned()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Doc, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element()? {
                    items.push(item);
                }
                Ok(Doc::List(items))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Doc, A::Error> {
                let mut members: Vec<(String, Doc)> = Vec::new();
                let mut seen = BTreeSet::new();
                while let Some((key, value)) = map.next_entry::<String, Doc>()? {
                    if key == "__proto__" || !seen.insert(key.clone()) {
                        return Err(de::Error::custom(format!("repeated or reserved key {}", quote(&key))));
                    }
                    members.push((key, value));
                }
                js_order(&mut members, |(k, _)| k);
                Ok(Doc::Map(members))
            }
        }
        d.deserialize_any(DocVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            (-limits::INTEGER..=limits::INTEGER).prop_map(Value::from),
            (-11..=11_i64).prop_map(Value::from),
            any::<String>().prop_map(Value::from),
            "[\\x00-\\x1f\"\\\\\u{7f}\u{e9}]{0,6}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(any::<String>(), inner, 0..4)
                    .prop_map(|m| Value::Object(m.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn canonical_bytes_and_their_length_are_those_of_rfc_8785(value in value()) {
            let bytes = serde_json_canonicalizer::to_vec(&value).unwrap();
            prop_assert_eq!(canonical_len(&value), bytes.len());
            prop_assert_eq!(crate::state::canonical(&value), bytes);
        }
    }
}
