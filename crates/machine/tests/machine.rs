//! The machine crate's behaviour from outside.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test's helpers fail as the test does"
)]

#[path = "machine/admission.rs"]
mod admission;
#[path = "machine/draw.rs"]
mod draw;
#[path = "machine/hostile.rs"]
mod hostile;
#[path = "machine/properties.rs"]
mod properties;
#[path = "machine/registry_cost.rs"]
mod registry_cost;
#[path = "machine/rules.rs"]
mod rules;
#[path = "machine/schema.rs"]
mod schema;
#[path = "machine/scxml.rs"]
mod scxml;
#[path = "machine/xstate.rs"]
mod xstate;
