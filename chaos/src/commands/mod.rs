//! The commands, one file each.

pub mod replay;
pub mod sim;
