//! Types where they are known: literals, `now`, `event.type`, the results of operators and functions.
//!
//! What comes from the context or a payload is [`Type::Any`]: only running tells. Refuses an
//! operation that can have no value whatever the unknown parts are, with its place.

use super::admit::EVENT_FIELDS;
use super::{Expr, Func, Macro, Op, Root};

/// The type of an expression, as far as it is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Type {
    /// Unknown before it runs.
    Any,
    Null,
    Bool,
    Int,
    Str,
    Bytes,
    List,
    Map,
}

impl Type {
    fn name(self) -> &'static str {
        match self {
            Self::Any => "anything",
            Self::Null => "null",
            Self::Bool => "bool",
            Self::Int => "int",
            Self::Str => "string",
            Self::Bytes => "bytes",
            Self::List => "list",
            Self::Map => "map",
        }
    }

    fn is(self, wanted: &[Self]) -> bool {
        self == Self::Any || wanted.contains(&self)
    }
}

/// Checks an expression that must give a value of this type.
///
/// # Errors
/// What can't be, and where.
pub(crate) fn check(expr: &Expr, wanted: Type) -> Result<(), String> {
    let mut found = Check { vars: Vec::new() };
    let got = found.of(expr)?;
    match (got, wanted) {
        (Type::Bytes, Type::Any) => Err("bytes can't be kept: use hex.encode or base64.encode".to_owned()),
        (_, Type::Any) => Ok(()),
        (got, wanted) if got.is(&[wanted]) => Ok(()),
        (got, wanted) => Err(format!("expected {}, got {}", wanted.name(), got.name())),
    }
}

struct Check {
    vars: Vec<Type>,
}

impl Check {
    fn want(&mut self, expr: &Expr, wanted: &[Type]) -> Result<Type, String> {
        let got = self.of(expr)?;
        if got.is(wanted) {
            return Ok(got);
        }
        let names: Vec<_> = wanted.iter().map(|t| t.name()).collect();
        Err(format!("expected {}, got {}", names.join(" or "), got.name()))
    }

    fn of(&mut self, expr: &Expr) -> Result<Type, String> {
        use Type::{Any, Bool, Bytes, Int, List, Map, Null, Str};
        Ok(match expr {
            Expr::At(at, inner) => {
                return self
                    .of(inner)
                    .map_err(|why| if why.starts_with("at ") { why } else { format!("{at}: {why}") });
            }
            Expr::Null => Null,
            Expr::Bool(_) => Bool,
            Expr::Int(_) | Expr::Root(Root::Now) => Int,
            Expr::Str(_) => Str,
            Expr::Bytes(_) => Bytes,
            Expr::Root(Root::Context | Root::Event) => Map,
            Expr::Root(Root::State) => List,
            Expr::Root(Root::Input) => Any,
            Expr::Var(i) => self.vars.iter().rev().nth(*i).copied().unwrap_or(Any),
            Expr::List(items) => {
                items.iter().try_for_each(|e| self.of(e).map(drop))?;
                List
            }
            Expr::Map(entries) => {
                for (key, value) in entries {
                    self.want(key, &[Str])?;
                    self.of(value)?;
                }
                Map
            }
            Expr::Field(e, field) => {
                self.want(e, &[Map])?;
                match &**e {
                    Expr::Root(Root::Event) if field == EVENT_FIELDS[0] => Str,
                    _ => Any,
                }
            }
            Expr::Has(e, _) => {
                self.want(e, &[Map])?;
                Bool
            }
            Expr::Index(pair) => {
                let [a, b] = &**pair;
                match self.want(a, &[List, Map])? {
                    List => self.want(b, &[Int])?,
                    Map => self.want(b, &[Str])?,
                    _ => self.want(b, &[Int, Str])?,
                };
                Any
            }
            Expr::Not(e) => self.want(e, &[Bool]).map(|_| Bool)?,
            Expr::Neg(e) => self.want(e, &[Int]).map(|_| Int)?,
            Expr::And(pair) | Expr::Or(pair) => {
                pair.iter().try_for_each(|e| self.want(e, &[Bool]).map(drop))?;
                Bool
            }
            Expr::If(branches) => {
                let [cond, yes, no] = &**branches;
                self.want(cond, &[Bool])?;
                let (yes, no) = (self.of(yes)?, self.of(no)?);
                if yes == no { yes } else { Any }
            }
            Expr::Binary(op, pair) => self.binary(*op, pair)?,
            Expr::Size(e) => self.want(e, &[Str, Bytes, List, Map]).map(|_| Int)?,
            Expr::Text(_, pair) => {
                pair.iter().try_for_each(|e| self.want(e, &[Str]).map(drop))?;
                Bool
            }
            Expr::ToString(e) => self.want(e, &[Int, Bool, Str]).map(|_| Str)?,
            Expr::ToInt(e) => self.want(e, &[Int, Str]).map(|_| Int)?,
            Expr::Call(func, args) => self.call(func, args)?,
            Expr::Macro(kind, pair) => {
                let [range, body] = &**pair;
                let item = match self.want(range, &[List, Map])? {
                    Map => Str,
                    _ => Any,
                };
                self.vars.push(item);
                let body = match kind {
                    Macro::Map => self.of(body),
                    _ => self.want(body, &[Bool]),
                };
                self.vars.pop();
                body?;
                match kind {
                    Macro::All | Macro::Exists | Macro::ExistsOne => Bool,
                    Macro::Count => Int,
                    Macro::Map | Macro::Filter => List,
                }
            }
        })
    }

    fn binary(&mut self, op: Op, pair: &[Expr; 2]) -> Result<Type, String> {
        use Type::{Any, Bool, Bytes, Int, List, Map, Str};
        let [a, b] = pair;
        let same = |a: Type, b: Type, what: &str| match (a, b) {
            (Any, other) | (other, Any) => Ok(other),
            (a, b) if a == b => Ok(a),
            (a, b) => Err(format!("no {what} of {} and {}", a.name(), b.name())),
        };
        Ok(match op {
            Op::Eq | Op::Ne => {
                self.of(a)?;
                self.of(b)?;
                Bool
            }
            Op::Lt | Op::Le | Op::Gt | Op::Ge => {
                let ordered = [Int, Bool, Str, Bytes];
                same(self.want(a, &ordered)?, self.want(b, &ordered)?, "order")?;
                Bool
            }
            Op::In => {
                self.of(a)?;
                self.want(b, &[List, Map])?;
                Bool
            }
            Op::Add => {
                let added = [Int, Str, Bytes, List];
                same(self.want(a, &added)?, self.want(b, &added)?, "+")?
            }
            Op::Sub | Op::Mul | Op::Div | Op::Rem => {
                self.want(a, &[Int])?;
                self.want(b, &[Int])?;
                Int
            }
        })
    }

    fn call(&mut self, func: &Func, args: &[Expr]) -> Result<Type, String> {
        use Type::{Any, Bool, Bytes, Int, List, Str};
        let (takes, gives): (&[Type], Type) = match func {
            Func::Bytes => (&[Str, Bytes], Bytes),
            Func::Sha256 => (&[Str, Bytes], Bytes),
            Func::HexEncode | Func::Base64Encode => (&[Bytes], Str),
            Func::HexDecode | Func::Base64Decode => (&[Str], Bytes),
            Func::NpubEncode | Func::NpubDecode => (&[Str], Str),
            Func::SchnorrVerify => (&[Str, Bytes], Bool),
            Func::DlcAnnouncement | Func::DlcAttestation => {
                let [list, text] = args else { return Ok(Type::Map) };
                self.want(list, &[List])?;
                self.want(text, &[Str])?;
                return Ok(Type::Map);
            }
            Func::NostrEvent => (&[Type::Map], Type::Map),
            Func::Refuse(_) => (&[], Bool),
            Func::Timestamp | Func::Duration => (&[Str], Int),
            Func::Distinct => (&[List], List),
            Func::RecordHas(_) => (&[Str], Bool),
            Func::RecordGet(_) => (&[Str], Any),
            Func::RecordCount(_) => (&[], Int),
        };
        for arg in args {
            self.want(arg, takes)?;
        }
        Ok(gives)
    }
}
