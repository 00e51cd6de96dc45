//! Every engine against the same functions, against a model, and against kill -9.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a test that fails panics"
)]

mod conformance;
mod crash;
mod engines;
mod kill;
mod memory;
mod model;
