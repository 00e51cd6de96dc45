//! Evaluation with a meter.
//!
//! Promises: the same value, error or cost on every custodian; work and memory are bounded by
//! [`limits::EXPR_COST`] and [`limits::STEP_COST`] whatever the expression and the values. Every
//! node, visited list element and 16 bytes of string cost one unit, charged before the work is
//! done; running out is [`Failure::Cost`], which no `||` or `&&` can absorb.

use super::value::{List, Object, Text, Val};
use super::{At, Expr, Macro, Op, Root, TextOp};
use crate::context::Context;
use crate::dlc::Fault;
use crate::limits;
use crate::step::Code;
use serde_json::Value;
use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::rc::Rc;

/// Why an expression has no value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// It would cost more than allowed.
    Cost(String),
    /// A CEL error: a missing field, a wrong type, an overflow. It begins with the place in the
    /// expression where there is one.
    Error(String),
    /// An oracle's word that isn't taken, and why.
    Oracle(Fault),
    /// The definition itself says why the event is refused, or a function that checks what it holds.
    Refused(Code),
}

/// What is left to spend in a step.
#[derive(Clone, Debug)]
pub(crate) struct Meter {
    step: u64,
    expr: u64,
}

impl Meter {
    pub(crate) fn new() -> Self {
        Self { step: limits::STEP_COST, expr: limits::EXPR_COST }
    }

    /// Spends `units`, of this expression and of the step.
    #[inline]
    pub(crate) fn charge(&mut self, units: u64) -> Result<(), Failure> {
        if units > self.expr {
            return Err(over("an expression", limits::EXPR_COST));
        }
        self.expr -= units;
        self.charge_step(units)
    }

    /// Spends `units` of the step.
    #[inline]
    pub(crate) fn charge_step(&mut self, units: u64) -> Result<(), Failure> {
        if units > self.step {
            return Err(over("a step", limits::STEP_COST));
        }
        self.step -= units;
        Ok(())
    }
}

/// The innermost place is the one that helps.
#[cold]
fn placed(at: At, why: String) -> Failure {
    Failure::Error(if why.starts_with("at ") { why } else { format!("{at}: {why}") })
}

#[cold]
fn over(what: &str, most: u64) -> Failure {
    Failure::Cost(format!("{what} costs at most {most}"))
}

/// The names in scope.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scope<'a> {
    pub(crate) context: &'a Context,
    pub(crate) event: &'a Happening<'a>,
    /// Batch time in seconds.
    pub(crate) now: i64,
    /// Ids of the active atomic and final states, sorted; null where no expression of the definition asks.
    pub(crate) state: &'a Value,
    /// What the machine is started with; in the initial context only.
    pub(crate) input: &'a Value,
    /// The machine's records.
    pub(crate) records: &'a dyn Look,
}

/// What is in scope as `event`: `{type, data, pubkey, id, created_at, height}`.
#[derive(Clone, Debug)]
pub(crate) struct Happening<'e> {
    pub(crate) kind: Cow<'e, str>,
    pub(crate) data: Cow<'e, Value>,
    pub(crate) pubkey: Option<Cow<'e, str>>,
    pub(crate) id: Option<&'e str>,
    pub(crate) created_at: Option<i64>,
    pub(crate) height: Option<i64>,
}

/// The records as an expression sees them: what the step has changed so far, then what was there.
pub(crate) trait Look: std::fmt::Debug {
    fn get(&self, record: &str, key: &str) -> Option<Value>;
    fn count(&self, record: &str) -> u64;
}

/// Evaluates one expression to JSON, with a fresh budget for it.
pub(crate) fn eval<'a>(expr: &'a Expr, scope: Scope<'a>, meter: &mut Meter) -> Result<Value, Failure> {
    meter.expr = limits::EXPR_COST;
    let mut run = Run { scope, meter, vars: Vec::new() };
    let val = run.eval(expr)?;
    // Values share parts, so the JSON can be far larger than the work so far.
    run.charge_json(&val)?;
    Ok(val.to_json())
}

pub(super) fn error<T>(message: impl Into<String>) -> Result<T, Failure> {
    Err(Failure::Error(message.into()))
}

/// Units for handling `n` bytes.
pub(super) fn bytes(n: usize) -> u64 {
    (n / 16) as u64
}

pub(super) struct Run<'a, 'm> {
    pub(super) scope: Scope<'a>,
    pub(super) meter: &'m mut Meter,
    vars: Vec<Val<'a>>,
}

impl<'a> Run<'a, '_> {
    fn eval(&mut self, expr: &'a Expr) -> Result<Val<'a>, Failure> {
        let Expr::At(at, inner) = expr else { return self.plain(expr) };
        match self.plain(inner) {
            Err(Failure::Error(why)) => Err(placed(*at, why)),
            other => other,
        }
    }

    /// What nearly every expression is made of.
    fn plain(&mut self, expr: &'a Expr) -> Result<Val<'a>, Failure> {
        if let Expr::At(..) = expr {
            return self.eval(expr);
        }
        self.meter.charge(1)?;
        match expr {
            Expr::Root(Root::Input) => Ok(Val::from(self.scope.input)),
            Expr::Null => Ok(Val::Null),
            Expr::Bool(b) => Ok(Val::Bool(*b)),
            Expr::Int(n) => Ok(Val::Int(*n)),
            Expr::Str(s) => {
                self.meter.charge(bytes(s.len()))?;
                Ok(Val::Str(Text::Ref(s)))
            }
            Expr::Root(Root::Context) => Ok(Val::Map(Object::Context(self.scope.context))),
            Expr::Root(Root::Event) => Ok(Val::Map(Object::Event(self.scope.event))),
            Expr::Root(Root::Now) => Ok(Val::Int(self.scope.now)),
            Expr::Root(Root::State) => Ok(Val::from(self.scope.state)),
            Expr::Var(i) => match self.vars.iter().rev().nth(*i) {
                Some(val) => Ok(val.clone()),
                None => error("no such variable"),
            },
            Expr::List(items) => Ok(Val::list(items.iter().map(|e| self.eval(e)).collect::<Result<_, _>>()?)),
            Expr::Map(entries) => self.map_literal(entries),
            // What most expressions are made of goes the short way, and pays for both nodes.
            Expr::Field(e, field) if matches!(**e, Expr::Root(Root::Context)) => {
                self.meter.charge(1)?;
                self.field(&Object::Context(self.scope.context), field)
            }
            Expr::Field(e, field) if matches!(**e, Expr::Root(Root::Event)) => {
                self.meter.charge(1)?;
                self.field(&Object::Event(self.scope.event), field)
            }
            Expr::Field(e, field) => match self.eval(e)? {
                Val::Map(map) => self.field(&map, field),
                other => error(format!("no field `{field}` on {}", other.kind())),
            },
            Expr::Has(e, field) => match self.eval(e)? {
                Val::Map(map) => Ok(Val::Bool(map.get(field).is_some())),
                other => error(format!("has() of `{field}` on {}", other.kind())),
            },
            Expr::Not(e) => Ok(Val::Bool(!self.bool(e)?)),
            Expr::And(pair) => self.logic(pair, false),
            Expr::Or(pair) => self.logic(pair, true),
            Expr::If(branches) => {
                let [cond, yes, no] = &**branches;
                if self.bool(cond)? { self.eval(yes) } else { self.eval(no) }
            }
            Expr::Binary(op, pair) => {
                let [a, b] = &**pair;
                let (a, b) = (self.eval(a)?, self.eval(b)?);
                self.binary(*op, a, b)
            }
            other => self.rare(other),
        }
    }

    /// The rest: apart, so that the common way has a small frame. Paid for already.
    #[inline(never)]
    fn rare(&mut self, expr: &'a Expr) -> Result<Val<'a>, Failure> {
        match expr {
            Expr::Bytes(b) => {
                self.meter.charge(bytes(b.len()))?;
                Ok(Val::bytes(b.clone()))
            }
            Expr::Call(func, args) => {
                let args = args.iter().map(|e| self.eval(e)).collect::<Result<Vec<_>, _>>()?;
                self.function(func, args)
            }
            Expr::Index(pair) => {
                let [a, b] = &**pair;
                let (a, b) = (self.eval(a)?, self.eval(b)?);
                match (a, b) {
                    (Val::List(list), Val::Int(i)) => usize::try_from(i)
                        .ok()
                        .and_then(|i| list.get(i))
                        .map_or_else(|| error(format!("no list element {i}")), Ok),
                    (Val::Map(map), Val::Str(key)) => self.field(&map, key.as_str()),
                    (a, b) => error(format!("no index {} on {}", b.kind(), a.kind())),
                }
            }
            Expr::Neg(e) => match self.eval(e)? {
                Val::Int(n) => n.checked_neg().map_or_else(|| error("integer overflow"), |n| Ok(Val::Int(n))),
                other => error(format!("no - on {}", other.kind())),
            },
            Expr::Size(e) => {
                let n = match self.eval(e)? {
                    Val::Str(s) => {
                        self.meter.charge(bytes(s.as_str().len()))?;
                        s.as_str().chars().count()
                    }
                    Val::Bytes(b) => b.len(),
                    Val::List(list) => list.len(),
                    Val::Map(map) => map.len(),
                    other => return error(format!("no size of {}", other.kind())),
                };
                Ok(Val::Int(i64::try_from(n).unwrap_or(i64::MAX)))
            }
            Expr::Text(op, pair) => {
                let [a, b] = &**pair;
                match (self.eval(a)?, self.eval(b)?) {
                    (Val::Str(a), Val::Str(b)) => {
                        let (a, b) = (a.as_str(), b.as_str());
                        self.meter.charge(bytes(a.len()) + bytes(b.len()))?;
                        Ok(Val::Bool(match op {
                            TextOp::Contains => a.contains(b),
                            TextOp::StartsWith => a.starts_with(b),
                            TextOp::EndsWith => a.ends_with(b),
                        }))
                    }
                    (a, b) => error(format!("no {op:?} on {}, {}", a.kind(), b.kind())),
                }
            }
            Expr::ToString(e) => match self.eval(e)? {
                Val::Int(n) => Ok(Val::text(&n.to_string())),
                Val::Bool(b) => Ok(Val::text(if b { "true" } else { "false" })),
                Val::Str(s) => Ok(Val::Str(s)),
                other => error(format!("no string of {}", other.kind())),
            },
            Expr::ToInt(e) => match self.eval(e)? {
                Val::Int(n) => Ok(Val::Int(n)),
                Val::Str(s) => {
                    s.as_str().parse().map_or_else(|_| error("not an integer"), |n| Ok(Val::Int(n)))
                }
                other => error(format!("no int of {}", other.kind())),
            },
            Expr::Macro(kind, pair) => {
                let [range, body] = &**pair;
                self.macro_(*kind, range, body)
            }
            // All others stand above.
            _ => error("no such expression"),
        }
    }

    fn bool(&mut self, expr: &'a Expr) -> Result<bool, Failure> {
        match self.eval(expr)? {
            Val::Bool(b) => Ok(b),
            other => error(format!("expected bool, got {}", other.kind())),
        }
    }

    fn field(&self, map: &Object<'a>, key: &str) -> Result<Val<'a>, Failure> {
        map.get(key)
            .map_or_else(|| error(format!("no such key: {}", key.chars().take(80).collect::<String>())), Ok)
    }

    /// `&&` and `||`: an error on one side is absorbed if the other side decides alone. What is refused on the right says more
    /// than an error on the left.
    fn logic(&mut self, pair: &'a [Expr; 2], decides: bool) -> Result<Val<'a>, Failure> {
        let [a, b] = pair;
        let left = self.bool(a);
        match left {
            Ok(v) if v == decides => return Ok(Val::Bool(v)),
            Err(Failure::Cost(_)) => return left.map(Val::Bool),
            _ => {}
        }
        match (left, self.bool(b)) {
            (_, Ok(v)) if v == decides => Ok(Val::Bool(v)),
            (_, Err(e @ (Failure::Cost(_) | Failure::Refused(_)))) => Err(e),
            (Err(e), _) | (_, Err(e)) => Err(e),
            (Ok(_), Ok(v)) => Ok(Val::Bool(v)),
        }
    }

    fn map_literal(&mut self, entries: &'a [(Expr, Expr)]) -> Result<Val<'a>, Failure> {
        let mut map = BTreeMap::new();
        for (key, value) in entries {
            let key = match self.eval(key)? {
                Val::Str(s) => s.as_str().to_owned(),
                other => return error(format!("map keys are strings, got {}", other.kind())),
            };
            self.meter.charge(bytes(key.len()))?;
            let value = self.eval(value)?;
            if map.insert(key, value).is_some() {
                return error("repeated map key");
            }
        }
        Ok(Val::Map(Object::Made(Rc::new(map))))
    }

    fn binary(&mut self, op: Op, a: Val<'a>, b: Val<'a>) -> Result<Val<'a>, Failure> {
        match op {
            Op::Eq => Ok(Val::Bool(self.equal(&a, &b)?)),
            Op::Ne => Ok(Val::Bool(!self.equal(&a, &b)?)),
            Op::Lt | Op::Le | Op::Gt | Op::Ge => {
                let order = self.order(&a, &b)?;
                Ok(Val::Bool(match op {
                    Op::Lt => order == Ordering::Less,
                    Op::Le => order != Ordering::Greater,
                    Op::Gt => order == Ordering::Greater,
                    _ => order != Ordering::Less,
                }))
            }
            Op::In => self.contains(&a, &b),
            Op::Add => self.add(a, b),
            Op::Sub | Op::Mul | Op::Div | Op::Rem => {
                let (Val::Int(x), Val::Int(y)) = (&a, &b) else {
                    return error(format!("no {op:?} of {} and {}", a.kind(), b.kind()));
                };
                let value = match op {
                    Op::Sub => x.checked_sub(*y),
                    Op::Mul => x.checked_mul(*y),
                    Op::Div => x.checked_div(*y),
                    _ => x.checked_rem(*y),
                };
                value.map_or_else(|| error("integer overflow or division by zero"), |n| Ok(Val::Int(n)))
            }
        }
    }

    fn add(&mut self, a: Val<'a>, b: Val<'a>) -> Result<Val<'a>, Failure> {
        match (a, b) {
            (Val::Int(a), Val::Int(b)) => {
                a.checked_add(b).map_or_else(|| error("integer overflow"), |n| Ok(Val::Int(n)))
            }
            (Val::Str(a), Val::Str(b)) => {
                let (a, b) = (a.as_str(), b.as_str());
                let len = a.len().saturating_add(b.len());
                if len > limits::STRING_BYTES {
                    return Err(Failure::Cost(format!(
                        "a string has at most {} bytes",
                        limits::STRING_BYTES
                    )));
                }
                self.meter.charge(bytes(len))?;
                Ok(Val::text(&format!("{a}{b}")))
            }
            (Val::Bytes(a), Val::Bytes(b)) => {
                let len = a.len().saturating_add(b.len());
                if len > limits::STRING_BYTES {
                    return Err(Failure::Cost(format!("bytes are at most {}", limits::STRING_BYTES)));
                }
                self.meter.charge(bytes(len))?;
                Ok(Val::bytes([&*a, &*b].concat()))
            }
            (Val::List(a), Val::List(b)) => {
                let len = a.len().saturating_add(b.len());
                self.list_fits(len)?;
                self.meter.charge(len as u64)?;
                let items =
                    (0..a.len()).filter_map(|i| a.get(i)).chain((0..b.len()).filter_map(|i| b.get(i)));
                Ok(Val::list(items.collect()))
            }
            (a, b) => error(format!("no + of {} and {}", a.kind(), b.kind())),
        }
    }

    fn list_fits(&self, len: usize) -> Result<(), Failure> {
        if len > limits::LIST_ITEMS {
            return Err(Failure::Cost(format!("a list has at most {} elements", limits::LIST_ITEMS)));
        }
        Ok(())
    }

    /// Values of different types are unequal, as CEL says.
    pub(super) fn equal(&mut self, a: &Val<'a>, b: &Val<'a>) -> Result<bool, Failure> {
        self.meter.charge(1)?;
        match (a, b) {
            (Val::Null, Val::Null) => Ok(true),
            (Val::Bool(a), Val::Bool(b)) => Ok(a == b),
            (Val::Int(a), Val::Int(b)) => Ok(a == b),
            (Val::Str(a), Val::Str(b)) => {
                let (a, b) = (a.as_str(), b.as_str());
                self.meter.charge(bytes(a.len().min(b.len())))?;
                Ok(a == b)
            }
            (Val::Bytes(a), Val::Bytes(b)) => {
                self.meter.charge(bytes(a.len().min(b.len())))?;
                Ok(a == b)
            }
            (Val::List(a), Val::List(b)) => {
                if a.len() != b.len() {
                    return Ok(false);
                }
                for i in 0..a.len() {
                    if let (Some(a), Some(b)) = (a.get(i), b.get(i))
                        && !self.equal(&a, &b)?
                    {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            (Val::Map(a), Val::Map(b)) => {
                if a.len() != b.len() {
                    return Ok(false);
                }
                self.meter.charge(a.len() as u64)?;
                let keys = a.keys();
                for i in 0..keys.len() {
                    let Some(Val::Str(key)) = keys.get(i) else {
                        continue;
                    };
                    let (Some(a), Some(b)) = (a.get(key.as_str()), b.get(key.as_str())) else {
                        return Ok(false);
                    };
                    if !self.equal(&a, &b)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    fn order(&mut self, a: &Val<'a>, b: &Val<'a>) -> Result<Ordering, Failure> {
        match (a, b) {
            (Val::Int(a), Val::Int(b)) => Ok(a.cmp(b)),
            (Val::Bool(a), Val::Bool(b)) => Ok(a.cmp(b)),
            (Val::Str(a), Val::Str(b)) => {
                let (a, b) = (a.as_str(), b.as_str());
                self.meter.charge(bytes(a.len().min(b.len())))?;
                Ok(a.cmp(b))
            }
            (Val::Bytes(a), Val::Bytes(b)) => {
                self.meter.charge(bytes(a.len().min(b.len())))?;
                Ok(a.cmp(b))
            }
            _ => error(format!("no order between {} and {}", a.kind(), b.kind())),
        }
    }

    fn contains(&mut self, item: &Val<'a>, whole: &Val<'a>) -> Result<Val<'a>, Failure> {
        match whole {
            Val::List(list) => {
                for i in 0..list.len() {
                    if let Some(other) = list.get(i)
                        && self.equal(item, &other)?
                    {
                        return Ok(Val::Bool(true));
                    }
                }
                Ok(Val::Bool(false))
            }
            Val::Map(map) => match item {
                Val::Str(key) => Ok(Val::Bool(map.get(key.as_str()).is_some())),
                Val::Int(_) | Val::Bool(_) => Ok(Val::Bool(false)),
                other => error(format!("{} is no map key", other.kind())),
            },
            other => error(format!("no `in` on {}", other.kind())),
        }
    }

    fn macro_(&mut self, kind: Macro, range: &'a Expr, body: &'a Expr) -> Result<Val<'a>, Failure> {
        let items: List<'a> = match self.eval(range)? {
            Val::List(list) => list,
            Val::Map(map) => {
                self.meter.charge(map.len() as u64)?;
                map.keys()
            }
            other => return error(format!("no macro over {}", other.kind())),
        };
        let (mut made, mut found, mut failed) = (Vec::new(), 0_u64, None);
        for i in 0..items.len() {
            let Some(item) = items.get(i) else { break };
            self.meter.charge(1)?;
            self.vars.push(item.clone());
            let value = match kind {
                Macro::Map => self.eval(body),
                _ => self.bool(body).map(Val::Bool),
            };
            self.vars.pop();
            match (kind, value) {
                (_, Err(e @ Failure::Cost(_))) => return Err(e),
                (Macro::All, Ok(Val::Bool(false))) => return Ok(Val::Bool(false)),
                (Macro::Exists, Ok(Val::Bool(true))) => return Ok(Val::Bool(true)),
                // As with && and ||: a later element may still decide.
                (Macro::All | Macro::Exists, Err(e)) => failed = failed.or(Some(e)),
                (_, Err(e)) => return Err(e),
                (Macro::Map, Ok(value)) => made.push(value),
                (Macro::Filter, Ok(Val::Bool(true))) => made.push(item),
                (Macro::ExistsOne | Macro::Count, Ok(Val::Bool(true))) => found += 1,
                _ => {}
            }
        }
        match (kind, failed) {
            (_, Some(e)) => Err(e),
            (Macro::All, None) => Ok(Val::Bool(true)),
            (Macro::Exists, None) => Ok(Val::Bool(false)),
            (Macro::ExistsOne, None) => Ok(Val::Bool(found == 1)),
            (Macro::Count, None) => Ok(Val::Int(i64::try_from(found).unwrap_or(i64::MAX))),
            (Macro::Map | Macro::Filter, None) => {
                self.list_fits(made.len())?;
                Ok(Val::list(made))
            }
        }
    }

    /// Charges for writing a value out.
    fn charge_json(&mut self, val: &Val<'a>) -> Result<(), Failure> {
        self.meter.charge(1)?;
        match val {
            Val::Str(Text::Ref(s)) => self.meter.charge(bytes(s.len())),
            Val::Str(Text::Made(s)) => self.meter.charge(bytes(s.len())),
            Val::List(List::Made(items)) => items.iter().try_for_each(|v| self.charge_json(v)),
            Val::Map(Object::Made(map)) => map.iter().try_for_each(|(k, v)| {
                self.meter.charge(bytes(k.len()))?;
                self.charge_json(v)
            }),
            // Borrowed from the scope, whose size is bounded; the copy still costs.
            Val::List(List::Ref(items)) => {
                let size: usize = items.iter().map(crate::json::size).sum();
                self.meter.charge(bytes(size))
            }
            Val::Map(Object::Ref(map)) => {
                let size: usize = map.iter().map(|(k, v)| k.len() + crate::json::size(v)).sum();
                self.meter.charge(bytes(size))
            }
            Val::Map(Object::Context(context)) => self.meter.charge(bytes(context.size())),
            Val::Map(map @ Object::Event(_)) => {
                let size: usize = map.entries().map(|(k, v)| k.len() + crate::json::size(&v.to_json())).sum();
                self.meter.charge(bytes(size))
            }
            Val::Bytes(_) => error("bytes can't be kept: use hex.encode or base64.encode"),
            Val::Null | Val::Bool(_) | Val::Int(_) => Ok(()),
        }
    }
}
