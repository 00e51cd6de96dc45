//! A bounded, exhaustive check of the core: every state that a small cluster can come to, and the rules of PROTOCOL 11 in each.
//!
//! Promises: what takes the steps is `finality`'s own decider, over a disk in memory and a stand-in for the threshold
//! signatures; every step that the bounds and the reductions allow is taken; what isn't is said ([`explore::Report`],
//! docs/adr/0017-model-check.md). Refuses: to conclude from this anything about more custodians, heights or epochs, about progress,
//! or about FROST.

pub mod custodian;
pub mod dice;
pub mod explore;
pub mod founding;
pub mod laws;
mod liar;
pub mod report;
pub mod soup;
pub mod steps;
pub mod watch;
pub mod world;

#[cfg(test)]
mod tests;
