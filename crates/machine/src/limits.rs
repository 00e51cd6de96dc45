//! Every limit of the engine, with its reason. They decide which definitions and events are
//! valid, so they are the same on every custodian and a change of one is a change of the engine's
//! version (`concordat-cel@1`).

/// Bytes of a definition: it travels as the content of one event of at most 64 KiB, escaped.
pub const DEFINITION_BYTES: usize = 60 * 1024;
/// Nesting of JSON in a definition, an event's payload or a context: keeps every recursion over
/// it shallow.
pub const JSON_DEPTH: usize = 48;
/// States of a definition: entry and exit sets cost states x transitions.
pub const STATES: usize = 256;
/// Nesting of states.
pub const STATE_DEPTH: usize = 16;
/// Transitions of a definition.
pub const TRANSITIONS: usize = 1024;
/// Bytes of an id, a state's key or an event type: all of them end up in `after` and `done`
/// event names, in tags and in metrics.
pub const NAME_BYTES: usize = 256;
/// Bytes of a definition or event that a fault or rejection quotes: enough to find the place. The same as in every other
/// error.
pub const QUOTE_BYTES: usize = 256;
/// Bytes of a fault's text and of its place: what stands in them from outside is quoted, several times at most. A place
/// is longer only where names are longer than any that people read.
pub const FAULT_BYTES: usize = 2 * 1024;
/// Faults reported for one definition: a hostile one must not produce a report larger than itself.
pub const FAULTS: usize = 64;

/// Bytes of one CEL expression.
pub const EXPR_BYTES: usize = 1024;
/// Operators and brackets in one CEL expression, counted before the parser sees it: the parser is
/// recursive, and this bounds its stack.
pub const EXPR_OPERATORS: usize = 200;
/// Depth of a CEL expression's tree: evaluation recurses over it.
pub const EXPR_DEPTH: usize = 40;
/// Nodes of a CEL expression's tree.
pub const EXPR_NODES: usize = 400;
/// Macros (`all`, `exists`, `map`, ...) inside one another: each level multiplies the work.
pub const MACRO_NESTING: usize = 3;
/// Largest integer in either direction, 2^53-1: what JSON numbers carry exactly everywhere.
pub const INTEGER: i64 = (1 << 53) - 1;

/// Work of one expression: a node, a list element visited or 16 bytes of string handled cost 1.
/// About 1 ms in release; a guard that walks 1,000 voters once costs some 5,000.
pub const EXPR_COST: u64 = 20_000;
/// Work of all expressions and microsteps of one step.
pub const STEP_COST: u64 = 100_000;
/// Bytes of a string made by an expression.
pub const STRING_BYTES: usize = 16 * 1024;
/// Elements of a list made by an expression.
pub const LIST_ITEMS: usize = 4096;

/// Work of a call of a function, beside the bytes that it handles. A unit is some 50 ns.
pub const COST_FUNCTION: u64 = 5;
/// Work of `sha256`, beside 4 units for 16 bytes.
pub const COST_SHA256: u64 = 20;
/// Work of `npub.encode` and `npub.decode`: a checksum and a copy.
pub const COST_NPUB: u64 = 40;
/// Work of a BIP340 verification, also of an event's, beside 4 units for 16 bytes of the message: some 40 us, 70 us for other lengths than 32.
pub const COST_SCHNORR: u64 = 1_000;
/// Bytes of the code with which a definition refuses an event: with `machine.` before it, it stays below the 64 that a
/// log event's reason may have.
pub const REFUSAL_BYTES: usize = 32;
/// Work of one signature of an oracle, beside 4 units for 16 bytes of what is signed: always over 32 bytes, some 35 us.
pub const COST_DLC_SIGNATURE: u64 = 700;
/// Signatures of one attestation: an expression pays for as many and the announcement's. 20 binary digits, of which most
/// oracles of prices make a number, and a sign.
pub const DLC_SIGNATURES: usize = 24;
/// Outcomes that an announcement may name.
pub const DLC_OUTCOMES: usize = 256;
/// Bytes of an event's id, an outcome or a unit.
pub const DLC_STRING_BYTES: usize = 256;

/// Work of reading a record: a look-up in the state.
pub const COST_RECORD_READ: u64 = 100;
/// Work of putting or removing a record: a look-up and two additions of curve points.
pub const COST_RECORD_WRITE: u64 = 800;

/// Records that a machine may declare.
pub const RECORDS: usize = 16;
/// Keys of one record: bounds what a machine's author can make the group keep.
pub const RECORD_KEYS: u64 = 1 << 20;
/// Bytes of a record's key: long enough for two public keys and an event id in hex.
pub const RECORD_KEY_BYTES: usize = 256;
/// Bytes of a record's value, RFC 8785.
pub const RECORD_VALUE_BYTES: usize = 4 * 1024;
/// Keys of records that a step may change.
pub const RECORD_CHANGES: usize = 64;

/// Microsteps of a step: what an `always` or `raise` cycle may run before it is rejected.
pub const MICROSTEPS: usize = 100;
/// Events raised and not yet taken within a step.
pub const RAISED: usize = 64;
/// Effects of a step: a head publishes at most 64 events (PROTOCOL 1), snapshots among them.
pub const EFFECTS: usize = 32;
/// Timers pending at once.
pub const TIMERS: usize = 64;
/// Bytes of a snapshot, RFC 8785: as the content of an event every byte may be escaped to two,
/// and with tags it must stay below 64 KiB.
pub const SNAPSHOT_BYTES: usize = 28 * 1024;
/// Bytes of one effect, for the same reason.
pub const EFFECT_BYTES: usize = 28 * 1024;
/// Bytes of an event's payload, RFC 8785.
pub const DATA_BYTES: usize = 60 * 1024;
