//! `concordat-cel@1`: the part of CEL that means the same on every custodian.
//!
//! The `cel` crate parses; its tree is turned into [`Expr`], which can hold nothing but what the
//! allow-list below admits, and `eval` runs it. The crate's own interpreter isn't used: it has no
//! cost meter, and its maps iterate in a different order in each process. A test runs both on the
//! same expressions.
//!
//! Admitted: `context`, `event`, `now`, `state`; integers within +-(2^53-1), strings, booleans,
//! null, lists, maps with string keys; `.`, `[]`, `has`, `in`, `?:`, `&& || !`, comparisons,
//! integer arithmetic, `+` on strings and lists; `size`, `contains`, `startsWith`, `endsWith`,
//! `string`, `int`; the macros `all`, `exists`, `exists_one`, `map`, `filter`.
//! Refused when the definition is admitted, with the reason: everything else (doubles, uints,
//! bytes, timestamps, durations, regular expressions, unknown names).

mod eval;
#[cfg(test)]
mod tests;
mod value;

pub(crate) use eval::{Failure, Meter, Scope, eval};

use crate::limits;
use cel::Env;
use cel::common::ast::{CallExpr, EntryExpr, Expr as Ast, IdedExpr, LiteralValue, operators};

/// An admitted expression.
#[derive(Clone, Debug)]
pub(crate) enum Expr {
    Null,
    Bool(bool),
    Int(i64),
    Str(String),
    Root(Root),
    /// A macro's variable, counted from the innermost macro.
    Var(usize),
    List(Vec<Expr>),
    Map(Vec<(Expr, Expr)>),
    Field(Box<Expr>, String),
    Has(Box<Expr>, String),
    Index(Box<[Expr; 2]>),
    Not(Box<Expr>),
    Neg(Box<Expr>),
    And(Box<[Expr; 2]>),
    Or(Box<[Expr; 2]>),
    If(Box<[Expr; 3]>),
    Binary(Op, Box<[Expr; 2]>),
    Size(Box<Expr>),
    Text(TextOp, Box<[Expr; 2]>),
    ToString(Box<Expr>),
    ToInt(Box<Expr>),
    /// `range.macro(var, body)`; `map` with three arguments is a filter and a map.
    Macro(Macro, Box<[Expr; 2]>),
}

/// What is in scope.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Root {
    Context,
    Event,
    Now,
    State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
    In,
    Add,
    Sub,
    Mul,
    Div,
    Rem,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TextOp {
    Contains,
    StartsWith,
    EndsWith,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Macro {
    All,
    Exists,
    ExistsOne,
    Map,
    Filter,
}

/// Parses and admits an expression.
///
/// # Errors
/// What is wrong with it, for a person.
pub(crate) fn compile(source: &str) -> Result<Expr, String> {
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
    let tree = Env::default().with_optional_support(false).parser().parse(source).map_err(|e| {
        let first = e.errors.first().map(|e| format!("at {}:{}: {}", e.pos.0, e.pos.1, e.msg));
        format!("not CEL: {}", first.unwrap_or_default())
    })?;
    Admit { vars: Vec::new(), nodes: 0 }.expr(&tree, 0)
}

struct Admit {
    vars: Vec<String>,
    nodes: usize,
}

impl Admit {
    fn expr(&mut self, e: &IdedExpr, depth: usize) -> Result<Expr, String> {
        self.nodes += 1;
        if depth > limits::EXPR_DEPTH || self.nodes > limits::EXPR_NODES {
            return Err(format!(
                "an expression has at most {} nodes and depth {}",
                limits::EXPR_NODES,
                limits::EXPR_DEPTH
            ));
        }
        let depth = depth + 1;
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
            Ast::Select(select) if select.test => {
                Ok(Expr::Has(Box::new(self.expr(&select.operand, depth)?), select.field.clone()))
            }
            Ast::Select(select) => {
                if let Ast::Ident(root) = &select.operand.expr
                    && root == "event"
                    && !self.vars.contains(root)
                    && !EVENT_FIELDS.contains(&select.field.as_str())
                {
                    return Err(format!("event has {}, not `{}`", EVENT_FIELDS.join(", "), select.field));
                }
                Ok(Expr::Field(Box::new(self.expr(&select.operand, depth)?), select.field.clone()))
            }
            Ast::Call(call) => self.call(call, depth),
            Ast::Unspecified | Ast::List(_) | Ast::Comprehension(_) | Ast::Struct(_) => {
                Err("structs and optional values are not supported".to_owned())
            }
        }
    }

    fn name(&self, name: &str) -> Result<Expr, String> {
        if let Some(i) = self.vars.iter().rev().position(|v| v == name) {
            return Ok(Expr::Var(i));
        }
        Ok(Expr::Root(match name {
            "context" => Root::Context,
            "event" => Root::Event,
            "now" => Root::Now,
            "state" => Root::State,
            _ => {
                return Err(format!("unknown name `{name}`: context, event, now and state are in scope"));
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
                Ast::Select(select) => {
                    Ok(Expr::Has(Box::new(self.expr(&select.operand, depth)?), select.field.clone()))
                }
                _ => Err("has() takes a field, like has(event.data.winner)".to_owned()),
            },
            (operators::ALL, Some(r), [v, body]) => self.macro_(Macro::All, r, v, body, depth),
            (operators::EXISTS, Some(r), [v, body]) => self.macro_(Macro::Exists, r, v, body, depth),
            (operators::EXISTS_ONE | "existsOne", Some(r), [v, body]) => {
                self.macro_(Macro::ExistsOne, r, v, body, depth)
            }
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

/// The fields of `event`.
const EVENT_FIELDS: [&str; 5] = ["type", "data", "pubkey", "id", "created_at"];

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
        LiteralValue::Double(_) | LiteralValue::UInt(_) | LiteralValue::Bytes(_) => {
            Err("numbers are integers within +-(2^53-1); doubles, uints and bytes are not supported"
                .to_owned())
        }
    }
}
