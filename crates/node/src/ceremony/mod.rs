//! Founding a group: cards, a proposal made from them, and the key ceremony of all founders over mutual TLS.
//!
//! [`init`] makes a custodian's keys and card, [`Proposal::from_cards`] what all agree on, [`Session`] runs the ceremony.
//!
//! Promises: a share is sealed, read back and opened before its holder signs the genesis; so a genesis with all signatures
//! means that all hold their share. A crash before that begins a new attempt, with all others, by itself; nothing that
//! might still be needed is destroyed. One who has finished goes on answering, so that all can finish.
//! Refuses: a message that the sender's identity key didn't sign for this proposal, sender and receiver.

mod card;
mod core;
pub(crate) mod message;
mod network;
mod offer;
mod pending;
mod proposal;
mod session;
mod status;
#[cfg(test)]
pub(crate) mod tests;
mod words;

use std::path::Path;

pub use self::card::{Card, CardError};
pub use self::core::CeremonyError;
pub use self::message::{Bundle, BundleError};
pub use self::network::CeremonyDoor;
pub use self::offer::{Decision, Offer, OfferError};
pub use self::proposal::{Proposal, ProposalError};
pub use self::session::{CeremonyLink, Session};
pub use self::status::{CeremonyStatus, MemberStatus, Stage};
pub use self::words::words;

use crate::config::Config;
use crate::dir::{CustodianDir, DirError};
use crate::keys::{CustodianKeys, KeysError, Passphrase};

/// Makes a new custodian in a directory: `custodian.toml`, `keys.age` and `card.json`. `address` is where the others
/// will reach it. What is there already stays; an `init` that was interrupted can't be continued, because the
/// certificate of keys without a card is lost: then move `keys.age` away.
pub fn init(path: &Path, config: &Config, address: &str) -> Result<Card, DirError> {
    let dir = CustodianDir::open(path)?;
    let passphrase = Passphrase::read(&config.passphrase_file).map_err(KeysError::Seal)?;
    let (keys, made) = CustodianKeys::generate()?;
    // The card first: a wrong address or name is found before anything is written.
    let card = Card::make(&keys, &config.name, made.der(), address)
        .map_err(|error| DirError::Card { path: dir.file("card.json"), error })?;
    keys.write_new(&dir.file("keys.age"), &passphrase)?;
    dir.write_card(&card)?;
    if !dir.file("custodian.toml").exists() {
        dir.write_config(config)?;
    }
    Ok(card)
}
