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

/// How long to ask once more for what a feed should have brought.
pub const LAST_QUESTION: Duration = Duration::from_secs(5);

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

/// Gaps in a group's chain of log events that are filled by id, one parent at a time each, before `verify` reports them.
pub const CHAIN_GAPS: usize = 10_000;

/// From the publication of the demonstration's bet to its match: time for both stakes, also across a change of epoch.
pub const BET_START: Duration = Duration::from_secs(12);

/// How long the demonstration's result may be disputed: long enough to be seen, short enough to be waited for.
pub const BET_DISPUTE: Duration = Duration::from_secs(3);

/// Silence of the demonstration's oracle after which the stakes go back: a run that takes longer has failed anyway.
pub const BET_TIMEOUT: Duration = Duration::from_secs(600);

/// Custodians of a local cluster: each is a process with its own store and its share of two cores.
pub const CUSTODIANS: usize = 16;

/// From the start of a local cluster's processes to the last one's readiness: opening keys takes a second each on a busy computer,
/// the ceremony a few more.
pub const CLUSTER_READY: Duration = Duration::from_secs(120);

/// How long a custodian gets to stop by itself before it is killed.
pub const CLUSTER_STOP: Duration = Duration::from_secs(10);

/// Longest wait for a step of the demonstration: many changes of epoch, so that only a defect meets it.
pub const DEMO_STEP: Duration = Duration::from_secs(120);

/// Ports that a local cluster takes at random: below the range from which systems take the ports of outgoing connections, so that
/// none of those sits on a custodian's port while it is restarted.
pub const PORTS: std::ops::Range<u16> = 10_240..32_000;

/// Ports tried for one free one.
pub const PORT_TRIES: usize = 1_000;

/// Lines of a child's stderr that are kept to say why it ended.
pub const CHILD_LINES: usize = 20;

/// Alarms of a child that are kept.
pub const CHILD_NEWS: usize = 16;

/// Custodians asked by one command.
pub const ASKED: usize = 64;

/// Worker threads of a custodian: a small computer's cores; it is bound by the disk and the network, not by these.
pub const SERVE_THREADS: usize = 2;

/// How long each of `bench`'s walls is measured: thousands of signature checks, hundreds of FROST messages.
pub const WALL_TIME: Duration = Duration::from_millis(300);

/// Clients of `bench`: as many requests as one head takes, so that heads can be full.
pub const BENCH_CLIENTS: usize = concordat_events::limits::REQUESTS_PER_HEAD;

/// Most clients of `bench`: they are tasks of one process that shares the computer with the custodians.
pub const BENCH_MOST_CLIENTS: usize = 100_000;

/// Sizes of the clusters on which `bench` puts load: one liar and two.
pub const BENCH_LOADED: [usize; 2] = [4, 7];

/// Sizes of the clusters in which `bench` counts messages: up to four liars, and two sizes between that add none.
pub const BENCH_COUNTED: [usize; 6] = [4, 5, 6, 7, 10, 13];

/// How long `bench` listens to a quiet cluster: some heartbeats of each kind.
pub const BENCH_QUIET: Duration = Duration::from_secs(3);

/// Questions and answers by which `bench` measures a round trip.
pub const BENCH_ROUND_TRIPS: usize = 200;

/// How long `bench` puts its load on.
pub const BENCH_SECONDS: u64 = 20;

/// How long one client alone sends for the latencies.
pub const BENCH_IDLE: Duration = Duration::from_secs(5);

/// Machines that share the load.
pub const BENCH_MACHINES: usize = 4;

/// How long `bench` waits for one outcome before it counts the request as unanswered.
pub const BENCH_ANSWER: Duration = Duration::from_secs(30);

/// How long `member accept` waits for its custodian to have the head with the proposal: it has just been certified, and the
/// custodian may be starting.
pub const MEMBER_BEHIND: Duration = Duration::from_secs(20);

/// Between two looks at it.
pub const MEMBER_LOOK: Duration = Duration::from_millis(250);

/// Bytes of a file with a registry's lookup: a definition, and as many identities as are followed, each with its proof.
pub const REGISTRY_FILE_BYTES: u64 = 4 * 1024 * 1024;
