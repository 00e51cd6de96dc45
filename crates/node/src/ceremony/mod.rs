//! Founding a group: cards, a proposal made from them, and the key ceremony of all founders over mutual TLS.
//!
//! [`init`] makes a custodian's keys and card, [`Proposal::from_cards`] what all agree on, [`Session`] runs the ceremony.
//!
//! Promises: a share is sealed, read back and opened before its holder signs the genesis; so a genesis with all signatures
//! means that all hold their share. A crash before that begins a new attempt, with all others, by itself; nothing that
//! might still be needed is destroyed. One who has finished goes on answering, so that all can finish.
//! Refuses: a message that the sender's identity key didn't sign for this proposal, sender and receiver.

mod card;
pub(crate) mod core;
pub(crate) mod message;
mod network;
mod offer;
pub(crate) mod pending;
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
use crate::interrupted::Earlier;
use crate::keys::file::{self, FileError};
use crate::keys::{CustodianKeys, KeysError, Passphrase};

/// Makes a new custodian in a directory: `custodian.toml`, `keys.age` and `card.json`. `address` is where the others
/// will reach it. Whoever has keys keeps them. A card without keys is what an interrupted call left: the certificate's key is gone,
/// so another one takes its place.
pub fn init(path: &Path, config: &Config, address: &str) -> Result<(Card, Earlier), DirError> {
    let dir = CustodianDir::open(path)?;
    let passphrase = Passphrase::read(&config.passphrase_file).map_err(KeysError::Seal)?;
    let (sealed, written) = (dir.file("keys.age"), dir.file("custodian.toml"));
    if sealed.exists() && dir.file("card.json").exists() {
        // An earlier call has made them, and only the configuration may be missing.
        let (keys, card) = (CustodianKeys::open(&sealed, &passphrase)?, dir.card()?);
        let asked = (&config.name[..], address, keys.public_key());
        if (card.name(), card.address(), card.identity()) == asked {
            if !written.exists() {
                dir.write_config(config)?;
            }
            for path in [&sealed, &written] {
                file::forget(path)?;
            }
            return Ok((card, Earlier::Resumed));
        }
    }
    if sealed.exists() {
        return Err(FileError::Exists { path: sealed }.into());
    }
    let path = dir.file("card.json");
    let earlier = Earlier::left_behind(path.exists() || file::was_interrupted(&path));
    let (keys, made) = CustodianKeys::generate()?;
    // The card first: a wrong address or name is found before anything is written, and without the keys it is worth nothing.
    let card = Card::make(&keys, &config.name, made.der(), address)
        .map_err(|error| DirError::Card { path: path.clone(), error })?;
    dir.write_card(&card)?;
    keys.write_new(&sealed, &passphrase)?;
    if !written.exists() {
        dir.write_config(config)?;
    }
    Ok((card, earlier))
}

/// Removes what the ceremony's attempts have left, once the genesis is written: a process that ended just then couldn't.
pub(crate) fn clear(dir: &CustodianDir) -> Result<(), CeremonyError> {
    pending::Pending::clear(dir)
}
