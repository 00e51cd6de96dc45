//! The commands, one file each.

pub mod check;
#[cfg(feature = "sim")]
pub mod cluster;
#[cfg(feature = "sim")]
pub mod mutants;
#[cfg(feature = "sim")]
pub mod replay;
#[cfg(feature = "sim")]
pub mod sim;
