//! Decoders of the custodian's process: what its log group, users and founders of a group send. Apart from the others,
//! because they need the whole custodian: `tests/e2e` replays their corpus.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a promise that doesn't hold ends the run")]

pub mod card;
pub mod client;
pub mod log_group;
pub mod seeds;

/// A decoder's name, its seeds' and corpus' directory, and its function.
pub type Target = (&'static str, fn(&[u8]) -> bool);

/// All targets.
pub const TARGETS: &[Target] = &[("card", card::run), ("client", client::run), ("log_group", log_group::run)];

/// An error goes into logs and answers: it must not quote its cause at length.
fn bounded(error: &impl std::fmt::Display) {
    let text = error.to_string();
    assert!(text.len() <= 4 * 1024, "an error of {} bytes", text.len());
}
