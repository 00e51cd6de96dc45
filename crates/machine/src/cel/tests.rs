//! The evaluator against the `cel` crate's interpreter, and its meter.

use super::{Expr, Failure, Happening, Look, Meter, Names, Scope, Type, eval, parse};
use crate::context::Context;
use crate::limits;
use proptest::prelude::*;
use serde_json::{Map, Value, json};
use std::borrow::Cow;
use std::collections::HashMap;

fn context() -> Map<String, Value> {
    let context = json!({
        "n": 3, "m": -7, "zero": 0, "s": "abc", "t": "b\u{e9}", "yes": true, "no": false,
        "none": null, "xs": [1, 2, 3, 4], "ys": ["abc", "x"], "empty": [],
        "map": {"k": 1, "abc": "v", "inner": {"xs": [1]}},
    });
    context.as_object().unwrap().clone()
}

/// One record, `votes`, with the key `k`.
#[derive(Debug)]
struct Votes;

impl Look for Votes {
    fn get(&self, record: &str, key: &str) -> Option<Value> {
        ((record, key) == ("votes", "k")).then(|| json!({"by": 7}))
    }
    fn count(&self, _: &str) -> u64 {
        1
    }
}

fn names() -> Names {
    let context = context().into_iter().map(|(k, _)| k).chain(["missing".to_owned()]).collect();
    Names { context, records: ["votes".to_owned()].into(), ..Names::default() }
}

/// Without the check of types, which refuses what the crate only finds out when it runs.
fn compile(source: &str) -> Result<Expr, String> {
    parse(source, &names())
}

fn checked(source: &str) -> Result<(), String> {
    super::compile(source, &names(), Type::Any).map(drop)
}

fn ours(source: &str) -> Result<Value, Failure> {
    let expr = compile(source).map_err(Failure::Error)?;
    let (context, data, state) = (Context::from_map(context()), json!({"a": 1}), json!(["m.a"]));
    let scope = Scope {
        context: &context,
        event: &happening(&data),
        now: 1_700_000_000,
        state: &state,
        input: &Value::Null,
        records: &Votes,
    };
    eval(&expr, scope, &mut Meter::new())
}

fn happening(data: &Value) -> Happening<'_> {
    Happening {
        kind: "GO".into(),
        data: Cow::Borrowed(data),
        pubkey: None,
        id: None,
        created_at: None,
        height: Some(7),
    }
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
    scope.add_variable_from_value(
        "event",
        to_cel(&json!({"type": "GO", "data": {"a": 1}, "pubkey": null, "id": null, "created_at": null})),
    );
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
        "double(1)",
        "uint(1)",
        "timestamp('x')",
        "duration('1')",
        "input",
        "records",
        "records.votes",
        "records.other.has('k')",
        "records.votes.put('k')",
        "records.votes.has()",
        "context.nowhere",
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
    let (context, data, state) =
        (Context::from_map(context.as_object().unwrap().clone()), json!(null), json!([]));
    let scope = Scope {
        context: &context,
        event: &happening(&data),
        now: 0,
        state: &state,
        input: &Value::Null,
        records: &Votes,
    };
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

#[test]
fn functions_say_what_the_standards_say() {
    let key = "7e7e9c42a91bfef19fa929e5fda1b72e0ebc1a4c1141673e2794234d86addf4e";
    for (source, expected) in [
        (
            "hex.encode(sha256('abc'))",
            json!("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
        ),
        ("hex.encode(sha256(b'abc')) == hex.encode(sha256(hex.decode('616263')))", json!(true)),
        ("hex.encode(sha256(''))", json!("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")),
        ("hex.encode(hex.decode('00fF'))", json!("00ff")),
        ("base64.encode(bytes('hello'))", json!("aGVsbG8=")),
        ("base64.encode(base64.decode('aGVsbG8='))", json!("aGVsbG8=")),
        ("size(b'\\x00\\x01' + bytes('\u{e9}'))", json!(4)),
        // NIP-19's own example.
        ("npub.decode('npub10elfcs4fr0l0r8af98jlmgdh9c8tcxjvz9qkw038js35mp4dma8qzvjptg')", json!(key)),
        (
            "npub.encode(npub.decode('npub10elfcs4fr0l0r8af98jlmgdh9c8tcxjvz9qkw038js35mp4dma8qzvjptg'))",
            json!("npub10elfcs4fr0l0r8af98jlmgdh9c8tcxjvz9qkw038js35mp4dma8qzvjptg"),
        ),
        ("timestamp('1970-01-01T00:00:00Z')", json!(0)),
        ("timestamp('2000-02-29T23:59:59Z')", json!(951_868_799)),
        ("timestamp('2027-01-15T09:00:00+01:00')", json!(1_800_000_000)),
        ("timestamp('1969-12-31T23:00:00-01:00')", json!(0)),
        ("now < timestamp('2027-01-15T08:00:00Z') && now + duration('1h30m') > now", json!(true)),
        ("duration('1d2h3m4s')", json!(93_784)),
        ("duration('-90s')", json!(-90)),
        ("context.xs.count(x, x > 2) >= 2", json!(true)),
        ("['a', 'b', 'a'].distinct()", json!(["a", "b"])),
        ("records.votes.has('k') && !records.votes.has('x')", json!(true)),
        ("records.votes.get('k').by + records.votes.count()", json!(8)),
    ] {
        checked(source).unwrap_or_else(|e| panic!("{source}: {e}"));
        assert_eq!(ours(source).unwrap(), expected, "{source}");
    }
    for source in [
        "hex.decode('0')",
        "hex.decode('zz')",
        "base64.decode('!')",
        "npub.decode('nsec1')",
        "npub.encode('aa')",
        "timestamp('2027-02-29T00:00:00Z')",
        "timestamp('2027-01-01')",
        "duration('1m1m')",
        "duration('')",
        "schnorr.verify('aa', 'bb', 'cc')",
        "records.votes.get('x')",
        "sha256('a')",
        "b'a'",
    ] {
        let run = ours(source);
        assert!(matches!(run, Err(Failure::Error(_))), "{source}: {run:?}");
    }
}

/// BIP340's test vectors 1 and 2 among others: a true signature, a wrong message, a wrong key.
#[test]
fn signatures_are_verified() {
    let key = "dff1d77f2a671c5f36183726db2341be58feae1da2deced843240f7b502ba659";
    let message = "243f6a8885a308d313198a2e03707344a4093822299f31d0082efa98ec4e6c89";
    let signature = "6896bd60eeae296db48a229ff71dfe071bde413e6d43f917dc8dcf8c78de33418906d11ac976abccb20b091292bff4ea897efcb639ea871cfa95f6de339e4b0a";
    let run = |k: &str, m: &str, s: &str| ours(&format!("schnorr.verify('{k}', hex.decode('{m}'), '{s}')"));
    assert_eq!(run(key, message, signature), Ok(json!(true)));
    assert_eq!(run(key, &message.replace('2', "3"), signature), Ok(json!(false)));
    assert_eq!(run(message, message, signature), Ok(json!(false)));
    assert_eq!(run(&"f".repeat(64), message, signature), Ok(json!(false)));
    // Vectors 15 and 16: BIP340 signs messages of any length, none included.
    let key = "778caa53b4393ac467774d09497a87224bf9fab6f6e68b23086497324d6fd117";
    let empty = "71535db165ecd9fbbc046e5ffaea61186bb6ad436732fccc25291a55895464cf6069ce26bf03466228f19a3a62db8a649f2d560fac652827d1af0574e427ab63";
    let short = "08a20a0afef64124649232e0693c583ab1b9934ae63b4c3511f3ae1134c6a303ea3173bfea6683bd101fa5aa5dbc1996fe7cacfc5a577d33ec14564cec2bacbf";
    assert_eq!(run(key, "", empty), Ok(json!(true)));
    assert_eq!(run(key, "11", short), Ok(json!(true)));
    assert_eq!(run(key, "12", short), Ok(json!(false)));
    assert_eq!(ours(&format!("schnorr.verify('{key}', '11', '{short}')")), Ok(json!(true)));
    let text = ours(&format!("schnorr.verify('{key}', 'no hex', '{short}')"));
    assert!(matches!(text, Err(Failure::Error(why)) if why.ends_with("a message is bytes or hex")));
}

#[test]
fn known_wrong_types_are_refused_with_their_place() {
    for (source, place) in [
        ("1 + 'a'", "at 1:3: no + of int and string"),
        ("true && (now == 1 || 'x' < 2)", "at 1:26: no order of string and int"),
        ("size(5)", "at 1:5: expected string or bytes or list or map, got int"),
        ("event.type + 1 == 'a'", "at 1:12: no + of string and int"),
        ("context.xs.exists(x, x + 1)", "at 1:18: expected bool, got int"),
        ("\n  now.a", "at 2:6: expected map, got int"),
        ("now ? 1 : 2", "at 1:5: expected bool, got int"),
        ("sha256(5)", "at 1:7: expected string or bytes, got int"),
        ("sha256('a')", "bytes can't be kept: use hex.encode or base64.encode"),
        ("'\u{e9}' == context.nowhere", "at 1:15: unknown name `context.nowhere`: the context never has it"),
    ] {
        assert_eq!(checked(source).unwrap_err(), place, "{source}");
    }
    for source in ["context.n + 'a'", "context.map.k ? 1 : 2", "event.data.a + 1", "has(context.nowhere)"] {
        assert!(checked(source).is_ok(), "{source}");
    }
    let guard = |source: &str| super::compile(source, &names(), Type::Bool).map(drop);
    assert_eq!(guard("context.n + 1").unwrap_err(), "expected bool, got int");
    assert!(guard("context.yes").is_ok());
}

#[test]
fn errors_say_where() {
    for (source, place) in [
        ("context.n + context.s", "at 1:11: "),
        ("true && context.map.nowhere == 1", "at 1:20: no such key"),
        ("context.xs[9]", "at 1:11: no list element 9"),
        ("9007199254740991 * 9007199254740991", "at 1:18: integer overflow"),
        ("context.xs.map(x, 1 / (x - x))", "at 1:21: integer overflow or division by zero"),
    ] {
        let Err(Failure::Error(why)) = ours(source) else { panic!("{source}") };
        assert!(why.starts_with(place), "{source}: {why}");
    }
}

#[test]
fn functions_pay_for_themselves() {
    let verify = "schnorr.verify(context.s, context.s, context.s)";
    // Wrong arguments cost as much as right ones: the charge comes first.
    assert!(matches!(
        ours(&format!("context.xs.map(x, context.xs.map(y, context.xs.map(z, {verify} || true)))")),
        Err(Failure::Error(_) | Failure::Cost(_))
    ));
    let many = "context.xs.exists(a, context.xs.exists(b, hex.encode(sha256(context.s)) == ''))";
    assert!(matches!(with_list(many, 100), Err(Failure::Cost(_))));
    assert!(matches!(with_list("context.xs.distinct()", 1000), Err(Failure::Cost(_))));
    assert!(matches!(with_list("hex.encode(bytes(context.s))", 0), Err(Failure::Cost(_))));
}

/// A definition says in its own words why it refuses, and nothing but the other side of `||` or `&&` makes up for it.
#[test]
fn a_refusal_is_a_reason_and_not_a_value() {
    let reason = |source: &str| match ours(source) {
        Err(Failure::Refused(code)) => code.text().to_owned(),
        other => format!("{other:?}"),
    };
    assert_eq!(reason("context.n == 4 || refuse('not_four')"), "machine.not_four");
    assert_eq!(reason("context.map.none == 4 || refuse('not_four')"), "machine.not_four");
    assert_eq!(reason("[1].all(x, x == 2 || refuse('two'))"), "machine.two");
    assert_eq!(ours("context.n == 3 || refuse('not_three')"), Ok(json!(true)));
    assert_eq!(ours("refuse('x') || true"), Ok(json!(true)));
    assert_eq!(ours("event.height"), Ok(json!(7)));
    for wrong in ["refuse()", "refuse('')", "refuse('A')", "refuse('a.b')", "refuse(context.s)", "refuse(1)"]
    {
        assert!(checked(wrong).is_err_and(|why| why.contains("refuse() takes a code")), "{wrong}");
    }
    let (most, more) = ("a".repeat(limits::REFUSAL_BYTES), "a".repeat(limits::REFUSAL_BYTES + 1));
    assert_eq!(reason(&format!("refuse('{most}')")), format!("machine.{most}"));
    assert!(checked(&format!("refuse('{more}')")).is_err());
    assert!(checked("refuse('a') + 1").is_err());
}
