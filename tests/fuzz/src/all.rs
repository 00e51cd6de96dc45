//! All fuzz targets of the house: those of the pure crates, and those that need the whole custodian.

#[path = "lib.rs"]
mod pure;
pub mod shell;

pub use pure::*;

/// Every seed: target, name, input.
pub fn every_seed() -> impl Iterator<Item = (&'static str, String, Vec<u8>)> {
    let pure = pure::seeds::seeds().into_iter().map(|seed| (seed.target, seed.name, seed.input));
    pure.chain(shell::seeds::seeds().into_iter().map(|seed| (seed.target, seed.name, seed.input)))
}
