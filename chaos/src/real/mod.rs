//! Real processes on a real kernel: custodians in network namespaces of their own, a relay, users, and what goes wrong between
//! them.
//!
//! * [`land`]: the namespaces, their bridge, cuts in one direction or both;
//! * [`fault`]: what may go wrong, drawn from a seed or read from a scenario;
//! * [`cast`]: the processes, killed, paused, filled up and started again;
//! * [`users`]: clients that write down every call and every answer;
//! * [`judge`]: what their history and the relay's events must fulfil;
//! * [`report`]: one run as a picture and as data.
//!
//! Promises: the custodians are the program that is shipped, unchanged; nothing here talks to their inside; what is judged is what users
//! and relays saw. Refuses: to run without the right to make namespaces, and to leave any behind.

pub mod cast;
pub mod fault;
pub mod judge;
pub mod land;
pub mod report;
pub mod users;

use std::io::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// Wall clock, ms since 1970. All processes of a run are on one computer, so it orders what different ones wrote down.
pub fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Tells whoever started this process that it is ready, as custodians do.
///
/// # Errors
/// Nobody listens.
pub fn listening(at: &str) -> std::io::Result<()> {
    writeln!(std::io::stdout(), "{}", serde_json::json!({"event": "listening", "client": at}))
}

/// Something that happened in a run, beside users' calls.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    /// When, ms since 1970.
    pub at_ms: u64,
    /// Which custodian, if one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub custodian: Option<u16>,
    /// What.
    #[serde(flatten)]
    pub what: What,
}

/// See [`Note`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "what")]
pub enum What {
    /// It entered an epoch.
    Epoch {
        /// Which.
        epoch: u64,
        /// Whose.
        leader: u64,
    },
    /// It has a certified head.
    Certified {
        /// Of this height.
        height: u64,
    },
    /// Where users reach it.
    Door {
        /// Its address.
        at: String,
    },
    /// Its process runs.
    Up,
    /// Its process is gone.
    Down,
    /// Its process stands still.
    Paused,
    /// It goes on where it was.
    Resumed,
    /// It complains.
    Alarm {
        /// In its words.
        message: String,
    },
    /// A fault begins.
    Fault {
        /// In words.
        fault: String,
    },
    /// It is over, and nothing else is wrong.
    Healed {
        /// Which fault, in words.
        fault: String,
    },
}
