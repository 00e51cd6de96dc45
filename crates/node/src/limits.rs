//! Every bound of the IO shell, with its reason. What the protocol itself bounds stands in `events::limits`.

use std::time::Duration;

// ---- the ordered log (PROTOCOL 6)

/// Highest Raft term of a group. Its leader counts one up for each election that found no majority; an honest one needs
/// a handful. openraft panics on terms near the end of u64.
pub const MAX_TERM: u64 = 1_000;

/// Highest log index of a group. An epoch ends after 2^20 batches (PROTOCOL 5); blanks and the membership come on top.
pub const MAX_INDEX: u64 = 1 << 21;

/// Bytes of one wrapper: a batch of at most 4 MiB and its signed frame.
pub const MAX_WRAPPER_BYTES: usize = 4 * 1024 * 1024 + 64 * 1024;

/// Bytes of wrappers that one append carries, one wrapper always included: keeps a slow link's round trips short.
pub const MAX_APPEND_BYTES: usize = 2 * MAX_WRAPPER_BYTES;

/// Entries that one append carries.
pub const MAX_APPEND_ENTRIES: usize = 256;

/// Fields of one append, nested ones and members counted, before it is decoded: five of each entry, and room for the rest.
pub const MAX_APPEND_FIELDS: usize = 8 * MAX_APPEND_ENTRIES;

/// Custodians of one roster, so of one group.
pub const MAX_MEMBERS: usize = 64;

/// Wrappers that wait on the leader for a place in its log. More than a few mean that no majority answers.
pub const ORDER_QUEUE: usize = 64;

/// Committed wrappers that wait for their reader before the log stops applying more: fewer than an epoch of a simulated run has, so that
/// a group that waits for a reader who waits for the group is seen there.
pub const DELIVERY_QUEUE: usize = 16;

/// Log entries read from the store at a time when a log is walked from its beginning.
pub const LOG_PAGE: usize = 128;

/// Appends of one leader that wait at a follower's guard; an honest leader has two streams (entries, heartbeats).
pub const MAX_WAITING_APPENDS: usize = 8;

// ---- the connections between custodians

/// One message on the wire: an append at its largest, and room for its frame.
pub const MAX_MESSAGE_BYTES: usize = MAX_APPEND_BYTES + 1024 * 1024;

/// Consensus messages that wait for one peer. The oldest is dropped first: newer ones supersede it, and all repeat.
pub const OUTBOUND_MESSAGES: usize = 1_024;

/// Bytes of consensus messages that wait for one peer.
pub const OUTBOUND_BYTES: usize = 32 * 1024 * 1024;

/// Calls of one peer that are served at the same time.
pub const MAX_CALLS_PER_PEER: usize = 64;

/// Messages and calls of one peer per second, on average. A busy custodian sends a few hundred.
pub const PEER_RATE: u32 = 4_000;

/// Messages and calls that a peer may send at once after a pause.
pub const PEER_BURST: u32 = 8_000;

/// Connections that one peer holds: one is enough, a restart leaves old ones for a moment.
pub const MAX_CONNECTIONS_PER_PEER: usize = 4;

/// TLS handshakes in progress: strangers can begin them, so they are few and short.
pub const MAX_HANDSHAKES: usize = 64;

/// Time for a TCP connection and its TLS handshake.
pub const HANDSHAKE_DEADLINE: Duration = Duration::from_secs(3);

/// First pause after a failed connection; it doubles.
pub const RECONNECT_FIRST: Duration = Duration::from_millis(20);

/// Longest pause between two attempts to connect: a peer that comes back is found within it.
pub const RECONNECT_MOST: Duration = Duration::from_secs(1);

/// Silence after which a connection is probed; half of it without an answer, and the connection is given up.
pub const KEEPALIVE: Duration = Duration::from_secs(4);

/// Time that open calls get to finish when a custodian stops.
pub const SHUTDOWN_GRACE: Duration = Duration::from_secs(2);
