//! The crate from outside: whole ceremonies and whole certificates, honest and not.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests fail like the tests themselves"
)]

mod bytes;
mod ceremony;
mod cheats;
mod handover;
mod liars;
mod memory;
mod net;
mod published;
mod repair;
mod reshare;
mod signing;
mod vectors;
