//! JSON that means the same everywhere: bounded depth, integers within +-(2^53-1), RFC 8785 bytes.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::limits::{JSON_DEPTH, MAX_INTEGER};
use crate::quote::quoted;

/// Why a text isn't JSON that every custodian reads alike.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JsonError {
    /// Not JSON, or not of the expected shape.
    #[error("not valid JSON: {0}")]
    Syntax(String),
    /// Nested deeper than [`JSON_DEPTH`].
    #[error("JSON is nested deeper than {JSON_DEPTH} levels")]
    TooDeep,
    /// A number that isn't an integer within +-(2^53-1).
    #[error("number {0} isn't an integer within +-(2^53-1); write it as a string")]
    Number(String),
}

/// Reads JSON whose numbers are all integers within +-(2^53-1) and whose nesting is bounded.
pub fn parse(text: &str) -> Result<Value, JsonError> {
    check_depth(text)?;
    let value: Value = serde_json::from_str(text).map_err(|error| JsonError::Syntax(quoted(error)))?;
    check_numbers(&value)?;
    Ok(value)
}

/// Counts brackets before any parser sees the text: a hostile nesting costs one pass and no stack.
fn check_depth(text: &str) -> Result<(), JsonError> {
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => {
                depth += 1;
                if depth > JSON_DEPTH {
                    return Err(JsonError::TooDeep);
                }
            }
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Ok(())
}

/// Refuses floats and integers that a double can't hold exactly.
pub fn check_numbers(value: &Value) -> Result<(), JsonError> {
    match value {
        Value::Number(number) => match number.as_i64() {
            Some(i) if (-MAX_INTEGER..=MAX_INTEGER).contains(&i) => Ok(()),
            _ => Err(JsonError::Number(quoted(number))),
        },
        Value::Array(items) => items.iter().try_for_each(check_numbers),
        Value::Object(fields) => fields.values().try_for_each(check_numbers),
        _ => Ok(()),
    }
}

/// The RFC 8785 text of a value: sorted keys, no spaces, one spelling of each string.
pub fn canonical<T: Serialize>(value: &T) -> Result<String, JsonError> {
    serde_json_canonicalizer::to_string(value).map_err(|error| JsonError::Syntax(quoted(error)))
}

/// Reads a typed value through [`parse`], so that its bounds hold for it too.
pub fn typed<T: DeserializeOwned>(text: &str) -> Result<T, JsonError> {
    serde_json::from_value(parse(text)?).map_err(|error| JsonError::Syntax(quoted(error)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_two_programs_read_differently_are_refused() {
        for text in ["1.5", "9007199254740992", "-9007199254740992", "1e3", "[2.0]"] {
            assert!(matches!(parse(text), Err(JsonError::Number(_))), "{text}");
        }
        for text in ["9007199254740991", "-9007199254740991", "0"] {
            assert!(parse(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn depth_is_bounded_before_parsing() {
        let deep = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert!(parse(&deep(JSON_DEPTH)).is_ok());
        assert_eq!(parse(&deep(JSON_DEPTH + 1)), Err(JsonError::TooDeep));
        assert_eq!(parse(&deep(1_000_000)), Err(JsonError::TooDeep));
        assert!(parse(r#""[[[[\"[[[""#).is_ok());
    }

    #[test]
    fn canonical_sorts_keys() {
        let value = parse(r#"{"b": 1, "a": "\u00e9"}"#).unwrap();
        assert_eq!(canonical(&value).unwrap(), "{\"a\":\"\u{e9}\",\"b\":1}");
    }
}
