//! Every limit of the system that decides validity, with its reason. Limits of speed (timeouts, queues of one process)
//! stand in `node::limits`; nothing here can be changed by local configuration.

/// Bytes of one Nostr event as JSON. Relays commonly refuse more than 64 KiB (NIP-11 `max_message_length`).
pub const EVENT_BYTES: usize = 64 * 1024;

/// Tags of one event: a log event carries up to [`REQUESTS_PER_HEAD`] plus a handful of its own.
pub const EVENT_TAGS: usize = 512;

/// Bytes of what came from outside that an error or a log line quotes: enough to find the place, too few to fill a disk.
pub const QUOTE_BYTES: usize = 256;

/// Fields of one message between custodians, nested ones and elements of lists counted, before it is decoded. The largest
/// honest one is a chunk of state: 16,384 leaves of three fields each. A decoder makes some 100 bytes of each: two
/// million empty heads, which 4 MiB have room for, took 400 MB of memory; the most that is let through takes 10.
pub const MESSAGE_FIELDS: usize = 64 * 1024;

/// Signatures remembered as good ([`crate::Checked`] holds twice as many at most): those of the requests that wait in a full pool, or
/// of the largest opening (a quorum of grants, each with a quorum of prepares) many times over, in some 2 MiB.
pub const SIGNATURES_KEPT: usize = 4_096;

/// Nesting of JSON in an event's content: deeper than any statechart people draw, far from any parser's stack.
pub const JSON_DEPTH: usize = 64;

/// Largest integer that every JSON reader agrees on (RFC 8785 prints doubles): 2^53 - 1.
pub const MAX_INTEGER: i64 = (1 << 53) - 1;

/// Requests of one head: 400 outcome tags of about 110 bytes stay under [`EVENT_BYTES`] with room for the head.
pub const REQUESTS_PER_HEAD: usize = 400;

/// Batches of one head: each adds about 20 bytes to the head's content.
pub const BATCHES_PER_HEAD: usize = 64;

/// Group events that one head makes due, its log event included: each costs every signer two FROST rounds (about 0.7 ms).
pub const MESSAGES_PER_HEAD: usize = 64;

/// Bytes of requests in one batch: a few heartbeats of replication at 10 Mbit/s.
pub const BATCH_BYTES: usize = 1024 * 1024;

/// Batches replicated ahead of the certified head.
pub const WINDOW_BATCHES: usize = 32;

/// Bytes replicated ahead of the certified head: bounds log, overlay and what a lock must keep.
pub const WINDOW_BYTES: usize = 4 * 1024 * 1024;

/// How far a batch's time may lie before its arrival and still be prepared, in ms (PROTOCOL 10: nobody backdates a late bid).
pub const BATCH_AGE_MS: u64 = 10_000;

/// How far a request's `created_at` may lie after the batch's time, in seconds: clocks of users are off.
pub const REQUEST_FUTURE_S: u64 = 15 * 60;

/// How far a request's `created_at` may lie before its machine's start, in seconds.
pub const REQUEST_PAST_S: u64 = 60 * 60;

/// Custodians of one cluster. FROST and all-to-all messages stay cheap; numbers are u16 and never reused.
pub const CUSTODIANS: usize = 64;

/// Engines in force at a time: a few versions of a few.
pub const ENGINES: usize = 16;

/// Bytes of a machine's `d`, title and similar short strings.
pub const NAME_BYTES: usize = 256;

/// `source` filters of one definition: each is matched against every event that comes in.
pub const SOURCES: usize = 8;

/// Machines that one author may have running under an open admission policy.
pub const MACHINES_PER_AUTHOR: u32 = 1_000;
