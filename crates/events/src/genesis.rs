//! The genesis: what the founding custodians signed. Its hash is the cluster's id; everything that decides validity from
//! the first head on stands in it.

use nostr::PublicKey;
use secp256k1::schnorr::Signature;
use secp256k1::{Message, SECP256K1};
use serde::{Deserialize, Serialize};

use crate::hash::{Hash, tagged};
use crate::json;
use crate::kinds::Kinds;
use crate::quote::quote;
use crate::roster::Roster;

/// The version of genesis, heads and messages that this build speaks.
pub const PROTOCOL_VERSION: u32 = 1;

/// The engine tag of the guards and actions that this build runs.
pub const CEL_ENGINE: &str = "concordat-cel@1";

/// Who may start machines.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub struct Admission {
    /// Authors that may; empty for everybody.
    #[serde(default)]
    pub allow: Vec<PublicKey>,
    /// Leading zero bits that a definition's id must have (NIP-13); 0 for none.
    #[serde(default)]
    pub pow_bits: u8,
    /// Machines that one author may have.
    pub machines_per_author: u32,
}

impl Default for Admission {
    fn default() -> Self {
        Admission { allow: Vec::new(), pow_bits: 0, machines_per_author: crate::limits::MACHINES_PER_AUTHOR }
    }
}

/// What the founders agreed on. RFC 8785 bytes of it are what is hashed and signed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Genesis {
    /// [`PROTOCOL_VERSION`].
    pub version: u32,
    /// A name for people.
    pub name: String,
    /// What the computer announcement says (kind 10400).
    pub description: String,
    /// When the cluster was founded, ms since 1970: the time of Head(0).
    pub time_ms: u64,
    /// Hash of the ceremony's proposal.
    pub ceremony: Hash,
    /// The group's key (x-only): the author of everything that the custodians sign together.
    pub group_key: PublicKey,
    /// The founding roster.
    pub roster: Roster,
    /// FROST threshold; always the roster's quorum.
    pub threshold: u16,
    /// Relays that the group writes to and reads from (kind 10002).
    pub relays: Vec<String>,
    /// Kinds where the specifications leave a hole.
    pub kinds: Kinds,
    /// Who may start machines.
    pub admission: Admission,
    /// Engines that execute machines.
    pub engines: Vec<String>,
}

/// Why a genesis is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GenesisError {
    /// Another protocol version.
    #[error("the genesis has protocol version {got}, this build speaks {PROTOCOL_VERSION}")]
    Version {
        /// What it says.
        got: u32,
    },
    /// An engine that this build doesn't have.
    #[error("the genesis needs engine {0}, which this build doesn't have")]
    Engine(String),
    /// The threshold isn't the quorum.
    #[error("the genesis has threshold {got}, its roster's quorum is {expected}")]
    Threshold {
        /// What it says.
        got: u16,
        /// What follows from the roster.
        expected: usize,
    },
    /// A signature is missing or wrong.
    #[error("custodian {0}'s signature on the genesis is missing or wrong")]
    Signature(u16),
    /// Not JSON of this shape.
    #[error(transparent)]
    Json(#[from] json::JsonError),
}

impl Genesis {
    /// Checks what doesn't need the signatures.
    pub fn check(&self) -> Result<(), GenesisError> {
        if self.version != PROTOCOL_VERSION {
            return Err(GenesisError::Version { got: self.version });
        }
        if let Some(engine) = self.engines.iter().find(|engine| *engine != CEL_ENGINE) {
            return Err(GenesisError::Engine(quote(engine).into_owned()));
        }
        if usize::from(self.threshold) != self.roster.q() {
            return Err(GenesisError::Threshold { got: self.threshold, expected: self.roster.q() });
        }
        Ok(())
    }

    /// The cluster's id: the hash of the genesis.
    pub fn cluster(&self) -> Result<Hash, GenesisError> {
        Ok(tagged("concordat/genesis", &[json::canonical(self)?.as_bytes()]))
    }
}

/// A genesis with the signatures of all founders over its hash, each by its identity key (BIP340).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedGenesis {
    /// What they signed.
    pub genesis: Genesis,
    /// One signature per custodian in roster order, hex.
    pub signatures: Vec<(u16, String)>,
}

impl SignedGenesis {
    /// Reads a genesis file and checks everything in it.
    pub fn parse(text: &str) -> Result<Self, GenesisError> {
        let signed: SignedGenesis = json::typed(text)?;
        signed.check()?;
        Ok(signed)
    }

    /// Checks contents and all signatures.
    pub fn check(&self) -> Result<(), GenesisError> {
        self.genesis.check()?;
        let cluster = self.genesis.cluster()?;
        for member in self.genesis.roster.members() {
            let good = self
                .signatures
                .iter()
                .find(|(number, _)| *number == member.number)
                .and_then(|(_, text)| text.parse::<Signature>().ok())
                .zip(member.identity.xonly().ok())
                .is_some_and(|(signature, key)| {
                    let message = Message::from_digest(*cluster.as_bytes());
                    SECP256K1.verify_schnorr(&signature, &message, &key).is_ok()
                });
            if !good {
                return Err(GenesisError::Signature(member.number));
            }
        }
        Ok(())
    }
}
