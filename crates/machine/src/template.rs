//! JSON with holes: any value `{"cel": "expr"}` is replaced by what the expression gives.
//!
//! Used for the params of built-in actions, for outputs and for delays (EVENTS 1). Promises: the
//! result holds only integers within +-(2^53-1) and is nested at most [`limits::JSON_DEPTH`].

use crate::cel::{self, Expr, Failure, Meter, Scope, Type};
use crate::json::{self, Doc, Faults, Place};
use crate::limits;
use serde_json::{Map, Value};

/// An admitted template.
#[derive(Clone, Debug)]
pub(crate) enum Template {
    /// No holes below.
    Plain(Value),
    Cel(Expr),
    List(Vec<Template>),
    Map(Vec<(String, Template)>),
}

impl Template {
    pub(crate) fn admit(doc: &Doc, at: &Place, faults: &mut Faults) -> Self {
        if let Some(source) = doc.get("cel") {
            if doc.members().len() != 1 {
                faults.add(at, "an object with `cel` has no other member");
            }
            let Doc::Str(source) = source else {
                faults.add(&at.key("cel"), format!("expected an expression, got {}", source.kind()));
                return Self::Plain(Value::Null);
            };
            return match cel::compile(source, &faults.names, Type::Any) {
                Ok(expr) => Self::Cel(expr),
                Err(e) => {
                    faults.add(&at.key("cel"), e);
                    Self::Plain(Value::Null)
                }
            };
        }
        match doc {
            Doc::List(items) => {
                let parts: Vec<_> =
                    items.iter().enumerate().map(|(i, d)| Self::admit(d, &at.index(i), faults)).collect();
                Self::list(parts)
            }
            Doc::Map(members) => {
                let parts: Vec<_> =
                    members.iter().map(|(k, d)| (k.clone(), Self::admit(d, &at.key(k), faults))).collect();
                Self::map(parts)
            }
            plain => Self::Plain(plain.to_value(at, faults)),
        }
    }

    /// A list without holes is plain.
    fn list(parts: Vec<Self>) -> Self {
        if parts.iter().all(|part| matches!(part, Self::Plain(_))) {
            let values = parts.into_iter().filter_map(Self::into_plain);
            return Self::Plain(Value::Array(values.collect()));
        }
        Self::List(parts)
    }

    fn map(parts: Vec<(String, Self)>) -> Self {
        if parts.iter().all(|(_, part)| matches!(part, Self::Plain(_))) {
            let members = parts.into_iter().filter_map(|(key, part)| Some((key, part.into_plain()?)));
            return Self::Plain(Value::Object(members.collect()));
        }
        Self::Map(parts)
    }

    fn into_plain(self) -> Option<Value> {
        match self {
            Self::Plain(value) => Some(value),
            _ => None,
        }
    }

    /// The value, if it is plain and may always be filled in.
    pub(crate) fn as_value(&self) -> Option<&Value> {
        match self {
            Self::Plain(value)
                if json::size(value) <= limits::EFFECT_BYTES && json::unfit(value, 0).is_none() =>
            {
                Some(value)
            }
            _ => None,
        }
    }

    /// The text, if it is a plain string.
    pub(crate) fn as_text(&self) -> Option<&str> {
        match self {
            Self::Plain(Value::String(s)) => Some(s),
            _ => None,
        }
    }

    /// Fills the holes.
    pub(crate) fn fill(&self, scope: Scope<'_>, meter: &mut Meter) -> Result<Value, Failure> {
        let mut size = 0;
        let value = self.fill_part(scope, meter, &mut size)?;
        match json::unfit(&value, 0) {
            Some(why) => Err(Failure::Error(why)),
            None => Ok(value),
        }
    }

    fn fill_part(&self, scope: Scope<'_>, meter: &mut Meter, size: &mut usize) -> Result<Value, Failure> {
        let value = match self {
            Self::Plain(value) => value.clone(),
            Self::Cel(expr) => cel::eval(expr, scope, meter)?,
            Self::List(parts) => {
                return Ok(Value::Array(
                    parts.iter().map(|p| p.fill_part(scope, meter, size)).collect::<Result<_, _>>()?,
                ));
            }
            Self::Map(parts) => {
                return Ok(Value::Object(
                    parts
                        .iter()
                        .map(|(k, p)| Ok((k.clone(), p.fill_part(scope, meter, size)?)))
                        .collect::<Result<Map<_, _>, Failure>>()?,
                ));
            }
        };
        *size += json::size(&value);
        if *size > limits::EFFECT_BYTES {
            return Err(Failure::Cost(format!("a filled value has at most {} bytes", limits::EFFECT_BYTES)));
        }
        Ok(value)
    }
}
