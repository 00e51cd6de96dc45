//! Limits of the ledger that decide validity, beside those of `events::limits`. The same on every custodian; a change of
//! one is a change of the protocol version.

/// Timers that one batch fires, over all machines. More wait for the next batch: a thousand timers of one second must
/// not make a head that takes longer than an epoch's timeout.
pub const TIMERS_PER_BATCH: usize = 256;

/// Timers that a machine fires in a row without an accepted input. A cycle of `after: 1` never comes to rest; from here
/// on it gets one step per [`TIMER_REST_MS`].
pub const TIMER_STREAK: u32 = 64;

/// How long a machine rests between timers once it has fired [`TIMER_STREAK`] in a row, in ms.
pub const TIMER_REST_MS: u64 = 1_000;

/// Effects of one machine that wait to be signed. A head signs 63 events; a machine that asks for more than it gets is
/// refused with `busy` instead of growing the queue for all.
pub const QUEUED_EFFECTS: u32 = 64;

/// Messages between machines and starts of machines that one request or timer sets going, those that follow from them
/// included: each is a step.
pub const MAIL_PER_REQUEST: usize = 32;

/// Machines that one request or timer starts, those that they start at once included. So it also bounds a chain.
pub const STARTS_PER_REQUEST: usize = 8;

/// Machines that start machines may do so by their timers this often until a participant is accepted again, and those
/// that a timer started not before: else one signed request would make state for ever.
pub const STARTS_BY_TIMERS: u32 = 8;

/// Machines that machines start in one batch, over all of them: each makes an event as large as its definition due, and
/// a head signs 63.
pub const STARTS_PER_BATCH: usize = 32;

/// Running machines whose `source` filters name the same kind and author (each may be "any"): an event is an input of
/// all that match, up to four times as many, and all of them must stay parsed ([`PARSED_DEFINITIONS`]).
pub const SOURCE_MACHINES: usize = 64;

/// Pairs of kind and author that the `source` filters of one definition may name: each is an entry of the index.
pub const SOURCE_ENTRIES: usize = 64;

/// Definitions kept parsed, some tens of KiB each: more than a head's requests can name, because parsing one costs
/// about a millisecond, ten times an input.
pub const PARSED_DEFINITIONS: usize = 512;

/// Bytes of one state leaf: a definition of an event's size as JSON inside JSON, every byte escaped.
pub const LEAF_BYTES: usize = 256 * 1024;

/// Hashes on a proof's path: the bits of a key's hash.
pub const PROOF_DEPTH: usize = 256;

/// Bytes of a proof as JSON: a leaf, escaped once more, and a full path.
pub const PROOF_BYTES: usize = 2 * LEAF_BYTES + 80 * PROOF_DEPTH;

/// Bytes of leaves in one chunk of state, unless a single leaf is larger: a second or so at 10 Mbit/s.
pub const CHUNK_BYTES: usize = 512 * 1024;

/// Leaves in one chunk: the smallest has some 30 bytes.
pub const CHUNK_LEAVES: usize = 16 * 1024;

/// Bytes of old values that are kept while others fetch a state that goes on changing here. Beyond that they begin again,
/// with a newer head.
pub const FROZEN_BYTES: usize = 64 * 1024 * 1024;

/// Machines on one page of a list.
pub const PAGE: usize = 256;
