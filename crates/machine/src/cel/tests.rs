//! The evaluator against the `cel` crate's interpreter, and its meter.

use super::{Failure, Meter, Scope, compile, eval};
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use std::collections::HashMap;

fn context() -> Map<String, Value> {
    let context = json!({
        "n": 3, "m": -7, "zero": 0, "s": "abc", "t": "b\u{e9}", "yes": true, "no": false,
        "none": null, "xs": [1, 2, 3, 4], "ys": ["abc", "x"], "empty": [],
        "map": {"k": 1, "abc": "v", "inner": {"xs": [1]}},
    });
    context.as_object().unwrap().clone()
}

fn ours(source: &str) -> Result<Value, Failure> {
    let expr = compile(source).map_err(Failure::Error)?;
    let (context, event, state) = (context(), json!({"type": "GO", "data": {"a": 1}}), json!(["m.a"]));
    let scope = Scope { context: &context, event: &event, now: 1_700_000_000, state: &state };
    eval(&expr, scope, &mut Meter::new())
}

fn to_cel(value: &Value) -> cel::Value {
    match value {
        Value::Null => cel::Value::Null,
        Value::Bool(b) => (*b).into(),
        Value::Number(n) => cel::Value::Int(n.as_i64().unwrap()),
        Value::String(s) => s.as_str().into(),
        Value::Array(items) => items.iter().map(to_cel).collect::<Vec<_>>().into(),
        Value::Object(map) => {
            map.iter().map(|(k, v)| (k.as_str(), to_cel(v))).collect::<HashMap<_, _>>().into()
        }
    }
}

fn from_cel(value: &cel::Value) -> Value {
    match value {
        cel::Value::Null => Value::Null,
        cel::Value::Bool(b) => json!(b),
        cel::Value::Int(n) => json!(n),
        cel::Value::String(s) => json!(**s),
        cel::Value::List(items) => items.iter().map(from_cel).collect(),
        cel::Value::Map(map) => {
            Value::Object(map.map.iter().map(|(k, v)| (k.to_string(), from_cel(v))).collect())
        }
        other => json!(format!("{other:?}")),
    }
}

/// `None` for an error.
fn theirs(source: &str) -> Option<Value> {
    let program = cel::Program::compile(source).unwrap();
    let mut scope = cel::Context::default();
    scope.add_variable_from_value("context", to_cel(&Value::Object(context())));
    scope.add_variable_from_value("event", to_cel(&json!({"type": "GO", "data": {"a": 1}})));
    scope.add_variable_from_value("now", cel::Value::Int(1_700_000_000));
    scope.add_variable_from_value("state", to_cel(&json!(["m.a"])));
    program.execute(&scope).ok().map(|v| from_cel(&v))
}

fn leaf() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        "1",
        "2",
        "-3",
        "0",
        "9007199254740991",
        "'abc'",
        "'b'",
        "\"\"",
        "true",
        "false",
        "null",
        "context.n",
        "context.m",
        "context.zero",
        "context.s",
        "context.t",
        "context.yes",
        "context.no",
        "context.none",
        "context.xs",
        "context.ys",
        "context.empty",
        "context.map",
        "context.missing",
        "context.map.k",
        "context['n']",
        "event.type",
        "event.data.a",
        "now",
        "state",
        "[1, 'a']",
        "{'k': 1}",
        "x",
    ])
    .prop_map(str::to_owned)
}

fn expression() -> impl Strategy<Value = String> {
    let tree = leaf().prop_recursive(4, 24, 3, |e| {
        let op = prop::sample::select(vec![
            "==", "!=", "<", "<=", ">", ">=", "&&", "||", "+", "-", "*", "/", "%", "in",
        ]);
        let call = prop::sample::select(vec!["contains", "startsWith", "endsWith"]);
        let fold = prop::sample::select(vec!["all", "exists", "exists_one", "filter", "map"]);
        prop_oneof![
            4 => (e.clone(), op, e.clone()).prop_map(|(a, op, b)| format!("({a} {op} {b})")),
            1 => (e.clone(), e.clone(), e.clone()).prop_map(|(a, b, c)| format!("({a} ? {b} : {c})")),
            1 => e.clone().prop_map(|a| format!("!({a})")),
            1 => e.clone().prop_map(|a| format!("-({a})")),
            1 => e.clone().prop_map(|a| format!("size({a})")),
            1 => e.clone().prop_map(|a| format!("string({a})")),
            1 => e.clone().prop_map(|a| format!("({a})[0]")),
            1 => e.clone().prop_map(|a| format!("has(({a}).k)")),
            1 => (e.clone(), call, e.clone()).prop_map(|(a, f, b)| format!("({a}).{f}({b})")),
            2 => (e.clone(), fold, e).prop_map(|(a, f, b)| format!("({a}).{f}(x, {b})")),
        ]
    });
    // The variable of the macros is bound outside as well, so that every leaf means something.
    tree.prop_map(|e| format!("[2].map(x, {e})"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn same_as_the_cel_crate(source in expression()) {
        // Only what both read can be compared; nesting and size limits are ours alone.
        if compile(&source).is_err() {
            return Ok(());
        }
        match ours(&source) {
            Err(Failure::Cost(_)) => {}
            ours => prop_assert_eq!(ours.ok(), theirs(&source), "{}", source),
        }
    }

    #[test]
    fn hostile_sources_end(source in "[-!()\\[\\]{}.,?:|&<>=+*/%'\"a-c1-3 \\\\`@#\u{e9}]{0,80}") {
        let _ = ours(&source);
    }
}

#[test]
fn deep_sources_are_refused_not_overflown() {
    for (open, close) in [
        ("(", ")"),
        ("[", "]"),
        ("!", ""),
        ("-", ""),
        ("a.", "a"),
        ("1+", "1"),
        ("{'a':", "}"),
        ("a?b:", "c"),
        ("a||", "a"),
        ("size(", ")"),
        ("a[", "]"),
        ("a.map(x,", ")"),
    ] {
        for n in [10, 60, 99, 199, 400, 5_000] {
            let source = format!("{}{}{}", open.repeat(n), "1", close.repeat(n));
            let _ = ours(&source);
        }
    }
    assert!(compile(&"(".repeat(300)).unwrap_err().contains("operators"));
    assert!(compile(&format!("{}1", "1+".repeat(90))).unwrap_err().contains("depth"));
    assert!(compile(&" ".repeat(2000)).unwrap_err().contains("bytes"));
}

#[test]
fn what_differs_between_custodians_is_refused() {
    for source in [
        "1.5",
        "1u",
        "b'x'",
        "double(1)",
        "uint(1)",
        "bytes('a')",
        "timestamp('x')",
        "duration('1s')",
        "'a'.matches('a')",
        "type(1)",
        "dyn(1)",
        "9007199254740992",
        "-9007199254740992",
        "0x7fffffffffffffff",
        "a",
        "context.?a",
        "event.kind",
        "foo()",
        "context.xs.foo()",
        "now()",
        "optional.of(1)",
        "google.protobuf.Duration{}",
        "context.xs.all(x.y, true)",
        "has(context)",
        "math.greatest(1, 2)",
        "context.xs.map(a, context.xs.map(b, context.xs.map(c, context.xs.map(d, 1))))",
    ] {
        assert!(compile(source).is_err(), "{source} was admitted");
    }
    assert!(compile("9007199254740991 + -9007199254740991").is_ok());
}

fn with_list(source: &str, n: i64) -> Result<Value, Failure> {
    let context = json!({"xs": (0..n).collect::<Vec<_>>(), "s": "x".repeat(10_000)});
    let (event, state) = (json!({}), json!([]));
    let scope = Scope { context: context.as_object().unwrap(), event: &event, now: 0, state: &state };
    eval(&compile(source).unwrap(), scope, &mut Meter::new())
}

#[test]
fn cost_is_bounded() {
    // 1,000 x 1,000 comparisons took the cel crate 179 ms.
    let nested = "context.xs.all(a, context.xs.exists(b, a == b))";
    assert!(matches!(with_list(nested, 1000), Err(Failure::Cost(_))));
    assert_eq!(with_list(nested, 20).unwrap(), json!(true));
    assert_eq!(with_list("context.xs.exists(a, a == 999)", 1000).unwrap(), json!(true));
    for grows in [
        "[1].map(a,[a,a]).map(a,[a,a]).map(a,[a,a]).map(a,[a,a]).map(a,[a,a]).map(a,[a,a]).map(a,[a,a]).map(a,[a,a]).map(a,[a,a]).map(a,[a,a]).map(a,[a,a]).map(a,[a,a]).map(a,[a,a]).map(a,[a,a]).map(a,[a,a])",
        "context.s + context.s == '' || true",
        "context.s + context.s + context.s",
        "context.xs.map(a, context.s)",
        "context.xs.map(a, context.xs)",
        "context.xs.map(a, context.xs + context.xs)",
        "context.xs + context.xs + context.xs + context.xs + context.xs",
        "context.xs.map(a, context.s + 'x')",
        // What an expression costs can't be hidden behind a decided || or &&.
        "true && (context.xs.all(a, context.xs.exists(b, a == b)) || true)",
    ] {
        assert!(matches!(with_list(grows, 1000), Err(Failure::Cost(_))), "{grows}");
    }
}

#[test]
fn maps_are_walked_by_sorted_keys() {
    assert_eq!(ours("context.map.map(k, k)").unwrap(), json!(["abc", "inner", "k"]));
    assert_eq!(ours("{'z': 1, 'a': 2, 'm': 3}.map(k, k)").unwrap(), json!(["a", "m", "z"]));
}

#[test]
fn logic_absorbs_errors_only_where_cel_says() {
    assert_eq!(ours("context.missing || true").unwrap(), json!(true));
    assert_eq!(ours("context.missing && false").unwrap(), json!(false));
    assert!(ours("context.missing || false").is_err());
    assert!(ours("context.n == 3 && context.missing").is_err());
    assert_eq!(ours("context.xs.exists(x, 1 / (x - 1) == 1)").unwrap(), json!(true));
}
