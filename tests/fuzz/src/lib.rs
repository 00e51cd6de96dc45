//! What every decoder that the network reaches must keep to, whatever comes in: one function per decoder, `run(input)`.
//! The fuzz targets feed them what libFuzzer makes up; `crates/verify/tests` feeds them the committed corpus and the seeds.
//!
//! Each does more than not to panic: it says the same twice, what it accepted survives a round trip, what it gives is
//! bounded. `true` means that something was accepted: the seeds must get that far, or a target tests nothing behind its
//! first check.
//!
//! Most decoders refuse what isn't signed, and no fuzzer makes signatures. So targets whose input starts with an odd byte
//! have it mended first: signatures, ids and the hashes that bind attachments are made anew with keys that the harness has.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a promise that doesn't hold ends the run")]

pub mod cel;
pub mod ceremony;
pub mod decider;
pub mod definition;
pub mod event;
pub mod history;
pub mod mend;
pub mod oracle;
pub mod peer_message;
pub mod proof;
pub mod record;
pub mod request;
pub mod seeds;
pub mod state_chunk;
pub mod world;

/// A decoder's name, its seeds' and corpus' directory, and its function.
pub type Target = (&'static str, fn(&[u8]) -> bool);

/// All targets.
pub const TARGETS: &[Target] = &[
    ("cel", cel::run),
    ("ceremony", ceremony::run),
    ("decider", decider::run),
    ("definition", definition::run),
    ("event", event::run),
    ("history", history::run),
    ("oracle", oracle::run),
    ("peer_message", peer_message::run),
    ("proof", proof::run),
    ("record", record::run),
    ("request", request::run),
    ("state_chunk", state_chunk::run),
];

/// An error goes into logs and answers: it must not quote its cause at length.
pub const ERROR_BYTES: usize = 4 * 1024;

/// An error of bounded size.
pub fn bounded(error: &impl std::fmt::Display) {
    let text = error.to_string();
    assert!(
        text.len() <= ERROR_BYTES,
        "an error of {} bytes: {}",
        text.len(),
        text.get(..200).unwrap_or_default()
    );
}

/// The input behind its first byte, and whether it asks to be mended.
fn flagged(data: &[u8]) -> Option<(bool, &[u8])> {
    data.split_first().map(|(flag, rest)| (flag & 1 == 1, rest))
}
