//! Attacks the custodians' own code, to find out what it doesn't stand.
//!
//! Promises: what runs here is the code that runs in production, with other hands on its clock, its network, its disk and its
//! randomness; a seed names one run, and the same seed gives the same run. Refuses: to be part of a custodian: no crate of the
//! program depends on this one.
//!
//! * `sim`: whole custodians in virtual time; [`check`]: every state of a small cluster; `real`: real processes, network, disks;
//! * [`invariants`]: what must hold after every step; [`standin`]: signatures that may be copied;
//! * `cluster`: the custodians' keys, `council`: rosters that come later; [`commands`]: the command line.

pub mod check;
#[cfg(feature = "sim")]
pub mod cluster;
pub mod commands;
#[cfg(feature = "sim")]
pub mod council;
pub mod invariants;
#[cfg(feature = "sim")]
pub mod real;
#[cfg(feature = "sim")]
pub mod sim;
pub mod standin;
