//! Handing the group's key over while the group works (PROTOCOL 9): to other custodians, or to the same ones with fresh shares.
//!
//! A custodian proposes a roster in a request that the group certifies. The operators of those who will deal and of those who come
//! into office accept it ([`Accepted`]); their processes then hold the ceremony ([`Handover`]) beside consensus. Who proposed leads
//! it: says who deals and when an attempt is over. That is a matter of progress only: nothing that comes out depends on trusting it.
//!
//! Promises: a new share is sealed, read back and opened before its holder confirms it; the shares in force stay where they are
//! until a head under the new roster is certified; a crash before that begins a new attempt. Refuses: to deal for a proposal that
//! the operator hasn't accepted, or that isn't in certified state.

mod message;
mod session;
mod side;
#[cfg(test)]
pub(crate) mod tests;

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use concordat_events::kinds::CHANGE;
use concordat_events::{Change as Request, Hash, PublicKey, Seats, SignedGenesis, ValidEvent, json};
use nostr::{EventBuilder, Kind, Tag, Timestamp};
use serde::{Deserialize, Serialize};

pub(crate) use self::session::Handover;
pub(crate) use self::side::Change;
pub use self::side::HandoverError;

use crate::dir::{CustodianDir, DirError};
use crate::keys::{CustodianKeys, file};

/// The file with the proposal that the operator has accepted.
pub const ACCEPTED: &str = "change.json";

/// What the operator of a custodian has accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Accepted {
    /// The request that proposed it.
    pub proposal: Hash,
    /// Of one who comes into office: whom it meets, until it knows from certified heads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invited: Option<Invited>,
}

/// Whom one who comes into office meets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Invited {
    /// The custodians in force, and where they are.
    pub in_force: Seats,
    /// Those who are proposed, this one among them.
    pub proposed: Seats,
}

/// What one who comes into office gets from a custodian in force. It holds no secret, and needs no signature: all that it makes
/// believe is whom to ask; what they show is worth what the group of the genesis has signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Invitation {
    /// [`crate::ceremony::Card`]'s version.
    pub version: u32,
    /// The group.
    pub genesis: SignedGenesis,
    /// What is to be accepted.
    pub accepted: Accepted,
}

/// Why an invitation is refused.
#[derive(Debug, thiserror::Error)]
pub enum InvitationError {
    /// Not JSON of this shape.
    #[error("not an invitation: {0}")]
    Json(#[from] json::JsonError),
    /// Its genesis.
    #[error("the invitation's genesis is refused: {0}")]
    Genesis(#[from] concordat_events::genesis::GenesisError),
    /// For somebody else.
    #[error(
        "the invitation is for {0}, not for the custodian of this directory; send your card to who invites"
    )]
    NotForUs(String),
    /// The directory.
    #[error(transparent)]
    Dir(#[from] DirError),
    /// There is a group already.
    #[error("{0} is there: this directory belongs to a group already")]
    Taken(PathBuf),
}

impl Accepted {
    /// Writes it in the place of an earlier one; a running custodian sees it.
    pub fn write(&self, dir: &std::path::Path) -> Result<(), DirError> {
        let path = dir.join(ACCEPTED);
        let text = json::canonical(self).map_err(|error| DirError::Accepted { path: path.clone(), error })?;
        Ok(file::replace(&path, text.as_bytes())?)
    }

    /// Reads it; `None` if nothing is accepted.
    pub fn read(dir: &std::path::Path) -> Result<Option<Self>, DirError> {
        let path = dir.join(ACCEPTED);
        let bytes = match file::read(&path, "") {
            Err(error) if error.is_missing() => return Ok(None),
            bytes => bytes?,
        };
        let text = String::from_utf8(bytes).map_err(|_| DirError::Text(path.clone()))?;
        json::typed(&text).map(Some).map_err(|error| DirError::Accepted { path, error })
    }

    /// Takes it back.
    pub fn withdraw(dir: &std::path::Path) -> Result<(), DirError> {
        file::remove(&dir.join(ACCEPTED))?;
        Ok(file::sync_directory(dir)?)
    }
}

impl Invitation {
    /// Reads one and checks its genesis.
    pub fn parse(text: &str) -> Result<Self, InvitationError> {
        let invitation: Invitation = json::typed(text)?;
        invitation.genesis.check()?;
        Ok(invitation)
    }

    /// Accepts it for a new custodian: whom it serves, and what it is to become.
    pub fn accept(&self, dir: &CustodianDir) -> Result<u16, InvitationError> {
        let card = dir.card()?;
        let seats = self.accepted.invited.as_ref().map(|invited| invited.proposed.roster.members());
        let seat = seats.unwrap_or_default().iter().find(|seat| seat.identity == card.identity());
        let seat = seat.filter(|seat| seat.certificate == card.pin());
        let number = seat.map(|seat| seat.number);
        let number = number.ok_or_else(|| {
            let names = seats.unwrap_or_default().iter().map(|seat| seat.name.as_str());
            InvitationError::NotForUs(names.collect::<Vec<_>>().join(", "))
        })?;
        match dir.genesis()? {
            None => dir.write_genesis(&self.genesis)?,
            Some(ours) if ours == self.genesis => {}
            Some(_) => return Err(InvitationError::Taken(dir.file("genesis.json"))),
        }
        self.accepted.write(dir.path())?;
        Ok(number)
    }
}

/// A change request, signed by a custodian's identity.
pub fn request(keys: &CustodianKeys, group: &PublicKey, change: &Request) -> Result<ValidEvent, String> {
    let content = concordat_events::json::canonical(change).map_err(|error| error.to_string())?;
    let tags = concordat_events::change::change_tags(group);
    let tags: Result<Vec<Tag>, _> = tags.iter().map(Tag::parse).collect();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let unsigned = EventBuilder::new(Kind::from_u16(CHANGE), content)
        .tags(tags.map_err(|error| error.to_string())?)
        .custom_created_at(Timestamp::from_secs(now))
        .build(keys.public_key());
    let id = unsigned.clone().id();
    let signature = keys.sign(&Hash::from_bytes(id.to_bytes()));
    let signature =
        nostr::secp256k1::schnorr::Signature::from_slice(&signature).map_err(|error| error.to_string())?;
    let event = unsigned.add_signature(signature).map_err(|error| error.to_string())?;
    ValidEvent::check(event).map_err(|error| error.to_string())
}
