//! `concordat-cel@1`: the part of CEL that means the same on every custodian.
//!
//! The `cel` crate parses; its tree is turned into [`Expr`], which can hold nothing but what the
//! allow-list below admits, and `eval` runs it. The crate's own interpreter isn't used: it has no
//! cost meter, and its maps iterate in a different order in each process. A test runs both on the
//! same expressions.
//!
//! Admitted: `context`, `event`, `now`, `state`, `records`; integers within +-(2^53-1), strings,
//! bytes, booleans, null, lists, maps with string keys; `.`, `[]`, `has`, `in`, `?:`, `&& || !`,
//! comparisons, integer arithmetic, `+` on strings, bytes and lists; `size`, `contains`,
//! `startsWith`, `endsWith`, `string`, `int`, the functions of [`Func`]; the macros `all`,
//! `exists`, `exists_one`, `count`, `map`, `filter`.
//! Refused when the definition is admitted, with the place in the expression and the reason:
//! everything else (doubles, uints, regular expressions, unknown names), and operations on values
//! whose type is known and wrong.

mod admit;
mod bip340;
mod eval;
mod functions;
mod oracle;
mod signed;
#[cfg(test)]
mod tests;
mod types;
mod value;

#[cfg(test)]
pub(crate) use admit::parse;
pub(crate) use admit::{Names, compile};
pub(crate) use eval::{Failure, Happening, Look, Meter, Scope, eval};
pub(crate) use types::{Type, check};

use crate::step::Code;

/// An admitted expression.
#[derive(Clone, Debug)]
pub(crate) enum Expr {
    Null,
    Bool(bool),
    Int(i64),
    Str(String),
    Bytes(Vec<u8>),
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
    Call(Func, Vec<Expr>),
    /// An expression that can fail, with its place in the source.
    At(At, Box<Expr>),
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
    /// What a machine is started with; in the initial context only.
    Input,
}

/// A place in an expression: line and column, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct At {
    pub(crate) line: u32,
    pub(crate) column: u32,
}

impl std::fmt::Display for At {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "at {}:{}", self.line, self.column)
    }
}

/// The functions beside those of plain CEL. Each has a fixed cost ([`crate::limits`]), and pays for
/// the bytes that it handles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Func {
    /// `bytes(string)`: its UTF-8.
    Bytes,
    /// `sha256(string or bytes) -> bytes`.
    Sha256,
    /// `hex.encode(bytes) -> string`, lower case.
    HexEncode,
    /// `hex.decode(string) -> bytes`, either case.
    HexDecode,
    /// `base64.encode(bytes) -> string`, the standard alphabet with padding.
    Base64Encode,
    /// `base64.decode(string) -> bytes`.
    Base64Decode,
    /// `npub.encode(hex) -> string` (NIP-19).
    NpubEncode,
    /// `npub.decode(string) -> hex` (NIP-19).
    NpubDecode,
    /// `schnorr.verify(pubkey, message, signature) -> bool`: BIP340 over a message of any
    /// length; each argument is bytes or hex.
    SchnorrVerify,
    /// `dlc.announcement(expected, text) -> map`: an oracle's announcement, verified.
    DlcAnnouncement,
    /// `dlc.attestation(announcements, text) -> map`: the outcome that an oracle attests, verified.
    DlcAttestation,
    /// `nostr.event(map) -> map`: the same event, its id and signature checked (NIP-01).
    NostrEvent,
    /// `refuse('code')`: no value, but the reason for which the event is refused.
    Refuse(Code),
    /// `timestamp("2027-01-31T12:00:00Z") -> int`: seconds since 1970 (RFC 3339).
    Timestamp,
    /// `duration("1h30m") -> int`: seconds.
    Duration,
    /// `list.distinct()`: the first of equal ones, in order.
    Distinct,
    /// `records.<name>.has(key) -> bool`.
    RecordHas(String),
    /// `records.<name>.get(key)`; an error if there is none.
    RecordGet(String),
    /// `records.<name>.count() -> int`.
    RecordCount(String),
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
    Count,
    Map,
    Filter,
}
