//! The statechart engine: XState v5 machine JSON, run the same way on every custodian.
//!
//! A [`Definition`] is the content of a 7500 event (EVENTS 1). [`Definition::start`],
//! [`Definition::send`] and [`Definition::fire_due`] are pure functions from a [`State`], an input
//! and a time to a [`Step`] (the next state and the declared [`Effect`]s) or a [`Rejection`]. The
//! answer is XState v5's: expectations recorded from it stand in `tests/xstate`. What XState
//! leaves to code (guards, actions, delays) is the engine `concordat-cel@1`: names with params.
//!
//! Promises: no clock, no randomness, no IO; the same bytes everywhere
//! ([`State::canonical_bytes`]); every call ends within [`limits`] on any input.
//! Refuses: whatever it can't run is a [`Fault`] with its place when the definition is admitted.

mod action;
mod admit;
mod behaviour;
mod cel;
mod context;
mod definition;
pub mod dlc;
pub mod draw;
mod engine;
mod guard;
mod json;
pub mod limits;
mod quote;
mod records;
pub mod run;
mod state;
mod step;
mod target;
mod template;

pub use definition::Definition;

/// A JSON Schema (2020-12) of definitions, for editors. It knows shapes only: [`Definition::parse`]
/// says whether a definition is admitted.
pub const SCHEMA: &str = include_str!("../../../docs/machines/definition.schema.json");
pub use records::{MemoryRecords, NoRecords, Records, root as records_root};
pub use state::State;
pub use step::{Code, Effect, Event, Fault, Fired, Reason, RecordChange, Rejection, Step, Timer};
