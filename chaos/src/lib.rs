//! Attacks the custodians' own code, to find out what it doesn't stand.
//!
//! Promises: what runs here is the code that runs in production, with other hands on its clock, its network, its disk and its
//! randomness; a seed names one run, and the same seed gives the same run. Refuses: to be part of a custodian: no crate of the
//! program depends on this one.
//!
//! * [`sim`]: whole custodians in virtual time; [`invariants`]: what must hold after every step;
//! * [`cluster`]: the custodians' keys; [`commands`]: the command line.

pub mod cluster;
pub mod commands;
pub mod invariants;
pub mod sim;
