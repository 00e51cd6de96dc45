//! The commands, one module each. A command parses its arguments, does one thing and says what came of it.

pub mod backup;
pub mod bench;
pub mod ceremony;
pub mod demo;
pub mod dev;
pub mod evidence;
pub mod get;
pub mod history;
pub mod key;
pub mod list;
pub mod machine;
pub mod member;
pub mod publish;
pub mod recover;
pub mod registry;
pub mod send;
pub mod serve;
pub mod statement;
pub mod status;
pub mod verify;
pub mod watch;

use tokio::signal::unix::{SignalKind, signal};

use crate::failure::Failure;

/// Custodians of a local cluster if nothing else is said: the fewest that tolerate a liar.
pub const CUSTODIANS_DEFAULT: usize = 4;

/// Resolves at SIGINT or SIGTERM. The handlers are there when this returns.
pub fn stopped() -> Result<impl Future<Output = ()>, Failure> {
    let wrong = |error| Failure::not_ready("signals", format!("no signal handler: {error}"), "");
    let mut interrupt = signal(SignalKind::interrupt()).map_err(wrong)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(wrong)?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    })
}
