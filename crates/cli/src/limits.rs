//! Every bound of the command line, with its reason. Nothing here decides validity.

use std::time::Duration;

/// How long a command waits for a certified outcome or an answer if `--timeout` doesn't say. A change of epoch takes a few
/// seconds with the default timeouts; a request sent into the middle of one should still be waited for.
pub const TIMEOUT: Duration = Duration::from_secs(30);

/// Longest `--timeout`: a day. What is slower wants `history`, not a waiting terminal.
pub const MOST_TIMEOUT_SECONDS: u64 = 24 * 60 * 60;

/// How long to wait for a relay's connection.
pub const CONNECT: Duration = Duration::from_secs(10);

/// How long to wait for a machine's snapshot once its outcome is known. Snapshots of one machine are at least a second apart
/// (relays keep one per second and `d`), and the next head may be what carries it.
pub const SNAPSHOT_WAIT: Duration = Duration::from_secs(4);

/// Events asked for in one page. Relays commonly cap a query at 500 (the embedded one does).
pub const PAGE: usize = 500;

/// Pages of one query: 100,000 events from one relay; beyond it a file export is the right tool.
pub const PAGES: usize = 200;

/// Ids in one filter: 100 ids of 64 digits stay far below any relay's message limit.
pub const IDS_PER_FILTER: usize = 100;

/// Bytes of a key file: an nsec or 64 hex digits and a line end.
pub const KEY_FILE_BYTES: u64 = 4 * 1024;

/// Bytes of a definition, an event's payload or one line of an input file: what can't fit into one event is no request.
pub const INPUT_BYTES: u64 = concordat_events::limits::EVENT_BYTES as u64;

/// Bytes of a file of events given to `verify`: 4 GiB, about 65,000 full heads.
pub const EVENTS_FILE_BYTES: u64 = 4 * 1024 * 1024 * 1024;

/// Relays that one command talks to.
pub const RELAYS: usize = 16;

/// Bytes of the events given to `machine run`, which holds them all: a million short lines.
pub const RUN_FILE_BYTES: u64 = 64 * 1024 * 1024;

/// Events that the embedded relay holds in memory: at about 2 KB each, 2 GB at the very most. Older ones are dropped beyond it.
pub const RELAY_EVENTS: usize = 1_000_000;

/// Notes a minute that one connection of the embedded relay may write. Its library's default is 60; a cluster under load writes
/// hundreds a second.
pub const RELAY_NOTES_PER_MINUTE: u32 = 1_000_000;

/// Subscriptions of one connection of the embedded relay.
pub const RELAY_SUBSCRIPTIONS: usize = 500;

/// Gaps in a group's chain of log events that are filled by id, one parent at a time each, before `verify` reports them.
pub const CHAIN_GAPS: usize = 10_000;

/// From the publication of the demonstration's bet to its match: time for both stakes, also across a change of epoch.
pub const BET_START: Duration = Duration::from_secs(12);

/// How long the demonstration's result may be disputed: long enough to be seen, short enough to be waited for.
pub const BET_DISPUTE: Duration = Duration::from_secs(3);

/// Silence of the demonstration's oracle after which the stakes go back: a run that takes longer has failed anyway.
pub const BET_TIMEOUT: Duration = Duration::from_secs(600);
