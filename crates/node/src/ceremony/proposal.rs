//! A proposal: everything that the founders agree on before there is a key. Its hash is the ceremony's id; with the
//! group key that comes out it determines the genesis, so nobody adds anything afterwards.

use std::collections::{BTreeMap, BTreeSet};

use concordat_events::genesis::{CEL_ENGINE, PROTOCOL_VERSION};
use concordat_events::hash::tagged;
use concordat_events::json::{self, JsonError};
use concordat_events::kinds::Kinds;
use concordat_events::limits::NAME_BYTES;
use concordat_events::roster::{Custodian, RosterError};
use concordat_events::{Admission, Genesis, Hash, PublicKey, Roster};
use serde::{Deserialize, Serialize};

use super::card::{Card, VERSION};
use crate::config::{check_address, check_relay};

/// Relays of one group: each gets every event, and a relay list (NIP-65) is short.
pub const RELAYS: usize = 16;

/// Bytes of a description.
const DESCRIPTION_BYTES: usize = 4_096;

/// What is proposed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Proposal {
    /// [`VERSION`].
    pub version: u32,
    /// A name for people.
    pub name: String,
    /// What the computer announcement will say.
    pub description: String,
    /// When it was proposed, ms since 1970: the time of Head(0).
    pub time_ms: u64,
    /// Who the custodians will be.
    pub roster: Roster,
    /// Where they reach each other.
    #[serde(with = "crate::config::numbered")]
    pub addresses: BTreeMap<u16, String>,
    /// Relays that the group writes to and reads from.
    pub relays: Vec<String>,
    /// Kinds where the specifications leave a hole.
    pub kinds: Kinds,
    /// Who may start machines.
    pub admission: Admission,
    /// Engines that execute machines.
    pub engines: Vec<String>,
}

/// Why a proposal is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposalError {
    /// Not JSON of this shape.
    #[error("not a proposal: {0}")]
    Json(#[from] JsonError),
    /// The cards make no roster.
    #[error(transparent)]
    Roster(#[from] RosterError),
    /// One custodian alone has no threshold key.
    #[error("a group has at least 2 custodians, {0} was given; collect the cards of all of them")]
    TooFew(usize),
    /// Another version.
    #[error("the proposal has version {0}, this build reads version {VERSION}")]
    Version(u32),
    /// A field can't be.
    #[error("the proposal's {field} isn't {expected}")]
    Field {
        /// Which field.
        field: String,
        /// What it should be.
        expected: &'static str,
    },
}

impl Proposal {
    /// Makes a proposal from the founders' cards, who are numbered from 1 in this order.
    pub fn from_cards(
        name: &str,
        description: &str,
        time_ms: u64,
        cards: &[Card],
        relays: Vec<String>,
        admission: Admission,
    ) -> Result<Self, ProposalError> {
        let numbered = || (1..=u16::MAX).zip(cards);
        let members = numbered()
            .map(|(number, card)| Custodian {
                number,
                name: card.name().to_owned(),
                identity: card.identity(),
                certificate: card.pin(),
            })
            .collect();
        let proposal = Proposal {
            version: VERSION,
            name: name.to_owned(),
            description: description.to_owned(),
            time_ms,
            roster: Roster::new(members)?,
            addresses: numbered().map(|(number, card)| (number, card.address().to_owned())).collect(),
            relays,
            kinds: Kinds::default(),
            admission,
            engines: vec![CEL_ENGINE.to_owned()],
        };
        proposal.check()?;
        Ok(proposal)
    }

    /// Reads and checks a proposal.
    pub fn parse(text: &str) -> Result<Self, ProposalError> {
        let proposal: Proposal = json::typed(text)?;
        proposal.check()?;
        Ok(proposal)
    }

    /// The proposal as RFC 8785 JSON: what is hashed.
    pub fn to_json(&self) -> Result<String, ProposalError> {
        Ok(json::canonical(self)?)
    }

    /// The ceremony's id. The founders compare it over another channel before they accept.
    pub fn id(&self) -> Result<Hash, ProposalError> {
        Ok(tagged("concordat/proposal", &[self.to_json()?.as_bytes()]))
    }

    /// The number of the custodian with this identity.
    pub fn number_of(&self, identity: &PublicKey) -> Option<u16> {
        let mut members = self.roster.members().iter();
        members.find(|member| member.identity == *identity).map(|member| member.number)
    }

    /// The numbers of all custodians.
    pub fn numbers(&self) -> BTreeSet<u16> {
        self.roster.numbers().collect()
    }

    /// How many must sign: the roster's quorum.
    pub fn threshold(&self) -> u16 {
        // A roster has at most 64 members.
        u16::try_from(self.roster.q()).unwrap_or(u16::MAX)
    }

    /// The genesis that this proposal and a group key determine.
    pub fn genesis(&self, group_key: PublicKey) -> Result<Genesis, ProposalError> {
        Ok(Genesis {
            version: PROTOCOL_VERSION,
            name: self.name.clone(),
            description: self.description.clone(),
            time_ms: self.time_ms,
            ceremony: self.id()?,
            group_key,
            roster: self.roster.clone(),
            threshold: self.threshold(),
            relays: self.relays.clone(),
            kinds: self.kinds,
            admission: self.admission.clone(),
            engines: self.engines.clone(),
        })
    }

    fn check(&self) -> Result<(), ProposalError> {
        let field = |field: &str, expected| ProposalError::Field { field: field.to_owned(), expected };
        if self.version != VERSION {
            return Err(ProposalError::Version(self.version));
        }
        if self.roster.n() < 2 {
            return Err(ProposalError::TooFew(self.roster.n()));
        }
        if self.name.is_empty() || self.name.len() > NAME_BYTES {
            return Err(field("name", "1 to 256 bytes long"));
        }
        if self.description.len() > DESCRIPTION_BYTES {
            return Err(field("description", "at most 4096 bytes long"));
        }
        if !self.addresses.keys().copied().eq(self.roster.numbers()) {
            return Err(field("addresses", "one for each custodian of the roster"));
        }
        for (number, address) in &self.addresses {
            check_address(address).map_err(|expected| field(&format!("address of {number}"), expected))?;
        }
        if self.relays.is_empty() || self.relays.len() > RELAYS {
            return Err(field("relays", "a list of 1 to 16 relays"));
        }
        for relay in &self.relays {
            check_relay(relay).map_err(|expected| field(&format!("relay {relay:?}"), expected))?;
        }
        if self.engines.iter().any(|engine| engine != CEL_ENGINE) {
            return Err(field("engines", "a list of engines that this build has"));
        }
        Ok(())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::keys::CustodianKeys;

    pub(crate) fn card(name: &str) -> Card {
        let (keys, made) = CustodianKeys::generate().unwrap();
        Card::make(&keys, name, made.der(), "localhost:7400").unwrap()
    }

    fn propose(cards: &[Card], relays: &[&str]) -> Result<Proposal, ProposalError> {
        let relays = relays.iter().map(|&relay| relay.to_owned()).collect();
        Proposal::from_cards("ours", "", 1_700_000_000_000, cards, relays, Admission::default())
    }

    #[test]
    fn what_is_proposed_is_read_back_with_the_same_id() {
        let cards = [card("a"), card("b"), card("c"), card("d")];
        let proposal = propose(&cards, &["wss://relay.example.org"]).unwrap();
        let back = Proposal::parse(&proposal.to_json().unwrap()).unwrap();
        assert_eq!(back, proposal);
        assert_eq!(back.id().unwrap(), proposal.id().unwrap());
        assert_eq!(proposal.number_of(&cards[2].identity()), Some(3));
        assert_eq!(proposal.threshold(), 3);
        let genesis = proposal.genesis(cards[0].identity()).unwrap();
        genesis.check().unwrap();
        assert_eq!(genesis.ceremony, proposal.id().unwrap());
    }

    #[test]
    fn every_field_changes_the_id() {
        let cards = [card("a"), card("b")];
        let proposal = propose(&cards, &["wss://relay.example.org"]).unwrap();
        let mut others = vec![proposal.clone(); 4];
        others[0].name.push('x');
        others[1].time_ms += 1;
        others[2].addresses.insert(1, "elsewhere:1".into());
        others[3].admission.pow_bits = 1;
        for other in others {
            assert_ne!(other.id().unwrap(), proposal.id().unwrap());
        }
    }

    #[test]
    fn what_cant_be_is_refused_by_name() {
        let cards = [card("a"), card("b")];
        assert!(matches!(propose(&cards[..1], &["wss://x.org"]), Err(ProposalError::TooFew(1))));
        assert!(matches!(propose(&cards, &[]), Err(ProposalError::Field { .. })));
        assert!(matches!(propose(&cards, &["gopher://x"]), Err(ProposalError::Field { .. })));
        assert!(matches!(
            propose(&[cards[0].clone(), cards[0].clone()], &["wss://x.org"]),
            Err(ProposalError::Roster(RosterError::Shared { .. }))
        ));
    }
}
