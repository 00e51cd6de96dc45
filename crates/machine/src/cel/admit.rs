//! From source text to [`Expr`]: the allow-list, the names in scope, and the place of every fault.

use super::types::{self, Type};
use super::{At, Expr, Func, Macro, Op, Root, TextOp};
use crate::limits;
use crate::step::Code;
use cel::Env;
use cel::common::ast::{
    CallExpr, EntryExpr, Expr as Ast, IdedExpr, LiteralValue, SelectExpr, SourceInfo, operators,
};
use std::cell::Cell;
use std::collections::BTreeSet;

/// The names that a definition's expressions may use.
#[derive(Clone, Debug, Default)]
pub(crate) struct Names {
    /// Every key that the context can ever have: given at the start or assigned somewhere.
    pub(crate) context: BTreeSet<String>,
    /// The declared records.
    pub(crate) records: BTreeSet<String>,
    /// An expression of the initial context: `input` is in scope, `context` and `state` aren't.
    pub(crate) at_start: bool,
    /// Has any expression asked for `state`?
    pub(crate) uses_state: Cell<bool>,
}

/// Parses and admits an expression that must give a value of this type (anything: [`Type::Any`]).
///
/// # Errors
/// What is wrong with it and where, for a person.
pub(crate) fn compile(source: &str, names: &Names, wanted: Type) -> Result<Expr, String> {
    let expr = parse(source, names)?;
    types::check(&expr, wanted)?;
    Ok(expr)
}

/// The same without the check of types.
pub(crate) fn parse(source: &str, names: &Names) -> Result<Expr, String> {
    if source.len() > limits::EXPR_BYTES {
        return Err(format!(
            "an expression has at most {} bytes, this one has {}",
            limits::EXPR_BYTES,
            source.len()
        ));
    }
    // Counted on the raw text, strings included: cheap, and never below what the parser meets.
    let operators = source
        .bytes()
        .filter(|b| !b.is_ascii_alphanumeric() && !matches!(b, b' ' | b'_' | b'\'' | b'"' | b','))
        .count();
    if operators > limits::EXPR_OPERATORS {
        return Err(format!(
            "an expression has at most {} operators and brackets, this one has {operators}",
            limits::EXPR_OPERATORS
        ));
    }
    // Without macros the tree keeps `all`, `exists`, .. as the calls they are written as.
    let parser = Env::default().with_optional_support(false).parser();
    let (tree, info) = parser.parse_with_source_info(source).map_err(|e| {
        let first = e.errors.first().map(|e| format!("at {}:{}: {}", e.pos.0, e.pos.1, e.msg));
        format!("not CEL: {}", first.unwrap_or_default())
    })?;
    Admit { names, source, info: &info, vars: Vec::new(), nodes: 0 }.expr(&tree, 0)
}

struct Admit<'n> {
    names: &'n Names,
    source: &'n str,
    info: &'n SourceInfo,
    vars: Vec<String>,
    nodes: usize,
}

impl Admit<'_> {
    /// Where a node of the tree begins.
    fn at(&self, e: &IdedExpr) -> At {
        let start = self.info.offset_for(e.id).map_or(0, |(start, _)| start as usize);
        let (mut line, mut column) = (1, 1);
        for (_, c) in self.source.char_indices().take_while(|(i, _)| *i < start) {
            if c == '\n' {
                (line, column) = (line + 1, 1);
            } else {
                column += 1;
            }
        }
        At { line, column }
    }

    fn expr(&mut self, e: &IdedExpr, depth: usize) -> Result<Expr, String> {
        self.nodes += 1;
        if depth > limits::EXPR_DEPTH || self.nodes > limits::EXPR_NODES {
            return Err(format!(
                "an expression has at most {} nodes and depth {}",
                limits::EXPR_NODES,
                limits::EXPR_DEPTH
            ));
        }
        let made = self.node(e, depth + 1).map_err(|why| {
            // The innermost place is the one that helps.
            if why.starts_with("at ") { why } else { format!("{}: {why}", self.at(e)) }
        })?;
        Ok(match made {
            plain @ (Expr::Null
            | Expr::Bool(_)
            | Expr::Int(_)
            | Expr::Str(_)
            | Expr::Bytes(_)
            | Expr::Root(_)
            | Expr::Var(_)
            | Expr::List(_)) => plain,
            other => Expr::At(self.at(e), Box::new(other)),
        })
    }

    fn node(&mut self, e: &IdedExpr, depth: usize) -> Result<Expr, String> {
        match &e.expr {
            Ast::Literal(literal) => admit_literal(literal),
            Ast::Ident(name) => self.name(name),
            Ast::List(list) if list.optional_indices.is_empty() => {
                Ok(Expr::List(list.elements.iter().map(|e| self.expr(e, depth)).collect::<Result<_, _>>()?))
            }
            Ast::Map(map) => {
                let mut entries = Vec::new();
                for entry in &map.entries {
                    let EntryExpr::MapEntry(entry) = &entry.expr else {
                        return Err("not a map".to_owned());
                    };
                    if entry.optional {
                        return Err("optional values are not supported".to_owned());
                    }
                    entries.push((self.expr(&entry.key, depth)?, self.expr(&entry.value, depth)?));
                }
                Ok(Expr::Map(entries))
            }
            Ast::Select(select) if select.test => self.has(select, depth),
            Ast::Select(select) => {
                self.known_field(select)?;
                Ok(Expr::Field(Box::new(self.expr(&select.operand, depth)?), select.field.clone()))
            }
            Ast::Call(call) => self.call(call, depth),
            Ast::Unspecified | Ast::List(_) | Ast::Comprehension(_) | Ast::Struct(_) => {
                Err("structs and optional values are not supported".to_owned())
            }
        }
    }

    fn has(&mut self, select: &SelectExpr, depth: usize) -> Result<Expr, String> {
        Ok(Expr::Has(Box::new(self.expr(&select.operand, depth)?), select.field.clone()))
    }

    /// Is this expression the name itself, not a macro's variable?
    fn is_root(&self, e: &IdedExpr, root: &str) -> bool {
        matches!(&e.expr, Ast::Ident(name) if name == root) && !self.vars.iter().any(|v| v == root)
    }

    /// Fields of `event` and `context` are known before anything runs.
    fn known_field(&self, select: &SelectExpr) -> Result<(), String> {
        let field = select.field.as_str();
        if self.is_root(&select.operand, "event") && !EVENT_FIELDS.contains(&field) {
            return Err(format!("event has {}, not `{field}`", EVENT_FIELDS.join(", ")));
        }
        if self.is_root(&select.operand, "context")
            && !self.names.at_start
            && !self.names.context.contains(field)
        {
            return Err(format!("unknown name `context.{field}`: the context never has it"));
        }
        Ok(())
    }

    fn name(&self, name: &str) -> Result<Expr, String> {
        if let Some(i) = self.vars.iter().rev().position(|v| v == name) {
            return Ok(Expr::Var(i));
        }
        let start = self.names.at_start;
        Ok(Expr::Root(match name {
            "context" if !start => Root::Context,
            "state" if !start => {
                self.names.uses_state.set(true);
                Root::State
            }
            "input" if start => Root::Input,
            "event" => Root::Event,
            "now" => Root::Now,
            "records" => {
                return Err("records are used like `records.<name>.has(key)`, `.get(key)`, `.count()`".into());
            }
            _ => {
                let known =
                    if start { "input, event and now" } else { "context, event, now, state and records" };
                return Err(format!("unknown name `{name}`: {known} are in scope"));
            }
        }))
    }

    fn pair(&mut self, a: &IdedExpr, b: &IdedExpr, depth: usize) -> Result<Box<[Expr; 2]>, String> {
        Ok(Box::new([self.expr(a, depth)?, self.expr(b, depth)?]))
    }

    fn one(&mut self, a: &IdedExpr, depth: usize) -> Result<Box<Expr>, String> {
        Ok(Box::new(self.expr(a, depth)?))
    }

    fn call(&mut self, call: &CallExpr, depth: usize) -> Result<Expr, String> {
        if let Some(made) = self.function(call, depth)? {
            return Ok(made);
        }
        let name = call.func_name.as_str();
        match (name, call.target.as_deref(), call.args.as_slice()) {
            (operators::CONDITIONAL, None, [a, b, c]) => {
                Ok(Expr::If(Box::new([self.expr(a, depth)?, self.expr(b, depth)?, self.expr(c, depth)?])))
            }
            (operators::LOGICAL_AND, None, [a, b]) => Ok(Expr::And(self.pair(a, b, depth)?)),
            (operators::LOGICAL_OR, None, [a, b]) => Ok(Expr::Or(self.pair(a, b, depth)?)),
            (operators::LOGICAL_NOT, None, [a]) => Ok(Expr::Not(self.one(a, depth)?)),
            (operators::NEGATE, None, [a]) => Ok(Expr::Neg(self.one(a, depth)?)),
            (operators::INDEX, None, [a, b]) => Ok(Expr::Index(self.pair(a, b, depth)?)),
            ("size", None, [a]) | ("size", Some(a), []) => Ok(Expr::Size(self.one(a, depth)?)),
            ("string", None, [a]) => Ok(Expr::ToString(self.one(a, depth)?)),
            ("int", None, [a]) => Ok(Expr::ToInt(self.one(a, depth)?)),
            ("contains", Some(a), [b]) => Ok(Expr::Text(TextOp::Contains, self.pair(a, b, depth)?)),
            ("startsWith", Some(a), [b]) => Ok(Expr::Text(TextOp::StartsWith, self.pair(a, b, depth)?)),
            ("endsWith", Some(a), [b]) => Ok(Expr::Text(TextOp::EndsWith, self.pair(a, b, depth)?)),
            (operators::HAS, None, [a]) => match &a.expr {
                Ast::Select(select) => self.has(select, depth),
                _ => Err("has() takes a field, like has(event.data.winner)".to_owned()),
            },
            (operators::ALL, Some(r), [v, body]) => self.macro_(Macro::All, r, v, body, depth),
            (operators::EXISTS, Some(r), [v, body]) => self.macro_(Macro::Exists, r, v, body, depth),
            (operators::EXISTS_ONE | "existsOne", Some(r), [v, body]) => {
                self.macro_(Macro::ExistsOne, r, v, body, depth)
            }
            ("count", Some(r), [v, body]) => self.macro_(Macro::Count, r, v, body, depth),
            (operators::MAP, Some(r), [v, body]) => self.macro_(Macro::Map, r, v, body, depth),
            (operators::FILTER, Some(r), [v, body]) => self.macro_(Macro::Filter, r, v, body, depth),
            (operators::MAP, Some(r), [v, keep, body]) => {
                let kept = self.macro_(Macro::Filter, r, v, keep, depth)?;
                let body = self.body(v, body, depth)?;
                Ok(Expr::Macro(Macro::Map, Box::new([kept, body])))
            }
            (op, None, [a, b]) => match binary(op) {
                Some(op) => Ok(Expr::Binary(op, self.pair(a, b, depth)?)),
                None => Err(unknown(op)),
            },
            (name, ..) => Err(unknown(name)),
        }
    }

    /// One of [`Func`]; `None` if it is something else.
    fn function(&mut self, call: &CallExpr, depth: usize) -> Result<Option<Expr>, String> {
        let name = call.func_name.as_str();
        let target = call.target.as_deref();
        let (func, takes) = if let Some(target) = target {
            if let Ast::Select(select) = &target.expr
                && !select.test
                && self.is_root(&select.operand, "records")
            {
                let record = select.field.clone();
                if self.names.at_start || !self.names.records.contains(&record) {
                    return Err(format!("unknown name `records.{record}`: it isn't declared in `records`"));
                }
                match name {
                    "has" => (Func::RecordHas(record), 1),
                    "get" => (Func::RecordGet(record), 1),
                    "count" => (Func::RecordCount(record), 0),
                    _ => return Err(format!("records have has, get and count, not `{name}`")),
                }
            } else {
                let module = match &target.expr {
                    Ast::Ident(module) if !self.vars.contains(module) => module.as_str(),
                    _ => "",
                };
                match (module, name) {
                    ("hex", "encode") => (Func::HexEncode, 1),
                    ("hex", "decode") => (Func::HexDecode, 1),
                    ("base64", "encode") => (Func::Base64Encode, 1),
                    ("base64", "decode") => (Func::Base64Decode, 1),
                    ("npub", "encode") => (Func::NpubEncode, 1),
                    ("npub", "decode") => (Func::NpubDecode, 1),
                    ("schnorr", "verify") => (Func::SchnorrVerify, 3),
                    ("nostr", "event") => (Func::NostrEvent, 1),
                    ("dlc", "announcement") => (Func::DlcAnnouncement, 2),
                    ("dlc", "attestation") => (Func::DlcAttestation, 2),
                    (_, "distinct") if call.args.is_empty() => {
                        return Ok(Some(Expr::Call(Func::Distinct, vec![self.expr(target, depth)?])));
                    }
                    _ => return Ok(None),
                }
            }
        } else {
            match name {
                "refuse" => return refuse(call).map(Some),
                "bytes" => (Func::Bytes, 1),
                "sha256" => (Func::Sha256, 1),
                "timestamp" => (Func::Timestamp, 1),
                "duration" => (Func::Duration, 1),
                _ => return Ok(None),
            }
        };
        if call.args.len() != takes {
            return Err(format!("`{name}` takes {takes} argument(s), got {}", call.args.len()));
        }
        let args = call.args.iter().map(|a| self.expr(a, depth)).collect::<Result<Vec<_>, _>>()?;
        // A time that is written out is read now, so that a wrong one is a fault of the definition.
        match (&func, args.as_slice()) {
            (Func::Timestamp, [Expr::Str(text)]) => {
                super::functions::timestamp(text).map(|s| Some(Expr::Int(s)))
            }
            (Func::Duration, [Expr::Str(text)]) => {
                super::functions::duration(text).map(|s| Some(Expr::Int(s)))
            }
            _ => Ok(Some(Expr::Call(func, args))),
        }
    }

    fn macro_(
        &mut self,
        kind: Macro,
        range: &IdedExpr,
        var: &IdedExpr,
        body: &IdedExpr,
        depth: usize,
    ) -> Result<Expr, String> {
        let range = self.expr(range, depth)?;
        let body = self.body(var, body, depth)?;
        Ok(Expr::Macro(kind, Box::new([range, body])))
    }

    fn body(&mut self, var: &IdedExpr, body: &IdedExpr, depth: usize) -> Result<Expr, String> {
        let Ast::Ident(var) = &var.expr else {
            return Err("the first argument of a macro is a name".to_owned());
        };
        if self.vars.len() >= limits::MACRO_NESTING {
            return Err(format!("macros are nested at most {} deep", limits::MACRO_NESTING));
        }
        self.vars.push(var.clone());
        let body = self.expr(body, depth);
        self.vars.pop();
        body
    }
}

/// `refuse('code')`: the code is written out, so that it is the same whatever happens.
fn refuse(call: &CallExpr) -> Result<Expr, String> {
    let code = match call.args.as_slice() {
        [IdedExpr { expr: Ast::Literal(LiteralValue::String(code)), .. }] => Code::of_machine(code.inner()),
        _ => None,
    };
    let wrong = || {
        format!("refuse() takes a code that is written out: 1 to {} of a-z, 0-9 and _", limits::REFUSAL_BYTES)
    };
    Ok(Expr::Call(Func::Refuse(code.ok_or_else(wrong)?), Vec::new()))
}

/// The fields of `event`.
pub(super) const EVENT_FIELDS: [&str; 6] = ["type", "data", "pubkey", "id", "created_at", "height"];

fn unknown(name: &str) -> String {
    format!("`{name}` with these arguments is not one of the functions of concordat-cel@1")
}

fn binary(name: &str) -> Option<Op> {
    Some(match name {
        operators::EQUALS => Op::Eq,
        operators::NOT_EQUALS => Op::Ne,
        operators::LESS => Op::Lt,
        operators::LESS_EQUALS => Op::Le,
        operators::GREATER => Op::Gt,
        operators::GREATER_EQUALS => Op::Ge,
        operators::IN => Op::In,
        operators::ADD => Op::Add,
        operators::SUBSTRACT => Op::Sub,
        operators::MULTIPLY => Op::Mul,
        operators::DIVIDE => Op::Div,
        operators::MODULO => Op::Rem,
        _ => return None,
    })
}

fn admit_literal(literal: &LiteralValue) -> Result<Expr, String> {
    match literal {
        LiteralValue::Null => Ok(Expr::Null),
        LiteralValue::Boolean(b) => Ok(Expr::Bool(**b)),
        LiteralValue::String(s) => Ok(Expr::Str(s.inner().to_owned())),
        LiteralValue::Int(n) if n.unsigned_abs() <= limits::INTEGER.unsigned_abs() => Ok(Expr::Int(**n)),
        LiteralValue::Int(n) => Err(format!("integers are within +-(2^53-1), got {}", **n)),
        LiteralValue::Bytes(bytes) => Ok(Expr::Bytes(bytes.inner().to_vec())),
        LiteralValue::Double(_) | LiteralValue::UInt(_) => {
            Err("numbers are integers within +-(2^53-1); doubles and uints are not supported".to_owned())
        }
    }
}
